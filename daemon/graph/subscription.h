// Subscription: a written subscriber with everything settled: which metric, what flows in, which steps, where, what
// comes out under which topic. Immutable; shared by all graphs.
//
// Options that every subscriber has: tag (exact name; the metric's default otherwise), subsample (steps that are
// multiples of it), module, root and run (shell patterns separated by '|'; a run's id or display name), as (a name
// behind the @ of its topics).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "daemon/graph/written_form.h"
#include "metrics/subscriber.h"
#include "shared/base/result.h"
#include "shared/codes.h"

namespace ikkuna::graph {

struct SubscriptionInput {
  Kind kind = Kind::kInvalid;  // kInvalid: a topic
  std::string topic;           // of another subscriber, @name included
  bool is_topic() const { return kind == Kind::kInvalid; }
};

struct Subscription {
  const metrics::Descriptor* descriptor = nullptr;
  metrics::Definition definition;
  std::vector<SubscriptionInput> inputs;
  std::string topic;                // [a-z0-9_]+(@[a-z0-9_]+)?: the subscriber's own
  std::vector<std::string> topics;  // of its outputs, in their order; none: it publishes events only
  std::string tag;
  uint32_t subsample = 1;
  std::string module;  // patterns; empty: every module
  std::string root;    // patterns; empty: every root
  std::string run;     // patterns; empty: every run
  std::string text;    // the written form, complete: the same subscription always has the same

  // Both could publish to one series: same topic and tag, and roots and runs that may be the same.
  bool CollidesWith(const Subscription& other) const;
  // Index of the output that is published as `name`.
  std::optional<uint32_t> OutputOf(const std::string& name) const;
  bool MatchesRun(const std::string& run_id, const std::string& display_name) const;
};

// Settles everything but whether the topics it takes exist: that depends on the others. Unknown metrics, kinds and
// options are kInvalidArgument with the nearest name. `topics`: what is published, for that message.
Result<Subscription> Settle(const WrittenSubscriber& written, const std::vector<std::string>& topics);

// What the error of an unknown kind or topic says.
Error UnknownInput(const std::string& subscriber, const std::string& input, bool topics_only,
                   const std::vector<std::string>& topics);

// Indices of `nodes`, each given as (topics that it publishes, topics that it takes), so that whoever takes a topic
// comes after all that publish it; else the order stays. A cycle is kInvalidArgument and names its members.
struct TopicNode {
  std::string name;
  std::vector<std::string> topics;
  std::vector<std::string> takes;
};
TopicNode TopicNodeOf(const Subscription& subscription);  // topics of one tag are apart from those of another
Result<std::vector<size_t>> TopologicalOrder(const std::vector<TopicNode>& nodes);

}  // namespace ikkuna::graph
