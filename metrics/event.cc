#include "metrics/event.h"

namespace ikkuna {

std::string_view ActionTypeName(Action::Type type) {
  switch (type) {
    case Action::Type::kFreeze:
      return "freeze";
    case Action::Type::kStop:
      return "stop";
    case Action::Type::kCapture:
      return "capture";
    case Action::Type::kExec:
      return "exec";
  }
  return "invalid";
}

}  // namespace ikkuna
