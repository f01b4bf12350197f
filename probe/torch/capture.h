// Capture: what of a model's tensors becomes which record, for the daemon and for the subscribers of this process.
//
// It knows nothing of when a step begins or ends: the listener says of which step it takes what. Thread rule: training
// threads, each with a step of its own or one that they share; the session and the optimizers are safe for all.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include <ATen/core/Tensor.h>

#include "probe/core/session.h"
#include "probe/torch/optimizers.h"
#include "probe/torch/step_state.h"
#include "probe/torch/watched_model.h"

namespace ikkuna::torch_probe {

class Roots;

class Capture {
 public:
  Capture(probe::Session& session, const Optimizers& optimizers) : session_(session), optimizers_(optimizers) {}

  // --- Of a step.
  void EnsureStarted(StepIdentity& identity);
  // `torn`: another thread may be writing the weights.
  void TakeWeights(LaneState& lane, const StepIdentity& identity, WatchedModel& model,
                   const std::function<bool()>& torn);
  void TakeBuffers(const StepIdentity& identity, WatchedModel& model);
  // Of the optimizer that writes, if it is attached; the others attached follow with their own first write. `first`: of
  // the step; what belongs to no optimizer comes with it.
  void TakeGradients(LaneState& lane, WatchedModel& model, const StepIdentity& identity, int written_param,
                     uint16_t flags, bool first);
  void TakeUpdates(LaneState& lane, const StepIdentity& identity, WatchedModel& model);
  // Whether other threads write the model, in the midst of whose optimizer.step() no state of an optimizer is read.
  enum class Others : uint8_t {
    kNone,
    kMayWrite,  // then an optimizer is read that has written all it had to in the step
    kWrite,     // each for itself
  };
  // `optimizers`: those that were attached when the step was written; another may have taken over since.
  void TakeMoments(const LaneState& lane, WatchedModel& model, const StepIdentity& identity,
                   const Optimizers::List& optimizers, Others others);
  // `roots`: an optimizer of another model's parameters alone has no rate of this one. `others_train`: on other threads.
  void TakeLearningRates(const StepIdentity& identity, WatchedModel& model, int written_param, const Roots& roots,
                         bool others_train);
  // Attached optimizers beside the one that writes whose parameters have gradients: they may follow.
  std::vector<int> LateOptimizers(WatchedModel& model, int written_param) const;

  // --- One message, where the step wants it; `pass` null: of the step as a whole.
  void Publish(const StepIdentity& identity, Kind kind, WatchedModel& model, int module, const WatchedParam* param,
               uint32_t param_id, uint16_t call, const PassNumber* pass, const at::Tensor& tensor, uint16_t flags = 0);
  // `name`: what the daemon has to know of it (labels: `ignore_index=0`, `no_classes`); empty: nothing.
  void PublishMeta(const StepIdentity& identity, Kind kind, uint16_t call, const PassNumber* pass,
                   const at::Tensor& tensor, const std::string& name = {});
  void PublishScalar(const StepIdentity& identity, Kind kind, uint32_t param, uint16_t call, const PassNumber* pass,
                     double value, const std::string& name);
  // A number or a text that the trainer logs by name.
  void PublishLogged(StepIdentity& identity, const std::string& name, const std::variant<double, std::string>& value);
  void PublishMarker(const StepIdentity& identity, Kind kind, const probe::StepPasses& passes = {});
  void PublishPassStarted(const StepIdentity& identity, const PassNumber& pass);

 private:
  std::vector<bool> WholeOf(const LaneState& lane, const WatchedModel& model, const Optimizers::List& list);
  void TellLocal(const StepIdentity& identity, ProbeMessage message, Kind kind, const PassNumber* pass = nullptr);
  static probe::MessageHeader HeaderOf(const StepIdentity& identity, Kind kind, const PassNumber* pass = nullptr);

  probe::Session& session_;
  const Optimizers& optimizers_;
};

}  // namespace ikkuna::torch_probe
