// ikkuna publish: values of one's own, recorded and shown like others.
#include <charconv>
#include <iostream>
#include <sstream>

#include "daemon/cli/commands.h"
#include "daemon/cli/json.h"

namespace ikkuna::cli {
namespace {

constexpr int kStepsPerCall = 1000;

struct PublishOptions {
  std::string topic;
  std::optional<std::string> value;
  std::string run, own_run;
  std::optional<uint32_t> attempt, rank;
  std::optional<uint64_t> step;
  uint32_t epoch = 0;
  std::string root, tag, module, param, unit;
  bool text = false;
  bool end = false;
  bool json = false;
};

std::optional<double> ParseNumber(const std::string& word) {
  double value = 0;
  const char* first = word.c_str();
  if (*first == '+') ++first;
  const char* last = word.c_str() + word.size();
  const auto [end, error] = std::from_chars(first, last, value);
  if (error != std::errc() || end != last) return std::nullopt;
  return value;
}

Status AddValue(const PublishOptions& options, uint64_t step, const std::string& word, v1::PublishRequest* request) {
  v1::PublishedStep* published = request->add_steps();
  published->set_root(options.root);
  published->set_tag(options.tag);
  published->set_step(step);
  published->set_epoch(options.epoch);
  v1::PublishedValue* value = published->add_values();
  value->set_module(options.module);
  value->set_param(options.param);
  value->set_topic(options.topic);
  value->set_unit(options.unit);
  if (options.text) {
    value->mutable_value()->set_text(word);
    return {};
  }
  const std::optional<double> number = ParseNumber(word);
  if (!number) {
    return Error{ErrorCode::kInvalidArgument, "'" + word + "' is no number; pass --text to publish a text"};
  }
  value->mutable_value()->set_number(*number);
  return {};
}

void SetTarget(const PublishOptions& options, v1::PublishRequest* request) {
  if (!options.own_run.empty())
    request->set_own_run(options.own_run);
  else
    request->set_run(options.run.empty() ? "latest" : options.run);
  if (options.attempt) request->set_attempt(*options.attempt);
  if (options.rank) request->set_rank(*options.rank);
}

// "STEP VALUE" lines of standard input, blanks or a comma between.
Status AddLine(const PublishOptions& options, const std::string& line, uint64_t number, v1::PublishRequest* request) {
  if (line.find_first_not_of(" \t\r") == std::string::npos) return {};
  const size_t begin = line.find_first_not_of(" \t");
  const size_t gap = line.find_first_of(" \t,", begin);
  const Error wrong{ErrorCode::kCorrupt,
                    "line " + std::to_string(number) + " of the input is not STEP VALUE: '" + line.substr(0, 80) + "'"};
  uint64_t step = 0;
  const char* first = line.c_str() + begin;
  const char* last = gap == std::string::npos ? line.c_str() + line.size() : line.c_str() + gap;
  if (const auto [end, error] = std::from_chars(first, last, step); error != std::errc() || end != last) return wrong;
  const size_t value = gap == std::string::npos ? gap : line.find_first_not_of(" \t,", gap);
  if (value == std::string::npos) return wrong;
  std::string word = line.substr(value);
  word.erase(word.find_last_not_of(" \t\r") + 1);
  if (!options.text && !ParseNumber(word)) return wrong;
  return AddValue(options, step, word, request);
}

Result<int> RunPublish(Context& context, const PublishOptions& options) {
  if (!options.run.empty() && !options.own_run.empty()) {
    return Error{ErrorCode::kInvalidArgument,
                 "--run names a run of a trainer and --own-run one of yours; leave out one"};
  }
  if (options.value && !options.step) {
    return Error{ErrorCode::kInvalidArgument, "a value belongs to a step: pass --step N"};
  }
  if (options.step && !options.value) {
    return Error{ErrorCode::kInvalidArgument, "--step is of a VALUE; lines of standard input bear their own"};
  }
  Result<std::unique_ptr<Client>> client = context.ConnectToDaemon("publish");
  if (!client) return client.error();
  uint64_t taken = 0;
  v1::PublishRequest request;
  v1::RunKey run;
  const auto send = [&](bool last) -> Status {
    SetTarget(options, &request);
    request.set_end(last && options.end);
    if (request.steps_size() == 0 && !request.end()) return {};
    Result<v1::PublishResponse> response = (*client)->CallWhenThereIsRoom(&v1::Monitor::Stub::Publish, request);
    if (!response) return response.error();
    taken += response->values();
    run = response->run();
    request.Clear();
    return {};
  };
  const auto behind = [&](Error error) {
    if (taken != 0) error.text += "; " + Counted(taken, "value") + " before that " + (taken == 1 ? "stands" : "stand");
    return error;
  };
  if (options.value) {
    if (Status added = AddValue(options, *options.step, *options.value, &request); !added) return added.error();
  } else {
    std::string line;
    for (uint64_t number = 1; std::getline(std::cin, line); ++number) {
      if (Status added = AddLine(options, line, number, &request); !added) {
        if (Status sent = send(false); !sent) return behind(sent.error());
        return behind(added.error());
      }
      if (request.steps_size() < kStepsPerCall) continue;
      if (Status sent = send(false); !sent) return behind(sent.error());
    }
  }
  if (Status sent = send(true); !sent) return behind(sent.error());
  v1::PublishResponse all;
  *all.mutable_run() = run;
  all.set_values(taken);
  Print(options.json ? JsonText(ToJson(all))
                     : "published " + Counted(taken, "value") + " of '" + PlainText(options.topic) + "'" +
                           (run.run_id().empty() ? "" : " in run " + PlainText(run.run_id())) + "\n");
  return kExitOk;
}

}  // namespace

void AddPublishCommand(CLI::App& app, Context& context) {
  auto options = std::make_shared<PublishOptions>();
  CLI::App* command = app.add_subcommand("publish", "Records values of your own, under a topic of your own");
  command->add_option("TOPIC", options->topic, "What it is: lower-case letters, digits and _")->required();
  command->add_option("VALUE", options->value, "The value; without it 'STEP VALUE' lines are read from standard input");
  command->add_option("--step", options->step, "Step that VALUE belongs to")->type_name("N");
  command->add_option("--run", options->run, "A run that is live: its name, its id, or 'latest' (the default)")
      ->type_name("RUN");
  command->add_option("--own-run", options->own_run, "A run of your own instead, made when it is new")
      ->type_name("NAME");
  command->add_option("--attempt", options->attempt, "Life of the run; default: the last")->type_name("N");
  command->add_option("--rank", options->rank, "Rank of the run; default: the lowest")->type_name("N");
  command->add_option("--epoch", options->epoch, "Epoch of the step")->type_name("N");
  command->add_option("--tag", options->tag, "Phase; default: default (training)")->type_name("TAG");
  command->add_option("--root", options->root, "Attached model; default: the run as a whole")->type_name("ROOT");
  command->add_option("--module", options->module, "Module that it is about")->type_name("MODULE");
  command->add_option("--param", options->param, "A name within the topic")->type_name("NAME");
  command->add_option("--unit", options->unit, "Unit of the number")->type_name("UNIT");
  command->add_flag("--text", options->text, "VALUE is a text, not a number");
  command->add_flag("--end", options->end, "The run of your own has finished with this");
  command->add_flag("--json", options->json, "As JSON");
  command->footer(
      "Examples:\n  ikkuna publish bleu 31.4 --step 12000 --run translate\n"
      "  ./evaluate | ikkuna publish bleu --own-run nightly --end");
  command->callback(
      [&context, options] { context.chosen = [&context, options] { return RunPublish(context, *options); }; });
}

}  // namespace ikkuna::cli
