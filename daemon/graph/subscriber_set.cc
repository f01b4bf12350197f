#include "daemon/graph/subscriber_set.h"

#include <algorithm>
#include <utility>

#include "daemon/graph/subscriber_draft.h"
#include "daemon/graph/subscriber_entry.h"
#include "daemon/model/names.h"
#include "shared/base/suggestion.h"

namespace ikkuna::graph {

namespace {

std::vector<EntryPtr> Meant(const std::vector<EntryPtr>& entries, const SubscriberChoice& which) {
  std::vector<EntryPtr> meant;
  std::vector<std::string> texts;
  if (which.by == SubscriberChoice::By::kText) {
    if (const auto written = ParseWritten(which.text)) {
      for (const WrittenSubscriber& one : written.value()) {
        if (const auto subscription = Settle(one, {})) texts.push_back(subscription.value().text);
      }
    }
  }
  for (const EntryPtr& entry : entries) {
    const Subscription& s = entry->subscription;
    bool is_meant = false;
    switch (which.by) {
      case SubscriberChoice::By::kId:
        is_meant = entry->id == which.id;
        break;
      case SubscriberChoice::By::kText:
        is_meant = std::find(texts.begin(), texts.end(), s.text) != texts.end();
        break;
      case SubscriberChoice::By::kTopic:
        is_meant = s.topic == which.text || s.OutputOf(which.text).has_value();
        break;
    }
    if (is_meant) meant.push_back(entry);
  }
  return meant;
}

// `owner` does not ask for it any more. True: nobody does.
bool Disown(SubscriberEntry& entry, const std::string& owner) {
  std::erase(entry.owners, owner);
  return entry.owners.empty() && !entry.by_operator;
}

// Every topic that it takes is published by one of `entries`.
bool IsFed(const EntryPtr& entry, const std::vector<EntryPtr>& entries) {
  const Subscription& taker = entry->subscription;
  return std::all_of(taker.inputs.begin(), taker.inputs.end(), [&](const SubscriptionInput& input) {
    return !input.is_topic() || std::any_of(entries.begin(), entries.end(), [&](const EntryPtr& other) {
      return other->subscription.tag == taker.tag && other->subscription.OutputOf(input.topic).has_value();
    });
  });
}

// One stands in the place of a default, for all runs.
bool Replaces(const std::vector<EntryPtr>& entries, const EntryPtr& waiting) {
  return std::any_of(entries.begin(), entries.end(), [&](const EntryPtr& other) {
    return other->subscription.run.empty() && other->subscription.CollidesWith(waiting->subscription);
  });
}

// One of the default set that was removed, for another time: open steps of graphs go on looking at the old object.
EntryPtr Revived(const SubscriberEntry& removed) {
  auto entry = std::make_shared<SubscriberEntry>();
  entry->id = removed.id;
  entry->subscription = removed.subscription;
  entry->is_default = true;
  entry->computed.store(removed.computed.load(std::memory_order_relaxed), std::memory_order_relaxed);
  for (size_t i = 0; i < kMissReasonCount; ++i) {
    entry->Count(static_cast<MissReason>(i), removed.missing[i].load(std::memory_order_relaxed));
  }
  entry->cpu_ns.store(removed.cpu_ns.load(std::memory_order_relaxed), std::memory_order_relaxed);
  return entry;
}

// Moves those of `waiting` to `entries` whose topic nobody publishes any more and whose own inputs are there; returns
// them.
std::vector<EntryPtr> BringBack(std::vector<EntryPtr>& waiting, std::vector<EntryPtr>& entries) {
  std::vector<EntryPtr> restored;
  for (bool moved = true; moved;) {
    moved = false;
    for (size_t i = 0; i < waiting.size(); ++i) {
      if (Replaces(entries, waiting[i]) || !IsFed(waiting[i], entries)) continue;
      restored.push_back(Revived(*waiting[i]));
      entries.push_back(restored.back());
      waiting.erase(waiting.begin() + static_cast<std::ptrdiff_t>(i--));
      moved = true;
    }
  }
  return restored;
}

// Moves those of `entries` that take a topic which nobody publishes to `gone`.
void MoveUnfed(std::vector<EntryPtr>& entries, std::vector<EntryPtr>& gone) {
  for (bool moved = true; moved;) {
    moved = false;
    for (size_t i = 0; i < entries.size(); ++i) {
      if (IsFed(entries[i], entries)) continue;
      gone.push_back(entries[i]);
      entries.erase(entries.begin() + static_cast<std::ptrdiff_t>(i--));
      moved = true;
    }
  }
}

}  // namespace

Result<SubscribeAnswer> SubscriberSet::Add(const std::string& text, Source source, const std::string& owner) {
  std::lock_guard lock(mutex_);
  return AddLocked(text, source, owner, 0);
}

Result<SubscribeAnswer> SubscriberSet::AddLocked(const std::string& text, Source source, const std::string& owner,
                                                 uint64_t id) {
  auto written = ParseWritten(text);
  if (!written) return written.error();
  const std::vector<std::string> topics = TopicsOf(entries_);
  SubscriberDraft draft(entries_, next_id_, source, owner);
  for (const WrittenSubscriber& one : *written) {
    auto subscription = Settle(one, topics);
    if (!subscription) return subscription.error();
    if (auto added = draft.Add(std::move(subscription).value(), std::exchange(id, 0)); !added) return added.error();
  }
  if (auto checked = draft.Check(); !checked) return checked.error();
  SubscribeAnswer answer = draft.Commit(entries_, replaced_, next_id_);
  BringBack(replaced_, entries_);                    // one may have waited for a topic that is published now
  version_.fetch_add(1, std::memory_order_release);  // pairs with the acquire of version()
  return answer;
}

bool SubscriberSet::IsFreeLocked(uint64_t id) const {
  const auto has = [id](const EntryPtr& entry) { return entry->id == id; };
  return std::none_of(entries_.begin(), entries_.end(), has) && std::none_of(replaced_.begin(), replaced_.end(), has);
}

std::vector<SubscriberSet::NotRestored> SubscriberSet::Restore(std::vector<SavedSubscription> saved) {
  std::lock_guard lock(mutex_);
  // What is subscribed from now on has none of these numbers, whether all of them come back or not.
  for (const SavedSubscription& one : saved) {
    if (one.id != UINT64_MAX) next_id_ = std::max(next_id_, one.id + 1);
  }
  std::vector<NotRestored> failed;
  // One may take a topic of another that stands behind it.
  for (bool moved = true; moved && !saved.empty();) {
    moved = false;
    failed.clear();
    std::vector<SavedSubscription> later;
    for (SavedSubscription& one : saved) {
      const uint64_t id = one.id != UINT64_MAX && IsFreeLocked(one.id) ? one.id : 0;
      Result<SubscribeAnswer> added = AddLocked(one.text, Source::kClient, one.owner, id);
      moved |= added.ok();
      if (added) continue;
      failed.push_back({one, added.error().text});
      later.push_back(std::move(one));
    }
    saved = std::move(later);
  }
  return failed;
}

Result<UnsubscribeAnswer> SubscriberSet::Remove(const SubscriberChoice& which,
                                                const std::optional<std::string>& owner) {
  std::lock_guard lock(mutex_);
  std::vector<EntryPtr> gone = Meant(entries_, which);
  if (gone.empty()) {
    if (entries_.empty()) return Error{ErrorCode::kNotFound, "there are no subscribers"};
    const std::string near =
        which.by == SubscriberChoice::By::kId ? std::string(".") : Suggestion(which.text, TopicsOf(entries_));
    return Error{ErrorCode::kNotFound, "there is no " + Describe(which) + near +
                                           " Give the id, the written form or the topic of one of the " +
                                           std::to_string(entries_.size()) + " that 'ikkuna subscribers' lists"};
  }
  UnsubscribeAnswer answer;
  if (owner) {
    for (const EntryPtr& entry : gone) {
      if (std::find(entry->owners.begin(), entry->owners.end(), *owner) != entry->owners.end()) continue;
      return Error{ErrorCode::kPermissionDenied,
                   entry->subscription.text + " (subscriber " + std::to_string(entry->id) + ") was not subscribed by " +
                       *owner + " but by " + (entry->owners.empty() ? "the daemon's operator" : Listed(entry->owners)) +
                       "; they can unsubscribe it, or whoever has the role control"};
    }
    std::erase_if(gone, [&](const EntryPtr& entry) {
      if (Disown(*entry, *owner)) return false;
      answer.kept.push_back(InfoOf(*entry));
      return true;
    });
    if (gone.empty()) return answer;
  }
  for (const EntryPtr& entry : gone) {
    entries_.erase(std::find(entries_.begin(), entries_.end(), entry));
    // A default that somebody asked for as well is a default again.
    if (entry->is_default && entry->source.load(std::memory_order_relaxed) != Source::kDefault) {
      replaced_.push_back(entry);
    }
  }
  const auto retire = [&gone] {
    for (const EntryPtr& entry : gone) entry->removed.store(true, std::memory_order_relaxed);
  };
  retire();  // before one of them is revived with its counters: what is added to them later would be lost
  const std::vector<EntryPtr> restored = BringBack(replaced_, entries_);
  MoveUnfed(entries_, gone);
  retire();
  version_.fetch_add(1, std::memory_order_release);  // pairs with the acquire of version()
  answer.removed = InfosOf(gone);
  answer.restored = InfosOf(restored);
  return answer;
}

bool SubscriberSet::SwitchOff(SubscriberEntry& entry) {
  if (entry.off.exchange(true, std::memory_order_relaxed)) return false;
  std::lock_guard lock(mutex_);
  version_.fetch_add(1, std::memory_order_release);  // pairs with the acquire of version()
  return true;
}

std::vector<SubscriberInfo> SubscriberSet::List() const {
  std::lock_guard lock(mutex_);
  return InfosOf(entries_);
}

std::vector<SavedSubscription> SubscriberSet::Export() const {
  std::lock_guard lock(mutex_);
  std::vector<SavedSubscription> saved;
  for (const EntryPtr& entry : entries_) {
    for (const std::string& owner : entry->owners) saved.push_back({entry->id, entry->subscription.text, owner});
    if (entry->source.load(std::memory_order_relaxed) == Source::kClient && entry->by_operator) {
      saved.push_back({entry->id, entry->subscription.text, ""});
    }
  }
  return saved;
}

std::vector<MetricInfo> SubscriberSet::Metrics() const {
  std::vector<MetricInfo> infos;
  for (const metrics::Descriptor* descriptor : metrics::Descriptors()) {
    MetricInfo info;
    info.name = descriptor->name;
    info.help = descriptor->help;
    info.cost = descriptor->cost;
    std::vector<std::string> values;
    for (const metrics::Parameter& parameter : descriptor->parameters) {
      values.emplace_back(parameter.default_value);
      info.parameters.push_back(
          {std::string(parameter.name), std::string(parameter.default_value), std::string(parameter.help)});
    }
    // With its defaults, and any input: what it is does not hang on that.
    const std::vector<std::string> inputs(descriptor->inputs_max, "kind");
    if (const auto definition = descriptor->define(inputs, values)) {
      info.runs = definition.value().runs;
      info.scope = definition.value().scope;
      for (const metrics::Output& output : definition.value().outputs) {
        info.outputs.push_back({std::string(descriptor->publishes) + output.suffix, output.type,
                                output.unit.empty() ? std::string(descriptor->unit) : output.unit});
      }
    }
    infos.push_back(std::move(info));
  }
  return infos;
}

std::vector<std::shared_ptr<SubscriberEntry>> SubscriberSet::Snapshot() const {
  std::lock_guard lock(mutex_);
  return entries_;
}

}  // namespace ikkuna::graph
