#include <string>
#include <vector>

#include "daemon/service/calls/calls.h"
#include "daemon/service/convert_names.h"
#include "daemon/service/request_checks.h"

namespace ikkuna::service {
namespace {

constexpr int kTagsMax = 100;  // of one request: nobody types more

}  // namespace

Outcome Handle(const Call& call, const v1::TagRunRequest& request, v1::TagRunResponse* response) {
  if (Outcome bad = CheckGiven("run", request.run())) return bad;
  if (request.add_size() == 0 && request.remove_size() == 0) {
    return BadField("add", "add and remove are empty: there is nothing to do");
  }
  if (request.add_size() > kTagsMax || request.remove_size() > kTagsMax) {
    return BadField(request.add_size() > kTagsMax ? "add" : "remove",
                    "more than " + std::to_string(kTagsMax) + " tags in one request");
  }
  for (const std::string& tag : request.remove()) {
    if (Outcome bad = CheckGiven("remove", tag)) return bad;
  }
  Answer<RunTags> answer = call.monitor.runs.TagRun(
      call.caller, request.run(), std::vector<std::string>(request.add().begin(), request.add().end()),
      std::vector<std::string>(request.remove().begin(), request.remove().end()));
  if (!answer) return answer.failure();
  response->set_run_id(Shown(answer->run_id));
  for (const std::string& tag : answer->tags) response->add_tags(Shown(tag));
  return {};
}

}  // namespace ikkuna::service
