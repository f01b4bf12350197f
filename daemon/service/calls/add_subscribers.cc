#include <string>

#include "daemon/service/calls/calls.h"
#include "daemon/service/convert_names.h"
#include "daemon/service/convert_subscribers.h"
#include "daemon/service/request_checks.h"

namespace ikkuna::service {

Outcome Handle(const Call& call, const v1::AddSubscribersRequest& request, v1::AddSubscribersResponse* response) {
  if (Outcome bad = CheckGiven("text", request.text())) return bad;
  Answer<SubscribeAnswer> answer = call.monitor.subscribers.AddSubscribers(call.caller, request.text());
  if (!answer) return answer.failure();
  Convert(answer->subscribers, response->mutable_subscribers());
  Convert(answer->replaced, response->mutable_replaced());
  for (const std::string& warning : answer->warnings) response->add_warnings(Shown(warning));
  return {};
}

}  // namespace ikkuna::service
