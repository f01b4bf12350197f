// WatchedModel: one attached root: its modules and parameters, their names and registry ids, and where their data lie.
//
// Built at Attach; afterwards modules and parameters are only added (operators named by position, and what the trainer
// replaces or registers later, which RenewTree() finds) or retired. Where data lie may change (to(), set_data), and
// Refresh() follows it. The listener holds it for ever, because a callback on another thread may still be reading.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include "probe/core/session.h"
#include "probe/ikkuna/probe.hpp"
#include "probe/torch/loss_unit.h"

namespace ikkuna::torch_probe {

// The address by which a parameter is known among an operator's inputs: views such as weight.t() share it, others lie
// within the parameter's range.
inline const void* DataOf(const at::Tensor& tensor) {
  return tensor.defined() && tensor.has_storage() ? tensor.unsafeGetTensorImpl()->data() : nullptr;
}

struct WatchedModule {
  std::string path;  // dotted; "" is the root itself, published under its type's name
  std::string type;  // Linear
  uint32_t id = 0;   // registry id; 0: not published (depth, filter, a full registry)
  bool has_params = false;
  bool has_bias = false;
  bool functional = false;
  int next_in_sequence = -1;  // module that a Sequential runs on this one's output
  int reports_as = -1;  // index of the module whose name the activations carry: itself, or a cut container; -1: none
  int also_reports = -1;            // index of another module that returns the same: attention, of its output projection
  bool of_torch = false;            // a class of torch::nn, not one of the trainer's with a name like it
  mutable std::atomic<bool> order_noted{false};     // that the order of calls tells it from others of its weight
  mutable std::atomic<bool> computed_noted{false};  // that its weight is computed somewhere, which hides it
  const char* operators = nullptr;  // with parameters: those that make its output, separated by blanks; null: none known
};

// As notes name it.
inline const std::string& Shown(const WatchedModule& module) { return module.path.empty() ? module.type : module.path; }

struct WatchedParam {
  at::Tensor tensor;  // the user's own parameter; retired: an empty one, after a while
  std::string name;   // within its module: weight
  int module = -1;    // index
  std::atomic<uint32_t> id{0};  // registry id; 0: not published
  std::atomic<bool> retired{false};  // the module has another in its place, or is gone
  bool bias = false;
  bool frozen = false;                     // by a client's wish; guarded by the listener's freeze mutex
  std::atomic<const void*> data{nullptr};  // DataOf(tensor) at the last look
};

struct WatchedBuffer {
  at::Tensor tensor;
  std::string name;
  int module = -1;
  uint32_t id = 0;
};

// Parameters: references stay, the count only grows, and readers need no lock.
class ParamList {
 public:
  void Reserve(size_t count) { params_.reserve(count); }
  bool full() const { return params_.size() == params_.capacity(); }
  // One thread at a time.
  WatchedParam& Add() {
    params_.push_back(std::make_unique<WatchedParam>());
    return *params_.back();
  }
  void Publish() { count_.store(params_.size(), std::memory_order_release); }
  size_t size() const { return count_.load(std::memory_order_acquire); }
  WatchedParam& operator[](size_t index) const { return *params_[index]; }
  class Iterator {
   public:
    using iterator_category = std::input_iterator_tag;
    using value_type = WatchedParam;
    using difference_type = std::ptrdiff_t;
    using pointer = WatchedParam*;
    using reference = WatchedParam&;
    explicit Iterator(const std::unique_ptr<WatchedParam>* at) : at_(at) {}
    WatchedParam& operator*() const { return **at_; }
    Iterator& operator++() {
      ++at_;
      return *this;
    }
    bool operator==(const Iterator& other) const = default;

   private:
    const std::unique_ptr<WatchedParam>* at_;
  };
  Iterator begin() const { return Iterator(params_.data()); }
  Iterator end() const { return Iterator(params_.data() + size()); }

 private:
  std::vector<std::unique_ptr<WatchedParam>> params_;  // within the capacity reserved at Attach
  std::atomic<size_t> count_{0};
};

class WatchedModel {
 public:
  WatchedModel(probe::Session& session, torch::nn::Module& root, std::shared_ptr<torch::nn::Module> keep_alive,
               const AttachOptions& options, int index);

