#include "probe/torch/listener.h"

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
  return listener != nullptr && listener->watch_.serial == serial ? listener : nullptr;
}

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
  listener->hearing_.callback().Register(&Listener::OnStart, &Listener::OnEnd);
  Listener* raw = listener.get();
  listener->session_->SetTick([raw] { raw->hearing_.Watchdog(); }, [raw] { raw->hearing_.callback().Silence(); });
  return listener;
}

Listener::Listener(std::unique_ptr<probe::Session> session, const ProbeOptions& options, uint64_t serial)
    : session_(std::move(session)),
      watch_(*session_, options, serial),
      accounts_(watch_),
      hearing_(watch_),
      control_(watch_),
      settling_(watch_),
      open_steps_(watch_, settling_),
      ends_(watch_, accounts_, hearing_, control_, settling_, open_steps_),
      backward_(watch_, hearing_, control_, settling_, open_steps_, ends_),
      passes_(watch_, hearing_, open_steps_, ends_, backward_),
      losses_(watch_, settling_, backward_, passes_),
      operators_(watch_, losses_, ends_, backward_, passes_) {}

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
      for (auto& hook : (*it)->watch_.roots.TakeRemovedHooks()) hooks.push_back(std::move(hook));
      gone.push_back(std::move(*it));
    }
    it = unused ? listeners.erase(it) : it + 1;
  }
  if (!gone.empty()) last_hooks->swap(hooks);
}

void Listener::Attach(torch::nn::Module& root, std::shared_ptr<torch::nn::Module> keep_alive,
                      const AttachOptions& options) {
  Guarded([&](ThreadState& thread) {
    std::lock_guard lock(attach_mutex_);
    ends_.StirAll(thread);
    Roots& roots = watch_.roots;
    const uint64_t start_step = watch_.options.start_step;
    const int index = roots.count();
    // Attached again it is the same model, with what it has become.
    for (int m = 0; m < index; ++m) {
      WatchedModel& known = roots.model(m);
      if (!known.IsRoot(root)) continue;
      roots.RenewTree(known, true);
      if (!options.name.empty() && options.name != known.name()) {
        session_->AddNote(known.name() + " was attached again as " + options.name + ": it keeps its first name");
      }
      return;
    }
    if (index >= static_cast<int>(kMaxRoots)) {
      session_->AddNote("more than 16 models were attached; the last ones are not watched");
      return;
    }
    auto model = std::make_unique<WatchedModel>(*session_, root, std::move(keep_alive), options, index);
    if (model->root_id() == 0) return;  // the registry is full
    for (const std::string& note : model->notes()) session_->AddNote(note);
    model->steps_finished.store(start_step);
    model->epoch.store(watch_.options.start_epoch);
    model->epoch_begin_step.store(start_step);
    shm::RootStatus& status = session_->root_status(model->root_id());
    shm::StoreRelaxed(status.start_step, start_step);
    shm::StoreRelaxed(status.step, start_step);
    watch_.tracker.AddRoot(start_step, options.manual_steps);
    roots.Add(std::move(model));
    hearing_.Listen(index);
  });
}

void Listener::Attach(torch::optim::Optimizer& optimizer, std::shared_ptr<torch::optim::Optimizer> owner) {
  Guarded([&](ThreadState&) { watch_.optimizers.Attach(*session_, optimizer, std::move(owner)); });
}

void Listener::Stop() {
  if (stopped_.exchange(true) || !session_->in_owner()) return;
  session_->SetTick({});
  Guarded([&](ThreadState& thread) { ends_.CloseSteps(thread, true); });
  if (const size_t untold = watch_.subscribers.in_order().Drop(); untold != 0) {
    session_->AddNote(std::to_string(untold) +
                      " messages for Subscribe() were dropped: what a thread captures at its end is told by the next "
                      "that comes, and none did");
  }
  live_.store(false);
  hearing_.callback().Unregister();
  backward_.UnhookRawGradients();
  {
    std::lock_guard lock(attach_mutex_);
    watch_.roots.Forget();
  }
  Listener* self = this;
  live_listener_.compare_exchange_strong(self, nullptr);
  session_->SetFinished();
  session_->Close();
}

