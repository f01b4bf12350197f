#include "daemon/service/convert_subscribers.h"

#include <string>

#include "daemon/service/convert_names.h"

namespace ikkuna::service {
namespace {

v1::Runs ToProto(metrics::Runs runs) {
  switch (runs) {
    case metrics::Runs::kInline:
      return v1::RUNS_INLINE;
    case metrics::Runs::kQueue:
      return v1::RUNS_QUEUE;
    case metrics::Runs::kStream:
      return v1::RUNS_STREAM;
  }
  return v1::RUNS_UNSPECIFIED;
}

v1::Scope ToProto(metrics::Scope scope) {
  switch (scope) {
    case metrics::Scope::kSeries:
      return v1::SCOPE_SERIES;
    case metrics::Scope::kModule:
      return v1::SCOPE_MODULE;
    case metrics::Scope::kRoot:
      return v1::SCOPE_ROOT;
    case metrics::Scope::kJob:
      return v1::SCOPE_JOB;
  }
  return v1::SCOPE_UNSPECIFIED;
}

v1::Cost ToProto(metrics::Cost cost) {
  switch (cost) {
    case metrics::Cost::kCheap:
      return v1::COST_CHEAP;
    case metrics::Cost::kHeavy:
      return v1::COST_HEAVY;
  }
  return v1::COST_UNSPECIFIED;
}

v1::SubscriberSource ToProto(SubscriberSource source) {
  switch (source) {
    case SubscriberSource::kDefault:
      return v1::SUBSCRIBER_SOURCE_DEFAULT;
    case SubscriberSource::kConfig:
      return v1::SUBSCRIBER_SOURCE_CONFIG;
    case SubscriberSource::kFlag:
      return v1::SUBSCRIBER_SOURCE_FLAG;
    case SubscriberSource::kClient:
      return v1::SUBSCRIBER_SOURCE_CLIENT;
  }
  return v1::SUBSCRIBER_SOURCE_UNSPECIFIED;
}

}  // namespace

void Convert(const MetricInfo& from, v1::Metric* to) {
  to->set_name(from.name);
  to->set_help(from.help);
  to->set_runs(ToProto(from.runs));
  to->set_scope(ToProto(from.scope));
  for (const MetricInfo::Output& output : from.outputs) {
    v1::MetricOutput* out = to->add_outputs();
    out->set_topic(output.topic);
    out->set_type(service::ToProto(output.type));
    out->set_unit(output.unit);
  }
  for (const MetricInfo::Parameter& parameter : from.parameters) {
    v1::MetricParameter* out = to->add_parameters();
    out->set_name(parameter.name);
    out->set_default_value(parameter.default_value);
    out->set_help(parameter.help);
  }
  to->set_cost(ToProto(from.cost));
}

void Convert(const SubscriberInfo& from, v1::Subscriber* to) {
  to->set_id(from.id);
  to->set_text(Shown(from.text));
  to->set_source(ToProto(from.source));
  for (const std::string& topic : from.topics) to->add_topics(Shown(topic));
  to->set_computed(from.computed);
  ConvertCounts(CountsOf(from.missing), to->mutable_missing());
  to->set_cpu_seconds(from.cpu_seconds);
  for (const std::string& owner : from.owners) to->add_owners(Shown(owner));
  to->set_run(Shown(from.run));
  to->set_off(from.off);
  to->set_runs(ToProto(from.runs));
  to->set_scope(ToProto(from.scope));
  to->set_waiting(from.waiting);
}

void Convert(const std::vector<SubscriberInfo>& from, google::protobuf::RepeatedPtrField<v1::Subscriber>* to) {
  for (const SubscriberInfo& subscriber : from) Convert(subscriber, to->Add());
}

}  // namespace ikkuna::service
