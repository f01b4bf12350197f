// The name that was probably meant by one that does not exist.
//
// Thread rule: none, no state.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace ikkuna {

// How a sentence about an unknown name ends: "; did you mean 'weights'?", or "." when no candidate is near.
std::string Suggestion(std::string_view name, std::span<const std::string> candidates);

}  // namespace ikkuna
