// ikkuna watch
#include <cstdio>
#include <iostream>
#include <map>

#include "daemon/cli/commands.h"
#include "daemon/cli/json.h"
#include "daemon/cli/samples.h"
#include "daemon/model/counted.h"

namespace ikkuna::cli {
namespace {

struct WatchOptions {
  std::string run;
  std::optional<uint32_t> attempt, rank;
  std::string topic;
  SeriesChoice series;
  uint64_t count = 0;
  bool events = false;
  bool json = false;
};

v1::WatchRequest RequestOf(const WatchOptions& options) {
  v1::WatchRequest request;
  v1::SeriesFilter& filter = *request.mutable_filter();
  filter.set_run(options.run);
  if (options.attempt) filter.set_attempt(*options.attempt);
  if (options.rank) filter.set_rank(*options.rank);
  filter.set_tag(options.series.tag);
  filter.set_root(options.series.root);
  filter.set_module(options.series.module);
  filter.set_param(options.series.param);
  filter.set_topic(options.topic);
  if (options.events) request.add_parts(v1::WATCH_PART_EVENTS);
  return request;
}

// A name that nobody has yet may be mistyped, and is then waited for in vain.
Status TellIfToCome(Client& client, const std::string& run) {
  if (run.empty()) return {};
  v1::ListRunsRequest request;
  request.set_run(run);
  request.set_limit(1);
  Result<v1::ListRunsResponse> found = client.Call(&v1::Monitor::Stub::ListRuns, request);
  if (found) return {};
  if (found.error().code != ErrorCode::kNotFound || run == "latest") return found.error();
  const std::string there = NoRun(client, run, found.error()).text;
  std::cerr << "ikkuna: waiting for run '" << PlainText(run) << "' to come: " << PlainText(there) << "\n";
  return {};
}

class Printer {
 public:
  Printer(const WatchOptions& options, const Terminal& terminal) : options_(options), terminal_(terminal) {}

  // False: enough.
  bool Take(const v1::WatchResponse& response) {
    for (const v1::Series& series : response.new_series()) {
      const v1::RunKey& run = series.key().run();
      series_[run.SerializeAsString()][series.id()] = series;
      if (first_run_.empty()) first_run_ = run.SerializeAsString();
      several_runs_ = several_runs_ || run.SerializeAsString() != first_run_;
    }
    for (const v1::Event& event : response.events()) {
      if (options_.json) {
        Json json = {{"type", "event"}};
        json.update(ToJson(event));
        Print(JsonLine(json));
      } else {
        Print(EventLine(terminal_, event));
      }
      if (options_.events && Enough()) return false;
    }
    bool more = true;
    for (int i = 0; more && i < response.steps_size(); ++i) more = Show(response.steps(i));
    std::fflush(stdout);
    if (response.has_dropped()) Lost(response.dropped(), &dropped_, "value");
    if (response.has_events_dropped()) Lost(response.events_dropped(), &events_dropped_, "event");
    // A reader that has gone (| head) ends the watch too.
    return more && OutputGoesOn();
  }

 private:
  bool Enough() { return options_.count != 0 && ++shown_ >= options_.count; }

  static void Lost(uint64_t now, uint64_t* before, const char* one) {
    if (now > *before) {
      std::cerr << "ikkuna: " << Counted(now, one) << " " << Were(now)
                << " lost so far because this watch was read too slowly\n";
    }
    *before = now;
  }

  bool Show(const v1::StepValues& step) {
    const std::map<uint32_t, v1::Series>& of_run = series_[step.run().SerializeAsString()];
    for (int i = 0; i < step.series_size(); ++i) {
      v1::Value value;
      value.set_number(At(step.numbers(), static_cast<size_t>(i)));
      ShowValue(step, of_run, step.series(i), value, At(step.number_flags(), static_cast<size_t>(i)));
      if (Enough()) return false;
    }
    for (int i = 0; i < step.value_series_size() && i < step.values_size(); ++i) {
      ShowValue(step, of_run, step.value_series(i), step.values(i), At(step.value_flags(), static_cast<size_t>(i)));
      if (Enough()) return false;
    }
    return true;
  }