ThreadState& Listener::OwnThread() {
  ThreadState& thread = CurrentThread();
  if (thread.listener != watch_.serial) {
    thread.Reset(watch_.serial);
    thread.in_order = &watch_.subscribers.in_order();
  }
  if (thread.id == 0 && !thread.ends) thread.id = watch_.tracker.AddThread();
  return thread;
}

void Listener::EndThread(ThreadState& thread) noexcept {
  AsOwnWork(*session_, thread, [&](ThreadState& own) { ends_.EndThread(own); });
}

// ---------------------------------------------------------------------------------------------------------------
// Called by LibTorch

std::unique_ptr<at::ObserverContext> Listener::OnStart(const at::RecordFunction& function) {
  const Inside inside;
  Listener* self = live_listener_.load();
  if (self == nullptr || !self->active()) return nullptr;
  ThreadState& thread = self->OwnThread();
  ++thread.cost.calls;  // whatever comes of it: LibTorch has boxed the operator's arguments for us
  if (thread.busy || thread.depth > 0) return nullptr;
  if (self->ends_.dozes()) self->Guarded([&](ThreadState& own) { self->ends_.StirAll(own); });
  const bool in_backward = InBackward();
  if (in_backward && !self->backward_.WantsRecomputation(thread)) {
    if (self->hearing_.RunsAllLayers(thread)) {
      self->Guarded([&](ThreadState& own) {
        self->backward_.SleepDuringBackward(own, torch::autograd::get_current_graph_task_id());
      });
    }
    return nullptr;
  }
  const OperatorInfo* const info = self->operators_.Find(function.name());
  // Nothing stands between the gradient that LibTorch makes for a scalar and the backward pass that starts from it.
  if (thread.starts_backward && !in_backward && (info == nullptr || info->what != OperatorClass::kRoot)) {
    thread.starts_backward = false;
    self->watch_.loss_roots.Forget(thread.id);
  }
  if (info == nullptr && !thread.provenance.carries()) return nullptr;
  if (info != nullptr && IsWrite(info->what) && !self->operators_.MayCount(thread, *info, function.inputs())) {
    return nullptr;
  }
  thread.grad_mode = at::GradMode::is_enabled();
  std::unique_ptr<at::ObserverContext> context;
  self->Guarded([&](ThreadState& own) {
    ThreadTimer timer(own);
    context = self->operators_.Started(own, function, info);
  });
  return context;
}

void Listener::OnEnd(const at::RecordFunction& function, at::ObserverContext* context) {
  if (context == nullptr) return;
  const Inside inside;
  Listener* self = live_listener_.load();
  ThreadState& thread = CurrentThread();
  auto& begun = static_cast<OperatorContext&>(*context);
  if (begun.deeper && thread.depth > 0) --thread.depth;
  if (self == nullptr || thread.listener != self->watch_.serial || begun.listener != self->watch_.serial) return;
  if (begun.writes != 0) self->operators_.WriteEnded(begun);
  if (begun.end == OperatorEnd::kNothing) return;
  self->Guarded([&](ThreadState& own) {
    ThreadTimer timer(own);
    self->operators_.Ended(own, function, begun);
  });
}

bool Listener::OnGradient(uint64_t serial, const at::Tensor& parameter,
                          const std::vector<ParamOwner>& owners) noexcept {
  Listener* const live = Live(serial);
  if (live == nullptr || !live->active()) return false;
  try {
    return live->backward().GradientsReady(live->OwnThread(), parameter, owners);
  } catch (const std::exception& error) {
    live->session_->SwitchOff(error.what());
  }
  return false;
}

void Listener::OnPassGone(uint64_t serial, int model, uint32_t number) noexcept {
  const Inside inside;
  Listener* const live = Live(serial);
  if (live != nullptr && live->active()) live->watch_.tracker.PassGone(model, number);
}

}  // namespace ikkuna::torch_probe
