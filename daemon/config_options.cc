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

Status SetDataDir(Config& config, const OptionValue& value) {
  if (std::get<std::string>(value).empty()) return Bad("it must not be empty");
  config.data_dir = std::get<std::string>(value);
  return {};
}

Status SetBudget(Config& config, const OptionValue& value) {
  auto ppm = ParseBudget(std::get<std::string>(value));
  if (!ppm) return ppm.error();
  config.budget_ppm = *ppm;
  return {};
}

Status SetStoreMax(Config& config, const OptionValue& value) {
  constexpr int64_t kMax = int64_t{1} << 40;  // an exbibyte: the product in bytes still fits
  const int64_t megabytes = std::get<int64_t>(value);
  if (megabytes < 0 || megabytes > kMax) return Bad("it must be from 0 to " + std::to_string(kMax));
  config.store_max_mb = static_cast<uint64_t>(megabytes);
  return {};
}

Status SetAllowUid(Config& config, const OptionValue& value) {
  std::vector<uid_t> uids;
  for (int64_t uid : std::get<std::vector<int64_t>>(value)) {
    if (uid < 0 || uid >= std::numeric_limits<uid_t>::max()) return Bad(std::to_string(uid) + " is no user id");
    uids.push_back(static_cast<uid_t>(uid));
  }
  config.allow_uid = std::move(uids);
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

Status SetExitWhenIdle(Config& config, const OptionValue& value) {
  const double seconds = std::get<double>(value);
  if (!(seconds >= 0) || seconds > 1e9) return Bad("it must be a number of seconds, 0 or more");
  config.exit_when_idle = seconds;
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
  static const std::vector<ConfigOption> kOptions = {
      {"dir", OptionKind::kText, "PATH",
       "Directory of the sockets. Default: $IKKUNA_DIR, else $XDG_RUNTIME_DIR/ikkuna, else /tmp/ikkuna-<uid>",
       SetPlain<&Config::dir>, GetPlain<&Config::dir>},
      {"data_dir", OptionKind::kText, "PATH",
       "Directory of the run store, created when missing. Default: ./ikkuna-data", SetDataDir,
       GetPlain<&Config::data_dir>},
      {"subscribe", OptionKind::kTexts, "TEXT",
       "What to compute, such as 'norm(weights, order=1)'; several times, or separated by ';'. Added to the default "
       "set, "
       "whose subscriber of the same topic it replaces",
       SetPlain<&Config::subscribe>, GetPlain<&Config::subscribe>},
      {"no_default", OptionKind::kSwitch, "", "Without the default set of subscribers", SetPlain<&Config::no_default>,
       GetPlain<&Config::no_default>},
      {"budget", OptionKind::kText, "SHARE",
       "Share of the step time that watching may cost a trainer, such as 1% or 0.5%; 'off' gives all that is asked",
       SetBudget, [](const Config& config) -> OptionValue { return BudgetText(config.budget_ppm); }},
      {"store_max_mb", OptionKind::kInteger, "MB",
       "Size of the store above which the longest series are thinned; 0: no maximum", SetStoreMax,
       [](const Config& config) -> OptionValue { return static_cast<int64_t>(config.store_max_mb); }},
      {"tensorboard", OptionKind::kSwitch, "", "Write TensorBoard files (on unless turned off)",
       SetPlain<&Config::tensorboard>, GetPlain<&Config::tensorboard>},
      {"tensorboard_dir", OptionKind::kText, "PATH", "Where to write them. Default: <data-dir>/tensorboard",
       SetPlain<&Config::tensorboard_dir>, GetPlain<&Config::tensorboard_dir>},
      {"health", OptionKind::kSwitch, "",
       "Keep the daemon's own health as series of the run 'ikkuna-daemon' (on unless turned off)",
       SetPlain<&Config::health>, GetPlain<&Config::health>},
      {"listen", OptionKind::kText, "HOST:PORT", "Serve gRPC on TCP as well; needs a token or TLS",
       SetPlain<&Config::listen>, GetPlain<&Config::listen>},
      {"token_file", OptionKind::kText, "PATH", "File whose first line is the token that TCP clients must send",
       SetPlain<&Config::token_file>, GetPlain<&Config::token_file>},
      {"tls_cert", OptionKind::kText, "PATH", "Certificate for TCP, PEM", SetPlain<&Config::tls_cert>,
       GetPlain<&Config::tls_cert>},
      {"tls_key", OptionKind::kText, "PATH", "Its key, PEM", SetPlain<&Config::tls_key>, GetPlain<&Config::tls_key>},
      {"allow_uid", OptionKind::kIntegers, "UID", "Another user whose trainers and clients may connect; several times",
       SetAllowUid,
       [](const Config& config) -> OptionValue {
         return std::vector<int64_t>(config.allow_uid.begin(), config.allow_uid.end());
       }},
      {"log_level", OptionKind::kText, "LEVEL", "debug, info, warning, error or off", SetLogLevel,
       GetPlain<&Config::log_level>},
      {"exit_when_idle", OptionKind::kNumber, "SECONDS",
       "End when the last trainer has left and nobody has asked anything for so long; 0: stay", SetExitWhenIdle,
       GetPlain<&Config::exit_when_idle>},
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
    case OptionKind::kIntegers:
      return "a list of whole numbers";
  }
  return "";
}

}  // namespace ikkuna
