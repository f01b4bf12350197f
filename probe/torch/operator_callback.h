// OperatorCallback: our callback in LibTorch's dispatcher, on while somebody needs to hear operators.
//
// LibTorch boxes the arguments of every operator that is heard; its results, which cost as much again, are boxed only
// where the operator is looked at (AskForResults). Thread rule: any thread, one mutex.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>

#include <ATen/record_function.h>

namespace ikkuna::torch_probe {

// Within the beginning of an operator: its outputs() are to be there at its end.
void AskForResults(const at::RecordFunction& function);

class OperatorCallback {
 public:
  // What is to be called while anybody needs it.
  void Register(at::RecordFunctionCallback::StartCallback start, at::RecordFunctionCallback::EndCallback end);
  void Unregister();
  // Off from here on, whoever needs it: the session has switched itself off.
  void Silence();
  // How often it has gone off: what came in between was not heard.
  uint64_t pauses() const { return pauses_.load(std::memory_order_relaxed); }
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
  std::atomic<uint64_t> pauses_{0};
  // Guarded by mutex_.
  at::CallbackHandle callback_ = at::INVALID_CALLBACK_HANDLE;  // while operators are heard
  std::optional<at::RecordFunctionCallback> registered_;
  bool silenced_ = false;
  int need_ = 0;
};

}  // namespace ikkuna::torch_probe
