// ikkuna histogram: the histograms of one step as bars, or those of all steps as a map.
#include "daemon/cli/histogram_text.h"

#include <algorithm>
#include <utility>

#include "daemon/cli/commands.h"
#include "daemon/cli/json.h"
#include "daemon/cli/samples.h"
#include "daemon/service/convert_values.h"

namespace ikkuna::cli {
namespace {

constexpr size_t kMaxSeries = 20;        // what a person scrolls through
constexpr size_t kMaxMapSteps = 20'000;  // 10 MB of 64 bins

struct HistogramArguments {
  std::string topic;
  RunsChoice runs;
  SampleQuery query;
  std::optional<uint64_t> step;
  bool map = false;
  bool json = false;
  HistogramOptions shape;
};

struct Found {
  RunLine line;
  v1::SeriesSummary summary;
};

std::string TitleOf(const std::vector<RunLine>& lines, const RunLine& line, const v1::Series& series) {
  std::string title = SeriesName(series.key());
  if (SeveralRuns(lines)) title = PlainText(RunName(line.run)) + ": " + title;
  if (SeveralRanks(lines)) title += " (" + RankText(line.run.key().rank()) + ")";
  return title;
}

class Shower {
 public:
  Shower(const HistogramArguments& options, const std::vector<RunLine>& lines, const Terminal& terminal)
      : options_(options), lines_(lines), terminal_(terminal) {}

  // Every histogram of one series, in the order of their steps.
  void Add(const v1::Columns& columns) {
    if (options_.json) {
      for (size_t i = 0; i < Size(columns); ++i) {
        Json json = {{"key", ToJson(columns.series().key())},
                     {"step", At(columns.steps(), i)},
                     {"epoch", At(columns.epochs(), i)},
                     {"unix_ns", At(columns.unix_ns(), i)},
                     {"histogram", ToJson(columns.values(static_cast<int>(i)).histogram())}};
        std::string text = JsonLine(json);
        text.pop_back();
        if (options_.map) PrintJson(text);
        last_ = std::move(text);
      }
      return;
    }
    for (size_t i = 0; i < Size(columns); ++i) {
      if (!options_.map) steps_.clear();  // the last one is shown
      if (steps_.size() >= kMaxMapSteps) {
        // Every second one stays: a map has fewer columns anyhow.
        size_t kept = 0;
        for (size_t from = 0; from < steps_.size(); from += 2) steps_[kept++] = std::move(steps_[from]);
        steps_.resize(kept);
      }
      steps_.emplace_back(At(columns.steps(), i), service::FromProto(columns.values(static_cast<int>(i)).histogram()));
    }
  }

  // False: there was none.
  bool Finish(const RunLine& line, const v1::Series& series) {
    if (options_.json) {
      if (!options_.map && !last_.empty()) PrintJson(last_);
      return !std::exchange(last_, {}).empty();
    }
    if (steps_.empty()) return false;
    std::string title = TitleOf(lines_, line, series);
    if (!options_.map) title += ", step " + Count(steps_.back().first);
    Print((any_ ? "\n" : "") + Paint(terminal_, Colour::kBold, title) + "\n");
    Print(options_.map ? HistogramMap(steps_, options_.shape, terminal_)
                       : HistogramText(steps_.back().second, options_.shape, terminal_));
    any_ = true;
    steps_.clear();
    return true;
  }

  void End() {
    if (options_.json) Print(any_ ? "]\n" : "[]\n");
  }

 private:
  void PrintJson(const std::string& text) {
    Print((any_ ? ",\n" : "[") + text);
    any_ = true;
  }
  static size_t Size(const v1::Columns& columns) {
    return std::min(SizeOf(columns), static_cast<size_t>(columns.values_size()));
  }

