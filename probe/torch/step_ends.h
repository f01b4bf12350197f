// StepEnds: where a step ends, and what is taken there. It ends by the first counted write, by the trainer's word, or
// because its gradients are gone.
//
// Thread rule: training threads; the caller holds the root's mutex where nothing else is said.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "probe/torch/control.h"
#include "probe/torch/hearing.h"
#include "probe/torch/open_steps.h"
#include "probe/torch/operator_table.h"
#include "probe/torch/step_accounts.h"

namespace ikkuna::torch_probe {

class StepEnds {
 public:
  StepEnds(Watch& watch, StepAccounts& accounts, Hearing& hearing, Control& control, LossSettling& losses,
           OpenSteps& open_steps)
      : session_(watch.session),
        tracker_(watch.tracker),
        capture_(watch.capture),
        optimizers_(watch.optimizers),
        subscribers_(watch.subscribers),
        roots_(watch.roots),
        options_(watch.options),
        hearing_(hearing),
        control_(control),
        losses_(losses),
        open_steps_(open_steps),
        accounts_(accounts) {}

  // A backward pass of the thread has ended. Where nothing of its step, nor of the next, is wanted, the write that ends
  // it need not be heard: it is found by the witness when the next backward pass begins, or whatever stirs first.
  void Doze(ThreadState& thread, RootState& root, WatchedModel& model);
  // Ends that, where the thread is in the model's backward or dozes itself: nobody else may read the model's memory. What
  // was written meanwhile has ended its step. False: nobody dozed.
  bool Stir(ThreadState& thread, RootState& root, WatchedModel& model);
  // Before anything that asks which step is open: of the models with which this thread dozes. Without a root's mutex.
  void StirAll(ThreadState& thread);
  bool dozes() const { return dozes_.load(std::memory_order_relaxed); }
  // These parameters are about to be written. Without the root's mutex.
  // `shared`: they are another model's, too.
  void Written(ThreadState& thread, WatchedModel& model, const OperatorInfo& info, c10::ArrayRef<int> params,
               bool shared);
  // A collective is about to write these storages: the version of a gradient, which tells whether it is still what was
  // taken of it for a step, does not move. Without the root's mutex.
  void GradientsWritten(const std::vector<const void*>& storages);
  // So many passes of a step that does not end, forward and backward: the budget and the daemon's commands are looked
  // after all the same.
  static constexpr uint32_t kPassesBetweenBoundaries = 32;
  void StepGoesOn(ThreadState& thread, RootState& root, WatchedModel& model, LaneState& lane);
  // `gradients`: those of the step are still there.
  void EndStep(ThreadState& thread, WatchedModel& model, RootState& root, const probe::StepEnd& end, int written_param,
               bool gradients);
  // The updates of these are complete. False: one may not be, for another thread is in the midst of its writes.
  bool FinishAll(RootState& root, WatchedModel& model, const std::vector<probe::StepToClose>& closing);
  // An evaluation begins on the thread.
  void CloseForEvaluation(ThreadState& thread, RootState& root, WatchedModel& model);
  // Everything that is open: of this thread, or (`all`) at the end of the probe. Without the root's mutex.
  void CloseSteps(ThreadState& thread, bool all);
  // Without the root's mutex.
  void EndThread(ThreadState& thread);

 private:
  static bool WrittenAgain(LaneState& lane, int param);
  void WrittenOutside(LaneState& lane, bool arithmetic, const OperatorInfo& info, int param);
  void NoteLateWrite(const LaneState& lane, const WatchedModel& model, int param);
  void WrittenBeforeBoundary(RootState& root, WatchedModel& model, uint32_t index, c10::ArrayRef<int> params);
  void CompareWithWritten(const LaneState& lane, WatchedModel& model, StepIdentity& identity);
  void NoteNoBackward(RootState& root, const WatchedModel& model, int param);
  static bool NewGradient(RootState& root, const WatchedModel& model, int param);
  static bool AwaitsLate(const RootState& root, const LaneState& lane);
  void NoteEverySecond(RootState& root, const LaneState& lane, const WatchedModel& model);
  bool FinishClosing(RootState& root, WatchedModel& model, const probe::StepToClose& closing);
  bool IsWhole(const RootState& root, const LaneState& lane, const WatchedModel& model) const;
  bool AsksForUpdates(const RootState& root) const;
  void SayWhatIsCaptured();

  probe::Session& session_;
  probe::StepTracker& tracker_;
  Capture& capture_;
  const Optimizers& optimizers_;
  const LocalSubscribers& subscribers_;
  Roots& roots_;
  const ProbeOptions& options_;
  Hearing& hearing_;
  Control& control_;
  LossSettling& losses_;
  OpenSteps& open_steps_;
  StepAccounts& accounts_;
  std::atomic<bool> said_{false};
  std::atomic<bool> dozes_{false};  // somebody does
};

}  // namespace ikkuna::torch_probe
