#include "daemon/cli/histogram_text.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

namespace ikkuna::cli {
namespace {

std::string NotFiniteText(const Histogram& histogram) {
  std::string text;
  const auto add = [&](uint64_t count, const char* what) {
    if (count > 0) text += (text.empty() ? "" : ", ") + Count(count) + " " + what;
  };
  add(histogram.nans, "NaN");
  add(histogram.positive_infinities, "Infinity");
  add(histogram.negative_infinities, "-Infinity");
  return text;
}

// `bins` bins of equal width as at most `lines`, each of the same number of bins but for the last.
std::vector<uint64_t> Grouped(const std::vector<uint64_t>& counts, size_t per_line) {
  std::vector<uint64_t> lines((counts.size() + per_line - 1) / per_line);
  for (size_t i = 0; i < counts.size(); ++i) lines[i / per_line] += counts[i];
  return lines;
}

// Eighths of a character, so that small counts are seen.
std::string Bar(double share, int width, bool ascii) {
  static constexpr const char* kEighths[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  if (ascii) {
    const int length = static_cast<int>(std::lround(share * width));
    return std::string(static_cast<size_t>(share > 0 ? std::max(1, length) : 0), '#');
  }
  int eighths = static_cast<int>(std::lround(share * width * 8));
  if (share > 0) eighths = std::max(1, eighths);
  std::string text;
  for (int i = 0; i < eighths / 8; ++i) text += "█";
  return text + kEighths[eighths % 8];
}

std::string Padded(const std::string& text, size_t width) {
  const size_t used = DisplayWidth(text);
  return std::string(width > used ? width - used : 0, ' ') + text;
}

double EdgeAt(const Histogram& histogram, size_t bin) {
  // Halved first: the span of two finite doubles need not be finite.
  const double share = static_cast<double>(bin) / static_cast<double>(histogram.counts.size());
  return 2 * (histogram.min / 2 + (histogram.max / 2 - histogram.min / 2) * share);
}

}  // namespace

std::string HistogramText(const Histogram& histogram, const HistogramOptions& options, const Terminal& terminal) {
  std::string text = Counted(histogram.n, "value");
  if (histogram.n > 0) {
    const double n = static_cast<double>(histogram.n);
    const double mean = histogram.sum / n;
    text += " from " + ShortNumber(histogram.min) + " to " + ShortNumber(histogram.max) + ", mean " +
            ShortNumber(mean) + ", standard deviation " +
            ShortNumber(std::sqrt(std::max(0.0, histogram.sum_squares / n - mean * mean)));
  }
  text += "\n";
  if (histogram.n > 0 && !histogram.counts.empty()) {
    const size_t lines_max = static_cast<size_t>(std::max(1, options.height));
    const size_t per_line = (histogram.counts.size() + lines_max - 1) / lines_max;
    const std::vector<uint64_t> lines = Grouped(histogram.counts, per_line);
    const uint64_t most = *std::max_element(lines.begin(), lines.end());
    std::vector<std::string> edges;
    size_t width = 0;
    for (size_t i = 0; i < lines.size(); ++i) {
      edges.push_back(ShortNumber(EdgeAt(histogram, i * per_line)));
      width = std::max(width, edges.back().size());
    }
    for (size_t i = 0; i < lines.size(); ++i) {
      const double share = most == 0 ? 0 : static_cast<double>(lines[i]) / static_cast<double>(most);
      const std::string bar = Bar(share, options.width, options.ascii);
      text += Padded(edges[i], width) + (options.ascii ? " | " : " │ ") + Paint(terminal, Colour::kCyan, bar) +
              (bar.empty() ? "" : " ") + Count(lines[i]) + "\n";
    }
  }
  const std::string others = NotFiniteText(histogram);
  if (!others.empty()) text += Paint(terminal, Colour::kYellow, "not in a bin: " + others) + "\n";
  return text;
}

std::string HistogramMap(const std::vector<std::pair<uint64_t, Histogram>>& histograms, const HistogramOptions& options,
                         const Terminal& terminal) {
  double low = std::numeric_limits<double>::infinity(), high = -low;
  uint64_t others = 0;
  for (const auto& [step, histogram] : histograms) {
    others += histogram.nans + histogram.positive_infinities + histogram.negative_infinities;
    if (histogram.n == 0) continue;
    low = std::min(low, histogram.min);
    high = std::max(high, histogram.max);
  }
  if (low > high) return "Nothing to draw.\n";
  if (low == high) high = low + (low == 0 ? 1 : std::abs(low) * 0.05);
  const size_t columns = std::min(histograms.size(), static_cast<size_t>(std::max(1, options.width)));
  const size_t rows = static_cast<size_t>(std::max(2, options.height));
  const auto row_of = [&](double value) {
    const double share = (value / 2 - low / 2) / (high / 2 - low / 2);
    return std::min(rows - 1, static_cast<size_t>(std::max(0.0, share) * static_cast<double>(rows)));
  };
  // Each column is the mean of its steps' shares; a bin's share is spread over the rows that it reaches.
  std::vector<double> shares(columns * rows, 0);
  std::vector<size_t> members(columns, 0);
  for (size_t i = 0; i < histograms.size(); ++i) {
    const Histogram& one = histograms[i].second;
    const size_t column = i * columns / histograms.size();
    ++members[column];
    if (one.n == 0) continue;
    for (size_t bin = 0; bin < one.counts.size(); ++bin) {
      if (one.counts[bin] == 0) continue;
      const size_t first = row_of(EdgeAt(one, bin));
      const size_t last = std::max(first, row_of(std::nextafter(EdgeAt(one, bin + 1), low)));
      const double each =
          static_cast<double>(one.counts[bin]) / static_cast<double>(one.n) / static_cast<double>(last - first + 1);
      for (size_t row = first; row <= last; ++row) shares[column * rows + row] += each;
    }
  }
  double most = 0;
  for (size_t column = 0; column < columns; ++column) {
    for (size_t row = 0; row < rows; ++row) {
      double& share = shares[column * rows + row];
      share /= static_cast<double>(std::max<size_t>(1, members[column]));
      most = std::max(most, share);
    }
  }
  static constexpr const char* kShades[] = {" ", "░", "▒", "▓", "█"};
  static constexpr const char* kAsciiShades[] = {" ", ".", "-", "+", "#"};
  size_t label_width = 0;
  std::vector<std::string> labels(rows);
  for (size_t row = 0; row < rows; ++row) {
    if (row != 0 && row != rows - 1 && row % 4 != 0) continue;
    labels[row] = ShortNumber(low + (high - low) * (static_cast<double>(row) + 0.5) / static_cast<double>(rows));
    label_width = std::max(label_width, labels[row].size());
  }
  std::string text;
  for (size_t row = rows; row-- > 0;) {
    std::string line;
    for (size_t column = 0; column < columns; ++column) {
      const double share = shares[column * rows + row];
      // The root: what is rare is seen too.
      const auto shade = share == 0 ? 0 : 1 + std::min<size_t>(3, static_cast<size_t>(std::sqrt(share / most) * 4));
      line += (options.ascii ? kAsciiShades : kShades)[shade];
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text +=
        Padded(labels[row], label_width) + (options.ascii ? " |" : " │") + Paint(terminal, Colour::kCyan, line) + "\n";
  }
  const std::string first = std::to_string(histograms.front().first), last = std::to_string(histograms.back().first);
  text += std::string(label_width + 2, ' ') + "step " + first + (first == last ? "" : " to " + last) + "\n";
  if (others > 0) text += Paint(terminal, Colour::kYellow, "not in a bin: " + Count(others) + " not finite") + "\n";
  return text;
}

}  // namespace ikkuna::cli
