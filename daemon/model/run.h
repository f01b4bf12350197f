// Runs: who produces, under which key, in which state.
//
// Plain values. Thread rule: none.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ikkuna {

using Uuid = std::array<unsigned char, 16>;
std::string UuidText(const Uuid& uuid);  // 32 hexadecimal digits
std::optional<Uuid> ParseUuid(std::string_view text);

// One life of one process of a run. A run that the scheduler starts again, or that its user resumes, has an attempt for
// each life.
struct RunKey {
  std::string run_id;
  uint32_t attempt = 0;
  uint32_t rank = 0;
  auto operator<=>(const RunKey&) const = default;
};
std::string Describe(const RunKey& run);  // "'job-17' (attempt 0, rank 3)"

// Of a series over all ranks of a run: its run has this rank, which no process has.
inline constexpr uint32_t kAllRanks = 0xffff'ffff;

// Where a run is named: the one that started last. No run gets this id.
inline constexpr char kLatestRun[] = "latest";

// The run of the daemon's own series (daemon/health.h). No trainer gets this id. "Every run" means every training: this
// one is meant only where it is named.
inline constexpr char kDaemonRunId[] = "ikkuna-daemon";
inline constexpr char kDaemonTag[] = "daemon";
inline bool IsDaemonRun(const RunKey& run) { return run.run_id == kDaemonRunId; }

enum class RunState : uint8_t {
  kRunning = 1,
  kFinished = 2,      // ended by itself
  kDied = 3,          // its process ended without saying so to a daemon; where none was connected a note says that
  kDisconnected = 4,  // its process lives, but is not connected
  kQuarantined = 5,   // it broke the format; nothing more is read from it
  kSwitchedOff = 6,   // its probe switched itself off
};
std::string_view RunStateName(RunState state);  // "running", ..., "switched_off"
std::optional<RunState> ParseRunState(std::string_view name);
// Running or disconnected: its process may still publish.
inline bool IsOpen(RunState state) { return state == RunState::kRunning || state == RunState::kDisconnected; }

// What several ranks of one job have in common beside the run's id; empty fields: not known.
struct JobKey {
  std::string address;  // MASTER_ADDR
  std::string port;     // MASTER_PORT
  auto operator<=>(const JobKey&) const = default;
};

// Of a trainer that the kernel shows without a number: it runs in another container than the daemon. Whether it lives its
// socket and its pidfd say, and after them nothing. 0: there is no process, the values are a client's or the daemon's.
inline constexpr int32_t kPidUnknown = -1;

// What is known of a producer; identity (pid, uid) is the kernel's.
struct ProducerInfo {
  Uuid uuid{};
  RunKey run_key;
  std::string run;  // display name
  uint32_t world_size = 1;
  JobKey job;
  int32_t pid = 0;
  uint32_t uid = 0;
  int64_t start_unix_ns = 0;
  // The attempt whose line this one goes on with (it was resumed, or begins above step 0), and its own first step.
  std::optional<uint32_t> continues;
  uint32_t line = 0;  // the attempt with which that line began, which may be deleted by now; ask LineOf()
  uint64_t start_step = 0;
  bool unnamed = false;  // nobody gave it a run_id: its probe made one up
  int64_t restarts = -1;  // of the job, as its scheduler counts them; -1: nobody does
  std::vector<std::pair<std::string, std::string>> facts;  // command line, hyperparameters, host, ...
};

// Attempts of one run and rank are drawn as one line if they have this in common, whatever of it was deleted: the attempt
// with which it began. One that says that it continues itself, or a later one, stands alone.
inline uint32_t LineOf(const ProducerInfo& info) {
  const uint32_t own = info.run_key.attempt;
  return info.continues && *info.continues < own && info.line < own ? info.line : own;
}

}  // namespace ikkuna
