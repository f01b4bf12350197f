// What the trainer says itself. None of it takes a step number or keeps the callback awake.
#include "probe/torch/listener.h"

namespace ikkuna::torch_probe {

void Listener::Step(const torch::nn::Module* module) {
  Guarded([&](ThreadState& thread) {
    ThreadTimer timer(thread);
    for (int m = 0; m < model_count_.load(std::memory_order_acquire); ++m) {
      WatchedModel& model = *models_[static_cast<size_t>(m)];
      if (module != nullptr && &model.root() != module) continue;
      RootState& root = StateOf(model);
      WaitOnce(thread, root);
      {
        std::lock_guard lock(root.mutex);
        const auto said = tracker_.Boundary(m, thread.id);
        FinishAll(root, model, said.to_close);
        if (said.ended) EndStep(thread, model, root, *said.ended, -1, true);
        Listen(m);
      }
      FreezeAsAsked(model);
    }
  });
}

void Listener::Epoch(uint32_t epoch) {
  Guarded([&](ThreadState& thread) {
    ThreadTimer timer(thread);
    CloseSteps(thread, false);
    for (int m = 0; m < model_count_.load(std::memory_order_acquire); ++m) {
      WatchedModel& model = *models_[static_cast<size_t>(m)];
      RootState& root = StateOf(model);
      std::lock_guard lock(root.mutex);
      const uint32_t before = model.epoch.exchange(epoch);
      const std::shared_ptr<StepIdentity> identity = Said(thread, root, model);
      if (before != epoch && identity->step != options_.start_step) {
        capture_.PublishMarker(*identity, Kind::kEpochFinished);
      }
      model.epoch_begin_step.store(identity->step);
      identity->epoch.store(epoch);
      identity->train_step.store(0);
      shm::StoreRelaxed(session_->root_status(model.root_id()).epoch, epoch);
      capture_.PublishMarker(*identity, Kind::kEpochStarted);
    }
  });
}

void Listener::Loss(const at::Tensor& loss) {
  if (!active()) return;
  OwnThread().grad_mode = at::GradMode::is_enabled();
  Guarded([&](ThreadState& thread) {
    ThreadTimer timer(thread);
    TakeLoss(thread, loss);
  });
}

void Listener::Tag(const std::string& name) {
  Guarded([&](ThreadState& thread) {
    for (size_t m = 0; m < kMaxRoots; ++m) {
      if (thread.roots[m]) CloseEvaluation(*thread.roots[m], *models_[m]);
    }
    evaluation_tag_.store(name.empty() ? kTagDefault : session_->TagId(name));
  });
}

// The step that what the trainer says now is about: the one that is open, else the one that comes.
std::shared_ptr<StepIdentity> Listener::Said(ThreadState& thread, RootState& root, const WatchedModel& model) {
  const auto open = tracker_.OpenStep(model.index(), thread.id);
  return open ? IdentityOf(root, model, tracker_.LaneOf(model.index(), thread.id), *open) : Coming(root, model);
}

void Listener::LogValue(const std::string& name, const std::variant<double, std::string>& value) {
  Guarded([&](ThreadState& thread) {
    ThreadTimer timer(thread);
    if (model_count_.load(std::memory_order_acquire) == 0) return;
    WatchedModel& model = *models_[thread.last_root < 0 ? 0 : static_cast<size_t>(thread.last_root)];
    RootState& root = StateOf(model);
    WaitOnce(thread, root);
    std::lock_guard lock(root.mutex);
    capture_.PublishLogged(*Said(thread, root, model), name, value);
  });
}

void Listener::Log(const std::string& name, double value) { LogValue(name, value); }

void Listener::Log(const std::string& name, const std::string& text) { LogValue(name, text); }

}  // namespace ikkuna::torch_probe
