// Terminal: what standard output is, and texts for people: numbers, times, tables, colours.
//
// Thread rule: values and functions without state.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ikkuna::cli {

struct Terminal {
  bool interactive = false;  // standard output is a terminal
  bool colour = false;       // interactive, and neither NO_COLOR nor TERM=dumb is set
  bool utf8 = true;          // what the locale says; UTF-8 if it says nothing
  int columns = 100;
  int rows = 40;
};
Terminal DetectTerminal();

enum class Colour { kPlain, kBold, kDim, kRed, kGreen, kYellow, kBlue, kMagenta, kCyan };
// `text` as it is where the terminal takes no colours.
std::string Paint(const Terminal& terminal, Colour colour, const std::string& text);
// The colour of the n-th series of a plot.
Colour SeriesColour(size_t n);

// "0.1234", "1.234e-05", "NaN", "-Infinity": up to four digits, to be read.
std::string ShortNumber(double value);
// Enough digits to get the same double back.
std::string ExactNumber(double value);
std::string Count(uint64_t value);       // "1,234,567"
std::string Counted(uint64_t value, std::string_view one);  // "1 value", "1,234 values"
std::string Percent(double share);       // "12.3%"
std::string Bytes(uint64_t bytes);       // "1.5 MiB"
std::string Duration(double seconds);    // "2 h 03 min", "4.2 s"
std::string LocalTime(int64_t unix_ns);  // "2026-03-01 12:00:00"; "-" for 0
// A peer's text as it may go to a terminal: control characters as \n, \t, \x1b, \u202e.
std::string PlainText(const std::string& text);

// Columns as wide as their widest cell. Cells may hold UTF-8 but no colours.
class TextTable {
 public:
  struct Column {
    std::string name;
    bool right = false;   // numbers
    std::string group{};  // equal neighbours share one heading above theirs
  };
  explicit TextTable(std::vector<Column> columns) : columns_(std::move(columns)) {}
  void Add(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  bool empty() const { return rows_.empty(); }
  // At most `rows_max` rows (0: all); says how many are left out.
  std::string Text(const Terminal& terminal, size_t rows_max = 0) const;
  // A part of a table that comes in parts, in columns as wide as those of the parts before, which `widths` hands on.
  std::string Part(const Terminal& terminal, std::vector<size_t>* widths, bool heading) const;

 private:
  std::vector<size_t> Widths() const;
  std::string Line(const std::vector<std::string>& cells, const std::vector<size_t>& widths) const;
  std::string Heading(const Terminal& terminal, const std::vector<size_t>& widths) const;
  std::string GroupLine(const std::vector<size_t>& widths) const;

  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

// Places that a UTF-8 text takes, one for each code point.
size_t DisplayWidth(const std::string& text);

}  // namespace ikkuna::cli
