#include "daemon/sinks/tensorboard/folders.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <system_error>

#include "daemon/sinks/tensorboard/event_file.h"
#include "daemon/sinks/tensorboard/names.h"
#include "shared/base/unique_fd.h"

namespace ikkuna::sinks {
namespace {

namespace fs = std::filesystem;

constexpr int kSameNameMax = 10'000;  // runs of one display name

std::string Read(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// The file whole or not at all, as far as a crash of the daemon goes.
Status Write(const std::string& path, const std::string& text) {
  const UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd || write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    return PosixError("cannot write '" + path + "'", errno);
  }
  return {};
}

// Hosts that share the folder number attempts each for itself.
std::string HeadOf(const std::string& run_id) {
  return "host " + EventFileHost() + "\nrun " + OneLine(run_id) + "\n";
}
std::string LineOf(uint32_t attempt) { return "attempt " + std::to_string(attempt) + "\n"; }

bool Names(const std::string& marker, const std::string& run_id, uint32_t attempt) {
  const std::string head = HeadOf(run_id);
  // The head ends in a newline, which every line begins behind.
  return marker.starts_with(head) && marker.find("\n" + LineOf(attempt), head.size() - 1) != std::string::npos;
}

// The last attempt of the run, from `first` to `last`, that the marker names.
std::optional<uint32_t> LastNamed(const std::string& marker, const std::string& run_id, uint32_t first, uint32_t last) {
  const std::string head = HeadOf(run_id);
  if (!marker.starts_with(head)) return std::nullopt;
  std::optional<uint32_t> found;
  std::istringstream words(marker.substr(head.size()));
  std::string word;
  for (uint32_t attempt = 0; words >> word >> attempt;) {
    if (word == "attempt" && attempt >= first && attempt <= last && attempt >= found.value_or(0)) found = attempt;
  }
  return found;
}

// The folder `name` of `parent`, or "{name}-2" and so on: the first whose marker is ours, or that is made for us.
Result<std::string> Claim(const std::string& parent, const std::string& name, const char* marker,
                          const std::string& content, const std::function<bool(const std::string&)>& ours) {
  std::string fresh;  // a folder that waits for its name
  const auto given_up = [&] {
    std::error_code code;
    if (!fresh.empty()) fs::remove_all(fresh, code);
  };
  for (int n = 1; n <= kSameNameMax;) {
    const std::string folder = parent + "/" + name + (n == 1 ? "" : "-" + std::to_string(n));
    const std::string path = folder + "/" + marker;
    if (access(folder.c_str(), F_OK) == 0) {
      if (ours(Read(path))) {
        given_up();
        return folder;
      }
      ++n;  // another's, or none of ours
      continue;
    }
    if (fresh.empty()) {
      fresh = parent + "/.ikkuna-new-XXXXXX";
      if (!mkdtemp(fresh.data())) return PosixError("cannot make a TensorBoard folder in '" + parent + "'", errno);
      if (Status written = Write(fresh + "/" + marker, content); !written) {
        given_up();
        return written.error();
      }
    }
    if (rename(fresh.c_str(), folder.c_str()) == 0) return folder;
    // Somebody was faster: the look above decides again.
    if (errno == EEXIST || errno == ENOTEMPTY || errno == ENOTDIR) continue;
    const int errno_value = errno;
    given_up();
    return PosixError("cannot make TensorBoard folder '" + folder + "'", errno_value);
  }
  given_up();
  return Error{ErrorCode::kResourceExhausted, "too many folders are called '" + name + "' in '" + parent + "'"};
}

}  // namespace

Status MakeFolders(const std::string& path) {
  std::error_code code;
  if (path.empty() || fs::is_directory(path, code)) return {};
  if (const std::string above = fs::path(path).parent_path(); above != path) {
    if (Status made = MakeFolders(above); !made) return made;
  }
  if (mkdir(path.c_str(), 0700) == 0 || errno == EEXIST) {
    if (fs::is_directory(path, code)) return {};
    errno = ENOTDIR;
  }
  return PosixError("cannot make TensorBoard folder '" + path + "'", errno);
}

std::string TensorBoardFolders::Search(const std::string& run_id, uint32_t first, uint32_t last) const {
  std::error_code code;
  std::string folder;
  std::optional<uint32_t> latest;
  for (fs::directory_iterator at(logdir_, code), end; !code && at != end; at.increment(code)) {
    const auto named = LastNamed(Read(at->path().string() + "/" + kRunMarker), run_id, first, last);
    if (!named || (latest && *named <= *latest)) continue;
    latest = named;
    folder = at->path().string();
  }
  return folder;
}

Result<std::string> TensorBoardFolders::OfRun(const ProducerInfo& info) {
  const RunKey& key = info.run_key;
  std::string& known = known_[{key.run_id, key.attempt}];
  if (!known.empty()) return known;
  if (Status made = MakeFolders(logdir_); !made) return made.error();
  // One that says that it continues itself, or a later one, continues nothing.
  if (info.continues && *info.continues < key.attempt) {
    std::string line = Search(key.run_id, key.attempt, key.attempt);
    if (line.empty()) {
      // That of the attempt before may be missing: it died before its first value.
      line = Search(key.run_id, ikkuna::LineOf(info), *info.continues);
      if (!line.empty()) {
        const std::string marker = line + "/" + kRunMarker;
        if (Status written = Write(marker + ".new", Read(marker) + LineOf(key.attempt)); !written)
          return written.error();
        if (rename((marker + ".new").c_str(), marker.c_str()) != 0)
          return PosixError("cannot write '" + marker + "'", errno);
      }
    }
    if (!line.empty()) return known = line;
  }
  std::string name = FolderName(info.run.empty() ? key.run_id : info.run);
  if (key.attempt > 0) name += "-attempt" + std::to_string(key.attempt);
  Result<std::string> folder = Claim(logdir_, name, kRunMarker, HeadOf(key.run_id) + LineOf(key.attempt),
                                     [&](const std::string& marker) { return Names(marker, key.run_id, key.attempt); });
  if (folder) known = *folder;
  return folder;
}

std::string TensorBoardFolders::OfRank(const std::string& run_folder, uint32_t rank) {
  return run_folder + "/" + (rank == kAllRanks ? "all" : std::to_string(rank));
}

Result<std::string> TensorBoardFolders::OfTag(const std::string& rank_folder, std::string_view tag) {
  if (Status made = MakeFolders(rank_folder); !made) return made.error();
  const std::string content = OneLine(tag) + "\n";
  return Claim(rank_folder, FolderName(tag), kTagMarker, content,
               [&](const std::string& marker) { return marker == content; });
}

std::vector<std::string> TensorBoardFolders::TagFolders(const std::string& rank_folder) {
  std::vector<std::string> folders;
  std::error_code code;
  for (fs::directory_iterator at(rank_folder, code), end; !code && at != end; at.increment(code)) {
    if (access((at->path() / kTagMarker).c_str(), F_OK) == 0) folders.push_back(at->path().string());
  }
  return folders;
}

}  // namespace ikkuna::sinks
