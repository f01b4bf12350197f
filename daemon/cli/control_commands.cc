// ikkuna freeze, unfreeze, stop
#include "daemon/cli/commands.h"
#include "daemon/cli/json.h"

namespace ikkuna::cli {
namespace {

struct Options {
  RunChoice run;
  std::string module;
  bool json = false;
};

void AddOptions(CLI::App* command, Options* options) {
  command->add_option("--run", options->run.run, "Run: its name, its id, or 'latest'")
      ->type_name("RUN")
      ->capture_default_str();
  command->add_option("--attempt", options->run.attempt, "Restart of the run; default: the last")->type_name("N");
  command->add_option("--rank", options->run.rank, "Rank of the run; default: every rank")->type_name("N");
  command->add_flag("--json", options->json, "As JSON");
}

template <typename Request>
void Fill(const RunChoice& choice, Request* request) {
  request->set_run(choice.run);
  if (choice.attempt) request->set_attempt(*choice.attempt);
  if (choice.rank) request->set_rank(*choice.rank);
}

template <typename Request, typename Method>
Result<int> Send(Context& context, const Options& options, const Request& request, Method method) {
  Result<std::unique_ptr<Client>> client = Client::Connect(context.connection);
  if (!client) return client.error();
  auto response = (*client)->Call(method, request);
  if (!response) return response.error();
  if (options.json) Print(JsonText(ToJson(*response)));
  for (const std::string& text : response->texts()) {
    if (!options.json) Print(PlainText(text) + "\n");
  }
  return kExitOk;
}

template <typename Request, typename Method>
void AddFreeze(CLI::App& app, Context& context, const char* name, const char* help, Method method) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(name, help);
  command->add_option("MODULE", options->module, "Module path, or a pattern such as 'features.*'")->required();
  AddOptions(command, options.get());
  command->footer("Examples:\n  ikkuna " + std::string(name) + " features.0\n  ikkuna " + name +
                  " 'features.*' --run fashion");
  command->callback([&context, options, method] {
    context.chosen = [&context, options, method] {
      Request request;
      Fill(options->run, &request);
      request.set_module(options->module);
      return Send(context, *options, request, method);
    };
  });
}

}  // namespace

void AddControlCommands(CLI::App& app, Context& context) {
  AddFreeze<v1::FreezeRequest>(app, context, "freeze", "Stops the training of modules, from the next step on",
                               &v1::Monitor::Stub::Freeze);
  AddFreeze<v1::UnfreezeRequest>(app, context, "unfreeze", "Lets frozen modules train again",
                                 &v1::Monitor::Stub::Unfreeze);
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("stop", "Asks a trainer to end");
  AddOptions(command, options.get());
  command->footer("Examples:\n  ikkuna stop\n  ikkuna stop --run fashion --rank 0");
  command->callback([&context, options] {
    context.chosen = [&context, options] {
      v1::StopRequest request;
      Fill(options->run, &request);
      return Send(context, *options, request, &v1::Monitor::Stub::Stop);
    };
  });
}

}  // namespace ikkuna::cli
