// Listener: hears every operator and every finished gradient of the process and tells the step tracker, which says what
// step and pass they belong to and where a step ends.
//
// What each part does stands at its head: Operators (layers, losses, writes), LayerFinder and Roots (whose a tensor
// is), LossAttribution, LossSettling, Passes (where one begins), OpenSteps (what is wanted of the open ones), StepEnds,
// Backward, Hearing (when operators have to be heard), Control (what the daemon asks). Here are the doors: the public
// API, LibTorch's callbacks, beginning and end. What becomes which record is Capture's.
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

#include <ATen/record_function.h>
#include <torch/optim/optimizer.h>

#include "probe/core/session.h"
#include "probe/torch/backward.h"
#include "probe/torch/control.h"
#include "probe/torch/hearing.h"
#include "probe/torch/loss_attribution.h"
#include "probe/torch/open_steps.h"
#include "probe/torch/operators.h"
#include "probe/torch/passes.h"
#include "probe/torch/step_ends.h"
#include "probe/torch/threads.h"
#include "probe/torch/watch.h"

namespace ikkuna::torch_probe {

class Listener {
 public:
  static std::shared_ptr<Listener> Start(const ProbeOptions& options);
  // Destroys those that nobody can be in any more; the probe calls it when it has let go of its own.
  static void DestroyRetired() noexcept;
  explicit Listener(std::unique_ptr<probe::Session> session, const ProbeOptions& options, uint64_t serial);

  // --- The public API, on training threads.
  void Attach(torch::nn::Module& root, std::shared_ptr<torch::nn::Module> keep_alive, const AttachOptions& options);
  void Attach(torch::optim::Optimizer& optimizer, std::shared_ptr<torch::optim::Optimizer> owner);
  void Step(const torch::nn::Module* root);
  void Epoch(uint32_t epoch);
  void Loss(const at::Tensor& loss);
  void Samples(uint64_t count);
  void Tag(const std::string& name);
  void Log(const std::string& name, double value);
  void Log(const std::string& name, const std::string& text);
  void Subscribe(std::shared_ptr<LocalSubscriber> subscriber) { watch_.subscribers.Add(std::move(subscriber)); }
  bool StopRequested();
  probe::Session& session() { return *session_; }
  bool active() const { return live_.load(std::memory_order_relaxed) && session_->active(); }
  // Closes what is open, takes every hook and callback back.
  void Stop();

  // --- Called by LibTorch.
  static std::unique_ptr<at::ObserverContext> OnStart(const at::RecordFunction& function);
  static void OnEnd(const at::RecordFunction& function, at::ObserverContext* context);
  // The caller is Inside. False: the parameter is to be asked about again each time.
  static bool OnGradient(uint64_t serial, const at::Tensor& parameter, const std::vector<ParamOwner>& owners) noexcept;
  // The graph of a pass is destroyed; any thread, and within whatever destroys it.
  static void OnPassGone(uint64_t serial, int model, uint32_t number) noexcept;

  // --- For callbacks that have come in.
  static Listener* Live(uint64_t serial);  // null: it is not, any more
  ThreadState& OwnThread();
  void EndThread(ThreadState& thread) noexcept;
  template <typename Body>
  void Guarded(Body&& body) noexcept;
  Backward& backward() { return backward_; }
  LossAttribution& losses() { return losses_; }
  probe::StepTracker& tracker() { return watch_.tracker; }

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
  void LogValue(const std::string& name, const std::variant<double, std::string>& value);

  const std::unique_ptr<probe::Session> session_;
  Watch watch_;
  std::atomic<bool> live_{true};
  std::atomic<bool> stopped_{false};
  std::mutex attach_mutex_;  // one model at a time

  // Each one knows those before it.
  StepAccounts accounts_;
  Hearing hearing_;
  Control control_;
  LossSettling settling_;
  OpenSteps open_steps_;
  StepEnds ends_;
  Backward backward_;
  Passes passes_;
  LossAttribution losses_;
  Operators operators_;

  static std::atomic<Listener*> live_listener_;
  static std::atomic<int64_t> inside_;  // threads in a callback of any listener
};

// Runs `body` on the calling thread as our own work, if the listener is active.
template <typename Body>
void Listener::Guarded(Body&& body) noexcept {
  if (!active()) return;
  try {
    AsOwnWork(*session_, OwnThread(), std::forward<Body>(body));
  } catch (const std::exception& error) {
    session_->SwitchOff(error.what());
  }
}

}  // namespace ikkuna::torch_probe
