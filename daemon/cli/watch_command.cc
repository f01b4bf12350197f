// ikkuna watch
#include <cstdio>
#include <iostream>
#include <map>

#include "daemon/cli/commands.h"
#include "daemon/cli/json.h"

namespace ikkuna::cli {
namespace {

struct Options {
  std::string run;
  std::optional<uint32_t> attempt, rank;
  std::string topic;
  SeriesChoice series;
  uint64_t count = 0;
  bool json = false;
};

v1::SeriesFilter FilterOf(const Options& options) {
  v1::SeriesFilter filter;
  filter.set_run(options.run);
  if (options.attempt) filter.set_attempt(*options.attempt);
  if (options.rank) filter.set_rank(*options.rank);
  filter.set_tag(options.series.tag);
  filter.set_root(options.series.root);
  filter.set_module(options.series.module);
  filter.set_param(options.series.param);
  filter.set_topic(options.topic);
  return filter;
}

std::string SampleJson(const v1::Series& series, const v1::Sample& sample) {
  const v1::SeriesKey& key = series.key();
  Json json = {{"type", "sample"},
               {"run_id", key.run().run_id()},
               {"attempt", key.run().attempt()},
               {"rank", key.run().rank()},
               {"tag", key.tag()},
               {"root", key.root()},
               {"module", key.module()},
               {"param", key.param()},
               {"topic", key.topic()}};
  json.update(ToJson(sample));
  return JsonLine(json);
}

class Printer {
 public:
  Printer(const Options& options, const Terminal& terminal) : options_(options), terminal_(terminal) {}

  // False: enough.
  bool Take(const v1::WatchResponse& response) {
    for (const v1::Series& series : response.new_series()) series_[series.id()] = series;
    for (const v1::Event& event : response.events()) {
      if (options_.json) {
        Json json = {{"type", "event"}};
        json.update(ToJson(event));
        Print(JsonLine(json));
      } else {
        Print(EventLine(terminal_, event));
      }
    }
    bool more = true;
    for (int i = 0; more && i < response.samples_size(); ++i) {
      Show(response.samples(i));
      more = options_.count == 0 || ++shown_ < options_.count;
    }
    std::fflush(stdout);
    if (response.dropped() > dropped_) {
      dropped_ = response.dropped();
      std::cerr << "ikkuna: " << Count(dropped_)
                << " samples were lost so far because this watch was read too slowly\n";
    }
    // A reader that has gone (| head) ends the watch too.
    return more && std::ferror(stdout) == 0;
  }

 private:
  void Show(const v1::Sample& sample) {
    const v1::Series& series = series_[sample.series_id()];
    if (options_.json) {
      Print(SampleJson(series, sample));
      return;
    }
    Print(LocalTime(sample.unix_ns()).substr(11) + "  step " + Count(sample.step()) + "  " + SeriesName(series.key()) +
          " = " + Paint(terminal_, Colour::kBold, ShortNumber(sample.value())) + "\n");
  }

  const Options& options_;
  const Terminal& terminal_;
  std::map<uint64_t, v1::Series> series_;
  uint64_t shown_ = 0;
  uint64_t dropped_ = 0;
};

}  // namespace

void AddWatchCommand(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("watch", "Prints samples and events as they come, until Ctrl-C");
  command->add_option("TOPIC", options->topic, "Topics, as a pattern such as 'weights_*'; default: all");
  AddSeriesOptions(command, &options->series);
  command->add_option("--run", options->run, "Run: its name (it may be yet to come), its id, or 'latest'; default: all")
      ->type_name("RUN");
  command->add_option("--attempt", options->attempt, "Restart of the run; default: all")->type_name("N");
  command->add_option("--rank", options->rank, "Rank; default: all")->type_name("N");
  command->add_option("--count", options->count, "End after so many samples; 0: never")
      ->type_name("N")
      ->capture_default_str();
  command->add_flag("--json", options->json, "One JSON object a line");
  command->footer(
      "Examples:\n  ikkuna watch loss\n  ikkuna watch 'activations_*' --module 'features.*'\n"
      "  ikkuna watch loss --json --count 100 | jq .value");
  command->callback([&context, options] {
    context.chosen = [&context, options]() -> Result<int> {
      Result<std::unique_ptr<Client>> client = Client::Connect(context.connection);
      if (!client) return client.error();
      Printer printer(*options, context.terminal);
      Status status = (*client)->Watch(FilterOf(*options),
                                       [&](const v1::WatchResponse& response) { return printer.Take(response); });
      if (!status) return status.error();
      return kExitOk;
    };
  });
}

}  // namespace ikkuna::cli
