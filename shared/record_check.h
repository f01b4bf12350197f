// CheckRecord: whether a private copy of a record that a peer wrote can be acted on.
//
// Thread rule: none, no state.
#pragma once

#include "shared/layout.h"

namespace ikkuna::shm {

// Null when every field of `record` holds what its type, kind and space allow, else what is wrong, in words that follow
// "the producer's record has". What only the segment knows (positions in arena and pools) is the caller's to check.
const char* CheckRecord(const Record& record);

}  // namespace ikkuna::shm
