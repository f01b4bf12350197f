#include "daemon/monitor/run_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

namespace ikkuna {
namespace {

constexpr char kPrefix[] = "/ikkuna-run-";

// A name that nobody has in the staging folder, which is made when missing.
Result<std::string> NewPath(const CoreParts& parts) {
  static std::atomic<uint64_t> count{0};
  const std::string& folder = parts.staging_directory;
  if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) {
    return PosixError("cannot make the folder '" + folder + "' for files of runs", errno);
  }
  return folder + kPrefix + std::to_string(::getpid()) + "-" + std::to_string(count.fetch_add(1));
}

// A name for the client's folder: what is no letter, digit, '.', '-' or '_' becomes '_'.
std::string FileName(const RunKey& run) {
  std::string name;
  for (const char c : run.run_id) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
                       c == '_' || (c == '.' && !name.empty());
    name += plain ? c : '_';
  }
  name += "-attempt" + std::to_string(run.attempt);
  return name + (run.rank == kAllRanks ? "-all" : "-rank" + std::to_string(run.rank)) + ".run";
}

}  // namespace

void ClearStaging(const std::string& folder) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
    if (entry.path().filename().string().rfind(kPrefix + 1, 0) == 0) std::filesystem::remove(entry.path(), ignored);
  }
}

StagedRunFiles::StagedRunFiles(const CoreParts& parts, std::vector<RunKey> runs)
    : parts_(parts), runs_(std::move(runs)) {}

Answer<std::optional<RunFiles::File>> StagedRunFiles::NextFile() {
  file_.reset();
  if (next_ >= runs_.size()) return std::optional<File>();
  const RunKey& run = runs_[next_++];
  Result<std::string> path = NewPath(parts_);
  if (!path) return path.error();
  if (Status exported = parts_.store.export_file(run, *path); !exported) {
    ::unlink(path->c_str());
    return exported.error();
  }
  UniqueFd file(::open(path->c_str(), O_RDONLY | O_CLOEXEC));
  const int open_errno = errno;
  ::unlink(path->c_str());
  struct stat info {};
  if (!file || ::fstat(file.get(), &info) != 0) {
    return PosixError("cannot read the copy of run " + Describe(run), file ? errno : open_errno);
  }
  file_ = std::move(file);
  return std::optional<File>(File{run, FileName(run), static_cast<uint64_t>(info.st_size)});
}

Answer<std::string> StagedRunFiles::Read(size_t bytes_max) {
  std::string bytes(bytes_max, '\0');
  ssize_t got = 0;
  do {
    got = ::read(file_.get(), bytes.data(), bytes.size());
  } while (got < 0 && errno == EINTR);
  if (got < 0) return PosixError("cannot read the copy of a run", errno);
  bytes.resize(static_cast<size_t>(got));
  return bytes;
}

Result<std::unique_ptr<StagedRunImport>> StagedRunImport::Begin(const CoreParts& parts) {
  Result<std::string> path = NewPath(parts);
  if (!path) return path.error();
  UniqueFd file(::open(path->c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!file) return PosixError("cannot write '" + *path + "' for the run that comes", errno);
  return std::unique_ptr<StagedRunImport>(new StagedRunImport(parts, *std::move(path), std::move(file)));
}

StagedRunImport::StagedRunImport(const CoreParts& parts, std::string path, UniqueFd file)
    : parts_(parts), path_(std::move(path)), file_(std::move(file)) {}

StagedRunImport::~StagedRunImport() { ::unlink(path_.c_str()); }

Status StagedRunImport::Write(const std::string& bytes) {
  bytes_ += bytes.size();
  if (bytes_ > kBytesMax) {
    return Error{ErrorCode::kResourceExhausted, "a run's file of more than 16 GiB is not taken"};
  }
  // Runs that are kept would leave for it.
  if (bytes_ > room_) {
    if (Status room = parts_.store.room(kRoomAskedFor + bytes.size()); !room) {
      return Error{room.error().code, "the run's file is not taken: " + room.error().text};
    }
    room_ = bytes_ + kRoomAskedFor;
  }
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t wrote = ::write(file_.get(), bytes.data() + done, bytes.size() - done);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return PosixError("cannot keep the run that comes in '" + parts_.staging_directory + "'", errno);
    done += static_cast<size_t>(wrote);
  }
  return {};
}

Answer<RunInfo> StagedRunImport::Finish() {
  file_.reset();
  Result<RunKey> key = parts_.store.import_file(path_);
  if (!key) {
    Failure failure(key.error());
    // Where it is staged is none of the client's business, which knows it by another name.
    const std::string staged = "'" + path_ + "'";
    if (const size_t at = failure.text.find(staged); at != std::string::npos) {
      failure.text.replace(at, staged.size(), "the file");
    }
    if (key.error().code == ErrorCode::kCorrupt || key.error().code == ErrorCode::kInvalidArgument ||
        key.error().code == ErrorCode::kNotFound) {
      failure.reason = Reason::kBadFile;
    }
    return failure;
  }
  Result<std::vector<RunInfo>> runs = parts_.recorded->FindRuns(key->run_id);
  if (!runs) return runs.error();
  for (RunInfo& run : *runs) {
    if (run.info.run_key == *key) return std::move(run);
  }
  return Failure{ErrorCode::kSystem, "run " + Describe(*key) + " was taken in, and is not listed", Reason::kStore};
}

}  // namespace ikkuna
