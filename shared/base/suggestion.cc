#include "shared/base/suggestion.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace ikkuna {

namespace {

// Insertions, deletions, replacements and swaps of neighbours that turn one into the other.
size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> before, last(b.size() + 1), row(b.size() + 1);
  std::iota(last.begin(), last.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) row[j] = std::min(row[j], before[j - 2] + 1);
    }
    before = std::move(last);
    last = row;
  }
  return last[b.size()];
}

constexpr size_t kNameBytesCompared = 255;  // the longest name there is; bounds the work for a hostile text

}  // namespace

std::string Suggestion(std::string_view name, std::span<const std::string> candidates) {
  if (name.empty() || name.size() > kNameBytesCompared) return ".";
  const std::string* best = nullptr;
  // Of a name of which nothing is left another one says nothing.
  size_t best_distance = std::min(std::max<size_t>(1, name.size() / 3) + 1, name.size());
  for (const std::string& candidate : candidates) {
    const size_t distance = EditDistance(name, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = &candidate;
    }
  }
  return best == nullptr ? "." : "; did you mean '" + *best + "'?";
}

}  // namespace ikkuna
