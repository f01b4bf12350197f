// What a full disk and the cap cost, and how it is told.
#include <utility>

#include "daemon/model/counted.h"
#include "daemon/sinks/tensorboard/tree.h"
#include "shared/base/clock.h"

namespace ikkuna::sinks {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::minutes kTroubleToldEvery{1};
constexpr uint64_t kRoomShare = 64;  // of the cap: what must be free before a full one is over

std::string Megabytes(uint64_t bytes) { return std::to_string(bytes >> 20) + " MB"; }

std::string DroppedMeanwhile(uint64_t values) {
  return Counted(values, "value") + " " + Were(values) + " dropped meanwhile";
}

}  // namespace

const char* TensorBoardTree::LacksRoom(uint64_t bytes, uint64_t samples) {
  const auto kept = [this] {
    std::set<std::string> folders;
    for (const auto& [run, source] : sources_) {
      // What is computed over all ranks goes on as long as they do: they have the same folder.
      const bool of_ranks = source.info && source.info->run_key.rank != kAllRanks;
      if (of_ranks && !source.over && !source.folder.empty() && !source.run.expired()) folders.insert(source.folder);
    }
    return folders;
  };
  const auto told = [this](const TensorBoardSpace::Removed& removed) {
    removed_.push_back(removed.folder);
    Report(Severity::kInfo, "tensorboard_removed",
           "the TensorBoard files in '" + removed.folder + "' (" + Megabytes(removed.bytes) +
               ") were deleted: of all runs that go on no more it was not written to for longest, and " +
               (removed.free_bytes
                    ? "only " + Megabytes(*removed.free_bytes) + " are free on the disk, of which " +
                          Megabytes(TensorBoardSpace::FreeWanted(options_)) + " shall stay free (--store-min-free-mb)"
                    : Megabytes(options_.bytes_max) + " are the most (--tensorboard-max-mb)") +
               "; the store has the run as before");
  };
  // Once it is full a little room is no end of it: else every flush would tell one or the other.
  const uint64_t wanted = bytes + (cap_.on ? options_.bytes_max / kRoomShare : 0);
  const TensorBoardSpace::Room room = space_.MakeRoom(wanted, kept, told);
  if (room == TensorBoardSpace::Room::kDiskFull) {
    pause_.cost += samples;
    if (!std::exchange(pause_.on, true)) {
      Report(Severity::kWarning, "tensorboard_paused",
             "less than " + Megabytes(options_.free_bytes_pause) + " are free on the file system of '" +
                 options_.logdir + "': nothing is written there until there is more, and what comes is dropped and "
                 "counted ('paused')");
    }
    return "paused";
  }
  if (std::exchange(pause_.on, false)) {
    Report(Severity::kInfo, "tensorboard_resumed",
           "there is room again for TensorBoard files; " + DroppedMeanwhile(std::exchange(pause_.cost, 0)));
  }
  if (room == TensorBoardSpace::Room::kThere) {
    if (std::exchange(cap_.on, false)) {
      Report(Severity::kInfo, "tensorboard_room",
             "TensorBoard files have room again; " + DroppedMeanwhile(std::exchange(cap_.cost, 0)));
    }
    return nullptr;
  }
  cap_.cost += samples;
  if (!std::exchange(cap_.on, true)) {
    Report(Severity::kWarning, "tensorboard_full",
           "the TensorBoard files in '" + options_.logdir + "' have reached " + Megabytes(options_.bytes_max) +
               ", and only runs that go on are left: values are dropped there and counted ('size_cap'), the store has "
               "them; raise --tensorboard-max-mb, or write less (--tensorboard-topics)");
  }
  return "size_cap";
}

void TensorBoardTree::Failed(const Error& error) {
  disk_failed_now_ = true;
  disk_.on = true;
  if (disk_.told || Clock::now() < disk_told_after_) return;
  disk_.told = true;
  disk_told_after_ = Clock::now() + kTroubleToldEvery;
  Report(Severity::kError, "tensorboard_failed",
         error.text +
             "; values are dropped there and counted ('disk') until it can be written again, the store has "
             "them; free the disk, or pass --tensorboard-dir");
}

void TensorBoardTree::TellRecovered() {
  disk_.on = false;
  if (!std::exchange(disk_.told, false)) return;
  Report(Severity::kInfo, "tensorboard_recovered",
         "TensorBoard files can be written again; " + DroppedMeanwhile(std::exchange(disk_.cost, 0)));
}

void TensorBoardTree::Report(Severity severity, const char* kind, std::string text) {
  if (!options_.report) return;
  Event event;
  event.unix_ns = UnixNs();
  event.severity = severity;
  event.kind = kind;
  event.text = std::move(text);
  options_.report(std::move(event));
}

}  // namespace ikkuna::sinks
