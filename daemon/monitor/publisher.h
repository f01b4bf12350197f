// Publisher: values of clients' own, on their way to every sink like those of the graph: of a run that is connected, or
// of a run that is the client's.
//
// Within a run a topic is its first publisher's for good: an event, which stays with the run, says who publishes what.
// What a subscriber publishes there, or has published, is never a client's, nor the other way about. A client's own
// run, in which any topic is its own, begins with its first values, goes on over restarts of the daemon for the same
// client, and has finished when the client says so, when nothing came for kIdleNs, or when the daemon ends. Owner:
// CoreMonitor. Thread rule: any thread. Lifetime: the destructor finishes the runs, before the store closes.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "daemon/model/series.h"
#include "daemon/monitor/core_parts.h"
#include "daemon/monitor/series_monitor.h"

namespace ikkuna {

class Publisher {
 public:
  static constexpr size_t kOwnRunsMax = 64;          // open at one time: as many as producers
  static constexpr size_t kValueBytesMax = 1 << 20;  // one value; a larger tensor is not one to be looked at
  static constexpr size_t kTopicsMax = 4096;         // that clients publish to runs that go on
  static constexpr size_t kSeriesMax = 100'000;      // that clients add to one run: its catalogue is the trainer's
  static constexpr uint64_t kIdleNs = 600'000'000'000;

  explicit Publisher(const CoreParts& parts) : parts_(parts) {}
  ~Publisher();
  Publisher(const Publisher&) = delete;
  Publisher& operator=(const Publisher&) = delete;

  // All or nothing.
  Answer<PublishAnswer> Publish(const Caller& caller, const PublishRequest& request);
  // Calls `subscribe`, while nobody publishes, unless one of the subscribers that `text` asks for would publish what a
  // client publishes to a run that goes on.
  Answer<SubscribeAnswer> UnlessPublished(const std::string& text,
                                          const std::function<Answer<SubscribeAnswer>()>& subscribe);
  // A look at the time: finishes runs of clients of which nothing came for long, and forgets trainers' runs that have
  // ended. Now and then, from any thread.
  void Tick();

 private:
  struct OwnRun {
    std::shared_ptr<Run> run;
    std::string owner;
    uint64_t last_ns = 0;  // CLOCK_MONOTONIC
  };

  // What clients have done to one run.
  struct Added {
    size_t series = 0;  // that they made
    // By series, a step above which it has no value. Not there: not known, as after a restart.
    std::unordered_map<uint32_t, uint64_t> newest;
  };

  Answer<std::shared_ptr<Run>> LiveRun(const Caller& caller, const PublishRequest& request) const;
  Answer<std::shared_ptr<Run>> OwnRunLocked(const Caller& caller, const PublishRequest& request);
  Answer<std::shared_ptr<Run>> BeginOwnLocked(const Caller& caller, const std::string& name);
  // `fresh`: those that nobody has published yet: an event has to say that the caller does.
  std::optional<Failure> CheckTopicsLocked(const Caller& caller, const Run& run, const PublishRequest& request,
                                           std::vector<std::string>* fresh);
  // Whose topics of the run are that clients published in an earlier life of the daemon, as its events say.
  std::optional<Failure> LearnTopicsLocked(const Run& run);
  std::optional<Failure> CheckSeriesLocked(const Run& run, const PublishRequest& request, size_t* fresh) const;
  // Whether a step has a value already: a store drops the second, and whoever watches must not see it. Answers what it
  // learned of the newest steps of series.
  Answer<std::unordered_map<uint32_t, uint64_t>> CheckStepsLocked(const Run& run, const PublishRequest& request) const;
  void ForgetEndedLocked();
  void Offer(const std::shared_ptr<Run>& run, const Caller& caller, const PublishRequest& request,
             const std::vector<std::string>& fresh) const;
  void FinishLocked(const OwnRun& own) const;
  // As of a trainer's run: of one that is over the folder of TensorBoard may leave for room.
  void Tell(const OwnRun& own, const char* kind, const std::string& what) const;
  void FinishIdleLocked();

  const CoreParts& parts_;
  std::mutex mutex_;
  // Guarded by mutex_.
  std::map<std::string, OwnRun> own_runs_;                        // by run_id
  std::map<std::pair<RunKey, std::string>, std::string> topics_;  // whose a topic of a trainer's run is
  std::set<RunKey> learned_;                                      // trainers' runs of which topics_ has all
  std::map<RunKey, Added> added_;
};

}  // namespace ikkuna
