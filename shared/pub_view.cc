// PubView: the daemon's side of PUB. Nothing read here is believed: words are copied once, checked, and the copy is
// used.
#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <iterator>
#include <limits>
#include <utility>

#include "shared/base/utf8.h"
#include "shared/pub.h"
#include "shared/record_check.h"
#include "shared/registry.h"

namespace ikkuna::shm {

namespace {

constexpr uint32_t kMaxHeaderBytes = 4096;  // bounds what later minor versions may add
constexpr uint32_t kMaxRecordBytes = 4096;
constexpr uint64_t kMaxStatusBytes = 1 << 20;
constexpr uint64_t kExtentAlign = 4096;  // smallest page size of any supported machine

Error CorruptPub(const std::string& what) { return Error{ErrorCode::kCorrupt, "the producer's " + what}; }

struct Region {
  uint64_t offset;
  uint64_t bytes;
};

// Each aligned and inside [0, total), none over another. The order is the writer's choice.
bool RegionsHold(std::array<Region, 6> regions, uint64_t total) {
  std::sort(regions.begin(), regions.end(), [](const Region& a, const Region& b) {
    return std::pair(a.offset, a.bytes) < std::pair(b.offset, b.bytes);
  });
  uint64_t end = 0;
  for (const Region& region : regions) {
    if (region.offset % kCacheLine != 0 || region.offset < end) return false;
    if (region.bytes > total || region.offset > total - region.bytes) return false;
    end = region.offset + region.bytes;
  }
  return true;
}

Status CheckHeader(const PubHeader& header, uint64_t mapped_bytes) {
  if (header.magic != kPubMagic) return CorruptPub("shared memory does not start with the magic of PUB");
  if (header.abi_major != kAbiMajor) {
    return CorruptPub("format has major version " + std::to_string(header.abi_major) + ", this daemon reads " +
                      std::to_string(kAbiMajor) + "; use a probe and a daemon of the same release");
  }
  if (header.ready != 1) return CorruptPub("header is not ready");
  if (header.header_bytes < kPubHeaderBytesMin || header.header_bytes > kMaxHeaderBytes)
    return CorruptPub("header size");
  if (header.total_bytes > mapped_bytes) return CorruptPub("header names more bytes than there are");
  if (header.record_bytes < kRecordBytes || header.record_bytes > kMaxRecordBytes ||
      header.record_bytes % kCacheLine != 0) {
    return CorruptPub("record size cannot be");
  }
  if (header.stats_bytes < sizeof(TensorStats) || header.stats_bytes > header.record_bytes - offsetof(Record, stats)) {
    return CorruptPub("statistics size cannot be");
  }
  if (!std::has_single_bit(header.ring_slots) || header.ring_slots > kMaxRingSlots) {
    return CorruptPub("ring has no power of two of slots within the limit");
  }
  if (header.status_bytes < sizeof(PubStatus) || header.status_bytes > kMaxStatusBytes)
    return CorruptPub("status size");
  if (header.registry_bytes > kMaxRegistryBytes) return CorruptPub("registry is beyond the limit");
  if (header.arena_bytes > kMaxArenaBytes) return CorruptPub("arena is beyond the limit");
  if (header.late_bytes > kMaxLateBytes || header.late_bytes % kExtentAlign != 0) {
    return CorruptPub("ring of late bytes cannot be");
  }
  const uint64_t ring_bytes = uint64_t{header.ring_slots} * header.record_bytes;
  if (!RegionsHold({{{0, header.header_bytes},
                     {header.status_offset, header.status_bytes},
                     {header.registry_offset, header.registry_bytes},
                     {header.ring_offset, ring_bytes},
                     {header.arena_offset, header.arena_bytes},
                     {header.late_offset, header.late_bytes}}},
                   header.total_bytes)) {
    return CorruptPub("regions are misaligned, overlap or leave the segment");
  }
  return {};
}

// Copies `size` bytes that a peer may change meanwhile; afterwards only the copy counts. The fence keeps the compiler
// from reading the source again instead of the copy.
void CopyOnce(void* to, const void* from_untrusted, size_t size) {
  std::memcpy(to, from_untrusted, size);
  std::atomic_signal_fence(std::memory_order_seq_cst);
}

}  // namespace

Result<std::unique_ptr<PubView>> PubView::Open(UniqueFd fd) {
  constexpr size_t kMaxBytes = kMaxArenaBytes + kMaxLateBytes + kMaxRegistryBytes + kMaxStatusBytes +
                               uint64_t{kMaxRingSlots} * kMaxRecordBytes + (1 << 20);
  auto segment = Segment::MapUntrusted(std::move(fd), sizeof(PubHeader) + sizeof(PubStatus), kMaxBytes);
  if (!segment) return segment.error();
  std::unique_ptr<PubView> view(new PubView);
  view->segment_ = std::move(segment).value();
  const auto* shared = reinterpret_cast<const PubHeader*>(view->segment_.data());
  const uint32_t ready = LoadAcquire(shared->ready);  // pairs with PubWriter::Create
  CopyOnce(&view->header_, shared, sizeof(PubHeader));
  view->header_.ready = ready;
  if (view->header_.header_bytes < sizeof(PubHeader)) view->header_.late_offset = view->header_.late_bytes = 0;
  const PubHeader& header = view->header_;
  if (auto checked = CheckHeader(header, view->segment_.bytes()); !checked) return checked.error();
  const auto backed = view->segment_.BackedBytes(header.late_offset, header.late_bytes);  // as in AcceptExtent()
  if (backed && *backed < header.late_bytes) return CorruptPub("late bytes have no memory behind them");
  return view;
}

bool PubView::future_write_sealed() const { return segment_.future_write_sealed(); }

const PubStatus& PubView::shared_status() const {
  return *reinterpret_cast<const PubStatus*>(segment_.data() + header_.status_offset);
}

uint64_t PubView::reserved() const { return LoadAcquire(shared_status().reserved); }

uint64_t PubView::pending() const {
  const uint64_t tail = reserved();
  return tail > ring_position_ ? std::min<uint64_t>(tail - ring_position_, header_.ring_slots) : 0;
}

Status PubView::StartAt(const Heads& heads) {
  const uint64_t arena_tail = LoadAcquire(shared_status().arena_tail);
  const uint64_t tail = reserved();
  if (heads.ring_head > tail || tail - heads.ring_head > header_.ring_slots) {
    return CorruptPub("ring cannot be at " + std::to_string(heads.ring_head) + ": its tail is at " +
                      std::to_string(tail));
  }
  if (heads.arena_head > arena_tail) {
    return CorruptPub("arena cannot be at " + std::to_string(heads.arena_head) + ": its tail is at " +
                      std::to_string(arena_tail));
  }
  if (header_.late_bytes > 0) {
    const uint64_t late_tail = LoadAcquire(shared_status().late_tail);
    late_position_ = heads.late_head.value_or(0);
    if (late_position_ > late_tail) {
      return CorruptPub("late bytes cannot be at " + std::to_string(late_position_) + ": their tail is at " +
                        std::to_string(late_tail));
    }
  }
  ring_position_ = heads.ring_head;
  arena_position_ = heads.arena_head;
  reserved_seen_ = tail;
  return LeaveEmpty();
}

Status PubView::CheckTail() {
  const uint64_t tail = reserved();
  if (tail < reserved_seen_) return CorruptPub("ring tail went backwards");
  if (tail - ring_position_ > header_.ring_slots) return CorruptPub("ring tail is beyond the ring");
  reserved_seen_ = tail;
  return {};
}

// With all that is reserved read, no bytes between our positions and the tails are anyone's. The tails are loaded
// first: each is stored after the reservation it belongs to, so that one not counted in `reserved` cannot show in it.
Status PubView::LeaveEmpty() {
  const uint64_t arena_tail = LoadAcquire(shared_status().arena_tail);
  const uint64_t late_tail = header_.late_bytes > 0 ? LoadAcquire(shared_status().late_tail) : 0;
  if (auto checked = CheckTail(); !checked) return checked;
  if (arena_tail < arena_position_) return CorruptPub("arena tail went backwards");
  if (late_tail < late_position_) return CorruptPub("tail of late bytes went backwards");
  if (reserved_seen_ == ring_position_) {
    arena_position_ = arena_tail;
    late_position_ = late_tail;
  }
  return {};
}

Status PubView::LoadRegistry() {
  const PubStatus& status = shared_status();
  const uint64_t count = LoadAcquire(status.registry_count);  // pairs with PubWriter::Append
  if (count == registry_read_) return {};
  const uint64_t used = LoadRelaxed(status.registry_used_bytes);
  if (count < registry_read_ || count > kMaxRegistryEntries) return CorruptPub("registry count cannot be");
  if (used < registry_offset_ || used > header_.registry_bytes) return CorruptPub("registry ends where it cannot");
  const unsigned char* registry = segment_.data() + header_.registry_offset;
  while (registry_read_ < count) {
    auto decoded = DecodeEntry(registry + registry_offset_, used - registry_offset_);
    if (!decoded) return decoded.error();
    registry_offset_ += decoded->bytes;
    ++registry_read_;
    RegistryEntry& entry = decoded->entry;
    if (entry.type == EntryType::kInvalid) continue;
    if (entry.type == EntryType::kArenaExtent) {
      if (auto accepted = AcceptExtent(entry); !accepted) return accepted;
    }
    pending_entries_.push_back(std::move(entry));
  }
  return {};
}

Status PubView::AcceptExtent(const RegistryEntry& entry) {
  if (arena_extent_ != 0 || entry.value == 0 || entry.value > header_.arena_bytes || entry.value % kExtentAlign != 0) {
    return CorruptPub("arena extent cannot be");
  }
  // Where the kernel can tell: a hole would be filled at our cost when we read it. Once sealed no hole can come back.
  const auto backed = segment_.BackedBytes(header_.arena_offset, entry.value);
  if (backed && *backed < entry.value) return CorruptPub("arena extent has no memory behind it");
  arena_extent_ = entry.value;
  return {};
}

Result<std::vector<RegistryEntry>> PubView::ReadRegistry() {
  if (auto loaded = LoadRegistry(); !loaded) return loaded.error();
  return std::exchange(pending_entries_, {});
}

Result<std::optional<Message>> PubView::Next() {
  const unsigned char* slot =
      segment_.data() + header_.ring_offset + (ring_position_ & (header_.ring_slots - 1)) * header_.record_bytes;
  const auto* shared = reinterpret_cast<const Record*>(slot);
  if (LoadAcquire(shared->seq) != ring_position_ + 1) {  // pairs with PubWriter::Commit
    if (auto left = LeaveEmpty(); !left) return left.error();
    return std::optional<Message>();
  }
  if (reserved_seen_ <= ring_position_) {
    if (auto checked = CheckTail(); !checked) return checked.error();
    if (reserved_seen_ <= ring_position_) return CorruptPub("ring holds a record that was never reserved");
  }
  std::optional<Message> message(std::in_place);
  Record& record = message->record;
  CopyOnce(&record, shared, sizeof(Record));
  record.seq = ring_position_ + 1;
  if (const char* fault = CheckRecord(record)) return CorruptPub(std::string("record has ") + fault);
  if (IsLate(*message)) {
    if (auto placed = PlaceLate(record.payload); !placed) return placed.error();
  } else if (record.type == static_cast<uint8_t>(RecordType::kTensor) ||
             record.type == static_cast<uint8_t>(RecordType::kVoid)) {
    if (auto read = ReadPayload(*message); !read) return read.error();
  } else if (record.type == static_cast<uint8_t>(RecordType::kText)) {
    // Whoever shows it needs UTF-8; a text that is none is worth no quarantine.
    const std::string text = CleanUtf8({record.text.bytes, record.text.length}, kMaxTextBytes);
    record.text = InlineText{};
    record.text.length = static_cast<uint32_t>(text.size());
    std::memcpy(record.text.bytes, text.data(), text.size());
  }
  ++ring_position_;
  return message;
}

Status PubView::ReadPayload(Message& message) {
  const PayloadRef& ref = message.record.payload;
  const bool is_void = message.record.type == static_cast<uint8_t>(RecordType::kVoid);
  if (!is_void) message.payload_bytes = ref.bytes;
  if (message.record.space != static_cast<uint8_t>(Space::kHostArena) || ref.bytes == 0) return {};
  // The record was committed after the extent's entry, so that the entry is there to be seen.
  if (arena_extent_ == 0) {
    if (auto loaded = LoadRegistry(); !loaded) return loaded;
  }
  if (ref.bytes > arena_extent_) return CorruptPub("payload is larger than its arena");
  const uint64_t offset = ref.position % arena_extent_;
  const uint64_t rounded = (ref.bytes + kPayloadAlign - 1) / kPayloadAlign * kPayloadAlign;
  if (ref.position % kPayloadAlign != 0 || offset > arena_extent_ - rounded) {
    return CorruptPub("payload is misaligned or leaves its arena");
  }
  const uint64_t arena_tail = LoadAcquire(shared_status().arena_tail);
  if (ref.position < arena_position_ || arena_tail < rounded || ref.position > arena_tail - rounded) {
    return CorruptPub("payload lies where the arena is not reserved");
  }
  arena_position_ = ref.position + rounded;
  if (!is_void) message.payload = segment_.data() + header_.arena_offset + offset;
  return {};
}

Status PubView::PlaceLate(const PayloadRef& ref) {
  const uint64_t extent = header_.late_bytes;
  if (extent == 0 || ref.bytes > extent - sizeof(LateSpanHeader)) {
    return CorruptPub("late bytes are more than their ring has");
  }
  const uint64_t span = LateSpanBytes(ref.bytes);
  if (ref.position % kPayloadAlign != 0 || ref.position % extent > extent - span) {
    return CorruptPub("late bytes are misaligned or leave their ring");
  }
  const uint64_t tail = LoadAcquire(shared_status().late_tail);
  if (ref.position < late_position_ || tail < span || ref.position > tail - span) {
    return CorruptPub("late bytes lie where none are reserved");
  }
  late_position_ = ref.position + span;
  return {};
}

Result<bool> PubView::ReadLate(Message& message) const {
  const PayloadRef ref = message.record.payload;
  const unsigned char* span = segment_.data() + header_.late_offset + ref.position % header_.late_bytes;
  const uint64_t word = LoadAcquire(*reinterpret_cast<const uint64_t*>(span));  // pairs with LateSpan::SetReady
  if (word == 0) return false;
  if (word != message.record.seq) return CorruptPub("late bytes say that they are another record's");
  const unsigned char* bytes = span + sizeof(LateSpanHeader);
  if (message.record.type == static_cast<uint8_t>(RecordType::kTensor)) {
    message.payload = bytes;
    message.payload_bytes = ref.bytes;
    return true;
  }
  // What is refused changes nothing: its numbers would lie where its place stands, which was checked and is used again.
  Record filled = message.record;
  std::memset(filled.raw, 0, sizeof filled.raw);
  const bool summary = filled.type == static_cast<uint8_t>(RecordType::kSummary);
  CopyOnce(filled.raw, bytes, summary ? sizeof(TensorStats) : sizeof(double));
  filled.space = static_cast<uint8_t>(Space::kInline);
  if (const char* fault = CheckRecord(filled)) return CorruptPub(std::string("late bytes have ") + fault);
  message.record = filled;
  return true;
}

uint64_t PubView::SkipHole() {
  if (!CheckTail()) return 0;
  uint64_t skipped = 0;
  while (ring_position_ < reserved_seen_) {
    const unsigned char* slot =
        segment_.data() + header_.ring_offset + (ring_position_ & (header_.ring_slots - 1)) * header_.record_bytes;
    if (LoadAcquire(reinterpret_cast<const Record*>(slot)->seq) == ring_position_ + 1) break;
    ++ring_position_;
    ++skipped;
  }
  return skipped;
}

namespace {

// Each word by one load of its own size, which is how it was stored: two halves read at once may be of two moments.
void CopyWord(uint64_t& to, const uint64_t& from) { to = LoadAcquire(from); }
void CopyWord(uint32_t& to, const uint32_t& from) { to = LoadAcquire(from); }
void CopyWord(int64_t& to, const int64_t& from) {
  to = std::atomic_ref<int64_t>(const_cast<int64_t&>(from)).load(std::memory_order_acquire);
}

void CopyRoot(RootStatus& to, const RootStatus& from) {
  CopyWord(to.phase, from.phase);
  CopyWord(to.epoch, from.epoch);
  CopyWord(to.step, from.step);
  CopyWord(to.samples_seen, from.samples_seen);
  CopyWord(to.last_step_ns, from.last_step_ns);
  CopyWord(to.steps_due, from.steps_due);
  CopyWord(to.start_step, from.start_step);
}

}  // namespace

// The order of the words does not matter, but for the clock pair and `attempted`.
uint32_t PubView::ReadState() const { return LoadAcquire(shared_status().state); }

StatusSnapshot PubView::ReadStatus() {
  const PubStatus& shared = shared_status();
  StatusSnapshot now;
  PubStatus& copy = now.status;
  CopyWord(copy.clock_generation, shared.clock_generation);
  CopyWord(copy.clock_monotonic_ns, shared.clock_monotonic_ns);
  CopyWord(copy.clock_unix_ns, shared.clock_unix_ns);
  // Pairs with PubWriter::WriteClock: an even generation on both sides of the pair.
  if (copy.clock_generation % 2 != 0 || LoadAcquire(shared.clock_generation) != copy.clock_generation) {
    copy.clock_generation = last_status_.status.clock_generation;
    copy.clock_monotonic_ns = last_status_.status.clock_monotonic_ns;
    copy.clock_unix_ns = last_status_.status.clock_unix_ns;
  }
  CopyWord(copy.state, shared.state);
  CopyWord(copy.attempt, shared.attempt);
  CopyWord(copy.command_done, shared.command_done);
  CopyWord(copy.command_late, shared.command_late);
  CopyWord(copy.steps_unwatched, shared.steps_unwatched);
  CopyWord(copy.registry_count, shared.registry_count);
  CopyWord(copy.registry_used_bytes, shared.registry_used_bytes);
  CopyWord(copy.registry_rejected, shared.registry_rejected);
  CopyWord(copy.reserved, shared.reserved);
  CopyWord(copy.arena_tail, shared.arena_tail);
  CopyWord(copy.late_tail, shared.late_tail);
  for (size_t i = 0; i < std::size(copy.dropped); ++i) CopyWord(copy.dropped[i], shared.dropped[i]);
  CopyWord(copy.probe_ns, shared.probe_ns);
  CopyWord(copy.step_ns, shared.step_ns);
  CopyWord(copy.steps_timed, shared.steps_timed);
  CopyWord(copy.shift_tensor, shared.shift_tensor);
  CopyWord(copy.shift_summary, shared.shift_summary);
  CopyWord(copy.shift_scalar, shared.shift_scalar);
  CopyWord(copy.control, shared.control);
  CopyWord(copy.budget_ppm, shared.budget_ppm);
  CopyWord(copy.fixed_ns, shared.fixed_ns);
  for (size_t i = 0; i < kMaxRoots; ++i) CopyRoot(copy.roots[i], shared.roots[i]);
  CopyWord(copy.attempted, shared.attempted);
  for (const uint64_t dropped : copy.dropped) now.dropped_total += dropped;
  last_status_ = now;
  return now;
}

uint64_t StepsMade(const PubStatus& status) {
  uint64_t total = 0;
  for (const RootStatus& root : status.roots) {
    const uint64_t step = LoadRelaxed(root.step), start = LoadRelaxed(root.start_step);
    if (step > start) total += step - start;
  }
  return total;
}

}  // namespace ikkuna::shm
