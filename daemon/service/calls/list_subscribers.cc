#include <vector>

#include "daemon/service/calls/calls.h"
#include "daemon/service/convert_subscribers.h"
#include "daemon/service/request_checks.h"

namespace ikkuna::service {

Outcome Handle(const Call& call, const v1::ListSubscribersRequest& request, v1::ListSubscribersResponse* response) {
  if (Outcome bad = CheckText("run", request.run())) return bad;
  Answer<std::vector<SubscriberInfo>> answer = call.monitor.subscribers.ListSubscribers(request.run());
  if (!answer) return answer.failure();
  Convert(*answer, response->mutable_subscribers());
  return {};
}

}  // namespace ikkuna::service
