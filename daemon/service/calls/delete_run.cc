#include "daemon/service/calls/calls.h"
#include "daemon/service/convert_names.h"
#include "daemon/service/request_checks.h"
#include "daemon/service/run_choice.h"

namespace ikkuna::service {

Outcome Handle(const Call& call, const v1::DeleteRunRequest& request, v1::DeleteRunResponse* response) {
  if (Outcome bad = CheckGiven("run", request.run())) return bad;
  Answer<DeletedRuns> answer = call.monitor.runs.DeleteRun(call.caller, ToRunChoice(request));
  if (!answer) return answer.failure();
  for (const RunKey& run : answer->runs) Convert(run, response->add_runs());
  response->set_bytes(answer->bytes);
  return {};
}

}  // namespace ikkuna::service
