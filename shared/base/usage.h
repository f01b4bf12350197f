// What a program says to a command line that it does not understand; the one header here that needs CLI11.
//
// Thread rule: functions without state.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
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

}  // namespace ikkuna
