// Listener: hears every operator and every finished gradient of the process and tells the step tracker, which says what
// step and pass they belong to and where a step ends.
//
// Operators are in dispatch.cc, losses in attribution.cc, passes in passes.cc, the ends of steps in steps.cc, backward
// in backward.cc, threads in threads.cc, what the trainer says itself in trainer_calls.cc, what the daemon asks in
// control.cc; what becomes which record is Capture's.
// It finds layers by the parameters among an operator's inputs, a step's end by the first write to a parameter after a
// backward pass, and the layer gradients by hooks on the outputs. With nothing due its dispatcher callback is disabled.
// One Listener is live at a time. Stop() makes it deaf; it is destroyed when its probe is gone and no thread is in one
// of its callbacks any more. Nothing here throws into LibTorch: every entry catches and switches off.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <ATen/core/grad_mode.h>
#include <ATen/record_function.h>
#include <torch/optim/optimizer.h>

#include "probe/core/session.h"
#include "probe/core/step_tracker.h"
#include "probe/torch/capture.h"
#include "probe/torch/hooks.h"
#include "probe/torch/operator_callback.h"
#include "probe/torch/operator_table.h"
#include "probe/torch/optimizers.h"
#include "probe/torch/step_state.h"
#include "probe/torch/threads.h"
#include "probe/torch/watched_model.h"

namespace ikkuna::torch_probe {

class Listener : public std::enable_shared_from_this<Listener> {
 public:
  static std::shared_ptr<Listener> Start(const ProbeOptions& options);
  // Destroys those that nobody can be in any more; the probe calls it when it has let go of its own.
  static void DestroyRetired() noexcept;
  explicit Listener(std::unique_ptr<probe::Session> session, const ProbeOptions& options, uint64_t serial);
  ~Listener();

  // --- The public API, on training threads.
  void Attach(torch::nn::Module& root, std::shared_ptr<torch::nn::Module> keep_alive, const AttachOptions& options);
  void Attach(torch::optim::Optimizer& optimizer, std::shared_ptr<torch::optim::Optimizer> owner);
  void Step(const torch::nn::Module* root);
  void Epoch(uint32_t epoch);
  void Loss(const at::Tensor& loss);
  void Samples(uint64_t count) { samples_.fetch_add(count, std::memory_order_relaxed); }
  void Tag(const std::string& name);
  void Log(const std::string& name, double value);
  void Log(const std::string& name, const std::string& text);
  void Subscribe(std::shared_ptr<LocalSubscriber> subscriber);
  bool stop_requested() const { return stop_requested_.load(std::memory_order_relaxed); }
  probe::Session& session() { return *session_; }
  bool active() const { return live_.load(std::memory_order_relaxed) && session_->active(); }
  // Closes what is open, takes every hook and callback back.
  void Stop();

  // --- Called by LibTorch.
  static std::unique_ptr<at::ObserverContext> OnStart(const at::RecordFunction& function);
  static void OnEnd(const at::RecordFunction& function, at::ObserverContext* context);
  static void OnGradient(uint64_t serial, const at::Tensor& parameter, const std::vector<ParamOwner>& owners) noexcept;
  // The graph of a pass is destroyed; any thread, and within whatever destroys it.
  static void OnPassGone(uint64_t serial, int model, uint32_t number) noexcept;

  // A thread in a callback: while one is, no listener is destroyed. Sequentially consistent, as is what it guards:
  // whoever finds nobody inside, after live_listener_ was taken away, knows that nobody holds it.
  class Inside {
   public:
    Inside() { inside_.fetch_add(1); }
    ~Inside() { inside_.fetch_sub(1); }
    Inside(const Inside&) = delete;
    Inside& operator=(const Inside&) = delete;
  };

 private:
  class BackwardGuard;
  struct OperatorContext;
  friend struct ThreadState;

  // listener.cc: beginning and end, wake and sleep.
  static Listener* Live(uint64_t serial);
  void Listen(int model);
  bool OneThreadRunsLayers() const;
  void Watchdog();
  template <typename Body>
  void Guarded(ThreadState& thread, Body&& body) noexcept;
  template <typename Body>
  void Guarded(Body&& body) noexcept;
  static void Tell(ThreadState& thread) noexcept;

  // threads.cc: what is kept of each.
  ThreadState& OwnThread();
  void EndThread(ThreadState& thread) noexcept;
  static RootThread& State(ThreadState& thread, const WatchedModel& model);
  RootState& StateOf(const WatchedModel& model) { return *roots_[static_cast<size_t>(model.index())]; }

