#include "daemon/graph/subscriber_set.h"

#include <algorithm>

#include "daemon/graph/names.h"
#include "daemon/graph/subscriber_entry.h"
#include "metrics/number.h"
#include "shared/base/suggestion.h"

namespace ikkuna::graph {

namespace {

using EntryPtr = std::shared_ptr<SubscriberEntry>;

const char* SourceName(Source source) {
  switch (source) {
    case Source::kDefault:
      return "default";
    case Source::kConfig:
      return "config";
    case Source::kFlag:
      return "flag";
    case Source::kClient:
      return "client";
  }
  return "";
}

SubscriberInfo InfoOf(const SubscriberEntry& entry) {
  SubscriberInfo info;
  info.id = entry.id;
  info.text = entry.subscription.text;
  info.source = SourceName(entry.source.load(std::memory_order_relaxed));
  info.module = entry.subscription.module;
  info.topics = {entry.subscription.topic};
  info.computed = entry.computed.load(std::memory_order_relaxed);
  info.incomplete = entry.incomplete.load(std::memory_order_relaxed);
  info.cpu_seconds = static_cast<double>(entry.cpu_ns.load(std::memory_order_relaxed)) / 1e9;
  return info;
}

std::vector<SubscriberInfo> InfosOf(const std::vector<EntryPtr>& entries) {
  std::vector<SubscriberInfo> infos;
  for (const EntryPtr& entry : entries) infos.push_back(InfoOf(*entry));
  return infos;
}

std::vector<std::string> TopicsOf(const std::vector<EntryPtr>& entries) {
  std::vector<std::string> topics;
  for (const EntryPtr& entry : entries) {
    if (entry->subscription.definition.numbers) topics.push_back(entry->subscription.topic);
  }
  std::sort(topics.begin(), topics.end());
  topics.erase(std::unique(topics.begin(), topics.end()), topics.end());
  return topics;
}

// What one Add would make of the set; nothing of it is seen by anyone until it is whole.
class Draft {
 public:
  Draft(std::vector<EntryPtr> entries, uint64_t next_id) : entries_(std::move(entries)), next_id_(next_id) {}

