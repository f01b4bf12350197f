// The frozen codes of the wire format: kinds, record types, data types, spaces, layouts, flags, drop reasons.
//
// Values never change and are never reused; 0 is invalid in each of them. `shared/layout.md` lists the same tables.
// They are ours, never those of a tensor library, so a producer built against any framework means the same thing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace ikkuna {

// What a message is about. META kinds (1..15) belong to no module; DATA kinds (16..) belong to one.
// Codes stay below 64 so that a set of kinds is one u64 (KindBit).
enum class Kind : uint8_t {
  kInvalid = 0,
  kBatchStarted = 1,
  kBatchFinished = 2,
  kEpochStarted = 3,
  kEpochFinished = 4,
  kInputData = 5,
  kInputLabels = 6,
  kNetworkOutput = 7,
  kLoss = 8,
  kLearningRate = 9,
  kScalar = 10,
  kText = 11,
  kPassStarted = 12,
  kPassesNamed = 13,
  kWeights = 16,
  kBiases = 17,
  kWeightGradients = 18,
  kBiasGradients = 19,
  kWeightUpdates = 20,
  kBiasUpdates = 21,
  kActivations = 22,
  kLayerGradients = 23,
  kRawWeightGradients = 24,
  kExpAvg = 25,
  kExpAvgSq = 26,
  kBuffers = 27,
};

constexpr uint64_t KindBit(Kind kind) { return uint64_t{1} << static_cast<uint8_t>(kind); }

// The published name, such as "weight_gradients"; "invalid" for an unknown code.
std::string_view KindName(Kind kind);
std::optional<Kind> KindFromName(std::string_view name);
bool IsKnownKind(uint8_t code);
constexpr bool IsDataKind(Kind kind) { return static_cast<uint8_t>(kind) >= 16; }
// Kinds that bound steps, passes and epochs, and carry no values: their records are markers, and no others are.
constexpr bool IsMarkerKind(Kind kind) {
  return (kind >= Kind::kBatchStarted && kind <= Kind::kEpochFinished) || kind == Kind::kPassStarted ||
         kind == Kind::kPassesNamed;
}
// Kinds of which a module can publish several messages a step (one per call and pass); the others come at most once per
// parameter and step.
constexpr bool IsPerCallKind(Kind kind) {
  return kind == Kind::kActivations || kind == Kind::kLayerGradients || kind == Kind::kRawWeightGradients ||
         kind == Kind::kInputData || kind == Kind::kInputLabels || kind == Kind::kNetworkOutput || kind == Kind::kLoss;
}

// What the 128-byte union of a record holds.
enum class RecordType : uint8_t {
  kInvalid = 0,
  kTensor = 1,   // payload reference: the bytes lie in the space the record names
  kSummary = 2,  // TensorStats: reduced at the source, no bytes anywhere
  kScalar = 3,   // one f64
  kText = 4,     // u32 length and up to 124 bytes of UTF-8
  kMarker = 5,   // samples and passes: batch_finished, passes_named; nothing: batch_started and its like
  kVoid = 6,     // nothing: its publisher failed between reserving and committing; names the bytes it had reserved
};
bool IsKnownRecordType(uint8_t code);

enum class DType : uint8_t {
  kInvalid = 0,
  kF32 = 1,
  kF64 = 2,
  kF16 = 3,
  kBF16 = 4,
  kI8 = 5,
  kU8 = 6,
  kI16 = 7,
  kI32 = 8,
  kI64 = 9,
  kBool = 10,
};
bool IsKnownDType(uint8_t code);
// Bytes of one element; 0 for kInvalid.
constexpr size_t DTypeBytes(DType dtype) {
  switch (dtype) {
    case DType::kI8:
    case DType::kU8:
    case DType::kBool:
      return 1;
    case DType::kF16:
    case DType::kBF16:
    case DType::kI16:
      return 2;
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kF64:
    case DType::kI64:
      return 8;
    case DType::kInvalid:
      break;
  }
  return 0;
}
std::string_view DTypeName(DType dtype);

enum class Layout : uint8_t {
  kInvalid = 0,
  kRowMajor = 1,  // C order over `sizes`, no gaps
};
bool IsKnownLayout(uint8_t code);

// Where a record's payload lies.
enum class Space : uint8_t {
  kInvalid = 0,
  kInline = 1,      // in the record itself (summary, scalar, text, marker)
  kHostArena = 2,   // in PUB's arena
  kDevicePool = 3,  // in a device pool named by the registry; ready when the record's event is
  kHostLate = 4,    // in PUB's ring of late bytes; ready when the span's word says so
};
bool IsKnownSpace(uint8_t code);

// Bits of a record's `flags`.
enum RecordFlag : uint16_t {
  kFlagGradScaled = 1 << 0,             // gradients still carry a loss scale
  kFlagGradModified = 1 << 1,           // the optimizer changes gradients before it writes (foreach Nesterov)
  kFlagWeightsChangedOutside = 1 << 2,  // somebody but the optimizer wrote the weights within this update
  kFlagStepInferred = 1 << 3,           // the step's end was inferred, no parameter write was seen
  kFlagStepSkipped = 1 << 4,            // gradients were cleared without a write: a loss scaler skipped the step
  kFlagFlattened = 1 << 5,              // ndim was above 8; trailing dimensions are multiplied into the last
  kFlagTruncated = 1 << 6,              // text was longer than the record holds
};
constexpr uint16_t kKnownRecordFlags = (1 << 7) - 1;

// Why the probe did not publish a message it was asked for. Each has a counter of its own in PUB.
enum class DropReason : uint8_t {
  kRingFull = 0,
  kArenaFull = 1,
  kPoolFull = 2,
  kOversize = 3,   // the payload can never fit its space
  kContended = 4,  // another thread held the reservation lock beyond the bounded spin
  kReentrant = 5,  // a publish was entered from within a publish of the same thread
  kFailed = 6,     // an internal error before a slot was reserved
  kUnnamed = 7,    // what it belongs to has no id: a limit on names was reached
};
constexpr size_t kDropReasonCount = 8;
std::string_view DropReasonName(DropReason reason);

// What a demand entry asks for: numbers of the tensor, or the tensor itself.
enum class Level : uint8_t { kInvalid = 0, kSummary = 1, kTensor = 2 };

// Limits of the format. Each bounds memory that a peer could otherwise make us allocate.
constexpr size_t kMaxProducers = 64;      // one host, 8 GPUs with 8 ranks each
constexpr size_t kMaxRoots = 16;          // attached models of one process
constexpr size_t kMaxModules = 65536;     // module bitset of a demand entry is 8 KiB
constexpr size_t kMaxParams = 262144;     // four parameters a module
constexpr size_t kMaxTags = 256;          // tags are phases, not labels
constexpr size_t kMaxNameBytes = 255;     // UTF-8 bytes of any name
constexpr uint64_t kMaxStep = INT64_MAX;  // of steps and of training samples: what a store can keep
constexpr size_t kMaxDims = 8;            // `sizes` of a record
constexpr size_t kMaxDemandEntries = 256;
constexpr uint16_t kAnyRoot = 0xffff;  // demand: every root
constexpr uint16_t kTagDefault = 0;    // training
constexpr uint16_t kTagTest = 1;       // passes in evaluation mode
constexpr uint16_t kTagNoGrad = 2;     // passes in training mode without gradients

}  // namespace ikkuna
