#include "daemon/graph/subscriber_draft.h"

#include <algorithm>
#include <utility>

namespace ikkuna::graph {

namespace {

void AddOwner(SubscriberEntry& entry, Source source, const std::string& owner) {
  if (source == Source::kConfig || source == Source::kFlag || (source == Source::kClient && owner.empty())) {
    entry.by_operator = true;
  } else if (source == Source::kClient &&
             std::find(entry.owners.begin(), entry.owners.end(), owner) == entry.owners.end()) {
    entry.owners.push_back(owner);
  }
}

}  // namespace

SubscriberDraft::SubscriberDraft(std::vector<EntryPtr> entries, uint64_t next_id, Source source, std::string owner)
    : entries_(std::move(entries)), next_id_(next_id), source_(source), owner_(std::move(owner)) {}

bool SubscriberDraft::Share(const Subscription& subscription) {
  EntryPtr shared;
  for (const EntryPtr& entry : entries_) {
    if (entry->subscription.text == subscription.text) shared = entry;
  }
  if (!shared) return false;
  if (!shared->off.load(std::memory_order_relaxed) || source_ == Source::kDefault) {
    promoted_.push_back(shared);
    answer_.push_back(shared);
    return true;
  }
  // It threw, and is asked for once more: a new one, which begins at nothing.
  failed_.push_back(shared);
  entries_.erase(std::find(entries_.begin(), entries_.end(), shared));
  std::erase(answer_, shared);
  std::erase(promoted_, shared);
  return false;
}

Result<bool> SubscriberDraft::Replace(const Subscription& subscription) {
  for (size_t i = 0; i < entries_.size(); ++i) {
    const EntryPtr& other = entries_[i];
    if (!other->subscription.CollidesWith(subscription)) continue;
    const bool other_is_default = other->source.load(std::memory_order_relaxed) == Source::kDefault;
    if (source_ == Source::kDefault) {
      if (!other->subscription.run.empty()) continue;  // it stands in for a default in its run alone
      answer_.push_back(other);                        // what is there was wanted
      return true;
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
  return false;
}

Status SubscriberDraft::Add(Subscription subscription, uint64_t id) {
  if (Share(subscription)) return {};
  const Result<bool> settled = Replace(subscription);
  if (!settled) return settled.error();
  if (*settled) return {};
  if (entries_.size() >= SubscriberSet::kMaxSubscribers) {
    return Error{ErrorCode::kResourceExhausted, "there are " + std::to_string(entries_.size()) +
                                                    " subscribers, which is the most; unsubscribe some first"};
  }
  auto entry = std::make_shared<SubscriberEntry>();
  entry->id = id != 0 ? id : next_id_;
  next_id_ = std::max(next_id_, entry->id + 1);
  entry->subscription = std::move(subscription);
  entry->source.store(source_, std::memory_order_relaxed);
  entry->is_default = source_ == Source::kDefault;
  for (const EntryPtr& failed : failed_) {
    if (failed->subscription.text != entry->subscription.text) continue;
    // Whoever else asked for it goes on asking.
    entry->owners = failed->owners;
    entry->by_operator = failed->by_operator;
    if (entry->by_operator) {
      entry->source.store(failed->source.load(std::memory_order_relaxed), std::memory_order_relaxed);
    }
  }
  AddOwner(*entry, source_, owner_);
  entries_.push_back(entry);
  answer_.push_back(entry);
  return {};
}

Status SubscriberDraft::Check() const {
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

SubscribeAnswer SubscriberDraft::Commit(std::vector<EntryPtr>& entries, std::vector<EntryPtr>& replaced,
                                        uint64_t& next_id) {
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

Status SubscriberDraft::CheckTopic(const Subscription& s, const std::string& topic) const {
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

}  // namespace ikkuna::graph
