#include "shared/record_check.h"

#include <algorithm>
#include <iterator>

#include "shared/passes.h"
#include "shared/stats/merge.h"

namespace ikkuna::shm {

namespace {

const char* CheckIds(const Record& record) {
  if (!IsKnownRecordType(record.type)) return "an unknown type";
  if (!IsKnownKind(record.kind)) return "an unknown kind";
  if ((record.flags & ~kKnownRecordFlags) != 0) return "unknown flags";
  if (record.global_step > kMaxStep) return "a step outside its limits";
  if (record.root > kMaxRoots) return "a root outside its limits";
  if (record.module >= kMaxModules) return "a module outside its limits";
  if (record.param > kMaxParams) return "a parameter outside its limits";
  const bool has_module = record.module != 0;
  const auto kind = static_cast<Kind>(record.kind);
  if (IsDataKind(kind) != has_module) return "a module where its kind has none, or none";
  const bool marker = record.type == static_cast<uint8_t>(RecordType::kMarker);
  if (IsMarkerKind(kind) != marker) return "a marker's kind in another record, or another kind in a marker";
  if (marker && (kind == Kind::kPassStarted) != (record.pass != 0)) return "a pass where its kind has none, or none";
  return nullptr;
}

// Elements of the sizes; false when they are negative or their product does not fit.
bool CountElements(const Record& record, uint64_t& elements) {
  elements = 1;
  for (size_t i = 0; i < kMaxDims; ++i) {
    if (i >= record.ndim) {
      if (record.sizes[i] != 0) return false;
      continue;
    }
    if (record.sizes[i] < 0) return false;
    if (__builtin_mul_overflow(elements, static_cast<uint64_t>(record.sizes[i]), &elements)) return false;
  }
  return true;
}

// The place of bytes on the host.
const char* CheckHostPlace(const Record& record) {
  return record.payload.event != 0 || record.payload.device != 0 ? "a device in a host payload" : nullptr;
}

// Of numbers that come late: their place, which holds just them. They are checked when they are there.
const char* CheckLateNumbers(const Record& record, uint64_t bytes) {
  if (record.payload.bytes != bytes) return "late bytes that its numbers do not fill";
  return CheckHostPlace(record);
}

const char* CheckTensor(const Record& record) {
  if (!IsKnownDType(record.dtype)) return "an unknown data type";
  if (!IsKnownLayout(record.layout)) return "an unknown layout";
  uint64_t elements = 0;
  if (record.ndim > kMaxDims || !CountElements(record, elements)) return "sizes that cannot be";
  if (record.type == static_cast<uint8_t>(RecordType::kSummary)) {
    if (record.space == static_cast<uint8_t>(Space::kHostLate)) return CheckLateNumbers(record, sizeof(TensorStats));
    if (record.space != static_cast<uint8_t>(Space::kInline)) return "a summary outside itself";
    if (record.stats.n != elements) return "statistics of another number of elements";
    if (!ValidateStats(record.stats)) return "statistics that no tensor has";
    return nullptr;
  }
  uint64_t bytes = 0;
  if (__builtin_mul_overflow(elements, DTypeBytes(static_cast<DType>(record.dtype)), &bytes) ||
      bytes != record.payload.bytes) {
    return "a payload that its sizes do not fill";
  }
  const bool late = record.space == static_cast<uint8_t>(Space::kHostLate);
  if (late && bytes == 0) return "late bytes that are none";
  if (late || record.space == static_cast<uint8_t>(Space::kHostArena)) return CheckHostPlace(record);
  if (record.space != static_cast<uint8_t>(Space::kDevicePool)) return "a payload in no known space";
  if (record.payload.device == 0 || record.payload.device > kMaxRoots) return "a pool outside its limits";
  return nullptr;
}

// Each set of passes is written in one way only.
const char* CheckMarker(const Record& record) {
  const MarkerInfo& marker = record.marker;
  if (marker.samples > kMaxStep) return "a marker of more than 2^63 - 1 training samples";
  const auto kind = static_cast<Kind>(record.kind);
  if (kind != Kind::kBatchFinished && kind != Kind::kPassesNamed) return nullptr;
  if (marker.first_pass == 0) {
    const bool none = std::all_of(std::begin(marker.named), std::end(marker.named), [](uint64_t word) { return word == 0; });
    return none ? nullptr : "names of passes without a first";
  }
  if ((marker.named[0] & 1) == 0) return "a first pass that it does not name";
  const uint32_t zero = 0 - marker.first_pass;  // where the number 0 would stand
  if (zero < kPassesInMarker && (marker.named[zero / 64] >> (zero % 64) & 1) != 0) return "a pass 0 among those it names";
  if (marker.passes < CountNamed(marker)) return "fewer passes than it names";
  return nullptr;
}

const char* CheckInline(const Record& record) {
  uint64_t elements = 0;
  const bool late = record.space == static_cast<uint8_t>(Space::kHostLate) &&
                    record.type == static_cast<uint8_t>(RecordType::kScalar);
  if (!late && record.space != static_cast<uint8_t>(Space::kInline)) return "a value outside itself";
  if (record.dtype != 0 || record.layout != 0 || record.ndim != 0 || !CountElements(record, elements)) {
    return "a shape where its type has none";
  }
  if (late) return CheckLateNumbers(record, sizeof(double));
  if (record.type == static_cast<uint8_t>(RecordType::kMarker)) return CheckMarker(record);
  if (record.type == static_cast<uint8_t>(RecordType::kText) && record.text.length > kMaxTextBytes) {
    return "a text that is too long";
  }
  return nullptr;
}

// Nothing but the place of its payload.
const char* CheckVoid(const Record& record) {
  if ((record.kind | record.dtype | record.ndim | record.layout | record.flags | record.module) != 0) {
    return "a content where a void has none";
  }
  const bool on_host =
      record.space == static_cast<uint8_t>(Space::kHostArena) || record.space == static_cast<uint8_t>(Space::kHostLate);
  if (!on_host && record.space != static_cast<uint8_t>(Space::kInline)) return "a space where a void has none";
  if (on_host != (record.payload.bytes != 0)) return "a void with bytes where its space has none, or none";
  if (record.payload.event != 0 || record.payload.device != 0) return "a device in a void";
  return nullptr;
}

}  // namespace

const char* CheckRecord(const Record& record) {
  if (record.type == static_cast<uint8_t>(RecordType::kVoid)) return CheckVoid(record);
  if (const char* fault = CheckIds(record)) return fault;
  switch (static_cast<RecordType>(record.type)) {
    case RecordType::kTensor:
    case RecordType::kSummary:
      return CheckTensor(record);
    default:
      return CheckInline(record);
  }
}

}  // namespace ikkuna::shm
