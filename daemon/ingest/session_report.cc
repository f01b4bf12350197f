#include "daemon/ingest/session_report.h"

#include <algorithm>

namespace ikkuna::ingest {

namespace {

RootPhase PhaseOf(uint32_t phase) {
  switch (static_cast<shm::Phase>(phase)) {
    case shm::Phase::kTrain:
      return RootPhase::kTrain;
    case shm::Phase::kEvaluate:
      return RootPhase::kEvaluate;
    default:
      return RootPhase::kIdle;
  }
}

// Whoever keeps these has signed numbers.
uint64_t Bounded(uint64_t value) { return std::min(value, kMaxStep); }

uint32_t Factor(uint32_t shift) { return 1u << std::min(shift, 31u); }

RootStatusInfo MakeRoot(const shm::RootStatus& root, const std::string& name, const SessionNumbers& numbers,
                        size_t index, const StepMeter& meter) {
  RootStatusInfo info;
  info.name = name;
  info.phase = PhaseOf(root.phase);
  info.step = Bounded(root.step);
  info.epoch = root.epoch;
  info.samples_seen = Bounded(root.samples_seen);
  info.steps_due = Bounded(root.steps_due);
  info.steps_observed = numbers.steps_observed[index];
  if (auto before = numbers.ledger.steps_observed.find(name); before != numbers.ledger.steps_observed.end()) {
    info.steps_observed += before->second;
  }
  if (numbers.closed) info.steps_due = std::max(info.steps_due, info.steps_observed);
  if (root.last_step_ns != 0) {
    info.seconds_since_step = static_cast<double>(Above(numbers.now_ns, root.last_step_ns)) * 1e-9;
  }
  info.steps_per_second = meter.StepsPerSecond(index);
  return info;
}

}  // namespace

bool Follows(const shm::PubStatus& now, const shm::PubStatus& before, uint64_t ring_position, uint32_t ring_slots) {
  if (now.attempted < before.attempted || now.attempted > kMaxStep) return false;
  if (now.reserved < ring_position || now.reserved - ring_position > ring_slots) return false;
  uint64_t left = now.attempted;
  for (size_t i = 0; i < kDropReasonCount; ++i) {
    if (now.dropped[i] < before.dropped[i] || now.dropped[i] > left) return false;
    left -= now.dropped[i];
  }
  for (size_t i = 0; i < kMaxRoots; ++i) {
    if (now.roots[i].step < before.roots[i].step || now.roots[i].step > kMaxStep) return false;
    if (now.roots[i].steps_due < before.roots[i].steps_due) return false;
  }
  return left >= now.reserved;
}

ProducerStatus MakeReport(const ProducerInfo& info, RunState state, const SessionNumbers& numbers,
                          const RegistryNames& names, const StepMeter& meter, uint32_t ring_slots) {
  const shm::PubStatus& pub = numbers.pub.status;
  ProducerStatus status;
  status.info = info;
  status.state = state;
  status.attempted = Bounded(pub.attempted);
  status.handled = numbers.ledger.handled;
  for (size_t i = 0; i < kDropReasonCount; ++i) {
    if (pub.dropped[i] == 0) continue;
    status.drops.push_back({std::string(DropReasonName(static_cast<DropReason>(i))), Bounded(pub.dropped[i])});
    status.dropped_total = Bounded(status.dropped_total + status.drops.back().count);
  }
  status.lost_in_daemon = numbers.ledger.lost_in_daemon;
  status.killed = numbers.ledger.killed;
  if (numbers.closed) {
    status.attempted = status.handled + status.dropped_total + status.lost_in_daemon + status.killed;
  }
  // What is under way has no counter of its own: it is what the others leave of `attempted`, which PubView reads last.
  status.in_flight =
      Above(status.attempted, status.handled + status.dropped_total + status.lost_in_daemon + status.killed);
  const uint64_t steps = shm::StepsMade(pub);
  status.steps_total = Bounded(steps);
  status.steps_while_connected = Bounded(Above(steps, pub.steps_unwatched));
  status.coverage = CoverageOf(status);
  std::map<std::string, uint64_t> missing = numbers.ledger.missing;
  for (const Count& count : numbers.missing) missing[count.reason] += count.count;
  for (const auto& [reason, count] : missing) status.missing.push_back({reason, count});
  status.kinds_asked = numbers.ledger.kinds_asked;
  if (pub.step_ns != 0) {
    status.probe_cost = static_cast<double>(pub.probe_ns) / static_cast<double>(pub.step_ns);
    status.probe_cost_fixed = static_cast<double>(pub.fixed_ns) / static_cast<double>(pub.step_ns);
  }
  status.budget = pub.budget_ppm * 1e-6;
  status.period_factor_tensor = Factor(pub.shift_tensor);
  status.period_factor_summary = Factor(pub.shift_summary);
  status.period_factor_scalar = Factor(pub.shift_scalar);
  status.ring_slots = ring_slots;
  status.ring_used = static_cast<uint32_t>(std::min<uint64_t>(Above(pub.reserved, numbers.ring_position), ring_slots));
  status.arena_bytes = names.arena_extent();
  status.arena_used = std::min(Above(pub.arena_tail, numbers.arena_position), status.arena_bytes);
  const auto control = static_cast<shm::Control>(pub.control);
  status.allow_freeze = control == shm::Control::kAll;
  status.allow_control = status.allow_freeze || control == shm::Control::kStopOnly;
  for (const auto& [id, name] : names.roots()) {
    if (id < 1 || id > kMaxRoots) continue;
    const size_t index = id - 1u;
    status.roots.push_back(MakeRoot(pub.roots[index], name, numbers, index, meter));
  }
  status.notes = names.Notes();
  if (pub.registry_rejected != 0) {
    status.notes.push_back(std::to_string(pub.registry_rejected) +
                           " names found the registry full: what they would have named is not recorded");
  }
  return status;
}

}  // namespace ikkuna::ingest
