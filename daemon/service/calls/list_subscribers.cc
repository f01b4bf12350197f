#include <algorithm>
#include <charconv>
#include <string>
#include <vector>

#include "daemon/service/calls/calls.h"
#include "daemon/service/convert_subscribers.h"
#include "daemon/service/message_size.h"
#include "daemon/service/request_checks.h"

namespace ikkuna::service {
namespace {

constexpr uint32_t kSubscribersMax = 1000;

}  // namespace

// A page is the id that it begins behind, so that those that come and go in between move nobody.
Outcome Handle(const Call& call, const v1::ListSubscribersRequest& request, v1::ListSubscribersResponse* response) {
  if (Outcome bad = CheckText("run", request.run())) return bad;
  if (Outcome bad = CheckLimit(request.limit(), kSubscribersMax, "subscribers")) return bad;
  uint64_t behind = 0;
  const std::string& page = request.page();
  const auto [end, error] = std::from_chars(page.data(), page.data() + page.size(), behind);
  if (!page.empty() && (error != std::errc() || end != page.data() + page.size())) {
    return BadField("page", "page is not the next_page of an answer");
  }
  Answer<std::vector<SubscriberInfo>> answer = call.monitor.subscribers.ListSubscribers(request.run());
  if (!answer) return answer.failure();
  std::sort(answer->begin(), answer->end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  const size_t limit = request.limit() == 0 ? kSubscribersMax : request.limit();
  MessageRoom room;
  for (const SubscriberInfo& one : *answer) {
    if (one.id <= behind) continue;
    const int put = response->subscribers_size();
    v1::Subscriber* const out = static_cast<size_t>(put) < limit ? response->add_subscribers() : nullptr;
    if (out != nullptr) Convert(one, out);
    if (out != nullptr && room.Take(out->ByteSizeLong())) continue;
    if (out != nullptr) response->mutable_subscribers()->RemoveLast();
    response->set_next_page(std::to_string(response->subscribers(put - 1).id()));
    break;
  }
  return {};
}

}  // namespace ikkuna::service
