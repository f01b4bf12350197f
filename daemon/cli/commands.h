// The commands of `ikkuna`: each adds itself to the parser, and what it will do to the context when it was chosen.
//
// Owner: main. Thread rule: one thread.
#pragma once

#include <CLI/CLI.hpp>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "daemon/cli/choice.h"
#include "daemon/cli/client.h"
#include "daemon/cli/terminal.h"
#include "shared/base/result.h"

namespace ikkuna::cli {

// Exit codes; those of `run` are its job's.
constexpr int kExitOk = 0;
constexpr int kExitFailed = 1;       // the daemon refused, or a file cannot be written
constexpr int kExitUsage = 2;        // a flag or an argument is wrong
constexpr int kExitUnavailable = 3;  // no daemon answers, or it has gone

struct Context {
  ConnectionOptions connection;
  Terminal terminal;
  std::function<Result<int>()> chosen;  // the exit code

  // To a daemon, or to what --data-dir names; says on standard error what of that cannot be read.
  Result<std::unique_ptr<Client>> Connect() const;
  // Refused with --data-dir: `what` is nothing that files answer.
  Result<std::unique_ptr<Client>> ConnectToDaemon(const char* what) const;
};

// Parses, runs, prints what failed, and returns the exit code. `version` is for --version.
int RunCli(int argc, char** argv, const char* version);

void AddStatusCommand(CLI::App& app, Context& context);
void AddRunsCommand(CLI::App& app, Context& context);
void AddSeriesCommand(CLI::App& app, Context& context);
void AddModulesCommand(CLI::App& app, Context& context);
void AddTableCommand(CLI::App& app, Context& context);
void AddTopCommand(CLI::App& app, Context& context);
void AddWatchCommand(CLI::App& app, Context& context);
void AddPlotCommand(CLI::App& app, Context& context);
void AddReadCommand(CLI::App& app, Context& context);
void AddTextsCommand(CLI::App& app, Context& context);
void AddHistogramCommand(CLI::App& app, Context& context);
void AddExportCommand(CLI::App& app, Context& context);
void AddImportCommand(CLI::App& app, Context& context);
void AddDeleteCommand(CLI::App& app, Context& context);
void AddTagCommand(CLI::App& app, Context& context);
void AddWhyCommand(CLI::App& app, Context& context);
void AddPublishCommand(CLI::App& app, Context& context);
void AddSubscriberCommands(CLI::App& app, Context& context);  // subscribe, unsubscribe, subscribers, metrics
void AddEventsCommand(CLI::App& app, Context& context);
void AddControlCommands(CLI::App& app, Context& context);  // freeze, unfreeze, stop
void AddRunCommand(CLI::App& app, Context& context);
void AddUpCommands(CLI::App& app, Context& context);  // up, down

// ---- Shared by the commands ----

// To standard output. A failure is found when the program flushes at its end.
void Print(const std::string& text);
// False once standard output takes nothing more (| head): what is streamed may end.
bool OutputGoesOn();

// One line, with its end.
std::string EventLine(const Terminal& terminal, const v1::Event& event);

}  // namespace ikkuna::cli
