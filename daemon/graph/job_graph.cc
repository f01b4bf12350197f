#include "daemon/graph/job_graph.h"

#include <algorithm>
#include <atomic>
#include <utility>
#include <vector>

#include "daemon/graph/kept_input.h"
#include "daemon/graph/subscriber_set.h"
#include "daemon/model/names.h"
#include "shared/base/clock.h"

namespace ikkuna::graph {

using metrics::Content;
using metrics::Keeps;
using metrics::Runs;

// One subscriber of one run. Shared by the members, the jobs of the pool and the results that are still held.
class JobNode : public std::enable_shared_from_this<JobNode> {
 public:
  JobNode(const JobParts& parts, std::shared_ptr<SubscriberEntry> entry, std::shared_ptr<Run> run, uint32_t world_size,
          WorkShare* share)
      : parts_(parts),
        entry_(std::move(entry)),
        run_(std::move(run)),
        steps_(world_size, parts.deadline_ns, *parts.memory, [this](JobStep step) { Give(std::move(step)); }) {
    if (entry_->subscription.definition.runs != Runs::kQueue || share == nullptr) return;
    source_ = share->OpenSource({.waiting_max = 8, .counters = entry_->queue});
    lane_ = source_->OpenLane();
  }

  JobSteps& steps() { return steps_; }
  const SubscriberEntry& entry() const { return *entry_; }
  // Nothing more is made of it.
  void Retire() {
    retired_.store(true, std::memory_order_relaxed);
    if (source_) source_->Cancel();
  }
  bool retired() const { return retired_.load(std::memory_order_relaxed); }

 private:
  class StepOfJob;
  struct Slot {
    std::string module;
    std::string module_type;
    std::string param;
  };

  void Give(JobStep step);
  void Run(std::shared_ptr<JobStep> step);
  metrics::Subject SubjectOf(const JobInput& input);
  void Do(JobStep& step, const std::shared_ptr<StepOfJob>& results);
  void NameMissing(const JobStep& step, Batch& batch);

  const JobParts parts_;
  const std::shared_ptr<SubscriberEntry> entry_;
  const std::shared_ptr<ikkuna::Run> run_;
  std::shared_ptr<WorkSource> source_;
  std::shared_ptr<WorkLane> lane_;
  std::atomic<bool> retired_{false};
  std::mutex mutex_;
  // Guarded by mutex_.
  std::map<std::pair<std::string, std::string>, uint32_t> numbers_;
  std::vector<Slot> slots_;  // [i] has the number i + 1
  // Used by one call after another: JobSteps gives one at a time, and so does a lane.
  std::unique_ptr<metrics::Subscriber> subscriber_;
  std::vector<std::string> missing_before_;
  JobSteps steps_;  // last: it calls the rest
};

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
    node_->NameMissing(step, batch_);
  }
  ~StepOfJob() override {
    const uint64_t given = batch_.values() + batch_.events.size();
    node_->entry_->computed.fetch_add(batch_.values(), std::memory_order_relaxed);
    if (given != 0) node_->parts_.emit(std::move(batch_));
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
    if (action) text += "; it asks for " + std::string(ActionTypeName(action->type)) + ", which no job rule does yet";
    Say(severity, std::string(node_->entry_->subscription.descriptor->name), std::move(text));
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
    if (!node_->parts_.subscribers->SwitchOff(*node_->entry_)) return;
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

void JobNode::Give(JobStep step) {
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
  for (const auto& [rank, contribution] : step.ranks) {
    info.epoch = std::max(info.epoch, contribution.epoch);
    info.unix_ns = std::max(info.unix_ns, contribution.unix_ns);
    info.flags |= contribution.flags;
  }
  info.root = step.timeline.root;
  info.tag = step.timeline.tag;
  if (!subscriber_) subscriber_ = definition.create();
  subscriber_->OnStep(info, inputs, results);
  if (definition.keeps == Keeps::kStep) subscriber_->Reset();
}

// Says which ranks the step goes without, when that is another set than before.
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
  if (names == missing_before_) return;
  missing_before_ = names;
  const std::string text = entry_->subscription.topic + " of all ranks, step " + std::to_string(step.step) +
                           (names.empty() ? ": all ranks are in it again" : ": without rank " + Listed(names, 16));
  const Severity severity = names.empty() ? Severity::kInfo : Severity::kWarning;
  batch.events.push_back({0, batch.stamp.unix_ns, severity, run_->key(), "ranks_missing", text, step.step});
}

ProducerInfo AllRanksOf(const ProducerInfo& rank) {
  ProducerInfo all;
  all.run_key = {rank.run_key.run_id, rank.run_key.attempt, kAllRanks};
  all.run = rank.run;
  all.world_size = rank.world_size;
  all.job = rank.job;
  all.uid = rank.uid;
  all.start_unix_ns = rank.start_unix_ns;
  all.continues = rank.continues;
  all.start_step = rank.start_step;
  // FNV-1a, twice: nothing but to tell runs apart, and to find the same again.
  const std::string text = rank.run_key.run_id + '\0' + std::to_string(rank.run_key.attempt);
  uint64_t hash = 0xcbf29ce484222325;
  for (size_t i = 0; i < all.uuid.size(); ++i) {
    for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
    all.uuid[i] = static_cast<unsigned char>(hash >> 56);
  }
  return all;
}

