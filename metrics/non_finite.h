// non_finite: a rule. Of each step the first message, in the order they were published, that holds a NaN or an infinity
// becomes an event; it names the module, the kind, the step, and whether what flowed into it was finite.
#pragma once

#include "metrics/subscriber.h"

namespace ikkuna::metrics {

extern const Descriptor kNonFinite;

}  // namespace ikkuna::metrics
