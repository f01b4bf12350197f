// A WatchCursor as clients hold it: a text that says nothing to them.
//
// Thread rule: functions without state.
#pragma once

#include <optional>
#include <string>

#include "daemon/model/watch.h"

namespace ikkuna::service {

std::string ToText(const WatchCursor& cursor);  // "<uuid>:<position>"
std::optional<WatchCursor> ParseCursor(const std::string& text);

}  // namespace ikkuna::service
