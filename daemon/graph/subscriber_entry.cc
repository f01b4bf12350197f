#include "daemon/graph/subscriber_entry.h"

#include <algorithm>

namespace ikkuna::graph {

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

std::vector<std::string> TopicsOf(const std::vector<EntryPtr>& entries) {
  std::vector<std::string> topics;
  for (const EntryPtr& entry : entries) {
    topics.insert(topics.end(), entry->subscription.topics.begin(), entry->subscription.topics.end());
  }
  std::sort(topics.begin(), topics.end());
  topics.erase(std::unique(topics.begin(), topics.end()), topics.end());
  return topics;
}

}  // namespace ikkuna::graph
