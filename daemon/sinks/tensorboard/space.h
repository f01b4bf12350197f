// TensorBoardSpace: keeps the event files of this host below a cap; see tensorboard.h for what goes.
//
// Owner and thread rule: the TensorBoard sink's thread alone. Only files that daemons of this host wrote are counted,
// and only those are deleted, in folders that bear our marker.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <set>
#include <string>

namespace ikkuna::sinks {

class TensorBoardSpace {
 public:
  struct Removed {
    std::string folder;
    uint64_t bytes = 0;
  };

  TensorBoardSpace(std::string logdir, uint64_t bytes_max) : logdir_(std::move(logdir)), bytes_max_(bytes_max) {}

  // Folders of runs that stay, whatever the cap.
  using Kept = std::function<std::set<std::string>()>;
  // Room for so many bytes more, made if need be: the run goes first that was not written to for longest. false: there
  // is none.
  bool MakeRoom(uint64_t bytes, const Kept& kept, const std::function<void(const Removed&)>& told);
  void Add(uint64_t bytes) { used_ += bytes; }

  uint64_t used() const { return used_; }
  uint64_t bytes_max() const { return bytes_max_; }

 private:
  using Clock = std::chrono::steady_clock;

  void Measure(const std::set<std::string>& kept);

  struct Old {
    int64_t last_write = 0;
    std::string folder;
    uint64_t bytes = 0;
    auto operator<=>(const Old&) const = default;
  };

  const std::string logdir_;
  const uint64_t bytes_max_;  // 0: no cap
  bool measured_ = false;
  uint64_t used_ = 0;
  std::set<Old> removable_;  // as of the last measuring
  Clock::time_point measure_after_{};
};

}  // namespace ikkuna::sinks
