// WatchGroup: those who watch by one filter, and what the slowest of them has not taken.
//
// Owner: WatchGroups. Thread rule: under its mutex; but for WatchMember's wake-up.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "daemon/model/filter.h"
#include "daemon/model/watch.h"

namespace ikkuna::sinks {

class WatchGroup;

// A run that batches came of.
struct WatchRun {
  uint64_t number = 0;
  std::weak_ptr<Run> run;
  std::string display;
  RunKey key;
};

// Whose batch it is, and how runs are called that its events are of.
struct WatchSource {
  const WatchRun* run = nullptr;  // null: the daemon's own
  std::function<std::string(const RunKey&)> display;
};

struct WatchCounts {
  uint64_t written = 0;
  uint64_t dropped = 0;
  uint64_t left = 0;  // of dropped: what nobody had taken when the watcher left
  uint64_t events_dropped = 0;
};

// One watcher's place.
struct WatchMember {
  WatchGroup* group = nullptr;  // null: it left
  uint64_t from = 0;            // positions up to here are not for it
  uint64_t past_next = 0;       // what came before it joined: looked at up to here
  uint64_t past_end = 0;
  uint64_t next = 0;                // of the group's items
  uint64_t values_passed = 0;       // of the group's, before `next`
  std::map<uint64_t, size_t> told;  // announcements, by run number
  WatchCounts counts;
  bool armed = true;  // the next thing that comes wakes it

  std::mutex wake_mutex;          // held while the callback runs; taken without the groups' mutex
  std::function<void()> wake_up;  // guarded by wake_mutex
  void Wake() {
    std::lock_guard lock(wake_mutex);
    if (wake_up) wake_up();
  }
};

class WatchGroup {
 public:
  explicit WatchGroup(const SeriesFilter& filter) : filter_(filter) {}
  const SeriesFilter& filter() const { return filter_; }

  // What of the batch passes; null: nothing. Announces series that it is the first to show.
  std::shared_ptr<const WatchUpdate> Select(const std::shared_ptr<const Batch>& batch, uint64_t position,
                                            const WatchSource& source);
  // For all members.
  void Append(std::shared_ptr<const WatchUpdate> update);
  void Append(std::shared_ptr<WatchMember> member);
  void Remove(const WatchMember& member);
  // The oldest item goes, whoever has not taken it.
  void DropOldest();
  // The member's next item, if there is one; `skipped` ones are passed over.
  bool TakeNext(WatchMember& member, WatchTaken& taken);
  // What the member must be told before an update of the run, and then the update.
  void Give(WatchMember& member, const std::shared_ptr<const WatchUpdate>& update, WatchTaken& taken);
  // Items that all have taken go.
  void Trim();
  // The run is gone, and everything of it.
  void Forget(uint64_t run_number);

  const std::vector<std::shared_ptr<WatchMember>>& members() const { return members_; }
  size_t bytes() const { return bytes_; }
  bool empty() const { return items_.empty(); }
  uint64_t newest() const { return newest_; }
  uint64_t waiting(const WatchMember& member) const { return values_appended_ - member.values_passed; }

 private:
  enum class Verdict : uint8_t { kUnknown = 0, kRefused, kAnnounced };
  struct Item {
    std::shared_ptr<const WatchUpdate> update;
    size_t bytes;
  };
  struct RunView {
    bool passes = false;
    std::vector<Verdict> verdicts;  // by series id
    std::vector<std::shared_ptr<const WatchUpdate>> announcements;
  };

  bool Passes(RunView& view, uint32_t series, const Run& run, std::vector<std::shared_ptr<const Series>>& fresh);
  bool PassesEvent(const Event& event, const WatchSource& source) const;
  // The item goes, taken or not.
  void PopFront();

  const SeriesFilter filter_;
  std::map<uint64_t, RunView> runs_;  // by number
  std::deque<Item> items_;
  uint64_t first_ = 0;  // the index of items_.front() among all that ever were
  size_t bytes_ = 0;
  uint64_t values_appended_ = 0;
  uint64_t newest_ = 0;  // the position of what was appended last
  std::vector<std::shared_ptr<WatchMember>> members_;
};

}  // namespace ikkuna::sinks
