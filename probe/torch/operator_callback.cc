#include "probe/torch/operator_callback.h"

#include <utility>

namespace ikkuna::torch_probe {

void OperatorCallback::Register(at::RecordFunctionCallback::StartCallback start,
                                at::RecordFunctionCallback::EndCallback end) {
  std::lock_guard lock(mutex_);
  start_ = start;
  end_ = end;
}

void OperatorCallback::Unregister() {
  std::lock_guard lock(mutex_);
  Hear(false);
  start_ = nullptr;
}

void OperatorCallback::Silence() {
  std::lock_guard lock(mutex_);
  Hear(false);
  silenced_ = true;
}

void OperatorCallback::NeedLocked(int change) {
  need_ += change;
  Hear(need_ > 0 && start_ != nullptr && !silenced_);
}

void OperatorCallback::Hear(bool hears) {
  if (hears == (callback_ != at::INVALID_CALLBACK_HANDLE)) return;
  if (hears) {
    callback_ = at::addGlobalCallback(at::RecordFunctionCallback(start_, end_)
                                          .needsInputs(true)
                                          .needsOutputs(true)
                                          .scopes({at::RecordScope::FUNCTION}));
  } else {
    at::removeCallback(std::exchange(callback_, at::INVALID_CALLBACK_HANDLE));
  }
}

}  // namespace ikkuna::torch_probe
