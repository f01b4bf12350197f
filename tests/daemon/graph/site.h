// A graph of one producer with hand-made messages, and what it emits by name.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <deque>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "daemon/graph/graph.h"
#include "daemon/graph/memory_budget.h"
#include "daemon/graph/subscriber_set.h"
#include "daemon/graph/work_queue.h"
#include "daemon/model/missing.h"
#include "shared/base/clock.h"
#include "shared/passes.h"
#include "shared/record_check.h"
#include "shared/stats/stats_pass.h"
#include "tests/watchdog.h"

namespace ikkuna::graph {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// module/param topic, such as "fc1.weight/weights_mean"; "loss" without a module.
using Published = std::map<std::string, std::map<uint64_t, double>>;

struct Where {
  uint16_t root = 1;
  uint16_t tag = kTagDefault;
  uint64_t step = 0;
};

class Site {
 public:
  static constexpr uint32_t kFc1 = 1, kFc2 = 2, kOther = 3;         // modules; kOther is of root 2
  static constexpr uint32_t kW1 = 1, kB1 = 2, kW2 = 3, kExtra = 4;  // params
  static constexpr uint32_t kAlpha = 1, kBeta = 2;                  // logged names

  // `texts`: subscribed before the graph is made. The registry has two modules of root 1 and one of root 2.
  explicit Site(const std::vector<std::string>& texts = {}, uint64_t memory_bytes = 1 << 20) : memory(memory_bytes) {
    for (const std::string& text : texts) Subscribe(text);
    ProducerInfo info;
    info.run_key = {"run", 0, 0};
    info.run = "fashion";
    run = std::make_shared<Run>(info);
    MakeGraphs();
  }
  // A graph with `parts`, in the place of the one before.
  void MakeGraphs(std::function<void(const Run&, const Event&, const Action&)> act = nullptr) {
    GraphParts parts{&set, &queue, &memory, nullptr, std::move(act)};
    if (step_bytes_max != 0) parts.step_bytes_max = step_bytes_max;
    graph = MakeGraph(parts)(run, [this](Batch batch) { Keep(std::move(batch)); });
    graph->AddRegistry({Root(1, "model"), Root(2, "model1"), Module(kFc1, 1, "fc1", "Linear"),
                        Module(kFc2, 1, "fc2", "Linear"), Module(kOther, 2, "other", "Conv2d"),
                        Param(kW1, kFc1, "weight"), Param(kB1, kFc1, "bias"), Param(kW2, kFc2, "weight"),
                        Param(kExtra, kFc2, "weight_hh"), Name(kAlpha, "alpha"), Name(kBeta, "beta")});
    graph->Refresh();
  }

  std::vector<SubscriberInfo> Subscribe(const std::string& text, Source source = Source::kClient) {
    auto added = set.Add(text, source);
    EXPECT_TRUE(added.ok()) << (added.ok() ? "" : added.error().text);
    return added.ok() ? std::move(added->subscribers) : std::vector<SubscriberInfo>{};
  }

  // --- What came to nothing.
  uint64_t missing(MissReason reason) const {
    for (const Count& count : graph->Missing()) {
      if (count.reason == MissReasonName(reason)) return count.count;
    }
    return 0;
  }
  // Of the subscriber that was added as the `number`-th, from 1.
  SubscriberInfo info(uint64_t number) const {
    for (const SubscriberInfo& one : set.List()) {
      if (one.id == number) return one;
    }
    ADD_FAILURE() << "no subscriber " << number;
    return {};
  }
  void RemoveTopic(const std::string& topic) {
    const auto removed = set.Remove({SubscriberChoice::By::kTopic, 0, topic});
    EXPECT_TRUE(removed.ok()) << (removed.ok() ? "" : removed.error().text);
  }
  // Waits until `done`; a watchdog, no figure.
  template <typename Done>
  bool WaitUntil(Done done) {
    for (const uint64_t end = MonotonicNs() + static_cast<uint64_t>(std::chrono::nanoseconds(test::kWatchdog).count());
         MonotonicNs() < end; ::usleep(1000)) {
      graph->Tick(MonotonicNs());
      if (done()) return true;
    }
    return false;
  }
  bool Settled() {
    return WaitUntil([this] { return graph->done_seq() == seq; });
  }

