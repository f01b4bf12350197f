// TensorBoardSpace: keeps the event files of this host below a cap, and off a disk that is full; see tensorboard.h for
// what goes.
//
// Owner and thread rule: the TensorBoard sink's thread alone. Only files that daemons of this host wrote are counted,
// and only those are deleted, in folders that bear our marker.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <string>

#include "daemon/sinks/tensorboard/tensorboard.h"

namespace ikkuna::sinks {

class TensorBoardSpace {
 public:
  struct Removed {
    std::string folder;
    uint64_t bytes = 0;
    std::optional<uint64_t> free_bytes;  // it went since no more was free; none: for the cap
  };
  enum class Room : uint8_t { kThere = 1, kCapReached = 2, kDiskFull = 3 };

  explicit TensorBoardSpace(const TensorBoardOptions& options) : options_(options) {}

  // Folders of runs that stay, whatever the cap.
  using Kept = std::function<std::set<std::string>()>;
  // Room for so many bytes more, made if need be: the run goes first that was not written to for longest.
  Room MakeRoom(uint64_t bytes, const Kept& kept, const std::function<void(const Removed&)>& told);
  void Add(uint64_t bytes) { used_ += bytes; }

  uint64_t used() const { return used_; }
  // Below so much free space runs leave: earlier than those of the store, which has what these show.
  static uint64_t FreeWanted(const TensorBoardOptions& options) {
    constexpr uint64_t kLeadShare = 8;  // of what shall stay free
    return options.free_bytes_min + options.free_bytes_min / kLeadShare;
  }

 private:
  using Clock = std::chrono::steady_clock;

  void Measure(const std::set<std::string>& kept);
  // False: nothing is left that may go.
  bool RemoveOldest(const std::set<std::string>& kept, std::optional<uint64_t> free_bytes,
                    const std::function<void(const Removed&)>& told);
  std::optional<uint64_t> FreeBytes() const;
  // False: too little is free to write.
  bool LookAtDisk(const Kept& kept, const std::function<void(const Removed&)>& told);

  struct Old {
    int64_t last_write = 0;
    std::string folder;
    uint64_t bytes = 0;
    auto operator<=>(const Old&) const = default;
  };

  const TensorBoardOptions& options_;
  bool measured_ = false;
  uint64_t used_ = 0;
  std::set<Old> removable_;  // as of the last measuring
  Clock::time_point measure_after_{}, disk_after_{};
  bool paused_ = false;
};

}  // namespace ikkuna::sinks
