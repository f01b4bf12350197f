#include "probe/core/identity.h"

#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <climits>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <iterator>

#include "shared/base/clock.h"
#include "shared/codes.h"

namespace ikkuna::probe {

namespace {

std::string FirstOf(std::initializer_list<const char*> variables) {
  for (const char* variable : variables) {
    const char* value = std::getenv(variable);
    if (value != nullptr && *value != '\0') return value;
  }
  return {};
}

std::optional<uint32_t> ParseNumber(const std::string& text) {
  uint32_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

uint32_t NumberOf(int64_t option, std::initializer_list<const char*> variables, uint32_t fallback) {
  if (option >= 0) return static_cast<uint32_t>(std::min<int64_t>(option, UINT32_MAX));
  return ParseNumber(FirstOf(variables)).value_or(fallback);
}

// torchrun's default id is the word "none", which all jobs that were given no other have in common.
std::string ElasticRunId() {
  std::string id = FirstOf({"TORCHELASTIC_RUN_ID"});
  return id == "none" ? std::string() : id;
}

std::string SlurmRunId() {
  const std::string array = FirstOf({"SLURM_ARRAY_JOB_ID"});
  const std::string task = FirstOf({"SLURM_ARRAY_TASK_ID"});
  std::string id = array.empty() || task.empty() ? FirstOf({"SLURM_JOB_ID"}) : array + "_" + task;
  if (id.empty()) return id;
  // srun sets the number of its step; several within one allocation are several runs. What the batch script itself
  // starts has none.
  const std::string step = FirstOf({"SLURM_STEP_ID"});
  return step.empty() ? id : id + "." + step;
}

// Slurm counts an allocation's restarts, and says so only from the first on: a job of Slurm without a count has none
// behind it. torchrun counts those of its workers, from 0 on, in each of these. Both together are restarts of the
// whole.
std::optional<uint32_t> AttemptOf(int64_t option) {
  if (option >= 0) return static_cast<uint32_t>(std::min<int64_t>(option, UINT32_MAX));
  const std::optional<uint32_t> counts[] = {ParseNumber(FirstOf({"TORCHELASTIC_RESTART_COUNT"})),
                                            ParseNumber(FirstOf({"SLURM_RESTART_COUNT"}))};
  std::optional<uint32_t> attempt;
  for (const auto& count : counts) {
    if (count) attempt = attempt.value_or(0) + *count;
  }
  if (!attempt && !FirstOf({"SLURM_JOB_ID"}).empty()) return 0;
  return attempt;
}

std::vector<std::string> CommandLine() {
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  const std::string all((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  std::vector<std::string> arguments;
  for (size_t begin = 0; begin < all.size();) {
    const size_t end = std::min(all.find('\0', begin), all.size());
    arguments.push_back(all.substr(begin, end - begin));
    begin = end + 1;
  }
  return arguments;
}

std::string ReadFirstLine(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// The commit of the enclosing git checkout, by reading its files: running git would fork the trainer.
std::string GitCommit() {
  std::error_code error;
  auto directory = std::filesystem::current_path(error);
  for (int depth = 0; !error && depth < 32; ++depth) {
    const auto git = directory / ".git";
    if (std::filesystem::is_directory(git, error)) {
      const std::string head = ReadFirstLine(git / "HEAD");
      if (head.rfind("ref: ", 0) != 0) return head;
      return ReadFirstLine(git / head.substr(5));
    }
    if (!directory.has_parent_path() || directory.parent_path() == directory) break;
    directory = directory.parent_path();
  }
  return {};
}

bool LooksSecret(std::string name) {
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
  for (const char* word : {"key", "token", "secret", "password", "passwd", "credential", "auth"}) {
    if (name.find(word) != std::string::npos) return true;
  }
  return false;
}

}  // namespace

std::array<unsigned char, 16> MakeUuidV7() {
  std::array<unsigned char, 16> uuid{};
  size_t filled = 0;
  while (filled < uuid.size()) {
    const ssize_t got = ::getrandom(uuid.data() + filled, uuid.size() - filled, 0);
    if (got <= 0) break;
    filled += static_cast<size_t>(got);
  }
  const uint64_t ms = static_cast<uint64_t>(UnixNs()) / 1'000'000;
  for (int i = 0; i < 6; ++i) uuid[static_cast<size_t>(i)] = static_cast<unsigned char>(ms >> (40 - 8 * i));
  uuid[6] = static_cast<unsigned char>((uuid[6] & 0x0f) | 0x70);
  uuid[8] = static_cast<unsigned char>((uuid[8] & 0x3f) | 0x80);
  return uuid;
}

std::string UuidText(const std::array<unsigned char, 16>& uuid) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (size_t i = 0; i < uuid.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += kDigits[uuid[i] >> 4];
    text += kDigits[uuid[i] & 15];
  }
  return text;
}

Identity ResolveIdentity(const IdentityOptions& options) {
  Identity identity;
  identity.run_id = options.run_id;
  if (identity.run_id.empty()) identity.run_id = FirstOf({"IKKUNA_RUN_ID"});
  if (identity.run_id.empty()) identity.run_id = ElasticRunId();
  if (identity.run_id.empty()) identity.run_id = SlurmRunId();
  if (identity.run_id.empty()) {
    identity.run_id = UuidText(MakeUuidV7());
    identity.run_id_made_up = true;
  }
  identity.run = options.run;
  if (identity.run.empty()) identity.run = FirstOf({"IKKUNA_RUN"});
  if (identity.run.empty()) {
    const auto arguments = CommandLine();
    identity.run = arguments.empty() ? "run" : std::filesystem::path(arguments[0]).filename().string();
  }
  identity.attempt = AttemptOf(options.attempt);
  identity.resume = options.resume;
  identity.start_step = std::min(options.start_step, kMaxStep);
  identity.job_address = FirstOf({"MASTER_ADDR"});
  identity.job_port = FirstOf({"MASTER_PORT"});
  identity.rank = NumberOf(options.rank, {"RANK", "SLURM_PROCID"}, 0);
  identity.world_size = std::max(1u, NumberOf(options.world_size, {"WORLD_SIZE", "SLURM_NTASKS"}, 1));
  return identity;
}

std::string RedactCommandLine(const std::vector<std::string>& arguments) {
  std::string text;
  bool hide_next = false;
  for (const std::string& argument : arguments) {
    if (!text.empty()) text += ' ';
    const size_t equals = argument.find('=');
    if (hide_next && argument.rfind("-", 0) != 0) {
      text += "***";
    } else if (equals != std::string::npos && LooksSecret(argument.substr(0, equals))) {
      text += argument.substr(0, equals + 1) + "***";
    } else {
      text += argument;
    }
    hide_next = argument.rfind("-", 0) == 0 && equals == std::string::npos && LooksSecret(argument);
  }
  return text;
}

std::vector<std::pair<std::string, std::string>> ProcessFacts() {
  std::vector<std::pair<std::string, std::string>> facts;
  facts.emplace_back("command", RedactCommandLine(CommandLine()));
  char host[HOST_NAME_MAX + 1] = {};
  if (::gethostname(host, HOST_NAME_MAX) == 0) facts.emplace_back("host", host);
  std::error_code error;
  facts.emplace_back("directory", std::filesystem::current_path(error).string());
  const std::string commit = GitCommit();
  if (!commit.empty()) facts.emplace_back("commit", commit);
  return facts;
}

}  // namespace ikkuna::probe
