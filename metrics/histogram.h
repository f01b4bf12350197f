// histogram(kind, bins=64): counts of equal bins over [min, max] of the finite elements, of all calls and micro-batches
// of a step as if concatenated.
//
// Bin i holds edge(i) <= x < edge(i + 1), the last one max as well, where edge(i) = min + i (max - min) / bins in
// double, as numpy.histogram has it. Where all finite elements are equal they are in the last bin. NaN and infinities
// are counted beside it; an empty tensor, or one without a finite element, has min > max and no counts but those.
#pragma once

#include "metrics/subscriber.h"

namespace ikkuna::metrics {

extern const Descriptor kHistogram;

// `edges`: bins + 1, ascending, the first the least and the last the greatest finite element of `tensor` or beyond.
// Elements that are not finite are left out; `all_finite`: there are none.
void CountInto(const TensorView& tensor, bool all_finite, std::span<const double> edges, std::span<uint64_t> counts);

}  // namespace ikkuna::metrics
