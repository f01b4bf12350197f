// Freeze, Unfreeze and Stop: what trainers are asked to do.
#include <string>

#include "daemon/service/calls/calls.h"
#include "daemon/service/convert_names.h"
#include "daemon/service/request_checks.h"

namespace ikkuna::service {
namespace {

constexpr int kRanksMax = 4096;  // of one job

template <typename Request>
Outcome Check(const Request& request) {
  if (Outcome bad = CheckText("run", request.run())) return bad;
  if (request.ranks_size() > kRanksMax) {
    return BadField("ranks", "ranks has " + std::to_string(request.ranks_size()) + " entries; at most " +
                                 std::to_string(kRanksMax) + " are taken");
  }
  return {};
}

template <typename Request>
ControlChoice ToChoice(const Request& request) {
  ControlChoice choice;
  choice.run = request.run();
  if (request.has_attempt()) choice.attempt = request.attempt();
  choice.ranks.assign(request.ranks().begin(), request.ranks().end());
  return choice;
}

template <typename Response>
Outcome Say(const Answer<std::string>& answer, Response* response) {
  if (!answer) return answer.failure();
  response->set_text(Shown(*answer));
  return {};
}

}  // namespace

Outcome Handle(const Call& call, const v1::FreezeRequest& request, v1::FreezeResponse* response) {
  if (Outcome bad = Check(request)) return bad;
  if (Outcome bad = CheckGiven("module", request.module())) return bad;
  return Say(call.monitor.control.Freeze(call.caller, ToChoice(request), request.module()), response);
}

Outcome Handle(const Call& call, const v1::UnfreezeRequest& request, v1::UnfreezeResponse* response) {
  if (Outcome bad = Check(request)) return bad;
  if (Outcome bad = CheckGiven("module", request.module())) return bad;
  return Say(call.monitor.control.Unfreeze(call.caller, ToChoice(request), request.module()), response);
}

Outcome Handle(const Call& call, const v1::StopRequest& request, v1::StopResponse* response) {
  if (Outcome bad = Check(request)) return bad;
  return Say(call.monitor.control.Stop(call.caller, ToChoice(request)), response);
}

}  // namespace ikkuna::service
