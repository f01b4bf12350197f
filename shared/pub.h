// PUB from both sides: PubWriter is the probe's, PubView is the daemon's.
//
// PubWriter: Reserve may be called from any training thread; the registry from any thread under its own mutex.
// In a forked child everything is inert: nothing is published, counted or touched. PubView: one thread (the producer's
// ingest thread). Everything it returns has been copied and validated; nothing in the peer's memory is read twice for
// one decision.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "shared/base/result.h"
#include "shared/layout.h"
#include "shared/segment.h"

namespace ikkuna::shm {

// Steps that a process made of all its roots; those before a root's start_step are another's.
uint64_t StepsMade(const PubStatus& status);

struct PubSizes {
  uint32_t ring_slots = kDefaultRingSlots;    // a power of two
  uint64_t arena_bytes = kDefaultArenaBytes;  // address space; backed by BackArena()
  uint64_t registry_bytes = kDefaultRegistryBytes;
  uint64_t late_bytes = 0;      // ring of late bytes, backed at once, as far as BackArena() would; 0: none
  uint64_t first_position = 0;  // tests: positions start here (page-multiple), as after a long run
};

// `second` of an entry: a command line, a CUDA IPC handle (64 bytes), the text of a note.
constexpr size_t kMaxSecondBytes = 4096;
// Entries of one producer, superseded ones included: four times what the limits on ids allow.
constexpr uint64_t kMaxRegistryEntries = 4ull * (kMaxModules + kMaxParams);

// One entry as the writer gives it and the reader returns it.
struct RegistryEntry {
  EntryType type = EntryType::kInvalid;
  uint16_t root = 0;
  uint32_t id = 0;
  uint32_t parent = 0;
  uint64_t value = 0;
  uint32_t flags = 0;
  DType dtype = DType::kInvalid;
  std::vector<int64_t> sizes;
  std::vector<int64_t> offsets;  // of a shard, which has these in place of `second`: one for each of its sizes
  std::string name;
  std::string second;
};

// Where the daemon's heads are: the probe reads them out of CTL through this, so that PubWriter knows no session.
struct Heads {
  uint64_t ring_head = 0;
  uint64_t arena_head = 0;
  std::optional<uint64_t> late_head = 0;  // none: of a daemon that knows no late bytes
  bool operator==(const Heads&) const = default;
};

class CtlView;
class PubWriter;

// Bytes of a record that is published before they are there (Space::kHostLate). Whoever writes them, a device or any
// thread, at any time, says so once, by SetReady() or by storing `seq()` into `word()` with release; until then the
// bytes are not used again. A span that is neither said to be ready nor given up takes its room for ever. It ends
// before its writer.
class LateSpan {
 public:
  LateSpan() = default;
  unsigned char* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }
  uint64_t seq() const { return seq_; }  // of its record
  uint64_t* word() const { return reinterpret_cast<uint64_t*>(data_ - sizeof(LateSpanHeader)); }
  inline void SetReady() const noexcept;
  // Nobody writes there any more, and nothing will be ready: its room is used again when the daemon has given it up.
  inline void GiveUp() const noexcept;

 private:
  friend class Reservation;
  LateSpan(const PubWriter& writer, unsigned char* data, uint64_t bytes, uint64_t seq)
      : writer_(&writer), data_(data), bytes_(bytes), seq_(seq) {}

  const PubWriter* writer_ = nullptr;
  unsigned char* data_ = nullptr;
  uint64_t bytes_ = 0;
  uint64_t seq_ = 0;
};

// One message under way: a slot of the ring, and bytes where it has a payload, between Reserve and Commit. One that
// ends uncommitted (an exception came between, or what was to be written cannot be) is committed as a void record,
// which the daemon passes over and counts: no way out leaves a hole that it waits at. One at a time a thread and
// writer; it ends on the thread that reserved it, soon, since everything behind it waits, and before its writer.
class Reservation {
 public:
  Reservation() = default;  // of a message that was dropped, and counted
  Reservation(Reservation&& other) noexcept : Reservation(std::as_const(other)) { other.record_ = nullptr; }
  Reservation& operator=(Reservation&& other) noexcept {
    if (this != &other) {
      Abandon();
      *this = std::as_const(other);
      other.record_ = nullptr;
    }
    return *this;
  }
  ~Reservation() { Abandon(); }