  // Constant after construction.
  int index() const { return index_; }
  uint16_t root_id() const { return root_id_; }
  const std::string& name() const { return name_; }
  torch::nn::Module& root() const { return *root_; }
  // What is not captured of what was there at Attach(), and of what has come since.
  std::vector<std::string> notes() const {
    std::lock_guard lock(mutex_);
    return notes_;
  }
  bool is_training() const { return !detached_.load(std::memory_order_relaxed) && root_->is_training(); }
  const ParamList& params() const { return params_; }
  const std::vector<WatchedBuffer>& buffers() const { return *buffers_.load(std::memory_order_acquire); }

  // Tells the registry anew whether a parameter trains.
  void Renew(probe::Session& session, const WatchedParam& param) const;

  // Modules: references stay, the count only grows.
  size_t module_count() const { return module_count_.load(std::memory_order_acquire); }
  const WatchedModule& module(int index) const { return *modules_[static_cast<size_t>(index)]; }
  // The operator `name` at its position behind module `after` (-1: at the beginning), created at first sight.
  int FunctionalModule(probe::Session& session, int after, const char* name, const char* type);

  // The modules with a parameter or buffer that the tensor is, or is a part of, in execution order; of several those
  // that an operator of this name makes the output of come first. `own`: how many of them are such.
  struct Candidates {
    std::vector<int> modules;
    size_t own = 0;
  };
  Candidates ModulesOf(const at::Tensor& weight, const char* operator_name) const;
  int BiasOwner(const void* data) const;  // -1: none
  int ParamAt(const void* data) const;    // -1: none; also of an address within one
  // Since Refresh() last looked.
  bool HasMoved(int param) const;
  // Where the data lie now. True when something moved.
  bool Refresh();

  // Of some of the elements of the parameters: whether anybody has moved the weights.
  uint64_t Fingerprint() const;

  // Whether the trainer has replaced or registered something since the tree was walked last. Cheap: no names are made.
  bool TreeChanged() const;
  // Walks the tree again: what is new is added, what is gone retired. Once at a time; the listener sees to it. True: no
  // parameter is left of those that it had.
  bool RenewTree(probe::Session& session);
  // Nobody but us has its parameters any more: they were replaced, all of them, or the model is gone. Any thread.
  bool AllReplaced() const;
  // Lets go of what the trainer has replaced, which lives no longer for us. Only while no other thread is in a layer, a
  // backward pass or a write of the model.
  struct Released {
    int param = -1;  // index
    at::Tensor tensor;
    bool lives_on = false;  // under another name: it was tied, or has come back
  };
  std::vector<Released> ReleaseRetired();
  bool has_retired() const { return has_retired_.load(std::memory_order_relaxed); }
  // Whether any parameter has a gradient.
  bool HasGradients() const;
  bool IsRoot(const torch::nn::Module& module) const {
    return !detached_.load(std::memory_order_relaxed) && root_ == &module;
  }

  // True once, when it was attached by reference and nobody holds any of its parameters any more: it was destroyed, and
  // is never touched again. While somebody does (an optimizer) that cannot be told.
  bool FindGone();

  // The trainer is about to destroy the module: never touch root() again.
  void Forget() { detached_.store(true); }

  // The trainer has called Loss() in training.
  void GivesLoss() {
    manual_loss.store(true);
    steps_not_given.store(0, std::memory_order_relaxed);
  }

  std::atomic<uint64_t> steps_finished{0};
  std::atomic<bool> has_layers{false};     // one was heard, ever
  std::atomic<uint32_t> layer_threads{0};  // threads that have begun passes, and have not ended
  std::atomic<uint64_t> threads_changed{0};  // steps finished when one of these began or ended last
  std::atomic<bool> optimized{false};        // an attached optimizer has parameters of it
  std::atomic<uint64_t> optimizers_asked{0};  // so many had been attached when that was looked for
  std::atomic<uint32_t> epoch{0};
  std::atomic<uint64_t> epoch_begin_step{0};
  std::atomic<uint64_t> usual_step_ns{0};  // of the last steps, for the watchdog
  std::atomic<bool> manual_loss{false};    // Loss() was called in training: recognised terms are not published there
  std::atomic<uint32_t> steps_not_given{0};  // of which the loss was due, since Loss() was called last
  std::atomic<bool> several_losses{false}; // the loss of training is not known: there are several terms
  // Of training, by the term (LossSettling); guarded by the root's mutex, as the next.
  std::map<std::string, TrainedLoss> trained_losses;
  // Names under which losses of evaluations went out that are not training's, and why, which has been said.
  std::set<std::pair<std::string, std::string_view>> evaluations_noted;
  std::atomic<uint32_t> steps_weighted{0};       // in a row, whose loss the loop has multiplied before backward
  // What loss functions took as targets.
  struct Targets {
    std::atomic<bool> classes{false};          // class indices
    std::atomic<const char*> other{nullptr};   // the last operator that took something else
  };
  Targets targets_in_training, targets_in_evaluation;
  std::atomic<bool> loss_elsewhere{false}; // its losses are booked for a model whose output it takes
  std::atomic<uint32_t> steps_without_loss{0};  // in a row, of those that were heard from their first layer on
  std::atomic<bool> freezes_wait{false};   // there are some of the next
  std::vector<shm::Command> freezes;       // freeze and unfreeze to be done, in their order; guarded by the listener

