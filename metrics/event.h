// What a subscriber says beside its values: an event for people, and what is to be done about it.
//
// Plain values. Thread rule: none.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace ikkuna {

enum class Severity : uint8_t { kInfo = 1, kWarning = 2, kError = 3 };

// What an event asks for. The trainer may have forbidden it; `exec` names a command of the daemon's own configuration.
struct Action {
  enum class Type : uint8_t { kFreeze = 1, kStop = 2, kCapture = 3, kExec = 4 };
  Type type = Type::kStop;
  std::string modules;  // patterns; freeze, capture
  uint32_t steps = 1;   // of the root, from now on; capture
  std::string command;  // exec
  bool operator==(const Action&) const = default;
};
std::string_view ActionTypeName(Action::Type type);  // "freeze", "stop", "capture", "exec"

}  // namespace ikkuna
