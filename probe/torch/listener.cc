// Beginning and end, backward, waking and sleeping.
#include "probe/torch/listener.h"

#include <time.h>

#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/graph_task.h>

#include <algorithm>
#include <cstdio>

namespace ikkuna::torch_probe {

std::atomic<Listener*> Listener::live_listener_{nullptr};
std::atomic<int64_t> Listener::inside_{0};

namespace {

// Listeners of the process: a callback on another thread may still be in one whose probe has ended. The list itself is
// never destroyed: a trainer that leaves by exit() may still run operators on other threads while static objects go.
struct Retirement {
  std::mutex mutex;
  std::vector<std::shared_ptr<Listener>> listeners;  // guarded by mutex
};
Retirement& Retired() {
  static auto* const retired = new Retirement;
  return *retired;
}

uint64_t NextSerial() {
  static std::atomic<uint64_t> serial{0};
  return ++serial;
}

}  // namespace

Listener* Listener::Live(uint64_t serial) {
  Listener* listener = live_listener_.load();
  return listener != nullptr && listener->serial_ == serial ? listener : nullptr;
}

// The end of a backward pass: the engine calls End(), or, where backward throws, drops the last reference.
class Listener::BackwardGuard {
 public:
  BackwardGuard(std::shared_ptr<Listener> listener, std::vector<RootThread*> states, std::vector<WatchedModel*> models)
      : listener_(std::move(listener)), states_(std::move(states)), models_(std::move(models)) {}
  // A copy would run the end when it goes, in the middle of backward.
  BackwardGuard(const BackwardGuard&) = delete;
  BackwardGuard& operator=(const BackwardGuard&) = delete;
  ~BackwardGuard() { End(); }
  // Once; on the thread that called backward unless that threw.
  void End() {
    const Inside inside;
    if (ended_.exchange(true) || !listener_->active()) return;
    // A step of this pass may be ended by another thread, which cannot see what was spent here.
    if (!models_.empty() && CurrentThread().listener == listener_->serial_) {
      RootThread& state = *states_.front();
      if (!state.stepper.load()) state.handed_over.Add(std::exchange(CurrentThread().cost, {}));
    }
    for (RootThread* state : states_) {
      if (models_.empty()) state->in_backward.store(false);
      listener_->Sync(*state);
    }
    for (WatchedModel* model : models_) {
      if (!model->freezes_wait.load(std::memory_order_relaxed)) continue;
      listener_->Guarded([&](ThreadState&) { listener_->FreezeAsAsked(*model); });
    }
  }

