// Metrics that only tests subscribe: they wait, keep state, throw, hold their results, or give values of every type.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "metrics/subscriber.h"
#include "tests/watchdog.h"

namespace ikkuna::graph {

using metrics::Content;
using metrics::Definition;
using metrics::Delivery;
using metrics::Descriptor;
using metrics::Input;
using metrics::Keeps;
using metrics::Output;
using metrics::Payload;
using metrics::Results;
using metrics::ResultsRef;
using metrics::Runs;
using metrics::Scope;
using metrics::StepInfo;
using metrics::Subscriber;

// A door that a subscriber stands before until a test opens it.
class Door {
 public:
  void Open() {
    std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  void Close() {
    std::lock_guard lock(mutex_);
    open_ = false;
    inside_ = 0;
  }
  void Pass() {
    std::unique_lock lock(mutex_);
    ++inside_;
    changed_.notify_all();
    changed_.wait_for(lock, test::kWatchdog, [this] { return open_; });
  }
  void WaitForOne() {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, test::kWatchdog, [this] { return inside_ != 0; }));
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = true;
  int inside_ = 0;
};

inline Door door;
inline std::atomic<int> calls{0};
inline std::vector<ResultsRef> held;  // by "holder"; the tests' thread only

inline double SumOf(const Payload& payload) {
  double sum = 0;
  for (uint64_t i = 0; i < payload.view.elements; ++i) sum += static_cast<const double*>(payload.view.data)[i];
  return sum;
}

// Sum of each message, behind the door.
class Heavy : public Subscriber {
 public:
  void OnMessage(const Input&, const Payload* payload) override {
    EXPECT_NE(payload->bytes, nullptr);
    door.Pass();
    ++calls;
    sum_ += SumOf(*payload);
  }
  void OnStep(const StepInfo&, std::span<const Input> inputs, const ResultsRef& results) override {
    results->Put(inputs[0].subject, sum_);
  }
  void Reset() override { sum_ = 0; }

 private:
  double sum_ = 0;
};

// Number of steps so far, and the sum of all there was.
class Total : public Subscriber {
 public:
  void OnMessage(const Input&, const Payload* payload) override { step_ += payload != nullptr ? SumOf(*payload) : 0; }
  void OnStep(const StepInfo&, std::span<const Input> inputs, const ResultsRef& results) override {
    total_ += step_;
    step_ = 0;
    const auto subject = inputs.empty() ? metrics::Subject{} : inputs[0].subject;
    results->Put(0, subject, static_cast<double>(++steps_));
    results->Put(1, subject, total_);
  }
  void Reset() override { ADD_FAILURE() << "state for the run was reset"; }

 private:
  double step_ = 0, total_ = 0;
  uint64_t steps_ = 0;
};

// The digits of a step's messages, in the order in which they are given.
class Sequence : public Subscriber {
 public:
  void OnMessage(const Input&, const Payload* payload) override { digits_ = 10 * digits_ + SumOf(*payload); }
  void OnStep(const StepInfo&, std::span<const Input> inputs, const ResultsRef& results) override {
    results->Put(inputs[0].subject, std::exchange(digits_, 0));
  }
  void Reset() override { digits_ = 0; }

 protected:
  double digits_ = 0;
};
// That know their passes one by one.
class MergedSequence : public Sequence {
 public:
  void Merge(Subscriber& pass) override {
    const double more = static_cast<MergedSequence&>(pass).digits_;
    for (double rest = more; rest >= 1; rest /= 10) digits_ *= 10;
    digits_ += more;
  }
};
// Numbers of a topic one behind another, as digits.
class Digits : public Subscriber {
 public:
  void OnStep(const StepInfo&, std::span<const Input> inputs, const ResultsRef& results) override {
    digits_ = digits_ * 10 + inputs[0].scalar;
    results->Put(inputs[0].subject, digits_);
  }
  void Reset() override { ADD_FAILURE() << "state for the run was reset"; }

