#include "daemon/graph/step_runner.h"

#include <algorithm>
#include <utility>

#include "shared/base/clock.h"
#include "shared/stats/stats_pass.h"

namespace ikkuna::graph {

namespace {

using metrics::Content;
using metrics::Delivery;
using metrics::Scope;

// What is true of the step as a whole, whenever its messages were published.
constexpr uint16_t kStepFlags = kFlagStepInferred | kFlagStepSkipped;

TensorStats StatsOfValue(double value) { return ComputeStats(&value, DType::kF64, 1); }

}  // namespace

// Turns what a subscriber publishes into samples of the series it is about.
class StepRunner::NodePublisher final : public metrics::Publisher {
 public:
  NodePublisher(StepRunner& runner, const Slot* slot, uint32_t input, const Origin& origin)
      : runner_(runner), slot_(slot), input_(input), origin_(origin) {}

  void Publish(double value) override {
    if (runner_.node_->consumed) runner_.state_->values.push_back({slot_, value, origin_});
    const uint64_t series = Series();
    if (series == 0) return;
    Sample sample;
    sample.series_id = series;
    sample.step = runner_.step_.global_step;
    sample.epoch = origin_.epoch;
    sample.flags = origin_.flags | runner_.step_flags_;
    sample.unix_ns = UnixNs();
    sample.samples_seen = runner_.samples_seen_;
    sample.value = value;
    runner_.batch_.samples.push_back(sample);
  }

  void PublishText(std::string_view text) override {
    const uint64_t series = Series();
    if (series == 0) return;
    runner_.batch_.texts.push_back({series, runner_.step_.global_step, UnixNs(), std::string(text)});
  }

  void PublishEvent(std::string text) override {
    const Frame& frame = *runner_.frame_;
    const uint64_t step = runner_.step_.global_step;
    const auto [last, first] =
        runner_.event_steps_.try_emplace({runner_.node_->entry->id, frame.root, frame.tag}, step);
    // A step below the last: the trainer counts anew.
    if (!first && step >= last->second && step - last->second < kEventEverySteps) return;
    last->second = step;
    Event event;
    event.unix_ns = UnixNs();
    event.severity = Severity::kWarning;
    event.run = runner_.run_;
    event.kind = runner_.node_->subscription().descriptor->name;
    event.text = frame.scene->root_name + ", " + std::move(text);
    event.step = step;
    runner_.batch_.events.push_back(std::move(event));
  }

  void Incomplete() override { runner_.CountIncomplete(1); }

 private:
  uint64_t Series() {
    return SeriesOf(*runner_.frame_->scene, *runner_.node_, slot_, input_, runner_.run_, runner_.catalogue_);
  }
  int64_t UnixNs() const { return static_cast<int64_t>(origin_.time_ns + runner_.unix_offset_); }

