#include "daemon/service/convert.h"

#include <cctype>
#include <string>

#include "shared/codes.h"

namespace ikkuna::service {
namespace {

grpc::StatusCode CodeOf(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return grpc::StatusCode::INVALID_ARGUMENT;
    case ErrorCode::kNotFound:
      return grpc::StatusCode::NOT_FOUND;
    case ErrorCode::kAlreadyExists:
      return grpc::StatusCode::ALREADY_EXISTS;
    case ErrorCode::kFailedPrecondition:
      return grpc::StatusCode::FAILED_PRECONDITION;
    case ErrorCode::kResourceExhausted:
      return grpc::StatusCode::RESOURCE_EXHAUSTED;
    case ErrorCode::kPermissionDenied:
      return grpc::StatusCode::PERMISSION_DENIED;
    case ErrorCode::kUnavailable:
      return grpc::StatusCode::UNAVAILABLE;
    case ErrorCode::kCorrupt:
      return grpc::StatusCode::DATA_LOSS;
    case ErrorCode::kSystem:
      return grpc::StatusCode::INTERNAL;
  }
  return grpc::StatusCode::UNKNOWN;
}

// Texts of trainers (names, facts) may be any bytes; a proto string that is no UTF-8 cannot be parsed by the client.
std::string Utf8(const std::string& text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    unsigned char lead = static_cast<unsigned char>(text[i]);
    size_t length = lead < 0x80                   ? 1
                    : lead >= 0xc2 && lead < 0xe0 ? 2
                    : (lead & 0xf0) == 0xe0       ? 3
                    : lead >= 0xf0 && lead < 0xf5 ? 4
                                                  : 0;
    bool good = length > 0 && i + length <= text.size();
    for (size_t k = 1; good && k < length; ++k) good = (static_cast<unsigned char>(text[i + k]) & 0xc0) == 0x80;
    if (good && length > 2) {
      // Overlong forms, surrogates, and code points beyond the last one.
      unsigned char second = static_cast<unsigned char>(text[i + 1]);
      good = !(lead == 0xe0 && second < 0xa0) && !(lead == 0xed && second >= 0xa0) &&
             !(lead == 0xf0 && second < 0x90) && !(lead == 0xf4 && second >= 0x90);
    }
    if (good) {
      out.append(text, i, length);
      i += length;
    } else {
      out += "\xef\xbf\xbd";
      ++i;
    }
  }
  return out;
}

// "running" with "PRODUCER_STATE_" is PRODUCER_STATE_RUNNING: the words of the interface are those of the proto file.
std::string EnumName(const char* prefix, const std::string& word) {
  std::string name = prefix;
  for (char c : word) name += static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return name;
}

v1::ProducerState ToState(const std::string& word) {
  v1::ProducerState state = v1::PRODUCER_STATE_UNSPECIFIED;
  v1::ProducerState_Parse(EnumName("PRODUCER_STATE_", word), &state);
  return state;
}

v1::Phase ToPhase(const std::string& word) {
  v1::Phase phase = v1::PHASE_UNSPECIFIED;
  v1::Phase_Parse(EnumName("PHASE_", word), &phase);
  return phase;
}

v1::SubscriberSource ToSource(const std::string& word) {
  v1::SubscriberSource source = v1::SUBSCRIBER_SOURCE_UNSPECIFIED;
  v1::SubscriberSource_Parse(EnumName("SUBSCRIBER_SOURCE_", word), &source);
  return source;
}

v1::Severity ToSeverity(Severity severity) {
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

template <typename Field>
void ConvertFacts(const std::vector<std::pair<std::string, std::string>>& from, Field* to) {
  for (const auto& [name, value] : from) {
    v1::Fact* fact = to->Add();
    fact->set_name(Utf8(name));
    fact->set_value(Utf8(value));
  }
}

std::string Hex(const Uuid& uuid) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (unsigned char byte : uuid) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

void ConvertRoot(const RootStatusInfo& from, v1::RootStatus* to) {
  to->set_name(Utf8(from.name));
  to->set_phase(ToPhase(from.phase));
  to->set_step(from.step);
  to->set_epoch(from.epoch);
  to->set_samples_seen(from.samples_seen);
  to->set_steps_due(from.steps_due);
  to->set_steps_observed(from.steps_observed);
  to->set_seconds_since_step(from.seconds_since_step);
  to->set_steps_per_second(from.steps_per_second);
}

void ConvertAccounting(const ProducerStatus& from, v1::Accounting* to) {
  to->set_attempted(from.attempted);
  to->set_handled(from.handled);
  to->set_dropped(from.dropped_total);
  for (const DropCount& drop : from.drops) {
    if (drop.count == 0) continue;
    v1::DropCount* out = to->add_drops();
    out->set_reason(drop.reason);
    out->set_count(drop.count);
  }
  to->set_lost_in_daemon(from.lost_in_daemon);
  to->set_killed(from.killed);
  to->set_in_flight(from.in_flight);
}

}  // namespace

