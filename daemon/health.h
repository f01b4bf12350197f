// The daemon's own health as series: queues, lag, drops by reason and producer, what the budget leaves, time by
// subscriber. They are made of the very numbers that `status` shows, and go the way of all values.
//
// Their run is kDaemonRunId, which only its name selects. The step is the second since 1970: it grows over restarts of
// the daemon and is the same for all series of one look. A value is kept when it has changed, and once a minute, so
// that a daemon at rest writes next to nothing. HEALTH.md has the table of the topics.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "daemon/model/batch.h"
#include "daemon/model/series.h"
#include "daemon/model/sink.h"
#include "daemon/model/subscribers.h"
#include "daemon/monitor/status_monitor.h"

namespace ikkuna {

// Who produces these series: the same in every life of the daemon.
ProducerInfo HealthProducer();

// One number at one look. A change of `least_change` or less is not worth a sample.
struct HealthValue {
  SeriesName name;
  const char* unit = "";
  double value = 0;
  double least_change = 0;
};

// What a look sees. Of producers only those that run: the others stand still.
struct HealthReading {
  DaemonStatus status;
  std::vector<SubscriberInfo> subscribers;
  std::vector<Count> connections_refused;  // of clients, by reason
};
std::vector<HealthValue> HealthOf(const HealthReading& reading);

// From looks to batches: which values are worth a sample, and at which step. Thread rule: one thread.
class HealthSeries {
 public:
  static constexpr uint64_t kRepeatSteps = 60;  // what does not change is said again so often, so that lines go on
  // A producer that has ended is looked at so many times more: its last records are still being accounted for.
  static constexpr int kLooksAfterEnd = 5;

  // `last_step`: that was kept before.
  explicit HealthSeries(std::shared_ptr<Run> run, uint64_t last_step = 0);

  // The samples that this look is worth; null: none. `all`: every value, whether it has changed or not.
  std::shared_ptr<const Batch> Look(HealthReading reading, int64_t unix_ns, bool all = false);

 private:
  struct Written {
    uint32_t series = 0;
    uint64_t step = 0;
    double value = 0;
    bool seen = false;
  };
  void LeaveOutThoseThatRest(std::vector<ProducerStatus>& producers);

  const std::shared_ptr<Run> run_;
  const TimelineId timeline_;
  std::map<SeriesName, Written> written_;  // of the values of the last look only, so that it stays small
  std::map<Uuid, int> looks_left_;
  std::optional<std::set<Uuid>> known_;  // producers of the last look; none: there was no look yet
  uint64_t last_step_;
};

// Looks once in kEvery, on a thread of its own. A look that fails is left out.
//
// Owner: the daemon, which ends it after ingest and before the sinks. Thread rule: construct and Finish by the owner.
class HealthSampler {
 public:
  static constexpr std::chrono::milliseconds kEvery{1'000};

  HealthSampler(std::function<HealthReading()> read, std::shared_ptr<ikkuna::Run> run, uint64_t last_step, Sink& sink);
  ~HealthSampler() { Finish(); }
  HealthSampler(const HealthSampler&) = delete;
  HealthSampler& operator=(const HealthSampler&) = delete;

  // Joins, after a last look that keeps every value as it was at the end.
  void Finish();

 private:
  void Run();
  void Look(bool all);

  // Constant after construction.
  const std::function<HealthReading()> read_;
  Sink& sink_;

  HealthSeries series_;  // the thread's own
  std::mutex mutex_;
  std::condition_variable wakes_;
  bool finishing_ = false;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace ikkuna