  explicit operator bool() const { return record_ != nullptr; }
  // Its `dropped_total` and, for a payload, its PayloadRef are filled in; the caller writes all other fields but `seq`.
  Record& record() const { return *record_; }
  unsigned char* payload() const { return payload_; }  // null without bytes
  // Of kHostLate: the span, for whoever writes it, which from here on is asked for its word whatever becomes of the
  // record. An empty one of any other, and of what was dropped.
  LateSpan TakeLate() noexcept {
    if (record_ == nullptr || space_ != Space::kHostLate) return {};
    late_taken_ = true;
    return LateSpan(*writer_, payload_, place_.bytes, position_ + 1);
  }
  uint64_t position() const { return position_; }  // of the slot, in the ring
  // Publishes it: stores `seq` last, with release (pairs with PubView::Next). Nothing where there is nothing to
  // publish.
  inline void Commit() noexcept;

 private:
  friend class PubWriter;
  Reservation(const Reservation&) = default;
  Reservation& operator=(const Reservation&) = default;
  inline void Abandon() noexcept;

  PubWriter* writer_ = nullptr;
  Record* record_ = nullptr;
  unsigned char* payload_ = nullptr;
  uint64_t position_ = 0;
  PayloadRef place_{};  // as the void record names it, whatever the caller made of the record
  Space space_ = Space::kInline;
  bool late_taken_ = false;
};

class PubWriter {
 public:
  static Result<std::unique_ptr<PubWriter>> Create(const PubSizes& sizes);
  ~PubWriter();
  PubWriter(const PubWriter&) = delete;
  PubWriter& operator=(const PubWriter&) = delete;

  // --- Registry. Names are written as EncodeEntry says. What its last bytes are kept for is notes: that it is full can
  // still be said in it.
  enum class Appended {
    kDone,
    kRefused,   // full, or the entry can never be valid: counted, and the thing has id 0
    kUnbacked,  // needs BackRegistry() first; nothing is counted
  };
  // Makes no system call.
  Appended TryAppend(const RegistryEntry& entry) noexcept;
  // Gives the registry its next pages, without a lock; false: there are none to be had. The service thread does so ahead
  // of use (RegistryRunsShort()), others only when they are ahead of it.
  bool BackRegistry() noexcept;
  bool RegistryRunsShort() const noexcept;
  // Both: true when the entry is published.
  bool Append(const RegistryEntry& entry) noexcept;

  // --- Arena backing (service thread): fallocate + MADV_POPULATE_WRITE of up to `bytes`, but at most 1/8 of the memory
  // that machine and cgroup have left, then publishes the extent. Called once (later calls only return what there is);
  // returns the usable extent (0: none could be backed; tensors then drop as arena_full).
  uint64_t BackArena(uint64_t bytes) noexcept;
  uint64_t arena_extent() const { return arena_extent_.load(std::memory_order_acquire); }

  // --- Publishing (training threads).
  // Takes one slot and contiguous 64-byte aligned bytes of the arena (Space::kHostArena) or of the ring of late bytes
  // (kHostLate: 1 at least, and only for a daemon that knows them); in other spaces `bytes` is 0.
  // Counts `attempted` first. Never waits: bounded spin on the private lock, then drops as contended.
  Reservation Reserve(Space space, uint64_t bytes) noexcept;
  // A message that fails before it could reserve: counts attempted and the reason.
  void CountDrop(DropReason reason) noexcept;

  // --- Heads of the daemon (service thread; these may wait for a training thread to leave Reserve).
  // Where Reserve looks when its copy of the heads shows no room; null when the session ends. Threads look only under
  // the reservation lock, which this takes: when it returns, none uses the source before, and its mapping may end.
  void SetHeadSource(std::shared_ptr<const CtlView> source) noexcept;
  // Accepts new heads of the daemon if old <= new <= tail; false: a lie, nothing changed.
  bool AcceptHeads(const Heads& heads) noexcept;
  // The source showed heads that break the rule above, which were ignored. Cleared by SetHeadSource().
  bool peer_lied() const noexcept;

  // The clock pair of the status, under its generation (service thread).
  void WriteClock() noexcept;
  // False in a forked child.
  bool in_owner() const noexcept;

  PubStatus& status();
  const PubHeader& header() const;
  int fd() const;
  Segment& segment();
  Heads heads() const;  // last accepted; service thread

 private:
  friend class Reservation;
  struct State;
  explicit PubWriter(std::unique_ptr<State> state);
  void Drop(DropReason reason) noexcept;
  void Commit(Record& record, uint64_t position) noexcept;
  void CommitVoid(Record& record, uint64_t position, const PayloadRef& place, Space space) noexcept;
  std::unique_ptr<State> state_;
  std::atomic<uint64_t> arena_extent_{0};
};

inline void Reservation::Commit() noexcept {
  if (record_ != nullptr) writer_->Commit(*std::exchange(record_, nullptr), position_);
}

inline void Reservation::Abandon() noexcept {
  if (record_ == nullptr) return;
  if (space_ == Space::kHostLate && !late_taken_) TakeLate().SetReady();  // nobody else will
  writer_->CommitVoid(*std::exchange(record_, nullptr), position_, place_, space_);
}

