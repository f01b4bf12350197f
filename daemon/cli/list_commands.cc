// ikkuna series, modules, events: what is recorded of runs, as lists.
#include <algorithm>
#include <deque>
#include <iostream>
#include <set>

#include "daemon/cli/commands.h"
#include "daemon/cli/json.h"

namespace ikkuna::cli {
namespace {

std::string SizesText(const google::protobuf::RepeatedField<int64_t>& sizes) {
  std::string text;
  for (int64_t size : sizes) text += (text.empty() ? "" : "x") + std::to_string(size);
  return text.empty() ? "scalar" : text;
}

struct SeriesOptions {
  RunsChoice runs;
  SeriesChoice series;
  std::string topic;
  bool json = false;
};

std::vector<std::string> SeriesCells(const v1::SeriesSummary& entry) {
  const v1::SeriesKey& key = entry.series().key();
  const std::string steps = entry.count() == 0 ? "-" : Count(entry.first_step()) + ".." + Count(entry.last_step());
  std::string values = Count(entry.count());
  if (entry.thinned() > 0) values += " of " + Count(entry.count() + entry.thinned());
  const std::string last = entry.has_last() ? ShortNumber(entry.last())
                           : entry.series().type() == v1::VALUE_TYPE_NUMBER
                               ? "-"
                               : EnumWord(*v1::ValueType_descriptor(), entry.series().type());
  return {std::to_string(entry.series().id()),
          PlainText(key.tag()),
          PlainText(key.root()),
          PlainText(key.module()),
          PlainText(entry.series().module_type()),
          PlainText(key.param()),
          PlainText(key.topic()),
          values,
          steps,
          last};
}

Result<int> ListSeries(Context& context, const SeriesOptions& options) {
  Result<std::unique_ptr<Client>> client = context.Connect();
  if (!client) return client.error();
  Result<std::vector<RunLine>> lines = ChooseLines(**client, options.runs);
  if (!lines) return lines.error();
  const bool runs = SeveralRuns(*lines), ranks = SeveralRanks(*lines);
  std::vector<TextTable::Column> columns;
  if (runs) columns.push_back({"run"});
  if (ranks) columns.push_back({"rank", true});
  for (const TextTable::Column& column : std::vector<TextTable::Column>{{"id", true},
                                                                        {"tag"},
                                                                        {"root"},
                                                                        {"module"},
                                                                        {"type"},
                                                                        {"param"},
                                                                        {"topic"},
                                                                        {"values", true},
                                                                        {"steps", true},
                                                                        {"last", true}}) {
    columns.push_back(column);
  }
  TextTable table(columns);
  Json all = Json::array();
  for (const RunLine& line : *lines) {
    Result<std::vector<v1::SeriesSummary>> found =
        (*client)->ListSeries(FilterOf(line.run, options.series, options.topic));
    if (!found) return found.error();
    for (const v1::SeriesSummary& entry : *found) {
      if (options.json) {
        all.push_back(ToJson(entry));
        continue;
      }
      std::vector<std::string> cells;
      if (runs) cells.push_back(PlainText(RunName(line.run)));
      if (ranks) cells.push_back(line.run.key().rank() == kAllRanks ? "all" : std::to_string(line.run.key().rank()));
      for (std::string& cell : SeriesCells(entry)) cells.push_back(std::move(cell));
      table.Add(std::move(cells));
    }
  }
  if (!options.json && table.empty()) return NoSeries(**client, lines->front().run, options.topic);
  Print(options.json ? JsonText(all) : table.Text(context.terminal));
  return kExitOk;
}

struct ModulesOptions {
  RunChoice run;
  std::string module;
  bool json = false;
};

Result<int> ListModules(Context& context, const ModulesOptions& options) {
  Result<std::unique_ptr<Client>> client = context.Connect();
  if (!client) return client.error();
  Result<v1::Run> run = ChooseRun(**client, options.run);
  if (!run) return run.error();
  v1::ListModulesRequest request;
  request.set_run(run->key().run_id());
  request.set_attempt(run->key().attempt());
  request.set_rank(run->key().rank());
  request.set_module(options.module);
  Result<std::vector<v1::Module>> modules = (*client)->ListModules(request);
  if (!modules) return modules.error();
  if (options.json) {
    Print(JsonText(ToJsonArray(*modules)));
    return kExitOk;
  }
  TextTable table({{"root"}, {"module"}, {"type"}, {"parameters"}});
  for (const v1::Module& module : *modules) {
    std::string parameters;
    for (const v1::Parameter& parameter : module.parameters()) {
      parameters += (parameters.empty() ? "" : ", ") + PlainText(parameter.name()) + " " +
                    PlainText(parameter.dtype()) + " " + SizesText(parameter.sizes());
      if (parameter.buffer()) parameters += " (buffer)";
      if (!parameter.buffer() && !parameter.trainable()) parameters += " (frozen)";
    }
    table.Add({PlainText(module.root()), PlainText(module.name()), PlainText(module.type()), parameters});
  }
  Print(!table.empty()           ? table.Text(context.terminal)
        : options.module.empty() ? "The run has announced no modules.\n"
                                 : "No module of the run matches.\n");
  return kExitOk;
}

Colour SeverityColour(v1::Severity severity) {
  switch (severity) {
    case v1::SEVERITY_WARNING:
      return Colour::kYellow;
    case v1::SEVERITY_ERROR:
      return Colour::kRed;
    default:
      return Colour::kPlain;
  }
}

struct EventOptions {
  std::string run;
  std::optional<uint32_t> attempt, rank;
  std::optional<uint64_t> after_id, last;
  bool json = false;

