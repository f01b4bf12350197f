// SampleFilter: does a series pass a SeriesFilter? Shared by the store's listing and the watch hub.
//
// A plain value; const methods from any thread. Patterns know * (any run of characters, dots included) and ? (one
// byte); everything else, brackets too, stands for itself.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "daemon/monitor.h"
#include "daemon/sample.h"

namespace ikkuna::sinks {

// Linear in practice, quadratic at worst, whatever the pattern.
bool MatchesPattern(std::string_view pattern, std::string_view text);

class SampleFilter {
 public:
  explicit SampleFilter(SeriesFilter filter) : filter_(std::move(filter)) {}

  // `run` is the display name of key.run; the filter's run_id may be either. Without one every training passes, but not
  // the daemon's own run.
  bool Matches(const SeriesKey& key, std::string_view run) const;
  // The run part alone: for events, which have no series.
  bool MatchesRun(const RunKey& key, std::string_view run) const;

 private:
  SeriesFilter filter_;
};

}  // namespace ikkuna::sinks
