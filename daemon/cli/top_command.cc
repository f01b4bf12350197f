// ikkuna top: status, loss and layers of the newest run, again and again.
#include <algorithm>
#include <chrono>
#include <csignal>
#include <thread>

#include "daemon/cli/layer_table.h"
#include "daemon/cli/plot.h"
#include "daemon/cli/samples.h"
#include "daemon/cli/status_text.h"

namespace ikkuna::cli {
namespace {

constexpr int kPlotHeight = 8;
constexpr uint32_t kPlotPoints = 400;
constexpr size_t kOtherLines = 32;  // of status, plot and headings: the layers get the rest of the screen

volatile std::sig_atomic_t ended = 0;
void End(int) { ended = 1; }

Result<std::string> LossText(Context& context, Client& client, const v1::Run& run) {
  RunLine line;
  line.run = run;
  line.attempts = {run.key().attempt()};
  SampleQuery query;
  query.series.tag = "default";
  query.topic = "loss";
  query.points = kPlotPoints;
  query.types = {v1::VALUE_TYPE_NUMBER};
  std::vector<PlotSeries> lines;
  FlagNotes notes;
  Status done = ReadSamples(client, line, query, [&](const v1::Columns& columns) -> Result<bool> {
    const std::string name = SeriesName(columns.series().key());
    if (lines.empty() || lines.back().name != name) lines.push_back({name, {}});
    notes.Add(columns);
    for (size_t i = 0; i < SizeOf(columns); ++i) {
      lines.back().points.emplace_back(static_cast<double>(At(columns.steps(), i)), At(columns.numbers(), i));
    }
    return true;
  });
  if (!done) return done.error();
  if (lines.empty()) return std::string();
  PlotOptions plot;
  plot.width = std::max(20, std::min(context.terminal.columns - 14, 100));
  plot.height = kPlotHeight;
  plot.ascii = !context.terminal.utf8;
  return DrawPlot(lines, plot, context.terminal) + notes.Text() + "\n";
}

Result<std::string> Frame(Context& context, Client& client, const RunChoice& choice) {
  Result<Health> health = ReadHealth(client);
  if (!health) return health.error();
  const v1::GetStatusResponse* status = &health->status;
  std::string text = DaemonText(context.terminal, *health, client.address()) + "\n";
  Result<v1::Run> run = ChooseRun(client, choice);
  // Before the first run there is nothing more to show, which is no failure.
  if (!run && run.error().code == ErrorCode::kNotFound && choice.run == "latest")
    return text + "No run has been recorded yet.\n";
  if (!run) return run.error();
  for (const v1::Producer& producer : status->producers()) {
    if (producer.run().SerializeAsString() == run->key().SerializeAsString()) {
      text += ProducerText(context.terminal, producer) + "\n";
    }
  }
  Result<std::string> loss = LossText(context, client, *run);
  if (!loss) return loss.error();
  Result<LayerTable> table = ReadLayerTable(client, *run, {"default", "", "", ""});
  if (!table) return table.error();
  size_t rows = static_cast<size_t>(std::max(5, context.terminal.rows - static_cast<int>(kOtherLines)));
  if (!table->rows.empty())
    text += *loss + LayerTableText(*table, context.terminal, context.terminal.interactive ? rows : 0);
  else
    text += *loss;
  return text;
}

Result<int> RunTop(Context& context, const RunChoice& choice, double interval_s, bool once) {
  Result<std::unique_ptr<Client>> client = context.ConnectToDaemon("top");
  if (!client) return client.error();
  if (once || !context.terminal.interactive) {
    Result<std::string> frame = Frame(context, **client, choice);
    if (!frame) return frame.error();
    Print(*frame);
    return kExitOk;
  }
  // The cursor is hidden meanwhile and the screen as it was comes back, also after Ctrl-C.
  std::signal(SIGINT, End);
  std::signal(SIGTERM, End);
  Print("\x1b[?1049h\x1b[?25l");
  Result<int> outcome = kExitOk;
  while (!ended) {
    context.terminal = DetectTerminal();
    Result<std::string> frame = Frame(context, **client, choice);
    if (!frame) {
      outcome = frame.error();
      break;
    }
    Print("\x1b[H\x1b[2J" + *frame);
    std::fflush(stdout);
    auto until = std::chrono::steady_clock::now() + std::chrono::duration<double>(interval_s);
    while (!ended && std::chrono::steady_clock::now() < until)
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  Print("\x1b[?25h\x1b[?1049l");
  std::fflush(stdout);
  return outcome;
}

}  // namespace

void AddTopCommand(CLI::App& app, Context& context) {
  struct Options {
    RunChoice run;
    double interval_s = 1;
    bool once = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("top", "Status, loss and layers of a run, refreshed until Ctrl-C");
  AddRunOptions(command, &options->run);
  command->add_option("--interval", options->interval_s, "Seconds from one frame to the next")
      ->check(CLI::Range(0.1, 3600.0))
      ->type_name("SECONDS")
      ->capture_default_str();
  command->add_flag("--once", options->once, "One frame, also where output is no terminal");
  command->footer("Examples:\n  ikkuna top\n  ikkuna top --once > frame.txt");
  command->callback([&context, options] {
    context.chosen = [&context, options] { return RunTop(context, options->run, options->interval_s, options->once); };
  });
}

}  // namespace ikkuna::cli
