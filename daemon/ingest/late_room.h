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
//   given up: handled, under `unready`; the end of its step says that it lacks this kind
//
// Spans are released first in, first out; what was given up is, too, and the probe does not use it again before its
// word has come. Owner: Drain. Thread rule: the producer's ingest thread only.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <vector>

#include "shared/base/result.h"
#include "shared/pub.h"

namespace ikkuna::ingest {

class LateRoom {
 public:
  // Messages and markers. 2 MiB of records.
  static constexpr size_t kWaitingMax = 8192;
  // Ends of steps of one root: half of the steps that the graph keeps open.
  static constexpr size_t kStepsMax = 32;
  // Kinds of a step or pass of which something was given up, until its end comes.
  static constexpr size_t kLacksMax = 1024;

  // Up to `counted_through` (a seq) what was given up is counted already.
  LateRoom(shm::PubView& view, uint64_t unready_ns, uint64_t counted_through,
           std::function<void(const shm::Message&)> handle);

  // A message of Space::kHostLate. kCorrupt, here and below: what came late breaks the format.
  Status Take(shm::Message message);
  // One that there is nothing to do for but to release its span: a void, or handled by an earlier session.
  void Pass(const shm::Message& message);
  // A marker that has to go through here, and does by TakeMarker().
  bool Wants(const shm::Record& record) const;
  Status TakeMarker(shm::Message message);
  // Hands on what may go. How many were handed on or given up.
  Result<uint64_t> Poll();
  // Nobody waits any more: hands on what is ready, gives up the rest.
  void Finish();
  // All that the view has read has gone through here: with nothing waiting, all of it is released.
  void CatchUp();

  uint64_t handled() const { return handled_; }  // handed on, or given up
  uint64_t unready() const { return unready_; }  // given up
  uint64_t head() const { return head_; }        // late bytes before this position are released
  uint64_t first_seq() const;                    // of what waits; the greatest there is: nothing does

 private:
  struct Entry {
    shm::Message message;
    uint64_t end = 0;  // of its span; 0: a marker
    uint64_t since_ns = 0;
    bool done = false;
    bool is_marker() const { return end == 0; }
  };
  struct Lack {
    uint8_t root, tag, kind;
    bool has_step;  // or else it is that of the marker that names the pass
    uint32_t pass;
    uint64_t step;
    bool operator==(const Lack&) const = default;
  };
  // How many of a root wait.
  struct Root {
    size_t messages = 0;
    size_t markers = 0;
    size_t ends = 0;  // of steps, among the markers
  };
  Root& RootOf(const shm::Record& record) { return roots_[record.root]; }
  Result<uint64_t> Scan();
  Status End(Entry& entry);
  Status Shorten();
  void HandOn(Entry& entry);
  void GiveUp(Entry& entry);
  void AddLacks(shm::Record& marker);
  void Add(Entry entry);
  void DropDone();

  // Constant after construction.
  shm::PubView& view_;
  const uint64_t unready_ns_;
  const uint64_t counted_through_;
  const std::function<void(const shm::Message&)> handle_;

  std::deque<Entry> entries_;  // in ring order; the first waits
  std::array<Root, kMaxRoots + 1> roots_{};
  std::vector<Lack> lacks_;  // the oldest first
  uint64_t head_;
  uint64_t handled_ = 0;
  uint64_t unready_ = 0;
};

}  // namespace ikkuna::ingest
