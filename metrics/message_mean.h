// message_mean(topic): mean over modules (and their parameters) of a topic's values within one step.
#pragma once

#include "metrics/subscriber.h"

namespace ikkuna::metrics {

extern const Descriptor kMessageMean;

}  // namespace ikkuna::metrics