  uint64_t most() const { return last.value_or(after_id ? 0 : 50); }  // 0: all
};

// The last ones come in one answer; more than that, and those behind an id, in pages. Ordered by `comes_before`.
template <typename ComesBefore>
Result<std::deque<v1::Event>> ReadEvents(Client& client, const EventOptions& options, ComesBefore&& comes_before) {
  constexpr uint64_t kLastMax = 1000;  // as the daemon has it
  v1::ListEventsRequest request;
  request.set_run(options.run);
  if (options.attempt) request.set_attempt(*options.attempt);
  if (options.rank) request.set_rank(*options.rank);
  const uint64_t most = options.most();
  const bool in_one = !options.after_id && most > 0 && most <= kLastMax;
  if (in_one) request.set_last(static_cast<uint32_t>(most));
  if (options.after_id) request.set_after_id(*options.after_id);
  std::deque<v1::Event> events;
  std::set<std::string> unread;
  while (true) {
    Result<v1::ListEventsResponse> page = client.Call(&v1::Monitor::Stub::ListEvents, request);
    if (!page && page.error().code == ErrorCode::kNotFound) return NoRun(client, options.run, page.error());
    if (!page) return page.error();
    const bool more = !in_one && page->more() && page->events_size() > 0;
    if (more) request.set_after_id(page->events().rbegin()->id());
    for (v1::Event& event : *page->mutable_events()) events.push_back(std::move(event));
    for (const std::string& one : page->unread()) {
      if (unread.insert(one).second) std::cerr << "ikkuna: left out: " << PlainText(one) << "\n";  // each page says it
    }
    if (options.after_id) {
      while (most > 0 && events.size() > most) events.pop_front();
    }
    if (!more) break;
  }
  if (!in_one && !options.after_id) {
    // Those that happened last, whatever their ids: a run that was imported has the newest.
    std::stable_sort(events.begin(), events.end(),
                     [](const v1::Event& a, const v1::Event& b) { return a.unix_ns() < b.unix_ns(); });
    while (most > 0 && events.size() > most) events.pop_front();
  }
  std::stable_sort(events.begin(), events.end(), comes_before);
  return events;
}

}  // namespace

void AddSeriesCommand(CLI::App& app, Context& context) {
  auto options = std::make_shared<SeriesOptions>();
  CLI::App* command = app.add_subcommand("series", "Series of a run, with their last values");
  command->add_option("TOPIC", options->topic, "Topics, as a pattern such as 'weights_*|loss'; default: all");
  AddSeriesOptions(command, &options->series);
  AddRunsOptions(command, &options->runs);
  command->add_flag("--json", options->json, "As JSON");
  command->footer(
      "Examples:\n  ikkuna series\n  ikkuna series 'activations_*' --module 'features.*'\n  ikkuna series --run "
      "fashion --tag test --json");
  command->callback(
      [&context, options] { context.chosen = [&context, options] { return ListSeries(context, *options); }; });
}

void AddModulesCommand(CLI::App& app, Context& context) {
  auto options = std::make_shared<ModulesOptions>();
  CLI::App* command = app.add_subcommand("modules", "Modules of a run with their parameters");
  AddRunOptions(command, &options->run);
  command->add_option("--module", options->module, "Modules, as a pattern such as 'features.*|fc'")
      ->type_name("PATTERN");
  command->add_flag("--json", options->json, "As JSON");
  command->footer("Examples:\n  ikkuna modules --run fashion\n  ikkuna modules --module 'features.*'");
  command->callback(
      [&context, options] { context.chosen = [&context, options] { return ListModules(context, *options); }; });
}

void AddEventsCommand(CLI::App& app, Context& context) {
  auto options = std::make_shared<EventOptions>();
  CLI::App* command = app.add_subcommand("events", "What happened: runs that came and went, NaNs, quarantines");
  command->add_option("--run", options->run, "Only of this run: its name, its id, or 'latest'; default: all")
      ->type_name("RUN");
  command->add_option("--attempt", options->attempt, "Only of this life of the run")->type_name("N");
  command->add_option("--rank", options->rank, "Only of this rank")->type_name("N");
  command->add_option("--after", options->after_id, "All events with a greater id")->type_name("ID");
  command
      ->add_option("--last", options->last,
                   "How many of those that happened last (default: 50), or behind --after of those with the greatest "
                   "ids (default: all); 0: all")
      ->type_name("N");
  command->add_flag("--json", options->json, "As JSON");
  command->footer(
      "Each line begins with the event's id. Events stand in the order of their ids, in which the daemon learned of\n"
      "them: --after with the id of the last line gives all that came since. A run that was imported brings events of\n"
      "old times under new ids. Without a daemon (--data-dir) events stand in the order of their times: each host has\n"
      "ids of its own.\n"
      "Examples:\n  ikkuna events\n  ikkuna events --after 1234\n  ikkuna events --run latest --last 0 --json");
  command->callback([&context, options] {
    context.chosen = [&context, options]() -> Result<int> {
      Result<std::unique_ptr<Client>> client = context.Connect();
      if (!client) return client.error();
      const bool by_time = !context.connection.data_dir.empty();
      Result<std::deque<v1::Event>> events =
          ReadEvents(**client, *options, [by_time](const v1::Event& a, const v1::Event& b) {
            if (by_time && a.unix_ns() != b.unix_ns()) return a.unix_ns() < b.unix_ns();
            return a.id() < b.id();
          });
      if (!events) return events.error();
      if (options->json) {
        Print(JsonText(ToJsonArray(*events)));
        return kExitOk;
      }
      if (events->empty()) Print("No events.\n");
      size_t width = 0;
      for (const v1::Event& event : *events) width = std::max(width, std::to_string(event.id()).size());
      for (const v1::Event& event : *events) {
        const std::string id = std::to_string(event.id());
        Print(std::string(width - id.size(), ' ') + id + "  " + EventLine(context.terminal, event));
      }
      return kExitOk;
    };
  });
}

std::string EventLine(const Terminal& terminal, const v1::Event& event) {
  std::string word = EnumWord(*v1::Severity_descriptor(), event.severity());
  word.resize(std::max<size_t>(word.size(), 7), ' ');
  std::string where = "daemon";
  if (event.has_run()) {
    where = "run " + PlainText(event.run().run_id());
    if (event.run().attempt() > 0) where += " attempt " + std::to_string(event.run().attempt());
    where += " " + RankText(event.run().rank());
  }
  if (event.step() > 0) where += " step " + Count(event.step());
  return LocalTime(event.unix_ns()) + "  " + Paint(terminal, SeverityColour(event.severity()), word) + "  " +
         PlainText(event.kind()) + "  " + PlainText(event.text()) + "  (" + where + ")\n";
}

}  // namespace ikkuna::cli
