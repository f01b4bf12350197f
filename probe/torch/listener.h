// Listener: hears every operator and every finished gradient of the process and turns them into messages.
//
// It finds layers by the parameters among an operator's inputs, a step's end by the first write to a parameter after a
// backward pass, and the layer gradients by hooks on the outputs. With nothing due its dispatcher callback is disabled.
// One Listener is live at a time. Stop() makes it deaf; it is destroyed when its probe is gone and no thread is in one
// of its callbacks any more. Nothing here throws into LibTorch: every entry catches and switches off.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <ATen/core/grad_mode.h>
#include <ATen/record_function.h>
#include <c10/util/intrusive_ptr.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/optim/optimizer.h>

#include "probe/core/session.h"
#include "probe/torch/operator_table.h"
#include "probe/torch/step_state.h"
#include "probe/torch/watched_model.h"

namespace ikkuna::torch_probe {

struct WatchedOptimizer {
  torch::optim::Optimizer* optimizer = nullptr;
  std::unordered_map<const void*, int> groups;  // TensorImpl of a parameter -> group
  std::vector<uint32_t> group_names;            // registry ids of group0, group1, ...
  std::mutex mutex;
  // Guarded by mutex. Moments as last found, so that the last step's can be read when the optimizer itself may be gone.
  std::unordered_map<const void*, std::pair<at::Tensor, at::Tensor>> moments;
};
using WatchedOptimizers = std::vector<std::shared_ptr<WatchedOptimizer>>;

class ThreadTimer;

// Per thread, reset when another Listener takes over.
struct ThreadState {
  uint64_t listener = 0;  // serial of the Listener it belongs to
  std::array<RootThread*, kMaxRoots> roots{};
  std::array<RootThread*, kMaxRoots> stepped{};  // of another thread, whose step this one's write has ended last
  bool owns_backward = false;                    // a gradient hook fired on this thread
  int depth = 0;                                 // inside a captured operator: what it calls is not looked at
  bool busy = false;                             // inside our own work
  bool grad_mode = true;                         // the user's, before we switched it off for ourselves
  int64_t off_graph_task = -2;
  int last_root = -1;    // of the last layer
  int last_layer = -1;   // module index of the last layer with parameters: what positions count from
  int last_module = -1;  // module index that made last_output
  // Weak: it must not keep an activation alive, only keep its address from being used again.
  std::optional<c10::weak_intrusive_ptr<c10::TensorImpl>> last_output;
  Pass* pass = nullptr;  // the pass under way, training or evaluation
  RootThread* pass_state = nullptr;
  ThreadCost cost;
  ThreadTimer* timer = nullptr;  // the innermost that runs
  uint64_t last_step_ns = 0;     // when a step of any model ended here; 0: none has
  uint64_t steps_ended = 0;      // of all models
  probe::StepTime step_time;
  ~ThreadState();
};

// Adds the time of a scope to its thread's account.
class ThreadTimer {
 public:
  explicit ThreadTimer(ThreadState& thread)
      : thread_(thread), outer_(std::exchange(thread.timer, this)), begin_ns_(MonotonicNs()) {}
  ~ThreadTimer() {
    thread_.cost.total_ns += MonotonicNs() - begin_ns_;
    thread_.timer = outer_;
  }
  ThreadTimer(const ThreadTimer&) = delete;
  ThreadTimer& operator=(const ThreadTimer&) = delete;
  // Of the scope's time so much is not the probe's.
  void Skip(uint64_t ns) { begin_ns_ += ns; }
  // Adds what has passed so far: of a step that ends within the scope.
  void Flush() {
    const uint64_t now = MonotonicNs();
    thread_.cost.total_ns += now - std::exchange(begin_ns_, now);
  }

 private:
  ThreadState& thread_;
  ThreadTimer* const outer_;
  uint64_t begin_ns_;
};

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
  struct Owner {
    int model;
    int param;
  };
  void GradientReady(const at::Tensor& parameter, const std::vector<Owner>& owners) noexcept;
  void LayerGradient(int model, int module, uint16_t call, uint16_t micro,
                     const std::shared_ptr<StepIdentity>& identity, const at::Tensor& gradient);

 private:
  struct Hook;
  class BackwardGuard;
  struct OperatorContext;
  friend struct ThreadState;
  // A thread in a callback: while one is, no listener is destroyed. Sequentially consistent, as is what it guards:
  // whoever finds nobody inside, after live_listener_ was taken away, knows that nobody holds it.
  class Inside {
   public:
    Inside() { inside_.fetch_add(1); }
    ~Inside() { inside_.fetch_sub(1); }
    Inside(const Inside&) = delete;
    Inside& operator=(const Inside&) = delete;
  };
  // A parameter with a hook of ours, unless the trainer has set another in its place.
  struct HookPlace {
    at::Tensor parameter;
    const std::vector<Owner>* owners;
  };