grpc::Status ToGrpc(const Error& error) { return {CodeOf(error.code), Utf8(error.text)}; }

void Convert(const RunKey& from, v1::RunKey* to) {
  to->set_run_id(Utf8(from.run_id));
  to->set_attempt(from.attempt);
  to->set_rank(from.rank);
}

void Convert(const Series& from, v1::Series* to) {
  to->set_id(from.id);
  v1::SeriesKey* key = to->mutable_key();
  Convert(from.key.run, key->mutable_run());
  key->set_tag(Utf8(from.key.tag));
  key->set_root(Utf8(from.key.root));
  key->set_module(Utf8(from.key.module));
  key->set_param(Utf8(from.key.param));
  key->set_topic(Utf8(from.key.topic));
  to->set_module_type(Utf8(from.module_type));
  to->set_unit(from.unit);
}

void Convert(const Sample& from, v1::Sample* to) {
  static constexpr std::pair<RecordFlag, v1::SampleFlag> kFlags[] = {
      {kFlagGradScaled, v1::SAMPLE_FLAG_GRAD_SCALED},
      {kFlagGradModified, v1::SAMPLE_FLAG_GRAD_MODIFIED},
      {kFlagWeightsChangedOutside, v1::SAMPLE_FLAG_WEIGHTS_CHANGED_OUTSIDE},
      {kFlagStepInferred, v1::SAMPLE_FLAG_STEP_INFERRED},
      {kFlagStepSkipped, v1::SAMPLE_FLAG_STEP_SKIPPED},
      {kFlagFlattened, v1::SAMPLE_FLAG_FLATTENED},
      {kFlagTruncated, v1::SAMPLE_FLAG_TRUNCATED},
  };
  to->set_series_id(from.series_id);
  to->set_step(from.step);
  to->set_epoch(from.epoch);
  to->set_unix_ns(from.unix_ns);
  to->set_samples_seen(from.samples_seen);
  to->set_value(from.value);
  if (from.flags == 0) return;
  for (const auto& [bit, flag] : kFlags) {
    if (from.flags & bit) to->add_flags(flag);
  }
}

void Convert(const Event& from, v1::Event* to) {
  to->set_id(from.id);
  to->set_unix_ns(from.unix_ns);
  to->set_severity(ToSeverity(from.severity));
  if (!from.run.run_id.empty()) Convert(from.run, to->mutable_run());
  to->set_kind(from.kind);
  to->set_text(Utf8(from.text));
  to->set_step(from.step);
}

void Convert(const ProducerStatus& from, v1::Producer* to) {
  to->set_uuid(Hex(from.info.uuid));
  Convert(from.info.run_key, to->mutable_run());
  to->set_run_name(Utf8(from.info.run));
  to->set_world_size(from.info.world_size);
  to->set_pid(from.info.pid);
  to->set_uid(from.info.uid);
  to->set_start_unix_ns(from.info.start_unix_ns);
  to->set_state(ToState(from.state));
  for (const RootStatusInfo& root : from.roots) ConvertRoot(root, to->add_roots());
  ConvertAccounting(from, to->mutable_accounting());
  to->set_steps_total(from.steps_total);
  to->set_steps_while_connected(from.steps_while_connected);
  to->set_coverage(from.coverage);
  to->set_incomplete_bundles(from.incomplete_bundles);
  to->set_probe_cost(from.probe_cost);
  to->set_probe_cost_fixed(from.probe_cost_fixed);
  to->set_budget(from.budget);
  v1::PeriodFactors* factors = to->mutable_period_factors();
  factors->set_tensor(from.period_factor_tensor);
  factors->set_summary(from.period_factor_summary);
  factors->set_scalar(from.period_factor_scalar);
  to->set_ring_slots(from.ring_slots);
  to->set_ring_used(from.ring_used);
  to->set_arena_bytes(from.arena_bytes);
  to->set_arena_used(from.arena_used);
  to->set_allow_control(from.allow_control);
  to->set_allow_freeze(from.allow_freeze);
  for (const std::string& note : from.notes) to->add_notes(Utf8(note));
  ConvertFacts(from.info.facts, to->mutable_facts());
}

