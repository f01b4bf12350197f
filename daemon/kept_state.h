// What a daemon keeps of itself over restarts, beside the runs: what clients subscribed, and what its sinks counted. Two
// files in "<data-dir>/hosts/<host>" (shared/places.h).
//
// A file that cannot be understood is moved aside, with an event; the daemon goes on without it.
// Owner: the daemon. Thread rule: any thread.
#pragma once

#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "daemon/graph/subscriber_set.h"
#include "daemon/model/batch.h"
#include "daemon/model/sink.h"

namespace ikkuna {

using TellEvent = std::function<void(Event)>;

class KeptSubscriptions {
 public:
  // `subscribers` and whoever is told outlive it.
  KeptSubscriptions(const std::string& folder, graph::SubscriberSet& subscribers, TellEvent tell);

  // Puts back what an earlier daemon wrote, after the operator's own; before the first Save.
  void Restore();
  // Writes what clients subscribe now, if that changed. A failure is an event, once for each kind of it.
  void Save();

 private:
  // Constant after construction.
  const std::string path_;
  graph::SubscriberSet& subscribers_;
  const TellEvent tell_;

  std::mutex mutex_;
  // Guarded by mutex_.
  std::string written_;  // the file's text
  std::string failure_;  // the last
};

class KeptCounters {
 public:
  KeptCounters(const std::string& folder, TellEvent tell);

  std::vector<SinkCounters> Load();
  void Save(const std::vector<SinkCounters>& counters);

 private:
  // Constant after construction.
  const std::string path_;
  const TellEvent tell_;

  std::mutex mutex_;
  // Guarded by mutex_.
  std::string written_;
  std::string failure_;
};

}  // namespace ikkuna
