#include "probe/torch/operator_callback.h"

namespace ikkuna::torch_probe {

void OperatorCallback::Register(at::RecordFunctionCallback::StartCallback start,
                                at::RecordFunctionCallback::EndCallback end) {
  std::lock_guard lock(mutex_);
  callback_ = at::addGlobalCallback(
      at::RecordFunctionCallback(start, end).needsInputs(true).needsOutputs(true).scopes({at::RecordScope::FUNCTION}));
  at::disableCallback(callback_);
  registered_ = true;
}

void OperatorCallback::Unregister() {
  std::lock_guard lock(mutex_);
  if (registered_) at::removeCallback(callback_);
  registered_ = false;
}

void OperatorCallback::Silence() {
  std::lock_guard lock(mutex_);
  if (registered_ && need_ > 0 && !silenced_) at::disableCallback(callback_);
  silenced_ = true;
}

void OperatorCallback::NeedLocked(int change) {
  const int before = need_;
  need_ += change;
  if (!registered_ || silenced_) return;
  if (before == 0 && need_ > 0) at::reenableCallback(callback_);
  if (before > 0 && need_ == 0) at::disableCallback(callback_);
}

}  // namespace ikkuna::torch_probe
