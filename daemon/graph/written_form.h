// The written form of a subscriber, its syntax alone: `norm(layer_gradients, order=2, module=features.*, as=head)`.
//
//   text       = subscriber { ";" subscriber } ; empty ones are skipped
//   subscriber = name [ "(" [ argument { "," argument } ] ")" ]
//   argument   = value | name "=" value ; inputs first, then options
//   value      = any text without , ( ) = ; " | a text in double quotes, in which "" is one quote
// Spaces around each part do not count. Thread rule: none, no state.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "shared/base/result.h"

namespace ikkuna::graph {

struct WrittenSubscriber {
  std::string name;
  std::vector<std::string> inputs;
  std::vector<std::pair<std::string, std::string>> options;
};

// A named maximum: 1,024 subscribers of 64 bytes each.
constexpr size_t kMaxWrittenBytes = 65'536;

// At least one; kInvalidArgument shows where the text breaks off.
Result<std::vector<WrittenSubscriber>> ParseWritten(std::string_view text);

// Parses back to the same; values are quoted where they need it.
std::string FormatWritten(const WrittenSubscriber& subscriber);

}  // namespace ikkuna::graph
