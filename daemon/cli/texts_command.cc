// ikkuna texts: what a trainer, a rule or a client said in words.
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "daemon/cli/commands.h"
#include "daemon/cli/json.h"
#include "daemon/cli/samples.h"

namespace ikkuna::cli {
namespace {

struct TextsOptions {
  RunsChoice runs;
  SampleQuery query;
  uint64_t last = 0;
  bool json = false;
};

// "2026-03-01 12:00:00  step 100  note: first line", further lines below it.
std::string TextLines(const Terminal& terminal, const std::string& prefix, const v1::Columns& columns, size_t i) {
  const v1::SeriesKey& key = columns.series().key();
  const std::string name = key.topic() == "text" && !key.param().empty() ? PlainText(key.param()) : SeriesName(key);
  std::string text = LocalTime(At(columns.unix_ns(), i)) + "  step " + Count(At(columns.steps(), i)) + "  " + prefix +
                     Paint(terminal, Colour::kBold, name);
  if (const uint32_t flags = At(columns.flags(), i); flags != 0) text += " (" + FlagsText(flags, ", ") + ")";
  text += ": ";
  const std::string value = columns.values(static_cast<int>(i)).text();
  for (size_t begin = 0; begin <= value.size();) {
    const size_t end = std::min(value.find('\n', begin), value.size());
    text += (begin == 0 ? "" : "    ") + PlainText(value.substr(begin, end - begin)) + "\n";
    begin = end + 1;
    if (begin == value.size()) break;  // a newline at the end begins no line
  }
  return text;
}

std::string TextJson(const v1::Columns& columns, size_t i) {
  const v1::SeriesKey& key = columns.series().key();
  const Json json = {{"run_id", key.run().run_id()},
                     {"attempt", key.run().attempt()},
                     {"rank", key.run().rank()},
                     {"tag", key.tag()},
                     {"root", key.root()},
                     {"module", key.module()},
                     {"param", key.param()},
                     {"topic", key.topic()},
                     {"step", At(columns.steps(), i)},
                     {"epoch", At(columns.epochs(), i)},
                     {"unix_ns", At(columns.unix_ns(), i)},
                     {"flags", FlagWords(At(columns.flags(), i))},
                     {"text", columns.values(static_cast<int>(i)).text()}};
  std::string line = JsonLine(json);
  line.pop_back();
  return line;
}

Result<int> RunTexts(Context& context, const TextsOptions& options) {
  if (Status in_order = options.query.steps.Check(); !in_order) return in_order.error();
  Result<std::unique_ptr<Client>> client = context.Connect();
  if (!client) return client.error();
  Result<std::vector<RunLine>> lines = ChooseLines(**client, options.runs);
  if (!lines) return lines.error();
  SampleQuery query = options.query;
  query.types = {v1::VALUE_TYPE_TEXT};
  uint64_t shown = 0;
  const auto show = [&](const std::string& text) {
    Print(options.json ? (shown == 0 ? "[" : ",\n") + text : text);
    ++shown;
  };
  // With --last, of a line: a series of each attempt in turn, which are one.
  std::vector<std::string> order;
  std::map<std::string, std::deque<std::string>> kept;
  const auto flush = [&] {
    for (const std::string& identity : order) {
      for (const std::string& text : kept[identity]) show(text);
    }
    order.clear();
    kept.clear();
  };
  for (const RunLine& line : *lines) {
    std::string prefix;
    if (SeveralRuns(*lines)) prefix += PlainText(RunName(line.run)) + "  ";
    if (SeveralRanks(*lines)) prefix += RankText(line.run.key().rank()) + "  ";
    Status done = ReadSamples(**client, line, query, [&](const v1::Columns& columns) -> Result<bool> {
      v1::SeriesKey key = columns.series().key();
      key.mutable_run()->clear_attempt();
      const std::string identity = key.SerializeAsString();
      if (options.last != 0 && !kept.contains(identity)) order.push_back(identity);
      for (size_t i = 0; i < SizeOf(columns) && i < static_cast<size_t>(columns.values_size()); ++i) {
        const std::string text = options.json ? TextJson(columns, i) : TextLines(context.terminal, prefix, columns, i);
        if (options.last == 0) {
          show(text);
          continue;
        }
        std::deque<std::string>& last = kept[identity];
        last.push_back(text);
        if (last.size() > options.last) last.pop_front();
      }
      return OutputGoesOn();
    });
    if (!done) return done.error();
    flush();
  }
  if (options.json) Print(shown == 0 ? "[]\n" : "]\n");
  if (!options.json && shown == 0) Print("No texts.\n");
  return kExitOk;
}

}  // namespace

void AddTextsCommand(CLI::App& app, Context& context) {
  auto options = std::make_shared<TextsOptions>();
  CLI::App* command = app.add_subcommand("texts", "Texts that a trainer logged, with their steps");
  command->add_option("TOPIC", options->query.topic, "Topics, as a pattern; default: all that are texts");
  AddSeriesOptions(command, &options->query.series);
  AddRunsOptions(command, &options->runs);
  AddStepOptions(command, &options->query.steps);
  command->add_option("--last", options->last, "Only the last so many of each series; 0: all")
      ->type_name("N")
      ->capture_default_str();
  command->add_flag("--json", options->json, "As JSON");
  command->footer(
      "Examples:\n  ikkuna texts\n  ikkuna texts --param 'sample*' --last 3\n  ikkuna texts --run fashion --json");
  command->callback(
      [&context, options] { context.chosen = [&context, options] { return RunTexts(context, *options); }; });
}

}  // namespace ikkuna::cli
