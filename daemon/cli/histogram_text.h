// Histograms in characters: one as bars, several over the steps as a map of shades.
//
// Thread rule: functions without state.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "daemon/cli/terminal.h"
#include "metrics/value.h"

namespace ikkuna::cli {

struct HistogramOptions {
  int width = 50;   // of the longest bar, or of the map, in characters
  int height = 20;  // most lines; neighbouring bins share one where there are more
  bool ascii = false;
};

// A line for each bin with its lower edge, a bar and its count; before it how many elements, their mean and deviation;
// after it what was not finite.
std::string HistogramText(const Histogram& histogram, const HistogramOptions& options, const Terminal& terminal);

// Steps to the right, values upwards; the darker, the greater the share of the step's elements that is there.
// `histograms` ascend by step.
std::string HistogramMap(const std::vector<std::pair<uint64_t, Histogram>>& histograms, const HistogramOptions& options,
                         const Terminal& terminal);

}  // namespace ikkuna::cli