 private:
  // Where a parameter or buffer lies.
  struct Span {
    uintptr_t begin = 0;
    uintptr_t end = 0;
    uintptr_t end_before = 0;  // the greatest end of this one and all before it
    int param = -1;            // -1: a buffer
    int module = -1;
    int64_t elements = 0;
  };
  struct Tables {
    std::vector<Span> spans;  // by where they begin
    std::unordered_map<const void*, int> bias_owners;
  };
  struct TreeNode {
    const torch::nn::Module* module = nullptr;
    std::vector<const torch::nn::Module*> children;
    std::vector<const c10::TensorImpl*> params;
  };
  template <typename Visit>
  static void VisitAt(const Tables& tables, const void* data, Visit&& visit);
  void Walk(probe::Session& session, torch::nn::Module& module, const std::string& path, int depth,
            int cut_container);
  int ModuleAt(const std::string& path, const torch::nn::Module& module);
  void AddParams(probe::Session& session, torch::nn::Module& module, int index, bool published);
  void AddBuffers(probe::Session& session, torch::nn::Module& module, int index, bool published);
  void LinkSequence(torch::nn::Module& module, const std::string& path);
  void NoteActivations(size_t from);
  int MadeBy(torch::nn::Module& module, const std::string& path) const;
  bool SameTree(torch::nn::Module& module, size_t* node) const;
  // With mutex_ held.
  bool MovedLocked(int param) const;
  void Build();
  WatchedModule& at(int index) { return *modules_[static_cast<size_t>(index)]; }

  int index_ = 0;
  uint16_t root_id_ = 0;
  std::string name_;
  torch::nn::Module* root_ = nullptr;
  std::shared_ptr<torch::nn::Module> keep_alive_;
  AttachOptions options_;
  ParamList params_;
  std::vector<std::string> notes_;   // guarded by mutex_
  bool modules_full_noted_ = false;  // guarded by mutex_, and the next
  bool params_full_noted_ = false;
  std::atomic<bool> has_retired_{false};  // since ReleaseRetired()
  std::atomic<bool> detached_{false};
  std::vector<TreeNode> tree_;               // in the order of the walk; guarded by mutex_
  std::vector<WatchedBuffer> walked_buffers_;  // of the walk under way
  std::vector<bool> walked_params_;            // met in the walk under way, by index

  // Appended under mutex_, within the capacity reserved at Attach: readers need no lock.
  std::vector<std::unique_ptr<WatchedModule>> modules_;
  std::atomic<size_t> module_count_{0};
  std::unordered_map<std::string, int> by_path_;  // guarded by mutex_
  mutable std::mutex mutex_;
  // Tables are replaced whole; readers keep the one they took. The few that a run replaces are kept until the end.
  std::atomic<const Tables*> tables_{nullptr};
  std::vector<std::unique_ptr<Tables>> all_tables_;  // guarded by mutex_
  std::atomic<const std::vector<WatchedBuffer>*> buffers_{nullptr};
  std::vector<std::unique_ptr<std::vector<WatchedBuffer>>> all_buffers_;  // guarded by mutex_
  // A run moves its parameters a handful of times; one that does so all the time (FSDP) must not grow without bound.
  static constexpr size_t kMaxTables = 64;
  // Positions of operators in one model; a loop that makes up new ones must not grow the table without bound.
  static constexpr size_t kMaxFunctional = 4096;
  // Modules and parameters that come after Attach: a head for each task of a long list.
  static constexpr size_t kMaxLate = 4096;
};

}  // namespace ikkuna::torch_probe
