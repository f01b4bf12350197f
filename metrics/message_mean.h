// message_mean(topic): mean over modules (and their parameters) of a topic's values within one step.
#pragma once

#include "metrics/subscriber.h"

namespace ikkuna::metrics {

extern const Descriptor kMessageMean;

// Mean of the scalars that one instance is given, message by message: of a series (loss), or of a step.
std::unique_ptr<Subscriber> MakeMeanOfScalars();

}  // namespace ikkuna::metrics
