// LossAttribution: whose a loss is, and from which backward starts.
//
// A loss belongs to the pass of the model whose output it is made of, on whichever thread that ran. Thread rule:
// training threads, without any lock of ours held.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "probe/torch/backward.h"
#include "probe/torch/loss_settling.h"
#include "probe/torch/operator_context.h"
#include "probe/torch/passes.h"
#include "probe/torch/threads.h"
#include "probe/torch/watch.h"

namespace ikkuna::torch_probe {

class LossAttribution {
 public:
  LossAttribution(Watch& watch, LossSettling& settling, Backward& backward, Passes& passes)
      : session_(watch.session),
        tracker_(watch.tracker),
        capture_(watch.capture),
        roots_(watch.roots),
        loss_roots_(watch.loss_roots),
        serial_(watch.serial),
        settling_(settling),
        backward_(backward),
        passes_(passes) {}

  // A loss function begins. True: its end matters, or what runs inside.
  bool LossStarted(ThreadState& thread, c10::ArrayRef<const c10::IValue> inputs, OperatorContext& context);
  void LossEnded(OperatorContext& context, const at::Tensor& result);
  // LibTorch makes the gradient of the scalar that backward is called on just before it starts.
  void BackwardStarts(ThreadState& thread, const at::Tensor& root);
  // What the trainer gives itself.
  void TakeLoss(ThreadState& thread, const at::Tensor& loss);

 private:
  struct LossOwner {
    WatchedModel* model = nullptr;  // null: no attached model has made it
    std::shared_ptr<Pass> pass;     // null: none is under way that it could be of
  };
  LossOwner OwnerOfLoss(ThreadState& thread, const at::Tensor& tensor);
  std::shared_ptr<Pass> PassOnAnyThread(RootState& root, const at::Tensor& tensor);
  bool BeginsPass(const ThreadState& thread, const LossOwner& owner) const;
  // Backward has brought a term a gradient.
  void TermReached(ThreadState& thread, const std::shared_ptr<PassLosses>& losses, int model, uint64_t term,
                   const torch::autograd::Node* node, const at::Tensor& gradient);
  bool TakeWithoutPass(ThreadState& thread, WatchedModel& model, const std::shared_ptr<Pass>& last, double value);

  probe::Session& session_;
  const probe::StepTracker& tracker_;
  Capture& capture_;
  const Roots& roots_;
  LossRoots& loss_roots_;
  const uint64_t serial_;
  LossSettling& settling_;
  Backward& backward_;
  Passes& passes_;
};

}  // namespace ikkuna::torch_probe