  StepRunner& runner_;
  const Slot* slot_;
  const uint32_t input_;
  const Origin& origin_;
};

Batch StepRunner::Run(Frame& frame, const shm::Record& finished, GraphCounters& counters) {
  frame_ = &frame;
  counters_ = &counters;
  batch_ = Batch();
  batch_.samples.reserve(samples_before_);
  step_ = {frame.step, finished.epoch};
  // A probe that does not say which kinds it dropped may have dropped any.
  const shm::MarkerInfo marker =
      finished.type == static_cast<uint8_t>(RecordType::kMarker) ? finished.marker : shm::MarkerInfo{};
  const uint64_t said = marker.dropped_kinds;
  dropped_kinds_ = finished.dropped_total == frame.dropped_before ? 0 : said != 0 ? said : ~uint64_t{0};
  kinds_read_.clear();
  if (dropped_kinds_ != 0) {
    for (const SceneNode& node : frame.scene->nodes) kinds_read_.push_back(KindsRead(node));
  }
  step_flags_ = finished.flags & kStepFlags;
  samples_seen_ = marker.samples;
  // Added to a monotonic time it gives unix time. Unsigned: a peer's time may be anything.
  unix_offset_ = static_cast<uint64_t>(ikkuna::UnixNs()) - MonotonicNs();
  if (frame.unnamed != 0) counters_->series_withheld += frame.unnamed;
  uint64_t began = MonotonicNs();
  for (index_ = 0; index_ < frame.nodes.size(); ++index_) {
    node_ = &frame.scene->nodes[index_];
    state_ = &frame.nodes[index_];
    if (!state_->due || node_->entry->removed.load(std::memory_order_relaxed)) continue;
    const size_t before = batch_.samples.size() + batch_.texts.size() + batch_.events.size();
    RunNode();
    const size_t published = batch_.samples.size() + batch_.texts.size() + batch_.events.size() - before;
    const uint64_t ended = MonotonicNs();
    node_->entry->cpu_ns.fetch_add(ended - began, std::memory_order_relaxed);
    if (published != 0) node_->entry->computed.fetch_add(published, std::memory_order_relaxed);
    began = ended;
  }
  samples_before_ = batch_.samples.size();
  return std::move(batch_);
}

uint64_t StepRunner::KindsRead(const SceneNode& node) const {
  uint64_t kinds = 0;
  for (const SceneNode::Source& source : node.inputs) {
    if (source.group != nullptr) kinds |= KindBit(source.group->kind());
    for (const uint32_t publisher : source.publishers) kinds |= kinds_read_[publisher];
  }
  return kinds;
}

void StepRunner::RunNode() {
  if (node_->definition().delivery == Delivery::kEachMessage) return RunInstances();
  if (node_->definition().scope == Scope::kModule) return RunBundles();
  RunSeries();
}

// Merged statistics, one result for each series.
void StepRunner::RunSeries() {
  const Kind kind = node_->subscription().inputs[0].kind;
  metrics::Input input;
  input.kind = kind;
  if (node_->takes_topic) {
    for (const uint32_t publisher : node_->inputs[0].publishers) {
      for (const TopicValue& value : frame_->nodes[publisher].values) {
        if (value.slot != nullptr && !node_->Matches(0, *value.slot)) continue;
        const TensorStats stats = StatsOfValue(value.value);
        input.module = value.slot == nullptr ? std::string_view() : value.slot->module_name;
        input.stats = &stats;
        NodePublisher publisher_of(*this, value.slot, 0, value.origin);
        node_->merged->Compute({&input, 1}, publisher_of);
      }
      state_->partial |= frame_->nodes[publisher].partial;
    }
    return;
  }
  const Group& group = *node_->inputs[0].group;
  const GroupState& gathered = frame_->groups[static_cast<size_t>(kind)];
  const bool may_miss = MayMiss(kind);
  uint64_t withheld = 0;
  for (const uint32_t ordinal : gathered.touched) {
    const Slot& slot = group.slot(ordinal);
    if (!node_->Matches(0, slot)) continue;
    const Gathered& series = gathered.slots[ordinal];
    if (may_miss || series.gap) {
      ++withheld;
      continue;
    }
    input.module = slot.module_name;
    input.stats = &series.stats;
    NodePublisher publisher(*this, &slot, 0, series.origin);
    node_->merged->Compute({&input, 1}, publisher);
  }
  if (withheld != 0) CountWithheld(withheld);
}

// Every series of the node's inputs, in the order of modules and parameters.
void StepRunner::RunBundles() {
  parts_.clear();
  const auto count = static_cast<uint32_t>(node_->inputs.size());
  for (uint32_t input = 0; input < count; ++input) CollectParts(input);
  std::sort(parts_.begin(), parts_.end(), [](const Part& a, const Part& b) {
    return std::tie(a.module, a.param, a.input) < std::tie(b.module, b.param, b.input);
  });
  for (size_t begin = 0, end = 0; begin < parts_.size(); begin = end) {
    while (end < parts_.size() && parts_[end].module == parts_[begin].module) ++end;
    RunModule(begin, end);
  }
}

void StepRunner::CollectParts(uint32_t input) {
  const SceneNode::Source& source = node_->inputs[input];
  if (source.group == nullptr) {
    for (const uint32_t publisher : source.publishers) {
      state_->partial |= frame_->nodes[publisher].partial;
      for (const TopicValue& value : frame_->nodes[publisher].values) {
        if (value.slot != nullptr && !node_->Matches(input, *value.slot)) continue;
        Part part{0, 0, input, value.slot, StatsOfValue(value.value), value.origin, false};
        if (value.slot != nullptr) {
          part.module = value.slot->module;
          part.param = value.slot->param;
        }
        parts_.push_back(part);
      }
    }
    return;
  }
  const GroupState& gathered = frame_->groups[static_cast<size_t>(source.group->kind())];
  const bool may_miss = MayMiss(source.group->kind());
  for (const uint32_t ordinal : gathered.touched) {
    const Slot& slot = source.group->slot(ordinal);
    if (!node_->Matches(input, slot)) continue;
    const Gathered& series = gathered.slots[ordinal];
    parts_.push_back({slot.module, slot.param, input, &slot, series.stats, series.origin, may_miss || series.gap});
  }
}

// Parts [begin, end) are those of one module. Parameters that several inputs have are paired by it; an input that has a
// single series, of a parameter that no other input has, goes with all of the others'.
void StepRunner::RunModule(size_t begin, size_t end) {
  const size_t inputs = node_->inputs.size();
  std::vector<size_t> series(inputs, 0);
  std::vector<bool> for_all(inputs, true);
  for (size_t i = begin; i < end; ++i) {
    const Part& part = parts_[i];
    ++series[part.input];
    const bool shared =
        (i > begin && parts_[i - 1].param == part.param) || (i + 1 < end && parts_[i + 1].param == part.param);
    if (shared) for_all[part.input] = false;
  }
  bool all_single = true;
  for (size_t i = 0; i < inputs; ++i) {
    all_single &= series[i] == 1;
    if (series[i] != 1) for_all[i] = false;
  }
  uint64_t incomplete = 0;
  if (all_single) {
    uint32_t param = 0;  // of the first input that has one
    for (size_t i = begin, first = inputs; i < end; ++i) {
      if (parts_[i].param == 0 || parts_[i].input > first) continue;
      param = parts_[i].param;
      first = parts_[i].input;
    }
    for_all.assign(inputs, true);
    incomplete += !RunBundle(begin, end, param, for_all);
  } else {
    bool several = false;
    for (size_t i = begin; i < end; ++i) {
      const bool again = i > begin && parts_[i - 1].param == parts_[i].param;
      if (for_all[parts_[i].input] || again) continue;
      several = true;
      incomplete += !RunBundle(begin, end, parts_[i].param, for_all);
    }
    // One side alone, with one series.
    if (!several) ++incomplete;
  }
  if (incomplete != 0) CountIncomplete(incomplete);
}

// True when the bundle was complete, or is withheld and counted as that.
bool StepRunner::RunBundle(size_t begin, size_t end, uint32_t param, const std::vector<bool>& for_all) {
  const size_t count = node_->inputs.size();
  inputs_.assign(count, {});
  const Part* about = nullptr;
  Origin origin;
  size_t found = 0;
  bool withheld = false;
  for (size_t i = begin; i < end; ++i) {
    const Part& part = parts_[i];
    if (part.param != param && !for_all[part.input]) continue;
    metrics::Input& input = inputs_[part.input];
    input.index = part.input;
    input.kind = node_->subscription().inputs[part.input].kind;
    input.stats = &part.stats;
    if (part.slot != nullptr) input.module = part.slot->module_name;
    if (about == nullptr || (part.param == param && about->param != param)) about = &part;
    origin.Add(part.origin);
    withheld |= part.withheld;
    ++found;
  }
  if (withheld) {
    CountWithheld(1);
    return true;
  }
  if (found != count) return false;
  NodePublisher publisher(*this, about->slot, about->input, origin);
  node_->merged->Compute(inputs_, publisher);
  return true;
}

// Those that were fed message by message: the step is whole, they may speak.
void StepRunner::RunInstances() {
  if (node_->takes_topic) FeedTopics();
  for (Instance& instance : state_->instances) {
    if (WithholdsInstance(instance)) {
      CountWithheld(1);
    } else if (instance.spoiled) {
      state_->partial = true;
    } else {
      NodePublisher publisher(*this, instance.slot, 0, instance.origin);
      instance.subscriber->StepClosed(step_, publisher);
    }
  }
}

bool StepRunner::WithholdsInstance(const Instance& instance) const {
  const metrics::Definition& definition = node_->definition();
  // Of the step as a whole: any message of its kinds that is missing belonged to it. But what a rule saw is so.
  if (definition.scope == Scope::kRoot) {
    const bool missing = dropped_kinds_ != 0 && (dropped_kinds_ & kinds_read_[index_]) != 0;
    return definition.numbers && (missing || state_->partial);
  }
  if (node_->takes_topic) return false;
  const Kind kind = node_->inputs[0].group->kind();
  return MayMiss(kind) || frame_->groups[static_cast<size_t>(kind)].slots[instance.slot->ordinal].gap;
}

void StepRunner::FeedTopics() {
  const Content content = node_->definition().content;
  for (uint32_t input = 0; input < node_->inputs.size(); ++input) {
    for (const uint32_t publisher : node_->inputs[input].publishers) {
      const NodeState& published = frame_->nodes[publisher];
      state_->partial |= published.partial;
      for (const TopicValue& value : published.values) {
        if (value.slot != nullptr && !node_->Matches(input, *value.slot)) continue;
        const bool series = node_->definition().scope == Scope::kSeries;
        Instance& instance = series || state_->instances.empty() ? frame_->Rouse(index_, series ? value.slot : nullptr)
                                                                 : state_->instances.front();
        instance.origin.Add(value.origin);
        const metrics::TensorView view{&value.value, DType::kF64, {}, 1};
        TensorStats stats;
        if (content == Content::kStatistics) stats = StatsOfValue(value.value);
        metrics::Input one;
        one.index = input;
        if (value.slot != nullptr) one.module = value.slot->module_name;
        one.stats = &stats;
        one.tensor = &view;
        one.scalar = value.value;
        DiscardPublisher nobody;
        instance.subscriber->Compute({&one, 1}, nobody);
      }
    }
  }
}

void StepRunner::CountWithheld(uint64_t count) {
  state_->partial = true;
  counters_->series_withheld += count;
}

void StepRunner::CountIncomplete(uint64_t count) {
  counters_->incomplete_bundles += count;
  node_->entry->incomplete.fetch_add(count, std::memory_order_relaxed);
}

}  // namespace ikkuna::graph
