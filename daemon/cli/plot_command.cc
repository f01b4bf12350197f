// ikkuna plot
#include "daemon/cli/plot.h"

#include <algorithm>

#include "daemon/cli/commands.h"

namespace ikkuna::cli {
namespace {

constexpr size_t kMaxSeries = 6;  // lines that an eye tells apart

struct Options {
  std::string topic;
  RunChoice run;
  SeriesChoice series;
  PlotOptions plot;
  std::string x;  // empty: what suits the series
  uint64_t points = 0;
  std::optional<uint64_t> step_min, step_max;
};

// Time counts from `start_unix_ns`, which is the first sample's own where the run has none: the daemon's.
double XOf(const v1::Sample& sample, const std::string& x, int64_t& start_unix_ns) {
  if (start_unix_ns == 0) start_unix_ns = sample.unix_ns();
  if (x == "time") return static_cast<double>(sample.unix_ns() - start_unix_ns) / 1e9;
  if (x == "samples") return static_cast<double>(sample.samples_seen());
  if (x == "epoch") return sample.epoch();
  return static_cast<double>(sample.step());
}

Result<int> RunPlot(Context& context, const Options& options) {
  Result<std::unique_ptr<Client>> client = Client::Connect(context.connection);
  if (!client) return client.error();
  Result<v1::Run> run = ChooseRun(**client, options.run);
  if (!run) return run.error();
  Result<std::vector<v1::SeriesSummary>> found = (*client)->ListSeries(FilterOf(*run, options.series, options.topic));
  if (!found) return found.error();
  if (found->empty()) return NoSeries(*run, options.topic);
  size_t matching = found->size();
  if (matching > kMaxSeries) found->resize(kMaxSeries);
  // The step of the daemon's own series is a second since 1970.
  const bool own = found->front().series().key().topic().starts_with("daemon_");
  const std::string x = !options.x.empty() ? options.x : own ? "time" : "step";
  int64_t start_unix_ns = run->start_unix_ns();
  std::vector<PlotSeries> lines;
  for (const v1::SeriesSummary& summary : *found) {
    bool reduced = false;
    // Two dots across a character, and the least and the greatest value of each.
    uint32_t points =
        options.points > 0 ? static_cast<uint32_t>(options.points) : static_cast<uint32_t>(options.plot.width) * 4;
    Result<std::vector<v1::Sample>> samples =
        (*client)->Read(summary, options.step_min, options.step_max, points, &reduced);
    if (!samples) return samples.error();
    PlotSeries line;
    line.name = SeriesName(summary.series().key());
    for (const v1::Sample& sample : *samples) line.points.emplace_back(XOf(sample, x, start_unix_ns), sample.value());
    std::stable_sort(line.points.begin(), line.points.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    lines.push_back(std::move(line));
  }
  const bool counted = std::any_of(lines.begin(), lines.end(), [](const PlotSeries& line) {
    return std::any_of(line.points.begin(), line.points.end(), [](const auto& point) { return point.first > 0; });
  });
  if (x == "samples" && !counted) {
    return Error{ErrorCode::kFailedPrecondition, "run '" + RunName(*run) +
                                                     "' does not say how many samples go into its steps: the trainer "
                                                     "calls probe.Samples(n), or use another --x"};
  }
  PlotOptions plot = options.plot;
  plot.x_label = x == "time" ? "seconds since the start" : x == "samples" ? "samples seen" : x;
  plot.ascii = plot.ascii || !context.terminal.utf8;
  Print(Paint(context.terminal, Colour::kBold, PlainText(options.topic)) + " of " + RunName(*run) + "\n");
  Print(DrawPlot(lines, plot, context.terminal));
  if (matching > kMaxSeries) {
    Print("The first " + std::to_string(kMaxSeries) + " of " + std::to_string(matching) +
          " series; --module picks others.\n");
  }
  return kExitOk;
}

}  // namespace

void AddPlotCommand(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  options->plot.width = std::max(20, std::min(context.terminal.columns - 14, 100));
  CLI::App* command = app.add_subcommand("plot", "Draws series in the terminal");
  command->add_option("TOPIC", options->topic, "Topic, such as loss, or a pattern")->required();
  AddSeriesOptions(command, &options->series);
  AddRunOptions(command, &options->run);
  command->add_option("--x", options->x, "What goes to the right; default: step, or time for the daemon's own series")
      ->check(CLI::IsMember({"step", "time", "samples", "epoch"}));
  command->add_option("--from-step", options->step_min, "First step")->type_name("N");
  command->add_option("--to-step", options->step_max, "Last step")->type_name("N");
  command
      ->add_option("--points", options->points,
                   "Most points read of a series; default: 4 for each character of the width")
      ->check(CLI::Range(2, 1'000'000));
  command->add_option("--width", options->plot.width, "Characters across")
      ->check(CLI::Range(8, 1000))
      ->capture_default_str();
  command->add_option("--height", options->plot.height, "Lines")->check(CLI::Range(2, 500))->capture_default_str();
  command->add_flag("--log", options->plot.log, "Logarithmic values");
  command->add_flag("--ascii", options->plot.ascii, "No characters beyond ASCII");
  command->footer(
      "Examples:\n  ikkuna plot loss\n  ikkuna plot weight_gradients_norm2 --module 'layers.*' --log\n"
      "  ikkuna plot 'activations_*' --module features.0 --x time --ascii --width 60");
  command->callback(
      [&context, options] { context.chosen = [&context, options] { return RunPlot(context, *options); }; });
}

}  // namespace ikkuna::cli
