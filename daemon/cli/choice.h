// Which runs, ranks and series a command is about, by flags that are the same for every command.
//
// Thread rule: plain values; functions without state, which may ask the daemon.
#pragma once

#include <CLI/CLI.hpp>

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "daemon/cli/client.h"
#include "shared/base/result.h"

namespace ikkuna::cli {

// The rank of a series over all ranks of a run.
inline constexpr uint32_t kAllRanks = 0xffff'ffff;

// One run: --run, --attempt, --rank.
struct RunChoice {
  std::string run = "latest";
  std::optional<uint32_t> attempt;
  std::optional<uint32_t> rank;
};
void AddRunOptions(CLI::App* command, RunChoice* choice);

// Runs side by side: --run as often as there are runs, --attempt, and --rank with a number or `all`.
struct RunsChoice {
  std::vector<std::string> runs;  // empty: latest
  std::optional<uint32_t> attempt;
  std::string rank;  // empty: the lowest
};
void AddRunsOptions(CLI::App* command, RunsChoice* choice);

// The rank that is meant: of the last attempt and the lowest rank, unless told otherwise.
Result<v1::Run> ChooseRun(Client& client, const RunChoice& choice);

// A run's rank with the attempts that are one line: the one that was asked for, else the last and those that it
// continues.
struct RunLine {
  v1::Run run;  // its last attempt
  std::set<uint32_t> attempts;
  int64_t start_unix_ns = 0;   // of its first attempt
  bool whole_history = false;  // the attempts are all that there are
};
// Of the newest run of each name. A rank over all ranks (kAllRanks) goes along with the lowest.
Result<std::vector<RunLine>> ChooseLines(Client& client, const RunsChoice& choice);

// What is the same for all of the lines need not be said of each.
bool SeveralRuns(const std::vector<RunLine>& lines);
bool SeveralRanks(const std::vector<RunLine>& lines);
std::string RankText(uint32_t rank);  // "rank 3", "all ranks"
// "fashion", or the id where a run has no name; not escaped.
std::string RunName(const v1::Run& run);

// Which series: --tag, --root, --module, --param.
struct SeriesChoice {
  std::string tag, root, module, param;
};
void AddSeriesOptions(CLI::App* command, SeriesChoice* choice);
v1::SeriesFilter FilterOf(const v1::Run& run, const SeriesChoice& choice, const std::string& topic);
// The series of a line, as its last attempt that has any has them.
Result<std::vector<v1::SeriesSummary>> SeriesOf(Client& client, const RunLine& line, const SeriesChoice& choice,
                                                const std::string& topic);
// "features.0.weight weights_norm2 [test]": what tells series of one run apart. The default tag and the root `model`
// are left out. Escaped.
std::string SeriesName(const v1::SeriesKey& key);
// kNotFound: no series matches; names the topic that was probably meant.
Error NoSeries(Client& client, const v1::Run& run, const std::string& topic);
// kNotFound: no run has this name; names the one that was probably meant. `error` is what the daemon said.
Error NoRun(Client& client, const std::string& name, const Error& error);

// Which steps: --from-step, --to-step.
struct StepChoice {
  std::optional<uint64_t> from, to;
  Status Check() const;
};
void AddStepOptions(CLI::App* command, StepChoice* choice);

// How many points: --points.
void AddPointsOption(CLI::App* command, uint32_t* points, const char* help);

}  // namespace ikkuna::cli
