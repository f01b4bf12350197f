#include "daemon/cli/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>

#include "daemon/model/counted.h"
#include "shared/base/utf8.h"

namespace ikkuna::cli {
namespace {

bool IsSet(const char* variable) {
  const char* value = std::getenv(variable);
  return value != nullptr && *value != '\0';
}

bool LocaleIsUtf8() {
  for (const char* variable : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    if (!IsSet(variable)) continue;
    std::string value = std::getenv(variable);
    std::transform(value.begin(), value.end(), value.begin(), [](unsigned char c) { return std::tolower(c); });
    // "C" and "POSIX" are what containers have, on terminals that know UTF-8.
    return value == "c" || value == "posix" || value.find("utf-8") != std::string::npos ||
           value.find("utf8") != std::string::npos;
  }
  return true;
}

std::string NotFinite(double value) { return std::isnan(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity"; }

std::string Printed(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

std::string Padded(const std::string& text, size_t width, bool right) {
  size_t used = DisplayWidth(text);
  std::string blanks(width > used ? width - used : 0, ' ');
  return right ? blanks + text : text + blanks;
}

// What a terminal acts on instead of showing it, beyond ASCII: C1 controls, line separators, marks that turn the
// direction of what follows (a name could pretend to be another).
bool IsUnseen(uint32_t code) {
  return (code >= 0x80 && code < 0xa0) || (code >= 0x200e && code <= 0x200f) || (code >= 0x2028 && code <= 0x202e) ||
         (code >= 0x2066 && code <= 0x2069) || code == 0xfeff;
}

std::string WithoutTrailingBlanks(std::string line) {
  line.erase(line.find_last_not_of(' ') + 1);
  return line;
}

}  // namespace

Terminal DetectTerminal() {
  Terminal terminal;
  terminal.interactive = ::isatty(STDOUT_FILENO) == 1;
  const char* term = std::getenv("TERM");
  bool dumb = term != nullptr && std::string(term) == "dumb";
  terminal.colour = terminal.interactive && !IsSet("NO_COLOR") && !dumb;
  terminal.utf8 = LocaleIsUtf8();
  winsize size{};
  if (terminal.interactive && ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
    terminal.columns = size.ws_col;
    terminal.rows = size.ws_row;
  }
  return terminal;
}

std::string Paint(const Terminal& terminal, Colour colour, const std::string& text) {
  static constexpr const char* kCodes[] = {"0", "1", "2", "31", "32", "33", "34", "35", "36"};
  if (!terminal.colour || colour == Colour::kPlain || text.empty()) return text;
  return std::string("\x1b[") + kCodes[static_cast<size_t>(colour)] + "m" + text + "\x1b[0m";
}

Colour SeriesColour(size_t n) {
  static constexpr Colour kColours[] = {Colour::kCyan,    Colour::kYellow, Colour::kGreen,
                                        Colour::kMagenta, Colour::kRed,    Colour::kBlue};
  return kColours[n % (sizeof kColours / sizeof *kColours)];
}

std::string ShortNumber(double value) {
  if (!std::isfinite(value)) return NotFinite(value);
  return Printed("%.4g", value);
}

std::string ExactNumber(double value) {
  if (!std::isfinite(value)) return NotFinite(value);
  char text[64];
  auto [end, code] = std::to_chars(text, text + sizeof text, value);
  return code == std::errc() ? std::string(text, end) : Printed("%.17g", value);
}

std::string Count(uint64_t value) {
  std::string digits = std::to_string(value);
  for (int at = static_cast<int>(digits.size()) - 3; at > 0; at -= 3) digits.insert(static_cast<size_t>(at), ",");
  return digits;
}

std::string Counted(uint64_t value, std::string_view one) { return Count(value) + " " + Plural(value, one); }

std::string Percent(double share) {
  if (!std::isfinite(share)) return NotFinite(share);
  // A share below one but close to it is not shown as all.
  double percent = share * 100;
  if (percent > 99.9 && percent < 100) return Printed("%.3f", std::min(percent, 99.999)) + "%";
  return Printed(percent == 0 || percent >= 10 ? "%.1f" : "%.2f", percent) + "%";
}

std::string Bytes(uint64_t bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < sizeof kUnits / sizeof *kUnits) {
    value /= 1024;
    ++unit;
  }
  return Printed(unit == 0 ? "%.0f" : "%.1f", value) + " " + kUnits[unit];
}

std::string Duration(double seconds) {
  if (!std::isfinite(seconds)) return NotFinite(seconds);
  if (seconds < 60) return Printed("%.1f s", seconds);
  auto whole = static_cast<uint64_t>(seconds);
  char text[64];
  if (whole < 3600) {
    std::snprintf(text, sizeof text, "%d min %02d s", static_cast<int>(whole / 60), static_cast<int>(whole % 60));
  } else {
    std::snprintf(text, sizeof text, "%llu h %02d min", static_cast<unsigned long long>(whole / 3600),
                  static_cast<int>(whole % 3600 / 60));
  }
  return text;
}

std::string LocalTime(int64_t unix_ns) {
  if (unix_ns == 0) return "-";
  std::time_t seconds = unix_ns / 1'000'000'000;
  std::tm parts{};
  if (::localtime_r(&seconds, &parts) == nullptr) return "-";
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &parts);
  return text;
}

std::string PlainText(const std::string& text) {
  const std::string clean = CleanUtf8(text, text.size());
  std::string plain;
  for (size_t at = 0; at < clean.size();) {
    const auto first = static_cast<unsigned char>(clean[at]);
    const size_t length = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    uint32_t code = length == 1 ? first : first & (0x7fu >> length);
    for (size_t i = 1; i < length; ++i) code = code << 6 | (static_cast<unsigned char>(clean[at + i]) & 0x3f);
    char escaped[16] = "";
    if (code == '\n') {
      std::snprintf(escaped, sizeof escaped, "\\n");
    } else if (code == '\t') {
      std::snprintf(escaped, sizeof escaped, "\\t");
    } else if (code < 0x20 || code == 0x7f) {
      std::snprintf(escaped, sizeof escaped, "\\x%02x", code);
    } else if (IsUnseen(code)) {
      std::snprintf(escaped, sizeof escaped, "\\u%04x", code);
    }
    plain += *escaped != '\0' ? std::string(escaped) : clean.substr(at, length);
    at += length;
  }
  return plain;
}

size_t DisplayWidth(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

std::string TextTable::GroupLine(const std::vector<size_t>& widths) const {
  std::string line;
  for (size_t i = 0; i < columns_.size();) {
    size_t end = i + 1;
    size_t width = widths[i];
    for (; end < columns_.size() && columns_[end].group == columns_[i].group; ++end) width += 2 + widths[end];
    line += Padded(columns_[i].group, width, false) + "  ";
    i = end;
  }
  return WithoutTrailingBlanks(line);
}

std::vector<size_t> TextTable::Widths() const {
  std::vector<size_t> widths;
  for (const Column& column : columns_) widths.push_back(DisplayWidth(column.name));
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size() && i < widths.size(); ++i) widths[i] = std::max(widths[i], DisplayWidth(row[i]));
  }
  return widths;
}

std::string TextTable::Line(const std::vector<std::string>& cells, const std::vector<size_t>& widths) const {
  std::string text;
  for (size_t i = 0; i < columns_.size(); ++i) {
    text += Padded(i < cells.size() ? cells[i] : std::string(), widths[i], columns_[i].right) + "  ";
  }
  return WithoutTrailingBlanks(text);
}

std::string TextTable::Heading(const Terminal& terminal, const std::vector<size_t>& widths) const {
  std::vector<std::string> names;
  for (const Column& column : columns_) names.push_back(column.name);
  return Paint(terminal, Colour::kBold, Line(names, widths)) + "\n";
}

std::string TextTable::Text(const Terminal& terminal, size_t rows_max) const {
  std::vector<size_t> widths = Widths();
  bool grouped =
      std::any_of(columns_.begin(), columns_.end(), [](const Column& column) { return !column.group.empty(); });
  // A heading that is wider than its columns widens the last of them.
  for (size_t i = 0; grouped && i < columns_.size();) {
    size_t end = i + 1;
    size_t width = widths[i];
    for (; end < columns_.size() && columns_[end].group == columns_[i].group; ++end) width += 2 + widths[end];
    size_t wanted = DisplayWidth(columns_[i].group);
    if (wanted > width) widths[end - 1] += wanted - width;
    i = end;
  }
  std::string text;
  if (grouped) text += Paint(terminal, Colour::kBold, GroupLine(widths)) + "\n";
  text += Heading(terminal, widths);
  size_t shown = rows_max == 0 ? rows_.size() : std::min(rows_max, rows_.size());
  for (size_t r = 0; r < shown; ++r) text += Line(rows_[r], widths) + "\n";
  if (shown < rows_.size()) text += "... " + std::to_string(rows_.size() - shown) + " more\n";
  return text;
}

std::string TextTable::Part(const Terminal& terminal, std::vector<size_t>* widths, bool heading) const {
  std::vector<size_t> own = Widths();
  widths->resize(own.size());
  for (size_t i = 0; i < own.size(); ++i) (*widths)[i] = std::max((*widths)[i], own[i]);
  std::string text = heading ? Heading(terminal, *widths) : "";
  for (const auto& row : rows_) text += Line(row, *widths) + "\n";
  return text;
}

}  // namespace ikkuna::cli
