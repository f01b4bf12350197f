#include "daemon/graph/job_node.h"

#include <algorithm>
#include <utility>

#include "daemon/graph/kept_input.h"
#include "daemon/graph/subscriber_set.h"
#include "daemon/model/names.h"
#include "shared/base/clock.h"

namespace ikkuna::graph {

using metrics::Content;
using metrics::Keeps;
using metrics::Runs;

template <typename Call>
bool JobNode::Outside(Call call) {
  std::shared_lock lock(outside_->mutex);
  if (outside_->gone) return false;
  call();
  return true;
}

// The results of one step; out, as one batch, when the last reference goes.
class JobNode::StepOfJob final : public metrics::Results {
 public:
  StepOfJob(std::shared_ptr<JobNode> node, const JobStep& step) : node_(std::move(node)) {
    for (const auto& [rank, contribution] : step.ranks) holds_.push_back(contribution.hold);
    StepStamp& stamp = batch_.stamp;
    batch_.run = node_->run_;
    stamp.timeline = node_->run_->series().InternTimeline(step.timeline);
    stamp.step = step.step;
    timeline_ = step.timeline;
    bool all_seen = true;
    for (const auto& [rank, contribution] : step.ranks) {
      stamp.epoch = std::max(stamp.epoch, contribution.epoch);
      stamp.unix_ns = std::max(stamp.unix_ns, contribution.unix_ns);
      stamp.flags |= contribution.flags;
      stamp.samples_seen += contribution.samples_seen;
      all_seen &= contribution.samples_seen != 0;
    }
    if (!all_seen) stamp.samples_seen = 0;
    if (!step.complete()) stamp.flags |= kFlagRanksMissing;
    node_->NameMissing(step, batch_);
  }
  ~StepOfJob() override {
    const uint64_t values = batch_.values(), given = values + batch_.events.size();
    if (given == 0) return;
    SubscriberEntry& entry = *node_->entry_;
    entry.computed.fetch_add(values, std::memory_order_relaxed);
    try {
      if (node_->Outside([&] { node_->parts_.emit(std::move(batch_)); })) return;
      entry.computed.fetch_sub(values, std::memory_order_relaxed);
      entry.Count(MissReason::kCancelled, given);
    } catch (...) {
      entry.computed.fetch_sub(values, std::memory_order_relaxed);
      entry.Count(MissReason::kFailed, given);
    }
  }

  void Put(uint32_t output, metrics::Subject subject, Value value) override {
    std::lock_guard lock(mutex_);
    const auto& outputs = node_->entry_->subscription.definition.outputs;
    const uint32_t series =
        output < outputs.size() && TypeOf(value) == outputs[output].type ? SeriesOf(output, subject) : 0;
    if (series == 0) return node_->entry_->Count(MissReason::kRefused, 1);
    const double* number = std::get_if<double>(&value);
    const auto flagged = flags_.find(subject.module);
    const uint16_t flags = flagged == flags_.end() ? 0 : flagged->second;
    if (number == nullptr) {
      batch_.others.push_back({series, flags, std::move(value)});
      return;
    }
    const auto [at, first] = samples_.try_emplace(series, batch_.samples.size());
    if (first) {
      batch_.samples.push_back({series, flags, *number});
    } else {
      batch_.samples[at->second].value = *number;
    }
  }
  void Raise(Severity severity, std::string text, std::optional<Action> action) override {
    std::lock_guard lock(mutex_);
    const EventFilter::Answer answer = node_->AskForEvent(batch_.stamp, action ? &*action : nullptr);
    if (!answer.shown) return node_->entry_->Count(MissReason::kSuppressed, 1);
    text += SuppressedText(answer.suppressed);
    if (action && !node_->parts_.act) text += RefusedText(*action);
    Say(severity, std::string(node_->entry_->subscription.descriptor->name), std::move(text));
    if (!action || !node_->parts_.act) return;
    node_->Outside([&] { node_->parts_.act(*node_->run_, batch_.events.back(), *action); });
  }
  void Incomplete() override { node_->entry_->Count(MissReason::kIncomplete, 1); }
  bool cancelled() const override { return node_->entry_->ended(); }

  // Of the messages of all ranks that a subject's values are made of.
  void AddFlags(metrics::Subject subject, uint16_t flags) {
    std::lock_guard lock(mutex_);
    flags_[subject.module] |= flags;
    if (subject.module != 0) flags_[0] |= flags;
  }

  void Threw(const std::string& what) {
    node_->entry_->Count(MissReason::kThrew, 1);
    bool first = false;
    node_->Outside([&] { first = node_->parts_.subscribers->SwitchOff(*node_->entry_); });
    if (!first) return;
    std::lock_guard lock(mutex_);
    Say(Severity::kError, "subscriber_failed",
        node_->entry_->subscription.text + " (subscriber " + std::to_string(node_->entry_->id) + ") failed at step " +
            std::to_string(batch_.stamp.step) + ": " + what +
            "; it is switched off for every run, the others go on. Subscribe it again to try once more");
  }

