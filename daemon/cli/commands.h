// The commands of `ikkuna`: each adds itself to the parser, and what it will do to the context when it was chosen.
//
// Owner: main. Thread rule: one thread.
#pragma once

#include <CLI/CLI.hpp>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

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
void AddSubscriberCommands(CLI::App& app, Context& context);  // subscribe, unsubscribe, subscribers, metrics
void AddEventsCommand(CLI::App& app, Context& context);
void AddControlCommands(CLI::App& app, Context& context);  // freeze, unfreeze, stop
void AddRunCommand(CLI::App& app, Context& context);
void AddUpCommands(CLI::App& app, Context& context);  // up, down

// ---- Shared by the commands ----

// To standard output. A failure is found when the program flushes at its end.
void Print(const std::string& text);

// Which run: --run, --attempt, --rank.
struct RunChoice {
  std::string run = "latest";
  std::optional<uint32_t> attempt;
  std::optional<uint32_t> rank;
};
void AddRunOptions(CLI::App* command, RunChoice* choice);
// The rank that is meant: of the last attempt and the lowest rank, unless told otherwise.
Result<v1::Run> ChooseRun(Client& client, const RunChoice& choice);
// "fashion", or the id where a run has no name.
std::string RunName(const v1::Run& run);

// Which series: --tag, --root, --module, --param.
struct SeriesChoice {
  std::string tag, root, module, param;
};
void AddSeriesOptions(CLI::App* command, SeriesChoice* choice);
v1::SeriesFilter FilterOf(const v1::Run& run, const SeriesChoice& choice, const std::string& topic);
// "features.0.weight weights_norm2 [test]": what tells series of one run apart. The default tag and the root `model`
// are left out.
std::string SeriesName(const v1::SeriesKey& key);
// One line, with its end.
std::string EventLine(const Terminal& terminal, const v1::Event& event);
// kNotFound: no series matches; says what to do.
Error NoSeries(const v1::Run& run, const std::string& topic);

}  // namespace ikkuna::cli
