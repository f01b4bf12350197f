// ikkuna runs, delete, tag: which runs are recorded, and what becomes of them.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <iostream>

#include "daemon/cli/commands.h"
#include "daemon/cli/json.h"

namespace ikkuna::cli {
namespace {

std::string Joined(const google::protobuf::RepeatedPtrField<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return PlainText(text);
}

struct ListOptions {
  std::string run;
  std::vector<std::string> tagged;
  std::vector<std::string> states;
  bool json = false;
};

Result<int> ListRuns(Context& context, const ListOptions& options) {
  Result<std::unique_ptr<Client>> client = context.Connect();
  if (!client) return client.error();
  v1::ListRunsRequest request;
  request.set_run(options.run);
  for (const std::string& tag : options.tagged) request.add_tags(tag);
  for (const std::string& state : options.states) request.add_states(*ParseEnumWord<v1::ProducerState>(state));
  Result<std::vector<v1::Run>> runs = (*client)->ListRuns(request);
  if (!runs && runs.error().code == ErrorCode::kNotFound) return NoRun(**client, options.run, runs.error());
  if (!runs) return runs.error();
  if (options.json) {
    Print(JsonText(ToJsonArray(*runs)));
    return kExitOk;
  }
  const bool tags = std::any_of(runs->begin(), runs->end(), [](const v1::Run& run) { return run.tags_size() > 0; });
  std::vector<TextTable::Column> columns = {{"run"},          {"id"},        {"attempt", true},   {"rank", true},
                                            {"state"},        {"started"},   {"last step", true}, {"series", true},
                                            {"values", true}, {"size", true}};
  if (tags) columns.push_back({"tags"});
  TextTable table(columns);
  for (const v1::Run& run : *runs) {
    std::string attempt = std::to_string(run.key().attempt());
    if (run.has_continues()) attempt += " (of " + std::to_string(run.continues()) + ")";
    table.Add({PlainText(RunName(run)), PlainText(run.key().run_id()), attempt,
               run.key().rank() == kAllRanks ? "all" : std::to_string(run.key().rank()),
               EnumWord(*v1::ProducerState_descriptor(), run.state()), LocalTime(run.start_unix_ns()),
               Count(run.last_step()), Count(run.series()),
               Count(run.values()) + (run.thinned() > 0 ? " of " + Count(run.values() + run.thinned()) : ""),
               Bytes(run.bytes()), Joined(run.tags())});
  }
  const bool all = options.run.empty() && options.tagged.empty() && options.states.empty();
  Print(!table.empty() ? table.Text(context.terminal)
        : all          ? "No run has been recorded yet.\n"
                       : "No run is like that.\n");
  return kExitOk;
}

struct DeleteOptions {
  std::vector<std::string> runs;
  std::optional<uint32_t> attempt, rank;
  bool yes = false;
  bool json = false;
};

// What is about to be gone, in words; and whether the user means it.
Result<bool> Confirmed(Client& client, const std::string& name, const DeleteOptions& options) {
  v1::ListRunsRequest request;
  request.set_run(name);
  Result<std::vector<v1::Run>> runs = client.ListRuns(request);
  if (!runs && runs.error().code == ErrorCode::kNotFound) return NoRun(client, name, runs.error());
  if (!runs) return runs.error();
  uint64_t values = 0, bytes = 0;
  size_t count = 0;
  for (const v1::Run& run : *runs) {
    if (options.attempt && run.key().attempt() != *options.attempt) continue;
    if (options.rank && run.key().rank() != *options.rank) continue;
    values += run.values();
    bytes += run.bytes();
    ++count;
  }
  if (count == 0) return true;  // the daemon says it better
  std::cerr << "Delete '" << PlainText(name) << "'"
            << (count > 1 ? ", " + Count(count) + " attempts and ranks" : std::string()) << ": "
            << Counted(values, "value") << ", " << Bytes(bytes) << ", for good? [y/N] " << std::flush;
  std::string answer;
  std::getline(std::cin, answer);
  return answer == "y" || answer == "Y" || answer == "yes";
}

Result<int> DeleteRuns(Context& context, const DeleteOptions& options) {
  if (!options.yes && ::isatty(STDIN_FILENO) != 1) {
    return Error{ErrorCode::kInvalidArgument, "what is deleted is gone for good: pass --yes where nobody can be asked"};
  }
  Result<std::unique_ptr<Client>> client = context.ConnectToDaemon("delete");
  if (!client) return client.error();
  v1::DeleteRunResponse all;
  for (const std::string& name : options.runs) {
    if (!options.yes) {
      Result<bool> confirmed = Confirmed(**client, name, options);
      if (!confirmed) return confirmed.error();
      if (!*confirmed) {
        std::cerr << "'" << PlainText(name) << "' stays.\n";
        continue;
      }
    }
    v1::DeleteRunRequest request;
    request.set_run(name);
    if (options.attempt) request.set_attempt(*options.attempt);
    if (options.rank) request.set_rank(*options.rank);
    Result<v1::DeleteRunResponse> response = (*client)->Call(&v1::Monitor::Stub::DeleteRun, request);
    if (!response) {
      if (options.json && all.runs_size() > 0) Print(JsonText(ToJson(all)));
      return response.error().code == ErrorCode::kNotFound ? NoRun(**client, name, response.error()) : response.error();
    }
    if (!options.json) {
      Print("deleted '" + PlainText(name) + "': " + Counted(static_cast<uint64_t>(response->runs_size()), "file") +
            ", " + Bytes(response->bytes()) + "\n");
    }
    all.mutable_runs()->MergeFrom(response->runs());
    all.set_bytes(all.bytes() + response->bytes());
  }
  if (options.json) Print(JsonText(ToJson(all)));
  return kExitOk;
}

struct TagOptions {
  std::string run;
  std::vector<std::string> words;
  std::vector<std::string> add, remove;
  bool json = false;
};

Result<int> TagRun(Context& context, const TagOptions& options) {
  v1::TagRunRequest request;
  request.set_run(options.run);
  for (const std::string& word : options.words) {
    if (word.size() < 2 || word[0] != '+') {
      return Error{ErrorCode::kInvalidArgument,
                   "'" + word + "' says neither to give nor to take: write +TAG to give one, -TAG to take it"};
    }
    request.add_add(word.substr(1));
  }
  for (const std::string& tag : options.add) request.add_add(tag);
  for (const std::string& tag : options.remove) request.add_remove(tag);
  if (request.add_size() + request.remove_size() == 0) {
    return Error{ErrorCode::kInvalidArgument, "no tag: write +TAG to give one, -TAG to take it"};
  }
  Result<std::unique_ptr<Client>> client = context.ConnectToDaemon("tag");
  if (!client) return client.error();
  Result<v1::TagRunResponse> response = (*client)->Call(&v1::Monitor::Stub::TagRun, request);
  if (!response && response.error().code == ErrorCode::kNotFound) {
    return NoRun(**client, options.run, response.error());
  }
  if (!response) return response.error();
  if (options.json) {
    Print(JsonText(ToJson(*response)));
    return kExitOk;
  }
  Print("tags of '" + PlainText(options.run) + "': " + (response->tags().empty() ? "none" : Joined(response->tags())) +
        "\n");
  return kExitOk;
}

}  // namespace

void AddRunsCommand(CLI::App& app, Context& context) {
  auto options = std::make_shared<ListOptions>();
  CLI::App* command = app.add_subcommand("runs", "Recorded runs, the newest first");
  command->add_option("--run", options->run, "Only this one: its name, its id, or 'latest'")->type_name("RUN");
  command->add_option("--tagged", options->tagged, "Only runs with this tag; again for another")
      ->type_name("TAG")
      ->allow_extra_args(false);
  command->add_option("--state", options->states, "Only runs in this state; again for another")
      ->allow_extra_args(false)
      ->check(CLI::IsMember({"running", "finished", "died", "disconnected", "quarantined", "switched_off"}));
  command->add_flag("--json", options->json, "As JSON");
  command->footer(
      "Examples:\n  ikkuna runs\n  ikkuna runs --tagged keep --state finished\n"
      "  ikkuna runs --json | jq -r '.[].key.run_id'\n  ikkuna --data-dir ~/old-runs runs");
  command->callback(
      [&context, options] { context.chosen = [&context, options] { return ListRuns(context, *options); }; });
}

void AddDeleteCommand(CLI::App& app, Context& context) {
  auto options = std::make_shared<DeleteOptions>();
  CLI::App* command = app.add_subcommand("delete", "Removes what is recorded of runs that have ended, for good");
  command->add_option("RUN", options->runs, "Runs, by name or id")->required();
  command->add_option("--attempt", options->attempt, "Only this life of them")->type_name("N");
  command->add_option("--rank", options->rank, "Only this rank of them")->type_name("N");
  command->add_flag("--yes", options->yes, "Without asking");
  command->add_flag("--json", options->json, "As JSON");
  command->footer("Examples:\n  ikkuna delete fashion\n  ikkuna delete fashion --attempt 0 --yes");
  command->callback(
      [&context, options] { context.chosen = [&context, options] { return DeleteRuns(context, *options); }; });
}

void AddTagCommand(CLI::App& app, Context& context) {
  auto options = std::make_shared<TagOptions>();
  CLI::App* command = app.add_subcommand("tag", "Gives a run tags (+TAG) and takes them (-TAG)");
  command->add_option("RUN", options->run, "Run: its name, its id, or 'latest'")->required();
  command->add_option("TAG", options->words, "+TAG gives it, -TAG takes it");
  command->add_option("--add", options->add, "The same as +TAG")->type_name("TAG")->allow_extra_args(false);
  command->add_option("--remove", options->remove, "The same as -TAG")->type_name("TAG")->allow_extra_args(false);
  command->add_flag("--json", options->json, "As JSON");
  command->footer("Examples:\n  ikkuna tag fashion +keep -draft\n  ikkuna tag latest --add baseline");
  command->callback(
      [&context, options] { context.chosen = [&context, options] { return TagRun(context, *options); }; });
}

}  // namespace ikkuna::cli
