// StreamCopy: memcpy past the caches, for bytes that this processor will not read again soon.
//
// A payload goes to another process: writing it with ordinary stores first reads the destination's lines and then keeps
// them where the training's own data was. Thread rule: any thread. Ends with a fence, so that a release store after it
// publishes the bytes.
#pragma once

#include <cstddef>

namespace ikkuna {

// Below this many bytes the caches hardly notice, and ordinary stores are faster.
constexpr size_t kStreamCopyLeast = 4 << 10;

// As memcpy: the ranges do not overlap; with 0 bytes both may be null. Any alignment; fastest when `to` is a multiple of 64.
void StreamCopy(void* to, const void* from, size_t bytes) noexcept;

}  // namespace ikkuna