 private:
  double digits_ = 0;
};

class Thrower : public Subscriber {
 public:
  void OnStep(const StepInfo& step, std::span<const Input> inputs, const ResultsRef& results) override {
    if (step.global_step == 2) throw std::runtime_error("no such matrix");
    results->Put(inputs[0].subject, 1.0);
  }
};
class MessageThrower : public Subscriber {
 public:
  void OnMessage(const Input&, const Payload*) override { throw 7; }
  void OnStep(const StepInfo&, std::span<const Input>, const ResultsRef&) override {}
};

class ResetThrower : public Subscriber {
 public:
  void OnMessage(const Input&, const Payload*) override {}
  void OnStep(const StepInfo&, std::span<const Input>, const ResultsRef&) override {}
  void Reset() override { throw std::runtime_error("cannot forget"); }
};

class Holder : public Subscriber {
 public:
  void OnStep(const StepInfo&, std::span<const Input> inputs, const ResultsRef& results) override {
    results->Put(inputs[0].subject, 1.0);  // at once
    held.push_back(results);
  }
};

// All types, several outputs.
class Everything : public Subscriber {
 public:
  void OnStep(const StepInfo&, std::span<const Input> inputs, const ResultsRef& results) override {
    const auto subject = inputs[0].subject;
    Histogram histogram;
    histogram.max = 2;
    histogram.n = 3;
    histogram.counts = {1, 2};
    results->Put(0, subject, 1.5);
    results->Put(1, subject, histogram);
    results->Put(2, subject, TensorValue{TensorValue::Form::kMatrix, {1, 2}, {3, 4}});
    results->Put(3, subject, Text{"said"});
    results->Put(3, subject, Text{"twice"});
    results->Put(0, subject, 2.5);      // the last counts
    results->Put(0, subject, Text{});   // of another type
    results->Put(4, subject, 1.0);      // no such output
    results->Put(0, {77'000, 1}, 1.0);  // about nobody
  }
};

class HistogramSize : public Subscriber {
 public:
  void OnStep(const StepInfo&, std::span<const Input> inputs, const ResultsRef& results) override {
    for (const Input& input : inputs) {
      const auto* histogram = std::get_if<Histogram>(input.value);
      results->Put(input.subject, histogram == nullptr ? -1.0 : static_cast<double>(histogram->n));
    }
  }
};

class LastOf : public Subscriber {
 public:
  void OnStep(const StepInfo&, std::span<const Input> inputs, const ResultsRef& results) override {
    results->Put(inputs[0].subject, inputs[0].scalar);
  }
};

// Sums of the last tensors of both inputs of a module.
class LastPair : public Subscriber {
 public:
  void OnStep(const StepInfo&, std::span<const Input> inputs, const ResultsRef& results) override {
    EXPECT_EQ(inputs.size(), 2u);
    double sum = 0;
    for (const Input& input : inputs) {
      EXPECT_NE(input.payload->bytes, nullptr);
      sum += (input.index + 1) * SumOf(*input.payload);
    }
    results->Put({inputs[0].subject.module, 0}, sum);
  }
};

class Actor : public Subscriber {
 public:
  void OnStep(const StepInfo&, std::span<const Input> inputs, const ResultsRef& results) override {
    for (const Input& input : inputs) {
      results->Raise(Severity::kInfo, "is settled: " + std::string(input.module),
                     Action{Action::Type::kFreeze, std::string(input.module), 1, ""});
    }
  }
};

template <typename T>
Definition Make(std::span<const std::string> inputs, const char* name) {
  Definition d;
  d.topic = inputs[0] + "_" + name;
  d.create = [] { return std::make_unique<T>(); };
  return d;
}

using Written = std::span<const std::string>;

inline const Descriptor kTestMetrics[] = {
    {.name = "heavy",
     .publishes = "{kind}_heavy",
     .help = "-",
     .define = [](Written inputs, Written) -> Result<Definition> {
       Definition d = Make<Heavy>(inputs, "heavy");
       d.content = Content::kTensor;
       d.delivery = Delivery::kEachMessage;
       d.runs = Runs::kQueue;
       return d;
     }},
    {.name = "total",
     .publishes = "{kind}_total",
     .help = "-",
     .define = [](Written inputs, Written) -> Result<Definition> {
       Definition d = Make<Total>(inputs, "total");
       d.content = Content::kTensor;
       d.delivery = Delivery::kEachMessage;
       d.keeps = Keeps::kRun;
       d.outputs = {{.suffix = "_steps"}, {.suffix = "_sum"}};
       return d;
     }},
    {.name = "queued_total",
     .publishes = "{kind}_queued_total",
     .help = "-",
     .define = [](Written inputs, Written) -> Result<Definition> {
       Definition d = Make<Total>(inputs, "queued_total");
       d.content = Content::kTensor;
       d.delivery = Delivery::kEachMessage;
       d.runs = Runs::kQueue;
       d.keeps = Keeps::kRun;
       d.outputs = {{.suffix = "_steps"}, {.suffix = "_sum"}};
       return d;
     }},
    {.name = "sequence",  // all at the end of the step
     .publishes = "{kind}_sequence",
     .help = "-",
     .define = [](Written inputs, Written) -> Result<Definition> {
       Definition d = Make<Sequence>(inputs, "sequence");
       d.content = Content::kTensor;
       d.delivery = Delivery::kEachMessage;
       d.keeps = Keeps::kRun;
       return d;
     }},
    {.name = "merged_sequence",  // as they come
     .publishes = "{kind}_merged_sequence",
     .help = "-",
     .define = [](Written inputs, Written) -> Result<Definition> {
       Definition d = Make<MergedSequence>(inputs, "merged_sequence");
       d.content = Content::kTensor;
       d.delivery = Delivery::kEachMessage;
       return d;
     }},
    {.name = "unmerged",
     .publishes = "{kind}_unmerged",
     .help = "-",
     .define = [](Written inputs, Written) -> Result<Definition> {
       Definition d = Make<Sequence>(inputs, "unmerged");
       d.content = Content::kTensor;
       d.delivery = Delivery::kEachMessage;
       return d;
     }},
    {.name = "last",
     .publishes = "{kind}_last",
     .help = "-",
     .define = [](Written inputs, Written) -> Result<Definition> {
       Definition d = Make<Sequence>(inputs, "last");
       d.content = Content::kScalar;
       d.delivery = Delivery::kLast;
       d.create = [] { return std::make_unique<LastOf>(); };
       return d;
     }},
    {.name = "digits",
     .accepts = metrics::Inputs::kTopics,
     .publishes = "{topic}_digits",
     .help = "-",
     .define = [](Written inputs, Written) -> Result<Definition> {
       Definition d = Make<Digits>(inputs, "digits");
       d.content = Content::kScalar;
       d.keeps = Keeps::kRun;
       return d;
     }},
    {.name = "thrower",
     .publishes = "{kind}_thrower",
     .help = "-",
     .define = [](Written inputs, Written) -> Result<Definition> { return Make<Thrower>(inputs, "thrower"); }},
    {.name = "queued_thrower",
     .publishes = "{kind}_queued_thrower",
     .help = "-",
     .define = [](Written inputs, Written) -> Result<Definition> {
       Definition d = Make<Thrower>(inputs, "queued_thrower");
       d.runs = Runs::kQueue;
       return d;
     }},
    {.name = "message_thrower",
     .publishes = "{kind}_message_thrower",
     .help = "-",
     .define = [](Written inputs, Written) -> Result<Definition> {
       Definition d = Make<MessageThrower>(inputs, "message_thrower");
       d.delivery = Delivery::kEachMessage;
       return d;
     }},
    {.name = "reset_thrower",
     .publishes = "{kind}_reset_thrower",
     .help = "-",
     .define = [](Written inputs, Written) -> Result<Definition> {
       Definition d = Make<ResetThrower>(inputs, "reset_thrower");
       d.delivery = Delivery::kEachMessage;
       return d;
     }},
    {.name = "holder",
     .publishes = "{kind}_holder",
     .help = "-",
     .define = [](Written inputs, Written) -> Result<Definition> { return Make<Holder>(inputs, "holder"); }},
    {.name = "fed_holder",
     .publishes = "{kind}_fed_holder",
     .help = "-",
     .define = [](Written inputs, Written) -> Result<Definition> {
       Definition d = Make<Holder>(inputs, "fed_holder");
       d.delivery = Delivery::kEachMessage;
       return d;
     }},
    {.name = "everything",
     .publishes = "{kind}_everything",
     .help = "-",
     .define = [](Written inputs, Written) -> Result<Definition> {
       Definition d = Make<Everything>(inputs, "everything");
       d.outputs = {{.unit = "m"},
                    {.suffix = "_histogram", .type = ValueType::kHistogram},
                    {.suffix = "_tensor", .type = ValueType::kTensor},
                    {.suffix = "_text", .type = ValueType::kText}};
       return d;
     }},
    {.name = "histogram_size",
     .accepts = metrics::Inputs::kTopics,
     .publishes = "{topic}_size",
     .help = "-",
     .define = [](Written inputs, Written) -> Result<Definition> {
       Definition d = Make<HistogramSize>(inputs, "size");
       d.content = Content::kValue;
       d.takes = metrics::TypeBit(ValueType::kHistogram);
       return d;
     }},
    {.name = "last_pair",
     .inputs_min = 2,
     .inputs_max = 2,
     .publishes = "{kind}_last_pair",
     .help = "-",
     .define = [](Written inputs, Written) -> Result<Definition> {
       Definition d = Make<LastPair>(inputs, "last_pair");
       d.content = Content::kTensor;
       d.delivery = Delivery::kLast;
       d.scope = Scope::kModule;
       return d;
     }},
    {.name = "actor",
     .publishes = "{kind}_actor",
     .help = "-",
     .define = [](Written inputs, Written) -> Result<Definition> {
       Definition d = Make<Actor>(inputs, "actor");
       d.scope = Scope::kRoot;
       d.outputs = {};
       return d;
     }},
};

inline void RegisterTestMetrics() {
  for (const Descriptor& descriptor : kTestMetrics) {
    const Status added = metrics::RegisterDescriptor(descriptor);
    ASSERT_TRUE(added.ok() || added.error().code == ErrorCode::kAlreadyExists) << added.error().text;
  }
}

}  // namespace ikkuna::graph
