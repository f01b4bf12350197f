// learning_rate, scalar, text: what the trainer (or its optimizer) says itself, published as it is. The parameter of
// the series is the group's or the logged name. Of several scalars of one name in a step the last counts; texts all
// stay.
#pragma once

#include "metrics/subscriber.h"

namespace ikkuna::metrics {

extern const Descriptor kLearningRate;
extern const Descriptor kScalar;
extern const Descriptor kText;

}  // namespace ikkuna::metrics
