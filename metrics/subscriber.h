// Subscriber: what turns messages into numbers, and the static table that describes every kind of it.
//
// The graph owns the instances and calls them on one thread; nothing here knows of rings, sinks or clients. Views and
// texts of an Input are valid inside the call only: what a subscriber needs later it reduces or copies.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "shared/base/result.h"
#include "shared/codes.h"
#include "shared/stats/tensor_stats.h"

namespace ikkuna::metrics {

// A tensor in host memory, row-major without gaps; need not be aligned. `data` may be null when it has no elements.
struct TensorView {
  const void* data = nullptr;
  DType dtype = DType::kInvalid;
  std::span<const int64_t> sizes;  // empty: one element
  uint64_t elements = 0;           // product of the sizes
};

// One message, or all messages of a series and step merged, as a subscriber sees it.
struct Input {
  size_t index = 0;                    // which of the subscriber's inputs
  Kind kind = Kind::kInvalid;          // kInvalid: a topic
  std::string_view module;             // dotted path; empty for META
  uint16_t call = 0;                   // 0 when merged
  uint16_t micro = 0;                  // 0 when merged
  const TensorStats* stats = nullptr;  // Content::kStatistics
  const TensorView* tensor = nullptr;  // Content::kTensor
  double scalar = 0;                   // Content::kScalar
  std::string_view text;               // Content::kText
};
using Bundle = std::span<const Input>;

struct StepInfo {
  uint64_t global_step = 0;
  uint32_t epoch = 0;
};

// Where results go; the graph knows which series is meant.
class Publisher {
 public:
  virtual void Publish(double value) = 0;  // NaN and infinities are data
  virtual void PublishText(std::string_view text) = 0;
  virtual void PublishEvent(std::string text) = 0;  // one sentence for a person
  virtual void Incomplete() = 0;                    // something that belongs to the result never came: counted

 protected:
  ~Publisher() = default;
};

class Subscriber {
 public:
  virtual ~Subscriber() = default;
  // Delivery::kMerged: one bundle with all inputs, once a step; keeps nothing, for one instance serves all series.
  // Delivery::kEachMessage: a bundle of one, in the order of arrival; what is published here is not kept, for the step
  // may turn out not to be whole.
  virtual void Compute(Bundle bundle, Publisher& publisher) = 0;
  // Delivery::kEachMessage: the step is whole, publish.
  virtual void StepClosed(const StepInfo& step, Publisher& publisher) {
    static_cast<void>(step);
    static_cast<void>(publisher);
  }
  // Delivery::kEachMessage: forget everything; the next call belongs to another series or step.
  virtual void Reset() {}
};

// What of a message a subscriber reads. Only kTensor needs the tensor itself to travel.
enum class Content : uint8_t { kStatistics = 1, kTensor = 2, kScalar = 3, kText = 4 };

enum class Delivery : uint8_t {
  kMerged = 1,       // statistics of all calls and micro-batches of a step as if concatenated; or a topic's value
  kEachMessage = 2,  // every message, then StepClosed()
};

// What one result is about.
enum class Scope : uint8_t {
  kSeries = 1,  // a module and parameter (or a logged name); one instance each
  kModule = 2,  // one bundle of all inputs for each module: a synchronized subscription
  kRoot = 3,    // the step as a whole: the result is META
};

// A subscriber with its parameters settled.
struct Definition {
  Content content = Content::kStatistics;
  Delivery delivery = Delivery::kMerged;
  Scope scope = Scope::kSeries;
  std::string topic;                // [a-z0-9_]+, without @name
  std::vector<std::string> values;  // of the parameters, in the one way they are written
  bool numbers = true;              // false: texts or events, which no other subscriber can take
  std::function<std::unique_ptr<Subscriber>()> create;
};

struct Parameter {
  std::string_view name;
  std::string_view default_value;
  std::string_view help = {};
};

enum class Cost : uint8_t { kCheap = 1, kHeavy = 2 };
std::string_view CostName(Cost cost);

enum class Inputs : uint8_t {
  kNumbers = 1,  // kinds that carry tensors or scalars, or topics
  kTopics = 2,   // results of other subscribers
};

// One line of the catalogue.
struct Descriptor {
  std::string_view name;
  std::span<const Parameter> parameters = {};
  Inputs accepts = Inputs::kNumbers;
  size_t inputs_min = 1;  // that the written form must name
  size_t inputs_max = 1;
  std::span<const Kind> default_inputs = {};  // taken when the written form names none
  std::string_view publishes = {};            // pattern of the topic, such as "{kind}_norm{order}"
  std::string_view unit = {};
  Cost cost = Cost::kCheap;
  std::string_view help = {};
  std::string_view default_tag = "default";
  // `inputs`: names of kinds and topics, without @name. `values`: as written, in the order of `parameters`.
  // kInvalidArgument names the parameter and what it may be.
  Result<Definition> (*define)(std::span<const std::string> inputs, std::span<const std::string> values) = nullptr;
};

// Every metric there is, by name. Static.
std::span<const Descriptor* const> Descriptors();
const Descriptor* FindDescriptor(std::string_view name);

}  // namespace ikkuna::metrics
