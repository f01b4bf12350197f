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

namespace ikkuna::probe {

namespace {

std::string FirstOf(std::initializer_list<const char*> variables) {
  for (const char* variable : variables) {
    const char* value = std::getenv(variable);
    if (value != nullptr && *value != '\0') return value;
  }
  return {};
}

uint32_t NumberOf(int64_t option, std::initializer_list<const char*> variables, uint32_t fallback) {
  if (option >= 0) return static_cast<uint32_t>(std::min<int64_t>(option, UINT32_MAX));
  const std::string text = FirstOf(variables);
  uint32_t value = fallback;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() ? value : fallback;
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
  if (identity.run_id.empty()) identity.run_id = FirstOf({"IKKUNA_RUN_ID", "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID"});
  if (identity.run_id.empty()) identity.run_id = UuidText(MakeUuidV7());
  identity.run = options.run;
  if (identity.run.empty()) identity.run = FirstOf({"IKKUNA_RUN"});
  if (identity.run.empty()) {
    const auto arguments = CommandLine();
    identity.run = arguments.empty() ? "run" : std::filesystem::path(arguments[0]).filename().string();
  }
  identity.attempt = NumberOf(options.attempt, {"TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"}, 0);
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
