// PubWriter: the probe's side of PUB. Everything on the way of a training thread is free of system calls, allocation
// and exceptions, and waits for nothing beyond a bounded spin.
#include <sched.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

#include "shared/base/clock.h"
#include "shared/base/memory_limit.h"
#include "shared/base/round_up.h"
#include "shared/ctl.h"
#include "shared/late_ring.h"
#include "shared/pub.h"
#include "shared/publish_point.h"
#include "shared/registry.h"

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace ikkuna::shm {

namespace {

// What one thread commits and another later overwrites is ordered through the daemon: seq, then heads. The daemon's
// mapping has addresses of its own, so the thread sanitizer cannot see that order and is told of it.
inline void TellCommitted([[maybe_unused]] void* order) {
#if defined(__SANITIZE_THREAD__)
  __tsan_release(order);
#endif
}
inline void TellFreed([[maybe_unused]] void* order) {
#if defined(__SANITIZE_THREAD__)
  __tsan_acquire(order);
#endif
}

// Turns of the spin before a message is dropped as contended: some microseconds, two hundred uncontended holds.
constexpr int kSpinMax = 256;
// Share of the memory left that the arena may take, and the ring of late bytes, as a divisor.
constexpr uint64_t kArenaShare = 8;
// The registry gets its pages in steps of this size, so that few appends make a system call.
constexpr uint64_t kRegistryBackStep = 256 << 10;
// So much is kept backed ahead of what is used: a few hundred names.
constexpr uint64_t kRegistryAhead = 64 << 10;
// Share of the registry, as a divisor, that only notes and extents may take.
constexpr uint64_t kNotesShare = 64;

// The writer that this thread is between Reserve and Commit of.
constinit thread_local const PubWriter* publishing = nullptr;

inline void Pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// A random UUID (version 4).
Status FillUuid(unsigned char (&uuid)[16]) {
  if (getrandom(uuid, sizeof(uuid), 0) != sizeof(uuid)) return PosixError("cannot draw a producer uuid", errno);
  uuid[6] = (uuid[6] & 0x0f) | 0x40;
  uuid[8] = (uuid[8] & 0x3f) | 0x80;
  return {};
}

Status CheckSizes(const PubSizes& sizes, uint64_t page) {
  if (!std::has_single_bit(sizes.ring_slots) || sizes.ring_slots > kMaxRingSlots) {
    return Error{ErrorCode::kInvalidArgument, "ring of " + std::to_string(sizes.ring_slots) +
                                                  " slots: must be a power of two up to " +
                                                  std::to_string(kMaxRingSlots)};
  }
  if (sizes.arena_bytes > kMaxArenaBytes || sizes.registry_bytes > kMaxRegistryBytes || sizes.registry_bytes == 0) {
    return Error{ErrorCode::kInvalidArgument, "arena of " + std::to_string(sizes.arena_bytes) + " and registry of " +
                                                  std::to_string(sizes.registry_bytes) + " bytes: outside the limits"};
  }
  if (sizes.late_bytes > kMaxLateBytes) {
    return Error{ErrorCode::kInvalidArgument,
                 "ring of " + std::to_string(sizes.late_bytes) + " late bytes: outside the limits"};
  }
  if (sizes.first_position % page != 0) {
    return Error{ErrorCode::kInvalidArgument, "first position is not a multiple of the page size"};
  }
  return {};
}

PubHeader PlanHeader(const PubSizes& sizes, uint64_t late_bytes, uint64_t page) {
  PubHeader header{};
  header.magic = kPubMagic;
  header.abi_major = kAbiMajor;
  header.abi_minor = kAbiMinor;
  header.header_bytes = sizeof(PubHeader);
  header.feature_bits = kFeatureArena | kFeatureCommands | (late_bytes > 0 ? kFeatureLateBytes : uint64_t{0});
  header.record_bytes = kRecordBytes;
  header.stats_bytes = sizeof(TensorStats);
  header.ring_slots = sizes.ring_slots;
  header.status_offset = RoundUp(sizeof(PubHeader), kCacheLine);
  header.status_bytes = sizeof(PubStatus);
  // Each on pages of its own: they get their memory at different times.
  header.registry_offset = RoundUp(header.status_offset + header.status_bytes, page);
  header.registry_bytes = RoundUp(sizes.registry_bytes, page);
  header.ring_offset = header.registry_offset + header.registry_bytes;
  header.arena_offset = RoundUp(header.ring_offset + uint64_t{sizes.ring_slots} * kRecordBytes, page);
  header.arena_bytes = RoundUp(sizes.arena_bytes, page);
  header.late_bytes = late_bytes;
  header.late_offset = header.late_bytes > 0 ? header.arena_offset + header.arena_bytes : 0;
  header.total_bytes = header.arena_offset + header.arena_bytes + header.late_bytes;
  header.pid = static_cast<uint32_t>(getpid());
  header.start_monotonic_ns = MonotonicNs();
  header.start_unix_ns = UnixNs();
  return header;
}

}  // namespace

struct PubWriter::State {
  // Constant after construction.
  Segment segment;
  PubHeader header{};  // private copy: header() holds in a forked child too
  PubStatus* status = nullptr;
  unsigned char* ring = nullptr;
  unsigned char* arena = nullptr;
  uint64_t slots = 0;
  uint64_t first_position = 0;
  PubStatus child_status{};  // what status() is in a forked child, where the shared one is out of reach

  // Reservation lock and what it guards. Private to this process, so a peer can neither take nor break it.
  alignas(kCacheLine) std::atomic<uint32_t> lock{0};
  uint64_t reserved = 0;
  uint64_t arena_tail = 0;
  LateRing late;
  Heads heads;
  std::shared_ptr<const CtlView> source;

  // Written by any thread that drops; read into each record.
  alignas(kCacheLine) std::atomic<uint64_t> dropped_total{0};
  std::atomic<bool> peer_lied{false};

  // Guards the words of the registry. Held for no system call: a training thread may wait for it.
  std::mutex registry_mutex;
  std::atomic<uint64_t> registry_backed{0};  // raised under registry_mutex

  bool BackNext() noexcept;  // false: no page was to be had
  bool TryLock() noexcept;
  void LockWaiting() noexcept;
  void Unlock() noexcept { lock.store(0, std::memory_order_release); }  // pairs with the acquire in TryLock

  bool MayAccept(const Heads& now) const noexcept;
  void Accept(const Heads& now) noexcept;
  void RefreshHeads() noexcept;
  Record* Slot(uint64_t position) const noexcept {
    return reinterpret_cast<Record*>(ring + (position & (slots - 1)) * kRecordBytes);
  }
  bool RingHasRoom() const noexcept { return reserved - heads.ring_head < slots && reserved != kEndOfPositions; }
  bool SlotIsFree() const noexcept;
  bool PlaceBytes(Space space, uint64_t bytes, uint64_t extent, uint64_t& position) noexcept;
};

bool PubWriter::State::TryLock() noexcept {
  for (int turn = 0; turn < kSpinMax; ++turn) {
    if (lock.load(std::memory_order_relaxed) == 0 && lock.exchange(1, std::memory_order_acquire) == 0) return true;
    Pause();
  }
  return false;
}

void PubWriter::State::LockWaiting() noexcept {
  while (!TryLock()) sched_yield();
}

bool PubWriter::State::MayAccept(const Heads& now) const noexcept {
  return heads.ring_head <= now.ring_head && now.ring_head <= reserved && heads.arena_head <= now.arena_head &&
         now.arena_head <= arena_tail &&
         (!now.late_head || (*heads.late_head <= *now.late_head && *now.late_head <= late.tail()));
}

void PubWriter::State::Accept(const Heads& now) noexcept {
  heads = Heads{now.ring_head, now.arena_head, now.late_head ? now.late_head : heads.late_head};
}

// Whether the position one lap before was committed. A daemon that frees what a thread of ours is still writing would
// otherwise have two threads in one slot. Acquire pairs with the release in Commit of that thread.
bool PubWriter::State::SlotIsFree() const noexcept {
  const uint64_t before = reserved - first_position < slots ? 0 : reserved - slots + 1;
  return LoadAcquire(Slot(reserved)->seq) == before;
}

void PubWriter::State::RefreshHeads() noexcept {
  if (!source) return;
  TellFreed(&heads);
  const Heads now = source->heads();
  if (MayAccept(now)) {
    Accept(now);
  } else {
    peer_lied.store(true, std::memory_order_relaxed);
  }
}

bool PubWriter::State::PlaceBytes(Space space, uint64_t bytes, uint64_t extent, uint64_t& position) noexcept {
  if (bytes == 0) return true;
  if (space == Space::kHostLate) return late.Place(bytes, *heads.late_head, position);
  return PlaceInRing(heads.arena_head, arena_tail, extent, bytes, position);
}

Result<std::unique_ptr<PubWriter>> PubWriter::Create(const PubSizes& sizes) {
  const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  if (auto checked = CheckSizes(sizes, page); !checked) return checked.error();
  uint64_t late_bytes = RoundUp(sizes.late_bytes, page);
  if (late_bytes > 0) late_bytes = std::min(late_bytes, MemoryLeft() / kArenaShare / page * page);
  PubHeader header = PlanHeader(sizes, late_bytes, page);
  if (auto filled = FillUuid(header.uuid); !filled) return filled.error();

  auto segment = Segment::Create("ikkuna-pub", header.total_bytes);
  if (!segment) return segment.error();
  auto state = std::make_unique<State>();
  state->segment = std::move(segment).value();
  Segment& own = state->segment;
  own.DontFork();
  const uint64_t registry_backed = std::min(kRegistryBackStep, header.registry_bytes);
  const uint64_t front = header.registry_offset + registry_backed;
  const uint64_t ring_bytes = header.arena_offset - header.ring_offset;
  if (own.Back(0, front) != front || own.Back(header.ring_offset, ring_bytes) != ring_bytes) {
    return Error{ErrorCode::kResourceExhausted,
                 "not enough memory for a ring of " + std::to_string(sizes.ring_slots) + " records"};
  }
  // What comes late does without where there is no memory for it: it drops as arena_full.
  header.late_bytes = own.Back(header.late_offset, header.late_bytes) / page * page;
  if (header.late_bytes == 0) header.feature_bits &= ~uint64_t{kFeatureLateBytes};
  std::memcpy(own.data(), &header, sizeof(header));
  state->header = header;
  state->status = new (own.data() + header.status_offset) PubStatus{};
  state->ring = own.data() + header.ring_offset;
  state->arena = own.data() + header.arena_offset;
  state->slots = header.ring_slots;
  state->first_position = sizes.first_position;
  state->registry_backed.store(registry_backed, std::memory_order_relaxed);
  state->reserved = state->arena_tail = sizes.first_position;
  const uint64_t first_late = header.late_bytes > 0 ? sizes.first_position : 0;
  state->late = LateRing(own.data() + header.late_offset, header.late_bytes, first_late);
  state->heads = Heads{sizes.first_position, sizes.first_position, first_late};
  StoreRelaxed(state->status->reserved, sizes.first_position);
  StoreRelaxed(state->status->arena_tail, sizes.first_position);
  StoreRelaxed(state->status->late_tail, first_late);
  StoreRelaxed(state->status->state, static_cast<uint32_t>(ProducerState::kRunning));
  std::unique_ptr<PubWriter> writer(new PubWriter(std::move(state)));
  writer->WriteClock();
  writer->state_->header.ready = 1;
  StoreRelease(reinterpret_cast<PubHeader*>(writer->state_->segment.data())->ready, 1);  // pairs with PubView::Open
  return writer;
}

PubWriter::PubWriter(std::unique_ptr<State> state) : state_(std::move(state)) {}

PubWriter::~PubWriter() {
  // A reservation left open must not meet a later writer at the same address.
  if (publishing == this) publishing = nullptr;
}

PubWriter::Appended PubWriter::TryAppend(const RegistryEntry& entry) noexcept try {
  State& s = *state_;
  if (!s.segment.in_owner()) return Appended::kRefused;
  const std::vector<unsigned char> bytes = EncodeEntry(entry);
  const bool said = entry.type == EntryType::kNote || entry.type == EntryType::kArenaExtent;
  const uint64_t room = s.header.registry_bytes - (said ? 0 : s.header.registry_bytes / kNotesShare);
  std::lock_guard hold(s.registry_mutex);
  PubStatus& status = *s.status;
  const uint64_t used = LoadRelaxed(status.registry_used_bytes);  // own word, under the mutex
  const uint64_t count = LoadRelaxed(status.registry_count);
  const uint64_t end = used + bytes.size();
  if (!bytes.empty() && count < kMaxRegistryEntries && end <= room) {
    if (end > s.registry_backed.load(std::memory_order_relaxed)) return Appended::kUnbacked;
    std::memcpy(s.segment.data() + s.header.registry_offset + used, bytes.data(), bytes.size());
    StoreRelaxed(status.registry_used_bytes, end);   // ordered by the store of the count
    StoreRelease(status.registry_count, count + 1);  // pairs with PubView::LoadRegistry
    return Appended::kDone;
  }
  AddRelaxed(status.registry_rejected, 1);
  return Appended::kRefused;
} catch (...) {
  // Out of memory while encoding: as good as a full registry.
  AddRelaxed(state_->status->registry_rejected, 1);
  return Appended::kRefused;
}

// Two threads that do it at once give the same pages twice, which is once.
bool PubWriter::State::BackNext() noexcept {
  const uint64_t backed = registry_backed.load(std::memory_order_relaxed);
  const uint64_t step = std::min(kRegistryBackStep, header.registry_bytes - backed);
  if (step == 0) return false;
  const uint64_t end = backed + segment.Back(header.registry_offset + backed, step);
  std::lock_guard hold(registry_mutex);
  if (end > registry_backed.load(std::memory_order_relaxed)) registry_backed.store(end, std::memory_order_relaxed);
  return registry_backed.load(std::memory_order_relaxed) > backed;
}

bool PubWriter::BackRegistry() noexcept { return in_owner() && state_->BackNext(); }

bool PubWriter::RegistryRunsShort() const noexcept {
  if (!in_owner()) return false;
  const uint64_t backed = state_->registry_backed.load(std::memory_order_relaxed);
  return backed < state_->header.registry_bytes &&
         backed - LoadRelaxed(state_->status->registry_used_bytes) < kRegistryAhead;
}

bool PubWriter::Append(const RegistryEntry& entry) noexcept {
  for (;;) {
    const Appended appended = TryAppend(entry);
    if (appended != Appended::kUnbacked) return appended == Appended::kDone;
    if (state_->BackNext()) continue;
    AddRelaxed(state_->status->registry_rejected, 1);  // out of memory
    return false;
  }
}

uint64_t PubWriter::BackArena(uint64_t bytes) noexcept try {
  State& s = *state_;
  if (!s.segment.in_owner()) return 0;
  if (arena_extent() != 0) return arena_extent();
  const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  const uint64_t wanted = std::min({bytes, s.header.arena_bytes, MemoryLeft() / kArenaShare}) / page * page;
  const uint64_t extent = s.segment.Back(s.header.arena_offset, wanted) / page * page;
  if (extent == 0) return 0;
  RegistryEntry entry;
  entry.type = EntryType::kArenaExtent;
  entry.id = 1;
  entry.value = extent;
  if (!Append(entry)) return 0;
  arena_extent_.store(extent, std::memory_order_release);  // pairs with arena_extent(); the entry is published before
  return extent;
} catch (...) {
  return 0;
}

Reservation PubWriter::Reserve(Space space, uint64_t bytes) noexcept {
  State& s = *state_;
  if (!s.segment.in_owner()) return {};
  AddRelaxed(s.status->attempted, 1);
  IKKUNA_PUBLISH_POINT(Entered);
  if (publishing == this) {
    Drop(DropReason::kReentrant);
    return {};
  }
  const bool in_arena = space == Space::kHostArena && bytes > 0;
  const bool in_late = space == Space::kHostLate && bytes > 0;
  const uint64_t extent = in_arena ? arena_extent() : in_late ? s.late.bytes_max() : 0;
  if (bytes > extent) {
    Drop((in_arena || in_late) && extent == 0 ? DropReason::kArenaFull : DropReason::kOversize);
    return {};
  }
  if (!s.TryLock()) {
    Drop(DropReason::kContended);
    return {};
  }
  // Room by the heads as last seen, else by the heads as they are now.
  uint64_t payload_position = 0;
  bool ring_room = s.RingHasRoom();
  bool room = s.PlaceBytes(space, bytes, extent, payload_position);
  if (!ring_room || !room) {
    s.RefreshHeads();
    ring_room = s.RingHasRoom();
    room = s.PlaceBytes(space, bytes, extent, payload_position);
    if (!ring_room || !room) {
      s.Unlock();
      Drop(ring_room ? DropReason::kArenaFull : DropReason::kRingFull);
      return {};
    }
  }
  if (!s.SlotIsFree()) {
    s.peer_lied.store(true, std::memory_order_relaxed);
    s.Unlock();
    Drop(DropReason::kRingFull);
    return {};
  }
  const uint64_t position = s.reserved++;
  // Under the lock, as the position is: of two records the later never shows fewer drops, and the drops between them
  // are the difference. Relaxed: a count, orders nothing.
  const uint64_t dropped_total = s.dropped_total.load(std::memory_order_relaxed);
  // `reserved` before the tail of bytes: whoever sees the new tail sees the reservation it belongs to
  // (PubView::LeaveEmpty).
  StoreRelease(s.status->reserved, s.reserved);
  IKKUNA_PUBLISH_POINT(Reserved);
  if (in_arena) {
    s.arena_tail = payload_position + RoundUp(bytes, kPayloadAlign);
    StoreRelease(s.status->arena_tail, s.arena_tail);
    IKKUNA_PUBLISH_POINT(Placed);
  } else if (in_late) {
    s.late.Take(payload_position, bytes, position + 1);
    StoreRelease(s.status->late_tail, s.late.tail());
    IKKUNA_PUBLISH_POINT(Placed);
  }
  s.Unlock();

  publishing = this;
  Reservation reservation;
  reservation.writer_ = this;
  reservation.position_ = position;
  reservation.record_ = s.Slot(position);
  reservation.record_->dropped_total = dropped_total;
  reservation.place_ = PayloadRef{payload_position, bytes, 0, 0};
  reservation.record_->payload = reservation.place_;
  if (in_arena) {
    reservation.payload_ = s.arena + payload_position % extent;
    reservation.space_ = space;
  } else if (in_late) {
    reservation.payload_ = s.late.at(payload_position) + sizeof(LateSpanHeader);
    reservation.space_ = space;
  }
  return reservation;
}

void PubWriter::Commit(Record& record, uint64_t position) noexcept {
  IKKUNA_PUBLISH_POINT(Written);
  TellCommitted(&state_->heads);
  StoreRelease(record.seq, position + 1);  // pairs with PubView::Next
  IKKUNA_PUBLISH_POINT(Committed);
  publishing = nullptr;
}

void PubWriter::CommitVoid(Record& record, uint64_t position, const PayloadRef& place, Space space) noexcept {
  const uint64_t dropped_total = record.dropped_total;
  std::memset(reinterpret_cast<unsigned char*>(&record) + sizeof record.seq, 0, sizeof record - sizeof record.seq);
  record.dropped_total = dropped_total;
  record.type = static_cast<uint8_t>(RecordType::kVoid);
  record.space = static_cast<uint8_t>(space);
  record.payload = place;
  Commit(record, position);
}

void PubWriter::Drop(DropReason reason) noexcept {
  State& s = *state_;
  s.dropped_total.fetch_add(1, std::memory_order_relaxed);
  // Release, so that a reader who sees this drop sees its attempt too (PubView::ReadStatus).
  std::atomic_ref<uint64_t>(s.status->dropped[static_cast<size_t>(reason)]).fetch_add(1, std::memory_order_release);
  IKKUNA_PUBLISH_POINT(Dropped);
}

void PubWriter::CountDrop(DropReason reason) noexcept {
  if (!in_owner()) return;
  AddRelaxed(state_->status->attempted, 1);
  IKKUNA_PUBLISH_POINT(Entered);
  Drop(reason);
}

void PubWriter::SetHeadSource(std::shared_ptr<const CtlView> source) noexcept {
  if (!in_owner()) return;
  state_->LockWaiting();
  state_->source.swap(source);
  state_->peer_lied.store(false, std::memory_order_relaxed);
  state_->Unlock();
  // The source before ends here, outside the lock: unmapping is a system call.
}

bool PubWriter::AcceptHeads(const Heads& heads) noexcept {
  if (!in_owner()) return false;
  state_->LockWaiting();
  TellFreed(&state_->heads);
  const bool accepted = state_->MayAccept(heads);
  if (accepted) state_->Accept(heads);
  state_->Unlock();
  return accepted;
}

bool PubWriter::peer_lied() const noexcept { return state_->peer_lied.load(std::memory_order_relaxed); }

void PubWriter::WriteClock() noexcept {
  if (!in_owner()) return;
  PubStatus& status = *state_->status;
  const uint64_t generation = LoadRelaxed(status.clock_generation);  // own word
  // Each store releases, so that a reader who sees a new clock sees the odd generation before it.
  StoreRelease(status.clock_generation, generation + 1);
  StoreRelease(status.clock_monotonic_ns, MonotonicNs());
  std::atomic_ref<int64_t>(status.clock_unix_ns).store(UnixNs(), std::memory_order_release);
  StoreRelease(status.clock_generation, generation + 2);
}

bool PubWriter::in_owner() const noexcept { return state_->segment.in_owner(); }

PubStatus& PubWriter::status() { return in_owner() ? *state_->status : state_->child_status; }

const PubHeader& PubWriter::header() const { return state_->header; }

int PubWriter::fd() const { return state_->segment.fd(); }

Segment& PubWriter::segment() { return state_->segment; }

Heads PubWriter::heads() const {
  if (!in_owner()) return {};
  state_->LockWaiting();
  const Heads heads = state_->heads;
  state_->Unlock();
  return heads;
}

}  // namespace ikkuna::shm
