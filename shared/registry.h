// The bytes of a registry entry: EncodeEntry is the writer's, DecodeEntry the reader's.
//
// An entry is EntryHeader, then ndim sizes (i64), then the name, then `second`, zero-padded to a multiple of 8.
// Thread rule: none, no state.
#pragma once

#include <cstddef>
#include <vector>

#include "shared/base/result.h"
#include "shared/pub.h"

namespace ikkuna::shm {

// The bytes of `entry`, its name as WireName() writes it, its second text cleaned and cut. Empty when its ids, sizes or
// type can never be valid.
std::vector<unsigned char> EncodeEntry(const RegistryEntry& entry);

struct DecodedEntry {
  RegistryEntry entry;  // type kInvalid: of a type that a later minor version added, to be skipped
  size_t bytes = 0;
};
// Reads one entry from `available` bytes that a peer wrote and may still change; each byte is read once. Errors:
// kCorrupt.
Result<DecodedEntry> DecodeEntry(const unsigned char* bytes_untrusted, size_t available);

}  // namespace ikkuna::shm
