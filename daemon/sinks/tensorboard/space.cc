#include "daemon/sinks/tensorboard/space.h"

#include <sys/stat.h>
#include <sys/statvfs.h>
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
  for (fs::directory_iterator at(options_.logdir, code), end; !code && at != end; at.increment(code)) {
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

bool TensorBoardSpace::RemoveOldest(const std::set<std::string>& kept, std::optional<uint64_t> free_bytes,
                                    const std::function<void(const Removed&)>& told) {
  if (removable_.empty()) return false;
  const Old run = std::move(removable_.extract(removable_.begin()).value());
  // It may have come back since.
  if (kept.contains(run.folder)) return true;
  Removed removed{run.folder, 0, free_bytes};
  EachEventFile(run.folder, [&](const fs::path& path, const struct stat& file, bool own) {
    if (own && unlink(path.c_str()) == 0) removed.bytes += static_cast<uint64_t>(file.st_size);
  });
  RemoveEmpty(run.folder);
  used_ -= std::min(used_, removed.bytes);
  if (removed.bytes > 0) told(removed);
  return true;
}

std::optional<uint64_t> TensorBoardSpace::FreeBytes() const {
  if (options_.free_bytes) return options_.free_bytes();
  struct statvfs found {};
  if (statvfs(options_.logdir.c_str(), &found) != 0) return std::nullopt;
  return uint64_t{found.f_bavail} * found.f_frsize;
}

bool TensorBoardSpace::LookAtDisk(const Kept& kept_now, const std::function<void(const Removed&)>& told) {
  if (options_.free_bytes_min == 0 && options_.free_bytes_pause == 0) return true;
  std::optional<uint64_t> free = FreeBytes();
  if (!free) return true;
  const uint64_t wanted = FreeWanted(options_);
  if (*free < wanted && Clock::now() >= disk_after_) {
    disk_after_ = Clock::now() + kMeasureEvery;
    const std::set<std::string> kept = kept_now();
    Measure(kept);
    // A file system may give back late what was deleted: no more goes for the same want.
    // Nor any where all would not be enough: then the disk is full of something else.
    uint64_t spare = 0;
    for (const Old& run : removable_) spare += run.bytes;
    for (uint64_t soon = *free; soon < wanted && *free + spare >= wanted;) {
      const uint64_t before = used_;
      if (!RemoveOldest(kept, *free, told)) break;
      soon += before - used_;
    }
    free = FreeBytes();
    if (!free) return true;
  }
  const uint64_t pause = options_.free_bytes_pause;
  paused_ = *free < (paused_ ? pause + pause / 4 : pause);
  return !paused_;
}

TensorBoardSpace::Room TensorBoardSpace::MakeRoom(uint64_t bytes, const Kept& kept_now,
                                                  const std::function<void(const Removed&)>& told) {
  if (!LookAtDisk(kept_now, told)) return Room::kDiskFull;
  const uint64_t bytes_max = options_.bytes_max;
  if (bytes_max == 0) return Room::kThere;
  if (!measured_) Measure(kept_now());
  if (used_ + bytes <= bytes_max) return Room::kThere;
  // What can never fit costs no other run its files.
  if (bytes > bytes_max) return Room::kCapReached;
  const std::set<std::string> kept = kept_now();
  if (Clock::now() >= measure_after_) Measure(kept);
  // Where nothing can go a walk each second would find no more than this one.
  measure_after_ = Clock::now() + kMeasureEvery;
  while (used_ + bytes > bytes_max && RemoveOldest(kept, std::nullopt, told)) {
  }
  if (used_ + bytes > bytes_max) return Room::kCapReached;
  measure_after_ = {};
  return Room::kThere;
}

}  // namespace ikkuna::sinks
