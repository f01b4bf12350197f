#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <sstream>

#include "daemon/cli/commands.h"
#include "shared/base/usage.h"

namespace ikkuna::cli {
namespace {

int ExitCodeOf(const Error& error) {
  if (error.code == ErrorCode::kUnavailable) return kExitUnavailable;
  return error.code == ErrorCode::kInvalidArgument ? kExitUsage : kExitFailed;
}

// A text of several lines has the others under the first, indented: none of them passes for one of ours.
void PrintError(const std::string& text) {
  std::istringstream lines(text);
  std::string line;
  std::getline(lines, line);
  std::cerr << "ikkuna: " << PlainText(line) << "\n";
  while (std::getline(lines, line))
    std::cerr << "  " << PlainText(line.substr(std::min(line.find_first_not_of(' '), line.size()))) << "\n";
}

// The parser takes -1 for the greatest number that there is, and no number for none.
void RefuseWhatIsNoNumber(CLI::App& app) {
  for (CLI::Option* option : app.get_options([](CLI::Option*) { return true; })) {
    const std::string type = option->get_type_name();
    if (type != "N" && type != "ID" && type != "UINT") continue;
    option->check(CLI::Validator(
        [](std::string& text) {
          if (text.empty()) return std::string("it is empty");
          return text.starts_with("-") ? "'" + text + "' is below 0" : std::string();
        },
        ""));
  }
}

void AddGlobalOptions(CLI::App& app, Context& context, const char* version) {
  app.add_option("--address", context.connection.address,
                 "Where the daemon answers: unix:PATH or HOST:PORT. Default: the socket in $IKKUNA_DIR, else in "
                 "$XDG_RUNTIME_DIR/ikkuna, else in /tmp/ikkuna-UID")
      ->type_name("ADDRESS");
  app.add_option("--token-file", context.connection.token_file, "File with the token that a TCP address asks for")
      ->type_name("FILE");
  app.add_option("--tls-ca", context.connection.tls_ca_file,
                 "PEM certificate to check a TCP daemon's against; switches TLS on")
      ->type_name("FILE");
  app.add_option("--tls-cert", context.connection.tls_cert_file,
                 "PEM certificate of your own, for a daemon that goes by these; with --tls-key")
      ->type_name("FILE");
  app.add_option("--tls-key", context.connection.tls_key_file, "PEM key of --tls-cert")->type_name("FILE");
  app.add_option("--data-dir", context.connection.data_dir,
                 "Read recorded runs here, or one run's file, without a daemon")
      ->type_name("PATH");
  app.set_version_flag("--version", std::string("ikkuna ") + version);
}

// `tag RUN -draft` as `tag RUN --remove draft`: a parser would take the tag for a row of flags.
std::vector<std::string> SpellOutTags(std::vector<std::string> words) {
  size_t command = 0;
  while (command < words.size() && words[command].starts_with("-")) {
    // A global option and its value, which may look like a command.
    command += words[command].starts_with("--") && words[command].find('=') == std::string::npos ? 2 : 1;
  }
  if (command >= words.size() || words[command] != "tag") return words;
  for (size_t i = command + 1; i < words.size(); ++i) {
    if (words[i].size() < 2 || words[i][0] != '-' || words[i][1] == '-' || words[i] == "-h") continue;
    const std::string tag = words[i].substr(1);
    words[i] = "--remove=" + tag;
  }
  return words;
}

int Usage(const CLI::App& app, const CLI::ParseError& error) {
  if (error.get_exit_code() == 0) return app.exit(error) == 0 ? kExitOk : kExitFailed;  // --help, --version
  std::cerr << "ikkuna: " << UsageError(app, error) << "\n";
  const CLI::App* at = &app;
  std::string words = "ikkuna";
  while (!at->get_subcommands().empty()) {
    at = at->get_subcommands().front();
    words += " " + at->get_name();
  }
  std::cerr << "'" << words << " --help' shows what it takes.\n";
  return kExitUsage;
}

}  // namespace

void Print(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stdout); }
bool OutputGoesOn() { return std::ferror(stdout) == 0; }

Result<std::unique_ptr<Client>> Context::Connect() const {
  Result<std::unique_ptr<Client>> client = Client::Connect(connection);
  if (!client) return client;
  for (const std::string& note : (*client)->notes()) std::cerr << "ikkuna: " << PlainText(note) << "\n";
  return client;
}

Result<std::unique_ptr<Client>> Context::ConnectToDaemon(const char* what) const {
  if (connection.data_dir.empty()) return Connect();
  return Error{ErrorCode::kInvalidArgument,
               std::string("'") + what + "' needs a daemon: leave out --data-dir, which only reads what is recorded"};
}

int RunCli(int argc, char** argv, const char* version) {
  CLI::App app("Shows and steers what ikkuna-daemon records of running trainings.", "ikkuna");
  Context context;
  context.terminal = DetectTerminal();
  AddGlobalOptions(app, context, version);
  app.require_subcommand(1);
  app.fallthrough();
  app.footer(
      "Examples:\n"
      "  ikkuna status                        what runs, what it costs, what was dropped\n"
      "  ikkuna plot loss                     the newest run's loss, drawn here\n"
      "  ikkuna subscribe 'norm(weights, order=3)'\n"
      "  ikkuna plot loss --run a --run b     two runs in one plot\n"
      "  ikkuna read loss --format csv > loss.csv\n"
      "  ikkuna why                           what is missing, and why\n"
      "  ikkuna --data-dir DIR plot loss      without a daemon\n"
      "  ikkuna run -- ./train --epochs 3     a trainer, and a daemon beside it\n\n"
      "Exit codes: 0 done, 1 refused or failed, 2 wrong arguments, 3 no daemon answers; 'run' has its job's.");
  AddStatusCommand(app, context);
  AddRunsCommand(app, context);
  AddSeriesCommand(app, context);
  AddModulesCommand(app, context);
  AddTableCommand(app, context);
  AddTopCommand(app, context);
  AddWatchCommand(app, context);
  AddPlotCommand(app, context);
  AddReadCommand(app, context);
  AddTextsCommand(app, context);
  AddHistogramCommand(app, context);
  AddWhyCommand(app, context);
  AddSubscriberCommands(app, context);
  AddPublishCommand(app, context);
  AddEventsCommand(app, context);
  AddTagCommand(app, context);
  AddDeleteCommand(app, context);
  AddExportCommand(app, context);
  AddImportCommand(app, context);
  AddControlCommands(app, context);
  AddRunCommand(app, context);
  AddUpCommands(app, context);
  for (CLI::App* command : app.get_subcommands([](CLI::App*) { return true; })) {
    command->fallthrough();
    RefuseWhatIsNoNumber(*command);
  }
  // gRPC's own log is for those who work on it.
  ::setenv("GRPC_VERBOSITY", "NONE", 0);
  std::vector<std::string> words = SpellOutTags({argv + 1, argv + argc});
  std::reverse(words.begin(), words.end());  // as CLI11 takes them
  try {
    app.parse(std::move(words));
  } catch (const CLI::ParseError& error) {
    return Usage(app, error);
  }
  Result<int> exit_code = context.chosen();
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    std::cerr << "ikkuna: cannot write to standard output: " << std::strerror(errno) << "\n";
    return kExitFailed;
  }
  if (exit_code) return *exit_code;
  PrintError(exit_code.error().text);
  return ExitCodeOf(exit_code.error());
}

}  // namespace ikkuna::cli
