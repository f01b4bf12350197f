// The table of the daemon's options: one row for each, from which flags, file reading and printing are made.
//
// Thread rule: constant after first use.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "daemon/config.h"
#include "shared/base/result.h"

namespace ikkuna {

// A value as a flag or the file gives it.
using OptionValue = std::variant<bool, int64_t, double, std::string, std::vector<std::string>>;

enum class OptionKind { kSwitch, kInteger, kNumber, kText, kTexts };

// When a value that changed in the file takes effect.
enum class TakesEffect {
  kAtReload,  // SIGHUP
  kAtStart,   // the next start of the daemon; a reload says so
};

struct ConfigOption {
  const char* key;  // in the file; the flag is the same with '-' for '_'
  OptionKind kind;
  const char* argument;  // what the help calls the value; empty for switches
  const char* help;
  // Checks and stores. The error says what is wrong with the value, without naming the option.
  Status (*set)(Config& config, const OptionValue& value);
  OptionValue (*get)(const Config& config);
  TakesEffect takes_effect = TakesEffect::kAtStart;
};

const std::vector<ConfigOption>& ConfigOptions();
std::string FlagOf(const ConfigOption& option);
const char* KindName(OptionKind kind);

// "1%", "0.25%" or "off" to parts per million, and back.
Result<uint32_t> ParseBudget(const std::string& text);
std::string BudgetText(uint32_t ppm);

}  // namespace ikkuna
