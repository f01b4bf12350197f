#include "daemon/sinks/watch_group.h"

#include <algorithm>
#include <utility>

namespace ikkuna::sinks {
namespace {

size_t BytesOfUpdate(const WatchUpdate& update) {
  // Twice: whoever encodes it keeps the encoding with it.
  return sizeof(WatchUpdate) + 2 * BytesOf(*update.batch);
}

}  // namespace

bool WatchGroup::Passes(RunView& view, uint32_t series, const Run& run,
                        std::vector<std::shared_ptr<const Series>>& fresh) {
  if (series < view.verdicts.size() && view.verdicts[series] != Verdict::kUnknown) {
    return view.verdicts[series] == Verdict::kAnnounced;
  }
  std::shared_ptr<const Series> found = run.series().Find(series);
  if (!found) return false;  // a number that has no name can be shown to nobody
  if (series >= view.verdicts.size()) view.verdicts.resize(series + 1, Verdict::kUnknown);
  const bool passes = filter_.MatchesSeries(found->name);
  view.verdicts[series] = passes ? Verdict::kAnnounced : Verdict::kRefused;
  if (passes) fresh.push_back(std::move(found));
  return passes;
}

bool WatchGroup::PassesEvent(const Event& event, const WatchSource& source) const {
  return event.run.run_id.empty() || filter_.MatchesRun(event.run, source.display(event.run));
}

std::shared_ptr<const WatchUpdate> WatchGroup::Select(const std::shared_ptr<const Batch>& batch, uint64_t position,
                                                      const WatchSource& source) {
  auto update = std::make_shared<WatchUpdate>();
  update->position = position;
  std::vector<bool> passing;  // samples, then others
  size_t values = 0;
  RunView* view = nullptr;
  std::vector<std::shared_ptr<const Series>> fresh;
  if (source.run) {
    const auto [found, is_new] = runs_.try_emplace(source.run->number);
    view = &found->second;
    if (is_new) view->passes = filter_.MatchesRun(source.run->key, source.run->display);
    update->run_number = source.run->number;
    if (view->passes) {
      passing.resize(batch->values());
      size_t at = 0;
      for (const Sample& sample : batch->samples) passing[at++] = Passes(*view, sample.series, *batch->run, fresh);
      for (const OtherValue& other : batch->others) passing[at++] = Passes(*view, other.series, *batch->run, fresh);
      values = static_cast<size_t>(std::count(passing.begin(), passing.end(), true));
    }
  }
  const auto events = static_cast<size_t>(std::count_if(batch->events.begin(), batch->events.end(),
                                                        [&](const Event& e) { return PassesEvent(e, source); }));
  if (values == 0 && events == 0) return nullptr;
  if (batch->run) update->run = batch->run->info();
  if (!fresh.empty()) {
    auto announcement = std::make_shared<WatchUpdate>();
    announcement->run_number = update->run_number;
    announcement->run = update->run;
    announcement->new_series = std::move(fresh);
    view->announcements.push_back(std::move(announcement));
  }
  if (values == batch->values() && events == batch->events.size()) {
    update->batch = batch;
    return update;
  }
  // A copy: one number that passes must not keep the 20,000 others of its batch.
  auto part = std::make_shared<Batch>();
  part->run = batch->run;
  part->stamp = batch->stamp;
  for (size_t i = 0; i < passing.size(); ++i) {
    if (!passing[i]) continue;
    if (i < batch->samples.size()) {
      part->samples.push_back(batch->samples[i]);
    } else {
      part->others.push_back(batch->others[i - batch->samples.size()]);
    }
  }
  std::copy_if(batch->events.begin(), batch->events.end(), std::back_inserter(part->events),
               [&](const Event& event) { return PassesEvent(event, source); });
  update->batch = std::move(part);
  return update;
}

void WatchGroup::Append(std::shared_ptr<const WatchUpdate> update) {
  const size_t bytes = BytesOfUpdate(*update);
  const Batch& batch = *update->batch;
  const uint64_t position = update->position;
  items_.push_back({std::move(update), bytes});  // first: it may throw
  values_appended_ += batch.values();
  newest_ = position;
  bytes_ += bytes;
}

void WatchGroup::Append(std::shared_ptr<WatchMember> member) {
  member->group = this;
  member->next = first_ + items_.size();
  member->values_passed = values_appended_;
  members_.push_back(std::move(member));
}

void WatchGroup::Remove(const WatchMember& member) {
  std::erase_if(members_, [&](const auto& one) { return one.get() == &member; });
  Trim();
}

void WatchGroup::PopFront() {
  bytes_ -= items_.front().bytes;
  items_.pop_front();
  ++first_;
}

void WatchGroup::DropOldest() {
  const Batch& batch = *items_.front().update->batch;
  for (const auto& member : members_) {
    if (member->next > first_) continue;
    member->next = first_ + 1;
    member->values_passed += batch.values();
    if (items_.front().update->position <= member->from) continue;
    member->counts.dropped += batch.values();
    member->counts.events_dropped += batch.events.size();
  }
  PopFront();
}

void WatchGroup::Give(WatchMember& member, const std::shared_ptr<const WatchUpdate>& update, WatchTaken& taken) {
  if (const auto view = runs_.find(update->run_number); view != runs_.end()) {
    const auto& announcements = view->second.announcements;
    // Also those of later updates: early is no harm.
    for (size_t& told = member.told[update->run_number]; told < announcements.size(); ++told) {
      taken.updates.push_back(announcements[told]);
    }
  }
  taken.updates.push_back(update);
  member.counts.written += update->batch->values();
}

bool WatchGroup::TakeNext(WatchMember& member, WatchTaken& taken) {
  while (member.next < first_ + items_.size()) {
    const std::shared_ptr<const WatchUpdate>& update = items_[member.next - first_].update;
    ++member.next;
    member.values_passed += update->batch->values();
    if (update->position <= member.from) continue;
    Give(member, update, taken);
    return true;
  }
  return false;
}

void WatchGroup::Trim() {
  uint64_t slowest = first_ + items_.size();
  for (const auto& member : members_) slowest = std::min(slowest, member->next);
  while (first_ < slowest) PopFront();
}

void WatchGroup::Forget(uint64_t run_number) {
  runs_.erase(run_number);
  for (const auto& member : members_) member->told.erase(run_number);
}

}  // namespace ikkuna::sinks