  void ShowValue(const v1::StepValues& step, const std::map<uint32_t, v1::Series>& of_run, uint32_t id,
                 const v1::Value& value, uint32_t flags) {
    const auto found = of_run.find(id);
    static const v1::Series kUnknown;
    const v1::Series& series = found == of_run.end() ? kUnknown : found->second;
    if (options_.json) {
      Print(ValueJson(step, series, value, step.flags() | flags));
      return;
    }
    std::string where;
    if (several_runs_) where = PlainText(step.run().run_id()) + " " + RankText(step.run().rank()) + "  ";
    const std::string special = FlagsText(step.flags() | flags, " ");
    Print(LocalTime(step.unix_ns()).substr(11) + "  " + where + "step " + Count(step.step()) + "  " +
          SeriesName(series.key()) + " = " + Paint(terminal_, Colour::kBold, ShortValue(value)) +
          (special.empty() ? "" : "  " + special) + "\n");
  }

  static std::string ValueJson(const v1::StepValues& step, const v1::Series& series, const v1::Value& value,
                               uint32_t flags) {
    const v1::SeriesKey& key = series.key();
    Json json = {{"type", "sample"},
                 {"run_id", step.run().run_id()},
                 {"attempt", step.run().attempt()},
                 {"rank", step.run().rank()},
                 {"tag", key.tag()},
                 {"root", key.root()},
                 {"module", key.module()},
                 {"param", key.param()},
                 {"topic", key.topic()},
                 {"step", step.step()},
                 {"epoch", step.epoch()},
                 {"unix_ns", step.unix_ns()},
                 {"samples_seen", step.samples_seen()}};
    if (value.has_histogram())
      json["value"] = ToJson(value.histogram());
    else if (value.has_tensor())
      json["value"] = ToJson(value.tensor());
    else if (value.has_text())
      json["value"] = value.text();
    else
      json["value"] = ToJson(value.number());
    json["flags"] = FlagWords(flags);
    return JsonLine(json);
  }

  const WatchOptions& options_;
  const Terminal& terminal_;
  std::map<std::string, std::map<uint32_t, v1::Series>> series_;  // by run, by id
  std::string first_run_;
  bool several_runs_ = false;
  uint64_t shown_ = 0;
  uint64_t dropped_ = 0, events_dropped_ = 0;
};

}  // namespace

void AddWatchCommand(CLI::App& app, Context& context) {
  auto options = std::make_shared<WatchOptions>();
  CLI::App* command = app.add_subcommand("watch", "Prints values and events as they come, until Ctrl-C");
  command->add_option("TOPIC", options->topic, "Topics, as a pattern such as 'weights_*|loss'; default: all");
  AddSeriesOptions(command, &options->series);
  command->add_option("--run", options->run, "Run: its name (it may be yet to come), its id, or 'latest'; default: all")
      ->type_name("RUN");
  command->add_option("--attempt", options->attempt, "Life of the run; default: all")->type_name("N");
  command->add_option("--rank", options->rank, "Rank; default: all")->type_name("N");
  command->add_option("--count", options->count, "End after so many values; 0: never")
      ->type_name("N")
      ->capture_default_str();
  command->add_flag("--events", options->events, "Only events; --count counts these");
  command->add_flag("--json", options->json, "One JSON object a line");
  command->footer(
      "Examples:\n  ikkuna watch loss\n  ikkuna watch 'activations_*' --module 'features.*'\n"
      "  ikkuna watch --events --run fashion\n  ikkuna watch loss --json --count 100 | jq .value");
  command->callback([&context, options] {
    context.chosen = [&context, options]() -> Result<int> {
      Result<std::unique_ptr<Client>> client = context.ConnectToDaemon("watch");
      if (!client) return client.error();
      if (Status there = TellIfToCome(**client, options->run); !there) return there.error();
      Printer printer(*options, context.terminal);
      Status status = (*client)->Stream<v1::WatchRequest, v1::WatchResponse>(
          &v1::Monitor::Stub::Watch, RequestOf(*options),
          [&](v1::WatchResponse& response) -> Result<bool> { return printer.Take(response); });
      if (!status) return status.error();
      return kExitOk;
    };
  });
}

}  // namespace ikkuna::cli
