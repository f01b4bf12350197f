// How much is left of attempts that others continue.
//
// Pure function.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "daemon/model/status.h"

namespace ikkuna {

// From which step on an attempt was overtaken by a later one of its line; attempts that were not are left out. Where one
// goes back further than the one before it began, that one has nothing left of its own. One that has no values overtakes
// nothing: it may have died before its first step.
std::map<RunKey, uint64_t> OvertakenFrom(const std::vector<RunInfo>& runs);

}  // namespace ikkuna
