// What the trainer says itself. None of it takes a step number or keeps the callback awake.
#include "probe/torch/listener.h"

namespace ikkuna::torch_probe {

void Listener::Step(const torch::nn::Module* module) {
  Guarded([&](ThreadState& thread) {
    ThreadTimer timer(thread);
    ends_.StirAll(thread);
    const auto trains = [&](int m) { return watch_.tracker.OpenStep(m, thread.id) || watch_.tracker.Pending(m); };
    bool some_trains = false, known = false;
    for (int m = 0; m < watch_.roots.count(); ++m) some_trains |= trains(m);
    for (int m = 0; m < watch_.roots.count(); ++m) {
      WatchedModel& model = watch_.roots.model(m);
      if (module != nullptr && &model.root() != module) continue;
      known = true;
      // A teacher makes no steps, whatever is said of all.
      if (module == nullptr && some_trains && watch_.tracker.steps_ended(m) == 0 && !trains(m)) continue;
      RootState& root = watch_.roots.StateOf(model);
      open_steps_.WaitOnce(thread, root);
      {
        std::lock_guard lock(root.mutex);
        const auto said = watch_.tracker.Boundary(m, thread.id);
        ends_.FinishAll(root, model, said.to_close);
        if (said.ended) ends_.EndStep(thread, model, root, *said.ended, -1, true);
        hearing_.Listen(m);
      }
      control_.FreezeAsAsked(model);
    }
    if (!known) {
      session_->AddNote(module == nullptr ? "probe.Step() before a model is attached ends no step"
                                          : "probe.Step() of a module that is not attached ends no step: give it the "
                                            "model as it was attached");
    }
  });
}

void Listener::Epoch(uint32_t epoch) {
  Guarded([&](ThreadState& thread) {
    ThreadTimer timer(thread);
    if (watch_.roots.count() == 0) {
      session_->AddNote("probe.Epoch() before a model is attached is not kept: call it behind Attach()");
    }
    ends_.CloseSteps(thread, false);
    for (int m = 0; m < watch_.roots.count(); ++m) {
      WatchedModel& model = watch_.roots.model(m);
      RootState& root = watch_.roots.StateOf(model);
      std::lock_guard lock(root.mutex);
      const uint32_t before = model.epoch.exchange(epoch);
      const std::shared_ptr<StepIdentity> identity = open_steps_.Said(thread, root, model);
      if (before != epoch && identity->step != watch_.options.start_step) {
        watch_.capture.PublishMarker(*identity, Kind::kEpochFinished);
      }
      model.epoch_begin_step.store(identity->step);
      identity->epoch.store(epoch);
      identity->train_step.store(0);
      shm::StoreRelaxed(session_->root_status(model.root_id()).epoch, epoch);
      watch_.capture.PublishMarker(*identity, Kind::kEpochStarted);
    }
  });
}

// Commands are looked for where a step ends.
bool Listener::StopRequested() {
  if (ends_.dozes()) Guarded([&](ThreadState& thread) { ends_.StirAll(thread); });
  return control_.stop_requested();
}

// They are not of the step that was written already.
void Listener::Samples(uint64_t count) {
  if (ends_.dozes()) Guarded([&](ThreadState& thread) { ends_.StirAll(thread); });
  open_steps_.AddSamples(count);
}

void Listener::Loss(const at::Tensor& loss) {
  if (!active()) return;
  OwnThread().grad_mode = at::GradMode::is_enabled();
  Guarded([&](ThreadState& thread) {
    ThreadTimer timer(thread);
    ends_.StirAll(thread);
    losses_.TakeLoss(thread, loss);
  });
}

void Listener::Tag(const std::string& name) {
  Guarded([&](ThreadState& thread) {
    ends_.StirAll(thread);
    for (int m = 0; m < watch_.roots.count(); ++m) {
      const auto& state = thread.roots[static_cast<size_t>(m)];
      if (state) open_steps_.CloseEvaluation(*state, watch_.roots.state(m), watch_.roots.model(m));
    }
    passes_.Tag(thread, name.empty() ? kTagDefault : session_->TagId(name));
  });
}

void Listener::LogValue(const std::string& name, const std::variant<double, std::string>& value) {
  Guarded([&](ThreadState& thread) {
    ThreadTimer timer(thread);
    if (watch_.roots.count() == 0) {
      session_->AddNote("what is logged before a model is attached is not kept: it is of no step");
      return;
    }
    ends_.StirAll(thread);
    WatchedModel& model = watch_.roots.LastOn(thread);
    RootState& root = watch_.roots.StateOf(model);
    open_steps_.WaitOnce(thread, root);
    std::lock_guard lock(root.mutex);
    watch_.capture.PublishLogged(*open_steps_.Said(thread, root, model), name, value);
  });
}

void Listener::Log(const std::string& name, double value) { LogValue(name, value); }

void Listener::Log(const std::string& name, const std::string& text) { LogValue(name, text); }

}  // namespace ikkuna::torch_probe
