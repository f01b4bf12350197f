// Pace: what comes rarely, and is therefore never thinned.
//
// The budget stretches the periods of what comes at every step; to thin an evaluation each 469 steps or a value logged
// once an epoch would save nothing and lose all of it. How often a thing comes is counted in steps, of whichever model
// steps, since an evaluation does not count in steps of its own: it is rare while fewer than kBurst of its occasions
// fell into the last kBurst * kRareSteps steps. An occasion is a step at which it comes, however often within it.
// Of what is not rare one occasion in each window of so many steps is taken, the first: for what comes at every step
// that is the stretched period, and ranks that run the same loop take the same ones.
//
// Owner: the session. Thread rule: any thread, one mutex, held for a look-up.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <unordered_map>

namespace ikkuna::probe {

class Pace {
 public:
  static constexpr uint64_t kRareSteps = 16;  // a sixteenth of what each step would cost
  static constexpr size_t kBurst = 8;         // so many in a row are still rare: the lines at the end of an epoch
  // Things that are told apart; of what comes beyond them only the windows are kept, all together.
  static constexpr size_t kMaxThings = 1 << 17;

  // What comes: a pass of a root under a tag, or a value logged under a name.
  struct Thing {
    uint16_t root = 0;
    uint16_t tag = 0;
    uint8_t kind = 0;   // of what is logged; 0: passes
    uint32_t name = 0;  // of what is logged
  };

  // A step of any model has ended.
  void StepFinished() { step_.fetch_add(1, std::memory_order_relaxed); }

  // An occasion of `thing`, now: whether it is rare.
  bool IsRare(const Thing& thing);
  // Whether it is to be taken, where one in each window of `window` steps is: `lane` tells windows of one thing apart.
  // The same answer for every look within one step.
  bool TakesFirst(const Thing& thing, size_t lane, uint64_t window);
  static constexpr size_t kLanes = 3;

 private:
  struct History {
    std::array<uint64_t, kBurst> last{};  // steps + 1 of the last occasions, a ring; 0: none
    size_t next = 0;
    bool rare = true;                         // at the last occasion
    std::array<uint64_t, kLanes> taken{};     // step + 1 of the last that was taken; 0: none
  };
  History& Of(const Thing& thing);

  std::atomic<uint64_t> step_{0};
  std::mutex mutex_;
  std::unordered_map<uint64_t, History> histories_;  // guarded by mutex_
};

}  // namespace ikkuna::probe
