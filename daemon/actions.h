// Actions: what subscribers ask for with an event (metrics/event.h), done one after another on a thread of its own:
// asking all ranks of a run takes seconds, which an ingest thread does not have. What came of it is an event.
//
// Owner: the daemon. Thread rule: Take from any thread, it never waits. Stop order: End
// before ingest stops, which it asks; the object after ingest, jobs and queue, whose subscribers tell it.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "daemon/model/batch.h"
#include "daemon/model/run.h"
#include "metrics/event.h"
#include "shared/base/result.h"

namespace ikkuna {

class Actions {
 public:
  // That wait; each may take as long as the ranks of a run have to answer.
  static constexpr size_t kWaitingMax = 64;
  // Does it, and says what will happen; on the thread.
  using Act = std::function<Result<std::string>(const RunKey& run, const Action& action)>;

  Actions(Act act, std::function<void(Event)> tell);
  ~Actions() { End(); }
  Actions(const Actions&) = delete;
  Actions& operator=(const Actions&) = delete;

  // Of one run and attempt the same is asked for once while it waits, whatever the rank.
  void Take(const RunKey& run, const Event& event, const Action& action);
  // Joins; leaves undone what waits and what comes later.
  void End();

 private:
  struct Wanted {
    RunKey run;
    Action action;
    std::string why;  // the event's kind
    uint64_t step = 0;
  };
  void Run();
  void Tell(Severity severity, const Wanted& wanted, const std::string& text) const;

  // Constant after construction.
  const Act act_;
  const std::function<void(Event)> tell_;

  std::mutex mutex_;
  std::condition_variable wakes_;
  // Guarded by mutex_.
  std::deque<Wanted> waiting_;  // the first is being done
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace ikkuna
