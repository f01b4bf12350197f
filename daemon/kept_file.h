// KeptFile: a small file in which the daemon keeps something over restarts, in TOML: written whole or not at all, and
// when it cannot be understood moved aside, so that nobody's data is written over.
//
// Thread rule: none, no state; one writer a path at a time.
#pragma once

#include <optional>
#include <string>

#include "shared/base/result.h"

namespace ikkuna {

// As a TOML text in quotes.
std::string TomlText(const std::string& text);

// Nothing: there is no such file.
Result<std::optional<std::string>> ReadKeptFile(const std::string& path);
// For nobody else to read. On the disk when it returns.
Status WriteKeptFile(const std::string& path, const std::string& text);
// Renames it to "<path>.broken", replacing an earlier one of that name; returns the new name, empty if that failed.
std::string MoveAside(const std::string& path);

}  // namespace ikkuna
