#include "daemon/graph/subscription.h"

#include <algorithm>
#include <limits>

#include "daemon/model/names.h"
#include "metrics/number.h"
#include "shared/base/suggestion.h"

namespace ikkuna::graph {

namespace {

using metrics::Descriptor;

constexpr const char* kCommonOptions[] = {"tag", "subsample", "module", "root", "run", "as"};

// Kinds that carry numbers: tensors and scalars, no markers and no text.
bool CarriesNumbers(Kind kind) { return !IsMarkerKind(kind) && kind != Kind::kText; }

std::vector<std::string> KindNames() {
  std::vector<std::string> names;
  for (uint8_t code = 1; code < 64; ++code) {
    const Kind kind = static_cast<Kind>(code);
    if (IsKnownKind(code) && CarriesNumbers(kind)) names.emplace_back(KindName(kind));
  }
  return names;
}

bool IsTopicWord(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
  });
}

Error Invalid(const std::string& text) { return Error{ErrorCode::kInvalidArgument, text}; }

Result<const Descriptor*> FindMetric(const std::string& name) {
  if (const Descriptor* descriptor = metrics::FindDescriptor(name)) return descriptor;
  std::vector<std::string> names;
  for (const Descriptor* descriptor : metrics::Descriptors()) names.emplace_back(descriptor->name);
  return Invalid("there is no metric '" + name + "'" + Suggestion(name, names) + " There are: " + Listed(names));
}

Status SettleInputs(const WrittenSubscriber& written, const std::vector<std::string>& topics, Subscription& s) {
  const Descriptor& d = *s.descriptor;
  const size_t count = written.inputs.size();
  if (count < d.inputs_min || count > d.inputs_max) {
    const std::string wanted = d.inputs_max == 0              ? "no kinds"
                               : d.inputs_min == d.inputs_max ? std::to_string(d.inputs_min)
                                                              : "at most " + std::to_string(d.inputs_max);
    return Invalid(written.name + " takes " + wanted + (d.accepts == metrics::Inputs::kTopics ? " topic" : "") +
                   (d.inputs_max == 0 ? "" : " between its parentheses") + ", not " + std::to_string(count));
  }
  if (count == 0) {
    for (const Kind kind : d.default_inputs) s.inputs.push_back({kind, ""});
    return {};
  }
  for (size_t i = 0; i < count; ++i) {
    const std::string& input = written.inputs[i];
    if (std::find(written.inputs.begin(), written.inputs.begin() + static_cast<std::ptrdiff_t>(i), input) !=
        written.inputs.begin() + static_cast<std::ptrdiff_t>(i)) {
      return Invalid(written.name + " names '" + input + "' twice");
    }
    const auto kind = d.accepts == metrics::Inputs::kTopics ? std::nullopt : KindFromName(input);
    if (kind && !CarriesNumbers(*kind)) return Invalid(written.name + ": " + input + " carries no numbers");
    if (kind) {
      s.inputs.push_back({*kind, ""});
      continue;
    }
    const size_t at = input.find('@');
    const bool topic_like = IsTopicWord(std::string_view(input).substr(0, at)) &&
                            (at == std::string::npos || IsTopicWord(std::string_view(input).substr(at + 1)));
    if (!topic_like) return UnknownInput(written.name, input, d.accepts == metrics::Inputs::kTopics, topics);
    s.inputs.push_back({Kind::kInvalid, input});
  }
  return {};
}

Result<uint32_t> ParseSubsample(const std::string& value) {
  const auto number = metrics::ParseCount(value);
  if (!number || *number == 0 || *number > std::numeric_limits<uint32_t>::max()) {
    return Invalid("subsample='" + value + "' is not a whole number above zero");
  }
  return static_cast<uint32_t>(*number);
}

