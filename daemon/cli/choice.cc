#include "daemon/cli/choice.h"

#include <algorithm>
#include <map>

#include "daemon/cli/terminal.h"
#include "daemon/model/query.h"
#include "shared/base/suggestion.h"

namespace ikkuna::cli {
namespace {

Result<std::vector<v1::Run>> RunsNamed(Client& client, const std::string& name) {
  v1::ListRunsRequest request;
  request.set_run(name.empty() ? "latest" : name);
  Result<std::vector<v1::Run>> runs = client.ListRuns(request);
  if (!runs && runs.error().code == ErrorCode::kNotFound) return NoRun(client, name, runs.error());
  if (!runs) return runs.error();
  if (runs->empty()) return NoRun(client, name, {ErrorCode::kNotFound, "no run has been recorded yet"});
  // Several runs may share a display name: the newest is meant, and all of its attempts and ranks.
  const std::string run_id = runs->front().key().run_id();
  std::erase_if(*runs, [&](const v1::Run& run) { return run.key().run_id() != run_id; });
  return runs;
}

uint32_t LastAttempt(const std::vector<v1::Run>& runs) {
  uint32_t attempt = 0;
  for (const v1::Run& run : runs) attempt = std::max(attempt, run.key().attempt());
  return attempt;
}

Error NoRank(const std::vector<v1::Run>& runs, std::optional<uint32_t> attempt, const std::string& rank) {
  std::set<uint32_t> attempts, ranks;
  for (const v1::Run& run : runs) {
    attempts.insert(run.key().attempt());
    if (!attempt || run.key().attempt() == *attempt) ranks.insert(run.key().rank());
  }
  std::string text = "run '" + RunName(runs.front()) + "' has no attempt " + std::to_string(attempt.value_or(0));
  if (ranks.empty()) return {ErrorCode::kNotFound, text + "; its last is " + std::to_string(*attempts.rbegin())};
  std::string last = *ranks.rbegin() == kAllRanks && ranks.size() > 1 ? std::to_string(*std::next(ranks.rbegin()))
                                                                      : std::to_string(*ranks.rbegin());
  return {ErrorCode::kNotFound,
          text + " rank " + rank + "; its ranks are " + std::to_string(*ranks.begin()) + " to " + last};
}

// The attempt with which its line began.
uint32_t BeginOfLine(const v1::Run& run) { return run.has_line() ? run.line() : run.key().attempt(); }

// The attempts of one rank that are one line with `last`.
RunLine LineOf(const std::map<uint32_t, v1::Run>& by_attempt, uint32_t last, bool alone) {
  RunLine line;
  line.run = by_attempt.at(last);
  for (const auto& [attempt, run] : by_attempt) {
    if (attempt != last && (alone || attempt > last || BeginOfLine(run) != BeginOfLine(line.run))) continue;
    if (line.attempts.empty()) line.start_unix_ns = run.start_unix_ns();
    line.attempts.insert(attempt);
  }
  line.whole_history = line.attempts.size() == by_attempt.size();
  return line;
}

}  // namespace

void AddRunOptions(CLI::App* command, RunChoice* choice) {
  command->add_option("--run", choice->run, "Run: its name, its id, or 'latest'")
      ->type_name("RUN")
      ->capture_default_str();
  command->add_option("--attempt", choice->attempt, "Life of the run; default: the last")->type_name("N");
  command->add_option("--rank", choice->rank, "Rank of the run; default: the lowest")->type_name("N");
}

void AddRunsOptions(CLI::App* command, RunsChoice* choice) {
  command->add_option("--run", choice->runs, "Run: its name, its id, or 'latest' (the default); again for another")
      ->type_name("RUN")
      ->allow_extra_args(false);
  command
      ->add_option("--attempt", choice->attempt,
                   "Life of the run; default: the last, with those before that it continues")
      ->type_name("N");
  command->add_option("--rank", choice->rank, "Rank of the run, or 'all'; default: the lowest")
      ->type_name("N")
      ->check(CLI::Validator(
          [](std::string& text) {
            uint32_t rank = 0;
            if (text == "all" || CLI::detail::lexical_cast(text, rank)) return std::string();
            return "'" + text + "' is neither a rank nor 'all'";
          },
          ""));
}

Result<v1::Run> ChooseRun(Client& client, const RunChoice& choice) {
  Result<std::vector<v1::Run>> runs = RunsNamed(client, choice.run);
  if (!runs) return runs.error();
  const uint32_t attempt = choice.attempt.value_or(LastAttempt(*runs));
  const v1::Run* chosen = nullptr;
  for (const v1::Run& run : *runs) {
    if (run.key().attempt() != attempt || (choice.rank && run.key().rank() != *choice.rank)) continue;
    if (chosen == nullptr || run.key().rank() < chosen->key().rank()) chosen = &run;
  }
  if (chosen != nullptr) return *chosen;
  return NoRank(*runs, attempt, choice.rank ? std::to_string(*choice.rank) : "");
}

Result<std::vector<RunLine>> ChooseLines(Client& client, const RunsChoice& choice) {
  std::vector<RunLine> lines;
  std::set<std::string> seen;  // a run that is named twice, by id and by name, is drawn once
  for (const std::string& name : choice.runs.empty() ? std::vector<std::string>{"latest"} : choice.runs) {
    Result<std::vector<v1::Run>> runs = RunsNamed(client, name);
    if (!runs) return runs.error();
    if (!seen.insert(runs->front().key().run_id()).second) continue;
    const uint32_t last = choice.attempt.value_or(LastAttempt(*runs));
    std::map<uint32_t, std::map<uint32_t, v1::Run>> by_rank;
    for (const v1::Run& run : *runs) by_rank[run.key().rank()][run.key().attempt()] = run;
    size_t found = 0;
    for (const auto& [rank, by_attempt] : by_rank) {
      if (!by_attempt.contains(last)) continue;
      const bool wanted = choice.rank == "all"  ? true
                          : choice.rank.empty() ? found == 0 || rank == kAllRanks
                                                : choice.rank == std::to_string(rank);
      if (!wanted) continue;
      ++found;
      lines.push_back(LineOf(by_attempt, last, choice.attempt.has_value()));
    }
    if (found == 0) return NoRank(*runs, last, choice.rank);
  }
  return lines;
}

bool SeveralRuns(const std::vector<RunLine>& lines) {
  return std::any_of(lines.begin(), lines.end(),
                     [&](const RunLine& line) { return line.run.key().run_id() != lines.front().run.key().run_id(); });
}

bool SeveralRanks(const std::vector<RunLine>& lines) {
  return std::any_of(lines.begin(), lines.end(),
                     [&](const RunLine& line) { return line.run.key().rank() != lines.front().run.key().rank(); });
}

std::string RankText(uint32_t rank) { return rank == kAllRanks ? "all ranks" : "rank " + std::to_string(rank); }

std::string RunName(const v1::Run& run) { return run.name().empty() ? run.key().run_id() : run.name(); }

void AddSeriesOptions(CLI::App* command, SeriesChoice* choice) {
  command->add_option("--module", choice->module, "Modules, as a pattern such as 'features.*|fc'")
      ->type_name("PATTERN");
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

Result<std::vector<v1::SeriesSummary>> SeriesOf(Client& client, const RunLine& line, const SeriesChoice& choice,
                                                const std::string& topic) {
  v1::Run run = line.run;
  Result<std::vector<v1::SeriesSummary>> found = std::vector<v1::SeriesSummary>();
  for (auto attempt = line.attempts.rbegin(); attempt != line.attempts.rend(); ++attempt) {
    run.mutable_key()->set_attempt(*attempt);
    found = client.ListSeries(FilterOf(run, choice, topic));
    if (!found || !found->empty()) break;
  }
  return found;
}

std::string SeriesName(const v1::SeriesKey& key) {
  std::string name = key.module();
  if (!key.param().empty()) name += (name.empty() ? "" : ".") + key.param();
  name += (name.empty() ? "" : " ") + key.topic();
  if (!key.root().empty() && key.root() != "model") name = key.root() + ": " + name;
  if (!key.tag().empty() && key.tag() != "default") name += " [" + key.tag() + "]";
  return PlainText(name);
}

Error NoSeries(Client& client, const v1::Run& run, const std::string& topic) {
  std::string text =
      "run '" + RunName(run) + "' has no series " + (topic.empty() ? "" : "'" + topic + "' ") + "that matches";
  // One page is enough to find a neighbour.
  v1::ListSeriesRequest request;
  *request.mutable_filter() = FilterOf(run, {}, "");
  Result<v1::ListSeriesResponse> page = client.Call(&v1::Monitor::Stub::ListSeries, request);
  std::set<std::string> topics;
  if (page) {
    for (const v1::SeriesSummary& one : page->series()) topics.insert(one.series().key().topic());
  }
  const std::string nearest =
      topics.contains(topic) ? "." : Suggestion(topic, std::vector<std::string>(topics.begin(), topics.end()));
  if (nearest != ".") return {ErrorCode::kNotFound, text + nearest};
  return {ErrorCode::kNotFound, text + "; 'ikkuna series' lists what there is"};
}

Error NoRun(Client& client, const std::string& name, const Error& error) {
  if (name.empty() || name == "latest" || error.text.find("did you mean") != std::string::npos) return error;
  v1::ListRunsRequest request;
  request.set_limit(1000);
  Result<v1::ListRunsResponse> page = client.Call(&v1::Monitor::Stub::ListRuns, request);
  if (!page) return error;
  std::set<std::string> names;
  for (const v1::Run& run : page->runs()) names.insert({run.name(), run.key().run_id()});
  names.erase("");
  if (names.contains(name)) return error;  // it is there: what is not is a rank or an attempt of it
  const std::string nearest = Suggestion(name, std::vector<std::string>(names.begin(), names.end()));
  return {ErrorCode::kNotFound,
          "there is no run '" + name + "'" + (nearest != "." ? nearest : "; 'ikkuna runs' lists what there is")};
}

Status StepChoice::Check() const {
  if (!from || !to || *from <= *to) return {};
  return Error{ErrorCode::kInvalidArgument, "--from-step is greater than --to-step"};
}

void AddStepOptions(CLI::App* command, StepChoice* choice) {
  command->add_option("--from-step", choice->from, "First step")->type_name("N");
  command->add_option("--to-step", choice->to, "Last step")->type_name("N");
}

void AddPointsOption(CLI::App* command, uint32_t* points, const char* help) {
  command->add_option("--points", *points, help)
      ->type_name("N")
      ->check(CLI::Validator(
          [](std::string& text) {
            uint32_t value = 0;
            if (CLI::detail::lexical_cast(text, value) && (value == 0 || value >= kPointsMin)) return std::string();
            return "'" + text + "' is neither 0 nor a number from " + std::to_string(kPointsMin) + " on";
          },
          ""));
}

}  // namespace ikkuna::cli
