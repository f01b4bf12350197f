// The one-pass group: metrics that are a function of TensorStats alone (shared/stats/derive.h has the formulas).
#pragma once

#include <span>

#include "metrics/subscriber.h"

namespace ikkuna::metrics {

// mean variance sum min max abs_max abs_mean rms std zero_fraction nan_count inf_count skewness kurtosis
std::span<const Descriptor> StatisticsDescriptors();

// A subscriber that publishes Derive() of its only input's statistics.
using Derive = double (*)(const TensorStats&) noexcept;
std::unique_ptr<Subscriber> MakeStatistic(Derive derive);

}  // namespace ikkuna::metrics
