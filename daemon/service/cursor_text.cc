#include "daemon/service/cursor_text.h"

#include <charconv>

namespace ikkuna::service {

std::string ToText(const WatchCursor& cursor) { return UuidText(cursor.daemon) + ":" + std::to_string(cursor.position); }

std::optional<WatchCursor> ParseCursor(const std::string& text) {
  const size_t colon = text.find(':');
  if (colon == std::string::npos) return {};
  const std::optional<Uuid> daemon = ParseUuid(std::string_view(text).substr(0, colon));
  if (!daemon) return {};
  WatchCursor cursor{*daemon, 0};
  const char* end = text.data() + text.size();
  const auto [stop, code] = std::from_chars(text.data() + colon + 1, end, cursor.position);
  if (code != std::errc() || stop != end) return {};
  return cursor;
}

}  // namespace ikkuna::service
