// Control: what the daemon asks of the trainer: to stop, to freeze and to thaw.
//
// Thread rule: any thread; what is asked waits for a moment when a training thread may do it.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>

#include "probe/torch/watch.h"

namespace ikkuna::torch_probe {

class Control {
 public:
  explicit Control(Watch& watch) : session_(watch.session), tracker_(watch.tracker), roots_(watch.roots) {}

  bool stop_requested() const { return stop_requested_.load(std::memory_order_relaxed); }
  // `step_begins`: a step of the model is about to; else only a pass is, of one that does not end.
  void HandleCommands(const WatchedModel& boundary, bool step_begins);
  // Not while an optimizer writes, which is when a step ends: it may hold a reference to the gradient that goes. At the
  // end of backward nobody does, and the step that comes leaves the parameters alone from the first to the last.
  void FreezeAsAsked(WatchedModel& model);

 private:
  void Freeze(WatchedModel& model, const shm::Command& command);

  probe::Session& session_;
  const probe::StepTracker& tracker_;
  const Roots& roots_;
  std::atomic<bool> stop_requested_{false};
  std::mutex freeze_mutex_;  // one thread freezes at a time; taken before the next
  std::mutex mutex_;         // guards what waits in the models
};

}  // namespace ikkuna::torch_probe
