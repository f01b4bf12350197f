// OptionLife: whether an options object of one of the trainer's optimizers still exists, without a look at it.
//
// An optimizer says nothing when it goes. But it owns its options, which are destroyed through their base class: Watch()
// rebuilds such an object in its place, as a class that is the same in every member and value and whose destructor says
// so. Whoever holds a reference to it notices nothing. Where its class is not one of LibTorch's own, that cannot be done.
//
// Thread rule: any thread. An object may be destroyed on one thread while another reads it: Read() holds it off.
#pragma once

#include <memory>
#include <mutex>

#include <torch/optim/optimizer.h>

namespace ikkuna::torch_probe {

class OptionLife {
 public:
  // Null: of a class that is not known. The same object has one life, however often it is watched.
  static std::shared_ptr<OptionLife> Watch(torch::optim::OptimizerOptions& options);

  // Calls `read` with the object, which stays until it returns; false: it is gone.
  template <typename Reader>
  bool Read(Reader&& read) const {
    std::lock_guard lock(mutex_);
    if (options_ == nullptr) return false;
    read(*options_);
    return true;
  }
  bool gone() const {
    return !Read([](const torch::optim::OptimizerOptions&) {});
  }

 private:
  template <typename Options>
  class Watched;
  template <typename Options>
  static void Rebuild(Options& options);
  static void Gone(const void* options) noexcept;

  mutable std::mutex mutex_;
  torch::optim::OptimizerOptions* options_ = nullptr;  // guarded by mutex_; null: it is gone
};

}  // namespace ikkuna::torch_probe