  const HistogramArguments& options_;
  const std::vector<RunLine>& lines_;
  const Terminal& terminal_;
  std::vector<std::pair<uint64_t, Histogram>> steps_;
  std::string last_;  // of the series, as JSON
  bool any_ = false;
};

Result<std::vector<Found>> FindHistograms(Client& client, const std::vector<RunLine>& lines, const SampleQuery& query) {
  std::vector<Found> found;
  for (const RunLine& line : lines) {
    Result<std::vector<v1::SeriesSummary>> all = SeriesOf(client, line, query.series, query.topic);
    if (!all) return all.error();
    for (v1::SeriesSummary& one : *all) {
      if (one.series().type() == v1::VALUE_TYPE_HISTOGRAM) found.push_back({line, std::move(one)});
    }
  }
  return found;
}

Result<int> RunHistogram(Context& context, HistogramArguments options) {
  if (Status in_order = options.query.steps.Check(); !in_order) return in_order.error();
  const bool ranged = options.query.steps.from || options.query.steps.to;
  if (options.step && (options.map || ranged)) {
    return Error{ErrorCode::kInvalidArgument,
                 "--step shows one histogram, --map all of them and --from-step and --to-step the last of a range; leave "
                 "out one"};
  }
  Result<std::unique_ptr<Client>> client = context.Connect();
  if (!client) return client.error();
  Result<std::vector<RunLine>> lines = ChooseLines(**client, options.runs);
  if (!lines) return lines.error();
  options.shape.ascii = options.shape.ascii || !context.terminal.utf8;
  Result<std::vector<Found>> found = FindHistograms(**client, *lines, options.query);
  if (!found) return found.error();
  if (found->empty()) {
    return Error{ErrorCode::kNotFound,
                 "run '" + RunName(lines->front().run) + "' has no histograms '" + options.query.topic +
                     "'; 'ikkuna metrics' lists what can be subscribed to, and a client may publish some"};
  }
  const size_t matching = found->size();
  if (!options.json && matching > kMaxSeries) found->resize(kMaxSeries);
  Shower shower(options, *lines, context.terminal);
  bool any = false;
  for (const Found& one : *found) {
    const v1::SeriesKey& key = one.summary.series().key();
    SampleQuery query = options.query;
    query.types = {v1::VALUE_TYPE_HISTOGRAM};
    if (options.step) query.steps.from = query.steps.to = *options.step;
    RunLine line = one.line;
    if (!options.map && !options.step && !ranged) {
      query.steps.from = query.steps.to = one.summary.last_step();
      line.run.mutable_key()->set_attempt(key.run().attempt());
      line.attempts = {key.run().attempt()};
    }
    Status done = ReadSamples(**client, line, query, [&](const v1::Columns& columns) -> Result<bool> {
      v1::SeriesKey other = columns.series().key();
      *other.mutable_run() = key.run();  // an earlier attempt's belongs to the line
      if (other.SerializeAsString() == key.SerializeAsString()) shower.Add(columns);
      return OutputGoesOn();
    });
    if (!done) return done.error();
    any = shower.Finish(one.line, one.summary.series()) || any;
  }
  if (!any && (options.step || ranged)) {
    const v1::SeriesSummary& first = found->front().summary;
    return Error{ErrorCode::kNotFound, SeriesName(first.series().key()) + " has no histogram of " +
                                           (ranged ? "these steps" : "step " + std::to_string(*options.step)) +
                                           "; its steps are within " + std::to_string(first.first_step()) + " to " +
                                           std::to_string(first.last_step())};
  }
  shower.End();
  if (!options.json && matching > kMaxSeries) {
    Print("\nThe first " + std::to_string(kMaxSeries) + " of " + std::to_string(matching) +
          " series; --module picks others.\n");
  }
  return kExitOk;
}

}  // namespace

void AddHistogramCommand(CLI::App& app, Context& context) {
  auto options = std::make_shared<HistogramArguments>();
  options->shape.width = std::max(20, std::min(context.terminal.columns - 30, 60));
  CLI::App* command = app.add_subcommand("histogram", "Histograms of a step as bars, or of all steps as a map");
  command->add_option("TOPIC", options->query.topic, "Topics, as a pattern; default: all that are histograms");
  AddSeriesOptions(command, &options->query.series);
  AddRunsOptions(command, &options->runs);
  command
      ->add_option("--step", options->step,
                   "The step to show; default: the last one of each series, within --from-step and --to-step")
      ->type_name("N");
  command->add_flag("--map", options->map, "Steps to the right, values upwards; the darker, the more");
  AddStepOptions(command, &options->query.steps);
  command->add_option("--width", options->shape.width, "Characters across")
      ->check(CLI::Range(8, 1000))
      ->capture_default_str();
  command->add_option("--height", options->shape.height, "Most lines of one")
      ->check(CLI::Range(2, 500))
      ->capture_default_str();
  command->add_flag("--ascii", options->shape.ascii, "No characters beyond ASCII");
  command->add_flag("--json", options->json, "As JSON");
  command->footer(
      "Examples:\n  ikkuna histogram --module fc1\n  ikkuna histogram weights_histogram --module fc1 --step 1000\n"
      "  ikkuna histogram activations_histogram --module 'layers.*' --map");
  command->callback(
      [&context, options] { context.chosen = [&context, options] { return RunHistogram(context, *options); }; });
}

}  // namespace ikkuna::cli
