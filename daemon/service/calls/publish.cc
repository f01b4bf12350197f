#include <string>
#include <utility>

#include "daemon/service/calls/calls.h"
#include "daemon/service/convert_names.h"
#include "daemon/service/convert_values.h"
#include "daemon/service/request_checks.h"

namespace ikkuna::service {
namespace {

constexpr char kUsualTag[] = "default";

}  // namespace

Outcome Handle(const Call& call, const v1::PublishRequest& request, v1::PublishResponse* response) {
  PublishRequest publish;
  if (request.target_case() == v1::PublishRequest::kRun) {
    if (Outcome bad = CheckGiven("run", request.run())) return bad;
    if (request.end()) return BadField("end", "end is for own_run: the run of a trainer ends with it");
    publish.run = request.run();
    if (request.has_attempt()) publish.attempt = request.attempt();
    if (request.has_rank()) publish.rank = request.rank();
  } else if (request.target_case() == v1::PublishRequest::kOwnRun) {
    if (Outcome bad = CheckGiven("own_run", request.own_run())) return bad;
    if (request.has_attempt()) return BadField("attempt", "attempt is for run: an own_run has one that is known");
    if (request.has_rank()) return BadField("rank", "rank is for run: an own_run has one that is known");
    publish.own_run = request.own_run();
  } else {
    return BadField("run", "neither run, which is live, nor own_run says where the values belong");
  }
  publish.end = request.end();
  for (const v1::PublishedStep& step : request.steps()) {
    PublishedStep& to = publish.steps.emplace_back();
    to.timeline.root = step.root();
    to.timeline.tag = step.tag().empty() ? kUsualTag : step.tag();
    to.stamp.step = step.step();
    to.stamp.epoch = step.epoch();
    to.stamp.unix_ns = step.unix_ns();
    to.stamp.samples_seen = step.samples_seen();
    for (const v1::PublishedValue& value : step.values()) {
      Answer<Value> converted = FromProto(value.value());
      if (!converted) return converted.failure();
      SeriesName name{to.timeline, value.module(), value.param(), value.topic()};
      to.values.push_back({std::move(name), value.unit(), *std::move(converted)});
    }
  }
  Answer<PublishAnswer> answer = call.monitor.series.Publish(call.caller, publish);
  if (!answer) return answer.failure();
  Convert(answer->run, response->mutable_run());
  response->set_values(answer->values);
  return {};
}

}  // namespace ikkuna::service
