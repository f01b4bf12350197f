// Caller: who asks. daemon/service/roles.h finds it out.
//
// A plain value.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

namespace ikkuna {

// kRead: look at everything, change what is one's own. kControl: change everything.
enum class Role : uint8_t { kRead = 1, kControl = 2 };

struct Caller {
  std::string name;          // "uid:1000", "token", "certificate:anna"
  std::optional<uid_t> uid;  // as the kernel says; none: over a network
  Role role = Role::kRead;

  // May change what belongs to the user `owner`.
  bool MayChange(uid_t owner) const { return role == Role::kControl || uid == owner; }
};

}  // namespace ikkuna
