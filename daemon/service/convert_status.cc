#include "daemon/service/convert_status.h"

#include <string>

#include "daemon/service/convert_names.h"

namespace ikkuna::service {
namespace {

v1::Phase ToProto(RootPhase phase) {
  switch (phase) {
    case RootPhase::kIdle:
      return v1::PHASE_IDLE;
    case RootPhase::kTrain:
      return v1::PHASE_TRAIN;
    case RootPhase::kEvaluate:
      return v1::PHASE_EVALUATE;
  }
  return v1::PHASE_UNSPECIFIED;
}

void Convert(const RootStatusInfo& from, v1::RootStatus* to) {
  to->set_name(Shown(from.name));
  to->set_phase(ToProto(from.phase));
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
  ConvertCounts(from.drops, to->mutable_drops());
  to->set_lost_in_daemon(from.lost_in_daemon);
  to->set_killed(from.killed);
  to->set_in_flight(from.in_flight);
}

void Convert(const SinkCounters& from, v1::Sink* to) {
  to->set_name(from.name);
  to->set_offered(from.offered);
  to->set_written(from.written);
  to->set_dropped(from.dropped);
  to->set_waiting(from.waiting);
  to->set_events_dropped(from.events_dropped);
  to->set_lag_seconds(from.lag_seconds);
  ConvertCounts(from.drops, to->mutable_drops());
  to->set_failures(from.failures);
}

void Convert(const StoreShown& from, v1::StoreStatus* to) {
  to->set_bytes(from.bytes);
  to->set_bytes_max(from.bytes_max);
  to->set_free_bytes(from.free_bytes);
  to->set_file_system(Shown(from.file_system));
  to->set_paused(from.paused);
  to->set_runs(from.runs);
  to->set_runs_open(from.runs_open);
  to->set_tail_bytes(from.tail_bytes);
  to->set_threads(from.threads);
  to->set_nice(from.nice);
  ConvertCounts(from.dropped, to->mutable_dropped());
  to->set_folder(Shown(from.folder));
}

void Convert(const QueueShown& from, v1::Queue* to) {
  to->set_threads(from.threads);
  to->set_nice(from.nice);
  to->set_busy(from.busy);
  to->set_waiting(from.waiting);
  to->set_busy_seconds(from.busy_seconds);
  to->set_memory_bytes(from.memory_bytes);
  to->set_memory_bytes_max(from.memory_bytes_max);
  to->set_memory_bytes_peak(from.memory_bytes_peak);
  to->set_memory_refused(from.memory_refused);
}

}  // namespace

v1::Role ToProto(Role role) {
  switch (role) {
    case Role::kRead:
      return v1::ROLE_READ;
    case Role::kControl:
      return v1::ROLE_CONTROL;
  }
  return v1::ROLE_UNSPECIFIED;
}

void Convert(const ProducerStatus& from, v1::Producer* to) {
  to->set_uuid(UuidText(from.info.uuid));
  Convert(from.info.run_key, to->mutable_run());
  to->set_run_name(Shown(from.info.run));
  to->set_world_size(from.info.world_size);
  to->set_pid(from.info.pid);
  to->set_uid(from.info.uid);
  to->set_start_unix_ns(from.info.start_unix_ns);
  to->set_state(ToProto(from.state));
  for (const RootStatusInfo& root : from.roots) Convert(root, to->add_roots());
  ConvertAccounting(from, to->mutable_accounting());
  to->set_steps_total(from.steps_total);
  to->set_steps_while_connected(from.steps_while_connected);
  to->set_coverage(from.coverage);
  ConvertCounts(from.missing, to->mutable_missing());
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
  for (const std::string& note : from.notes) to->add_notes(Shown(note));
  ConvertFacts(from.info.facts, to->mutable_facts());
  if (from.info.continues) to->set_continues(*from.info.continues);
  to->set_start_step(from.info.start_step);
}

void Convert(const DaemonStatus& from, v1::GetStatusResponse* to) {
  to->set_version(from.version);
  to->set_pid(from.pid);
  to->set_start_unix_ns(from.start_unix_ns);
  to->set_directory(Shown(from.directory));
  to->set_data_directory(Shown(from.data_directory));
  to->set_tensorboard_directory(Shown(from.tensorboard_directory));
  for (const ProducerStatus& producer : from.producers) Convert(producer, to->add_producers());
  for (const SinkCounters& sink : from.sinks) Convert(sink, to->add_sinks());
  to->set_series(from.series);
  to->set_series_refused(from.series_refused);
  Convert(from.store, to->mutable_store());
  Convert(from.queue, to->mutable_queue());
  v1::Resources* resources = to->mutable_resources();
  resources->set_resident_bytes(from.resident_bytes);
  resources->set_threads(from.threads);
  resources->set_cpu_seconds(from.cpu_seconds);
  to->set_health_run(Shown(from.health_run));
  for (const std::string& feature : from.features) to->add_features(feature);
  to->set_watches(from.watches);
  to->set_linger_seconds(from.linger_seconds);
}

}  // namespace ikkuna::service
