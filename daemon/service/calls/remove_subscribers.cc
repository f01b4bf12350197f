#include "daemon/service/calls/calls.h"
#include "daemon/service/convert_subscribers.h"
#include "daemon/service/request_checks.h"

namespace ikkuna::service {

Outcome Handle(const Call& call, const v1::RemoveSubscribersRequest& request, v1::RemoveSubscribersResponse* response) {
  SubscriberChoice choice;
  switch (request.which_case()) {
    case v1::RemoveSubscribersRequest::kId:
      choice.by = SubscriberChoice::By::kId;
      choice.id = request.id();
      break;
    case v1::RemoveSubscribersRequest::kText:
      if (Outcome bad = CheckGiven("text", request.text())) return bad;
      choice.by = SubscriberChoice::By::kText;
      choice.text = request.text();
      break;
    case v1::RemoveSubscribersRequest::kTopic:
      if (Outcome bad = CheckGiven("topic", request.topic())) return bad;
      choice.by = SubscriberChoice::By::kTopic;
      choice.text = request.topic();
      break;
    case v1::RemoveSubscribersRequest::WHICH_NOT_SET:
      return BadField("id", "neither id nor text nor topic says which subscribers are meant");
  }
  Answer<UnsubscribeAnswer> answer = call.monitor.subscribers.RemoveSubscribers(call.caller, choice);
  if (!answer) return answer.failure();
  Convert(answer->removed, response->mutable_subscribers());
  Convert(answer->restored, response->mutable_restored());
  Convert(answer->kept, response->mutable_kept());
  return {};
}

}  // namespace ikkuna::service
