// The command line, and what only the whole configuration shows.
#include "daemon/config.h"

#include <CLI/CLI.hpp>
#include <functional>
#include <map>
#include <memory>
#include <sstream>
#include <utility>

#include "daemon/config_options.h"
#include "shared/base/usage.h"

namespace ikkuna {

namespace {

// What the flags gave, by row of the table; applied after the file.
using FlagValues = std::map<const ConfigOption*, OptionValue>;

void AddFlag(CLI::App& app, const ConfigOption& option, FlagValues& values) {
  const std::string flag = FlagOf(option);
  const ConfigOption* row = &option;
  CLI::Option* added = nullptr;
  switch (option.kind) {
    case OptionKind::kSwitch: {
      const bool on = std::get<bool>(option.get(Config{}));
      const std::string names = on ? flag + ",!--no-" + flag.substr(2) : flag;
      app.add_flag_function(
          names, [&values, row](int64_t count) { values[row] = count > 0; }, option.help);
      return;
    }
    case OptionKind::kInteger:
      added = app.add_option_function<int64_t>(
          flag, [&values, row](const int64_t& value) { values[row] = value; }, option.help);
      break;
    case OptionKind::kNumber:
      added = app.add_option_function<double>(
          flag, [&values, row](const double& value) { values[row] = value; }, option.help);
      break;
    case OptionKind::kText:
      added = app.add_option_function<std::string>(
          flag, [&values, row](const std::string& value) { values[row] = value; }, option.help);
      break;
    case OptionKind::kTexts:
      added = app.add_option_function<std::vector<std::string>>(
          flag, [&values, row](const std::vector<std::string>& value) { values[row] = value; }, option.help);
      // One a flag: what follows is never taken for a second text.
      added->allow_extra_args(false);
      break;
  }
  added->type_name(option.argument);
}

Status Apply(const FlagValues& values, Config& config) {
  for (const auto& [option, value] : values) {
    OptionValue effective = value;
    if (option->kind == OptionKind::kTexts) {
      // What the file lists stays; what the flags list comes after it.
      auto all = std::get<std::vector<std::string>>(option->get(config));
      const auto& added = std::get<std::vector<std::string>>(value);
      all.insert(all.end(), added.begin(), added.end());
      effective = std::move(all);
    }
    if (auto set = option->set(config, effective); !set) {
      return Error{set.error().code, FlagOf(*option) + ": " + set.error().text};
    }
  }
  return {};
}

Invocation End(int exit_code, std::string text) {
  Invocation invocation;
  invocation.done = true;
  invocation.exit_code = exit_code;
  invocation.text = std::move(text);
  return invocation;
}

}  // namespace

Invocation ParseCommandLine(int argc, const char* const* argv, const std::string& version) {
  CLI::App app{"Watches training runs: serves their metrics over gRPC, keeps them in a store and in TensorBoard files.",
               "ikkuna-daemon"};
  app.set_version_flag("--version", "ikkuna-daemon " + version);
  app.footer(
      "Examples:\n"
      "  ikkuna-daemon                                        beside a trainer of the same user\n"
      "  ikkuna-daemon --data-dir /var/lib/ikkuna --config /etc/ikkuna.toml\n"
      "  ikkuna-daemon --subscribe 'norm(layer_gradients, order=1, subsample=10)' --budget 0.5%\n"
      "  ikkuna-daemon --print-config > ikkuna.toml           every option with its value");
  Invocation invocation;
  std::string file;
  app.add_option("--config", file, "TOML file with the same options; flags override it")->type_name("PATH");
  app.add_flag("--print-config", invocation.print_config, "Print the configuration as TOML and end");
  app.add_flag("--check-config", invocation.check_config,
               "Check the configuration and end: 0 when it is right, 2 when not");
  FlagValues values;
  for (const ConfigOption& option : ConfigOptions()) AddFlag(app, option, values);

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    std::ostringstream out, unused;
    if (app.exit(error, out, unused) == 0) return End(0, out.str());  // --help, --version
    return End(kExitUsage,
               "ikkuna-daemon: " + UsageError(app, error) + "\n'ikkuna-daemon --help' shows what it takes.\n");
  }
  const auto wrong = [](const Error& error) { return End(kExitUsage, "ikkuna-daemon: " + error.text + "\n"); };
  if (!file.empty()) {
    if (auto read = ReadConfigFile(file, invocation.config); !read) return wrong(read.error());
  }
  if (auto applied = Apply(values, invocation.config); !applied) return wrong(applied.error());
  if (auto checked = CheckConfig(invocation.config); !checked) return wrong(checked.error());
  return invocation;
}

Status CheckConfig(const Config& config) {
  // The directory of the sockets has a default, so the service always has one.
  if (auto checked = service::CheckServerOptions(ServerOptionsOf(config, config.dir.empty() ? "." : config.dir));
      !checked) {
    return checked;
  }
  graph::SubscriberSet subscribers;
  return AddSubscribers(config, subscribers);
}

Status AddSubscribers(const Config& config, graph::SubscriberSet& subscribers) {
  if (!config.no_default) {
    for (const std::string& text : graph::DefaultSubscribers()) {
      if (auto added = subscribers.Add(text, graph::Source::kDefault); !added) return added.error();
    }
  }
  for (size_t i = 0; i < config.subscribe.size(); ++i) {
    const auto source = i < config.subscribe_from_file ? graph::Source::kConfig : graph::Source::kFlag;
    if (auto added = subscribers.Add(config.subscribe[i], source); !added) {
      return Error{added.error().code, "subscriber '" + config.subscribe[i] + "': " + added.error().text};
    }
  }
  return {};
}

std::vector<service::AllowedUser> Config::AllowedUsers() const {
  std::vector<service::AllowedUser> users;
  for (const std::string& text : allow_uid) {
    if (auto user = service::ParseAllowedUser(text)) users.push_back(*user);
  }
  return users;
}

service::ServerOptions ServerOptionsOf(const Config& config, const std::string& directory) {
  service::ServerOptions options;
  options.directory = directory;
  options.allow_users = config.AllowedUsers();
  options.listen = config.listen;
  options.token_file = config.token_file;
  options.tls_cert_file = config.tls_cert;
  options.tls_key_file = config.tls_key;
  options.tls_client_ca_file = config.tls_client_ca;
  options.control_certificates = config.control_certificate;
  return options;
}

}  // namespace ikkuna
