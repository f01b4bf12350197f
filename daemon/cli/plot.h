// Plots of series in characters: braille dots, or ASCII.
//
// Thread rule: functions without state.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "daemon/cli/terminal.h"

namespace ikkuna::cli {

struct PlotSeries {
  std::string name;
  std::vector<std::pair<double, double>> points;  // x ascending; y may be NaN or infinite
  // Drawn faintly beneath the line: what `points` is a smoothed form of. Empty: nothing.
  std::vector<std::pair<double, double>> raw = {};
};

struct PlotOptions {
  int width = 72;   // of the drawing, in characters, without the axis
  int height = 16;  // likewise
  bool ascii = false;
  bool log = false;  // logarithmic y; values <= 0 are not drawn
  std::string x_label = "step";
  size_t legend_max = 12;  // names
};

// Lines with axes and a legend, each ended by a newline. What cannot be drawn (NaN, infinities, <= 0 under `log`) is
// left out and said below. With several series and no colours, letters tell them apart; raw values are dots then.
std::string DrawPlot(const std::vector<PlotSeries>& series, const PlotOptions& options, const Terminal& terminal);

}  // namespace ikkuna::cli
