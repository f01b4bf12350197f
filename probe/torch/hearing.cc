#include "probe/torch/hearing.h"

#include <algorithm>

namespace ikkuna::torch_probe {

void Hearing::Listen(int model) {
  RootState& root = roots_.state(model);
  callback_.Hold(root.held, [&] {
    if (root.sleeper.load(std::memory_order_relaxed) != 0) return false;
    // Of several threads one may evaluate at any time, in the midst of a step of the others.
    const bool several = roots_.model(model).layer_threads.load(std::memory_order_relaxed) > 1;
    return tracker_.Awake(model) || (several && tracker_.Watching(model));
  });
}

// Of a thread that begins to train while the callback sleeps for another's backward the first forward pass goes
// unheard: nobody sleeps before those that begin together have begun, nor where several train or evaluate, or have done
// so lately.
bool Hearing::RunsAllLayers(const ThreadState& thread) const {
  constexpr uint64_t kBeginning = 64;  // steps
  for (int m = 0; m < roots_.count(); ++m) {
    const WatchedModel& model = roots_.model(m);
    // What sleeps is the callback of all models: also of one that another thread alone runs.
    const auto& state = thread.roots[static_cast<size_t>(m)];
    const uint32_t own = state && state->runs_layers ? 1 : 0;
    if (model.layer_threads.load(std::memory_order_relaxed) > own) return false;
    const uint64_t since = std::max(model.threads_changed.load(std::memory_order_relaxed), start_step_);
    const uint64_t steps = model.steps_finished.load(std::memory_order_relaxed) - since;
    if (steps < kBeginning && !tracker_.Resting(m)) return false;
  }
  return true;
}

void Hearing::WatchEvaluation(const WatchedModel& model, const probe::Session::DemandCopy& demand) {
  const bool asked = demand.table && demand.table->WatchesEvaluation(model.root_id());
  tracker_.SetWatching(model.index(), asked || subscribers_.AskForEvaluation());
}

// Service thread: a loop whose steps are not seen any more may have changed how it writes; listen to it again, for a
// while. It may be over, too, and the process go on with other networks: so less and less often.
void Hearing::Watchdog() {
  constexpr uint64_t kListenNs = 2'000'000'000, kPauseMinNs = 4'000'000'000, kPauseMaxNs = 300'000'000'000;
  if (!session_.active()) return;
  // A model that is only evaluated has no step's end at which that would be seen.
  session_.RefreshDemand(demand_);
  for (int m = 0; m < roots_.count(); ++m) {
    if (tracker_.steps_ended(m) != 0) continue;
    WatchEvaluation(roots_.model(m), demand_);
    Listen(m);
  }
  const uint64_t now = MonotonicNs();
  if (awake_.load()) {
    if (now - since_ns_ < kListenNs || !awake_.exchange(false)) return;
    callback_.Need(-1);
    pause_ns_ = std::clamp(2 * pause_ns_, kPauseMinNs, kPauseMaxNs);
    since_ns_ = now + pause_ns_;
    return;
  }
  bool silent = false;
  for (int i = 0; i < roots_.count(); ++i) {
    WatchedModel& model = roots_.model(i);
    const uint64_t last = shm::LoadRelaxed(session_.root_status(model.root_id()).last_step_ns);
    const uint64_t usual = model.usual_step_ns.load(std::memory_order_relaxed);
    // New parameters have no hooks that would tell of their steps.
    const bool late = last != 0 && now - last >= std::max<uint64_t>(1'000'000'000, 4 * usual);
    if (!late && !model.AllReplaced()) continue;
    silent = true;
    if (now < since_ns_ || awake_.exchange(true)) continue;
    since_ns_ = now;
    callback_.Need(+1);
  }
  if (!silent) since_ns_ = pause_ns_ = 0;
}

void Hearing::LayerThread(WatchedModel& model, int change) {
  model.layer_threads.fetch_add(static_cast<uint32_t>(change));
  model.threads_changed.store(model.steps_finished.load(std::memory_order_relaxed), std::memory_order_relaxed);
}

void Hearing::LayerHeard() {
  if (awake_.load(std::memory_order_relaxed) && awake_.exchange(false)) callback_.Need(-1);
}

}  // namespace ikkuna::torch_probe
