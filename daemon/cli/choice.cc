// Which run and which series a command is about.
#include <algorithm>
#include <tuple>

#include "daemon/cli/commands.h"

namespace ikkuna::cli {

void AddRunOptions(CLI::App* command, RunChoice* choice) {
  command->add_option("--run", choice->run, "Run: its name, its id, or 'latest'")
      ->type_name("RUN")
      ->capture_default_str();
  command->add_option("--attempt", choice->attempt, "Restart of the run; default: the last")->type_name("N");
  command->add_option("--rank", choice->rank, "Rank of the run; default: the lowest")->type_name("N");
}

Result<v1::Run> ChooseRun(Client& client, const RunChoice& choice) {
  v1::ListRunsRequest request;
  request.set_run(choice.run.empty() ? "latest" : choice.run);
  Result<v1::ListRunsResponse> response = client.Call(&v1::Monitor::Stub::ListRuns, request);
  if (!response) return response.error();
  uint32_t attempt = 0;
  for (const v1::Run& run : response->runs()) attempt = std::max(attempt, run.key().attempt());
  attempt = choice.attempt.value_or(attempt);
  const v1::Run* chosen = nullptr;
  for (const v1::Run& run : response->runs()) {
    if (run.key().attempt() != attempt || (choice.rank && run.key().rank() != *choice.rank)) continue;
    if (chosen == nullptr || run.key().rank() < chosen->key().rank()) chosen = &run;
  }
  if (chosen != nullptr) return *chosen;
  std::string name = response->runs().empty() ? choice.run : RunName(response->runs(0));
  return Error{ErrorCode::kNotFound, "run '" + name + "' has no attempt " + std::to_string(attempt) +
                                         (choice.rank ? " rank " + std::to_string(*choice.rank) : "")};
}

std::string RunName(const v1::Run& run) { return PlainText(run.name().empty() ? run.key().run_id() : run.name()); }

void AddSeriesOptions(CLI::App* command, SeriesChoice* choice) {
  command->add_option("--module", choice->module, "Modules, as a pattern such as 'features.*'")->type_name("PATTERN");
  command->add_option("--param", choice->param, "Parameters, or the names of logged scalars, as a pattern")
      ->type_name("PATTERN");
  command->add_option("--tag", choice->tag, "Phases: default (training), test, no_grad, as a pattern")
      ->type_name("PATTERN");
  command->add_option("--root", choice->root, "Attached models, as a pattern")->type_name("PATTERN");
}

v1::SeriesFilter FilterOf(const v1::Run& run, const SeriesChoice& choice, const std::string& topic) {
  v1::SeriesFilter filter;
  filter.set_run(run.key().run_id());
  filter.set_attempt(run.key().attempt());
  filter.set_rank(run.key().rank());
  filter.set_tag(choice.tag);
  filter.set_root(choice.root);
  filter.set_module(choice.module);
  filter.set_param(choice.param);
  filter.set_topic(topic);
  return filter;
}

std::string SeriesName(const v1::SeriesKey& key) {
  std::string name = key.module();
  if (!key.param().empty()) name += (name.empty() ? "" : ".") + key.param();
  name += (name.empty() ? "" : " ") + key.topic();
  if (!key.root().empty() && key.root() != "model") name = key.root() + ": " + name;
  if (!key.tag().empty() && key.tag() != "default") name += " [" + key.tag() + "]";
  return PlainText(name);
}

Error NoSeries(const v1::Run& run, const std::string& topic) {
  return {ErrorCode::kNotFound, "run '" + RunName(run) + "' has no series " +
                                    (topic.empty() ? "" : "'" + topic + "' ") +
                                    "that matches; 'ikkuna series' lists what there is"};
}

}  // namespace ikkuna::cli
