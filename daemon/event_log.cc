#include "daemon/event_log.h"

#include <spdlog/spdlog.h>

namespace ikkuna {

namespace {

// What a peer calls itself stays one line and moves no cursor: control characters are shown, not obeyed.
std::string Escaped(const std::string& text) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string shown;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\n') {
      shown += "\\n";
    } else if (byte < 0x20 || byte == 0x7f) {
      shown += {'\\', 'x', kDigits[byte >> 4], kDigits[byte & 15]};
    } else {
      shown += c;
    }
  }
  return shown;
}

}  // namespace

void LogEvent(const Event& event) {
  const auto level = event.severity == Severity::kError     ? spdlog::level::err
                     : event.severity == Severity::kWarning ? spdlog::level::warn
                                                            : spdlog::level::info;
  spdlog::log(level, "{}: {}", event.kind, Escaped(event.text));
}

}  // namespace ikkuna
