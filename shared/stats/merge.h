// Statistics of two tensors as if they were one, and the check of statistics that another process wrote.
//
// Thread rule: none, no state. Merging neither allocates nor throws.
#pragma once

#include "shared/base/result.h"
#include "shared/stats/tensor_stats.h"

namespace ikkuna {

// The statistics of a and b concatenated, up to the rounding of doubles; commutative up to rounding too. Counts that
// would overflow saturate. What either leaves out the result leaves out.
TensorStats MergeStats(const TensorStats& a, const TensorStats& b) noexcept;

// `stats_untrusted` itself if some tensor could have given it: counts that add up, a finite shift, ordered bounds, no
// negative sum of squares, nothing in the place of what is left out, no power without those below it. Sums may be
// infinite or NaN: the fourth power of a large double is.
Result<TensorStats> ValidateStats(const TensorStats& stats_untrusted);

}  // namespace ikkuna