inline void LateSpan::SetReady() const noexcept {
  if (data_ != nullptr && writer_->in_owner())
    StoreRelease(*word(), seq_);  // pairs with PubView::ReadLate and LateRing::Place
}

inline void LateSpan::GiveUp() const noexcept {
  if (data_ != nullptr && writer_->in_owner()) {
    StoreRelease(reinterpret_cast<LateSpanHeader*>(data_ - sizeof(LateSpanHeader))->given_up, seq_);  // LateRing::Place
  }
}

// A validated message: `record` is the private copy; payload points into the mapping (valid until Release).
struct Message {
  Record record{};
  const unsigned char* payload = nullptr;  // kHostArena only
  uint64_t payload_bytes = 0;
};
// Its bytes come late, and ReadLate() tells when; a void one has none.
inline bool IsLate(const Message& message) { return message.record.space == static_cast<uint8_t>(Space::kHostLate); }

struct StatusSnapshot {
  PubStatus status{};  // private copy
  uint64_t dropped_total = 0;
};

class PubView {
 public:
  // Takes the peer's fd: maps it, copies and validates the header. Errors: kCorrupt with what is wrong.
  static Result<std::unique_ptr<PubView>> Open(UniqueFd fd);

  const PubHeader& header() const { return header_; }  // private copy
  bool future_write_sealed() const;

  // Sets where to go on (a HELLO's last heads or the store's), always before the first Next. kCorrupt if no daemon can
  // have stood there: ring_head <= reserved <= ring_head + slots, arena_head <= arena_tail, late_head <= late_tail.
  // When nothing is left to read, arena_position() and late_position() are the tails: bytes that a daemon before this
  // one never released are free.
  Status StartAt(const Heads& heads);

  // New registry entries since the last call, validated. kCorrupt: quarantine. Called after Next() it has every entry
  // that the message names: an id it does not know then is a violation.
  Result<std::vector<RegistryEntry>> ReadRegistry();
  uint64_t registry_read() const { return registry_read_; }

  // The next committed message, nothing, or kCorrupt (quarantine: code, product, position or range is wrong).
  // Advances the private read position; ring_position()/arena_position() afterwards are what may be freed. When there
  // is nothing left to read, arena_position() and late_position() move to the tails. Of a device payload only the form
  // is checked: what its pool and event are is the payload source's to know.
  Result<std::optional<Message>> Next();
  // Of a message of Space::kHostLate that Next() returned: whether its bytes are there. Then it is one like others: a
  // tensor's payload is within reach, numbers stand in the record and have been checked. kCorrupt: quarantine; the message
  // is as it was.
  Result<bool> ReadLate(Message& message) const;
  // After the producer's death only: skips the reserved slots before the next committed one (or the end) that were
  // never committed; returns how many.
  uint64_t SkipHole();

  // Ring position of the next message (everything below has been copied).
  uint64_t ring_position() const { return ring_position_; }
  // Arena position up to which bytes of returned messages reach; store it into CTL once they are no longer used.
  uint64_t arena_position() const { return arena_position_; }
  // The same of late bytes.
  uint64_t late_position() const { return late_position_; }
  uint64_t reserved() const;  // acquire load of the probe's tail
  // Messages reserved and not read; at most the ring's slots whatever the peer writes.
  uint64_t pending() const;

  // Copy of the counters; the clock pair is consistent or from the previous call. `attempted` is read last, so that at
  // any time dropped_total + reserved <= attempted for a producer that tells the truth.
  StatusSnapshot ReadStatus();
  // What the producer says of itself now. From any thread.
  uint32_t ReadState() const;

 private:
  PubView() = default;
  Status LoadRegistry();                            // new entries into pending_entries_
  Status AcceptExtent(const RegistryEntry& entry);  // the arena's usable bytes
  Status CheckTail();                               // reserved_seen_ = the probe's tail, if it may stand there
  Status LeaveEmpty();                              // arena_position_ when all that is reserved has been read
  Status ReadPayload(Message& message);
  Status PlaceLate(const PayloadRef& ref);
  const PubStatus& shared_status() const;

  // Constant after Open.
  Segment segment_;
  PubHeader header_{};
  // Read position.
  uint64_t ring_position_ = 0;
  uint64_t reserved_seen_ = 0;
  uint64_t arena_position_ = 0;
  uint64_t arena_extent_ = 0;
  uint64_t late_position_ = 0;
  // Registry.
  uint64_t registry_read_ = 0;
  uint64_t registry_offset_ = 0;
  std::vector<RegistryEntry> pending_entries_;  // read on behalf of Next(), not handed out yet
  StatusSnapshot last_status_{};
};

}  // namespace ikkuna::shm