  // threads.cc: what is kept of each.
  static ThreadState& Thread();
  ThreadState& OwnThread();
  RootThread& State(ThreadState& thread, WatchedModel& model, bool only_backward = false);
  bool TrainsLocked(size_t model) const;
  void TakeOver(RootThread& state, WatchedModel& model, bool optimizers_alive);
  RootThread& ForwardState(ThreadState& thread, WatchedModel& model);

  // listener.cc: beginning and end, hooks, wake and sleep.
  static Listener* Live(uint64_t serial);
  Hook* HookOn(const at::Tensor& parameter) const;
  void InstallHooks(WatchedModel& model);
  void RemoveHooks();
  void GradientsReady(ThreadState& thread, const at::Tensor& parameter, const std::vector<Owner>& owners);
  void Sync(RootThread& state);
  void ChangeNeed(int change);
  void ChangeNeedLocked(int change);
  void AtEndOfBackward(std::vector<RootThread*> states, std::vector<WatchedModel*> models);
  bool OneThreadRunsLayers() const;
  void SleepDuringBackward(ThreadState& thread);
  bool WantsRecomputation(ThreadState& thread) const;
  void Watchdog();
  template <typename Body>
  void Guarded(Body&& body) noexcept;

  // dispatch.cc: operators.
  std::unique_ptr<at::ObserverContext> Started(ThreadState& thread, const at::RecordFunction& function);
  void Ended(ThreadState& thread, const at::RecordFunction& function, OperatorContext& context);
  bool FindLayer(const c10::IValue& value, int* model, int* module, int bias_owner) const;
  int FindBias(const c10::IValue& value, int* model) const;
  void FindWritten(ThreadState& thread, const OperatorInfo& info, const c10::IValue& value);
  int FunctionalModule(ThreadState& thread, const OperatorInfo& info, const c10::IValue& input);
  void LayerBegins(ThreadState& thread, WatchedModel& model, int module, const at::Tensor& input);

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
  void CloseEvaluation(RootThread& state);
  void CloseAll(ThreadState& thread, bool optimizers_alive);
  void CloseEnded(bool optimizers_alive);
  void AccountStep(ThreadState& thread, RootThread& state, WatchedModel& model);
  void SayWhatIsCaptured();

  // control.cc: what the daemon asks.
  void HandleCommands(const WatchedModel& boundary);  // whose next step is about to begin
  bool TrainsOnSeveralThreads(const WatchedModel& model);
  void FreezeAsAsked(WatchedModel& model);
  void Freeze(WatchedModel& model, const shm::Command& command);

  // capture.cc: messages.
  void EnsureStarted(RootThread& state);
  void TakeWeights(RootThread& state, WatchedModel& model);
  void TakeBuffers(RootThread& state, WatchedModel& model);
  void TakeGradients(WatchedModel& model, const std::shared_ptr<StepIdentity>& identity, int written_param,
                     std::vector<int>* late);
  void TakeUpdates(RootThread& state, WatchedModel& model);
  void TakeMoments(WatchedModel& model, const StepIdentity& identity, bool optimizers_alive);
  void TakeLearningRates(const StepIdentity& identity, WatchedModel& model, int written_param);
  void TakeLoss(ThreadState& thread, const at::Tensor& loss);
  void Emit(const StepIdentity& identity, Kind kind, WatchedModel& model, int module, const WatchedParam* param,
            uint32_t param_id, uint16_t call, uint16_t micro, const at::Tensor& tensor);
  void EmitMeta(const StepIdentity& identity, Kind kind, WatchedModel& model, uint16_t call, uint16_t micro,
                const at::Tensor& tensor);
  void EmitScalar(const StepIdentity& identity, Kind kind, uint32_t param, uint16_t call, uint16_t micro, double value,
                  const std::string& name);
  void EmitMarker(const StepIdentity& identity, Kind kind);
  void TellLocal(const StepIdentity& identity, ProbeMessage message, Kind kind);
  probe::MessageHeader HeaderOf(const StepIdentity& identity, Kind kind) const;
  std::shared_ptr<const WatchedOptimizers> Optimizers() const;
  static int OptimizerOf(const WatchedOptimizers& optimizers, const WatchedParam& param);

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
  std::shared_ptr<const WatchedOptimizers> optimizers_ = std::make_shared<WatchedOptimizers>();  // replaced whole
  std::vector<std::shared_ptr<LocalSubscriber>> local_;
  std::array<std::vector<std::unique_ptr<RootThread>>, kMaxRoots> states_;
  std::vector<HookPlace> hooks_;
  std::vector<std::unique_ptr<Hook>> removed_hooks_;               // backward may be in one
  std::vector<std::unique_ptr<const std::vector<Owner>>> owners_;  // superseded ones, too
  std::array<bool, kMaxRoots> all_shared_{};  // every parameter of the model belongs to another model too

  std::mutex wake_mutex_;
  // Guarded by wake_mutex_.
  at::CallbackHandle callback_ = at::INVALID_CALLBACK_HANDLE;
  bool registered_ = false;
  int need_ = 0;  // states that need to hear operators

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
