// CTL from both sides: CtlWriter is the daemon's (one a session), CtlView is the probe's.
//
// CtlWriter: one thread (the producer's ingest thread), but Push of commands may come from another under its mutex.
// Neither is of use in a forked child of its process: heads are the zeros of an inert view, everything else empty.
// CtlView: any training thread for the heads and the generation; demand and commands from whoever holds the step
// boundary.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "shared/base/result.h"
#include "shared/layout.h"
#include "shared/pub.h"
#include "shared/segment.h"

namespace ikkuna::shm {

// One demand entry with its modules, as both sides hand it around.
struct DemandItem {
  uint64_t kinds = 0;
  uint32_t period = 1;
  uint16_t root = kAnyRoot;
  uint16_t tag = kTagDefault;
  Level level = Level::kSummary;
  bool all_modules = true;
  uint64_t moments = kAllMoments;  // Moment set, of statistics
  std::vector<uint64_t> modules;  // bitset words: bit m of word m / 64 is module id m; empty when all_modules
  bool operator==(const DemandItem&) const = default;
};

// What the daemon has given back of one device pool: bytes (absolute positions) and events (a count).
struct PoolHeads {
  uint64_t pool_head = 0;
  uint64_t event_head = 0;
  bool operator==(const PoolHeads&) const = default;
};

class CtlWriter {
 public:
  // `heads`: where ring and arena go on.
  static Result<std::unique_ptr<CtlWriter>> Create(uint64_t session_id, const Heads& heads, uint32_t budget_ppm);

  int fd() const;
  // At most kMaxDemandEntries (kResourceExhausted beyond). Odd generation, entries, even generation, all with release.
  Status SetDemand(const std::vector<DemandItem>& items, uint64_t registry_seen);
  void SetHeads(const Heads& heads);                            // release; pairs with CtlView::heads
  void SetPoolHeads(uint32_t pool_id, const PoolHeads& heads);  // 1..kMaxRoots; release; pairs with CtlView::pool_heads
  void SetCommitted(uint64_t seq);
  void Beat(uint64_t monotonic_ns);
  void SetBudget(uint32_t budget_ppm);
  // Returns the command's number. kResourceExhausted when kCommandSlots wait. `command_done` is PUB's word: a session's
  // first command goes on there; kCorrupt when it later claims commands that were never pushed.
  Result<uint64_t> Push(const Command& command, uint64_t command_done);

 private:
  CtlWriter() = default;
  CtlState& state();
  void WriteBitset(size_t index, const DemandItem& item);

  Segment segment_;
  std::array<size_t, kMaxDemandEntries> bitset_words_{};  // words that may not be 0, so that the rest stays sparse
  std::mutex mutex_;                                      // guards the two below
  uint64_t command_tail_ = 0;
  bool pushed_ = false;
};

class CtlView {
 public:
  // Takes the daemon's fd: maps it read-only, validates a private copy of the header.
  static Result<std::unique_ptr<CtlView>> Open(UniqueFd fd);

  uint64_t session_id() const;
  Heads heads() const;                           // acquire; untrusted until PubWriter::AcceptHeads
  PoolHeads pool_heads(uint32_t pool_id) const;  // acquire; untrusted as heads()
  uint64_t demand_generation() const;            // acquire; odd: being written
  uint64_t registry_seen() const;
  uint32_t budget_ppm() const;
  uint64_t heartbeat_ns() const;
  // Copies entries and the bitsets in use (module_count bits). nullopt: odd or moved meanwhile, or an invalid entry;
  // the caller keeps what it has. Never retries.
  std::optional<std::vector<DemandItem>> CopyDemand(size_t module_count) const;
  // The next command after `done`, if one is committed and valid in form; its number is `done + 1`.
  std::optional<Command> NextCommand(uint64_t done) const;
  // False in a forked child, where nothing of this may be touched.
  bool in_owner() const noexcept { return segment_.in_owner(); }

 private:
  CtlView() = default;
  const CtlState& state() const;
  std::optional<DemandItem> CopyItem(size_t index, size_t module_count) const;

  // Constant after Open.
  Segment segment_;
  CtlHeader header_{};
};

}  // namespace ikkuna::shm
