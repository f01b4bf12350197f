// OpenSteps: what is wanted of the steps and evaluations that are open, and the numbers of their passes.
//
// A step is published by what was asked when it began. Thread rule: training threads; the caller holds the root's mutex
// where nothing else is said.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "probe/torch/loss_settling.h"
#include "probe/torch/threads.h"
#include "probe/torch/watch.h"

namespace ikkuna::torch_probe {

class OpenSteps {
 public:
  OpenSteps(Watch& watch, LossSettling& losses)
      : session_(watch.session),
        tracker_(watch.tracker),
        capture_(watch.capture),
        subscribers_(watch.subscribers),
        losses_(losses) {}

  // Samples that went into steps so far, as the trainer says; 0: it says nothing. Any thread.
  void AddSamples(uint64_t count) { samples_.fetch_add(count, std::memory_order_relaxed); }
  uint64_t samples() const { return samples_.load(std::memory_order_relaxed); }
  // Before the first step: the trainer's wish, not the probe's cost. Threads that begin together wait together. Without
  // the root's mutex.
  void WaitOnce(ThreadState& thread, RootState& root);

  static LaneState& LaneOf(RootState& root, uint32_t lane);
  // Of the open step with this number, in this lane.
  std::shared_ptr<StepIdentity> IdentityOf(RootState& root, const WatchedModel& model, uint32_t lane, uint64_t step);
  // Of a step that does not end: what nobody asks for any more, or the budget does not allow any more, is given up in the
  // midst of it, and the step is lacking that. Passes that have begun keep what they began with.
  void GiveUp(RootState& root, const WatchedModel& model, LaneState& lane);
  // The step that takes the next number: it has none yet, and what is said of it now may be taken back by nobody.
  std::shared_ptr<StepIdentity> Coming(RootState& root, const WatchedModel& model);
  // The step that what the trainer says now is about: the one that is open, else the one that comes.
  std::shared_ptr<StepIdentity> Said(ThreadState& thread, RootState& root, const WatchedModel& model);
  // Of an evaluation that begins.
  std::shared_ptr<StepIdentity> MakeIdentity(RootState& root, const WatchedModel& model, uint16_t tag, uint64_t step);
  // Whether what is open decides what the callback has to hear.
  void NoteDue(RootState& root, const WatchedModel& model, uint32_t lane);

  // A pass of its own, opened for the daemon before anything else of it.
  std::shared_ptr<const PassNumber> Number(RootState& root, const StepIdentity& identity, uint32_t number,
                                           const std::shared_ptr<Pass>& pass);
  // What a marker of the step says of these passes, which are over with it; what they lost the step has lost.
  probe::StepPasses Name(RootState& root, const StepIdentity& identity,
                         const std::vector<std::shared_ptr<const PassNumber>>& passes, uint32_t named_before);
  // The batches of an evaluation that goes on, but for those that still run.
  void NameEnded(RootState& root, Evaluation& evaluation);
  // The open evaluation of this tag and step; made where none is.
  std::shared_ptr<Evaluation> EvaluationOf(RootState& root, WatchedModel& model, uint16_t tag, uint64_t step);
  // The batch is over; the next of its thread takes its place, or `next` is null.
  void EndBatch(Evaluation& evaluation, const std::shared_ptr<Pass>& batch, const std::shared_ptr<Pass>& next,
                WatchedModel& model);
  // The evaluation of this thread is over, and as a whole if that was the last in it. Without the root's mutex.
  void CloseEvaluation(RootThread& state, RootState& root, WatchedModel& model);
  // Evaluations of any thread of which nothing was heard for many steps of training are over; `steps`: trained by now.
  // Without the root's mutex, which is taken only where there may be one.
  void CloseLeftEvaluations(RootState& root, WatchedModel& model, uint64_t steps);
  // Steps of training after which an evaluation that has gone on no further is over.
  static constexpr uint64_t kStepsLeft = 64;

 private:
  void EndEvaluation(RootState& root, Evaluation& evaluation);
  static uint64_t LeftAt(const Evaluation& evaluation) {
    return evaluation.last_steps.load(std::memory_order_relaxed) + kStepsLeft;
  }
  static void NoteLeftAt(RootState& root);

  probe::Session& session_;
  probe::StepTracker& tracker_;
  Capture& capture_;
  const LocalSubscribers& subscribers_;
  LossSettling& losses_;
  std::atomic<uint64_t> samples_{0};
};

}  // namespace ikkuna::torch_probe
