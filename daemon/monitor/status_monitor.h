// StatusMonitor: how the daemon and its producers are.
//
// Thread rule: every method from any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "daemon/model/sink.h"
#include "daemon/model/status.h"

namespace ikkuna {

struct StoreShown {
  std::string folder;
  std::string file_system;
  uint64_t bytes = 0;
  uint64_t bytes_max = 0;  // 0: no cap
  uint64_t free_bytes = 0;
  uint64_t runs = 0;
  uint64_t runs_open = 0;
  uint64_t tail_bytes = 0;
  uint32_t threads = 0;
  int nice = 0;
  bool paused = false;
  std::vector<Count> dropped;
};

// Where `queue` subscribers run, and what they may hold.
struct QueueShown {
  uint32_t threads = 0;
  int nice = 0;
  uint32_t busy = 0;
  uint64_t waiting = 0;
  double busy_seconds = 0;
  uint64_t memory_bytes = 0;
  uint64_t memory_bytes_max = 0;
  uint64_t memory_bytes_peak = 0;
  uint64_t memory_refused = 0;
};

struct DaemonStatus {
  std::string version;
  int32_t pid = 0;
  int64_t start_unix_ns = 0;
  std::string directory;  // of the sockets
  std::string data_directory;
  std::string tensorboard_directory;  // empty: none is written
  std::string health_run;             // run of the daemon's own series; empty: none are kept
  std::vector<std::string> features;
  double linger_seconds = 0;  // 0: it stays
  std::vector<ProducerStatus> producers;
  std::vector<SinkCounters> sinks;
  StoreShown store;
  QueueShown queue;
  uint64_t series = 0;          // of runs that are connected
  uint64_t series_refused = 0;  // of these runs
  uint64_t resident_bytes = 0;
  uint32_t threads = 0;
  double cpu_seconds = 0;
  uint32_t watches = 0;
};

class StatusMonitor {
 public:
  virtual ~StatusMonitor() = default;
  virtual DaemonStatus GetStatus() = 0;
};

}  // namespace ikkuna
