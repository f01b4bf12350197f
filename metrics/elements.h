// Elements of a tensor as doubles, whatever their data type.
//
// Thread rule: none, no state.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "metrics/subscriber.h"

namespace ikkuna::metrics {

// How many doubles a caller's buffer usually has: fits the first-level cache.
constexpr size_t kChunk = 256;

// Converts `count` elements from the `first` on. f16 and bf16 are exact; i64 beyond 2^53 is rounded; bool is 0 or 1.
void LoadDoubles(const TensorView& tensor, uint64_t first, size_t count, double* out);

// `each(chunk, count)` of all elements in order, kChunk of them at a time; a chunk may be changed.
template <typename Each>
void ForChunks(const TensorView& tensor, Each each) {
  double chunk[kChunk];
  for (uint64_t first = 0; first < tensor.elements; first += kChunk) {
    const auto count = static_cast<size_t>(std::min<uint64_t>(kChunk, tensor.elements - first));
    LoadDoubles(tensor, first, count, chunk);
    each(chunk, count);
  }
}

// True for the integer types and bool.
bool IsInteger(DType dtype);
// Element `index` of an integer tensor.
int64_t LoadInteger(const TensorView& tensor, uint64_t index);

}  // namespace ikkuna::metrics
