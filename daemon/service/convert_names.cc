#include "daemon/service/convert_names.h"

#include "shared/base/utf8.h"

namespace ikkuna::service {
namespace {

v1::Severity ToProto(Severity severity) {
  switch (severity) {
    case Severity::kInfo:
      return v1::SEVERITY_INFO;
    case Severity::kWarning:
      return v1::SEVERITY_WARNING;
    case Severity::kError:
      return v1::SEVERITY_ERROR;
  }
  return v1::SEVERITY_UNSPECIFIED;
}

}  // namespace

std::string Shown(const std::string& text, size_t bytes_max) {
  if (text.size() <= bytes_max && IsValidUtf8(text)) return text;
  return CleanUtf8(text, bytes_max);
}

v1::ProducerState ToProto(RunState state) {
  switch (state) {
    case RunState::kRunning:
      return v1::PRODUCER_STATE_RUNNING;
    case RunState::kFinished:
      return v1::PRODUCER_STATE_FINISHED;
    case RunState::kDied:
      return v1::PRODUCER_STATE_DIED;
    case RunState::kDisconnected:
      return v1::PRODUCER_STATE_DISCONNECTED;
    case RunState::kQuarantined:
      return v1::PRODUCER_STATE_QUARANTINED;
    case RunState::kSwitchedOff:
      return v1::PRODUCER_STATE_SWITCHED_OFF;
  }
  return v1::PRODUCER_STATE_UNSPECIFIED;
}

std::optional<RunState> FromProto(v1::ProducerState state) {
  switch (state) {
    case v1::PRODUCER_STATE_RUNNING:
      return RunState::kRunning;
    case v1::PRODUCER_STATE_FINISHED:
      return RunState::kFinished;
    case v1::PRODUCER_STATE_DIED:
      return RunState::kDied;
    case v1::PRODUCER_STATE_DISCONNECTED:
      return RunState::kDisconnected;
    case v1::PRODUCER_STATE_QUARANTINED:
      return RunState::kQuarantined;
    case v1::PRODUCER_STATE_SWITCHED_OFF:
      return RunState::kSwitchedOff;
    default:
      return {};
  }
}

v1::ValueType ToProto(ValueType type) {
  switch (type) {
    case ValueType::kNumber:
      return v1::VALUE_TYPE_NUMBER;
    case ValueType::kText:
      return v1::VALUE_TYPE_TEXT;
    case ValueType::kHistogram:
      return v1::VALUE_TYPE_HISTOGRAM;
    case ValueType::kTensor:
      return v1::VALUE_TYPE_TENSOR;
  }
  return v1::VALUE_TYPE_UNSPECIFIED;
}

std::optional<ValueType> FromProto(v1::ValueType type) {
  switch (type) {
    case v1::VALUE_TYPE_NUMBER:
      return ValueType::kNumber;
    case v1::VALUE_TYPE_TEXT:
      return ValueType::kText;
    case v1::VALUE_TYPE_HISTOGRAM:
      return ValueType::kHistogram;
    case v1::VALUE_TYPE_TENSOR:
      return ValueType::kTensor;
    default:
      return {};
  }
}

void Convert(const RunKey& from, v1::RunKey* to) {
  to->set_run_id(Shown(from.run_id));
  to->set_attempt(from.attempt);
  to->set_rank(from.rank);
}

void Convert(const Event& from, v1::Event* to) {
  to->set_id(from.id);
  to->set_unix_ns(from.unix_ns);
  to->set_severity(ToProto(from.severity));
  if (!from.run.run_id.empty()) Convert(from.run, to->mutable_run());
  to->set_kind(Shown(from.kind));
  to->set_text(Shown(from.text));
  to->set_step(from.step);
}

void ConvertFacts(const std::vector<std::pair<std::string, std::string>>& from,
                  google::protobuf::RepeatedPtrField<v1::Fact>* to) {
  for (const auto& [name, value] : from) {
    v1::Fact* fact = to->Add();
    fact->set_name(Shown(name));
    fact->set_value(Shown(value));
  }
}

void ConvertBrief(const ProducerInfo& from, v1::Run* to) {
  Convert(from.run_key, to->mutable_key());
  to->set_name(Shown(from.run));
  to->set_start_unix_ns(from.start_unix_ns);
  if (from.continues) {
    to->set_continues(*from.continues);
    to->set_line(LineOf(from));
  }
  to->set_start_step(from.start_step);
  to->set_world_size(from.world_size);
  to->set_uid(from.uid);
}

void Convert(const RunInfo& from, v1::Run* to) {
  ConvertBrief(from.info, to);
  to->set_state(ToProto(from.state));
  to->set_last_unix_ns(from.last_unix_ns);
  to->set_last_step(from.last_step);
  to->set_series(from.series);
  to->set_values(from.values);
  to->set_thinned(from.thinned);
  to->set_bytes(from.bytes);
  to->set_host(Shown(from.host));
  for (const std::string& tag : from.tags) to->add_tags(Shown(tag));
  ConvertFacts(from.info.facts, to->mutable_facts());
  ConvertCounts(from.unrecorded, to->mutable_unrecorded());
}

void Convert(const RunKey& run, const Series& from, v1::Series* to) {
  to->set_id(from.id);
  v1::SeriesKey* key = to->mutable_key();
  Convert(run, key->mutable_run());
  key->set_tag(Shown(from.name.timeline.tag));
  key->set_root(Shown(from.name.timeline.root));
  key->set_module(Shown(from.name.module));
  key->set_param(Shown(from.name.param));
  key->set_topic(Shown(from.name.topic));
  to->set_type(ToProto(from.traits.type));
  to->set_module_type(Shown(from.traits.module_type));
  to->set_unit(Shown(from.traits.unit));
}

void Convert(const SeriesInfo& from, v1::SeriesSummary* to) {
  Convert(from.run->run_key, *from.series, to->mutable_series());
  to->set_count(from.count);
  to->set_thinned(from.thinned);
  to->set_first_step(from.first_step);
  to->set_last_step(from.last_step);
  if (from.last) to->set_last(*from.last);
}

void ConvertCounts(const std::vector<Count>& from, google::protobuf::RepeatedPtrField<v1::Count>* to) {
  for (const Count& count : from) {
    if (count.count == 0) continue;
    v1::Count* out = to->Add();
    out->set_reason(Shown(count.reason));
    out->set_count(count.count);
  }
}

SeriesFilter ToFilter(const v1::SeriesFilter& from) {
  SeriesFilter filter;
  filter.run = from.run();
  if (from.has_attempt()) filter.attempt = from.attempt();
  if (from.has_rank()) filter.rank = from.rank();
  filter.tag = from.tag();
  filter.root = from.root();
  filter.module = from.module();
  filter.param = from.param();
  filter.topic = from.topic();
  return filter;
}

}  // namespace ikkuna::service
