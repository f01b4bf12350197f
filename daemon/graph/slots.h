// Slots: what a producer's records of one (root, tag) are about, each with small dense numbers, so that the way of a
// record is an index and no text.
//
// Owner: a SceneMemory, on the graph's one thread; other threads may read a Slot, which stays where it is and as it is.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <unordered_map>
#include <vector>

#include "daemon/graph/registry_index.h"
#include "metrics/subscriber.h"
#include "shared/codes.h"

namespace ikkuna::graph {

// A module and parameter (or logged name), whatever the kind; or the step as a whole.
struct Slot {
  uint32_t number = 0;  // within its scene; 0: the step as a whole
  metrics::Subject subject;
  std::string module_name;
  std::string module_type;
  std::string param_name;
};

class Slots {
 public:
  // A named maximum: every module and parameter there can be, once.
  static constexpr size_t kMaxSlots = kMaxModules + kMaxParams;

  Slots() { slots_.emplace_back(); }

  const Slot& whole() const { return slots_.front(); }
  // Null: an id without a name, or kMaxSlots is reached.
  const Slot* Find(metrics::Subject subject, const RegistryIndex& registry);
  size_t size() const { return slots_.size(); }

 private:
  std::deque<Slot> slots_;  // [i] has the number i
  std::unordered_map<uint64_t, uint32_t> numbers_;
};

// The slots of one kind that were seen, in the order in which they came.
class Group {
 public:
  explicit Group(Kind kind) : kind_(kind) {}

  struct Member {
    const Slot* slot = nullptr;
    bool wide = false;  // of more than 32 bits: Precision::kDouble
  };

  // Index of the record's member, or kNone: no slot. Records come in the same order step after step, so the one after
  // the last that was asked for is tried first.
  static constexpr uint32_t kNone = ~uint32_t{0};
  uint32_t Find(metrics::Subject subject, DType dtype, Slots& slots, const RegistryIndex& registry);

  Kind kind() const { return kind_; }
  const Member& member(uint32_t ordinal) const { return members_[ordinal]; }
  size_t size() const { return members_.size(); }

 private:
  const Kind kind_;
  std::vector<Member> members_;
  std::unordered_map<uint64_t, uint32_t> ordinals_;
  uint32_t guess_ = 0;
};

}  // namespace ikkuna::graph
