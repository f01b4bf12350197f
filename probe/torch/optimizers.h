// Optimizers: those that the trainer attached: which parameters each has, their learning rates and moments.
//
// An optimizer belongs to the trainer, who may destroy it, move it, or go on with another, and need not say so. So it is
// read only where it is known to be there: its options say when they go (OptionLife), and the place where it lay still
// points to them, which is looked up without touching memory that may be gone. Moments count only if they were written
// since they were last looked at: those of an optimizer that no longer steps do not.
//
// What is not told apart: an attached SGD without momentum that stays alive while another optimizer writes its
// parameters. Attach that one, and it takes over.
//
// Thread rule: the list is replaced whole under a mutex and read without it; each optimizer has a mutex of its own.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/optim/optimizer.h>

#include "probe/core/session.h"
#include "probe/torch/option_life.h"
#include "probe/torch/watched_model.h"

namespace ikkuna::torch_probe {

class WatchedOptimizer {
 public:
  struct Rate {
    uint32_t name_id = 0;
    std::string name;  // group0
    double value = 0;
  };
  using Moments = std::pair<at::Tensor, at::Tensor>;  // exp_avg, exp_avg_sq; undefined where it has none

  // `owner`: null where the trainer keeps it in another way than by a shared pointer.
  // `first_group`: its groups are named from this number on.
  WatchedOptimizer(probe::Session& session, torch::optim::Optimizer& optimizer,
                   std::shared_ptr<torch::optim::Optimizer> owner, size_t first_group);

  bool Has(const WatchedParam& param) const;
  // Some parameter of the other is one of its, too.
  bool SharesWith(torch::optim::Optimizer& other) const;
  size_t first_group() const { return first_group_; }
  size_t groups() const;
  // False: it is gone, or does not step any more, and will not be asked again; said once, in a note.
  bool IsAt(const torch::optim::Optimizer* place) const { return place_ == place; }
  bool alive() const { return alive_.load(std::memory_order_relaxed); }
  // Of its groups, those that were added since as well. `written`: the parameter whose write has just begun, if known:
  // an optimizer that keeps moments has written those before, at the latest in the step before.
  std::vector<Rate> Rates(const WatchedParam* written);
  // Of the step that has just ended; undefined if none were written in it.
  Moments MomentsOf(const WatchedParam& param);
  // Reads its groups again where they have more parameters, or fewer, than before.
  void LookForMore();
  // A parameter with a gradient that nobody attached has: a group may have been exchanged. True if it has it now.
  bool LookAgain(const WatchedParam& param);

 private:
  struct Group {
    std::shared_ptr<OptionLife> options;  // null: of a class that is not known
    uint32_t name_id = 0;
  };
  struct State {
    Moments moments;
    uint32_t versions[2] = {0, 0};  // when they were last looked at
  };
  // Calls `read` with the optimizer if it is there.
  template <typename Reader>
  bool Read(Reader&& read);
  void ReadGroups(torch::optim::Optimizer& optimizer);
  void ReadState(const WatchedParam& param);
  bool StepsStill(const WatchedParam& written);
  void End(const std::string& why);

  // Constant after construction.
  probe::Session& session_;
  torch::optim::Optimizer* const place_;             // where it was; never read but by Read()
  const void* defaults_place_ = nullptr;             // of the pointer to its default options, within it
  std::shared_ptr<OptionLife> defaults_;             // null: of a class that is not known
  std::weak_ptr<torch::optim::Optimizer> owner_;
  const bool owned_;
  const size_t first_group_;

  std::atomic<bool> alive_{true};
  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::unordered_map<const void*, int> group_of_;  // TensorImpl of a parameter -> group
  std::vector<Group> groups_;
  size_t parameters_read_ = 0;  // in them
  std::unordered_map<const void*, State> states_;  // by TensorImpl of the parameter
  const void* witness_of_ = nullptr;               // TensorImpl of a parameter, a moment of which shows that it steps
  std::optional<c10::weak_intrusive_ptr<c10::TensorImpl>> witness_;
  uint32_t witness_version_ = 0;
  uint64_t looks_ = 0;                             // for parameters that it did not have
};

class Optimizers {
 public:
  using List = std::vector<std::shared_ptr<WatchedOptimizer>>;

  void Attach(probe::Session& session, torch::optim::Optimizer& optimizer,
              std::shared_ptr<torch::optim::Optimizer> owner);
  std::shared_ptr<const List> All() const {
    std::lock_guard lock(mutex_);
    return list_;
  }
  // So many times one was.
  uint64_t attached() const { return attached_.load(std::memory_order_acquire); }
  // Index of the one that has the parameter; of several the one attached last: a trainer that changes over attaches the
  // new one. -1: none.
  static int IndexOf(const List& list, const WatchedParam& param);
  // Whether several have the parameter: which of them writes it cannot be seen.
  static bool Share(const List& list, const WatchedParam& param);

 private:
  mutable std::mutex mutex_;
  std::atomic<uint64_t> attached_{0};
  std::shared_ptr<const List> list_ = std::make_shared<List>();  // guarded by mutex_; replaced whole
};

}  // namespace ikkuna::torch_probe
