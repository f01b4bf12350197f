// Configuration: every option by flag and by file, what overrides what, and every way to get it wrong.
#include "daemon/config.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "daemon/config_options.h"

namespace ikkuna {
namespace {

Invocation Parse(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "ikkuna-daemon");
  return ParseCommandLine(static_cast<int>(arguments.size()), arguments.data(), "1.2.3");
}

class ConfigFile {
 public:
  explicit ConfigFile(const std::string& text) {
    std::string pattern = "/tmp/ikkuna-config.XXXXXX";
    directory_ = ::mkdtemp(pattern.data());
    path_ = directory_ + "/ikkuna.toml";
    std::ofstream(path_) << text;
  }
  ~ConfigFile() { std::filesystem::remove_all(directory_); }
  const char* path() const { return path_.c_str(); }
  const std::string& directory() const { return directory_; }

 private:
  std::string directory_;
  std::string path_;
};

struct Row {
  const char* key;
  std::vector<const char*> flags;
  const char* toml;
  std::string printed;  // of the effective configuration
};

// One row an option. The flags and the line give the same value, which is not the default.
const std::vector<Row>& Rows() {
  static const std::vector<Row> kRows = {
      {"dir", {"--dir", "/run/x"}, "dir = '/run/x'", "dir = \"/run/x\""},
      {"data_dir", {"--data-dir", "d"}, "data_dir = 'd'", "data_dir = \"d\""},
      {"subscribe",
       {"--subscribe", "mean(weights)", "--subscribe", "sum(biases)"},
       "subscribe = ['mean(weights)', 'sum(biases)']",
       "subscribe = [\"mean(weights)\", \"sum(biases)\"]"},
      {"no_default", {"--no-default"}, "no_default = true", "no_default = true"},
      {"budget", {"--budget", "0.25%"}, "budget = '0.25%'", "budget = \"0.25%\""},
      {"unready_s", {"--unready-s", "30"}, "unready_s = 30", "unready_s = 30"},
      {"memory_mb", {"--memory-mb", "64"}, "memory_mb = 64", "memory_mb = 64"},
      {"threads", {"--threads", "3"}, "threads = 3", "threads = 3"},
      {"nice", {"--nice", "0"}, "nice = 0", "nice = 0"},
      {"store_max_mb", {"--store-max-mb", "17"}, "store_max_mb = 17", "store_max_mb = 17"},
      {"store_max_age_days", {"--store-max-age-days", "90"}, "store_max_age_days = 90", "store_max_age_days = 90"},
      {"store_min_free_mb", {"--store-min-free-mb", "0"}, "store_min_free_mb = 0", "store_min_free_mb = 0"},
      {"tensorboard", {"--no-tensorboard"}, "tensorboard = false", "tensorboard = false"},
      {"tensorboard_dir", {"--tensorboard-dir", "t"}, "tensorboard_dir = 't'", "tensorboard_dir = \"t\""},
      {"tensorboard_max_mb", {"--tensorboard-max-mb", "5"}, "tensorboard_max_mb = 5", "tensorboard_max_mb = 5"},
      {"tensorboard_topics",
       {"--tensorboard-topics", "loss|*_norm2"},
       "tensorboard_topics = 'loss|*_norm2'",
       "tensorboard_topics = \"loss|*_norm2\""},
      {"health", {"--no-health"}, "health = false", "health = false"},
      {"listen", {"--listen", "localhost:1"}, "listen = 'localhost:1'", "listen = \"localhost:1\""},
      {"token_file", {"--token-file", "tok"}, "token_file = 'tok'", "token_file = \"tok\""},
      {"tls_cert", {"--tls-cert", "c"}, "tls_cert = 'c'", "tls_cert = \"c\""},
      {"tls_key", {"--tls-key", "k"}, "tls_key = 'k'", "tls_key = \"k\""},
      {"tls_client_ca", {"--tls-client-ca", "ca"}, "tls_client_ca = 'ca'", "tls_client_ca = \"ca\""},
      {"control_certificate",
       {"--control-certificate", "anna", "--control-certificate", "otto"},
       "control_certificate = ['anna', 'otto']",
       "control_certificate = [\"anna\", \"otto\"]"},
      {"allow_uid",
       {"--allow-uid", "7", "--allow-uid", "8:control"},
       "allow_uid = ['7', '8:control']",
       "allow_uid = [\"7\", \"8:control\"]"},
      {"log_level", {"--log-level", "error"}, "log_level = 'error'", "log_level = \"error\""},
      {"linger", {"--linger", "2.5"}, "linger = 2.5", "linger = 2.5"},
  };
  return kRows;
}

// Options that go only together with others.
void AddCompany(const std::string& key, std::vector<const char*>& flags) {
  const auto add = [&flags](std::vector<const char*> company) {
    flags.insert(flags.end(), company.begin(), company.end());
  };
  if (key == "token_file") add({"--listen", "localhost:1"});
  if (key == "listen") add({"--token-file", "tok"});
  if (key == "tls_cert") add({"--tls-key", "k", "--listen", "localhost:1", "--token-file", "tok"});
  if (key == "tls_key") add({"--tls-cert", "c", "--listen", "localhost:1", "--token-file", "tok"});
  if (key == "tls_client_ca") add({"--tls-cert", "c", "--tls-key", "k", "--listen", "localhost:1"});
  if (key == "control_certificate") {
    add({"--tls-client-ca", "ca", "--tls-cert", "c", "--tls-key", "k", "--listen", "localhost:1"});
  }
}

TEST(Config, EveryOptionHasARowHere) {
  std::vector<std::string> options, rows;
  for (const auto& option : ConfigOptions()) options.emplace_back(option.key);
  for (const auto& row : Rows()) rows.emplace_back(row.key);
  EXPECT_EQ(options, rows);
}

TEST(Config, EveryOptionByFlag) {
  for (const Row& row : Rows()) {
    auto flags = row.flags;
    AddCompany(row.key, flags);
    const auto invocation = Parse(flags);
    ASSERT_FALSE(invocation.done) << row.key << ": " << invocation.text;
    EXPECT_NE(PrintConfig(invocation.config).find("\n" + row.printed + "\n"), std::string::npos)
        << row.key << " in\n"
        << PrintConfig(invocation.config);
    EXPECT_EQ(PrintConfig(Config{}).find("\n" + row.printed + "\n"), std::string::npos) << "that is the default";
  }
}

TEST(Config, EveryOptionByFile) {
  for (const Row& row : Rows()) {
    Config config;
    auto read = ReadConfigText(std::string("# comment\n") + row.toml + "\n", "x.toml", config);
    ASSERT_TRUE(read.ok()) << read.error().text;
    EXPECT_NE(PrintConfig(config).find("\n" + row.printed + "\n"), std::string::npos) << row.key;
  }
}

TEST(Config, PrintedConfigurationReadsBackAsItself) {
  Config config;
  config.dir = "with \"quotes\", \\ and\nnew line \x01";
  config.subscribe = {"mean(weights)", "norm(biases, order=1)"};
  config.budget_ppm = 1234;
  config.allow_uid = {"1", "2:control"};
  config.linger = 3;
  const std::string printed = PrintConfig(config);
  Config again;
  auto read = ReadConfigText(printed, "printed", again);
  ASSERT_TRUE(read.ok()) << read.error().text;
  EXPECT_EQ(PrintConfig(again), printed);
  EXPECT_EQ(again.dir, config.dir);
  EXPECT_EQ(again.budget_ppm, 1234u);
  EXPECT_EQ(again.subscribe_from_file, 2u);
}

TEST(Config, FlagsOverrideTheFileAndAddToItsSubscribers) {
  ConfigFile file("data_dir = 'from-file'\nlog_level = 'debug'\nsubscribe = ['mean(weights)']\ntensorboard = false\n");
  const auto invocation =
      Parse({"--config", file.path(), "--data-dir", "from-flag", "--subscribe", "sum(weights)", "--tensorboard"});
  ASSERT_FALSE(invocation.done) << invocation.text;
  EXPECT_EQ(invocation.config.data_dir, "from-flag");
  EXPECT_EQ(invocation.config.log_level, "debug");
  EXPECT_TRUE(invocation.config.tensorboard);
  EXPECT_EQ(invocation.config.subscribe, (std::vector<std::string>{"mean(weights)", "sum(weights)"}));
  EXPECT_EQ(invocation.config.subscribe_from_file, 1u);
}

TEST(Config, EmptyFileIsTheDefault) {
  ConfigFile file("");
  const auto invocation = Parse({"--config", file.path()});
  ASSERT_FALSE(invocation.done) << invocation.text;
  EXPECT_EQ(PrintConfig(invocation.config), PrintConfig(Config{}));
}

TEST(Config, ErrorsOfAFileNameFileLineAndNearestKey) {
  const struct {
    const char* text;
    std::vector<const char*> parts;
  } kCases[] = {
      {"dir = 'x'\n\nlog_levle = 'info'\n", {"x.toml:3:", "log_levle", "did you mean 'log_level'"}},
      {"[section]\ndir = 'x'\n", {"x.toml:1:", "section"}},
      {"dir = 5\n", {"x.toml:1:", "'dir'", "text"}},
      {"tensorboard = 'yes'\n", {"'tensorboard'", "true or false"}},
      {"tensorboard = 1\n", {"'tensorboard'", "true or false"}},
      {"store_max_mb = 1.5\n", {"'store_max_mb'", "whole number"}},
      {"store_max_mb = -2\n", {"'store_max_mb'", "-1"}},
      {"memory_mb = 0\n", {"'memory_mb'", "1"}},
      {"unready_s = 0\n", {"'unready_s'", "1", "240"}},
      {"unready_s = 241\n", {"'unready_s'", "1", "240"}},
      {"threads = 65\n", {"'threads'", "64"}},
      {"nice = 20\n", {"'nice'", "19"}},
      {"nice = -1\n", {"'nice'", "0"}},
      {"store_max_age_days = -1\n", {"'store_max_age_days'", "0"}},
      {"subscribe = 'loss()'\n", {"'subscribe'", "list"}},
      {"subscribe = ['loss()', 3]\n", {"'subscribe'", "list of texts"}},
      {"allow_uid = [7]\n", {"'allow_uid'", "list of texts"}},
      {"allow_uid = ['me']\n", {"'allow_uid'", "me"}},
      {"allow_uid = ['7:rule']\n", {"'allow_uid'", "rule"}},
      {"linger = 'soon'\n", {"'linger'", "number"}},
      {"linger = -1\n", {"'linger'", "seconds"}},
      {"linger = nan\n", {"'linger'", "seconds"}},
      {"budget = 0.01\n", {"'budget'", "text"}},
      {"budget = '1'\n", {"'budget'", "off"}},
      {"log_level = 'loud'\n", {"'log_level'", "loud"}},
      {"dir = \n", {"x.toml:1:"}},
      {"dir = 'x'\ndir = 'y'\n", {"x.toml:2:"}},
  };
  for (const auto& one : kCases) {
    Config config;
    auto read = ReadConfigText(one.text, "x.toml", config);
    ASSERT_FALSE(read.ok()) << one.text;
    for (const char* part : one.parts) {
      EXPECT_NE(read.error().text.find(part), std::string::npos) << one.text << " gave: " << read.error().text;
    }
  }
}

TEST(Config, WrongCommandLinesEndWithTwo) {
  const std::vector<std::vector<const char*>> kWrong = {
      {"--nonsense"},
      {"positional"},
      {"--data-dir"},
      {"--store-max-mb", "many"},
      {"--store-max-mb", "-2"},
      {"--allow-uid", "root"},
      {"--allow-uid", "99999999999"},
      {"--budget", "lots"},
      {"--budget", "0%"},
      {"--budget", "101%"},
      {"--log-level", "loud"},
      {"--linger", "-3"},
      {"--config", "/nonexistent/ikkuna.toml"},
      {"--config", "/tmp"},
      {"--subscribe", "no_such_metric(weights)"},
      {"--subscribe", "mean(no_such_kind)"},
      {"--subscribe", "mean(weights"},
      {"--listen", "localhost:5"},
      {"--token-file", "x"},
      {"--tls-cert", "c", "--listen", "localhost:5"},
      {"--tls-cert", "c", "--tls-key", "k", "--listen", "localhost:5"},
      {"--control-certificate", "anna"},
      {"--allow-uid", "7", "--allow-uid", "7:control"},
      {"--exit-when-idle", "3"},
  };
  for (const auto& arguments : kWrong) {
    const auto invocation = Parse(arguments);
    EXPECT_TRUE(invocation.done) << arguments[0];
    EXPECT_EQ(invocation.exit_code, kExitUsage) << arguments[0];
    EXPECT_FALSE(invocation.text.empty()) << arguments[0];
  }
}

TEST(Config, HelpAndVersionEndWithZero) {
  auto invocation = Parse({"--version"});
  EXPECT_TRUE(invocation.done);
  EXPECT_EQ(invocation.exit_code, 0);
  EXPECT_NE(invocation.text.find("1.2.3"), std::string::npos);
  invocation = Parse({"--help"});
  EXPECT_TRUE(invocation.done);
  EXPECT_EQ(invocation.exit_code, 0);
  for (const auto& option : ConfigOptions()) {
    EXPECT_NE(invocation.text.find(FlagOf(option)), std::string::npos) << option.key;
  }
  EXPECT_NE(invocation.text.find("--no-tensorboard"), std::string::npos);
}

TEST(Config, OneSubscriberAFlag) {
  // What follows a --subscribe is not swallowed as a second text.
  const auto invocation = Parse({"--subscribe", "mean(weights)", "sum(weights)"});
  EXPECT_TRUE(invocation.done);
  EXPECT_EQ(invocation.exit_code, kExitUsage);
}

TEST(Config, BudgetIsAShareOrOff) {
  EXPECT_EQ(*ParseBudget("off"), 0u);
  EXPECT_EQ(*ParseBudget("1%"), 10'000u);
  EXPECT_EQ(*ParseBudget("0.05%"), 500u);
  EXPECT_EQ(*ParseBudget("100%"), 1'000'000u);
  for (const char* text : {"", "%", "1", "1 %", "-1%", "nan%", "inf%", "1%%", "off%", "OFF", "0.00001%"}) {
    EXPECT_FALSE(ParseBudget(text).ok()) << text;
  }
  for (uint32_t ppm : {0u, 1u, 500u, 10'000u, 12'345u, 1'000'000u}) EXPECT_EQ(*ParseBudget(BudgetText(ppm)), ppm);
}

TEST(Config, DefaultSubscribersCanBeTurnedOff) {
  Config config;
  graph::SubscriberSet with;
  ASSERT_TRUE(AddSubscribers(config, with).ok());
  EXPECT_EQ(with.List().size(), graph::DefaultSubscribers().size());
  config.no_default = true;
  config.subscribe = {"mean(weights)"};
  graph::SubscriberSet without;
  ASSERT_TRUE(AddSubscribers(config, without).ok());
  ASSERT_EQ(without.List().size(), 1u);
  EXPECT_EQ(without.List()[0].source, SubscriberSource::kFlag);
}

// What a reload changes is what README and SIGHUP's event promise.
TEST(Config, WhatAReloadChanges) {
  std::vector<std::string> at_once;
  for (const auto& option : ConfigOptions()) {
    if (option.takes_effect == TakesEffect::kAtReload) at_once.emplace_back(option.key);
  }
  EXPECT_EQ(at_once, (std::vector<std::string>{"subscribe", "no_default", "token_file", "tls_cert", "tls_key",
                                               "tls_client_ca", "control_certificate", "allow_uid", "log_level"}));
}

}  // namespace
}  // namespace ikkuna
