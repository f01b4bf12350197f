#include "daemon/monitor/core_status.h"

#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "daemon/ingest/producer_session.h"
#include "shared/base/clock.h"

namespace ikkuna {
namespace {

uint64_t ResidentBytes() {
  std::ifstream file("/proc/self/statm");
  uint64_t total_pages = 0;
  uint64_t resident_pages = 0;
  if (!(file >> total_pages >> resident_pages)) return 0;
  return resident_pages * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
}

uint32_t Threads() {
  std::ifstream file("/proc/self/status");
  std::string word;
  uint32_t threads = 0;
  while (file >> word) {
    if (word == "Threads:") {
      file >> threads;
      break;
    }
  }
  return threads;
}

double CpuSeconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

}  // namespace

CoreStatus::CoreStatus(const CoreParts& parts) : parts_(parts), start_unix_ns_(UnixNs()) {}

DaemonStatus CoreStatus::GetStatus() {
  DaemonStatus status;
  status.version = parts_.version;
  status.pid = ::getpid();
  status.start_unix_ns = start_unix_ns_;
  status.directory = parts_.directory;
  status.data_directory = parts_.data_directory;
  status.tensorboard_directory = parts_.tensorboard_directory;
  status.health_run = parts_.health_run;
  status.linger_seconds = parts_.linger_seconds;
  status.producers = parts_.ingest->Producers();
  for (const Sink* sink : parts_.sinks) status.sinks.push_back(sink->Counters());
  if (parts_.store.show) status.store = parts_.store.show();
  if (parts_.queue != nullptr) {
    const graph::WorkQueueStatus queue = parts_.queue->status();
    status.queue.threads = queue.threads;
    status.queue.nice = queue.nice;
    status.queue.busy = queue.busy;
    status.queue.waiting = queue.waiting;
    status.queue.busy_seconds = queue.busy_seconds;
  }
  if (parts_.memory != nullptr) {
    status.queue.memory_bytes = parts_.memory->used();
    status.queue.memory_bytes_max = parts_.memory->bytes_max();
    status.queue.memory_bytes_peak = parts_.memory->peak();
    status.queue.memory_refused = parts_.memory->refused();
  }
  for (const ProducerStatus& producer : status.producers) {
    if (!IsOpen(producer.state)) continue;
    const RunKey& key = producer.info.run_key;
    for (const auto& session : parts_.ingest->FindLive(key.run_id, key.attempt)) {
      if (session->run_key() != key) continue;
      status.series += session->run()->series().size();
      status.series_refused += session->run()->series().refused();
    }
  }
  status.resident_bytes = ResidentBytes();
  status.threads = Threads();
  status.cpu_seconds = CpuSeconds();
  if (parts_.watch_hub != nullptr) status.watches = static_cast<uint32_t>(parts_.watch_hub->watchers());
  return status;
}

}  // namespace ikkuna
