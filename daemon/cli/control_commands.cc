// ikkuna freeze, unfreeze, stop
#include <algorithm>

#include "daemon/cli/commands.h"
#include "daemon/cli/json.h"

namespace ikkuna::cli {
namespace {

struct ControlOptions {
  std::string run = "latest";
  std::optional<uint32_t> attempt;
  std::vector<uint32_t> ranks;
  std::string module;
  bool json = false;
};

void AddOptions(CLI::App* command, ControlOptions* options) {
  command->add_option("--run", options->run, "Run: its name, its id, or 'latest'")
      ->type_name("RUN")
      ->capture_default_str();
  command->add_option("--attempt", options->attempt, "Life of the run; default: the last")->type_name("N");
  command
      ->add_option("--rank", options->ranks,
                   "Only this rank, whatever the others do; again for another; default: all together, at one step")
      ->type_name("N")
      ->allow_extra_args(false);
  command->add_flag("--json", options->json, "As JSON");
}

template <typename Request>
void Fill(const ControlOptions& options, Request* request) {
  request->set_run(options.run);
  if (options.attempt) request->set_attempt(*options.attempt);
  for (const uint32_t rank : options.ranks) request->add_ranks(rank);
}

// A sentence a line: one for each rank.
std::string Lines(const std::string& text) {
  std::string lines;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    lines += PlainText(text.substr(begin, end - begin)) + "\n";
    begin = end + 1;
  }
  return lines;
}

template <typename Request, typename Method>
Result<int> Send(Context& context, const ControlOptions& options, const Request& request, Method method) {
  Result<std::unique_ptr<Client>> client = context.ConnectToDaemon("control");
  if (!client) return client.error();
  auto response = (*client)->Call(method, request);
  if (!response) return response.error();
  Print(options.json ? JsonText(ToJson(*response)) : Lines(response->text()));
  return kExitOk;
}

template <typename Request, typename Method>
void AddFreeze(CLI::App& app, Context& context, const char* name, const char* help, Method method) {
  auto options = std::make_shared<ControlOptions>();
  CLI::App* command = app.add_subcommand(name, help);
  command->add_option("MODULE", options->module, "Module path, or a pattern such as 'features.*'")->required();
  AddOptions(command, options.get());
  command->footer("Examples:\n  ikkuna " + std::string(name) + " features.0\n  ikkuna " + name +
                  " 'features.*' --run fashion");
  command->callback([&context, options, method] {
    context.chosen = [&context, options, method] {
      Request request;
      Fill(*options, &request);
      request.set_module(options->module);
      return Send(context, *options, request, method);
    };
  });
}

}  // namespace

void AddControlCommands(CLI::App& app, Context& context) {
  AddFreeze<v1::FreezeRequest>(
      app, context, "freeze",
      "Stops the training of modules, from the next step on; several ranks at one, some seconds ahead",
      &v1::Monitor::Stub::Freeze);
  AddFreeze<v1::UnfreezeRequest>(
      app, context, "unfreeze",
      "Lets frozen modules train again, from the next step on; several ranks at one, some seconds ahead",
      &v1::Monitor::Stub::Unfreeze);
  auto options = std::make_shared<ControlOptions>();
  CLI::App* command =
      app.add_subcommand("stop", "Asks a trainer to end at its next step; several ranks at one, some seconds ahead");
  AddOptions(command, options.get());
  command->footer("Examples:\n  ikkuna stop\n  ikkuna stop --run fashion --rank 0 --rank 1");
  command->callback([&context, options] {
    context.chosen = [&context, options] {
      v1::StopRequest request;
      Fill(*options, &request);
      return Send(context, *options, request, &v1::Monitor::Stub::Stop);
    };
  });
}

}  // namespace ikkuna::cli
