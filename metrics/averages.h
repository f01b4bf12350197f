// Averages of numbers over steps, the meters of TNT:
//   average_value(x, reset=epoch)   mean and standard deviation of all steps of the epoch (reset=never: of the run)
//   moving_average(x, window=100)   of the last `window` steps that had one
//
// x is a topic, or a kind, of which a step's mean counts (of a loss that of its micro-batches). The standard deviation
// is unbiased, and there from the second value on. As in IEEE arithmetic: a NaN among them gives NaN.
#pragma once

#include "metrics/subscriber.h"

namespace ikkuna::metrics {

extern const Descriptor kAverageValue;
extern const Descriptor kMovingAverage;

}  // namespace ikkuna::metrics