  // --- Registry entries.
  static shm::RegistryEntry Root(uint16_t id, const std::string& name) {
    shm::RegistryEntry entry;
    entry.type = shm::EntryType::kRoot;
    entry.id = id;
    entry.name = name;
    return entry;
  }
  static shm::RegistryEntry Tag(uint16_t id, const std::string& name) {
    shm::RegistryEntry entry = Root(id, name);
    entry.type = shm::EntryType::kTag;
    return entry;
  }
  static shm::RegistryEntry Module(uint32_t id, uint16_t root, const std::string& name, const std::string& type) {
    shm::RegistryEntry entry;
    entry.type = shm::EntryType::kModule;
    entry.id = id;
    entry.root = root;
    entry.name = name;
    entry.second = type;
    return entry;
  }
  static shm::RegistryEntry Param(uint32_t id, uint32_t module, const std::string& name) {
    shm::RegistryEntry entry;
    entry.type = shm::EntryType::kParam;
    entry.id = id;
    entry.parent = module;
    entry.name = name;
    return entry;
  }
  static shm::RegistryEntry Name(uint32_t id, const std::string& name) {
    shm::RegistryEntry entry;
    entry.type = shm::EntryType::kName;
    entry.id = id;
    entry.name = name;
    return entry;
  }

  // --- Messages. `seq` goes up by one each; `dropped` is what the producer has dropped so far.
  shm::Message Marker(Kind kind, const Where& where) { return Make(RecordType::kMarker, kind, where); }
  shm::Message Scalar(Kind kind, const Where& where, double value, uint32_t param = 0) {
    shm::Message message = Make(RecordType::kScalar, kind, where);
    message.record.param = param;
    message.record.scalar = value;
    return message;
  }
  shm::Message Text(const Where& where, const std::string& text, uint32_t param) {
    shm::Message message = Make(RecordType::kText, Kind::kText, where);
    message.record.param = param;
    message.record.text.length = static_cast<uint32_t>(text.size());
    std::memcpy(message.record.text.bytes, text.data(), text.size());
    return message;
  }
  shm::Message Summary(Kind kind, const Where& where, uint32_t module, uint32_t param,
                       const std::vector<double>& values) {
    shm::Message message = Make(RecordType::kSummary, kind, where);
    message.record.module = module;
    message.record.param = param;
    message.record.dtype = static_cast<uint8_t>(DType::kF64);
    message.record.ndim = 1;
    message.record.sizes[0] = static_cast<int64_t>(values.size());
    message.record.stats = ComputeStats(values.data(), DType::kF64, values.size());
    return message;
  }
  shm::Message Tensor(Kind kind, const Where& where, uint32_t module, uint32_t param, const std::vector<double>& values,
                      std::vector<int64_t> sizes = {}) {
    if (sizes.empty()) sizes = {static_cast<int64_t>(values.size())};
    payloads_.push_back(values);
    return Payload(kind, where, module, param, DType::kF64, payloads_.back().data(), values.size() * 8, sizes);
  }
  shm::Message Labels(const Where& where, const std::vector<int64_t>& labels) {
    labels_.push_back(labels);
    return Payload(Kind::kInputLabels, where, 0, 0, DType::kI64, labels_.back().data(), labels.size() * 8,
                   {static_cast<int64_t>(labels.size())});
  }
  static shm::Message At(shm::Message message, uint32_t pass, uint16_t call) {
    message.record.pass = pass;
    message.record.call = call;
    return message;
  }

  // `lowest`: the lowest pass that is open; 0: not told. `before`: named of this step already.
  shm::Message Naming(Kind kind, const Where& where, const std::vector<uint32_t>& passes, uint32_t lowest = 0,
                      uint32_t before = 0) {
    shm::Message message = Marker(kind, where);
    shm::MarkerInfo& marker = message.record.marker;
    for (const uint32_t pass : passes) EXPECT_TRUE(shm::NamePass(marker, pass)) << pass;
    marker.lowest_open = lowest;
    marker.passes = before + static_cast<uint32_t>(passes.size());
    return message;
  }

  void Handle(const shm::Message& message) {
    if (message.record.type == static_cast<uint8_t>(RecordType::kMarker)) {
      EXPECT_STREQ(shm::CheckRecord(message.record), nullptr);
    }
    graph->Handle(message);
  }
  void StartPass(const Where& where, uint32_t pass) {
    shm::Message message = Marker(Kind::kPassStarted, where);
    message.record.pass = pass;
    Handle(message);
  }
  void Name(const Where& where, const std::vector<uint32_t>& passes, uint32_t lowest = 0, uint32_t before = 0) {
    Handle(Naming(Kind::kPassesNamed, where, passes, lowest, before));
  }
  void Finish(const Where& where, const std::vector<uint32_t>& passes, uint32_t lowest = 0, uint32_t before = 0) {
    Handle(Naming(Kind::kBatchFinished, where, passes, lowest, before));
  }
  void Start(const Where& where) { Handle(Marker(Kind::kBatchStarted, where)); }
  void Finish(const Where& where) { Handle(Marker(Kind::kBatchFinished, where)); }

