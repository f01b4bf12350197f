#include "daemon/sinks/sample_filter.h"

namespace ikkuna::sinks {
namespace {

bool Passes(std::string_view pattern, std::string_view text) {
  return pattern.empty() || MatchesPattern(pattern, text);
}

}  // namespace

bool MatchesPattern(std::string_view pattern, std::string_view text) {
  size_t p = 0, t = 0;
  size_t star = std::string_view::npos, star_text = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      star_text = t;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == text[t])) {
      ++p;
      ++t;
    } else if (star != std::string_view::npos) {
      // The last * takes one character more; earlier ones never need to be tried again.
      p = star + 1;
      t = ++star_text;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

bool SampleFilter::MatchesRun(const RunKey& key, std::string_view run) const {
  if (filter_.run_id.empty() ? IsDaemonRun(key) : filter_.run_id != key.run_id && filter_.run_id != run) return false;
  if (filter_.attempt && *filter_.attempt != key.attempt) return false;
  return !filter_.rank || *filter_.rank == key.rank;
}

bool SampleFilter::Matches(const SeriesKey& key, std::string_view run) const {
  return MatchesRun(key.run, run) && Passes(filter_.tag, key.tag) && Passes(filter_.root, key.root) &&
         Passes(filter_.module, key.module) && Passes(filter_.param, key.param) && Passes(filter_.topic, key.topic);
}

}  // namespace ikkuna::sinks