JobMember::JobMember(JobGraphs& owner, ProducerInfo producer) : owner_(owner), producer_(std::move(producer)) {
  owner_.Come(producer_);
}

JobMember::~JobMember() {
  for (auto& [id, joined] : joined_) joined.first->steps().Leave(joined.second);
  joined_.clear();
  owner_.Go(producer_);
}

JobSteps::Taken JobMember::Contribute(const std::shared_ptr<SubscriberEntry>& entry, const Timeline& timeline,
                                      uint64_t step, JobContribution contribution) {
  using Taken = JobSteps::Taken;
  if (entry->ended()) {
    joined_.erase(entry->id);
    return Taken::kNotJoined;
  }
  const uint64_t now = MonotonicNs();
  auto& [node, member] = joined_[entry->id];
  // A subscriber that was removed may be on again, under its old id.
  if (!node || node->retired() || &node->entry() != entry.get()) {
    node = owner_.NodeOf(entry, producer_);
    if (!node) {
      joined_.erase(entry->id);
      return Taken::kNotJoined;
    }
    member = node->steps().Join(producer_.run_key.rank, now);
  }
  Taken taken = Taken::kTaken;
  if (contribution.inputs.empty()) {
    node->steps().Pass(member, timeline, step);
  } else {
    taken = node->steps().Contribute(member, timeline, step, std::move(contribution), now);
  }
  // It may have ended, and been let go of, meanwhile: then nobody looks at its deadlines any more.
  if (entry->ended()) node->steps().Flush();
  return taken;
}

JobGraphs::JobGraphs(JobParts parts) : parts_(std::move(parts)) {
  if (parts_.queue != nullptr) share_ = parts_.queue->OpenShare();
}

JobGraphs::~JobGraphs() {
  for (auto& [id, job] : jobs_) {
    for (auto& [entry, node] : job.nodes) node->Retire();
    if (job.run && parts_.close) parts_.close(*job.run);
  }
}

std::unique_ptr<JobMember> JobGraphs::Join(const ProducerInfo& producer) {
  return std::unique_ptr<JobMember>(new JobMember(*this, producer));
}

void JobGraphs::Come(const ProducerInfo& producer) {
  std::lock_guard lock(mutex_);
  ++jobs_[{producer.run_key.run_id, producer.run_key.attempt}].members;
}

void JobGraphs::Go(const ProducerInfo& producer) {
  {
    std::lock_guard lock(mutex_);
    --jobs_[{producer.run_key.run_id, producer.run_key.attempt}].members;
  }
  Sweep(0, false);
}

std::shared_ptr<JobNode> JobGraphs::NodeOf(const std::shared_ptr<SubscriberEntry>& entry,
                                           const ProducerInfo& producer) {
  std::lock_guard lock(mutex_);
  Job& job = jobs_[{producer.run_key.run_id, producer.run_key.attempt}];
  if (const auto known = job.nodes.find(entry->id); known != job.nodes.end()) return known->second;
  if (!job.run) {
    const uint64_t now = MonotonicNs();
    if (!parts_.open || now < job.retry_ns) return nullptr;
    job.run = parts_.open(AllRanksOf(producer));
    job.retry_ns = now + kRetryNs;
    if (!job.run) return nullptr;
  }
  auto node = std::make_shared<JobNode>(parts_, entry, job.run, producer.world_size, share_.get());
  job.nodes.emplace(entry->id, node);
  return node;
}

void JobGraphs::Tick(uint64_t now_ns) { Sweep(now_ns, true); }

void JobGraphs::Sweep(uint64_t now_ns, bool tick) {
  std::vector<std::shared_ptr<JobNode>> live, ended;  // looked at, and destroyed, without the mutex
  {
    std::lock_guard lock(mutex_);
    for (auto at = jobs_.begin(); at != jobs_.end();) {
      Job& job = at->second;
      std::erase_if(job.nodes, [&](auto& item) {
        const std::shared_ptr<JobNode>& node = item.second;
        // Nobody else holds it: no rank of it is there, and no result is still made.
        const bool over = node->entry().ended() || (job.members == 0 && node.use_count() == 1);
        (over ? ended : live).push_back(node);
        return over;
      });
      if (job.members != 0 || !job.nodes.empty()) {
        ++at;
        continue;
      }
      if (job.run && parts_.close) parts_.close(*job.run);
      at = jobs_.erase(at);
    }
  }
  for (const auto& node : ended) {
    node->Retire();
    node->steps().Flush();  // lets go of what the ranks hold
  }
  if (!tick) return;
  for (const auto& node : live) node->steps().Tick(now_ns);
}

}  // namespace ikkuna::graph
