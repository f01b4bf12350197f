// LateRoom: the messages of one producer whose bytes come late, and the markers that must not overtake them.
//
// A message waits for its own bytes and for no others, but for an earlier one of the same slot (calls of a module are
// merged in their order). Markers that name passes or end a step wait for what was published of their root before them,
// so that the steps of a root close whole and in order. All else goes by.
//
//             its word has come
//   waits ------------------------> handed on
//     |
//     | for longer than `unready_ns` | too many wait | too many steps of its root wait for it | the end
//     v
//   given up: handled, under `unready` or (too many) `crowded`; the end of its step says that it lacks this kind
//
// Only what waits takes memory here: what is done with leaves, and its span is released with what stands before it,
// first in, first out; what was given up is, too, and the probe does not use it again before its word has come.
// Owner: Drain. Thread rule: the producer's ingest thread only.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <tuple>
#include <vector>

#include "shared/base/result.h"
#include "shared/pub.h"

namespace ikkuna::ingest {

class LateRoom {
 public:
  // Messages and markers: 16 steps of two thousand statistics each, in 14 MB.
  static constexpr size_t kWaitingMax = 2 * shm::kDefaultRingSlots;
  // Ends of steps of one root: half of the steps that the graph keeps open.
  static constexpr size_t kStepsMax = 32;
  // Kinds of a step or pass of which something was given up, until its end comes. Of more the oldest count for every
  // step of their root.
  static constexpr size_t kLacksMax = 1024;
  // The end of a step that does not come before so many others never will (the graph's kStepsBehindMax).
  static constexpr uint32_t kEndsMax = 1000;
  // Devices finish in order: a look ends at so many in a row that are not ready, and goes through all now and then.
  static constexpr size_t kUnreadyRow = 64;
  static constexpr uint64_t kWholeLookNs = 50'000'000;

  // Up to `counted_through` (a seq) what was given up is counted already. `go_on` is asked after each that a Poll() is
  // done with: false ends it.
  LateRoom(shm::PubView& view, uint64_t unready_ns, uint64_t counted_through,
           std::function<void(const shm::Message&)> handle, std::function<bool()> go_on);

  // A message of Space::kHostLate. kCorrupt, here and below: what came late breaks the format.
  Status Take(shm::Message message);
  // One that there is nothing to do for but to release its span: a void, or handled by an earlier session.
  Status Pass(const shm::Message& message);
  // A marker that has to go through here, and does by TakeMarker().
  bool Wants(const shm::Record& record) const;
  Status TakeMarker(shm::Message message);
  // A step begins, perhaps once more: what another of its number lacked is not its own.
  void Begin(const shm::Record& started);
  // Hands on what may go. How many were handed on or given up.
  Result<uint64_t> Poll();
  // Nobody waits any more: hands on what is ready, until `until_ns` or after a violation nothing, gives up the rest.
  void Finish(uint64_t until_ns);
  // All that the view has read has gone through here: with nothing waiting, all of it is released.
  void CatchUp();

  size_t waiting() const { return entries_.size(); }
  uint64_t handled() const { return handled_; }  // handed on, or given up
  uint64_t unready() const { return unready_; }  // given up in the end
  uint64_t crowded() const { return crowded_; }  // given up for want of room
  uint64_t head() const { return head_; }        // late bytes before this position are released
  uint64_t first_seq() const;                    // of what waits; the greatest there is: nothing does

 private:
  struct Entry {
    shm::Message message;
    uint64_t end = 0;  // late bytes before it are through when this is and all before this are
    uint64_t since_ns = 0;
    Entry* next = nullptr;  // of its slot
    bool behind = false;    // another of its slot
    bool is_marker() const { return message.record.type == static_cast<uint8_t>(RecordType::kMarker); }
  };
  using Entries = std::list<Entry>;
  // What the graph merges in the order it is given: root, tag, kind, module, parameter, pass.
  using Slot = std::tuple<uint8_t, uint8_t, uint8_t, uint32_t, uint32_t, uint32_t>;
  static Slot SlotOf(const shm::Record& r) { return {r.root, r.tag, r.kind, r.module, r.param, r.pass}; }
  struct Lack {
    uint8_t root, tag, kind;
    bool has_step;  // or else it is that of the marker that names the pass
    uint32_t pass;
    uint64_t step;
    uint32_t ends = 0;  // of steps of its root and tag, since
    bool operator==(const Lack&) const = default;
  };
  struct Root {
    // How many of it wait.
    size_t messages = 0;
    size_t markers = 0;
    size_t ends = 0;  // of steps, among the markers
    // Kinds of lacks that were too many, and how many of its steps have ended since.
    uint64_t lacked_kinds = 0;
    uint32_t lacked_ends = 0;
  };
  Root& RootOf(const shm::Record& record) { return roots_[record.root]; }
  Result<bool> IsReady(shm::Message& message);
  Result<uint64_t> EndOf(const shm::PayloadRef& ref);
  void Release(uint64_t end);
  void Enlist(Entry entry);
  Entries Delist(Entries::iterator at);
  void Handle(shm::Message& message);
  void HandOn(Entries::iterator at);
  void GiveUp(Entries::iterator at, uint64_t& count);
  Status End(Entries::iterator at);
  Status Shorten();
  void AddLack(const shm::Record& record);
  void TellLacks(shm::Record& marker);

  // Constant after construction.
  shm::PubView& view_;
  const uint64_t unready_ns_;
  const uint64_t counted_through_;
  const std::function<void(const shm::Message&)> handle_;
  const std::function<bool()> go_on_;

  Entries entries_;                      // what waits, in ring order
  std::map<Slot, Entry*> last_of_slot_;  // of the messages among them
  std::array<Root, kMaxRoots + 1> roots_{};
  std::vector<Lack> lacks_;  // the oldest first
  uint64_t head_;
  uint64_t looked_ns_ = 0;  // last through all
  bool broken_ = false;     // by a violation: nothing is read any more
  uint64_t handled_ = 0;
  uint64_t unready_ = 0;
  uint64_t crowded_ = 0;
};

}  // namespace ikkuna::ingest
