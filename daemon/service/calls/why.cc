#include <string>

#include "daemon/service/calls/calls.h"
#include "daemon/service/convert_names.h"
#include "daemon/service/message_size.h"
#include "daemon/service/request_checks.h"
#include "daemon/service/run_choice.h"

namespace ikkuna::service {

Outcome Handle(const Call& call, const v1::WhyRequest& request, v1::WhyResponse* response) {
  if (Outcome bad = CheckText("run", request.run())) return bad;
  if (Outcome bad = CheckText("module", request.module())) return bad;
  if (Outcome bad = CheckText("kind", request.kind())) return bad;
  Answer<WhyAnswer> answer = call.monitor.runs.Why({ToRunChoice(request), request.module(), request.kind()});
  if (!answer) return answer.failure();
  response->set_more(answer->more);
  MessageRoom room;
  for (const MissingValue& missing : answer->missing) {
    v1::MissingValue* out = response->add_missing();
    Convert(missing.run, out->mutable_run());
    out->set_reason(std::string(WhyReasonName(missing.line.reason)));
    out->set_module(Shown(missing.line.module));
    out->set_kind(Shown(missing.line.kind));
    out->set_subscriber(Shown(missing.line.subscriber));
    out->set_count(missing.line.count);
    out->set_text(Shown(missing.line.text));
    if (room.Take(out->ByteSizeLong())) continue;
    response->mutable_missing()->RemoveLast();
    response->set_more(true);
    break;
  }
  return {};
}

}  // namespace ikkuna::service
