// Operators: which layer or loss they are, what flows through them, and which writes they make.
//
// A layer is known by the parameter among an operator's inputs, an operator without parameters by what made its input.
// Thread rule: training threads, without any lock of ours held.
#pragma once

#include <memory>
#include <optional>

#include <ATen/record_function.h>

#include "probe/torch/backward.h"
#include "probe/torch/layer_finder.h"
#include "probe/torch/loss_attribution.h"
#include "probe/torch/operator_context.h"
#include "probe/torch/passes.h"
#include "probe/torch/step_ends.h"

namespace ikkuna::torch_probe {

class Operators {
 public:
  Operators(Watch& watch, LossAttribution& losses, StepEnds& ends, Backward& backward, Passes& passes)
      : session_(watch.session),
        capture_(watch.capture),
        roots_(watch.roots),
        serial_(watch.serial),
        losses_(losses),
        ends_(ends),
        backward_(backward),
        passes_(passes),
        finder_(watch) {}

  // Null: nothing is known of an operator of this name.
  const OperatorInfo* Find(const char* name) const { return table_.Find(name); }
  // `info`: of the operator that begins, or null. Returns what its end needs; null: that does not matter.
  std::unique_ptr<OperatorContext> Started(ThreadState& thread, const at::RecordFunction& function,
                                           const OperatorInfo* info);
  // Of a write, before anything of ours begins: whether it is of anything that matters.
  bool MayCount(const ThreadState& thread, const OperatorInfo& info, c10::ArrayRef<const c10::IValue> inputs) const;
  void Ended(ThreadState& thread, const at::RecordFunction& function, OperatorContext& context);
  // Of what it writes.
  void WriteEnded(const OperatorContext& context);

 private:
  bool CarryStarted(ThreadState& thread, c10::ArrayRef<const c10::IValue> inputs, OperatorContext& context);
  bool LayerStarted(ThreadState& thread, c10::ArrayRef<const c10::IValue> inputs, OperatorContext& context);
  // Of a layer: the weight among the inputs, and what flows into it.
  struct Weighed {
    std::optional<FoundLayer> layer;
    at::Tensor weight;
    at::Tensor input;
  };
  Weighed FindWeight(ThreadState& thread, const OperatorInfo& info, c10::ArrayRef<const c10::IValue> inputs);
  Weighed FindOperand(ThreadState& thread, const OperatorInfo& info, c10::ArrayRef<const c10::IValue> inputs);
  bool FunctionalStarted(ThreadState& thread, c10::ArrayRef<const c10::IValue> inputs, OperatorContext& context);
  bool WriteStarted(ThreadState& thread, c10::ArrayRef<const c10::IValue> inputs, OperatorContext& context);
  bool BeginsPasses(const ThreadState& thread, const WatchedModel& model, int module) const;
  bool Counted(ThreadState& thread, OperatorContext& context);
  bool LooksForLayers(const ThreadState& thread) const;
  bool MayTrain(const WatchedModel& model, const Pass& pass);
  bool FindWritten(ThreadState& thread, c10::ArrayRef<const c10::IValue> inputs, OperatorContext& context);
  void LayerEnded(ThreadState& thread, OperatorContext& context, const at::Tensor& output);
  void LayerReported(WatchedModel& model, int reported, OperatorContext& context, const at::Tensor& output);

  probe::Session& session_;
  Capture& capture_;
  Roots& roots_;
  const uint64_t serial_;
  LossAttribution& losses_;
  StepEnds& ends_;
  Backward& backward_;
  Passes& passes_;
  LayerFinder finder_;
  const OperatorTable table_;
};

}  // namespace ikkuna::torch_probe