Status SettleCommonOption(const std::string& name, const std::string& value, Subscription& s, std::string& as) {
  if (value.size() > kMaxNameBytes) return Invalid(name + "= is longer than any name there is");
  if (name == "tag") {
    s.tag = value;
  } else if (name == "module") {
    s.module = value;
  } else if (name == "root") {
    s.root = value;
  } else if (name == "run") {
    s.run = value;
  } else if (name == "subsample") {
    auto subsample = ParseSubsample(value);
    if (!subsample) return subsample.error();
    s.subsample = *subsample;
  } else {
    if (!IsTopicWord(value)) return Invalid("as='" + value + "': give a name of a-z, 0-9 and _");
    as = value;
  }
  return {};
}

Status SettleOptions(const WrittenSubscriber& written, Subscription& s, std::vector<std::string>& values,
                     std::string& as) {
  const auto parameters = s.descriptor->parameters;
  for (const metrics::Parameter& parameter : parameters) values.emplace_back(parameter.default_value);
  for (const auto& [name, value] : written.options) {
    const auto own =
        std::find_if(parameters.begin(), parameters.end(),
                     [&, name = std::string_view(name)](const auto& parameter) { return parameter.name == name; });
    if (own != parameters.end()) {
      values[static_cast<size_t>(own - parameters.begin())] = value;
      continue;
    }
    if (std::find(std::begin(kCommonOptions), std::end(kCommonOptions), name) == std::end(kCommonOptions)) {
      std::vector<std::string> names;
      for (const metrics::Parameter& parameter : parameters) names.emplace_back(parameter.name);
      names.insert(names.end(), std::begin(kCommonOptions), std::end(kCommonOptions));
      return Invalid(written.name + " has no option '" + name + "'" + Suggestion(name, names) +
                     " There are: " + Listed(names));
    }
    if (auto settled = SettleCommonOption(name, value, s, as); !settled) return settled;
  }
  return {};
}

std::string CompleteText(const Subscription& s, const std::string& as) {
  WrittenSubscriber complete;
  complete.name = s.descriptor->name;
  if (s.descriptor->inputs_max != 0) {
    for (const SubscriptionInput& input : s.inputs) {
      complete.inputs.push_back(input.is_topic() ? input.topic : std::string(KindName(input.kind)));
    }
  }
  for (size_t i = 0; i < s.descriptor->parameters.size(); ++i) {
    complete.options.emplace_back(s.descriptor->parameters[i].name, s.definition.values[i]);
  }
  complete.options.emplace_back("tag", s.tag);
  complete.options.emplace_back("subsample", std::to_string(s.subsample));
  if (!s.module.empty()) complete.options.emplace_back("module", s.module);
  if (!s.root.empty()) complete.options.emplace_back("root", s.root);
  if (!s.run.empty()) complete.options.emplace_back("run", s.run);
  if (!as.empty()) complete.options.emplace_back("as", as);
  return FormatWritten(complete);
}

}  // namespace

bool Subscription::CollidesWith(const Subscription& other) const {
  if (tag != other.tag) return false;
  const auto same = [&](const std::string& name) {
    return name == other.topic || std::find(other.topics.begin(), other.topics.end(), name) != other.topics.end();
  };
  if (!same(topic) && std::none_of(topics.begin(), topics.end(), same)) return false;
  const auto apart = [](const std::string& a, const std::string& b) { return IsLiteral(a) && IsLiteral(b) && a != b; };
  return !apart(root, other.root) && !apart(run, other.run);
}

std::optional<uint32_t> Subscription::OutputOf(const std::string& name) const {
  const auto at = std::find(topics.begin(), topics.end(), name);
  if (at == topics.end()) return std::nullopt;
  return static_cast<uint32_t>(at - topics.begin());
}

bool Subscription::MatchesRun(const std::string& run_id, const std::string& display_name) const {
  return run.empty() || MatchesPatterns(run, run_id) || MatchesPatterns(run, display_name);
}

