// Subscribers and metrics as people see them: what there is, what is on, and what came of asking.
//
// Plain values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "daemon/model/missing.h"
#include "metrics/subscriber.h"

namespace ikkuna {

// A metric that can be subscribed.
struct MetricInfo {
  std::string name;
  std::string help;
  metrics::Cost cost = metrics::Cost::kCheap;
  metrics::Runs runs = metrics::Runs::kInline;
  metrics::Scope scope = metrics::Scope::kSeries;
  struct Output {
    std::string topic;  // pattern, such as "{kind}_norm{order}"
    ValueType type = ValueType::kNumber;
    std::string unit;
  };
  std::vector<Output> outputs;
  struct Parameter {
    std::string name;
    std::string default_value;
    std::string help;
  };
  std::vector<Parameter> parameters;
};

enum class SubscriberSource : uint8_t { kDefault = 1, kConfig = 2, kFlag = 3, kClient = 4 };
std::string_view SubscriberSourceName(SubscriberSource source);  // "default", "config", "flag", "client"

struct SubscriberInfo {
  uint64_t id = 0;
  std::string text;  // the written form, complete
  SubscriberSource source = SubscriberSource::kDefault;
  std::vector<std::string> owners;  // clients that asked for it
  std::string run;                  // patterns of run ids and display names; empty: every run
  std::string module;               // patterns of module paths; empty: every module
  std::vector<std::string> topics;
  metrics::Runs runs = metrics::Runs::kInline;
  metrics::Scope scope = metrics::Scope::kSeries;
  bool off = false;       // it threw, and was switched off for all runs
  uint64_t computed = 0;  // values and events
  MissCounts missing{};
  uint64_t waiting = 0;  // jobs of a queue subscriber
  double cpu_seconds = 0;

  uint64_t count(MissReason reason) const { return missing[static_cast<size_t>(reason)]; }
};

struct SubscribeAnswer {
  std::vector<SubscriberInfo> subscribers;  // those of the text
  std::vector<SubscriberInfo> replaced;     // of the default set, that published the same topics
  std::vector<std::string> warnings;        // what was asked and cannot come to anything now, for a person
};

struct UnsubscribeAnswer {
  std::vector<SubscriberInfo> removed;   // those that are gone
  std::vector<SubscriberInfo> kept;      // another client asked for these too: they stay on
  std::vector<SubscriberInfo> restored;  // of the default set, that one of those removed had replaced
};

// Which subscribers are meant.
struct SubscriberChoice {
  enum class By : uint8_t { kId = 1, kText = 2, kTopic = 3 };
  By by = By::kId;
  uint64_t id = 0;
  std::string text;  // the written form, complete or not; or the topic
};
std::string Describe(const SubscriberChoice& which);  // "topic 'loss'"

// What a client subscribed, to be put back after a restart.
struct SavedSubscription {
  uint64_t id = 0;   // 0: any
  std::string text;  // complete
  std::string owner;
  bool operator==(const SavedSubscription&) const = default;
};

}  // namespace ikkuna
