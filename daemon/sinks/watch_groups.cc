#include "daemon/sinks/watch_groups.h"

#include <algorithm>
#include <utility>

#include "daemon/sinks/watch_hub.h"

namespace ikkuna::sinks {
namespace {

constexpr size_t kPastBatchesMax = 262'144;  // of small batches; bounds what one batch costs beside its bytes
constexpr size_t kPastLooksMax = 1'024;      // at batches of the past under one lock: below a millisecond mostly

}  // namespace

WatchSource WatchGroups::SourceLocked(const Batch& batch) {
  WatchSource source;
  source.display = [this](const RunKey& key) {
    for (const auto& [address, run] : runs_) {
      if (run.key == key) return run.display;
    }
    return std::string();
  };
  if (!batch.run) return source;
  WatchRun& run = runs_[batch.run.get()];
  // An address may be that of a run that is gone.
  if (run.number == 0 || run.run.lock() != batch.run) {
    for (WatchGroup& group : groups_) group.Forget(run.number);
    run = {++run_numbers_, batch.run, batch.run->info()->run, batch.run->key()};
  }
  source.run = &run;
  return source;
}

void WatchGroups::ForgetRunsLocked() {
  // When they have doubled: as many looks as runs that came.
  if (runs_.size() < 2 * runs_looked_at_ + 16) return;
  std::erase_if(runs_, [&](const auto& item) {
    if (!item.second.run.expired()) return false;
    for (WatchGroup& group : groups_) group.Forget(item.second.number);
    return true;
  });
  runs_looked_at_ = runs_.size();
}

void WatchGroups::EvictLocked() {
  while (past_bytes_ > past_bytes_max_ || past_.size() > kPastBatchesMax) {
    const Past& oldest = past_.front();
    // Whoever still had to look at it has lost what it would have seen.
    for (WatchGroup& group : groups_) {
      for (const auto& member : group.members()) {
        if (member->past_next >= oldest.position || member->past_end < oldest.position) continue;
        member->past_next = oldest.position;
        if (const auto update = group.Select(oldest.batch, oldest.position, SourceLocked(*oldest.batch))) {
          member->counts.dropped += update->batch->values();
          member->counts.events_dropped += update->batch->events.size();
        }
      }
    }
    past_bytes_ -= oldest.bytes;
    evicted_ = oldest.position;
    past_.pop_front();
  }
  size_t waiting = 0;
  for (const WatchGroup& group : groups_) waiting += group.bytes();
  while (waiting > waiting_bytes_max_) {
    const auto largest = std::max_element(groups_.begin(), groups_.end(),
                                          [](const auto& a, const auto& b) { return a.bytes() < b.bytes(); });
    waiting -= largest->bytes();
    largest->DropOldest();
    waiting += largest->bytes();
  }
}

void WatchGroups::Accept(const std::shared_ptr<const Batch>& batch, uint64_t position, uint64_t values_lost,
                         uint64_t events_lost) {
  std::vector<std::shared_ptr<WatchMember>> to_wake;
  {
    std::lock_guard lock(mutex_);
    LoseLocked(values_lost, events_lost);
    // By its position, not by what was lost: that may have been told with an earlier batch.
    const bool gap = position != accepted_ + 1;
    accepted_ = position;
    // A cursor before the gap cannot be gone on from.
    if (gap) evicted_ = std::max(evicted_, position - 1);
    try {
      ForgetRunsLocked();
      const WatchSource source = SourceLocked(*batch);
      for (WatchGroup& group : groups_) AppendLocked(group, batch, position, source, to_wake);
      past_.push_back({batch, position, BytesOf(*batch)});
      past_bytes_ += past_.back().bytes;
    } catch (...) {
      // There is no memory: nobody gets it who has not got it, nor later.
      for (WatchGroup& group : groups_) {
        if (group.newest() == position) continue;
        for (const auto& member : group.members()) {
          member->counts.dropped += batch->values();
          member->counts.events_dropped += batch->events.size();
        }
      }
      evicted_ = position;
    }
    try {
      EvictLocked();
    } catch (...) {
      // The next batch goes on with it.
    }
  }
  WakeAll(to_wake);
}

void WatchGroups::AppendLocked(WatchGroup& group, const std::shared_ptr<const Batch>& batch, uint64_t position,
                               const WatchSource& source, std::vector<std::shared_ptr<WatchMember>>& to_wake) {
  std::shared_ptr<const WatchUpdate> update = group.Select(batch, position, source);
  if (!update) return;
  to_wake.reserve(to_wake.size() + group.members().size());
  group.Append(std::move(update));
  for (const auto& member : group.members()) {
    if (std::exchange(member->armed, false)) to_wake.push_back(member);
  }
}

void WatchGroups::WakeAll(const std::vector<std::shared_ptr<WatchMember>>& members) {
  for (const auto& member : members) {
    try {
      member->Wake();
    } catch (...) {
      // The others are woken all the same; this one with the next batch.
      std::lock_guard lock(mutex_);
      member->armed = true;
    }
  }
}

void WatchGroups::LoseLocked(uint64_t values_lost, uint64_t events_lost) {
  if (values_lost == 0 && events_lost == 0) return;
  for (WatchGroup& group : groups_) {
    for (const auto& member : group.members()) {
      member->counts.dropped += values_lost;
      member->counts.events_dropped += events_lost;
    }
  }
}

void WatchGroups::End(uint64_t values_lost, uint64_t events_lost) {
  std::vector<std::shared_ptr<WatchMember>> to_wake;
  {
    std::lock_guard lock(mutex_);
    ended_ = true;
    LoseLocked(values_lost, events_lost);
    for (WatchGroup& group : groups_) to_wake.insert(to_wake.end(), group.members().begin(), group.members().end());
  }
  WakeAll(to_wake);
}

Result<std::shared_ptr<WatchMember>> WatchGroups::Join(const SeriesFilter& filter, uint64_t position, bool must_have) {
  std::lock_guard lock(mutex_);
  if (members_ >= WatchHub::kWatchersMax) {
    return Error{ErrorCode::kResourceExhausted, "cannot watch: " + std::to_string(WatchHub::kWatchersMax) +
                                                    " clients watch already, which is the most; close one of them"};
  }
  if (must_have && position < evicted_) {
    return Error{ErrorCode::kFailedPrecondition, "cannot watch from position " + std::to_string(position) +
                                                     ": the daemon keeps what came after position " +
                                                     std::to_string(evicted_) +
                                                     " only; read again, and watch from where that read ends"};
  }
  auto group = std::find_if(groups_.begin(), groups_.end(), [&](const auto& one) { return one.filter() == filter; });
  if (group == groups_.end()) group = groups_.emplace(groups_.end(), filter);
  auto member = std::make_shared<WatchMember>();
  member->from = position;
  if (must_have) {
    member->past_next = position;
    member->past_end = accepted_;
  }
  group->Append(member);
  ++members_;
  return member;
}

void WatchGroups::SetWakeUp(WatchMember& member, std::function<void()> wake_up) {
  {
    std::lock_guard lock(member.wake_mutex);
    member.wake_up = std::move(wake_up);
  }
  // What came before had nobody to wake.
  std::lock_guard lock(mutex_);
  member.armed = true;
}

void WatchGroups::Leave(WatchMember& member) {
  std::lock_guard lock(mutex_);
  if (!member.group) return;
  WatchGroup& group = *member.group;
  departed_.written += member.counts.written;
  departed_.dropped += member.counts.dropped;
  departed_.left += group.waiting(member);
  departed_.events_dropped += member.counts.events_dropped;
  member.group = nullptr;
  --members_;
  group.Remove(member);
  if (group.members().empty()) groups_.remove_if([&](const WatchGroup& one) { return &one == &group; });
}

bool WatchGroups::TakePastLocked(WatchMember& member, WatchTaken& taken) {
  auto at = std::upper_bound(past_.begin(), past_.end(), member.past_next,
                             [](uint64_t position, const Past& past) { return position < past.position; });
  if (at == past_.end() || at->position > member.past_end) {
    member.past_next = member.past_end;
    return false;
  }
  member.past_next = at->position;
  const auto update = member.group->Select(at->batch, at->position, SourceLocked(*at->batch));
  if (update) member.group->Give(member, update, taken);
  return true;
}

WatchTaken WatchGroups::Take(WatchMember& member, size_t values_max) {
  WatchTaken taken;
  while (true) {
    std::lock_guard lock(mutex_);
    const uint64_t before = member.counts.written;
    const auto full = [&] {
      // Events come without values: they count as one each.
      return !taken.updates.empty() && member.counts.written - before + taken.updates.size() >= values_max;
    };
    size_t looks = 0;
    while (member.past_next < member.past_end && looks < kPastLooksMax && !full()) {
      if (!TakePastLocked(member, taken)) break;
      ++looks;
    }
    // Others need the lock, too.
    if (looks == kPastLooksMax && taken.updates.empty()) continue;
    if (member.past_next >= member.past_end) {
      while (!full() && member.group->TakeNext(member, taken)) {
      }
      member.group->Trim();
    }
    taken.dropped = member.counts.dropped;
    taken.events_dropped = member.counts.events_dropped;
    if (taken.updates.empty()) {
      member.armed = true;
      taken.ended = ended_;
    }
    return taken;
  }
}

size_t WatchGroups::members() const {
  std::lock_guard lock(mutex_);
  return members_;
}

void WatchGroups::AddCounts(SinkCounters& counters) const {
  std::lock_guard lock(mutex_);
  WatchCounts sum = departed_;
  for (const WatchGroup& group : groups_) {
    for (const auto& member : group.members()) {
      sum.written += member->counts.written;
      sum.dropped += member->counts.dropped;
      sum.events_dropped += member->counts.events_dropped;
      counters.waiting += group.waiting(*member);
    }
  }
  counters.written += sum.written;
  counters.dropped += sum.dropped + sum.left;
  counters.events_dropped += sum.events_dropped;
  if (sum.dropped > 0) counters.drops.push_back({"slow_watcher", sum.dropped});
  if (sum.left > 0) counters.drops.push_back({"left", sum.left});
}

}  // namespace ikkuna::sinks