 private:
  uint32_t SeriesOf(uint32_t output, metrics::Subject subject) {
    SeriesName name;
    name.timeline = timeline_;
    SeriesTraits traits;
    if (subject != metrics::Subject{}) {
      std::lock_guard lock(node_->mutex_);
      if (subject.module == 0 || subject.module > node_->slots_.size()) return 0;
      const Slot& slot = node_->slots_[subject.module - 1];
      name.module = slot.module;
      name.param = slot.param;
      traits.module_type = slot.module_type;
    }
    const Subscription& s = node_->entry_->subscription;
    const metrics::Output& described = s.definition.outputs[output];
    name.topic = s.topics[output];
    traits.type = described.type;
    traits.precision = described.precision.value_or(Precision::kDouble);
    traits.unit = described.unit.empty() ? std::string(s.descriptor->unit) : described.unit;
    return node_->run_->series().Intern(name, traits);
  }
  void Say(Severity severity, const std::string& kind, std::string text) {
    batch_.events.push_back(
        {0, batch_.stamp.unix_ns, severity, node_->run_->key(), kind, std::move(text), batch_.stamp.step});
  }

  const std::shared_ptr<JobNode> node_;
  std::vector<std::shared_ptr<void>> holds_;  // gone after the batch is out
  Timeline timeline_;
  std::mutex mutex_;
  Batch batch_;                         // guarded by mutex_
  std::map<uint32_t, size_t> samples_;  // guarded by mutex_
  std::map<uint32_t, uint16_t> flags_;  // by number of a subject; guarded by mutex_
};

JobNode::JobNode(const JobParts& parts, std::shared_ptr<JobOutside> outside, std::shared_ptr<SubscriberEntry> entry,
                 std::shared_ptr<ikkuna::Run> run, uint32_t world_size, WorkShare* share)
    : parts_(parts),
      outside_(std::move(outside)),
      entry_(std::move(entry)),
      run_(std::move(run)),
      steps_(
          world_size, parts.deadline_ns, *parts.memory, [this](JobStep step) { Give(std::move(step)); },
          [this](const Timeline& timeline) { return LastRecorded(timeline); }) {
  if (entry_->subscription.definition.runs != Runs::kQueue || share == nullptr) return;
  source_ = share->OpenSource({.waiting_max = 8, .counters = entry_->queue});
  lane_ = source_->OpenLane();
}

// Steps are given out in ascending order, and all that is made of one leaves together: what precedes the last that was
// recorded is taken for recorded, also where it came to nothing. What a rank brings of it for the first time is late.
std::optional<uint64_t> JobNode::LastRecorded(const Timeline& timeline) const {
  const auto recorded = run_->recorded();
  if (recorded->next.empty()) return std::nullopt;
  const std::vector<std::string>& topics = entry_->subscription.topics;
  uint64_t next = 0;
  for (const auto& series : run_->series().Since(0)) {
    if (series->id > recorded->next.size()) break;
    if (series->name.timeline != timeline) continue;
    if (std::find(topics.begin(), topics.end(), series->name.topic) == topics.end()) continue;
    next = std::max(next, recorded->next[series->id - 1]);
  }
  return next == 0 ? std::nullopt : std::optional(next - 1);
}

void JobNode::Retire() {
  retired_.store(true, std::memory_order_relaxed);
  if (source_) source_->Cancel();
}

// Whoever lets a step go calls it, the end of a rank among them: nothing may come out of it.
void JobNode::Give(JobStep step) noexcept {
  try {
    Take(std::move(step));
  } catch (...) {
    CountFailed();
  }
}

void JobNode::Take(JobStep step) {
  if (entry_->ended()) return;
  auto shared = std::make_shared<JobStep>(std::move(step));
  if (!lane_) return Run(std::move(shared));
  Job job;
  job.run = [self = shared_from_this(), shared] { self->Run(shared); };
  job.not_run = [entry = entry_](NotRun why) {
    entry->Count(why == NotRun::kQueueFull ? MissReason::kQueueFull : MissReason::kCancelled, 1);
  };
  lane_->Push(std::move(job));
}

void JobNode::Run(std::shared_ptr<JobStep> step) {
  auto results = std::make_shared<StepOfJob>(shared_from_this(), *step);
  for (auto& [rank, contribution] : step->ranks) contribution.hold.reset();
  const uint64_t began = MonotonicNs();
  try {
    Do(*step, results);
  } catch (const std::exception& error) {
    results->Threw(error.what());
  } catch (...) {
    results->Threw("something that is no std::exception");
  }
  if (!lane_) entry_->cpu_ns.fetch_add(MonotonicNs() - began, std::memory_order_relaxed);
}

// The same name on two ranks is one subject. Numbered in `module`, since names are what ranks have in common.
metrics::Subject JobNode::SubjectOf(const JobInput& input) {
  if (input.module.empty() && input.param.empty()) return {};
  std::lock_guard lock(mutex_);
  const auto [at, fresh] = numbers_.try_emplace({input.module, input.param}, 0);
  if (fresh) {
    slots_.push_back({input.module, input.module_type, input.param});
    at->second = static_cast<uint32_t>(slots_.size());
  }
  return {at->second, 0};
}

EventFilter::Answer JobNode::AskForEvent(const StepStamp& stamp, const Action* action) {
  std::lock_guard lock(mutex_);
  return filter_.Ask(entry_->id, stamp.timeline, 0, stamp.step, action);
}

void JobNode::Do(JobStep& step, const std::shared_ptr<StepOfJob>& results) {
  const metrics::Definition& definition = entry_->subscription.definition;
  size_t count = 0;
  for (const auto& [rank, contribution] : step.ranks) count += contribution.inputs.size();
  std::vector<metrics::Input> inputs;
  std::vector<TensorStats> stats;
  inputs.reserve(count);
  stats.reserve(count);
  for (const auto& [rank, contribution] : step.ranks) {
    for (const JobInput& from : contribution.inputs) {
      metrics::Input& input = inputs.emplace_back();
      input.index = from.index;
      input.kind = from.kind;
      input.subject = SubjectOf(from);
      input.module = from.module;
      input.param = from.param;
      input.rank = rank;
      input.flags = from.flags;
      if (from.flags != 0) results->AddFlags(input.subject, from.flags);
      if (const auto* given = std::get_if<TensorStats>(&from.content)) {
        if (!Has(*given, definition.moments)) return results->Incomplete();  // not asked of that rank when it began
        input.stats = given;
        continue;
      }
      const Value& value = std::get<Value>(from.content);
      if (const double* number = std::get_if<double>(&value)) input.scalar = *number;
      if (definition.content == Content::kValue) input.value = &value;
      if (definition.content == Content::kStatistics) {
        stats.push_back(StatsOfNumber(input.scalar));
        input.stats = &stats.back();
      }
    }
  }
  metrics::StepInfo info;
  info.global_step = step.step;
  bool all_seen = true;
  for (const auto& [rank, contribution] : step.ranks) {
    info.samples_seen += contribution.samples_seen;
    all_seen &= contribution.samples_seen != 0;
    info.epoch = std::max(info.epoch, contribution.epoch);
    info.unix_ns = std::max(info.unix_ns, contribution.unix_ns);
    info.flags |= contribution.flags;
  }
  if (!all_seen) info.samples_seen = 0;
  info.root = step.timeline.root;
  info.tag = step.timeline.tag;
  if (!subscriber_) subscriber_ = definition.create();
  subscriber_->OnStep(info, inputs, results);
  if (definition.keeps == Keeps::kStep) subscriber_->Reset();
}

// Says which ranks the step goes without, when that is another set than was said last; a rank that comes and goes fills no
// log, since each value says whether it lacks one.
void JobNode::NameMissing(const JobStep& step, Batch& batch) {
  uint64_t count = step.missing.size();
  std::vector<std::string> names;
  for (const auto& [rank, reason] : step.missing) {
    names.push_back(std::to_string(rank) + " (" + std::string(MissingRankName(reason)) + ")");
  }
  for (const RankRange& range : *step.not_seen) {
    count += uint64_t{range.last} - range.first + 1;
    names.push_back(std::to_string(range.first) +
                    (range.last == range.first ? std::string() : " to " + std::to_string(range.last)) + " (" +
                    std::string(MissingRankName(MissingRank::kNotSeen)) + ")");
  }
  if (count != 0) entry_->Count(MissReason::kIncomplete, count);
  const std::string listed = Listed(names, 16);
  if (missing_said_ == listed) return;
  const auto old = [&](uint64_t told) { return step.step < told || step.step - told >= EventFilter::kEverySteps; };
  std::erase_if(missing_told_, [&](const auto& one) { return old(one.second); });
  if (missing_told_.size() >= kMissingSetsMax || !missing_told_.try_emplace(listed, step.step).second) return;
  missing_said_ = listed;
  const std::string text = entry_->subscription.topic + " of all ranks, step " + std::to_string(step.step) +
                           (names.empty() ? ": all ranks are in it again" : ": without rank " + listed);
  const Severity severity = names.empty() ? Severity::kInfo : Severity::kWarning;
  batch.events.push_back({0, batch.stamp.unix_ns, severity, run_->key(), "ranks_missing", text, step.step});
}

}  // namespace ikkuna::graph
