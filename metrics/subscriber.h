// Subscriber: what turns messages into values and events, and the static table that describes every kind of it.
//
// The graph owns the instances; nothing here knows of rings, sinks or clients. Thread rule: calls to one instance never
// overlap, but may come from another thread each time (Runs). Views and texts are valid inside the call only, but for a
// payload with `bytes`.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "metrics/event.h"
#include "metrics/value.h"
#include "shared/base/result.h"
#include "shared/codes.h"
#include "shared/stats/tensor_stats.h"

namespace ikkuna::metrics {

// A tensor, row-major without gaps; need not be aligned. `data` may be null when it has no elements.
struct TensorView {
  const void* data = nullptr;
  DType dtype = DType::kInvalid;
  std::span<const int64_t> sizes;  // empty: one element
  uint64_t elements = 0;           // product of the sizes
};

// The bytes of a message, ready to be read.
struct Payload {
  TensorView view;
  Space space = Space::kHostArena;  // kDevicePool: view.data is an address of that device
  int device = -1;                  // kDevicePool only
  // Null: valid during the call. Else as long as this is held, on any thread.
  std::shared_ptr<const void> bytes = nullptr;
};

// What a value is about: a module and parameter (or logged name), by numbers that whoever calls has given them; all 0:
// the step as a whole. Two inputs are about the same thing if their subjects are equal.
struct Subject {
  uint32_t module = 0;
  uint32_t param = 0;
  auto operator<=>(const Subject&) const = default;
};

// One message, or all messages of a series and step merged, or a value of another subscriber.
struct Input {
  size_t index = 0;            // which of the subscriber's inputs
  Kind kind = Kind::kInvalid;  // kInvalid: a topic
  Subject subject;
  std::string_view module;  // dotted path; empty for META
  std::string_view param;
  uint32_t rank = 0;                   // whose it is
  uint64_t seq = 0;                    // of the message, ascending as they were published; 0 when merged, or a topic
  uint32_t pass = 0;                   // 0 when merged, or of the step as a whole
  uint16_t call = 0;                   // 0 when merged
  uint16_t flags = 0;                  // RecordFlag
  const TensorStats* stats = nullptr;  // Content::kStatistics
  const Payload* payload = nullptr;    // Content::kTensor
  double scalar = 0;                   // Content::kScalar
  std::string_view text;               // Content::kText
  const Value* value = nullptr;        // Content::kValue
};

struct StepInfo {
  uint64_t global_step = 0;
  uint32_t epoch = 0;
  uint16_t flags = 0;         // RecordFlag, of the step as a whole
  int64_t unix_ns = 0;        // when it ended
  uint64_t samples_seen = 0;  // 0: unknown
  std::string_view root;
  std::string_view tag;
};

// Where the results of one step go. Any thread; may be kept, and used when the step is long over: the step counts as
// done when the last reference is gone.
class Results {
 public:
  virtual ~Results() = default;
  // A value of the definition's output `output`. NaN and infinities are data. A value of another type than the output's
  // is refused, and counted as incomplete. Of numbers the last of an output and subject counts; others all stay.
  virtual void Put(uint32_t output, Subject subject, Value value) = 0;
  // `text`: one sentence for a person, without the root's name.
  virtual void Raise(Severity severity, std::string text, std::optional<Action> action) = 0;
  // Something that belongs to the result never came: counted.
  virtual void Incomplete() = 0;
  // Nobody wants them any more: work that takes long should end.
  virtual bool cancelled() const = 0;

