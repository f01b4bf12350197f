#include "daemon/graph/job_graph.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "daemon/graph/job_node.h"
#include "daemon/graph/subscriber_set.h"
#include "shared/base/clock.h"

namespace ikkuna::graph {

ProducerInfo AllRanksOf(const ProducerInfo& rank) {
  ProducerInfo all;
  all.run_key = {rank.run_key.run_id, rank.run_key.attempt, kAllRanks};
  all.run = rank.run;
  all.world_size = rank.world_size;
  all.job = rank.job;
  all.uid = rank.uid;
  all.start_unix_ns = rank.start_unix_ns;
  all.continues = rank.continues;
  all.line = rank.line;
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

JobMember::JobMember(JobGraphs& owner, std::shared_ptr<const Run> run) : owner_(owner), run_(std::move(run)) {
  owner_.Come(run_->key());
}

JobMember::~JobMember() {
  for (auto& [id, joined] : joined_) {
    try {
      joined.first->steps().Leave(joined.second);
    } catch (...) {
      joined.first->CountFailed();
    }
  }
  joined_.clear();
  owner_.Go(run_->key());
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
    node = owner_.NodeOf(entry, *run_->info());
    if (!node) {
      joined_.erase(entry->id);
      return Taken::kNotJoined;
    }
    member = node->steps().Join(run_->key().rank, now);
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
  {
    std::lock_guard lock(outside_->mutex);
    outside_->gone = true;
  }
  for (auto& [id, job] : jobs_) {
    for (auto& [entry, node] : job.nodes) node->Retire();
    if (job.run && parts_.close) parts_.close(*job.run);
  }
}

std::unique_ptr<JobMember> JobGraphs::Join(std::shared_ptr<const Run> run) {
  return std::unique_ptr<JobMember>(new JobMember(*this, std::move(run)));
}

void JobGraphs::Come(const RunKey& rank) {
  std::lock_guard lock(mutex_);
  ++jobs_[{rank.run_id, rank.attempt}].members;
}

void JobGraphs::Go(const RunKey& rank) {
  {
    std::lock_guard lock(mutex_);
    --jobs_[{rank.run_id, rank.attempt}].members;
  }
  try {
    Sweep(0, false);
  } catch (const std::exception&) {
    // For want of memory, at the end of a rank: the next Tick() does it.
  }
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
  auto node = std::make_shared<JobNode>(parts_, outside_, entry, job.run, producer.world_size, share_.get());
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
