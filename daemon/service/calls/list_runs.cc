#include "daemon/service/calls/calls.h"
#include "daemon/service/convert_names.h"
#include "daemon/service/message_size.h"
#include "daemon/service/request_checks.h"

namespace ikkuna::service {
namespace {

constexpr uint32_t kRunsMax = 1000;
constexpr uint32_t kRunsUsual = 200;

}  // namespace

Outcome Handle(const Call& call, const v1::ListRunsRequest& request, v1::ListRunsResponse* response) {
  if (Outcome bad = CheckText("run", request.run())) return bad;
  if (Outcome bad = CheckText("page", request.page())) return bad;
  if (Outcome bad = CheckLimit(request.limit(), kRunsMax, "runs")) return bad;
  RunQuery query;
  query.run = request.run();
  query.page = request.page();
  query.tags.assign(request.tags().begin(), request.tags().end());
  for (const int number : request.states()) {
    const std::optional<RunState> state = FromProto(static_cast<v1::ProducerState>(number));
    if (!state) return BadField("states", "states has " + std::to_string(number) + ", which is no state of a run");
    query.states.push_back(*state);
  }
  const auto ask = [&](uint32_t limit) {
    query.limit = limit;
    return call.monitor.runs.ListRuns(query);
  };
  return FillPage(request.limit() == 0 ? kRunsUsual : request.limit(), ask, [&](const RunPage& page) {
    response->Clear();
    MessageRoom room;
    for (const RunInfo& run : page.runs) {
      v1::Run* out = response->add_runs();
      Convert(run, out);
      if (out->ByteSizeLong() > kMessageBytesMax) {
        out->clear_facts();
        v1::Fact* fact = out->add_facts();
        fact->set_name("facts");
        fact->set_value("not shown: they are longer than an answer");
      }
      if (room.Take(out->ByteSizeLong())) continue;
      response->mutable_runs()->RemoveLast();
      break;
    }
    response->set_next_page(page.next);
    return Filled{static_cast<size_t>(response->runs_size()), page.runs.size()};
  });
}

}  // namespace ikkuna::service