  void Put(Subject subject, Value value) { Put(0, subject, std::move(value)); }
};
using ResultsRef = std::shared_ptr<Results>;

class Subscriber {
 public:
  virtual ~Subscriber() = default;
  // Delivery::kEachMessage: one message (payload: that of Content::kTensor, else null). What is gathered here belongs
  // to the step, which may turn out not to be whole: state for the run changes in OnStep only.
  virtual void OnMessage(const Input& input, const Payload* payload) {
    static_cast<void>(input);
    static_cast<void>(payload);
  }
  // Delivery::kEachMessage at once: `pass` is of the same definition, and was fed with the messages of a pass of the
  // step (or this one was, and `pass` with another's). This one takes over what `pass` gathered, as if the messages had
  // come here; `pass` is reset afterwards. A step's passes come in ascending order, each whole, and not in the order in
  // which their messages came: Input::seq tells that. Whoever does not merge fails at the first step of two passes.
  virtual void Merge(Subscriber& pass);
  // The step is whole. Inputs:
  //   kMerged, kLast   everything of this instance's series, module or root (see Scope)
  //   kEachMessage     kSeries, kModule: one, which says what it is about and nothing else; kRoot: none
  // Messages that are kept for the end of the step come in ascending order of their passes, those of pass 0 first.
  virtual void OnStep(const StepInfo& step, std::span<const Input> inputs, const ResultsRef& results) = 0;
  // Of what it gathered, in memory, roughly; the object itself is not counted. What waits for its step is bounded by it.
  virtual uint64_t bytes() const { return 0; }
  // Keeps::kStep: forget everything, the next call belongs to another series or step; kMerged is not told, and keeps
  // nothing. Keeps::kRun: never, but the run may end; the messages of a step come right before its OnStep, and only of
  // steps that are whole.
  virtual void Reset() {}
};

// What of a message a subscriber reads. Only kTensor needs the tensor itself to travel. A number of another subscriber
// passes for each but kText: statistics of one element, a tensor of one element, a scalar.
enum class Content : uint8_t {
  kStatistics = 1,
  kTensor = 2,
  kScalar = 3,  // of messages that are scalars
  kText = 4,    // of messages that are texts
  kValue = 5,   // of topics, of the types that Definition::takes names
};

enum class Delivery : uint8_t {
  kMerged = 1,       // statistics of all calls and passes of a step as if concatenated; or a topic's value
  kEachMessage = 2,  // every message, then OnStep()
  kLast = 3,         // of each series the last message of the step, at its end; tensors as copies
};

// What one instance sees.
enum class Scope : uint8_t {
  kSeries = 1,  // one module and parameter (or logged name) of its only input
  // One module: kMerged pairs the inputs by parameter, and calls once for each pair that is complete, whose inputs all
  // have the pair's subject; else every message, or the last ones, of all inputs of the module, if each input has one.
  kModule = 2,
  kRoot = 3,  // the step as a whole, all series of all inputs
  kJob = 4,   // the step as a whole on all ranks of a run
};

// Where the calls come from.
enum class Runs : uint8_t {
  kInline = 1,  // the ingest thread, while a message's bytes are valid: may not take longer than the ring lasts
  kQueue = 2,   // a thread of a pool, when the step is whole: payloads are copies
  kStream = 3,  // the ingest thread; issues work on a device and completes later
};

enum class Keeps : uint8_t {
  kStep = 1,  // nothing beyond a step: instances are used again for others
  kRun = 2,   // one instance for each series, module, root or job, as long as the run lasts
};

struct Output {
  std::string suffix = {};  // behind the definition's topic: each output is a topic of its own
  ValueType type = ValueType::kNumber;
  std::string unit = {};
  // Nothing: as exact as what comes in; kSingle of tensors of 32 bits and less, else kDouble.
  std::optional<Precision> precision = {};
};

constexpr uint8_t TypeBit(ValueType type) { return static_cast<uint8_t>(1u << static_cast<uint8_t>(type)); }

// A subscriber with its parameters settled.
struct Definition {
  // A named maximum: eigenvalues, or quantiles, one by one.
  static constexpr size_t kMaxOutputs = 256;
  Content content = Content::kStatistics;
  // Of the statistics of messages (Moment set): what the result rests on beside the counts. Statistics that lack some of
  // it, since nobody asked when their step began, are as if they had not come.
  uint64_t moments = kAllMoments;
  Delivery delivery = Delivery::kMerged;
  Scope scope = Scope::kSeries;
  Runs runs = Runs::kInline;
  Keeps keeps = Keeps::kStep;
  uint8_t takes = TypeBit(ValueType::kNumber);  // types of topics that may flow in
  std::string topic;                            // [a-z0-9_]+, without @name
  std::vector<Output> outputs{Output{}};        // none: events only
  std::vector<std::string> values;              // of the parameters, in the one way they are written
  std::function<std::unique_ptr<Subscriber>()> create;
};

// What flows in: messages of so many kinds, values of so many topics.
struct InputCount {
  size_t kinds = 0;
  size_t topics = 0;
};
// Whether the parts of a definition make sense together; kInvalidArgument says in one sentence why not. The one place
// that knows.
Status CheckDefinition(const Definition& definition, InputCount inputs);

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

// One more than those that are built in; it stays to the end of the process. Call before anything is subscribed, on one
// thread. kAlreadyExists, or what is wrong with its definition (with its defaults).
Status RegisterDescriptor(const Descriptor& descriptor);

// Every metric there is, by name.
std::span<const Descriptor* const> Descriptors();
const Descriptor* FindDescriptor(std::string_view name);

}  // namespace ikkuna::metrics
