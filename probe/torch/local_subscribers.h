// LocalSubscribers: who listens within the trainer's own process.
//
// Owner: the listener. Thread rule: any thread, one mutex, under which nothing else is taken and no callback runs.
#pragma once

#include <atomic>
#include <cstddef>
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

// What a subscriber is told as soon as nothing of ours is held any more.
struct Untold {
  std::shared_ptr<LocalSubscriber> subscriber;  // null: what is told in order is told here
  ProbeMessage message;
};

// What is told in the order in which it was captured, whichever thread tells it: markers and numbers of evaluations, of
// which one thread names what others have run; and what a thread captured at its very end, where no code of the
// trainer's may run any more, and which the next one tells that lives.
class ToldInOrder {
 public:
  // `left`: by a thread that tells nothing itself. False: too much waits for a callback that does not come to an end.
  bool Add(Untold&& untold, bool left);
  // Some of it waits for whichever thread comes next.
  bool left() const { return left_.load(std::memory_order_relaxed); }
  // Tells what is there. Where another thread is at it, or more comes meanwhile, that is left.
  void Tell() noexcept;
  // Lets go of what nobody will tell any more; how much it was. None while a thread is at it.
  size_t Drop();

 private:
  static constexpr size_t kMax = 65'536;  // several a batch; a callback that blocks must not fill the memory
  std::mutex mutex_;
  std::vector<Untold> waits_;  // guarded by mutex_
  bool telling_ = false;       // guarded by mutex_
  std::atomic<bool> left_{false};
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
  ToldInOrder& in_order() { return in_order_; }

 private:
  mutable std::mutex mutex_;
  List list_;                     // guarded by mutex_
  std::atomic<bool> any_{false};  // there was one, ever
  ToldInOrder in_order_;
};

// Calls the subscriber. One that throws is removed.
void TellOne(const Untold& untold) noexcept;

}  // namespace ikkuna::torch_probe
