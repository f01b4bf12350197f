// StepAccounts: what a step cost, told to the session, which keeps it within the budget.
//
// Thread rule: training threads; the caller holds the root's mutex.
#pragma once

#include "probe/torch/threads.h"
#include "probe/torch/watch.h"

namespace ikkuna::torch_probe {

class StepAccounts {
 public:
  explicit StepAccounts(Watch& watch) : session_(watch.session) {}

  void StepFinished(ThreadState& thread, RootState& root, WatchedModel& model, const StepIdentity& identity);
  // So many passes of a step that does not end: what it costs is kept within the budget all the same.
  void PassesFinished(ThreadState& thread, RootState& root, const StepIdentity& identity);

 private:
  probe::Session& session_;
};

}  // namespace ikkuna::torch_probe
