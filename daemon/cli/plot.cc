#include "daemon/cli/plot.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

namespace ikkuna::cli {
namespace {

struct Range {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();
  void Add(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  bool empty() const { return low > high; }
  // 0 to 1. Halved first: the span of two finite doubles need not be finite.
  double Place(double value) const { return (value / 2 - low / 2) / (high / 2 - low / 2); }
  double At(double share) const { return 2 * (low / 2 + (high / 2 - low / 2) * share); }
};

// A range of one value gets some room on both sides.
Range Widened(Range range) {
  if (range.low < range.high) return range;
  double room = range.low == 0 ? 1 : std::abs(range.low) * 0.05;
  return {range.low - room, range.high + room};
}

// A grid of dots; each character has `across` x `down` of them, and belongs to the series that drew there last. A line
// takes a character for itself that only had faint dots.
class Canvas {
 public:
  Canvas(int columns, int rows, int across, int down)
      : columns_(columns),
        rows_(rows),
        across_(across),
        down_(down),
        dots_(static_cast<size_t>(columns * rows)),
        owner_(static_cast<size_t>(columns * rows), -1),
        faint_(static_cast<size_t>(columns * rows), false) {}

  int dot_columns() const { return columns_ * across_; }
  int dot_rows() const { return rows_ * down_; }

  void Dot(int x, int y, int owner, bool faint = false) {
    size_t cell = static_cast<size_t>(y / down_ * columns_ + x / across_);
    if (faint && owner_[cell] >= 0 && !faint_[cell]) return;
    if (!faint && faint_[cell]) dots_[cell] = 0;
    dots_[cell] |= static_cast<uint8_t>(1u << (y % down_ * across_ + x % across_));
    owner_[cell] = owner;
    faint_[cell] = faint;
  }

  void Line(int x0, int y0, int x1, int y1, int owner) {
    int steps = std::max(std::abs(x1 - x0), std::abs(y1 - y0));
    for (int i = 0; i <= steps; ++i) {
      double share = steps == 0 ? 0 : static_cast<double>(i) / steps;
      Dot(static_cast<int>(std::lround(x0 + (x1 - x0) * share)), static_cast<int>(std::lround(y0 + (y1 - y0) * share)),
          owner);
    }
  }

  int owner(int column, int row) const { return owner_[static_cast<size_t>(row * columns_ + column)]; }
  uint8_t dots(int column, int row) const { return dots_[static_cast<size_t>(row * columns_ + column)]; }
  bool faint(int column, int row) const { return faint_[static_cast<size_t>(row * columns_ + column)]; }

 private:
  const int columns_, rows_, across_, down_;
  std::vector<uint8_t> dots_;
  std::vector<int> owner_;
  std::vector<bool> faint_;
};

// Bits of Canvas (row by row) in the order of Unicode's braille patterns.
std::string Braille(uint8_t dots) {
  static constexpr uint8_t kBit[8] = {0x01, 0x08, 0x02, 0x10, 0x04, 0x20, 0x40, 0x80};
  unsigned pattern = 0;
  for (int i = 0; i < 8; ++i) {
    if (dots & (1u << i)) pattern |= kBit[i];
  }
  unsigned code = 0x2800 + pattern;
  return {static_cast<char>(0xe0 | (code >> 12)), static_cast<char>(0x80 | ((code >> 6) & 0x3f)),
          static_cast<char>(0x80 | (code & 0x3f))};
}

bool UseLetters(const std::vector<PlotSeries>& series, const Terminal& terminal) {
  return series.size() > 1 && !terminal.colour;
}

std::string Letter(size_t n) { return std::string(1, static_cast<char>('a' + n % 26)); }

class Plot {
 public:
  Plot(const std::vector<PlotSeries>& series, const PlotOptions& options, const Terminal& terminal)
      : series_(series),
        options_(options),
        terminal_(terminal),
        letters_(UseLetters(series, terminal)),
        dotted_(!options.ascii && !letters_),
        canvas_(std::max(8, options.width), std::max(2, options.height), dotted_ ? 2 : 1, dotted_ ? 4 : 1),
        columns_(std::max(8, options.width)),
        rows_(std::max(2, options.height)) {
    for (const PlotSeries& one : series) {
      for (const auto* points : {&one.points, &one.raw}) {
        for (const auto& [x, y] : *points) {
          if (!Drawable(y)) continue;
          x_.Add(x);
          y_.Add(Scaled(y));
        }
      }
    }
  }

  std::string Text() {
    if (x_.empty()) return "Nothing to draw.\n" + LeftOut() + Legend();
    x_ = Widened(x_);
    y_ = Widened(y_);
    for (size_t n = 0; n < series_.size(); ++n) {
      for (const auto& [x, y] : series_[n].raw) {
        if (Drawable(y)) canvas_.Dot(DotX(x), DotY(y), static_cast<int>(n), true);
      }
    }
    for (size_t n = 0; n < series_.size(); ++n) Draw(n);
    std::string text = Rows();  // before Axis(): it finds the width of the labels
    return text + Axis() + LeftOut() + Legend();
  }

 private:
  bool Drawable(double y) const { return std::isfinite(y) && (!options_.log || y > 0); }
  double Scaled(double y) const { return options_.log ? std::log10(y) : y; }
  int DotX(double x) const { return static_cast<int>(std::lround(x_.Place(x) * (canvas_.dot_columns() - 1))); }
  int DotY(double y) const {
    return canvas_.dot_rows() - 1 - static_cast<int>(std::lround(y_.Place(Scaled(y)) * (canvas_.dot_rows() - 1)));
  }

