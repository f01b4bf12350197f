#include "daemon/graph/subscriber_set.h"

#include <algorithm>

#include "daemon/graph/subscriber_entry.h"
#include "daemon/model/names.h"
#include "shared/base/suggestion.h"

namespace ikkuna::graph {

namespace {

using EntryPtr = std::shared_ptr<SubscriberEntry>;

// With the set's mutex held.
SubscriberInfo InfoOf(const SubscriberEntry& entry) {
  SubscriberInfo info;
  const Subscription& s = entry.subscription;
  info.id = entry.id;
  info.text = s.text;
  info.source = entry.source.load(std::memory_order_relaxed);
  info.owners = entry.owners;
  info.run = s.run;
  info.module = s.module;
  info.topics = s.topics.empty() ? std::vector<std::string>{s.topic} : s.topics;
  info.runs = s.definition.runs;
  info.scope = s.definition.scope;
  info.off = entry.off.load(std::memory_order_relaxed);
  info.computed = entry.computed.load(std::memory_order_relaxed);
  for (size_t i = 0; i < kMissReasonCount; ++i) info.missing[i] = entry.missing[i].load(std::memory_order_relaxed);
  info.waiting = entry.queue->waiting.load(std::memory_order_relaxed);
  const uint64_t ns =
      entry.cpu_ns.load(std::memory_order_relaxed) + entry.queue->busy_ns.load(std::memory_order_relaxed);
  info.cpu_seconds = static_cast<double>(ns) / 1e9;
  return info;
}

std::vector<SubscriberInfo> InfosOf(const std::vector<EntryPtr>& entries) {
  std::vector<SubscriberInfo> infos;
  for (const EntryPtr& entry : entries) infos.push_back(InfoOf(*entry));
  return infos;
}

// Everything that is published.
std::vector<std::string> TopicsOf(const std::vector<EntryPtr>& entries) {
  std::vector<std::string> topics;
  for (const EntryPtr& entry : entries) {
    topics.insert(topics.end(), entry->subscription.topics.begin(), entry->subscription.topics.end());
  }
  std::sort(topics.begin(), topics.end());
  topics.erase(std::unique(topics.begin(), topics.end()), topics.end());
  return topics;
}

void AddOwner(SubscriberEntry& entry, Source source, const std::string& owner) {
  if (source == Source::kConfig || source == Source::kFlag || (source == Source::kClient && owner.empty())) {
    entry.by_operator = true;
  } else if (source == Source::kClient &&
             std::find(entry.owners.begin(), entry.owners.end(), owner) == entry.owners.end()) {
    entry.owners.push_back(owner);
  }
}

// What one Add would make of the set; nothing of it is seen by anyone until it is whole.
class Draft {
 public:
  Draft(std::vector<EntryPtr> entries, uint64_t next_id, Source source, std::string owner)
      : entries_(std::move(entries)), next_id_(next_id), source_(source), owner_(std::move(owner)) {}

  Status Add(Subscription subscription) {
    EntryPtr shared;
    for (const EntryPtr& entry : entries_) {
      if (entry->subscription.text == subscription.text) shared = entry;
    }
    if (shared && shared->off.load(std::memory_order_relaxed) && source_ != Source::kDefault) {
      // It threw, and is asked for once more: a new one, which begins at nothing.
      failed_.push_back(shared);
      entries_.erase(std::find(entries_.begin(), entries_.end(), shared));
      std::erase(answer_, shared);
      std::erase(promoted_, shared);
    } else if (shared) {
      promoted_.push_back(shared);
      answer_.push_back(shared);
      return {};
    }
    for (size_t i = 0; i < entries_.size(); ++i) {
      const EntryPtr& other = entries_[i];
      if (!other->subscription.CollidesWith(subscription)) continue;
      const bool other_is_default = other->source.load(std::memory_order_relaxed) == Source::kDefault;
      if (source_ == Source::kDefault) {
        if (!other->subscription.run.empty()) continue;  // it stands in for a default in its run alone
        answer_.push_back(other);                        // what is there was wanted
        return {};
      }
      const bool asked_for = std::find(promoted_.begin(), promoted_.end(), other) != promoted_.end();
      if (other_is_default && !asked_for && !subscription.run.empty()) continue;
      if (asked_for || !other_is_default) {
        return Error{ErrorCode::kAlreadyExists, "the topic " + subscription.topic + " is published by " +
                                                    other->subscription.text + " already (subscriber " +
                                                    std::to_string(other->id) +
                                                    "); unsubscribe that, or give this one a name with as="};
      }
      replaced_.push_back(other);
      entries_.erase(entries_.begin() + static_cast<std::ptrdiff_t>(i--));
    }
    if (entries_.size() >= SubscriberSet::kMaxSubscribers) {
      return Error{ErrorCode::kResourceExhausted, "there are " + std::to_string(entries_.size()) +
                                                      " subscribers, which is the most; unsubscribe some first"};
    }
    auto entry = std::make_shared<SubscriberEntry>();
    entry->id = next_id_++;
    entry->subscription = std::move(subscription);
    entry->source.store(source_, std::memory_order_relaxed);
    entry->is_default = source_ == Source::kDefault;
    AddOwner(*entry, source_, owner_);
    entries_.push_back(entry);
    answer_.push_back(entry);
    return {};
  }

