// WatchedModel: one attached root: its modules and parameters, their names and registry ids, and where their data lie.
//
// Built at Attach; afterwards modules may be added (operators named by position) under mutex_. Parameters never change
// number; where their data lie may (to(), set_data), and Refresh() follows it. The listener holds it for ever, because
// a callback on another thread may still be reading.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include "probe/core/session.h"
#include "probe/ikkuna/probe.hpp"

namespace ikkuna::torch_probe {

// The address that identifies a parameter among an operator's inputs: views such as weight.t() share it.
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
};

struct WatchedParam {
  at::Tensor tensor;  // the user's own parameter
  std::string name;   // within its module: weight
  int module = -1;    // index
  uint32_t id = 0;    // registry id; 0: not published
  bool bias = false;
  bool frozen = false;                     // by a client's wish; guarded by the listener's freeze mutex
  std::atomic<const void*> data{nullptr};  // DataOf(tensor) at the last look
};

struct WatchedBuffer {
  at::Tensor tensor;
  int module = -1;
  uint32_t id = 0;
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
  bool is_training() const { return !detached_.load(std::memory_order_relaxed) && root_->is_training(); }
  std::deque<WatchedParam>& params() { return params_; }
  const std::vector<WatchedBuffer>& buffers() const { return buffers_; }
  const std::vector<std::string>& notes() const { return notes_; }

  // Tells the registry anew whether a parameter trains.
  void Renew(probe::Session& session, const WatchedParam& param) const;

  // Modules: references stay, the count only grows.
  size_t module_count() const { return module_count_.load(std::memory_order_acquire); }
  const WatchedModule& module(int index) const { return *modules_[static_cast<size_t>(index)]; }
  // The operator `name` at its position behind module `after` (-1: at the beginning), created at first sight.
  int FunctionalModule(probe::Session& session, int after, const char* name, const char* type);

  // A layer whose parameter lies at `data`: candidates in execution order (tied weights have several).
  const std::vector<int>* ModulesAt(const void* data) const;
  int BiasOwner(const void* data) const;  // -1: none
  int ParamAt(const void* data) const;    // -1: none
  // Where the data lie now. True when something moved.
  bool Refresh();

  // The trainer is about to destroy the module: never touch root() again.
  void Forget() { detached_.store(true); }

  std::atomic<uint64_t> steps_finished{0};
  std::atomic<uint32_t> layer_threads{0};  // states that have begun passes; it never falls
  std::atomic<uint32_t> epoch{0};
  std::atomic<uint64_t> epoch_begin_step{0};
  std::atomic<uint64_t> usual_step_ns{0};  // of the last steps, for the watchdog
  std::atomic<bool> manual_loss{false};    // Loss() was called in training: recognised terms are not published there
  std::atomic<bool> several_losses{false}; // the loss of training is not known: there are several terms
  std::atomic<bool> loss_elsewhere{false}; // its losses are booked for a model whose output it takes
  std::atomic<uint32_t> steps_without_loss{0};  // in a row, of those that were heard from their first layer on
  std::atomic<bool> freezes_wait{false};   // there are some of the next
  std::vector<shm::Command> freezes;       // freeze and unfreeze to be done, in their order; guarded by the listener

 private:
  struct Tables {
    std::unordered_map<const void*, std::vector<int>> modules;
    std::unordered_map<const void*, int> params;
    std::unordered_map<const void*, int> bias_owners;
  };
  void Walk(probe::Session& session, torch::nn::Module& module, const std::string& path, int depth, int cut_container,
            const AttachOptions& options);
  void AddParams(probe::Session& session, torch::nn::Module& module, int index, bool published);
  void LinkSequence(torch::nn::Module& module, const std::string& path);
  void Build();
  WatchedModule& at(int index) { return *modules_[static_cast<size_t>(index)]; }

  int index_ = 0;
  uint16_t root_id_ = 0;
  std::string name_;
  torch::nn::Module* root_ = nullptr;
  std::shared_ptr<torch::nn::Module> keep_alive_;
  std::deque<WatchedParam> params_;
  std::vector<WatchedBuffer> buffers_;
  std::vector<std::string> notes_;
  std::atomic<bool> detached_{false};

  // Appended under mutex_, within the capacity reserved at Attach: readers need no lock.
  std::vector<std::unique_ptr<WatchedModule>> modules_;
  std::atomic<size_t> module_count_{0};
  std::unordered_map<std::string, int> by_path_;  // guarded by mutex_
  mutable std::mutex mutex_;
  // Tables are replaced whole; readers keep the one they took. The few that a run replaces are kept until the end.
  std::atomic<const Tables*> tables_{nullptr};
  std::vector<std::unique_ptr<Tables>> all_tables_;  // guarded by mutex_
  // A run moves its parameters a handful of times; one that does so all the time (FSDP) must not grow without bound.
  static constexpr size_t kMaxTables = 64;
  // Positions of operators in one model; a loop that makes up new ones must not grow the table without bound.
  static constexpr size_t kMaxFunctional = 4096;
};

}  // namespace ikkuna::torch_probe