  // backward.cc: gradients, and which passes backward reaches.
  void GradientsReady(ThreadState& thread, const at::Tensor& parameter, const std::vector<ParamOwner>& owners);
  void FirstGradient(ThreadState& thread, WatchedModel& model, int param, int64_t task);
  probe::GradientState GradientsBefore(RootState& root, WatchedModel& model, int fired);
  bool GradientsUntouched(const RootState& root, WatchedModel& model) const;
  void HookRawGradients(RootState& root, WatchedModel& model);
  void UnhookRawGradients();
  void RawGradient(int m, size_t index, const at::Tensor& gradient);
  static uint16_t ScaleFlag(const Pass& pass);
  void HearEndOfBackward(ThreadState& thread, int64_t task);
  void BackwardEnded(ThreadState& thread, int64_t task);
  void SleepDuringBackward(ThreadState& thread);
  bool WantsRecomputation(ThreadState& thread) const;
  void HookPass(const std::shared_ptr<Pass>& pass, int model, const at::Tensor& input, const at::Tensor& output);
  std::shared_ptr<const PassNumber> Walked(Pass& pass, int model);
  void LayerGradient(int model, int module, uint16_t call, const std::shared_ptr<Pass>& pass,
                     const at::Tensor& gradient);

  // dispatch.cc: operators.
  std::unique_ptr<at::ObserverContext> Started(ThreadState& thread, const at::RecordFunction& function,
                                               const OperatorInfo* info);
  bool LayerStarted(ThreadState& thread, c10::ArrayRef<const c10::IValue> inputs, OperatorContext& context);
  bool FunctionalStarted(ThreadState& thread, c10::ArrayRef<const c10::IValue> inputs, OperatorContext& context);
  bool CarryStarted(ThreadState& thread, c10::ArrayRef<const c10::IValue> inputs, OperatorContext& context);
  bool WriteStarted(ThreadState& thread, c10::ArrayRef<const c10::IValue> inputs, OperatorContext& context);
  bool Counted(ThreadState& thread, OperatorContext& context);
  bool MayTrain(const WatchedModel& model, const Pass& pass);
  void Ended(ThreadState& thread, const at::RecordFunction& function, OperatorContext& context);
  void LayerEnded(ThreadState& thread, OperatorContext& context, const at::Tensor& output);
  void LayerReported(WatchedModel& model, int reported, OperatorContext& context, const at::Tensor& output);
  bool FindLayer(ThreadState& thread, const at::Tensor& weight, int bias_owner, OperatorContext& context);
  bool FindLayerAnew(ThreadState& thread, const at::Tensor& weight, int bias_owner, OperatorContext& context);
  void NoteComputed(ThreadState& thread, const at::Tensor& weight, const OperatorContext& context);
  void RenewTree(WatchedModel& model);
  int FindBias(const c10::IValue& value, int* model) const;
  bool FindWritten(ThreadState& thread, const OperatorInfo& info, c10::ArrayRef<const c10::IValue> inputs);
  void GradientsWritten(const OperatorInfo& info, c10::ArrayRef<const c10::IValue> inputs);
  void LayerBegins(ThreadState& thread, WatchedModel& model, int module, const at::Tensor& input,
                   c10::ArrayRef<const c10::IValue> inputs);

  // attribution.cc: which losses belong to which pass.
  struct LossOwner {
    WatchedModel* model = nullptr;
    std::shared_ptr<Pass> pass;  // null: no attached model has made it
  };
  static bool UnderWay(const Origin& origin) { return origin.pass && !origin.pass->over.load(); }
  WatchedLeaf FindLeaf(const at::Tensor& leaf) const;
  LossOwner OwnerOfLoss(ThreadState& thread, const at::Tensor& tensor);
  bool LossStarted(ThreadState& thread, c10::ArrayRef<const c10::IValue> inputs, OperatorContext& context);
  void LossEnded(OperatorContext& context, const at::Tensor& result);
  void BackwardStarts(ThreadState& thread, const at::Tensor& root);
  bool SettleLosses(const Pass& pass, WatchedModel& model, const std::vector<std::shared_ptr<Pass>>& over);
  void SettleLossesOfStep(const std::vector<std::shared_ptr<Pass>>& passes, WatchedModel& model, bool heard);
  void NoteLosses(const SettledLosses& settled, WatchedModel& model);
  void TakeLoss(ThreadState& thread, const at::Tensor& loss);

  // passes.cc: where a pass begins.
  std::shared_ptr<StepIdentity> MakeIdentity(RootState& root, const WatchedModel& model, uint16_t tag, uint64_t step);
  std::shared_ptr<StepIdentity> Coming(RootState& root, const WatchedModel& model);
  std::shared_ptr<StepIdentity> IdentityOf(RootState& root, const WatchedModel& model, uint32_t lane, uint64_t step);
  static LaneState& LaneOf(RootState& root, uint32_t lane);
  void WaitOnce(ThreadState& thread, RootState& root);
  bool ContinuesPass(ThreadState& thread, RootThread& state, RootState& root, int module,
                     c10::ArrayRef<const c10::IValue> inputs);
  void BeginTrainingPass(ThreadState& thread, RootThread& state, WatchedModel& model, int module,
                         const at::Tensor& input);
  void BeginEvaluationPass(ThreadState& thread, RootThread& state, WatchedModel& model, uint16_t tag, int module,
                           const at::Tensor& input);
  std::shared_ptr<const PassNumber> Number(RootState& root, const StepIdentity& identity, uint32_t number,
                                           const std::shared_ptr<Pass>& pass);
  void CloseEvaluation(RootThread& state, WatchedModel& model);
  probe::StepPasses Name(RootState& root, const StepIdentity& identity,
                         const std::vector<std::shared_ptr<const PassNumber>>& passes, uint32_t named_before);
  void NoteDue(RootState& root, const WatchedModel& model, uint32_t lane);

