// The bytes both processes agree on: the PUB segment (written by the probe) and the CTL segment (written by the
// daemon).
//
// `shared/layout.md` is the same contract in prose, complete enough for a second implementation.
// Every shared word has exactly one writing process. Atomic words are plain u64/u32 here and are reached only through
// the accessors at the end of this file, which name the partner of every non-relaxed order.
// Fixed width, little-endian, offsets instead of pointers, zero is invalid.
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "shared/codes.h"
#include "shared/stats/tensor_stats.h"

namespace ikkuna::shm {

static_assert(std::endian::native == std::endian::little, "the wire format is little-endian");
static_assert(std::atomic<uint64_t>::is_always_lock_free && std::atomic<uint32_t>::is_always_lock_free);

constexpr size_t kCacheLine = 64;
constexpr uint64_t kPubMagic = 0x315055504e4b4b49;  // "IKKNPUP1" read as bytes
constexpr uint64_t kCtlMagic = 0x314c54434e4b4b49;  // "IKKNCTL1" read as bytes
constexpr uint16_t kAbiMajor = 2;
constexpr uint16_t kAbiMinor = 2;

constexpr uint32_t kRecordBytes = 256;
constexpr uint32_t kDefaultRingSlots = 16384;  // 4 MiB: 160 steps of 100 records while the daemon is busy
constexpr uint32_t kMaxRingSlots = 1u << 22;   // 1 GiB of records: bounds what a peer can make us map
constexpr uint64_t kDefaultArenaBytes = 256ull << 20;
constexpr uint64_t kMaxArenaBytes = 64ull << 30;         // bounds the address space a peer can make us map
constexpr uint64_t kDefaultRegistryBytes = 32ull << 20;  // sparse; all modules and parameters there may be, of usual names
constexpr uint64_t kMaxRegistryBytes = 256ull << 20;
constexpr uint64_t kPayloadAlign = 64;
constexpr uint64_t kMaxLateBytes = 1ull << 30;  // bounds the address space a peer can make us map

// ---------------------------------------------------------------------------------------------------------------
// Record: one message in the ring.
// Slot states, by its `seq` (position p holds seq p + 1, slot index p % slots):
//   FREE      seq != p + 1                      probe may reserve p once p - ring_head < slots
//   RESERVED  seq != p + 1, status.reserved > p probe thread writes the body
//   COMMITTED seq == p + 1 (stored last, release)  daemon may copy
//   FREE again when the daemon moves ring_head past p
struct PayloadRef {
  uint64_t position;  // absolute arena or pool position; offset inside the space is position % extent
  uint64_t bytes;
  uint32_t event;   // device pool: index of the interprocess event; 0 on the host
  uint32_t device;  // device pool: registry id of the pool; 0 on the host
};
static_assert(sizeof(PayloadRef) == 24);

// What a span of late bytes begins with; its bytes follow. Zeroed when it is reserved; whoever has written the bytes
// stores the number of the record, which is never 0, with release.
struct LateSpanHeader {
  uint64_t ready;
  uint64_t given_up;  // the probe's own: seq where nobody will store `ready`
  uint64_t reserved[6];
};
static_assert(sizeof(LateSpanHeader) == kPayloadAlign);
// What a span takes of the ring. `bytes` is at most kMaxLateBytes.
constexpr uint64_t LateSpanBytes(uint64_t bytes) {
  return sizeof(LateSpanHeader) + (bytes + kPayloadAlign - 1) / kPayloadAlign * kPayloadAlign;
}

constexpr size_t kUnionBytes = 128;
constexpr size_t kMaxTextBytes = kUnionBytes - 4;
struct InlineText {
  uint32_t length;  // <= kMaxTextBytes
  char bytes[kMaxTextBytes];
};

// Passes that one marker can name: from its first one on, so many numbers.
constexpr uint32_t kPassesInMarker = 768;

// Of a batch_finished. Bits that a reader does not know it ignores.
enum MarkerFlag : uint32_t {
  // Minor 1: dropped_kinds is all that was dropped of this step, whatever went of others meanwhile.
  kMarkerKindsKnown = 1,
};

// Of batch_finished and passes_named; of any other marker all of it is 0. The step is that of the record: it is made of
// the passes that these markers name, whatever step the passes' own records bear. shared/passes.h reads and writes it.
struct MarkerInfo {
  uint64_t samples;        // batch_finished: training samples up to this step, 0: unknown
  uint64_t dropped_kinds;  // batch_finished: kinds (KindBit) of which a message of this step was dropped
  uint32_t first_pass;     // the first that is named here; 0: none
  uint32_t lowest_open;    // of this root: no pass before it is named any more, or publishes; 0: not told
  uint32_t passes;         // named of this step, by this marker and those before it
  uint32_t flags;          // MarkerFlag
  uint64_t named[kPassesInMarker / 64];  // bit i: pass first_pass + i
};
static_assert(sizeof(MarkerInfo) == kUnionBytes);

struct Record {
  uint64_t seq;            // 0: never written
  uint64_t time_ns;        // CLOCK_MONOTONIC
  uint64_t global_step;    // optimizer steps of this root before this message
  uint64_t dropped_total;  // messages this producer dropped before this one
  uint32_t module;         // registry id, 0 for META
  uint32_t param;          // registry id of a parameter (DATA) or of a name (learning_rate, scalar, text); 0 for none
  uint32_t epoch;
  uint32_t train_step;      // steps since the epoch began
  uint32_t pass;            // pass of this root, from 1; 0: belongs to the step as a whole
  uint16_t call;            // call of this module within the pass
  uint8_t root;             // registry id
  uint8_t tag;              // registry id of the tag; 0, 1, 2 are default, test, no_grad without an entry
  uint8_t type;             // RecordType
  uint8_t kind;             // Kind
  uint8_t dtype;            // DType of the tensor; kInvalid for scalar, text, marker
  uint8_t ndim;             // <= 8
  uint8_t space;            // Space
  uint8_t layout;           // Layout; kInvalid for scalar, text, marker
  uint16_t flags;           // RecordFlag
  int64_t sizes[kMaxDims];  // the first ndim hold; the rest are 0
  union {
    TensorStats stats;   // kSummary
    PayloadRef payload;  // kTensor, kVoid, and whatever comes late
    double scalar;       // kScalar
    MarkerInfo marker;   // kMarker
    InlineText text;     // kText
    unsigned char raw[kUnionBytes];
  };
};
static_assert(kMaxRoots <= UINT8_MAX && kMaxTags <= UINT8_MAX + 1);
static_assert(sizeof(Record) == kRecordBytes && std::is_trivially_copyable_v<Record>);
static_assert(offsetof(Record, module) == 32 && offsetof(Record, pass) == 48 && offsetof(Record, type) == 56);
static_assert(offsetof(Record, sizes) == 64 && offsetof(Record, stats) == 128 && offsetof(Record, flags) == 62);

// ---------------------------------------------------------------------------------------------------------------
// PUB
struct PubHeader {
  uint64_t magic;
  uint16_t abi_major;
  uint16_t abi_minor;
  uint32_t header_bytes;
  uint64_t total_bytes;
  uint64_t feature_bits;   // FeatureBit; the session uses the AND of both sides
  unsigned char uuid[16];  // of this producer; names it across daemons
  uint64_t start_monotonic_ns;
  int64_t start_unix_ns;
  uint32_t pid;  // for display; identity comes from the kernel
  uint32_t record_bytes;
  uint32_t stats_bytes;
  uint32_t ring_slots;  // a power of two
  uint64_t status_offset;
  uint64_t status_bytes;
  uint64_t registry_offset;
  uint64_t registry_bytes;
  uint64_t ring_offset;
  uint64_t arena_offset;
  uint64_t arena_bytes;  // capacity; the usable extent is a registry entry
  uint32_t ready;        // 1, stored last with release
  uint32_t reserved;
  uint64_t late_offset;  // minor 2: the ring of late bytes
  uint64_t late_bytes;   // all of it is usable; 0: there is none
};
static_assert(sizeof(PubHeader) == 160 && offsetof(PubHeader, ready) == 136);
constexpr uint32_t kPubHeaderBytesMin = offsetof(PubHeader, late_offset);  // minors 0 and 1

enum FeatureBit : uint64_t {
  kFeatureArena = 1 << 0,
  kFeatureCommands = 1 << 1,
  kFeatureDevicePool = 1 << 2,
  kFeatureLateBytes = 1 << 3,
};

enum class ProducerState : uint32_t { kInvalid = 0, kRunning = 1, kFinished = 2, kSwitchedOff = 3 };
// Which commands of clients the trainer takes.
enum class Control : uint32_t { kNone = 0, kAll = 1, kStopOnly = 2 };
// Phase of a root: what its last seen pass was.
enum class Phase : uint32_t { kInvalid = 0, kIdle = 1, kTrain = 2, kEvaluate = 3 };

struct alignas(kCacheLine) RootStatus {
  uint32_t phase;
  uint32_t epoch;
  uint64_t step;  // optimizer steps finished (plus start_step)
  uint64_t samples_seen;
  uint64_t last_step_ns;  // CLOCK_MONOTONIC of the last finished step
  uint64_t steps_due;     // steps for which something was demanded
  uint64_t start_step;    // where `step` began, so that step - start_step is what this process did
  uint64_t reserved[2];
};
static_assert(sizeof(RootStatus) == 64);

// Words of one group share a cache line; groups that threads write at different times do not.
struct PubStatus {
  // Clock pair: odd generation while the service thread writes it.
  alignas(kCacheLine) uint64_t clock_generation;
  uint64_t clock_monotonic_ns;
  int64_t clock_unix_ns;
  uint32_t state;         // ProducerState
  uint32_t attempt;       // the scheduler's restart count
  uint64_t command_done;  // last command taken
  uint64_t command_late;  // last command that was taken when its step had begun, and did nothing
  uint64_t steps_unwatched;  // minor 2: steps of all roots that were made while no daemon was connected
  // Registry.
  alignas(kCacheLine) uint64_t registry_count;  // entries published
  uint64_t registry_used_bytes;
  uint64_t registry_rejected;  // entries that found it full
  // Ring and arena.
  alignas(kCacheLine) uint64_t reserved;  // ring positions handed out
  uint64_t arena_tail;                    // arena position after the last reservation
  uint64_t late_tail;                     // minor 2: the same of the ring of late bytes
  // Accounting: each counter is its own.
  alignas(kCacheLine) uint64_t attempted;   // stored at entry of every publish
  alignas(kCacheLine) uint64_t dropped[8];  // by DropReason
  // Own cost, on training threads.
  alignas(kCacheLine) uint64_t probe_ns;  // time inside our callbacks
  uint64_t step_ns;                       // time from step to step, all of it
  uint64_t steps_timed;                   // steps in the two sums
  uint32_t shift_tensor;                  // budget: periods of whole tensors are multiplied by 2^shift
  uint32_t shift_summary;                 // of statistics
  uint32_t shift_scalar;                  // of scalars
  uint32_t reserved0;
  uint32_t control;                       // Control
  uint32_t budget_ppm;                    // share of the step time allowed, parts per million; 0: no budget
  uint64_t fixed_ns;                      // of probe_ns, at steps of which nothing was due
  RootStatus roots[kMaxRoots];            // index: root id - 1
};
static_assert(sizeof(PubStatus) % kCacheLine == 0);

// Registry entries: immutable, 8-byte aligned, one after another; a later entry of the same (type, id) supersedes.
enum class EntryType : uint16_t {
  kInvalid = 0,
  kRoot = 1,          // name
  kModule = 2,        // name, type name
  kParam = 3,         // name
  kTag = 4,           // name; ids from 3
  kName = 5,          // of a scalar, text or parameter group
  kFact = 6,          // key, value
  kNote = 7,          // text: what could not be captured and why
  kArenaExtent = 8,   // value: usable bytes of the arena, after backing succeeded
  kDevicePool = 9,    // value: bytes; name: GPU uuid; second: CUDA IPC memory handle
  kDeviceEvent = 10,  // parent: pool id; second: CUDA IPC event handle
  kShard = 11         // minor 2; id: of the parameter; sizes: of the whole; second: where this rank's part begins
};
struct EntryHeader {
  uint32_t bytes;         // of the whole entry, padding included; multiple of 8
  uint16_t type;          // EntryType
  uint16_t root;          // root id, 0 for none
  uint32_t id;            // within its type, from 1
  uint32_t parent;        // params: module id; events: pool id; else 0
  uint64_t value;         // params: number of elements; extents and pools: bytes; else 0
  uint32_t flags;         // EntryFlag
  uint8_t dtype;          // params
  uint8_t ndim;           // params: sizes follow the header (ndim x i64)
  uint16_t name_bytes;    // then the name
  uint16_t second_bytes;  // then type name, value or handle
  uint16_t reserved[3];
};
static_assert(sizeof(EntryHeader) == 40);
enum EntryFlag : uint32_t {
  kEntryBias = 1 << 0,        // param: counts under the bias kinds
  kEntryFunctional = 1 << 1,  // module: an operator named by position
  kEntryBuffer = 1 << 2,      // param: a buffer
  kEntryTrainable = 1 << 3,   // param: requires gradients when registered
};

// ---------------------------------------------------------------------------------------------------------------
// CTL
struct DemandEntry {
  uint64_t kinds;       // KindBit set
  uint32_t period;      // steps that are multiples; >= 1
  uint16_t root;        // root id or kAnyRoot
  uint16_t tag;         // tag id
  uint8_t level;        // Level
  uint8_t all_modules;  // 1: the bitset does not count
  uint16_t reserved0;
  uint32_t reserved1;
  uint64_t moments_left_out;  // Moment set that statistics may go without; 0: all are asked
};
static_assert(sizeof(DemandEntry) == 32);

constexpr size_t kModuleBitsetBytes = kMaxModules / 8;

enum class CommandType : uint32_t {
  kInvalid = 0,
  kFreeze = 1,
  kUnfreeze = 2,
  kStop = 3,
  kEvaluate = 4,
  kCapture = 5,
  kPrepare = 6  // nothing but to be acknowledged: a command to several ranks follows
};
constexpr size_t kCommandSlots = 64;  // a person's commands; more than that waiting is refused
struct Command {
  uint64_t seq;     // position + 1, stored last with release
  uint32_t type;    // CommandType
  uint32_t module;  // freeze, unfreeze: module id, 0: all
  uint32_t param;   // freeze, unfreeze: param id, 0: all of the module
  uint16_t root;
  uint16_t reserved0;
  uint64_t argument;  // freeze, unfreeze, stop: 0: at the next boundary; else the step of `root` to begin with, plus 1
  unsigned char reserved[32];
};
static_assert(sizeof(Command) == 64);

struct CtlHeader {
  uint64_t magic;
  uint16_t abi_major;
  uint16_t abi_minor;
  uint32_t header_bytes;
  uint64_t total_bytes;
  uint64_t feature_bits;
  uint64_t session_id;
  uint64_t state_offset;
  uint64_t demand_offset;    // kMaxDemandEntries entries
  uint64_t bitsets_offset;   // kMaxDemandEntries bitsets of kModuleBitsetBytes
  uint64_t commands_offset;  // kCommandSlots commands
  uint32_t ready;
  uint32_t reserved;
};
static_assert(sizeof(CtlHeader) == 80 && offsetof(CtlHeader, ready) == 72);

struct CtlState {
  alignas(kCacheLine) uint64_t heartbeat_ns;  // CLOCK_MONOTONIC; informs, decides nothing
  uint64_t registry_seen;                     // registry entries the demand takes into account
  uint64_t committed_seq;                     // every record up to here is in the store, or counted
  uint32_t budget_ppm;                        // share the daemon's operator allows; 0: no budget
  uint32_t reserved0;
  alignas(kCacheLine) uint64_t ring_head;              // ring positions freed
  alignas(kCacheLine) uint64_t arena_head;             // arena position freed
  uint64_t late_head;                                  // minor 2: position of late bytes released
  alignas(kCacheLine) uint64_t pool_head[kMaxRoots];   // per device pool id - 1
  alignas(kCacheLine) uint64_t event_head[kMaxRoots];  // per device pool id - 1
  alignas(kCacheLine) uint64_t demand_generation;      // odd while the daemon writes the entries
  uint32_t demand_count;
  uint32_t reserved1;
};
static_assert(sizeof(CtlState) % kCacheLine == 0);

// ---------------------------------------------------------------------------------------------------------------
// Accessors. Reading through a const pointer into a read-only mapping is meant: atomic_ref needs a non-const object,
// and a lock-free load never writes.
inline uint64_t LoadRelaxed(const uint64_t& word) {
  return std::atomic_ref<uint64_t>(const_cast<uint64_t&>(word)).load(std::memory_order_relaxed);
}
inline uint32_t LoadRelaxed(const uint32_t& word) {
  return std::atomic_ref<uint32_t>(const_cast<uint32_t&>(word)).load(std::memory_order_relaxed);
}
// Pairs with StoreRelease() of the other process on the same word.
inline uint64_t LoadAcquire(const uint64_t& word) {
  return std::atomic_ref<uint64_t>(const_cast<uint64_t&>(word)).load(std::memory_order_acquire);
}
inline uint32_t LoadAcquire(const uint32_t& word) {
  return std::atomic_ref<uint32_t>(const_cast<uint32_t&>(word)).load(std::memory_order_acquire);
}
inline void StoreRelaxed(uint64_t& word, uint64_t value) {
  std::atomic_ref<uint64_t>(word).store(value, std::memory_order_relaxed);
}
inline void StoreRelaxed(uint32_t& word, uint32_t value) {
  std::atomic_ref<uint32_t>(word).store(value, std::memory_order_relaxed);
}
// Pairs with LoadAcquire() of the other process on the same word.
inline void StoreRelease(uint64_t& word, uint64_t value) {
  std::atomic_ref<uint64_t>(word).store(value, std::memory_order_release);
}
inline void StoreRelease(uint32_t& word, uint32_t value) {
  std::atomic_ref<uint32_t>(word).store(value, std::memory_order_release);
}
// Counters that several threads of the one writing process add to; the reader needs no order between counters.
inline void AddRelaxed(uint64_t& word, uint64_t value) {
  std::atomic_ref<uint64_t>(word).fetch_add(value, std::memory_order_relaxed);
}

}  // namespace ikkuna::shm