  // Every topic that is taken is published, and not by those that wait for it.
  Status Check() const {
    std::vector<TopicNode> nodes;
    for (const EntryPtr& entry : entries_) {
      const Subscription& s = entry->subscription;
      for (const SubscriptionInput& input : s.inputs) {
        if (!input.is_topic()) continue;
        if (auto there = CheckTopic(s, input.topic); !there) return there;
      }
      nodes.push_back(TopicNodeOf(s));
    }
    auto order = TopologicalOrder(nodes);
    if (!order) return order.error();
    return {};
  }

  SubscribeAnswer Commit(std::vector<EntryPtr>& entries, std::vector<EntryPtr>& replaced, uint64_t& next_id) {
    for (const EntryPtr& entry : replaced_) entry->removed.store(true, std::memory_order_relaxed);
    for (const EntryPtr& entry : failed_) entry->removed.store(true, std::memory_order_relaxed);
    for (const EntryPtr& entry : promoted_) {
      if (entry->source.load(std::memory_order_relaxed) == Source::kDefault) {
        entry->source.store(source_, std::memory_order_relaxed);
      }
      AddOwner(*entry, source_, owner_);
    }
    entries = std::move(entries_);
    next_id = next_id_;
    replaced.insert(replaced.end(), replaced_.begin(), replaced_.end());
    return {InfosOf(answer_), InfosOf(replaced_), {}};
  }

 private:
  Status CheckTopic(const Subscription& s, const std::string& topic) const {
    bool other_tag = false;
    for (const EntryPtr& entry : entries_) {
      const Subscription& publisher = entry->subscription;
      const auto output = publisher.OutputOf(topic);
      if (!output) continue;
      other_tag |= publisher.tag != s.tag;
      if (publisher.tag != s.tag) continue;
      if (publisher.definition.scope == metrics::Scope::kJob) {
        return Error{ErrorCode::kInvalidArgument,
                     s.text + ": " + topic + " is of all ranks of a run, which no subscriber of one rank takes"};
      }
      const ValueType type = publisher.definition.outputs[*output].type;
      if ((s.definition.takes & metrics::TypeBit(type)) != 0) return {};
      return Error{ErrorCode::kInvalidArgument, s.text + ": " + topic + " is a " + std::string(ValueTypeName(type)) +
                                                    ", which " + std::string(s.descriptor->name) +
                                                    " does not take; name a topic of another type"};
    }
    if (other_tag) {
      return Error{ErrorCode::kInvalidArgument,
                   s.text + ": " + topic + " is not published under tag '" + s.tag + "'; give tag= the topic's own"};
    }
    std::vector<std::string> topics = TopicsOf(entries_);
    std::erase(topics, s.topic);
    const bool topics_only = s.descriptor->accepts == metrics::Inputs::kTopics;
    return UnknownInput(std::string(s.descriptor->name), topic, topics_only, topics);
  }

  std::vector<EntryPtr> entries_;
  uint64_t next_id_;
  const Source source_;
  const std::string owner_;
  std::vector<EntryPtr> replaced_;
  std::vector<EntryPtr> promoted_;
  std::vector<EntryPtr> failed_;
  std::vector<EntryPtr> answer_;
};

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

std::string Describe(const SubscriberChoice& which) {
  switch (which.by) {
    case SubscriberChoice::By::kId:
      return "subscriber " + std::to_string(which.id);
    case SubscriberChoice::By::kText:
      return "subscriber written '" + which.text + "'";
    case SubscriberChoice::By::kTopic:
      return "topic '" + which.text + "'";
  }
  return "subscriber";
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
  auto written = ParseWritten(text);
  if (!written) return written.error();
  std::lock_guard lock(mutex_);
  const std::vector<std::string> topics = TopicsOf(entries_);
  Draft draft(entries_, next_id_, source, owner);
  for (const WrittenSubscriber& one : *written) {
    auto subscription = Settle(one, topics);
    if (!subscription) return subscription.error();
    if (auto added = draft.Add(std::move(subscription).value()); !added) return added.error();
  }
  if (auto checked = draft.Check(); !checked) return checked.error();
  SubscribeAnswer answer = draft.Commit(entries_, replaced_, next_id_);
  BringBack(replaced_, entries_);                    // one may have waited for a topic that is published now
  version_.fetch_add(1, std::memory_order_release);  // pairs with the acquire of version()
  return answer;
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
    for (const std::string& owner : entry->owners) saved.push_back({entry->subscription.text, owner});
    if (entry->source.load(std::memory_order_relaxed) == Source::kClient && entry->by_operator) {
      saved.push_back({entry->subscription.text, ""});
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

const std::vector<std::string>& DefaultSubscribers() {
  // Scalars every step, statistics every 10th, the update ratio every 100th.
  static const std::vector<std::string> kDefaults{
      "loss",
      "loss(tag=test)",
      "train_accuracy",
      "test_accuracy",
      "learning_rate",
      "scalar",
      "text",
      "non_finite(loss)",
      "non_finite(weights, activations, layer_gradients, weight_gradients, subsample=10, as=tensors)",
      "norm(weights, subsample=10)",
      "norm(weight_gradients, subsample=10)",
      "message_mean(weights_norm2, subsample=10)",
      "message_mean(weight_gradients_norm2, subsample=10)",
      "ratio(weight_updates, weights, subsample=100)",
      "mean(weights, subsample=10)",
      "std(weights, subsample=10)",
      "mean(weight_gradients, subsample=10)",
      "std(weight_gradients, subsample=10)",
      "mean(layer_gradients, subsample=10)",
      "std(layer_gradients, subsample=10)",
      "mean(activations, subsample=10)",
      "std(activations, subsample=10)",
      "zero_fraction(activations, subsample=10)",
  };
  return kDefaults;
}

}  // namespace ikkuna::graph
