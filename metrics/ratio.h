// ratio(a, b): norm2(a) / norm2(b) of one module and step; b = 0 gives infinity, both 0 give NaN.
#pragma once

#include "metrics/subscriber.h"

namespace ikkuna::metrics {

extern const Descriptor kRatio;

}  // namespace ikkuna::metrics
