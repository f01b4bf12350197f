// loss: the scalar that the trainer's loss function gives, its mean over the calls and micro-batches of a step (of an
// evaluation pass: over its batches).
#pragma once

#include "metrics/subscriber.h"

namespace ikkuna::metrics {

extern const Descriptor kLoss;

}  // namespace ikkuna::metrics
