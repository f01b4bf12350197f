#include "probe/torch/option_life.h"

#include <torch/optim/adagrad.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/lbfgs.h>
#include <torch/optim/rmsprop.h>
#include <torch/optim/sgd.h>
#include <unistd.h>

#include <atomic>
#include <mutex>
#include <new>
#include <typeinfo>
#include <unordered_map>
#include <utility>

namespace ikkuna::torch_probe {

namespace {

// Never destroyed: the trainer's static objects may be optimizers.
struct Lives {
  std::mutex mutex;
  std::unordered_map<const void*, std::shared_ptr<OptionLife>> by_object;  // guarded by mutex
  const pid_t owner = ::getpid();
};

// Of this process. In a forked child another thread may have held the parent's lock when the child was made: it gets
// lives of its own, and knows none of the parent's.
Lives& AllLives() {
  static std::atomic<Lives*> all{new Lives};
  Lives* lives = all.load();
  if (lives->owner == ::getpid()) return *lives;
  auto* const own = new Lives;
  if (all.compare_exchange_strong(lives, own)) return *own;
  delete own;
  return *lives;
}

}  // namespace

template <typename Options>
class OptionLife::Watched final : public Options {
 public:
  explicit Watched(const Options& options) : Options(options) {}
  ~Watched() override { Gone(static_cast<const torch::optim::OptimizerOptions*>(this)); }
};

template <typename Options>
void OptionLife::Rebuild(Options& options) {
  static_assert(sizeof(Watched<Options>) == sizeof(Options) && alignof(Watched<Options>) == alignof(Options));
  const Options copy(options);  // whatever throws does so before anything is changed
  Options same(copy);
  options.~Options();
  new (static_cast<void*>(&options)) Watched<Options>(same);
}

void OptionLife::Gone(const void* options) noexcept {
  Lives& lives = AllLives();
  std::shared_ptr<OptionLife> life;
  {
    std::lock_guard lock(lives.mutex);
    const auto found = lives.by_object.find(options);
    if (found == lives.by_object.end()) return;
    life = std::move(found->second);
    lives.by_object.erase(found);
  }
  std::lock_guard lock(life->mutex_);
  life->options_ = nullptr;
}

std::shared_ptr<OptionLife> OptionLife::Watch(torch::optim::OptimizerOptions& options) {
  using namespace torch::optim;
  Lives& lives = AllLives();
  std::lock_guard lock(lives.mutex);
  if (const auto found = lives.by_object.find(&options); found != lives.by_object.end()) return found->second;
  auto life = std::make_shared<OptionLife>();
  life->options_ = &options;
  auto& entry = lives.by_object[&options];
  const std::type_info& type = typeid(options);
  if (type == typeid(SGDOptions)) {
    Rebuild(static_cast<SGDOptions&>(options));
  } else if (type == typeid(AdamOptions)) {
    Rebuild(static_cast<AdamOptions&>(options));
  } else if (type == typeid(AdamWOptions)) {
    Rebuild(static_cast<AdamWOptions&>(options));
  } else if (type == typeid(RMSpropOptions)) {
    Rebuild(static_cast<RMSpropOptions&>(options));
  } else if (type == typeid(AdagradOptions)) {
    Rebuild(static_cast<AdagradOptions&>(options));
  } else if (type == typeid(LBFGSOptions)) {
    Rebuild(static_cast<LBFGSOptions&>(options));
  } else {
    lives.by_object.erase(&options);
    return nullptr;
  }
  entry = life;
  return life;
}

}  // namespace ikkuna::torch_probe
