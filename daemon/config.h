// Config: everything an operator can set, from flags and a TOML file.
//
// One table (config_options.cc) names each option once: the flag, the key, its help, how it is read and printed, and
// whether it takes effect when the configuration is read again (SIGHUP). Flags override the file, the file overrides the
// defaults. Thread rule: plain values, made by main.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "daemon/graph/subscriber_set.h"
#include "daemon/graph/work_queue.h"
#include "daemon/service/server_options.h"
#include "shared/base/result.h"

namespace ikkuna {

struct Config {
  std::string dir;                     // of the sockets; empty: the default
  std::string data_dir;                // empty: the default (shared/places.h)
  std::vector<std::string> subscribe;  // added to the default set
  bool no_default = false;             // without the default set
  uint32_t budget_ppm = 10'000;        // share of the step time a probe may cost; 0: off

  uint64_t unready_s = 10;  // how long bytes that come late may take

  // What the daemon may take of a machine that is a trainer's.
  uint64_t memory_mb = 1024;  // what `queue` subscribers and ranks that wait may hold
  uint32_t threads = 0;       // of `queue` subscribers; 0: a quarter of the cores, 1 to 4
  int nice = graph::WorkQueue::kDefaultNice;  // of these, and of the sinks' threads

  int64_t store_max_mb = -1;        // 0: no cap; -1: the store's default
  uint64_t store_max_age_days = 0;  // 0: none
  int64_t store_min_free_mb = -1;   // 0: not looked at; -1: the store's default
  bool tensorboard = true;
  std::string tensorboard_dir;         // empty: <data_dir>/tensorboard
  uint64_t tensorboard_max_mb = 4096;  // 0: no cap
  std::string tensorboard_topics;      // patterns; empty: all
  bool health = true;                  // keep the daemon's own health as series

  std::string listen;
  std::string token_file;
  std::string tls_cert;
  std::string tls_key;
  std::string tls_client_ca;
  std::vector<std::string> control_certificate;
  std::vector<std::string> allow_uid;  // as service::ParseAllowedUser takes them
  std::string log_level = "info";
  double linger = 0;  // seconds; 0: stays

  // Where each subscriber came from matters for what it replaces and how it is shown.
  size_t subscribe_from_file = 0;  // the first so many of `subscribe`

  // With a data_dir that is not empty.
  std::string TensorBoardDir() const { return tensorboard_dir.empty() ? data_dir + "/tensorboard" : tensorboard_dir; }
  std::vector<service::AllowedUser> AllowedUsers() const;
};

// What the command line asked for.
struct Invocation {
  Config config;
  bool print_config = false;
  bool check_config = false;
  // Help or version was asked for, or the command line is wrong: print `text` and end with `exit_code`.
  bool done = false;
  int exit_code = 0;
  std::string text;
};

constexpr int kExitFailed = 1;   // the daemon could not start or go on
constexpr int kExitUsage = 2;    // the command line or the configuration is wrong
constexpr int kExitNotKept = 3;  // it ended in order, and a sink could not take the last of it

Invocation ParseCommandLine(int argc, const char* const* argv, const std::string& version);

// Adds what a TOML file says to `config`. Errors name file, line, and the nearest known key.
Status ReadConfigFile(const std::string& path, Config& config);
// The same from text, `name` standing for the file.
Status ReadConfigText(const std::string& text, const std::string& name, Config& config);

// The effective configuration as a TOML file that gives it again.
std::string PrintConfig(const Config& config);

// What no option can know alone: combinations, and subscribers that do not parse.
Status CheckConfig(const Config& config);
// The default set, then those of the file and the flags.
Status AddSubscribers(const Config& config, graph::SubscriberSet& subscribers);
// What it says of the service; `directory` is that of the sockets.
service::ServerOptions ServerOptionsOf(const Config& config, const std::string& directory);

}  // namespace ikkuna
