#include "daemon/ingest/session_report.h"

#include <algorithm>

namespace ikkuna::ingest {

namespace {

uint64_t Above(uint64_t value, uint64_t floor) { return value > floor ? value - floor : 0; }

const char* PhaseName(uint32_t phase) {
  switch (static_cast<shm::Phase>(phase)) {
    case shm::Phase::kTrain:
      return "train";
    case shm::Phase::kEvaluate:
      return "evaluate";
    default:
      return "idle";
  }
}

uint32_t Factor(uint32_t shift) { return 1u << std::min(shift, 31u); }

RootStatusInfo MakeRoot(const shm::RootStatus& root, const std::string& name, const SessionNumbers& numbers,
                        size_t index, const StepMeter& meter) {
  RootStatusInfo info;
  info.name = name;
  info.phase = PhaseName(root.phase);
  info.step = root.step;
  info.epoch = root.epoch;
  info.samples_seen = root.samples_seen;
  info.steps_due = root.steps_due;
  info.steps_observed = numbers.steps_observed[index];
  if (auto before = numbers.ledger.steps_observed.find(name); before != numbers.ledger.steps_observed.end()) {
    info.steps_observed += before->second;
  }
  if (root.last_step_ns != 0) {
    info.seconds_since_step = static_cast<double>(Above(numbers.now_ns, root.last_step_ns)) * 1e-9;
  }
  info.steps_per_second = meter.StepsPerSecond(index);
  return info;
}

}  // namespace

ProducerStatus MakeReport(const ProducerInfo& info, const std::string& state, const SessionNumbers& numbers,
                          const RegistryNames& names, const StepMeter& meter, uint32_t ring_slots) {
  const shm::PubStatus& pub = numbers.pub.status;
  ProducerStatus status;
  status.info = info;
  status.state = state;
  status.attempted = pub.attempted;
  status.handled = numbers.ledger.handled;
  for (size_t i = 0; i < kDropReasonCount; ++i) {
    status.dropped_total += pub.dropped[i];
    if (pub.dropped[i] == 0) continue;
    status.drops.push_back({std::string(DropReasonName(static_cast<DropReason>(i))), pub.dropped[i]});
  }
  status.lost_in_daemon = numbers.ledger.lost_in_daemon;
  status.killed = numbers.ledger.killed;
  // What is under way has no counter of its own: it is what the others leave of `attempted`, which PubView reads last.
  status.in_flight =
      Above(status.attempted, status.handled + status.dropped_total + status.lost_in_daemon + status.killed);
  status.steps_total = StepMeter::StepsTotal(pub);
  status.steps_while_connected = std::min(meter.steps_connected(), status.steps_total);
  status.coverage = status.steps_total == 0
                        ? 0
                        : static_cast<double>(status.steps_while_connected) / static_cast<double>(status.steps_total);
  status.incomplete_bundles = numbers.ledger.incomplete_bundles;
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
  return status;
}

}  // namespace ikkuna::ingest
