// Who this run is: ids from options and environment, and the facts a run is shown with.
//
// Called once, before training; may read files and the environment.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace ikkuna::probe {

struct Identity {
  std::string run_id = {};
  bool run_id_made_up = false;  // by this process: the other ranks of its job have others
  std::string run = {};
  std::optional<uint32_t> attempt = {};  // the scheduler's restart count, or the trainer's; none: the daemon numbers
  uint32_t rank = 0;
  uint32_t world_size = 1;
  bool resume = false;
  uint64_t start_step = 0;
  std::string job_address = {};  // MASTER_ADDR, MASTER_PORT: ranks of one job have them in common
  std::string job_port = {};
};

// Negative numbers and empty strings mean: look in the environment of the usual launchers.
struct IdentityOptions {
  std::string run_id = {};
  std::string run = {};
  int64_t attempt = -1;
  int64_t rank = -1;
  int64_t world_size = -1;
  bool resume = false;
  uint64_t start_step = 0;
};

// A run's id is the option, IKKUNA_RUN_ID, TORCHELASTIC_RUN_ID (not its default "none", which names nothing), Slurm's
// job (of an array JOB_TASK; of a step behind it .STEP), else a new UUID.
Identity ResolveIdentity(const IdentityOptions& options);

// RFC 9562 version 7: 48 bits of unix milliseconds, then random bits of the operating system (never a generator that
// the trainer may be drawing from).
std::array<unsigned char, 16> MakeUuidV7();
std::string UuidText(const std::array<unsigned char, 16>& uuid);

// Facts of the process: program, command line with secrets redacted, host, directory, code version when in git.
std::vector<std::pair<std::string, std::string>> ProcessFacts();

// Replaces the values of arguments and NAME=value words whose name looks like a key, a token or a password.
std::string RedactCommandLine(const std::vector<std::string>& arguments);

}  // namespace ikkuna::probe
