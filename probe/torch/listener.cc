// Beginning and end, waking and sleeping.
#include "probe/torch/listener.h"

#include <time.h>

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
  listener->session_->SetTick([raw] { raw->Watchdog(); }, [raw] { raw->callback_.Silence(); });
  return listener;
}

Listener::Listener(std::unique_ptr<probe::Session> session, const ProbeOptions& options, uint64_t serial)
    : session_(std::move(session)),
      options_(options),
      serial_(serial),
      hooks_(serial),
      capture_(*session_, optimizers_) {}

// Threads may hold a step's identity for longer, and with it the subscribers; what those have captured goes now.
Listener::~Listener() {
  for (const auto& subscriber : local_) subscriber->callback = nullptr;
}

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
    // Attached again it is the same model, with what it has become.
    for (int m = 0; m < index; ++m) {
      WatchedModel& known = *models_[static_cast<size_t>(m)];
      if (!known.IsRoot(root)) continue;
      RenewTree(known);
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
    model->steps_finished.store(options_.start_step);
    model->epoch.store(options_.start_epoch);
    model->epoch_begin_step.store(options_.start_step);
    shm::RootStatus& status = session_->root_status(model->root_id());
    shm::StoreRelaxed(status.start_step, options_.start_step);
    shm::StoreRelaxed(status.step, options_.start_step);
    tracker_.AddRoot(options_.start_step, options.manual_steps);
    roots_[static_cast<size_t>(index)] = std::make_unique<RootState>();
    roots_[static_cast<size_t>(index)]->model = index;
    models_[static_cast<size_t>(index)] = std::move(model);
    {
      std::lock_guard tree(tree_mutex_);
      hooks_.Install(*models_[static_cast<size_t>(index)]);
    }
    model_count_.store(index + 1, std::memory_order_release);
    Listen(index);
  });
}

void Listener::Attach(torch::optim::Optimizer& optimizer, std::shared_ptr<torch::optim::Optimizer> owner) {
  Guarded([&](ThreadState&) { optimizers_.Attach(*session_, optimizer, std::move(owner)); });
}

// No lock of ours is held, and no step is in the midst of anything. What a callback logs is not told to callbacks
// again: one that does would never come to an end.
void Listener::Tell(ThreadState& thread) noexcept {
  thread.telling = true;
  while (!thread.untold.empty()) {
    std::vector<Untold> untold = std::exchange(thread.untold, {});
    for (const Untold& one : untold) {
      if (one.subscriber->failed.load()) continue;
      try {
        one.subscriber->callback(one.message);
      } catch (const std::exception& error) {
        one.subscriber->failed.store(true);
        probe::PrintNow(std::string("an in-process subscriber threw and was removed: ") + error.what());
      } catch (...) {
        one.subscriber->failed.store(true);
        probe::PrintNow("an in-process subscriber threw what is no exception and was removed");
      }
    }
  }
  thread.telling = false;
}

void Listener::Subscribe(std::shared_ptr<LocalSubscriber> subscriber) {
  if (subscriber->kinds == 0) return;
  std::lock_guard lock(mutex_);
  local_.push_back(std::move(subscriber));
}

// ---------------------------------------------------------------------------------------------------------------
// Waking and sleeping

void Listener::Listen(int model) {
  RootState& root = *roots_[static_cast<size_t>(model)];
  callback_.Hold(root.held, [&] { return root.sleeper.load(std::memory_order_relaxed) == 0 && tracker_.Awake(model); });
}

// Of a thread that begins to train while the callback sleeps for another's backward the first forward pass goes
// unheard: nobody sleeps before those that begin together have begun, nor where several train or evaluate.
bool Listener::OneThreadRunsLayers() const {
  constexpr uint64_t kBeginning = 64;  // steps
  for (int m = 0; m < model_count_.load(std::memory_order_acquire); ++m) {
    const WatchedModel& model = *models_[static_cast<size_t>(m)];
    const uint64_t steps = model.steps_finished.load(std::memory_order_relaxed) - options_.start_step;
    const bool one = steps >= kBeginning && model.layer_threads.load(std::memory_order_relaxed) <= 1;
    if (!one && !tracker_.Resting(m)) return false;
  }
  return true;
}

// Service thread: a loop whose steps are not seen any more may have changed how it writes; listen to it again, for a
// while. It may be over, too, and the process go on with other networks: so less and less often.
void Listener::Watchdog() {
  constexpr uint64_t kListenNs = 2'000'000'000, kPauseMinNs = 4'000'000'000, kPauseMaxNs = 300'000'000'000;
  if (!active()) return;
  const uint64_t now = MonotonicNs();
  if (watchdog_awake_.load()) {
    if (now - watchdog_since_ns_ < kListenNs || !watchdog_awake_.exchange(false)) return;
    callback_.Need(-1);
    watchdog_pause_ns_ = std::clamp(2 * watchdog_pause_ns_, kPauseMinNs, kPauseMaxNs);
    watchdog_since_ns_ = now + watchdog_pause_ns_;
    return;
  }
  bool silent = false;
  std::lock_guard lock(mutex_);
  for (int i = 0; i < model_count_.load(); ++i) {
    WatchedModel& model = *models_[static_cast<size_t>(i)];
    const uint64_t last = shm::LoadRelaxed(session_->root_status(model.root_id()).last_step_ns);
    const uint64_t usual = model.usual_step_ns.load(std::memory_order_relaxed);
    if (last == 0 || now - last < std::max<uint64_t>(1'000'000'000, 4 * usual)) continue;
    silent = true;
    if (now < watchdog_since_ns_ || watchdog_awake_.exchange(true)) continue;
    watchdog_since_ns_ = now;
    callback_.Need(+1);
  }
  if (!silent) watchdog_since_ns_ = watchdog_pause_ns_ = 0;
}

// ---------------------------------------------------------------------------------------------------------------
// The end

void Listener::Stop() {
  if (stopped_.exchange(true) || !session_->in_owner()) return;
  session_->SetTick({});
  Guarded([&](ThreadState& thread) { CloseSteps(thread, true); });
  live_.store(false);
  callback_.Unregister();
  UnhookRawGradients();
  {
    std::lock_guard lock(mutex_);
    std::lock_guard tree(tree_mutex_);
    hooks_.Remove();
    for (int i = 0; i < model_count_.load(); ++i) models_[static_cast<size_t>(i)]->Forget();
  }
  Listener* self = this;
  live_listener_.compare_exchange_strong(self, nullptr);
  session_->SetFinished();
  session_->Close();
}

}  // namespace ikkuna::torch_probe
