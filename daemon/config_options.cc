#include "daemon/config_options.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

namespace ikkuna {

namespace {

Error Bad(std::string text) { return Error{ErrorCode::kInvalidArgument, std::move(text)}; }

// A row whose value is stored as it is.
template <auto Member>
Status SetPlain(Config& config, const OptionValue& value) {
  using Field = std::remove_reference_t<decltype(config.*Member)>;
  config.*Member = std::get<Field>(value);
  return {};
}
template <auto Member>
OptionValue GetPlain(const Config& config) {
  return config.*Member;
}

Status SetBudget(Config& config, const OptionValue& value) {
  auto ppm = ParseBudget(std::get<std::string>(value));
  if (!ppm) return ppm.error();
  config.budget_ppm = *ppm;
  return {};
}

// A whole number of a range.
template <auto Member, int64_t kLeast, int64_t kMost>
Status SetWhole(Config& config, const OptionValue& value) {
  const int64_t number = std::get<int64_t>(value);
  if (number < kLeast || number > kMost) {
    return Bad("it must be from " + std::to_string(kLeast) + " to " + std::to_string(kMost));
  }
  config.*Member = static_cast<std::remove_reference_t<decltype(config.*Member)>>(number);
  return {};
}
template <auto Member>
OptionValue GetWhole(const Config& config) {
  return static_cast<int64_t>(config.*Member);
}

constexpr int64_t kMbMax = int64_t{1} << 40;  // an exbibyte: the product in bytes still fits
constexpr int64_t kDaysMax = 365'000;
constexpr int64_t kUnreadySMax = 240;  // below the 300 s after which a step of which nothing comes is given up

Status SetAllowUid(Config& config, const OptionValue& value) {
  const auto& users = std::get<std::vector<std::string>>(value);
  for (const std::string& text : users) {
    if (auto user = service::ParseAllowedUser(text); !user) return user.error();
  }
  config.allow_uid = users;
  return {};
}

Status SetLogLevel(Config& config, const OptionValue& value) {
  static const std::vector<std::string> kLevels = {"debug", "info", "warning", "error", "off"};
  const auto& level = std::get<std::string>(value);
  if (std::find(kLevels.begin(), kLevels.end(), level) == kLevels.end()) {
    return Bad("'" + level + "' is none of debug, info, warning, error, off");
  }
  config.log_level = level;
  return {};
}

Status SetLinger(Config& config, const OptionValue& value) {
  const double seconds = std::get<double>(value);
  if (!(seconds >= 0) || seconds > 1e9) return Bad("it must be a number of seconds, 0 or more");
  config.linger = seconds;
  return {};
}

}  // namespace

Result<uint32_t> ParseBudget(const std::string& text) {
  if (text == "off") return 0u;
  const Error error = Bad("'" + text + "' is neither a share such as 1% or 0.5% nor off");
  if (text.size() < 2 || text.back() != '%') return error;
  double percent = 0;
  const char* end = text.data() + text.size() - 1;
  const auto [rest, status] = std::from_chars(text.data(), end, percent);
  if (status != std::errc() || rest != end || !std::isfinite(percent)) return error;
  if (percent < 0.0001 || percent > 100) return Bad("'" + text + "' is not between 0.0001% and 100%");
  return static_cast<uint32_t>(std::lround(percent * 10'000));
}

std::string BudgetText(uint32_t ppm) {
  if (ppm == 0) return "off";
  char text[32];
  const auto [end, status] = std::to_chars(text, text + sizeof text, ppm / 10'000.0);
  return std::string(text, end) + "%";
}

const std::vector<ConfigOption>& ConfigOptions() {
  constexpr auto kAtReload = TakesEffect::kAtReload;
  static const std::vector<ConfigOption> kOptions = {
      {"dir", OptionKind::kText, "PATH",
       "Directory of the sockets. Default: $IKKUNA_DIR, else $XDG_RUNTIME_DIR/ikkuna, else /tmp/ikkuna-<uid>",
       SetPlain<&Config::dir>, GetPlain<&Config::dir>},
      {"data_dir", OptionKind::kText, "PATH",
       "Directory of the runs, created when missing, for you alone. Default: $IKKUNA_DATA, else $XDG_DATA_HOME/ikkuna, "
       "else ~/.local/share/ikkuna. Runs of each host lie apart, under its name or $IKKUNA_HOST, for a container that has "
       "another name each time",
       SetPlain<&Config::data_dir>, GetPlain<&Config::data_dir>},
      {"subscribe", OptionKind::kTexts, "TEXT",
       "What to compute, such as 'norm(weights, order=1)'; several times, or separated by ';'. Added to the default "
       "set, whose subscriber of the same topic it replaces",
       SetPlain<&Config::subscribe>, GetPlain<&Config::subscribe>, kAtReload},
      {"no_default", OptionKind::kSwitch, "", "Without the default set of subscribers", SetPlain<&Config::no_default>,
       GetPlain<&Config::no_default>, kAtReload},
      {"budget", OptionKind::kText, "SHARE",
       "Share of the step time that watching may cost a trainer, such as 1% or 0.5%; 'off' gives all that is asked",
       SetBudget, [](const Config& config) -> OptionValue { return BudgetText(config.budget_ppm); }},
      {"unready_s", OptionKind::kInteger, "SECONDS",
       "How long values that a trainer announced before they were there (a device still computes them) may take; "
       "beyond, they count as unready and their step goes on without them",
       SetWhole<&Config::unready_s, 1, kUnreadySMax>, GetWhole<&Config::unready_s>},
      {"memory_mb", OptionKind::kInteger, "MB",
       "Memory for copies of tensors that wait for subscribers which work later; what finds no room is counted",
       SetWhole<&Config::memory_mb, 1, kMbMax>, GetWhole<&Config::memory_mb>},
      {"threads", OptionKind::kInteger, "COUNT",
       "Threads for subscribers which work later; 0: a quarter of the cores, 1 to 4",
       SetWhole<&Config::threads, 0, graph::WorkQueue::kMaxThreads>, GetWhole<&Config::threads>},
      {"nice", OptionKind::kInteger, "LEVEL", "How far these threads and those that write stand behind others, 0 to 19",
       SetWhole<&Config::nice, 0, 19>, GetWhole<&Config::nice>},
      {"store_max_mb", OptionKind::kInteger, "MB",
       "Size of all runs of this host, above which the oldest finished run leaves; 0: no maximum; -1: 16 GiB or a tenth "
       "of the file system, whichever is less",
       SetWhole<&Config::store_max_mb, -1, kMbMax>, GetWhole<&Config::store_max_mb>},
      {"store_max_age_days", OptionKind::kInteger, "DAYS", "Runs that ended so long ago leave; 0: none leaves for its age",
       SetWhole<&Config::store_max_age_days, 0, kDaysMax>, GetWhole<&Config::store_max_age_days>},
      {"store_min_free_mb", OptionKind::kInteger, "MB",
       "What stays free of the file system: where less is, the oldest finished runs leave if that is enough, and below "
       "64 MB (or this, where it is less) recording pauses; 0: not looked at, the disk may be filled; -1: 2 GiB or a "
       "twentieth of the file system, whichever is less",
       SetWhole<&Config::store_min_free_mb, -1, kMbMax>, GetWhole<&Config::store_min_free_mb>},
      {"tensorboard", OptionKind::kSwitch, "", "Write TensorBoard files (on unless turned off)",
       SetPlain<&Config::tensorboard>, GetPlain<&Config::tensorboard>},
      {"tensorboard_dir", OptionKind::kText, "PATH", "Where to write them. Default: <data-dir>/tensorboard",
       SetPlain<&Config::tensorboard_dir>, GetPlain<&Config::tensorboard_dir>},
      {"tensorboard_max_mb", OptionKind::kInteger, "MB",
       "Size of all TensorBoard files, above which those of the runs go that were not written to for longest; 0: no "
       "maximum. They also go where less than --store-min-free-mb stays free, before the store's files do",
       SetWhole<&Config::tensorboard_max_mb, 0, kMbMax>, GetWhole<&Config::tensorboard_max_mb>},
      {"tensorboard_topics", OptionKind::kText, "PATTERNS",
       "Topics that are written to TensorBoard files, such as 'loss|*_norm2'; empty: all",
       SetPlain<&Config::tensorboard_topics>, GetPlain<&Config::tensorboard_topics>},
      {"health", OptionKind::kSwitch, "",
       "Keep the daemon's own health as series of the run 'ikkuna-daemon' (on unless turned off)",
       SetPlain<&Config::health>, GetPlain<&Config::health>},
      {"listen", OptionKind::kText, "HOST:PORT", "Serve gRPC on TCP as well; needs a token or client certificates",
       SetPlain<&Config::listen>, GetPlain<&Config::listen>},
      {"token_file", OptionKind::kText, "PATH", "File of the tokens that TCP clients may send",
       SetPlain<&Config::token_file>, GetPlain<&Config::token_file>, kAtReload},
      {"tls_cert", OptionKind::kText, "PATH", "Certificate for TCP, PEM", SetPlain<&Config::tls_cert>,
       GetPlain<&Config::tls_cert>, kAtReload},
      {"tls_key", OptionKind::kText, "PATH", "Its key, PEM", SetPlain<&Config::tls_key>, GetPlain<&Config::tls_key>,
       kAtReload},
      {"tls_client_ca", OptionKind::kText, "PATH", "Authorities whose client certificates are taken, PEM",
       SetPlain<&Config::tls_client_ca>, GetPlain<&Config::tls_client_ca>, kAtReload},
      {"control_certificate", OptionKind::kTexts, "NAME",
       "Common name of a client certificate that controls; others read; several times",
       SetPlain<&Config::control_certificate>, GetPlain<&Config::control_certificate>, kAtReload},
      {"allow_uid", OptionKind::kTexts, "UID[:ROLE]",
       "Another user whose trainers and clients may connect: 1001 reads, 1001:control controls; several times",
       SetAllowUid, GetPlain<&Config::allow_uid>, kAtReload},
      {"log_level", OptionKind::kText, "LEVEL", "debug, info, warning, error or off", SetLogLevel,
       GetPlain<&Config::log_level>, kAtReload},
      {"linger", OptionKind::kNumber, "SECONDS",
       "End when for so long no trainer came or was connected, no client asked anything and no 'ikkuna run' went on; 0: "
       "stay",
       SetLinger, GetPlain<&Config::linger>},
  };
  return kOptions;
}

std::string FlagOf(const ConfigOption& option) {
  std::string flag = std::string("--") + option.key;
  std::replace(flag.begin(), flag.end(), '_', '-');
  return flag;
}

const char* KindName(OptionKind kind) {
  switch (kind) {
    case OptionKind::kSwitch:
      return "true or false";
    case OptionKind::kInteger:
      return "a whole number";
    case OptionKind::kNumber:
      return "a number";
    case OptionKind::kText:
      return "a text in quotes";
    case OptionKind::kTexts:
      return "a list of texts";
  }
  return "";
}

}  // namespace ikkuna