  void Draw(size_t n) {
    bool connected = false;
    int last_x = 0, last_y = 0;
    for (const auto& [x, y] : series_[n].points) {
      if (!Drawable(y)) {
        connected = false;  // a gap, not a bridge
        continue;
      }
      const int at_x = DotX(x), at_y = DotY(y);
      canvas_.Line(connected ? last_x : at_x, connected ? last_y : at_y, at_x, at_y, static_cast<int>(n));
      connected = true;
      last_x = at_x;
      last_y = at_y;
    }
  }

  std::string Cell(int column, int row) const {
    int owner = canvas_.owner(column, row);
    if (owner < 0) return " ";
    size_t n = static_cast<size_t>(owner);
    const bool faint = canvas_.faint(column, row);
    if (letters_) return faint ? "." : Letter(n);
    const std::string mark = dotted_ ? Braille(canvas_.dots(column, row)) : faint ? "." : "*";
    return Paint(terminal_, faint ? Colour::kDim : SeriesColour(n), mark);
  }

  // The value that a row shows, where the axis has a label: top, bottom, and every fourth row between.
  std::string Label(int row) const {
    if (row != 0 && row != rows_ - 1 && (row % 4 != 0 || rows_ - 1 - row < 2)) return "";
    double value = y_.At(1 - static_cast<double>(row) / (rows_ - 1));
    return ShortNumber(options_.log ? std::pow(10, value) : value);
  }

  std::string Rows() {
    for (int row = 0; row < rows_; ++row) label_width_ = std::max(label_width_, DisplayWidth(Label(row)));
    std::string text;
    for (int row = 0; row < rows_; ++row) {
      std::string label = Label(row);
      const char* tick = options_.ascii ? (label.empty() ? "|" : "+") : (label.empty() ? "│" : "┤");
      std::string line;
      for (int column = 0; column < columns_; ++column) line += Cell(column, row);
      line.erase(line.find_last_not_of(' ') + 1);
      text += std::string(label_width_ - DisplayWidth(label), ' ') + label + " " + tick + line + "\n";
    }
    return text;
  }

  std::string Axis() const {
    std::string text = std::string(label_width_ + 1, ' ') + (options_.ascii ? "+" : "└");
    for (int i = 0; i < columns_; ++i) text += options_.ascii ? "-" : "─";
    std::string left = ShortX(x_.low);
    std::string right = ShortX(x_.high);
    std::string middle = options_.x_label;
    int sides = static_cast<int>(left.size() + right.size());
    int length = static_cast<int>(middle.size());
    // The middle stands in the middle of the axis, unless a side is too long for that.
    int before = std::max(1, (columns_ - length) / 2 - static_cast<int>(left.size()));
    int after = std::max(1, columns_ - sides - length - before);
    before = std::max(1, columns_ - sides - length - after);
    return text + "\n" + std::string(label_width_ + 2, ' ') + left + std::string(static_cast<size_t>(before), ' ') +
           middle + std::string(static_cast<size_t>(after), ' ') + right + "\n";
  }

  // Steps are whole numbers that must not be rounded.
  static std::string ShortX(double x) {
    return x == std::floor(x) && std::abs(x) < 1e15 ? std::to_string(static_cast<int64_t>(x)) : ShortNumber(x);
  }

  std::string LeftOut() const {
    std::string text;
    for (const PlotSeries& one : series_) {
      size_t not_finite = 0, not_positive = 0;
      double first = 0;
      for (const auto& [x, y] : one.points) {
        if (Drawable(y)) continue;
        if (not_finite + not_positive == 0) first = x;
        ++(std::isfinite(y) ? not_positive : not_finite);
      }
      if (not_finite + not_positive == 0) continue;
      std::string what = not_finite > 0 ? std::to_string(not_finite) + " NaN or infinite" : "";
      if (not_positive > 0) what += (what.empty() ? "" : ", ") + std::to_string(not_positive) + " not above zero";
      text += Paint(terminal_, Colour::kYellow, one.name + ": not drawn: " + what + ", the first at " + ShortX(first)) +
              "\n";
    }
    return text;
  }

  std::string Legend() const {
    std::string text;
    for (size_t n = 0; n < series_.size() && n < options_.legend_max; ++n) {
      std::string mark = letters_ ? Letter(n) : options_.ascii ? "*" : "━";
      std::string last =
          series_[n].points.empty() ? "no samples" : "last " + ShortNumber(series_[n].points.back().second);
      if (!series_[n].raw.empty()) last += ", unsmoothed " + ShortNumber(series_[n].raw.back().second);
      text += Paint(terminal_, SeriesColour(n), mark) + " " + series_[n].name + "  " + last + "\n";
    }
    return text;
  }

  const std::vector<PlotSeries>& series_;
  const PlotOptions& options_;
  const Terminal& terminal_;
  const bool letters_;
  const bool dotted_;
  Canvas canvas_;
  const int columns_, rows_;
  Range x_, y_;
  size_t label_width_ = 0;
};

}  // namespace

std::string DrawPlot(const std::vector<PlotSeries>& series, const PlotOptions& options, const Terminal& terminal) {
  return Plot(series, options, terminal).Text();
}

}  // namespace ikkuna::cli
