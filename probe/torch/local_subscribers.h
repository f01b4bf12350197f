// LocalSubscribers: who listens within the trainer's own process.
//
// Owner: the listener. Thread rule: any thread, one mutex, under which nothing else is taken and no callback runs.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "probe/ikkuna/probe.hpp"
#include "shared/codes.h"

namespace ikkuna::torch_probe {

struct LocalSubscriber {
  uint64_t kinds = 0;
  uint32_t period = 1;
  uint16_t tag = kTagDefault;
  std::function<void(const ProbeMessage&)> callback;
  std::atomic<bool> failed{false};
};

class LocalSubscribers {
 public:
  using List = std::vector<std::shared_ptr<LocalSubscriber>>;

  // Threads may hold a step's identity for longer, and with it the subscribers; what those have captured goes now.
  ~LocalSubscribers();
  void Add(std::shared_ptr<LocalSubscriber> subscriber);
  // Those for which something of this step is due.
  List DueAt(uint16_t tag, uint64_t step) const;
  // Whether somebody asks for one of these kinds, under any tag.
  bool AskFor(uint64_t kinds) const;
  bool AskForEvaluation() const;

 private:
  mutable std::mutex mutex_;
  List list_;                     // guarded by mutex_
  std::atomic<bool> any_{false};  // there was one, ever
};

}  // namespace ikkuna::torch_probe
