#include "shared/registry.h"

#include <cstring>
#include <limits>

#include "shared/base/utf8.h"

namespace ikkuna::shm {

namespace {

constexpr size_t kEntryAlign = 8;

bool IsKnownEntryType(uint16_t type) { return type >= 1 && type <= static_cast<uint16_t>(EntryType::kShard); }

// `second` of pools and events is a handle, of a shard its offsets, of all others text.
bool SecondIsText(EntryType type) {
  return type != EntryType::kDevicePool && type != EntryType::kDeviceEvent && type != EntryType::kShard;
}

// Greatest id of a type; facts, notes, names and events share the bound of parameters, the largest there is.
uint32_t MaxId(EntryType type) {
  switch (type) {
    case EntryType::kRoot:
    case EntryType::kDevicePool:
      return kMaxRoots;
    case EntryType::kModule:
      return kMaxModules - 1;  // id is a bit of the demand's bitset
    case EntryType::kTag:
      return kMaxTags - 1;
    default:
      return kMaxParams;
  }
}

// Null when the fields may stand in an entry, else what is wrong.
const char* FieldFault(const RegistryEntry& entry) {
  const bool may_be_unnumbered =
      entry.type == EntryType::kFact || entry.type == EntryType::kNote || entry.type == EntryType::kArenaExtent;
  if (entry.id > MaxId(entry.type) || (entry.id == 0 && !may_be_unnumbered)) return "an id outside its limits";
  if (entry.root > kMaxRoots) return "a root outside its limits";
  if (entry.type == EntryType::kParam && entry.parent >= kMaxModules) return "a parent outside its limits";
  if (entry.type == EntryType::kDeviceEvent && entry.parent > kMaxRoots) return "a pool outside its limits";
  if (entry.sizes.size() > kMaxDims) return "more than 8 dimensions";
  for (const int64_t size : entry.sizes) {
    if (size < 0) return "a negative size";
  }
  if (entry.type != EntryType::kShard && !entry.offsets.empty()) return "offsets where its type has none";
  if (entry.type == EntryType::kShard && entry.offsets.size() != entry.sizes.size()) return "offsets that do not fit";
  for (size_t i = 0; i < entry.offsets.size(); ++i) {
    if (entry.offsets[i] < 0 || entry.offsets[i] > entry.sizes[i]) return "a shard outside of the whole";
  }
  if (entry.dtype != DType::kInvalid && !IsKnownDType(static_cast<uint8_t>(entry.dtype))) return "an unknown data type";
  return nullptr;
}

Error CorruptRegistry(const char* what) {
  return Error{ErrorCode::kCorrupt, std::string("the producer's registry holds an entry with ") + what};
}

}  // namespace

std::vector<unsigned char> EncodeEntry(const RegistryEntry& entry) {
  if (!IsKnownEntryType(static_cast<uint16_t>(entry.type)) || FieldFault(entry) != nullptr) return {};
  const std::string name = WireName(entry.name, kMaxNameBytes);
  std::string second =
      SecondIsText(entry.type) ? CleanUtf8(entry.second, kMaxSecondBytes) : entry.second.substr(0, kMaxSecondBytes);
  if (entry.type == EntryType::kShard) {
    second.assign(reinterpret_cast<const char*>(entry.offsets.data()), entry.offsets.size() * sizeof(int64_t));
  }
  const size_t sizes_bytes = entry.sizes.size() * sizeof(int64_t);
  const size_t used = sizeof(EntryHeader) + sizes_bytes + name.size() + second.size();

  EntryHeader header{};
  header.bytes = static_cast<uint32_t>((used + kEntryAlign - 1) / kEntryAlign * kEntryAlign);
  header.type = static_cast<uint16_t>(entry.type);
  header.root = entry.root;
  header.id = entry.id;
  header.parent = entry.parent;
  header.value = entry.value;
  header.flags = entry.flags;
  header.dtype = static_cast<uint8_t>(entry.dtype);
  header.ndim = static_cast<uint8_t>(entry.sizes.size());
  header.name_bytes = static_cast<uint16_t>(name.size());
  header.second_bytes = static_cast<uint16_t>(second.size());

  std::vector<unsigned char> bytes(header.bytes);
  unsigned char* out = bytes.data();
  const auto put = [&out](const void* data, size_t size) {
    if (size > 0) std::memcpy(out, data, size);
    out += size;
  };
  put(&header, sizeof(header));
  put(entry.sizes.data(), sizes_bytes);
  put(name.data(), name.size());
  put(second.data(), second.size());
  return bytes;
}

Result<DecodedEntry> DecodeEntry(const unsigned char* bytes_untrusted, size_t available) {
  EntryHeader header;
  if (available < sizeof(header)) return CorruptRegistry("no room for its header");
  std::memcpy(&header, bytes_untrusted, sizeof(header));
  if (header.bytes % kEntryAlign != 0 || header.bytes < sizeof(header))
    return CorruptRegistry("a length that cannot be");
  if (header.bytes > available) return CorruptRegistry("a length beyond what is published");
  DecodedEntry decoded;
  decoded.bytes = header.bytes;
  if (header.type == 0) return CorruptRegistry("no type");
  if (!IsKnownEntryType(header.type)) return decoded;
  if (header.ndim > kMaxDims) return CorruptRegistry("more than 8 dimensions");
  if (header.name_bytes > kMaxNameBytes || header.second_bytes > kMaxSecondBytes)
    return CorruptRegistry("a text that is too long");
  const size_t used =
      sizeof(header) + header.ndim * sizeof(int64_t) + size_t{header.name_bytes} + size_t{header.second_bytes};
  if (used > header.bytes || header.bytes - used >= kEntryAlign) return CorruptRegistry("lengths that do not add up");

  RegistryEntry& entry = decoded.entry;
  entry.type = static_cast<EntryType>(header.type);
  entry.root = header.root;
  entry.id = header.id;
  entry.parent = header.parent;
  entry.value = header.value;
  entry.flags = header.flags;
  entry.dtype = static_cast<DType>(header.dtype);
  entry.sizes.resize(header.ndim);
  entry.name.resize(header.name_bytes);
  entry.second.resize(header.second_bytes);
  const unsigned char* in = bytes_untrusted + sizeof(header);
  const auto take = [&in](void* data, size_t size) {
    if (size > 0) std::memcpy(data, in, size);
    in += size;
  };
  take(entry.sizes.data(), header.ndim * sizeof(int64_t));
  take(entry.name.data(), entry.name.size());
  take(entry.second.data(), entry.second.size());
  if (entry.type == EntryType::kShard) {
    if (entry.second.size() % sizeof(int64_t) != 0) return CorruptRegistry("offsets that do not fit");
    entry.offsets.resize(entry.second.size() / sizeof(int64_t));
    if (!entry.second.empty()) std::memcpy(entry.offsets.data(), entry.second.data(), entry.second.size());
    entry.second.clear();
  }
  if (const char* fault = FieldFault(entry)) return CorruptRegistry(fault);
  if (!IsValidUtf8(entry.name) || (SecondIsText(entry.type) && !IsValidUtf8(entry.second))) {
    return CorruptRegistry("a text that is no UTF-8");
  }
  return decoded;
}

}  // namespace ikkuna::shm
