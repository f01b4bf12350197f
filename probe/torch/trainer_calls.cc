// What the trainer says itself.
#include "probe/torch/listener.h"

namespace ikkuna::torch_probe {

void Listener::Step(const torch::nn::Module* root) {
  Guarded([&](ThreadState& thread) {
    ThreadTimer timer(thread);
    for (int m = 0; m < model_count_.load(std::memory_order_acquire); ++m) {
      WatchedModel& model = *models_[static_cast<size_t>(m)];
      if (root != nullptr && &model.root() != root) continue;
      RootThread& state = State(thread, model);
      const bool first = !model.manual_steps.exchange(true);
      SeenFirst(state, model);
      // The write of this very step may have ended it already, before we knew that Step() would come.
      if (first && !state.in_pass) continue;
      EndStep(thread, model, state, -1);
      if (state.closing) FinishClosing(state, model, true);
      FreezeAsAsked(model);
    }
  });
}

void Listener::Epoch(uint32_t epoch) {
  Guarded([&](ThreadState& thread) {
    ThreadTimer timer(thread);
    CloseAll(thread, true);
    for (int m = 0; m < model_count_.load(std::memory_order_acquire); ++m) {
      WatchedModel& model = *models_[static_cast<size_t>(m)];
      RootThread& state = State(thread, model);
      SeenFirst(state, model);
      const uint32_t before = model.epoch.exchange(epoch);
      StepIdentity& identity = *state.pass.identity;
      if (before != epoch && identity.step != options_.start_step)
        capture_.PublishMarker(identity, Kind::kEpochFinished);
      model.epoch_begin_step.store(identity.step);
      identity.epoch = epoch;
      identity.train_step = 0;
      shm::StoreRelaxed(session_->root_status(model.root_id()).epoch, epoch);
      capture_.PublishMarker(identity, Kind::kEpochStarted);
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
      if (thread.roots[m] != nullptr) CloseEvaluation(*thread.roots[m], *models_[m]);
    }
    evaluation_tag_.store(name.empty() ? kTagDefault : session_->TagId(name));
  });
}

void Listener::Log(const std::string& name, double value) {
  Guarded([&](ThreadState& thread) {
    ThreadTimer timer(thread);
    if (model_count_.load(std::memory_order_acquire) == 0) return;
    WatchedModel& model = *models_[thread.last_root < 0 ? 0 : static_cast<size_t>(thread.last_root)];
    RootThread& state = State(thread, model);
    SeenFirst(state, model);
    StepIdentity& identity = *state.pass.identity;
    const auto* number = std::get_if<double>(&value);
    if (!identity.AnyOf(number != nullptr ? Kind::kScalar : Kind::kText)) return;
    capture_.EnsureStarted(identity);
    if (number != nullptr) {
      capture_.PublishScalar(identity, Kind::kScalar, session_->NameId(name), 0, 0, *number, name);
    } else {
      capture_.PublishText(identity, name, std::get<std::string>(value));
    }
  });
}

void Listener::Log(const std::string& name, double value) { LogValue(name, value); }

void Listener::Log(const std::string& name, const std::string& text) { LogValue(name, text); }

}  // namespace ikkuna::torch_probe
