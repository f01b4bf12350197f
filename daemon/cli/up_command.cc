// ikkuna up, ikkuna down: a daemon that stays while there is something to watch.
#include <iostream>
#include <memory>
#include <utility>

#include "daemon/cli/bring_up.h"
#include "daemon/cli/commands.h"
#include "shared/base/usage.h"

namespace ikkuna::cli {
namespace {

constexpr double kDownSeconds = 120;

Status RefuseAddress(const Context& context, const char* command) {
  if (context.connection.address.empty()) return {};
  return Error{ErrorCode::kInvalidArgument, std::string(command) +
                                                " is for the daemon of this machine's directory of sockets; set "
                                                "IKKUNA_DIR for another one and leave --address out"};
}

Result<int> Up(const Context& context, const UpOptions& options) {
  if (auto right = RefuseAddress(context, "up"); !right) return right.error();
  auto served = BringUp(OptionsOf(options, context), nullptr);
  if (!served) return served.error();
  std::string text = "ikkuna-daemon";
  if (served->pid > 0) text += " (process " + std::to_string(served->pid) + ")";
  text += served->started ? " was started and serves '" : " serves '";
  text += served->directory + "'";
  if (!served->data_directory.empty()) text += ", runs are in '" + served->data_directory + "'";
  Print(text + "\n");
  if (served->started) {
    served->started->LetGo();
  } else if (!options.daemon_args.empty()) {
    std::cerr << "ikkuna: --daemon-arg is for a daemon that is started; this one was there already\n";
  }
  return kExitOk;
}

Result<int> Down(const Context& context, double timeout_seconds) {
  if (auto right = RefuseAddress(context, "down"); !right) return right.error();
  auto text = BringDown(timeout_seconds);
  if (!text) return text.error();
  Print(*text + "\n");
  return kExitOk;
}

}  // namespace

void AddUpCommands(CLI::App& app, Context& context) {
  auto options = std::make_shared<UpOptions>();
  CLI::App* up = app.add_subcommand("up", "Starts the daemon, unless it runs already");
  AddUpOptions(up, options.get());
  up->footer(
      "It returns when trainers and clients are let in. However many are started at once, one daemon comes of it.\n\n"
      "Examples:\n  ikkuna up\n  ikkuna up --data-dir runs --linger 0\n  ikkuna up --daemon-arg=--budget=off");
  up->callback([&context, options] { context.chosen = [&context, options] { return Up(context, *options); }; });

  auto timeout_seconds = std::make_shared<double>(kDownSeconds);
  CLI::App* down = app.add_subcommand("down", "Ends the daemon in order, and waits until everything is kept");
  down->add_option("--timeout", *timeout_seconds, "How long to wait for its end")
      ->type_name("SECONDS")
      ->capture_default_str()
      ->check(NumberAbove(0, false));
  down->footer("Where none runs there is nothing to do: exit code 0.\n\nExamples:\n  ikkuna down");
  down->callback([&context, timeout_seconds] {
    context.chosen = [&context, timeout_seconds] { return Down(context, *timeout_seconds); };
  });
}

}  // namespace ikkuna::cli
