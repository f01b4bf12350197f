// ikkuna read: samples as a table, CSV or JSON.
#include "daemon/cli/commands.h"
#include "daemon/cli/json.h"

namespace ikkuna::cli {
namespace {

struct Options {
  std::string topic;
  RunChoice run;
  SeriesChoice series;
  uint64_t series_id = 0;
  std::optional<uint64_t> step_min, step_max;
  uint32_t max_points = 0;
  std::string format = "table";
};

struct Read {
  v1::Series series;
  std::vector<v1::Sample> samples;
};

std::string FlagsText(const v1::Sample& sample, const char* separator) {
  std::string text;
  for (int flag : sample.flags())
    text += (text.empty() ? "" : separator) + EnumWord(*v1::SampleFlag_descriptor(), flag);
  return text;
}

std::string CsvField(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + "\"";
}

void PrintCsv(const Read& read) {
  const v1::SeriesKey& key = read.series.key();
  std::string head = CsvField(key.run().run_id()) + "," + std::to_string(key.run().attempt()) + "," +
                     std::to_string(key.run().rank()) + "," + CsvField(key.tag()) + "," + CsvField(key.root()) + "," +
                     CsvField(key.module()) + "," + CsvField(key.param()) + "," + CsvField(key.topic()) + ",";
  for (const v1::Sample& sample : read.samples) {
    Print(head + std::to_string(sample.step()) + "," + std::to_string(sample.epoch()) + "," +
          std::to_string(sample.unix_ns()) + "," + std::to_string(sample.samples_seen()) + "," +
          ExactNumber(sample.value()) + "," + FlagsText(sample, "|") + "\n");
  }
}

// One array, a series at a time, so that a long export is never in memory twice.
void PrintJson(const Read& read, bool first) {
  Json json = ToJson(read.series);
  json["samples"] = ToJsonArray(read.samples);
  for (Json& sample : json["samples"]) sample.erase("series_id");
  std::string text = JsonLine(json);
  text.pop_back();
  Print((first ? "[" : ",\n") + text);
}

void PrintTable(const Read& read, const Terminal& terminal, bool first) {
  TextTable table({{"step", true}, {"epoch", true}, {"time"}, {"value", true}, {"flags"}});
  for (const v1::Sample& sample : read.samples) {
    table.Add({std::to_string(sample.step()), std::to_string(sample.epoch()), LocalTime(sample.unix_ns()),
               ExactNumber(sample.value()), FlagsText(sample, " ")});
  }
  std::string unit = read.series.unit().empty() ? "" : " (" + PlainText(read.series.unit()) + ")";
  Print((first ? "" : "\n") + Paint(terminal, Colour::kBold, SeriesName(read.series.key()) + unit) + "\n" +
        table.Text(terminal));
}

Result<std::vector<v1::SeriesSummary>> FindSeries(Client& client, const Options& options) {
  if (options.series_id != 0) {
    // The id alone names it, of whatever run: the page that begins with it.
    v1::ListSeriesRequest request;
    request.set_after_id(options.series_id - 1);
    request.set_limit(1);
    Result<v1::ListSeriesResponse> response = client.Call(&v1::Monitor::Stub::ListSeries, request);
    if (!response) return response.error();
    if (response->series().empty() || response->series(0).series().id() != options.series_id) {
      return Error{ErrorCode::kNotFound,
                   "there is no series " + std::to_string(options.series_id) + "; 'ikkuna series' lists what there is"};
    }
    return std::vector<v1::SeriesSummary>{response->series(0)};
  }
  Result<v1::Run> run = ChooseRun(client, options.run);
  if (!run) return run.error();
  Result<std::vector<v1::SeriesSummary>> found = client.ListSeries(FilterOf(*run, options.series, options.topic));
  if (found && found->empty()) return NoSeries(*run, options.topic);
  return found;
}

Result<int> RunRead(Context& context, const Options& options) {
  if (options.topic.empty() && options.series_id == 0) {
    return Error{ErrorCode::kInvalidArgument, "nothing to read: give a topic, such as loss, or --series ID"};
  }
  if (options.step_min && options.step_max && *options.step_min > *options.step_max) {
    return Error{ErrorCode::kInvalidArgument, "--from-step is greater than --to-step"};
  }
  Result<std::unique_ptr<Client>> client = Client::Connect(context.connection);
  if (!client) return client.error();
  Result<std::vector<v1::SeriesSummary>> found = FindSeries(**client, options);
  if (!found) return found.error();
  if (options.format == "csv")
    Print("run_id,attempt,rank,tag,root,module,param,topic,step,epoch,unix_ns,samples_seen,value,flags\n");
  bool first = true;
  bool reduced = false;
  for (const v1::SeriesSummary& summary : *found) {
    Result<std::vector<v1::Sample>> samples =
        (*client)->Read(summary, options.step_min, options.step_max, options.max_points, &reduced);
    if (!samples) return samples.error();
    Read read{summary.series(), std::move(*samples)};
    if (options.format == "csv") PrintCsv(read);
    if (options.format == "json") PrintJson(read, first);
    if (options.format == "table") PrintTable(read, context.terminal, first);
    first = false;
  }
  if (options.format == "json") Print("]\n");
  if (reduced && options.format == "table")
    Print("Reduced to the least and the greatest value of each bucket (--max-points).\n");
  return kExitOk;
}

}  // namespace

void AddReadCommand(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("read", "Samples of series, to look at or to hand on");
  command->add_option("TOPIC", options->topic, "Topics, as a pattern such as 'weights_*'");
  AddSeriesOptions(command, &options->series);
  AddRunOptions(command, &options->run);
  command->add_option("--series", options->series_id, "One series by the id that 'ikkuna series' shows")
      ->type_name("ID");
  command->add_option("--from-step", options->step_min, "First step")->type_name("N");
  command->add_option("--to-step", options->step_max, "Last step")->type_name("N");
  command
      ->add_option("--max-points", options->max_points,
                   "Most samples of a series, by the least and the greatest of buckets; 0: all")
      ->type_name("N")
      ->capture_default_str();
  command->add_option("--format", options->format, "Form of the output")
      ->check(CLI::IsMember({"table", "csv", "json"}))
      ->capture_default_str();
  command->footer(
      "NaN and infinities are written NaN, Infinity, -Infinity (in JSON as strings).\n\n"
      "Examples:\n  ikkuna read loss\n  ikkuna read loss --format csv > loss.csv\n"
      "  ikkuna read 'weights_norm*' --module fc1 --from-step 1000 --max-points 500 --format json");
  command->callback(
      [&context, options] { context.chosen = [&context, options] { return RunRead(context, *options); }; });
}

}  // namespace ikkuna::cli
