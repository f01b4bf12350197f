#include "daemon/monitor/publish_check.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <set>
#include <string_view>
#include <utility>

#include "daemon/monitor/publisher.h"
#include "shared/base/utf8.h"

namespace ikkuna {
namespace {

constexpr size_t kNameBytesMax = 255;

// [a-z0-9_]+(@[a-z0-9_]+)?, as the topics of subscribers are.
bool IsTopic(const std::string& text) {
  const auto is_word = [](std::string_view word) {
    return !word.empty() && std::all_of(word.begin(), word.end(), [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
    });
  };
  const size_t at = text.find('@');
  if (text.size() > kNameBytesMax) return false;
  if (at == std::string::npos) return is_word(text);
  return is_word(std::string_view(text).substr(0, at)) && is_word(std::string_view(text).substr(at + 1));
}

// Whether a tensor's elements are those of its sizes, a histogram's counts its n and over a range, a text UTF-8.
bool IsSound(const Value& value) {
  if (const Text* text = std::get_if<Text>(&value)) return IsValidUtf8(text->text);
  if (const Histogram* histogram = std::get_if<Histogram>(&value)) {
    // Without elements there is no range, and nobody reads it.
    const bool ranged =
        std::isfinite(histogram->min) && std::isfinite(histogram->max) && histogram->min <= histogram->max;
    if (histogram->n > 0 && !ranged) return false;
    uint64_t n = 0;
    for (const uint64_t count : histogram->counts) {
      if (__builtin_add_overflow(n, count, &n)) return false;
    }
    return !histogram->counts.empty() && histogram->counts.size() <= Histogram::kMaxBins && n == histogram->n;
  }
  if (const TensorValue* tensor = std::get_if<TensorValue>(&value)) {
    uint64_t elements = 1;
    for (const int64_t size : tensor->sizes) {
      if (size < 0 || static_cast<uint64_t>(size) > TensorValue::kMaxElements) return false;
      elements *= static_cast<uint64_t>(size);
      if (elements > TensorValue::kMaxElements) return false;
    }
    const bool image = tensor->form == TensorValue::Form::kImage;
    const size_t dims = tensor->sizes.size();
    if (image && dims != 2 &&
        !(dims == 3 && (tensor->sizes[2] == 1 || tensor->sizes[2] == 3 || tensor->sizes[2] == 4))) {
      return false;
    }
    return dims > 0 && elements == tensor->values.size();
  }
  return true;
}

std::optional<Failure> CheckValue(const PublishedValue& value) {
  if (!IsTopic(value.name.topic)) {
    return Bad("steps.values.topic",
               "topic '" + CleanUtf8(value.name.topic, kNameBytesMax) +
                   "' is no name of a topic: lower-case letters, digits and '_', and perhaps '@' and a name");
  }
  if (!IsName(value.name.module) || !IsName(value.name.param) || !IsName(value.unit)) {
    return Bad("steps.values.module", "module, param and unit are UTF-8 of at most 255 bytes");
  }
  if (BytesOf(value.value) - sizeof(Value) > Publisher::kValueBytesMax) {
    return Bad("steps.values.value", "a value of topic '" + value.name.topic + "' is larger than 1 MiB");
  }
  if (!IsSound(value.value)) {
    return Bad("steps.values.value", "a value of topic '" + value.name.topic +
                                         "' does not fit itself: its text is not UTF-8, its sizes are not those of its "
                                         "elements, or its counts do not add up or lie between no two numbers");
  }
  return {};
}

// What the values say of each other: of a series there is one type and one unit, and of anything but texts
// one value a step.
std::optional<Failure> CheckTogether(const PublishRequest& request) {
  std::map<SeriesName, std::pair<ValueType, std::string>> kinds;
  std::set<std::pair<SeriesName, uint64_t>> there;
  for (const PublishedStep& step : request.steps) {
    for (const PublishedValue& value : step.values) {
      SeriesName name = NameOf(step, value);
      const ValueType type = TypeOf(value.value);
      const auto& kind = kinds.try_emplace(name, type, value.unit).first->second;
      if (kind.first != type) {
        return Bad("steps.values.value", "values of topic '" + value.name.topic + "' are of different types");
      }
      if (kind.second != value.unit) {
        return Bad("steps.values.unit", "values of topic '" + value.name.topic + "' are of different units");
      }
      if (type == ValueType::kText || there.emplace(std::move(name), step.stamp.step).second) continue;
      return Bad("steps.values", "topic '" + value.name.topic + "' has two values at step " +
                                     std::to_string(step.stamp.step) + " of one series; give each a param of its own");
    }
  }
  return {};
}

constexpr std::string_view kPublishes = " publishes topic '";

std::string BehindTopic(const RunKey& run) { return "' to run " + Describe(run) + "."; }

}  // namespace

std::string PublishedText(const std::string& publisher, const std::string& topic, const RunKey& run) {
  return publisher + std::string(kPublishes) + topic + BehindTopic(run);
}

// A trainer may say anything of itself, but it has a process.
bool IsOwnRunOf(const Caller& caller, const ProducerInfo& info) {
  const std::pair<std::string, std::string> mark{kPublisherFact, caller.name};
  return info.pid == 0 && std::find(info.facts.begin(), info.facts.end(), mark) != info.facts.end();
}

// A topic has no quotes; the names of publishers and runs may have anything.
std::optional<std::pair<std::string, std::string>> ParsePublished(const Event& event) {
  const std::string behind = BehindTopic(event.run);
  if (event.kind != kPublished || !event.text.ends_with(behind)) return {};
  const std::string before = event.text.substr(0, event.text.size() - behind.size());
  const size_t at = before.rfind(kPublishes);
  if (at == std::string::npos) return {};
  return std::pair(before.substr(0, at), before.substr(at + kPublishes.size()));
}

bool IsName(const std::string& text) { return text.size() <= kNameBytesMax && IsValidUtf8(text); }

Failure Bad(const std::string& field, std::string text) {
  return {ErrorCode::kInvalidArgument, std::move(text), Reason::kBadField, field};
}

SeriesName NameOf(const PublishedStep& step, const PublishedValue& value) {
  SeriesName name = value.name;
  name.timeline = step.timeline;
  return name;
}

std::optional<Failure> CheckValues(const PublishRequest& request) {
  if (request.steps.empty() && !request.end) return Bad("steps", "steps is empty: there is nothing to publish");
  for (const PublishedStep& step : request.steps) {
    if (step.values.empty()) return Bad("steps.values", "a step has no values");
    // Beyond it no store keeps a step.
    if (step.stamp.step > INT64_MAX) {
      return Bad("steps.step", "step " + std::to_string(step.stamp.step) + " is above 2^63 - 1");
    }
    if (!IsName(step.timeline.root) || !IsName(step.timeline.tag)) {
      return Bad("steps.root", "root and tag are UTF-8 of at most 255 bytes");
    }
    for (const PublishedValue& value : step.values) {
      if (std::optional<Failure> bad = CheckValue(value)) return bad;
    }
  }
  return CheckTogether(request);
}

}  // namespace ikkuna
