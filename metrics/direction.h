// How a tensor moves from step to step:
//   cosine(kind)               <x, y> / (|x| |y|) with the tensor of the step before that was taken
//   distance_from_start(kind)  |x - x0|, x0 the first that was taken: of the run, or since the daemon began
//
// Of several messages of a step (calls, micro-batches) the last counts. Sums are in double, NaN and infinities as in
// IEEE arithmetic; beside a tensor of zeros a cosine is NaN. A tensor of another number of elements begins anew.
// Nothing is published of the first. Both keep a tensor for each series, within the daemon's memory (--memory-mb).
#pragma once

#include "metrics/subscriber.h"

namespace ikkuna::metrics {

extern const Descriptor kCosine;
extern const Descriptor kDistanceFromStart;

}  // namespace ikkuna::metrics