  // Everything emitted so far, of root "model" and tag "default" unless the name says otherwise: "test:loss",
  // "model1:loss".
  const Published& published() const { return published_; }
  double value(const std::string& name, uint64_t step) const {
    const auto series = published_.find(name);
    if (series == published_.end() || !series->second.count(step)) {
      ADD_FAILURE() << name << " has no value at step " << step;
      return kNan;
    }
    return series->second.at(step);
  }
  // Of a value that is there.
  uint16_t flags_of(const std::string& name, uint64_t step) const {
    static_cast<void>(value(name, step));
    const auto series = flags_.find(name);
    return series == flags_.end() || !series->second.count(step) ? uint16_t{0} : series->second.at(step);
  }
  bool has(const std::string& name, uint64_t step) const {
    const auto series = published_.find(name);
    return series != published_.end() && series->second.count(step) != 0;
  }
  void Forget() {
    published_.clear();
    flags_.clear();
    batches.clear();
    events.clear();
  }

  // In the order in which they must end.
  SubscriberSet set;
  MemoryBudget memory;
  WorkQueue queue{2, 0};
  std::shared_ptr<Run> run;
  std::vector<Batch> batches;
  std::vector<Event> events;
  std::vector<std::string> texts;
  std::vector<std::pair<std::string, Value>> others;
  uint64_t step_bytes_max = 0;  // of the next graph; 0: as it is
  uint64_t seq = 0;
  uint64_t dropped = 0;
  uint64_t time_ns = 1'000'000;
  uint16_t flags = 0;
  uint32_t epoch = 3;

 private:
  shm::Message Make(RecordType type, Kind kind, const Where& where) {
    shm::Message message;
    shm::Record& record = message.record;
    record.seq = ++seq;
    record.time_ns = time_ns += 1000;
    record.global_step = where.step;
    record.dropped_total = dropped;
    record.root = static_cast<uint8_t>(where.root);
    record.tag = static_cast<uint8_t>(where.tag);
    record.epoch = epoch;
    record.flags = flags;
    record.type = static_cast<uint8_t>(type);
    record.kind = static_cast<uint8_t>(kind);
    record.space = static_cast<uint8_t>(Space::kInline);
    return message;
  }
  shm::Message Payload(Kind kind, const Where& where, uint32_t module, uint32_t param, DType dtype, const void* data,
                       size_t bytes, const std::vector<int64_t>& sizes) {
    shm::Message message = Make(RecordType::kTensor, kind, where);
    shm::Record& record = message.record;
    record.module = module;
    record.param = param;
    record.dtype = static_cast<uint8_t>(dtype);
    record.space = static_cast<uint8_t>(Space::kHostArena);
    record.ndim = static_cast<uint8_t>(sizes.size());
    for (size_t i = 0; i < sizes.size(); ++i) record.sizes[i] = sizes[i];
    record.payload = {0, bytes, 0, 0};
    message.payload = static_cast<const unsigned char*>(data);
    message.payload_bytes = bytes;
    return message;
  }
  // Checks that the series is of the step's timeline.
  std::string NameOf(uint32_t id, const Batch& batch) const {
    const auto series = run->series().Find(id);
    EXPECT_NE(series, nullptr) << id;
    if (!series) return "";
    EXPECT_EQ(series->timeline, batch.stamp.timeline);
    const SeriesName& key = series->name;
    std::string name;
    if (key.timeline.tag != "default") name += key.timeline.tag + ":";
    if (key.timeline.root != "model") name += key.timeline.root + ":";
    if (!key.module.empty() || !key.param.empty()) name += key.module;
    if (!key.param.empty()) name += "." + key.param;
    return name + (name.empty() || name.back() == ':' ? "" : "/") + key.topic;
  }
  void Keep(Batch batch) {
    EXPECT_EQ(batch.run, run);
    EXPECT_FALSE(batch.progress.has_value());
    for (const Sample& sample : batch.samples) {
      const std::string name = NameOf(sample.series, batch);
      EXPECT_TRUE(published_[name].emplace(batch.stamp.step, sample.value).second)
          << name << " twice at step " << batch.stamp.step;
      flags_[name][batch.stamp.step] = sample.flags;
    }
    for (const OtherValue& other : batch.others) {
      const std::string name = NameOf(other.series, batch);
      if (const ikkuna::Text* text = std::get_if<ikkuna::Text>(&other.value)) {
        texts.push_back(name + "=" + text->text);
      } else {
        others.emplace_back(name, other.value);
      }
    }
    for (const Event& event : batch.events) events.push_back(event);
    batches.push_back(std::move(batch));
  }

  Published published_;
  std::map<std::string, std::map<uint64_t, uint16_t>> flags_;  // of published_
  std::deque<std::vector<double>> payloads_;  // outlive the call that they are handed to
  std::deque<std::vector<int64_t>> labels_;

 public:
  std::unique_ptr<MessageGraph> graph;  // ends first: what it emits then comes to all of these
};

}  // namespace ikkuna::graph