  // steps.cc: where a step ends.
  void Written(ThreadState& thread, WatchedModel& model, const OperatorInfo& info, const std::vector<int>& params);
  void WrittenOutside(LaneState& lane, bool assigns_outside, const OperatorInfo& info, int param);
  // `gradients`: those of the step are still there.
  void EndStep(ThreadState& thread, WatchedModel& model, RootState& root, const probe::StepEnd& end, int written_param,
               bool gradients);
  void FinishClosing(RootState& root, WatchedModel& model, const probe::StepToClose& closing);
  void FinishAll(RootState& root, WatchedModel& model, const std::vector<probe::StepToClose>& closing);
  bool AsksForUpdates(const RootState& root) const;
  bool WatchesEvaluation(const RootState& root, const WatchedModel& model) const;
  void CloseSteps(ThreadState& thread, bool all);
  void AccountStep(ThreadState& thread, RootState& root, WatchedModel& model, const StepIdentity& identity);
  void AccountPasses(ThreadState& thread, RootState& root, const StepIdentity& identity);
  void SayWhatIsCaptured();
  uint64_t Fingerprint(WatchedModel& model) const;

  // trainer_calls.cc: what the trainer says itself.
  std::shared_ptr<StepIdentity> Said(ThreadState& thread, RootState& root, const WatchedModel& model);
  void LogValue(const std::string& name, const std::variant<double, std::string>& value);

  // control.cc: what the daemon asks.
  void HandleCommands(const WatchedModel& boundary, bool step_begins);
  void FreezeAsAsked(WatchedModel& model);
  void Freeze(WatchedModel& model, const shm::Command& command);

  // Constant after construction.
  const std::unique_ptr<probe::Session> session_;
  const ProbeOptions options_;
  const uint64_t serial_;
  const OperatorTable operators_;

  std::atomic<bool> live_{true};
  std::atomic<bool> stopped_{false};
  std::atomic<bool> stop_requested_{false};
  std::atomic<bool> watchdog_awake_{false};
  uint64_t watchdog_since_ns_ = 0;  // service thread: it listens since; or, while it does not, it may again from then on
  uint64_t watchdog_pause_ns_ = 0;  // service thread
  std::atomic<uint16_t> evaluation_tag_{kTagDefault};  // kTagDefault: test or no_grad, by the pass itself
  std::atomic<bool> said_{false};
  std::atomic<uint64_t> samples_{0};  // that went into steps so far, as the trainer says; 0: it says nothing

  std::mutex freeze_mutex_;  // taken before mutex_
  mutable std::mutex mutex_;
  // Guarded by mutex_; models only grow, up to kMaxRoots, and are read without it through model_count_.
  std::array<std::unique_ptr<WatchedModel>, kMaxRoots> models_;
  std::array<std::unique_ptr<RootState>, kMaxRoots> roots_;
  std::atomic<int> model_count_{0};
  std::vector<std::shared_ptr<LocalSubscriber>> local_;
  std::mutex tree_mutex_;  // may be taken under any other, and takes none but a model's own and the session's
  ParameterHooks hooks_;   // guarded by tree_mutex_

  probe::StepTracker tracker_;
  OperatorCallback callback_;
  Optimizers optimizers_;
  Capture capture_;

  static std::atomic<Listener*> live_listener_;
  static std::atomic<int64_t> inside_;  // threads in a callback of any listener
};

// Runs `body` as our own work: nothing it calls is recorded, no gradient is tracked, nothing it throws gets out. What
// it had to tell subscribers of this process it tells them when it is done.
template <typename Body>
void Listener::Guarded(ThreadState& thread, Body&& body) noexcept {
  const bool was_busy = std::exchange(thread.busy, true);
  try {
    at::NoGradGuard no_grad;
    body(thread);
    if (!was_busy && !thread.untold.empty()) Tell(thread);
  } catch (const std::exception& error) {
    session_->SwitchOff(error.what());
  } catch (...) {
    session_->SwitchOff("unknown error");
  }
  thread.busy = was_busy;
}

template <typename Body>
void Listener::Guarded(Body&& body) noexcept {
  if (!active()) return;
  try {
    Guarded(OwnThread(), std::forward<Body>(body));
  } catch (const std::exception& error) {
    session_->SwitchOff(error.what());
  }
}

}  // namespace ikkuna::torch_probe
