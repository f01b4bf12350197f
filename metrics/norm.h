// norm(kind, order=p): (sum |x|^p)^(1/p) over all elements; order 0 counts those that are not 0, inf is the greatest
// |x|.
//
// Orders 0, 1, 2 and inf come from the statistics. Any other needs the tensor: sum |x|^p in double, over all calls and
// micro-batches of the step as if concatenated. As in IEEE arithmetic: a NaN gives NaN, an infinity gives infinity, and
// so does a power that overflows a double. An empty tensor gives 0.
#pragma once

#include "metrics/subscriber.h"

namespace ikkuna::metrics {

extern const Descriptor kNorm;

// sum |x|^order over one tensor, finite order > 0.
double SumOfPowers(const TensorView& tensor, double order);

}  // namespace ikkuna::metrics
