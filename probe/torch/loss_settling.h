// LossSettling: what goes out of the losses of a step or an evaluation, under which names, and what is said of it.
//
// Thread rule: training threads; the caller holds the root's mutex where nothing else is said.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "probe/torch/step_state.h"
#include "probe/torch/watch.h"

namespace ikkuna::torch_probe {

class LossSettling {
 public:
  explicit LossSettling(Watch& watch)
      : session_(watch.session), tracker_(watch.tracker), capture_(watch.capture), roots_(watch.roots) {}

  // Of a batch of an evaluation.
  void SettleBatch(const Pass& pass, WatchedModel& model);
  // Of a step that ends, whichever threads have run its passes. `heard`: nothing of it is missing.
  void SettleStep(const std::vector<std::shared_ptr<Pass>>& passes, WatchedModel& model, bool heard);
  // Output and labels of which backward has shown that the model is trained by them. With or without the root's mutex.
  void PublishOutputs(const std::vector<LabelledOutput>& outputs, WatchedModel& model, bool training);

 private:
  // Labels that several losses of one pass have: none of them is the accuracy.
  void WithholdOutputs(const PassNumber* pass, const WatchedModel& model);
  void Publish(const Pass& pass, const LossValue& loss, std::optional<double> value, const std::string& name);
  void NoteElements(const LossValue& loss, WatchedModel& model);
  // That the trainer's own loss, which takes the place of what is recognised, does not come any more.
  void NoteNotGiven(const std::vector<std::shared_ptr<Pass>>& passes, WatchedModel& model);
  static void LookAtCalls(std::vector<LossValue>& values, const WatchedModel& model);
  // What a loss function gave in an evaluation: in the unit of training, else under a name that says what it is.
  void PublishEvaluated(const Pass& pass, const LossValue& loss, bool by_name, WatchedModel& model);
  // From the terms of a step, what each counts.
  void LearnUnits(const std::vector<LossValue>& values, bool by_name, WatchedModel& model);
  void NoteWeight(const std::vector<LossValue>& values, WatchedModel& model);
  void NoteLosses(LossKnown known, const std::vector<std::string>& names, WatchedModel& model);
  // When the losses of a step or a batch have run.
  void NoteTargets(WatchedModel& model, bool training);

  probe::Session& session_;
  const probe::StepTracker& tracker_;
  Capture& capture_;
  Roots& roots_;
  std::atomic<bool> kept_{false};  // what training has shown, for other models
};

}  // namespace ikkuna::torch_probe