  Status Add(Subscription subscription, Source source) {
    EntryPtr shared;
    for (const EntryPtr& entry : entries_) {
      if (entry->subscription.text == subscription.text) shared = entry;
    }
    if (shared) {
      promoted_.emplace_back(shared, source);
      answer_.push_back(shared);
      return {};
    }
    for (size_t i = 0; i < entries_.size(); ++i) {
      const EntryPtr& other = entries_[i];
      if (!other->subscription.CollidesWith(subscription)) continue;
      if (source == Source::kDefault) {  // what is there was wanted
        answer_.push_back(other);
        return {};
      }
      const bool asked_for =
          std::any_of(promoted_.begin(), promoted_.end(), [&](const auto& p) { return p.first == other; });
      if (asked_for || other->source.load(std::memory_order_relaxed) != Source::kDefault) {
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
    entry->source.store(source, std::memory_order_relaxed);
    entry->is_default = source == Source::kDefault;
    entries_.push_back(entry);
    answer_.push_back(entry);
    return {};
  }

  // Every topic that is taken is published, and not by those that wait for it.
  Status Check() const {
    std::vector<TopicNode> nodes;
    for (const EntryPtr& entry : entries_) {
      const Subscription& s = entry->subscription;
      TopicNode node{s.text, s.topic + "\n" + s.tag, {}};
      for (const SubscriptionInput& input : s.inputs) {
        if (!input.is_topic()) continue;
        if (auto there = CheckTopic(s, input.topic); !there) return there;
        node.takes.push_back(input.topic + "\n" + s.tag);
      }
      nodes.push_back(std::move(node));
    }
    auto order = TopologicalOrder(nodes);
    if (!order) return order.error();
    return {};
  }

  SubscribeAnswer Commit(std::vector<EntryPtr>& entries, std::vector<EntryPtr>& replaced, uint64_t& next_id) {
    for (const EntryPtr& entry : replaced_) entry->removed.store(true, std::memory_order_relaxed);
    for (const auto& [entry, source] : promoted_) {
      if (entry->source.load(std::memory_order_relaxed) == Source::kDefault) {
        entry->source.store(source, std::memory_order_relaxed);
      }
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
      if (publisher.topic != topic || !publisher.definition.numbers) continue;
      if (publisher.tag == s.tag) return {};
      other_tag = true;
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
  std::vector<EntryPtr> replaced_;
  std::vector<std::pair<EntryPtr, Source>> promoted_;
  std::vector<EntryPtr> answer_;
};

// Those that `what` means: an id, else a written form, else a topic.
std::vector<EntryPtr> Meant(const std::vector<EntryPtr>& entries, const std::string& what) {
  std::vector<EntryPtr> meant;
  if (const auto id = metrics::ParseCount(what)) {
    for (const EntryPtr& entry : entries) {
      if (entry->id == *id) meant.push_back(entry);
    }
    return meant;
  }
  if (auto written = ParseWritten(what)) {
    for (const WrittenSubscriber& one : *written) {
      const auto subscription = Settle(one, {});
      for (const EntryPtr& entry : entries) {
        const bool known = std::find(meant.begin(), meant.end(), entry) != meant.end();
        if (!known && subscription && entry->subscription.text == subscription.value().text) meant.push_back(entry);
      }
    }
  }
  if (!meant.empty()) return meant;
  for (const EntryPtr& entry : entries) {
    if (entry->subscription.topic == what) meant.push_back(entry);
  }
  return meant;
}

// Every topic that it takes is published by one of `entries`.
bool IsFed(const EntryPtr& entry, const std::vector<EntryPtr>& entries) {
  const Subscription& taker = entry->subscription;
  return std::all_of(taker.inputs.begin(), taker.inputs.end(), [&](const SubscriptionInput& input) {
    return !input.is_topic() || std::any_of(entries.begin(), entries.end(), [&](const EntryPtr& other) {
      return other->subscription.topic == input.topic && other->subscription.tag == taker.tag;
    });
  });
}

bool Collides(const EntryPtr& entry, const std::vector<EntryPtr>& entries) {
  return std::any_of(entries.begin(), entries.end(),
                     [&](const EntryPtr& other) { return other->subscription.CollidesWith(entry->subscription); });
}

// One of the default set that was removed, for another time: open steps of graphs go on looking at the old object.
EntryPtr Revived(const SubscriberEntry& removed) {
  auto entry = std::make_shared<SubscriberEntry>();
  entry->id = removed.id;
  entry->subscription = removed.subscription;
  entry->is_default = true;
  entry->computed.store(removed.computed.load(std::memory_order_relaxed), std::memory_order_relaxed);
  entry->incomplete.store(removed.incomplete.load(std::memory_order_relaxed), std::memory_order_relaxed);
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
      if (Collides(waiting[i], entries) || !IsFed(waiting[i], entries)) continue;
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

Result<SubscribeAnswer> SubscriberSet::Add(const std::string& text, Source source) {
  auto written = ParseWritten(text);
  if (!written) return written.error();
  std::lock_guard lock(mutex_);
  const std::vector<std::string> topics = TopicsOf(entries_);
  Draft draft(entries_, next_id_);
  for (const WrittenSubscriber& one : *written) {
    auto subscription = Settle(one, topics);
    if (!subscription) return subscription.error();
    if (auto added = draft.Add(std::move(subscription).value(), source); !added) return added.error();
  }
  if (auto checked = draft.Check(); !checked) return checked.error();
  SubscribeAnswer answer = draft.Commit(entries_, replaced_, next_id_);
  BringBack(replaced_, entries_);                    // one may have waited for a topic that is published now
  version_.fetch_add(1, std::memory_order_release);  // pairs with the acquire of version()
  return answer;
}

Result<UnsubscribeAnswer> SubscriberSet::Remove(const std::string& what) {
  std::lock_guard lock(mutex_);
  std::vector<EntryPtr> gone = Meant(entries_, what);
  if (gone.empty()) {
    if (entries_.empty()) return Error{ErrorCode::kNotFound, "there are no subscribers"};
    return Error{ErrorCode::kNotFound, "there is no subscriber '" + what + "'" + Suggestion(what, TopicsOf(entries_)) +
                                           " Give the id, the written form or the topic of one of the " +
                                           std::to_string(entries_.size()) + " that 'ikkuna subscribers' lists"};
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
  return UnsubscribeAnswer{InfosOf(gone), InfosOf(restored)};
}

std::vector<SubscriberInfo> SubscriberSet::List() const {
  std::lock_guard lock(mutex_);
  return InfosOf(entries_);
}

std::vector<MetricInfo> SubscriberSet::Metrics() const {
  std::vector<MetricInfo> infos;
  for (const metrics::Descriptor* descriptor : metrics::Descriptors()) {
    MetricInfo info;
    info.name = descriptor->name;
    info.help = descriptor->help;
    info.unit = descriptor->unit;
    info.cost = metrics::CostName(descriptor->cost);
    info.publishes = descriptor->publishes;
    for (const metrics::Parameter& parameter : descriptor->parameters) {
      info.parameters.push_back(
          {std::string(parameter.name), std::string(parameter.default_value), std::string(parameter.help)});
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
