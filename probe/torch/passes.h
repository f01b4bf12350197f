// Passes: where a pass begins, of training and of evaluation.
//
// Thread rule: training threads, without any lock of ours held.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "probe/torch/backward.h"
#include "probe/torch/hearing.h"
#include "probe/torch/open_steps.h"
#include "probe/torch/step_ends.h"
#include "probe/torch/threads.h"
#include "probe/torch/watch.h"

namespace ikkuna::torch_probe {

// A layer that is called.
struct LayerCall {
  int module = -1;               // index; -1: none is known, a loss is made of the model's parameters
  const void* weight = nullptr;  // of the module, by its address
  at::Tensor input;              // what flows into it, if that is one tensor
  c10::ArrayRef<const c10::IValue> inputs;  // of the operator
};

class Passes {
 public:
  Passes(Watch& watch, Hearing& hearing, OpenSteps& open_steps, StepEnds& ends, Backward& backward)
      : session_(watch.session),
        tracker_(watch.tracker),
        capture_(watch.capture),
        optimizers_(watch.optimizers),
        roots_(watch.roots),
        start_step_(watch.options.start_step),
        hearing_(hearing),
        open_steps_(open_steps),
        ends_(ends),
        backward_(backward) {}

  // What evaluation passes carry from now on, here and on threads that have said nothing; kTagDefault: test or no_grad,
  // by the pass itself.
  void Tag(ThreadState& thread, uint16_t tag) {
    thread.evaluation_tag = tag;
    evaluation_tag_.store(tag);
  }
  // A layer of an attached model is called: afterwards thread.pass is the one that it belongs to.
  void LayerBegins(ThreadState& thread, WatchedModel& model, const LayerCall& call);

  // Of a model of whose layers none is known, by what is made of its parameters; null: it does not train.
  std::shared_ptr<Pass> BeginWithoutLayer(ThreadState& thread, WatchedModel& model);
  // No step is open on the thread, and the one that comes does not want this: its passes are not heard, for all that is
  // known they have begun.
  bool NotHeard(const ThreadState& thread, const WatchedModel& model, Kind kind) const;

 private:
  bool ContinuesPass(ThreadState& thread, RootThread& state, RootState& root, const LayerCall& call);
  static bool Descends(const ThreadState& thread, const Pass& pass, const LayerCall& call);
  static bool Unrolls(const ThreadState& thread, Pass& batch, const LayerCall& call);
  void BeginTrainingPass(ThreadState& thread, RootThread& state, WatchedModel& model, const LayerCall& call);
  void CloseEvaluationsOfOthers(ThreadState& thread, const WatchedModel& model);
  bool IsAnotherEvaluation(RootThread& state, const WatchedModel& model, uint16_t tag, const LayerCall& call,
                           uint64_t steps);
  void BeginEvaluationPass(ThreadState& thread, RootThread& state, WatchedModel& model, uint16_t tag,
                           const LayerCall& call);

  probe::Session& session_;
  probe::StepTracker& tracker_;
  Capture& capture_;
  const Optimizers& optimizers_;
  Roots& roots_;
  const uint64_t start_step_;
  Hearing& hearing_;
  OpenSteps& open_steps_;
  StepEnds& ends_;
  Backward& backward_;
  std::atomic<uint16_t> evaluation_tag_{kTagDefault};
};

}  // namespace ikkuna::torch_probe
