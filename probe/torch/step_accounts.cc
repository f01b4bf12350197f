#include "probe/torch/step_accounts.h"

#include <utility>

namespace ikkuna::torch_probe {

namespace {

// What is taken of a step when the next one has begun, gradients of an optimizer that follows among it.
constexpr uint64_t kTakenLate = KindBit(Kind::kWeightUpdates) | KindBit(Kind::kBiasUpdates) |
                                KindBit(Kind::kWeightGradients) | KindBit(Kind::kBiasGradients) |
                                KindBit(Kind::kExpAvg) | KindBit(Kind::kExpAvgSq);

probe::StepCost CostOf(const ThreadCost& spent) {
  return {spent.total_ns + spent.calls * kIdleCallNs, spent.tensor_ns, spent.scalar_ns};
}

}  // namespace

void StepAccounts::StepFinished(ThreadState& thread, RootState& root, WatchedModel& model,
                                const StepIdentity& identity) {
  const uint64_t now = MonotonicNs();
  // Of several models that take turns on a thread each has its own rhythm, but the time that passes is one.
  const uint64_t since = thread.last_step_ns == 0 ? root.last_step_ns : thread.last_step_ns;
  const uint64_t step_ns = thread.step_time.Count(now - since);
  static_cast<void>(root.step_time.Count(now - root.last_step_ns));
  root.last_step_ns = thread.last_step_ns = now;
  model.usual_step_ns.store(root.step_time.usual_ns(), std::memory_order_relaxed);
  // The updates and moments of the step before were taken in this one, and evaluation passes ran in between.
  const uint64_t mine = identity.demand.due_kinds();
  const uint64_t due =
      mine | (std::exchange(root.kinds_before, mine) & kTakenLate) | std::exchange(root.kinds_evaluated, 0);
  if (thread.timer != nullptr) thread.timer->Flush();
  thread.cost.Add(std::exchange(root.handed_over, {}));
  const ThreadCost spent = std::exchange(thread.cost, {});
  root.shifts = session_.StepFinished(step_ns, CostOf(spent), due, std::exchange(root.evaluated_rarely, false));

  shm::RootStatus& status = session_.root_status(model.root_id());
  const uint64_t finished = model.steps_finished.fetch_add(1) + 1;
  shm::StoreRelaxed(status.epoch, model.epoch.load(std::memory_order_relaxed));
  shm::StoreRelaxed(status.samples_seen, identity.samples);
  shm::StoreRelaxed(status.last_step_ns, now);
  shm::StoreRelaxed(status.step, finished);
}

void StepAccounts::PassesFinished(ThreadState& thread, RootState& root, const StepIdentity& identity) {
  const uint64_t now = MonotonicNs();
  const uint64_t since = thread.last_step_ns == 0 ? root.last_step_ns : thread.last_step_ns;
  thread.last_step_ns = root.last_step_ns = now;
  if (thread.timer != nullptr) thread.timer->Flush();
  thread.cost.Add(std::exchange(root.handed_over, {}));
  const ThreadCost spent = std::exchange(thread.cost, {});
  root.shifts = session_.StepFinished(now - since, CostOf(spent), identity.demand.due_kinds());
}

}  // namespace ikkuna::torch_probe