Error UnknownInput(const std::string& subscriber, const std::string& input, bool topics_only,
                   const std::vector<std::string>& topics) {
  std::vector<std::string> kinds;
  if (!topics_only) kinds = KindNames();
  std::vector<std::string> all = kinds;
  all.insert(all.end(), topics.begin(), topics.end());
  std::string text = subscriber + ": there is no " + (topics_only ? "topic '" : "kind or topic '") + input + "'" +
                     Suggestion(input, all);
  if (!topics_only) text += " Kinds: " + Listed(kinds) + ".";
  text += topics.empty() ? " No topics are published." : " Topics: " + Listed(topics);
  return Invalid(text);
}

Result<Subscription> Settle(const WrittenSubscriber& written, const std::vector<std::string>& topics) {
  Subscription s;
  auto descriptor = FindMetric(written.name);
  if (!descriptor) return descriptor.error();
  s.descriptor = *descriptor;
  s.tag = s.descriptor->default_tag;
  std::vector<std::string> values;
  std::string as;
  if (auto settled = SettleOptions(written, s, values, as); !settled) return settled.error();
  if (auto settled = SettleInputs(written, topics, s); !settled) return settled.error();

  // A topic's @name moves behind the new topic, so that there is never more than one.
  std::vector<std::string> inputs;
  std::string inherited;
  for (const SubscriptionInput& input : s.inputs) {
    const size_t at = input.topic.find('@');
    inputs.push_back(input.is_topic() ? input.topic.substr(0, at) : std::string(KindName(input.kind)));
    if (at != std::string::npos && inherited.empty()) inherited = input.topic.substr(at + 1);
  }
  auto definition = s.descriptor->define(inputs, values);
  if (!definition) return definition.error();
  s.definition = std::move(definition).value();
  size_t topics_taken = 0;
  for (const SubscriptionInput& input : s.inputs) topics_taken += input.is_topic();
  if (auto checked = metrics::CheckDefinition(s.definition, {s.inputs.size() - topics_taken, topics_taken}); !checked) {
    return checked.error();
  }
  const std::string& name = as.empty() ? inherited : as;
  const std::string ending = name.empty() ? "" : "@" + name;
  s.topic = s.definition.topic + ending;
  for (const metrics::Output& output : s.definition.outputs) {
    s.topics.push_back(s.definition.topic + output.suffix + ending);
  }
  size_t longest = s.topic.size();
  for (const std::string& topic : s.topics) longest = std::max(longest, topic.size());
  if (longest > kMaxNameBytes) return Invalid("the topic " + s.topic + " is too long; give it a name with as=");
  s.text = CompleteText(s, as);
  return s;
}

TopicNode TopicNodeOf(const Subscription& s) {
  TopicNode node{s.text, {}, {}};
  for (const std::string& topic : s.topics) node.topics.push_back(topic + "\n" + s.tag);
  for (const SubscriptionInput& input : s.inputs) {
    if (input.is_topic()) node.takes.push_back(input.topic + "\n" + s.tag);
  }
  return node;
}

Result<std::vector<size_t>> TopologicalOrder(const std::vector<TopicNode>& nodes) {
  std::vector<size_t> order;
  std::vector<bool> placed(nodes.size(), false);
  const auto waits = [&](const TopicNode& node) {
    for (const std::string& topic : node.takes) {
      for (size_t i = 0; i < nodes.size(); ++i) {
        const auto& topics = nodes[i].topics;
        if (!placed[i] && std::find(topics.begin(), topics.end(), topic) != topics.end()) return true;
      }
    }
    return false;
  };
  while (order.size() < nodes.size()) {
    bool moved = false;
    for (size_t i = 0; i < nodes.size(); ++i) {
      if (placed[i] || waits(nodes[i])) continue;
      order.push_back(i);
      placed[i] = moved = true;
    }
    if (moved) continue;
    std::vector<std::string> members;
    for (size_t i = 0; i < nodes.size(); ++i) {
      if (!placed[i]) members.push_back(nodes[i].name);
    }
    return Invalid("these wait for each other's topics for ever: " + Listed(members));
  }
  return order;
}

}  // namespace ikkuna::graph
