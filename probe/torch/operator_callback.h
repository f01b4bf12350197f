// OperatorCallback: our callback in LibTorch's dispatcher, on while somebody needs to hear operators.
//
// Thread rule: any thread, one mutex.
#pragma once

#include <mutex>

#include <ATen/record_function.h>

namespace ikkuna::torch_probe {

class OperatorCallback {
 public:
  // What is to be called while anybody needs it.
  void Register(at::RecordFunctionCallback::StartCallback start, at::RecordFunctionCallback::EndCallback end);
  void Unregister();
  // Off from here on, whoever needs it: the session has switched itself off.
  void Silence();
  // So many more (or fewer) need to hear operators.
  void Need(int change) {
    std::lock_guard lock(mutex_);
    NeedLocked(change);
  }
  // `held` is what one of them holds now; it becomes `awake`. Guarded by this callback's mutex.
  template <typename Awake>
  void Hold(int& held, Awake&& awake) {
    std::lock_guard lock(mutex_);
    const int change = (awake() ? 1 : 0) - held;
    held += change;
    if (change != 0) NeedLocked(change);
  }

 private:
  void NeedLocked(int change);
  // Taken back rather than disabled: LibTorch copies its list of callbacks for each node of a backward pass, those that
  // are disabled too. Its header allows that at the start of a program only; all of these calls take one mutex of its
  // own, though, and an operator under way has copies (LibTorch 2.11).
  void Hear(bool hears);

  std::mutex mutex_;
  // Guarded by mutex_.
  at::CallbackHandle callback_ = at::INVALID_CALLBACK_HANDLE;  // while operators are heard
  at::RecordFunctionCallback::StartCallback start_ = nullptr;  // null: it is not registered
  at::RecordFunctionCallback::EndCallback end_ = nullptr;
  bool silenced_ = false;
  int need_ = 0;
};

}  // namespace ikkuna::torch_probe
