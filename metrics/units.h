// dead_fraction(kind, axis=auto): share of units whose elements are all 0, over the whole batch, all calls and
// micro-batches of a step.
//
// A unit is an index of one axis: auto takes the second of tensors of four and more dimensions (channels), the last of
// those of two and three (features), and a tensor of fewer is one unit; a number counts from the first axis, below 0
// from the last. NaN is not 0. A step without elements gives NaN; one whose messages have different numbers of units,
// or no such axis, gives nothing, and is counted as incomplete.
#pragma once

#include "metrics/subscriber.h"

namespace ikkuna::metrics {

extern const Descriptor kDeadFraction;

}  // namespace ikkuna::metrics