void Convert(const DaemonStatus& from, v1::GetStatusResponse* to) {
  to->set_version(from.version);
  to->set_pid(from.pid);
  to->set_start_unix_ns(from.start_unix_ns);
  to->set_directory(Utf8(from.directory));
  to->set_data_directory(Utf8(from.data_directory));
  to->set_tensorboard_directory(Utf8(from.tensorboard_directory));
  for (const ProducerStatus& producer : from.producers) Convert(producer, to->add_producers());
  for (const SinkCounters& sink : from.sinks) {
    v1::Sink* out = to->add_sinks();
    out->set_name(sink.name);
    out->set_offered(sink.offered);
    out->set_written(sink.written);
    out->set_dropped(sink.dropped);
    out->set_queued(sink.queued);
    out->set_lag_seconds(sink.lag_seconds);
  }
  to->set_series(from.series);
  to->set_series_refused(from.series_refused);
  to->set_store_bytes(from.store_bytes);
  to->set_store_bytes_max(from.store_bytes_max);
  to->set_resident_bytes(from.resident_bytes);
  to->set_health_run(from.health_run);
}

void Convert(const RunInfo& from, v1::Run* to) {
  Convert(from.key, to->mutable_key());
  to->set_name(Utf8(from.run));
  to->set_state(ToState(from.state));
  to->set_start_unix_ns(from.start_unix_ns);
  to->set_last_unix_ns(from.last_unix_ns);
  to->set_last_step(from.last_step);
  to->set_series(from.series);
  to->set_samples(from.samples);
  ConvertFacts(from.facts, to->mutable_facts());
}

void Convert(const ModuleInfo& from, v1::Module* to) {
  to->set_root(Utf8(from.root));
  to->set_name(Utf8(from.name));
  to->set_type(Utf8(from.type));
  to->set_functional(from.functional);
  for (const ModuleInfo::Param& param : from.params) {
    v1::Parameter* out = to->add_parameters();
    out->set_name(Utf8(param.name));
    out->set_dtype(param.dtype);
    out->mutable_sizes()->Add(param.sizes.begin(), param.sizes.end());
    out->set_bias(param.bias);
    out->set_trainable(param.trainable);
    out->set_buffer(param.buffer);
  }
}

void Convert(const MetricInfo& from, v1::Metric* to) {
  to->set_name(from.name);
  to->set_help(from.help);
  to->set_unit(from.unit);
  to->set_cost(from.cost);
  to->set_publishes(from.publishes);
  for (const MetricInfo::Parameter& parameter : from.parameters) {
    v1::MetricParameter* out = to->add_parameters();
    out->set_name(parameter.name);
    out->set_default_value(parameter.default_value);
    out->set_help(parameter.help);
  }
}

void Convert(const SeriesInfo& from, v1::SeriesSummary* to) {
  Convert(from.series, to->mutable_series());
  to->set_count(from.count);
  to->set_first_step(from.first_step);
  to->set_last_step(from.last_step);
  if (from.last) Convert(*from.last, to->mutable_last());
}

void Convert(const SubscriberInfo& from, v1::Subscriber* to) {
  to->set_id(from.id);
  to->set_text(from.text);
  to->set_source(ToSource(from.source));
  for (const std::string& topic : from.topics) to->add_topics(topic);
  to->set_computed(from.computed);
  to->set_incomplete(from.incomplete);
  to->set_cpu_seconds(from.cpu_seconds);
}

SeriesFilter ToFilter(const v1::SeriesFilter& from) {
  SeriesFilter filter;
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
