// ikkuna plot
#include "daemon/cli/plot.h"

#include <algorithm>
#include <map>

#include "daemon/cli/commands.h"
#include "daemon/cli/samples.h"
#include "daemon/cli/smoothing.h"

namespace ikkuna::cli {
namespace {

constexpr size_t kMaxLines = 12;  // lines that an eye tells apart, with some goodwill

struct PlotArguments {
  std::string topic;
  RunsChoice runs;
  SampleQuery query;
  PlotOptions plot;
  std::string x;  // empty: what suits the series
  uint32_t smooth = 0;
};

// The line of one series of one run and rank while it is read.
struct Line {
  Line(std::string a_name, size_t points, uint32_t span)
      : name(std::move(a_name)), points_read(points), smoothed(points), smoother(span) {}
  std::string name;
  Thinner points_read;
  Thinner smoothed;
  Smoother smoother;
  bool any_above_zero = false;
};

// Time counts from `start_unix_ns`, which is the first value's own where the run has none: the daemon's.
double XOf(const v1::Columns& columns, size_t i, const std::string& x, int64_t* start_unix_ns) {
  if (*start_unix_ns == 0) *start_unix_ns = At(columns.unix_ns(), i);
  if (x == "time") return static_cast<double>(At(columns.unix_ns(), i) - *start_unix_ns) / 1e9;
  if (x == "samples") return static_cast<double>(At(columns.samples_seen(), i));
  if (x == "epoch") return At(columns.epochs(), i);
  return static_cast<double>(At(columns.steps(), i));
}

struct Matching {
  size_t numbers = 0;  // series, over all runs and ranks
  size_t others = 0;   // of other types
  bool own = false;    // the first is the daemon's own
};

Result<Matching> CountSeries(Client& client, const std::vector<RunLine>& lines, const PlotArguments& options) {
  Matching matching;
  for (const RunLine& line : lines) {
    Result<std::vector<v1::SeriesSummary>> found = SeriesOf(client, line, options.query.series, options.topic);
    if (!found) return found.error();
    for (const v1::SeriesSummary& one : *found) {
      const bool number = one.series().type() == v1::VALUE_TYPE_NUMBER;
      if (number && matching.numbers == 0) matching.own = one.series().key().topic().starts_with("daemon_");
      ++(number ? matching.numbers : matching.others);
    }
  }
  return matching;
}

std::string TitleOf(const PlotArguments& options, const std::vector<RunLine>& lines) {
  std::string runs;
  std::set<std::string> seen;
  for (const RunLine& line : lines) {
    if (!seen.insert(line.run.key().run_id()).second) continue;
    runs += (runs.empty() ? "" : ", ") + PlainText(RunName(line.run));
  }
  std::string title = " of " + runs;
  if (options.smooth > 1) title += ", smoothed over " + Count(options.smooth) + " values";
  return title;
}

// Reads the values of all lines, as many series as can be drawn.
Result<std::vector<Line>> ReadLines(Client& client, const std::vector<RunLine>& run_lines, const PlotArguments& options,
                                    const std::string& x, FlagNotes* notes) {
  std::vector<Line> lines;
  // What is smoothed is read whole: the mean of extremes is no mean.
  SampleQuery query = options.query;
  query.topic = options.topic;
  query.types = {v1::VALUE_TYPE_NUMBER};
  const size_t drawn = static_cast<size_t>(options.plot.width) * 2;  // two dots across a character
  if (options.smooth > 1)
    query.points = options.query.points;
  else if (query.points == 0)
    query.points = static_cast<uint32_t>(drawn * 2);
  const bool name_runs = SeveralRuns(run_lines), name_ranks = SeveralRanks(run_lines);
  for (const RunLine& run_line : run_lines) {
    std::map<std::string, size_t> by_series;
    int64_t start_unix_ns = run_line.start_unix_ns;
    Status done = ReadSamples(client, run_line, query, [&](const v1::Columns& columns) -> Result<bool> {
      v1::SeriesKey key = columns.series().key();
      key.clear_run();
      auto [at, fresh] = by_series.emplace(key.SerializeAsString(), lines.size());
      if (fresh) {
        if (lines.size() == kMaxLines) return false;
        std::string name = SeriesName(key);
        if (name_runs) name = PlainText(RunName(run_line.run)) + ": " + name;
        if (name_ranks) name += " (" + RankText(run_line.run.key().rank()) + ")";
        lines.emplace_back(std::move(name), drawn, std::max(1u, options.smooth));
      }
      Line& line = lines[at->second];
      notes->Add(columns);
      for (size_t i = 0; i < SizeOf(columns); ++i) {
        const double place = XOf(columns, i, x, &start_unix_ns), value = At(columns.numbers(), i);
        line.any_above_zero = line.any_above_zero || place > 0;
        line.points_read.Add(place, value);
        if (options.smooth > 1) line.smoothed.Add(place, line.smoother.Add(value));
      }
      return true;
    });
    if (!done) return done.error();
  }
  return lines;
}

Result<int> RunPlot(Context& context, const PlotArguments& options) {
  if (Status in_order = options.query.steps.Check(); !in_order) return in_order.error();
  Result<std::unique_ptr<Client>> client = context.Connect();
  if (!client) return client.error();
  Result<std::vector<RunLine>> run_lines = ChooseLines(**client, options.runs);
  if (!run_lines) return run_lines.error();
  Result<Matching> matching = CountSeries(**client, *run_lines, options);
  if (!matching) return matching.error();
  if (matching->numbers == 0) {
    if (matching->others == 0) return NoSeries(**client, run_lines->front().run, options.topic);
    return Error{ErrorCode::kFailedPrecondition,
                 "'" + options.topic + "' are no numbers: 'ikkuna texts' and 'ikkuna histogram' show others"};
  }
  // The step of the daemon's own series is a second since 1970.
  const std::string x = !options.x.empty() ? options.x : matching->own ? "time" : "step";
  FlagNotes notes;
  Result<std::vector<Line>> lines = ReadLines(**client, *run_lines, options, x, &notes);
  if (!lines) return lines.error();
  const bool counted = std::any_of(lines->begin(), lines->end(), [](const Line& line) { return line.any_above_zero; });
  if (x == "samples" && !counted) {
    return Error{ErrorCode::kFailedPrecondition, "run '" + RunName(run_lines->front().run) +
                                                     "' does not say how many samples go into its steps: the trainer "
                                                     "calls probe.Samples(n), or use another --x"};
  }
  std::vector<PlotSeries> drawn;
  for (const Line& line : *lines) {
    PlotSeries one;
    one.name = line.name;
    one.points = options.smooth > 1 ? line.smoothed.Points() : line.points_read.Points();
    if (options.smooth > 1) one.raw = line.points_read.Points();
    for (auto* points : {&one.points, &one.raw}) {
      std::stable_sort(points->begin(), points->end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    }
    drawn.push_back(std::move(one));
  }
  PlotOptions plot = options.plot;
  plot.x_label = x == "time" ? "seconds since the start" : x == "samples" ? "samples seen" : x;
  plot.ascii = plot.ascii || !context.terminal.utf8;
  Print(Paint(context.terminal, Colour::kBold, PlainText(options.topic)) + TitleOf(options, *run_lines) + "\n");
  Print(DrawPlot(drawn, plot, context.terminal));
  Print(notes.Text());
  if (matching->numbers > kMaxLines) {
    Print("The first " + std::to_string(kMaxLines) + " of " + std::to_string(matching->numbers) +
          " series; --module and --rank pick others.\n");
  }
  return kExitOk;
}

}  // namespace

void AddPlotCommand(CLI::App& app, Context& context) {
  auto options = std::make_shared<PlotArguments>();
  options->plot.width = std::max(20, std::min(context.terminal.columns - 14, 100));
  CLI::App* command = app.add_subcommand("plot", "Draws series in the terminal, several runs and ranks in one plot");
  command->add_option("TOPIC", options->topic, "Topic, such as loss, or a pattern such as 'loss|*_accuracy'")
      ->required();
  AddSeriesOptions(command, &options->query.series);
  AddRunsOptions(command, &options->runs);
  command->add_option("--x", options->x, "What goes to the right; default: step, or time for the daemon's own series")
      ->check(CLI::IsMember({"step", "time", "samples", "epoch"}));
  AddStepOptions(command, &options->query.steps);
  command
      ->add_option("--smooth", options->smooth,
                   "Exponential mean over some N values, the values themselves faintly behind it; 0: none")
      ->type_name("N")
      ->check(CLI::Range(0u, 1'000'000'000u))
      ->capture_default_str();
  AddPointsOption(command, &options->query.points,
                  "Most points read of a series; 0: 4 for each character of the width, all with --smooth");
  command->add_option("--width", options->plot.width, "Characters across")
      ->check(CLI::Range(8, 1000))
      ->capture_default_str();
  command->add_option("--height", options->plot.height, "Lines")->check(CLI::Range(2, 500))->capture_default_str();
  command->add_flag("--log", options->plot.log, "Logarithmic values");
  command->add_flag("--ascii", options->plot.ascii, "No characters beyond ASCII");
  command->footer(
      "A run that was resumed is one line; --attempt picks one life of it.\n\n"
      "Examples:\n  ikkuna plot loss --smooth 50\n  ikkuna plot loss --run fashion --run fashion-lr2\n"
      "  ikkuna plot weight_gradients_norm2 --module 'layers.*' --rank all --log\n"
      "  ikkuna plot 'activations_*' --module features.0 --x time --ascii --width 60");
  command->callback(
      [&context, options] { context.chosen = [&context, options] { return RunPlot(context, *options); }; });
}

}  // namespace ikkuna::cli
