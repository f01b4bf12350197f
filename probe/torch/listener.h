// Listener: hears every operator and every finished gradient of the process and follows the steps that they make.
//
// Threads are in threads.cc, operators in dispatch.cc, steps in steps.cc, what the trainer says itself in
// trainer_calls.cc, what the daemon asks in control.cc; what becomes which record is Capture's.
//
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
  void Attach(torch::optim::Optimizer& optimizer);
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
  // Closes what is open (reading optimizers only if `optimizers_alive`), takes every hook and callback back.
  void Stop(bool optimizers_alive);

  // --- Called by LibTorch.
  static std::unique_ptr<at::ObserverContext> OnStart(const at::RecordFunction& function);
  static void OnEnd(const at::RecordFunction& function, at::ObserverContext* context);
  static void OnGradient(uint64_t serial, const at::Tensor& parameter, const std::vector<ParamOwner>& owners) noexcept;
  void LayerGradient(int model, int module, uint16_t call, uint16_t micro,
                     const std::shared_ptr<StepIdentity>& identity, const at::Tensor& gradient);

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
  // threads.cc: what is kept of each.
  ThreadState& OwnThread();
  RootThread& State(ThreadState& thread, WatchedModel& model, bool only_backward = false);
  bool TrainsLocked(size_t model) const;
  void TakeOver(RootThread& state, WatchedModel& model, bool optimizers_alive);
  RootThread& ForwardState(ThreadState& thread, WatchedModel& model);

  // listener.cc: beginning and end, backward, wake and sleep.
  static Listener* Live(uint64_t serial);
  void GradientsReady(ThreadState& thread, const at::Tensor& parameter, const std::vector<ParamOwner>& owners);
  void Sync(RootThread& state);
  void AtEndOfBackward(std::vector<RootThread*> states, std::vector<WatchedModel*> models);
  bool OneThreadRunsLayers() const;
  void SleepDuringBackward(ThreadState& thread);
  bool WantsRecomputation(ThreadState& thread) const;
  void Watchdog();
  template <typename Body>
  void Guarded(Body&& body) noexcept;

  // dispatch.cc: operators.
  std::unique_ptr<at::ObserverContext> Started(ThreadState& thread, const at::RecordFunction& function,
                                               const OperatorInfo* info);
  bool LayerStarted(ThreadState& thread, c10::ArrayRef<const c10::IValue> inputs, OperatorContext& context);
  bool FunctionalStarted(ThreadState& thread, c10::ArrayRef<const c10::IValue> inputs, OperatorContext& context);
  bool CarryStarted(ThreadState& thread, c10::ArrayRef<const c10::IValue> inputs, OperatorContext& context);
  bool WriteStarted(ThreadState& thread, c10::ArrayRef<const c10::IValue> inputs, OperatorContext& context);
  bool Counted(ThreadState& thread, OperatorContext& context);
  void Ended(ThreadState& thread, const at::RecordFunction& function, OperatorContext& context);
  void LayerEnded(ThreadState& thread, OperatorContext& context, const at::Tensor& output);
  bool FindLayer(const c10::IValue& value, int* model, int* module, int bias_owner) const;
  int FindBias(const c10::IValue& value, int* model) const;
  bool FindWritten(ThreadState& thread, const OperatorInfo& info, const c10::IValue& value);
  void LayerBegins(ThreadState& thread, WatchedModel& model, int module, const at::Tensor& input);

  // attribution.cc: which losses belong to which pass.
  struct LossOwner {
    WatchedModel* model = nullptr;
    RootThread* state = nullptr;
    Pass* pass = nullptr;  // null: no attached model has made it
    bool training() const { return pass == &state->pass; }
  };
  static bool UnderWay(const Origin& origin);
  WatchedLeaf FindLeaf(const at::Tensor& leaf) const;
  LossOwner OwnerOfLoss(ThreadState& thread, const at::Tensor& tensor);
  bool LossStarted(ThreadState& thread, c10::ArrayRef<const c10::IValue> inputs, OperatorContext& context);
  void LossEnded(OperatorContext& context, const at::Tensor& result);
  void BackwardStarts(ThreadState& thread, const at::Tensor& root);
  void SettleLosses(Pass& pass, WatchedModel& model, bool training);
  void SettleLossesOfStep(RootThread& state, WatchedModel& model);
  void NoteLosses(const SettledLosses& settled, WatchedModel& model);
  void TakeLoss(ThreadState& thread, const at::Tensor& loss);

  // steps.cc: the life of a step.
  void SeenFirst(RootThread& state, WatchedModel& model);
  std::shared_ptr<StepIdentity> MakeIdentity(RootThread& state, WatchedModel& model, uint16_t tag, uint64_t step);
  void BeginTrainingPass(ThreadState& thread, RootThread& state, WatchedModel& model, const at::Tensor& input);
  void BeginEvaluationPass(ThreadState& thread, RootThread& state, WatchedModel& model, uint16_t tag, int module,
                           const at::Tensor& input);
  RootThread& SteppingState(ThreadState& thread, WatchedModel& model);
  bool IsPending(ThreadState& thread, WatchedModel& model, RootThread& state);
  void ClearPending(ThreadState& thread, WatchedModel& model, RootThread& state);
  void CollectCost(ThreadState& thread, WatchedModel& model, RootThread& state);
  void Follow(RootThread& state, const RootThread& leader);
  void Written(ThreadState& thread, WatchedModel& model, const OperatorInfo& info, int param);
  void WrittenOutside(RootThread& state, WatchedModel& model, const OperatorInfo& info, int param);
  void EndStep(ThreadState& thread, WatchedModel& model, RootThread& state, int written_param);
  void FinishClosing(RootThread& state, WatchedModel& model, bool optimizers_alive);
  void CloseEvaluation(RootThread& state, WatchedModel& model);
  void CloseAll(ThreadState& thread, bool optimizers_alive);
  void CloseEnded(bool optimizers_alive);
  void AccountStep(ThreadState& thread, RootThread& state, WatchedModel& model);
  void SayWhatIsCaptured();

  // control.cc: what the daemon asks.
  void HandleCommands(const WatchedModel& boundary);  // whose next step is about to begin
  bool TrainsOnSeveralThreads(const WatchedModel& model);
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
  std::atomic<uint16_t> evaluation_tag_{kTagDefault};  // kTagDefault: test or no_grad, by the pass itself
  std::atomic<bool> said_{false};
  std::atomic<uint64_t> samples_{0};  // that went into steps so far, as the trainer says; 0: it says nothing

  std::mutex freeze_mutex_;  // taken before mutex_
  mutable std::mutex mutex_;
  // Guarded by mutex_; models only grow, up to kMaxRoots, and are read without it through model_count_.
  std::array<std::unique_ptr<WatchedModel>, kMaxRoots> models_;
  std::atomic<int> model_count_{0};
  std::vector<std::shared_ptr<LocalSubscriber>> local_;
  std::array<std::vector<std::unique_ptr<RootThread>>, kMaxRoots> states_;
  ParameterHooks hooks_;

  OperatorCallback callback_;
  Optimizers optimizers_;
  Capture capture_;

  static std::atomic<Listener*> live_listener_;
  static std::atomic<int64_t> inside_;  // threads in a callback of any listener
};

// Runs `body` as our own work: nothing it calls is recorded, no gradient is tracked, nothing it throws gets out.
template <typename Body>
void Listener::Guarded(Body&& body) noexcept {
  if (!active()) return;
  ThreadState& thread = OwnThread();
  const bool was_busy = std::exchange(thread.busy, true);
  try {
    at::NoGradGuard no_grad;
    body(thread);
  } catch (const std::exception& error) {
    session_->SwitchOff(error.what());
  } catch (...) {
    session_->SwitchOff("unknown error");
  }
  thread.busy = was_busy;
}

}  // namespace ikkuna::torch_probe
