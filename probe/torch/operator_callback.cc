#include "probe/torch/operator_callback.h"

#include <ATen/ATen.h>

#include <utility>

namespace ikkuna::torch_probe {

namespace {

// LibTorch asks its callbacks once, before an operator, whether any wants the results of whatever runs; but it keeps
// them by what stands here when the operator has run. There is no other door than an explicit instantiation, which may
// name what is private.
template <auto member>
struct Door {
  friend at::StepCallbacks& CallbacksOf(at::RecordFunction& function) { return function.*member; }
};
at::StepCallbacks& CallbacksOf(at::RecordFunction& function);
template struct Door<&at::RecordFunction::step_callbacks_>;

// Whether this LibTorch does so: tried out on an operator.
bool ResultsComeWhenAsked() {
  thread_local bool came = false;
  const auto start = [](const at::RecordFunction& function) -> std::unique_ptr<at::ObserverContext> {
    AskForResults(function);
    return nullptr;
  };
  const auto end = [](const at::RecordFunction& function, at::ObserverContext*) {
    came |= !function.outputs().empty();
  };
  const at::CallbackHandle handle = at::addThreadLocalCallback(
      at::RecordFunctionCallback(start, end).needsInputs(true).scopes({at::RecordScope::FUNCTION}));
  static_cast<void>(at::relu(at::empty({0})));
  at::removeCallback(handle);
  return came;
}

}  // namespace

void AskForResults(const at::RecordFunction& function) {
  CallbacksOf(const_cast<at::RecordFunction&>(function)).needs_outputs_ = true;
}

void OperatorCallback::Register(at::RecordFunctionCallback::StartCallback start,
                                at::RecordFunctionCallback::EndCallback end) {
  static const bool when_asked = ResultsComeWhenAsked();
  std::lock_guard lock(mutex_);
  registered_.emplace(start, end);
  registered_->needsInputs(true).needsOutputs(!when_asked).scopes({at::RecordScope::FUNCTION});
}

void OperatorCallback::Unregister() {
  std::lock_guard lock(mutex_);
  Hear(false);
  registered_.reset();
}

void OperatorCallback::Silence() {
  std::lock_guard lock(mutex_);
  Hear(false);
  silenced_ = true;
}

void OperatorCallback::NeedLocked(int change) {
  need_ += change;
  Hear(need_ > 0 && registered_ && !silenced_);
}

void OperatorCallback::Hear(bool hears) {
  if (hears == (callback_ != at::INVALID_CALLBACK_HANDLE)) return;
  if (hears) {
    callback_ = at::addGlobalCallback(*registered_);
  } else {
    at::removeCallback(std::exchange(callback_, at::INVALID_CALLBACK_HANDLE));
    pauses_.fetch_add(1, std::memory_order_relaxed);
  }
}

}  // namespace ikkuna::torch_probe
