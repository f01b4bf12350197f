#include "daemon/event_log.h"

#include <spdlog/spdlog.h>

namespace ikkuna {

void LogEvent(const Event& event) {
  const auto level = event.severity == Severity::kError     ? spdlog::level::err
                     : event.severity == Severity::kWarning ? spdlog::level::warn
                                                            : spdlog::level::info;
  spdlog::log(level, "{}: {}", event.kind, event.text);
}

}  // namespace ikkuna
