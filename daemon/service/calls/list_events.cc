#include <algorithm>
#include <string>
#include <vector>

#include "daemon/service/calls/calls.h"
#include "daemon/service/convert_names.h"
#include "daemon/service/message_size.h"
#include "daemon/service/request_checks.h"

namespace ikkuna::service {
namespace {

constexpr uint32_t kEventsMax = 1000;

}  // namespace

Outcome Handle(const Call& call, const v1::ListEventsRequest& request, v1::ListEventsResponse* response) {
  if (Outcome bad = CheckText("run", request.run())) return bad;
  if (Outcome bad = CheckLimit(request.limit(), kEventsMax, "events")) return bad;
  EventQuery query;
  query.filter.run = request.run();
  if (request.has_attempt()) query.filter.attempt = request.attempt();
  if (request.has_rank()) query.filter.rank = request.rank();
  const bool newest = request.from_case() == v1::ListEventsRequest::kLast;
  uint32_t limit = request.limit() == 0 ? kEventsMax : request.limit();
  if (newest) {
    if (request.last() == 0 || request.last() > kEventsMax) {
      return BadField("last", "last is " + std::to_string(request.last()) + "; from 1 to " +
                                  std::to_string(kEventsMax) + " of the newest events can be asked for");
    }
    limit = std::min(limit, request.last());
    query.last = limit;
  } else {
    query.after_id = request.after_id();
    query.limit = limit + 1;  // one more says that there are more
  }
  Answer<EventList> events = call.monitor.events.ListEvents(query);
  if (!events) return events.failure();
  // Where texts are too long for one answer, the newest stay if the newest were asked for, else the first.
  if (newest) std::reverse(events->begin(), events->end());
  MessageRoom room;
  bool more = false;
  for (const Event& event : *events) {
    v1::Event* out = response->add_events();
    Convert(event, out);
    if (response->events_size() <= static_cast<int>(limit) && room.Take(out->ByteSizeLong())) continue;
    response->mutable_events()->RemoveLast();
    more = true;
    break;
  }
  for (const std::string& one : events->unread) response->add_unread(Shown(one));
  if (newest) {
    std::reverse(response->mutable_events()->pointer_begin(), response->mutable_events()->pointer_end());
  } else {
    response->set_more(more);
  }
  return {};
}

}  // namespace ikkuna::service
