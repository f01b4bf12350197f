// ClosedSteps: which steps of one (root, tag) were closed, so that a trainer that counts anew is noticed. EventFilter:
// which events of rules are shown.
//
// Owner: the graph or a node of a job. Thread rule: one thread at a time.
#pragma once

#include <bitset>
#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <utility>

#include "daemon/model/series.h"
#include "metrics/event.h"

namespace ikkuna::graph {

class ClosedSteps {
 public:
  // Threads that train one model close their steps in any order, but none so far behind the first.
  static constexpr uint64_t kBehindMax = RecordedSteps::kBehindMax;

  // A step of this number was closed before, as far as is known: values of it may be there already.
  bool Again(uint64_t step) const;
  void Close(uint64_t step);
  // A value came again: the trainer counts anew, and until it passes the last step all of it is again. True the first
  // time.
  bool SetRewound();
  // It is told what an earlier daemon has closed: true the first time, when that is to be done.
  bool Seed() { return !std::exchange(seeded_, true); }
  uint64_t last() const { return last_; }

 private:
  bool any_ = false;
  bool rewound_ = false;
  bool seeded_ = false;
  uint64_t last_ = 0;  // greatest
  std::bitset<kBehindMax> closed_;
};

class EventFilter {
 public:
  // An event of one rule comes at most once in so many steps of a root (of a job: of a timeline): a network full of NaN
  // stays so. One that asks for something (an action) is held back by its own likes only.
  static constexpr uint64_t kEverySteps = 100;

  struct Answer {
    bool shown = false;
    uint64_t suppressed = 0;  // of its likes, since the last that was shown
  };
  Answer Ask(uint64_t subscriber, uint16_t root, uint16_t tag, uint64_t step, const Action* action);

 private:
  struct Last {
    uint64_t step = 0;
    uint64_t suppressed = 0;
  };
  // A named maximum: rules times roots times actions; beyond, the oldest are forgotten all together.
  static constexpr size_t kMaxKinds = 65'536;
  std::map<std::tuple<uint64_t, uint16_t, uint16_t, std::string>, Last> last_;
};

// What the text of an event ends with.
std::string SuppressedText(uint64_t suppressed);
std::string RefusedText(const Action& action);  // where nobody does what events ask for

}  // namespace ikkuna::graph
