// LossRoots: the scalars from which backward is about to start, or has started, by the thread that starts it.
//
// A graph that lies on a device is walked by a thread of the engine: one that has started nothing itself looks among
// those of all. Thread rule: any thread, one mutex.
#pragma once

#include <mutex>
#include <utility>
#include <vector>

#include "probe/core/step_tracker.h"
#include "probe/torch/loss_graph.h"

namespace ikkuna::torch_probe {

class LossRoots {
 public:
  void Add(probe::ThreadId thread, LossRoot root) {
    std::lock_guard lock(mutex_);
    roots_.emplace_back(thread, std::move(root));
  }
  void Forget(probe::ThreadId thread) {
    std::lock_guard lock(mutex_);
    std::erase_if(roots_, [&](const auto& root) { return root.first == thread || root.second.node.expired(); });
  }
  // The thread's own, else all. `own_alone`: it is none of the engine's.
  std::vector<LossRoot> For(probe::ThreadId thread, bool own_alone = false) const {
    std::lock_guard lock(mutex_);
    std::vector<LossRoot> own, all;
    for (const auto& [of, root] : roots_) {
      all.push_back(root);
      if (of == thread) own.push_back(root);
    }
    return own.empty() && !own_alone ? all : own;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::pair<probe::ThreadId, LossRoot>> roots_;  // guarded by mutex_
};

}  // namespace ikkuna::torch_probe
