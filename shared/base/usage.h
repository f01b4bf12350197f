// What a program says to a command line that it does not understand; the one header here that needs CLI11.
//
// Thread rule: functions without state.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "shared/base/suggestion.h"

namespace ikkuna {

// "there is no flag '--lgo'; did you mean '--log'?" for the first word that `app` did not know, or the error's own
// text. A word that is unknown explains why another is missing, so it comes first.
inline std::string UsageError(const CLI::App& app, const CLI::ParseError& error) {
  const bool about_words = dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr ||
                           dynamic_cast<const CLI::RequiredError*>(&error) != nullptr;
  const CLI::App* at = &app;  // the command that was chosen, down to the last
  std::vector<std::string> flags, unknown;
  while (true) {
    for (const CLI::Option* option : at->get_options()) {
      for (const std::string& name : option->get_lnames()) flags.push_back("--" + name);
    }
    for (const std::string& word : at->remaining()) unknown.push_back(word);
    if (at->get_subcommands().empty()) break;
    at = at->get_subcommands().front();
  }
  if (const auto* conversion = dynamic_cast<const CLI::ConversionError*>(&error)) {
    // "Could not convert: --rank = first": all that these programs convert are numbers.
    std::string text = conversion->what();
    const std::string_view before = "Could not convert: ";
    const size_t equals = text.find(" = ");
    if (text.rfind(before, 0) == 0 && equals != std::string::npos) {
      return text.substr(before.size(), equals - before.size()) + ": '" + text.substr(equals + 3) +
             "' is no number that it takes";
    }
  }
  if (!about_words || unknown.empty()) return error.what();
  // A word with a dash is wrong by itself; one without may only be the value of a flag that was not understood.
  std::string word = unknown.front();
  for (const std::string& one : unknown) {
    if (one.size() > 1 && one[0] == '-') {
      word = one;
      break;
    }
  }
  if (word.size() > 1 && word[0] == '-') {
    word = word.substr(0, word.find('='));
    return "there is no flag '" + word + "'" + Suggestion(word, flags);
  }
  std::vector<std::string> commands;
  for (const CLI::App* command : at->get_subcommands([](const CLI::App*) { return true; })) {
    commands.push_back(command->get_name());
  }
  if (commands.empty()) return "'" + word + "' is one word too many.";
  return "there is no command '" + word + "'" + Suggestion(word, commands);
}

// A number above `low`, or from it on where `low_too`. CLI11's own say it with all digits of the greatest number.
inline CLI::Validator NumberAbove(double low, bool low_too) {
  return CLI::Validator(
      [low, low_too](std::string& text) {
        double value = 0;
        if (CLI::detail::lexical_cast(text, value) && (low_too ? value >= low : value > low)) return std::string();
        char wanted[64];
        std::snprintf(wanted, sizeof wanted, low_too ? "%g or more" : "a number above %g", low);
        return "'" + text + "' is not " + wanted;
      },
      low_too ? "NONNEGATIVE" : "POSITIVE");
}

}  // namespace ikkuna
