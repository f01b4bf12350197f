// Linger: when a daemon ends because nobody needs it.
//
// Nobody does when for `seconds` no producer came or was connected, no client asked anything, no `ikkuna run` went on,
// and no `ikkuna up` wanted one. From its decision to its end it holds the lock of `ikkuna up` (shared/daemon_note.h), so
// that whoever wants a daemon then waits, and starts another.
// Owner: the daemon, which lets it go after the lock of its directory. Thread rule: one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "shared/daemon_note.h"

namespace ikkuna {

class Linger {
 public:
  struct Use {
    size_t producers = 0;       // connected now
    uint64_t admitted = 0;      // producers, ever
    double clients_unused = 0;  // seconds since the last call of a client ended; 0: one goes on
  };

  Linger(std::string directory, double seconds, std::function<Use()> look);

  // True: it is over, from now on. To be asked several times a second: what came and went in between may be missed, but
  // for producers.
  bool IsOver();

 private:
  // Whether anybody needed the daemon within the time; notes what it sees.
  bool IsNeeded();

  // Constant after construction.
  const std::string directory_;
  const double seconds_;
  const std::function<Use()> look_;

  uint64_t admitted_ = 0;
  uint64_t needed_ns_;  // CLOCK_MONOTONIC, when somebody last needed it
  bool over_ = false;
  std::optional<shm::UpLock> lock_;
};

}  // namespace ikkuna
