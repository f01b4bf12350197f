// ikkuna runs, series, modules, events: what is recorded, as lists.
#include <deque>

#include "daemon/cli/commands.h"
#include "daemon/cli/json.h"

namespace ikkuna::cli {
namespace {

std::string SizesText(const google::protobuf::RepeatedField<int64_t>& sizes) {
  std::string text;
  for (int64_t size : sizes) text += (text.empty() ? "" : "x") + std::to_string(size);
  return text.empty() ? "scalar" : text;
}

Result<int> ListRuns(Context& context, const std::string& run, bool json) {
  Result<std::unique_ptr<Client>> client = Client::Connect(context.connection);
  if (!client) return client.error();
  v1::ListRunsRequest request;
  request.set_run(run);
  Result<v1::ListRunsResponse> response = (*client)->Call(&v1::Monitor::Stub::ListRuns, request);
  if (!response) return response.error();
  if (json) {
    Print(JsonText(ToJsonArray(response->runs())));
    return kExitOk;
  }
  TextTable table({{"run"},
                   {"id"},
                   {"attempt", true},
                   {"rank", true},
                   {"state"},
                   {"started"},
                   {"last step", true},
                   {"series", true},
                   {"samples", true}});
  for (const v1::Run& entry : response->runs()) {
    table.Add({RunName(entry), PlainText(entry.key().run_id()), std::to_string(entry.key().attempt()),
               std::to_string(entry.key().rank()), EnumWord(*v1::ProducerState_descriptor(), entry.state()),
               LocalTime(entry.start_unix_ns()), Count(entry.last_step()), Count(entry.series()),
               Count(entry.samples())});
  }
  Print(table.empty() ? "No run has been recorded yet.\n" : table.Text(context.terminal));
  return kExitOk;
}

Result<int> ListSeries(Context& context, const RunChoice& choice, const SeriesChoice& series, const std::string& topic,
                       bool json) {
  Result<std::unique_ptr<Client>> client = Client::Connect(context.connection);
  if (!client) return client.error();
  Result<v1::Run> run = ChooseRun(**client, choice);
  if (!run) return run.error();
  Result<std::vector<v1::SeriesSummary>> found = (*client)->ListSeries(FilterOf(*run, series, topic));
  if (!found) return found.error();
  if (json) {
    Print(JsonText(ToJsonArray(*found)));
    return kExitOk;
  }
  if (found->empty()) return NoSeries(*run, topic);
  TextTable table({{"id", true},
                   {"tag"},
                   {"root"},
                   {"module"},
                   {"type"},
                   {"param"},
                   {"topic"},
                   {"samples", true},
                   {"steps", true},
                   {"last", true}});
  for (const v1::SeriesSummary& entry : *found) {
    const v1::SeriesKey& key = entry.series().key();
    std::string steps = entry.count() == 0 ? "-" : Count(entry.first_step()) + ".." + Count(entry.last_step());
    table.Add({std::to_string(entry.series().id()), PlainText(key.tag()), PlainText(key.root()),
               PlainText(key.module()), PlainText(entry.series().module_type()), PlainText(key.param()),
               PlainText(key.topic()), Count(entry.count()), steps,
               entry.has_last() ? ShortNumber(entry.last().value()) : "-"});
  }
  Print(table.Text(context.terminal));
  return kExitOk;
}

Result<int> ListModules(Context& context, const RunChoice& choice, bool json) {
  Result<std::unique_ptr<Client>> client = Client::Connect(context.connection);
  if (!client) return client.error();
  v1::ListModulesRequest request;
  request.set_run(choice.run);
  if (choice.attempt) request.set_attempt(*choice.attempt);
  if (choice.rank) request.set_rank(*choice.rank);
  Result<v1::ListModulesResponse> response = (*client)->Call(&v1::Monitor::Stub::ListModules, request);
  if (!response) return response.error();
  if (json) {
    Print(JsonText(ToJsonArray(response->modules())));
    return kExitOk;
  }
  TextTable table({{"root"}, {"module"}, {"type"}, {"parameters"}});
  for (const v1::Module& module : response->modules()) {
    std::string parameters;
    for (const v1::Parameter& parameter : module.parameters()) {
      parameters += (parameters.empty() ? "" : ", ") + PlainText(parameter.name()) + " " +
                    PlainText(parameter.dtype()) + " " + SizesText(parameter.sizes());
      if (parameter.buffer()) parameters += " (buffer)";
      if (!parameter.buffer() && !parameter.trainable()) parameters += " (frozen)";
    }
    table.Add({PlainText(module.root()), PlainText(module.name()), PlainText(module.type()), parameters});
  }
  Print(table.empty() ? "The run has announced no modules.\n" : table.Text(context.terminal));
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

// The last `count` events after an id; 0: all.
Result<std::deque<v1::Event>> ReadEvents(Client& client, const std::string& run, uint64_t after_id, size_t count) {
  v1::ListEventsRequest request;
  request.set_run(run);
  request.set_after_id(after_id);
  std::deque<v1::Event> events;
  while (true) {
    Result<v1::ListEventsResponse> page = client.Call(&v1::Monitor::Stub::ListEvents, request);
    if (!page) return page.error();
    if (page->events().empty()) return events;
    request.set_after_id(page->events(page->events_size() - 1).id());
    for (v1::Event& event : *page->mutable_events()) events.push_back(std::move(event));
    while (count > 0 && events.size() > count) events.pop_front();
  }
}

}  // namespace

void AddRunsCommand(CLI::App& app, Context& context) {
  struct Options {
    std::string run;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("runs", "Runs in the store, the newest first");
  command->add_option("--run", options->run, "Only this one: its name, its id, or 'latest'")->type_name("RUN");
  command->add_flag("--json", options->json, "As JSON");
  command->footer("Examples:\n  ikkuna runs\n  ikkuna runs --json | jq -r '.[].key.run_id'");
  command->callback([&context, options] {
    context.chosen = [&context, options] { return ListRuns(context, options->run, options->json); };
  });
}

void AddSeriesCommand(CLI::App& app, Context& context) {
  struct Options {
    RunChoice run;
    SeriesChoice series;
    std::string topic;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("series", "Series of a run, with their last values");
  command->add_option("TOPIC", options->topic, "Topics, as a pattern such as 'weights_*'; default: all");
  AddSeriesOptions(command, &options->series);
  AddRunOptions(command, &options->run);
  command->add_flag("--json", options->json, "As JSON");
  command->footer(
      "Examples:\n  ikkuna series\n  ikkuna series 'activations_*' --module 'features.*'\n  ikkuna series --run "
      "fashion --tag test --json");
  command->callback([&context, options] {
    context.chosen = [&context, options] {
      return ListSeries(context, options->run, options->series, options->topic, options->json);
    };
  });
}

void AddModulesCommand(CLI::App& app, Context& context) {
  struct Options {
    RunChoice run;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("modules", "Modules of a run with their parameters");
  AddRunOptions(command, &options->run);
  command->add_flag("--json", options->json, "As JSON");
  command->footer("Example:\n  ikkuna modules --run fashion");
  command->callback([&context, options] {
    context.chosen = [&context, options] { return ListModules(context, options->run, options->json); };
  });
}

void AddEventsCommand(CLI::App& app, Context& context) {
  struct Options {
    std::string run;
    uint64_t after_id = 0;
    size_t last = 50;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("events", "What happened: runs that came and went, NaNs, quarantines");
  command->add_option("--run", options->run, "Only of this run: its name, its id, or 'latest'; default: all")
      ->type_name("RUN");
  command->add_option("--after", options->after_id, "Only events with a greater id")->type_name("ID");
  command->add_option("--last", options->last, "How many of the last; 0: all")->type_name("N")->capture_default_str();
  command->add_flag("--json", options->json, "As JSON");
  command->footer("Examples:\n  ikkuna events\n  ikkuna events --run latest --last 0 --json");
  command->callback([&context, options] {
    context.chosen = [&context, options]() -> Result<int> {
      Result<std::unique_ptr<Client>> client = Client::Connect(context.connection);
      if (!client) return client.error();
      Result<std::deque<v1::Event>> events = ReadEvents(**client, options->run, options->after_id, options->last);
      if (!events) return events.error();
      if (options->json) {
        Print(JsonText(ToJsonArray(*events)));
        return kExitOk;
      }
      if (events->empty()) Print("No events.\n");
      for (const v1::Event& event : *events) Print(EventLine(context.terminal, event));
      return kExitOk;
    };
  });
}

std::string EventLine(const Terminal& terminal, const v1::Event& event) {
  std::string word = EnumWord(*v1::Severity_descriptor(), event.severity());
  word.resize(std::max<size_t>(word.size(), 7), ' ');
  std::string where = event.has_run()
                          ? "run " + PlainText(event.run().run_id()) + " rank " + std::to_string(event.run().rank())
                          : "daemon";
  if (event.step() > 0) where += " step " + Count(event.step());
  return LocalTime(event.unix_ns()) + "  " + Paint(terminal, SeverityColour(event.severity()), word) + "  " +
         event.kind() + "  " + PlainText(event.text()) + "  (" + where + ")\n";
}

}  // namespace ikkuna::cli
