#include "daemon/sinks/tensorboard/space.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <vector>

#include "daemon/sinks/tensorboard/event_file.h"
#include "daemon/sinks/tensorboard/folders.h"

namespace ikkuna::sinks {
namespace {

namespace fs = std::filesystem;

// A walk over all folders; a user may have made room meanwhile.
constexpr std::chrono::seconds kMeasureEvery{10};

template <typename Visit>
void EachEventFile(const std::string& folder, Visit visit) {
  std::error_code code;
  for (fs::recursive_directory_iterator at(folder, code), end; !code && at != end; at.increment(code)) {
    const std::string name = at->path().filename().string();
    struct stat file {};
    if (name.find("tfevents") == std::string::npos || lstat(at->path().c_str(), &file) != 0 || !S_ISREG(file.st_mode)) {
      continue;
    }
    visit(at->path(), file, IsOwnEventFile(name));
  }
}

// The folders of a run that hold no event file any more, with what we keep beside those.
void RemoveEmpty(const fs::path& folder) {
  std::error_code code;
  std::vector<fs::path> inner;
  std::vector<fs::path> ours;
  bool others = false;
  for (fs::directory_iterator at(folder, code), end; !code && at != end; at.increment(code)) {
    if (at->is_directory(code)) {
      inner.push_back(at->path());
    } else if (at->path().filename().string().starts_with(".ikkuna-")) {
      ours.push_back(at->path());
    } else {
      others = true;
    }
  }
  for (const fs::path& one : inner) {
    RemoveEmpty(one);
    others = others || fs::exists(one, code);
  }
  if (others) return;
  for (const fs::path& one : ours) fs::remove(one, code);
  fs::remove(folder, code);
}

}  // namespace

void TensorBoardSpace::Measure(const std::set<std::string>& kept) {
  measured_ = true;
  used_ = 0;
  removable_.clear();
  std::error_code code;
  for (fs::directory_iterator at(logdir_, code), end; !code && at != end; at.increment(code)) {
    Old run;
    run.folder = at->path().string();
    if (access((run.folder + "/" + kRunMarker).c_str(), F_OK) != 0) continue;
    EachEventFile(run.folder, [&](const fs::path&, const struct stat& file, bool own) {
      // Also another host's: its daemon may be writing there now.
      run.last_write =
          std::max<int64_t>(run.last_write, file.st_mtim.tv_sec * int64_t{1'000'000'000} + file.st_mtim.tv_nsec);
      if (own) run.bytes += static_cast<uint64_t>(file.st_size);
    });
    used_ += run.bytes;
    if (run.bytes > 0 && !kept.contains(run.folder)) removable_.insert(std::move(run));
  }
}

bool TensorBoardSpace::MakeRoom(uint64_t bytes, const Kept& kept_now, const std::function<void(const Removed&)>& told) {
  if (bytes_max_ == 0) return true;
  if (!measured_) Measure(kept_now());
  if (used_ + bytes <= bytes_max_) return true;
  // What can never fit costs no other run its files.
  if (bytes > bytes_max_) return false;
  const std::set<std::string> kept = kept_now();
  if (Clock::now() >= measure_after_) Measure(kept);
  // Where nothing can go a walk each second would find no more than this one.
  measure_after_ = Clock::now() + kMeasureEvery;
  while (used_ + bytes > bytes_max_ && !removable_.empty()) {
    const Old run = std::move(removable_.extract(removable_.begin()).value());
    // It may have come back since.
    if (kept.contains(run.folder)) continue;
    Removed removed{run.folder, 0};
    EachEventFile(run.folder, [&](const fs::path& path, const struct stat& file, bool own) {
      if (own && unlink(path.c_str()) == 0) removed.bytes += static_cast<uint64_t>(file.st_size);
    });
    RemoveEmpty(run.folder);
    used_ -= std::min(used_, removed.bytes);
    if (removed.bytes > 0) told(removed);
  }
  if (used_ + bytes > bytes_max_) return false;
  measure_after_ = {};
  return true;
}

}  // namespace ikkuna::sinks