 private:
  const std::shared_ptr<Listener> listener_;
  const std::vector<RootThread*> states_;
  const std::vector<WatchedModel*> models_;  // that got gradients; none: of callbacks that slept
  std::atomic<bool> ended_{false};
};

std::shared_ptr<Listener> Listener::Start(const ProbeOptions& options) {
  DestroyRetired();
  probe::SessionOptions session_options;
  session_options.identity = {options.run_id,     options.run,    options.attempt,   options.rank,
                              options.world_size, options.resume, options.start_step};
  session_options.directory = options.directory;
  session_options.arena_mb = options.arena_mb;
  session_options.control = options.allow_control ? shm::Control::kAll : shm::Control::kNone;
  session_options.budget_ppm = probe::BudgetPpm(options.budget);
  auto session = probe::Session::Open(session_options);
  if (!session) return nullptr;
  auto listener = std::make_shared<Listener>(std::move(session), options, NextSerial());
  {
    std::lock_guard lock(Retired().mutex);
    Retired().listeners.push_back(listener);
  }
  live_listener_.store(listener.get());
  listener->callback_.Register(&Listener::OnStart, &Listener::OnEnd);
  Listener* raw = listener.get();
  listener->session_->SetTick([raw] { raw->Watchdog(); });
  return listener;
}

Listener::Listener(std::unique_ptr<probe::Session> session, const ProbeOptions& options, uint64_t serial)
    : session_(std::move(session)),
      options_(options),
      serial_(serial),
      hooks_(serial),
      capture_(*session_, optimizers_) {}

Listener::~Listener() = default;

void Listener::DestroyRetired() noexcept {
  // What they hold (models, subscribers) may be the trainer's, whose destructors may do anything: not under the lock.
  std::vector<std::shared_ptr<Listener>> gone;
  // Backward may have looked up a hook and not be inside yet: they stay for as long as it takes until the next is gone.
  static auto* const last_hooks = new ParameterHooks::Removed;
  ParameterHooks::Removed hooks;
  std::lock_guard lock(Retired().mutex);
  if (inside_.load() != 0) return;
  auto& listeners = Retired().listeners;
  for (auto it = listeners.begin(); it != listeners.end();) {
    const bool unused = it->use_count() == 1 && (*it)->stopped_.load() && live_listener_.load() != it->get();
    if (unused) {
      for (auto& hook : (*it)->hooks_.TakeRemoved()) hooks.push_back(std::move(hook));
      gone.push_back(std::move(*it));
    }
    it = unused ? listeners.erase(it) : it + 1;
  }
  if (!gone.empty()) last_hooks->swap(hooks);
}

void Listener::Attach(torch::nn::Module& root, std::shared_ptr<torch::nn::Module> keep_alive,
                      const AttachOptions& options) {
  Guarded([&](ThreadState&) {
    std::lock_guard lock(mutex_);
    const int index = model_count_.load();
    if (index >= static_cast<int>(kMaxRoots)) {
      session_->AddNote("more than 16 models were attached; the last ones are not watched");
      return;
    }
    auto model = std::make_unique<WatchedModel>(*session_, root, std::move(keep_alive), options, index);
    if (model->root_id() == 0) return;  // the registry is full
    for (const std::string& note : model->notes()) session_->AddNote(note);
    model->manual_steps.store(options.manual_steps);
    model->next_step.store(options_.start_step);
    model->steps_finished.store(options_.start_step);
    model->epoch.store(options_.start_epoch);
    model->epoch_begin_step.store(options_.start_step);
    shm::RootStatus& status = session_->root_status(model->root_id());
    shm::StoreRelaxed(status.start_step, options_.start_step);
    shm::StoreRelaxed(status.step, options_.start_step);
    models_[static_cast<size_t>(index)] = std::move(model);
    WatchedModel& watched = *models_[static_cast<size_t>(index)];
    hooks_.Install(watched);
    watched.first_hold.store(true);
    model_count_.store(index + 1, std::memory_order_release);
    callback_.Need(+1);
  });
}

void Listener::Attach(torch::optim::Optimizer& optimizer) {
  Guarded([&](ThreadState&) { optimizers_.Attach(*session_, optimizer); });
}

void Listener::Subscribe(std::shared_ptr<LocalSubscriber> subscriber) {
  std::lock_guard lock(mutex_);
  local_.push_back(std::move(subscriber));
}

// ---------------------------------------------------------------------------------------------------------------
// Waking and sleeping

void Listener::Sync(RootThread& state) {
  const auto on = [](const std::atomic<bool>& flag) { return flag.load(std::memory_order_relaxed); };
  callback_.Hold(state.held, [&] {
    return !on(state.in_backward) &&
           (on(state.due) || on(state.open) || on(state.learning) || on(state.watching) || on(state.pending));
  });
}

void Listener::AtEndOfBackward(std::vector<RootThread*> states, std::vector<WatchedModel*> models) {
  auto guard = std::make_shared<BackwardGuard>(shared_from_this(), std::move(states), std::move(models));
  torch::autograd::Engine::get_default_engine().queue_callback([guard] { guard->End(); });
}

// Recomputed layers of checkpointing give gradients; to see them the callback must stay on during backward.
bool Listener::WantsRecomputation(ThreadState& thread) const {
  for (RootThread* state : thread.roots) {
    if (state != nullptr && state->due.load(std::memory_order_relaxed) && state->pass.identity &&
        state->pass.identity->AnyOf(Kind::kLayerGradients)) {
      return true;
    }
  }
  return false;
}

// Of a thread that begins to train while the callback sleeps for another's backward the first forward pass goes
// unheard: nobody sleeps before those that begin together have begun, nor where several train or evaluate.
bool Listener::OneThreadRunsLayers() const {
  constexpr uint64_t kBeginning = 64;  // steps
  for (int m = 0; m < model_count_.load(std::memory_order_acquire); ++m) {
    const WatchedModel& model = *models_[static_cast<size_t>(m)];
    const uint64_t steps = model.steps_finished.load(std::memory_order_relaxed) - options_.start_step;
    if (steps < kBeginning || model.layer_threads.load(std::memory_order_relaxed) > 1) return false;
  }
  return true;
}

void Listener::SleepDuringBackward(ThreadState& thread) {
  const int64_t task = torch::autograd::get_current_graph_task_id();
  if (thread.off_graph_task == task) return;
  thread.off_graph_task = task;
  std::vector<RootThread*> states;
  {
    std::lock_guard lock(mutex_);
    for (size_t i = 0; i < kMaxRoots; ++i) {
      for (const auto& state : states_[i]) {
        if (state.get() == thread.roots[i] || !state->stepper.load()) states.push_back(state.get());
      }
    }
  }
  for (RootThread* state : states) {
    state->in_backward.store(true);
    Sync(*state);
  }
  AtEndOfBackward(std::move(states), {});
}

void Listener::OnGradient(uint64_t serial, const at::Tensor& parameter,
                          const std::vector<ParamOwner>& owners) noexcept {
  const Inside inside;
  Listener* const live = Live(serial);
  if (live == nullptr || !live->active()) return;
  try {
    live->GradientsReady(live->OwnThread(), parameter, owners);
  } catch (const std::exception& error) {
    live->session_->SwitchOff(error.what());
  }
}

void Listener::GradientsReady(ThreadState& thread, const at::Tensor& parameter, const std::vector<ParamOwner>& owners) {
  ++thread.cost.calls;
  const int64_t task = torch::autograd::get_current_graph_task_id();
  std::vector<RootThread*> fresh;
  std::vector<WatchedModel*> models;
  for (const ParamOwner& owner : owners) {
    if (!hooks_.Counts(owners, owner.model)) continue;
    WatchedModel& model = *models_[static_cast<size_t>(owner.model)];
    WatchedParam& param = model.params()[static_cast<size_t>(owner.param)];
    if (param.data.load(std::memory_order_relaxed) != DataOf(parameter)) model.Refresh();
    RootThread& state = State(thread, model, true);
    RootThread& forward = state.started_thread ? state : ForwardState(thread, model);
    if (forward.due.load(std::memory_order_relaxed) && param.id != 0 && !param.bias && forward.pass.identity &&
        forward.pass.identity->Wants(Kind::kRawWeightGradients, model.module(param.module).id)) {
      Guarded([&](ThreadState& own) {
        ThreadTimer timer(own);
        capture_.Publish(*forward.pass.identity, Kind::kRawWeightGradients, model, param.module, &param, param.id, 0,
                         forward.pass.micro, parameter.grad());
      });
    }
    forward.backward_seen.store(true, std::memory_order_relaxed);
    if (state.graph_task == task && state.pending.load(std::memory_order_relaxed)) continue;
    state.graph_task = task;
    thread.owns_backward = true;
    state.pending.store(true);
    fresh.push_back(&state);
    models.push_back(&model);
  }
  if (fresh.empty()) return;
  Guarded([&](ThreadState&) { AtEndOfBackward(std::move(fresh), std::move(models)); });
}

// Service thread: a loop whose steps are not seen any more may have changed how it writes; listen to it again.
void Listener::Watchdog() {
  if (!active()) return;
  const uint64_t now = MonotonicNs();
  std::lock_guard lock(mutex_);
  for (int i = 0; i < model_count_.load(); ++i) {
    WatchedModel& model = *models_[static_cast<size_t>(i)];
    if (model.first_hold.load()) continue;
    const uint64_t last = shm::LoadRelaxed(session_->root_status(model.root_id()).last_step_ns);
    const uint64_t usual = model.usual_step_ns.load(std::memory_order_relaxed);
    if (last == 0 || now - last < std::max<uint64_t>(1'000'000'000, 4 * usual)) continue;
    if (!watchdog_awake_.exchange(true)) callback_.Need(+1);
  }
}

// ---------------------------------------------------------------------------------------------------------------
// The end

void Listener::Stop(bool optimizers_alive) {
  if (stopped_.exchange(true) || !session_->in_owner()) return;
  session_->SetTick({});
  Guarded([&](ThreadState& thread) {
    CloseAll(thread, optimizers_alive);
    CloseEnded(optimizers_alive);
  });
  live_.store(false);
  callback_.Unregister();
  {
    std::lock_guard lock(mutex_);
    hooks_.Remove();
    for (int i = 0; i < model_count_.load(); ++i) models_[static_cast<size_t>(i)]->Forget();
  }
  Listener* self = this;
  live_listener_.compare_exchange_strong(self, nullptr);
  session_->SetFinished();
  session_->Close();
}

}  // namespace ikkuna::torch_probe
