// ikkuna read: values of series, to look at or to hand on.
#include "daemon/cli/commands.h"
#include "daemon/cli/sample_writer.h"

namespace ikkuna::cli {
namespace {

struct ReadOptions {
  std::string topic;
  RunsChoice runs;
  SampleQuery query;
  uint32_t series_id = 0;
  std::string format = "table";
  bool json = false;
};

SampleFormat FormatOf(const ReadOptions& options) {
  if (options.json || options.format == "json") return SampleFormat::kJson;
  return options.format == "csv" ? SampleFormat::kCsv : SampleFormat::kTable;
}

// A name that is looked for as it is; one that would be taken for a pattern is left to the id.
std::string Literal(const std::string& name) { return name.find('|') == std::string::npos ? name : ""; }

// The series with an id, of the one run that is asked for.
Status NarrowToId(Client& client, uint32_t id, std::vector<RunLine>* lines, SampleQuery* query) {
  if (lines->size() > 1 && lines->back().run.key().rank() == kAllRanks) lines->pop_back();
  if (lines->size() != 1) {
    return Error{ErrorCode::kInvalidArgument, "--series is an id within one run: give one --run and one --rank"};
  }
  RunLine& line = lines->front();
  line.attempts = {line.run.key().attempt()};
  Result<std::vector<v1::SeriesSummary>> all = client.ListSeries(FilterOf(line.run, {}, ""));
  if (!all) return all.error();
  for (const v1::SeriesSummary& one : *all) {
    const v1::SeriesKey& key = one.series().key();
    if (one.series().id() != id) continue;
    query->series = {Literal(key.tag()), Literal(key.root()), Literal(key.module()), Literal(key.param())};
    query->topic = Literal(key.topic());
    return {};
  }
  return Error{ErrorCode::kNotFound, "run '" + RunName(line.run) + "' has no series " + std::to_string(id) +
                                         "; 'ikkuna series' lists what there is"};
}

Result<int> RunRead(Context& context, const ReadOptions& options) {
  if (options.topic.empty() && options.series_id == 0) {
    return Error{ErrorCode::kInvalidArgument, "nothing to read: give a topic, such as loss, or --series ID"};
  }
  if (Status in_order = options.query.steps.Check(); !in_order) return in_order.error();
  Result<std::unique_ptr<Client>> client = context.Connect();
  if (!client) return client.error();
  Result<std::vector<RunLine>> lines = ChooseLines(**client, options.runs);
  if (!lines) return lines.error();
  SampleQuery query = options.query;
  query.topic = options.topic;
  if (options.series_id != 0) {
    if (Status found = NarrowToId(**client, options.series_id, &*lines, &query); !found) return found.error();
  }
  std::unique_ptr<SampleWriter> writer = SampleWriter::Make(FormatOf(options), context.terminal, Print);
  writer->NameLines(SeveralRuns(*lines), SeveralRanks(*lines));
  bool any = false;
  for (const RunLine& line : *lines) {
    Status done = ReadSamples(**client, line, query, [&](const v1::Columns& columns) -> Result<bool> {
      if (options.series_id != 0 && columns.series().id() != options.series_id) return true;
      // Begun late: a failure prints nothing of it.
      if (!any) writer->Begin();
      any = true;
      writer->Add(line, columns);
      return OutputGoesOn();
    });
    if (!done) return done.error();
  }
  if (!any) {
    // A range of steps without values is an empty answer; a name without a series is none.
    for (const RunLine& line : *lines) {
      Result<std::vector<v1::SeriesSummary>> found = SeriesOf(**client, line, query.series, query.topic);
      if (!found) return found.error();
      any = any || !found->empty();
    }
    if (!any) return NoSeries(**client, lines->front().run, options.topic);
    writer->Begin();
  }
  writer->End();
  return kExitOk;
}

}  // namespace

void AddReadCommand(CLI::App& app, Context& context) {
  auto options = std::make_shared<ReadOptions>();
  CLI::App* command = app.add_subcommand("read", "Values of series, to look at or to hand on");
  command->add_option("TOPIC", options->topic, "Topics, as a pattern such as 'weights_*|loss'");
  AddSeriesOptions(command, &options->query.series);
  AddRunsOptions(command, &options->runs);
  command->add_option("--series", options->series_id, "One series by the id that 'ikkuna series' shows")
      ->type_name("ID");
  AddStepOptions(command, &options->query.steps);
  AddPointsOption(command, &options->query.points,
                  "Most values of a series of numbers, by the least and the greatest of its parts; 0: all");
  command->add_option("--format", options->format, "Form of the output")
      ->check(CLI::IsMember({"table", "csv", "json"}))
      ->capture_default_str();
  command->add_flag("--json", options->json, "As JSON: the same as --format json");
  command->footer(
      "NaN and infinities are written NaN, Infinity, -Infinity (in JSON as strings). A run that was resumed is one\n"
      "line; --attempt picks one life of it.\n\n"
      "Examples:\n  ikkuna read loss\n  ikkuna read loss --format csv > loss.csv\n"
      "  ikkuna read 'weights_norm*' --module fc1 --from-step 1000 --points 500 --json\n"
      "  ikkuna --data-dir ~/old-runs read loss --run fashion --rank all");
  command->callback(
      [&context, options] { context.chosen = [&context, options] { return RunRead(context, *options); }; });
}

}  // namespace ikkuna::cli
