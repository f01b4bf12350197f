// Backward: the gradients that arrive, the passes that it reaches, and its end.
//
// Thread rule: training threads and the engine's, without any lock of ours held.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "probe/torch/control.h"
#include "probe/torch/hearing.h"
#include "probe/torch/loss_settling.h"
#include "probe/torch/open_steps.h"
#include "probe/torch/step_ends.h"

namespace ikkuna::torch_probe {

class Backward {
 public:
  Backward(Watch& watch, Hearing& hearing, Control& control, LossSettling& losses, OpenSteps& open_steps,
           StepEnds& ends)
      : session_(watch.session),
        tracker_(watch.tracker),
        capture_(watch.capture),
        roots_(watch.roots),
        loss_roots_(watch.loss_roots),
        serial_(watch.serial),
        hearing_(hearing),
        control_(control),
        losses_(losses),
        open_steps_(open_steps),
        ends_(ends) {}

  // A parameter has its gradient of the backward pass under way. False: it is no model's.
  bool GradientsReady(ThreadState& thread, const at::Tensor& parameter, const std::vector<ParamOwner>& owners);
  // What a backward pass brings by itself shows before it is added to what is there: hooks on the parameters, set when
  // somebody asks for the first time. Not while another thread's backward may be in the list of a parameter's hooks.
  // With the root's mutex held.
  void HookRawGradients(RootState& root, WatchedModel& model);
  void UnhookRawGradients();
  // An output of the pass: backward that reaches anything of the pass is to be heard of.
  void HookPass(const std::shared_ptr<Pass>& pass, int model, const at::Tensor& input, const at::Tensor& output);
  // An output whose gradient is wanted, as that of this call of the module.
  void HookLayerGradient(const std::shared_ptr<Pass>& pass, int model, int module, uint16_t call,
                         const at::Tensor& output);
  // The backward pass under way matters: what is to be done at its end will be done.
  void HearEndOfBackward(ThreadState& thread, int64_t task);
  // Recomputed layers of checkpointing give gradients; to see them the callback must stay on during backward.
  bool WantsRecomputation(ThreadState& thread) const;
  // Nothing of the backward pass under way needs to be heard, until it ends.
  void SleepDuringBackward(ThreadState& thread, int64_t task);

 private:
  class End;
  // Of the backward pass under way on the thread; made, and heard of by the engine, at the first call.
  std::shared_ptr<End> EndOf(ThreadState& thread, int64_t task);
  void FirstGradient(ThreadState& thread, WatchedModel& model, int param, int64_t task);
  void RawGradient(ThreadState& thread, int m, size_t index, const at::Tensor& gradient);
  // `wakes`: the callback was off until now.
  void BackwardEnded(ThreadState& thread, int64_t task, bool wakes);
  void Wake();
  void LossesReached(ThreadState& thread, int64_t task);
  std::shared_ptr<const PassNumber> Walked(ThreadState& thread, Pass& pass, int model);
  void LayerGradient(ThreadState& thread, int model, int module, uint16_t call, const std::shared_ptr<Pass>& pass,
                     const at::Tensor& gradient);

  probe::Session& session_;
  probe::StepTracker& tracker_;
  Capture& capture_;
  Roots& roots_;
  LossRoots& loss_roots_;
  const uint64_t serial_;
  Hearing& hearing_;
  Control& control_;
  LossSettling& losses_;
  OpenSteps& open_steps_;
  StepEnds& ends_;
};

}  // namespace ikkuna::torch_probe
