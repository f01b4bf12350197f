#include "daemon/graph/job_steps.h"

#include <algorithm>
#include <optional>
#include <utility>

namespace ikkuna::graph {

namespace {

// What it takes in memory, roughly.
uint64_t BytesOfContribution(const JobContribution& contribution) {
  uint64_t bytes = sizeof(JobContribution);
  for (const JobInput& input : contribution.inputs) {
    bytes += sizeof(JobInput) + input.module.size() + input.module_type.size() + input.param.size();
    if (const Value* value = std::get_if<Value>(&input.content)) bytes += BytesOf(*value);
  }
  return bytes;
}

}  // namespace

std::string_view MissingRankName(MissingRank reason) {
  switch (reason) {
    case MissingRank::kNotSeen:
      return "not_seen";
    case MissingRank::kLeft:
      return "left";
    case MissingRank::kLate:
      return "late";
    case MissingRank::kNothing:
      return "nothing";
    case MissingRank::kNoMemory:
      return "no_memory";
  }
  return "";
}

JobSteps::JobSteps(uint32_t world_size, uint64_t deadline_ns, MemoryBudget& budget, std::function<void(JobStep)> give,
                   LastRecorded last_recorded)
    : world_size_(world_size),
      deadline_ns_(deadline_ns),
      budget_(budget),
      give_(std::move(give)),
      last_recorded_(std::move(last_recorded)) {
  FindNotSeen();
}

uint64_t JobSteps::Join(uint32_t rank, uint64_t now_ns) {
  std::unique_lock lock(mutex_);
  if (ranks_.empty()) first_join_ns_ = now_ns;
  const uint64_t member = next_member_++;
  member_rank_[member] = rank;
  const bool fresh = !ranks_.contains(rank);
  ranks_[rank].member = member;
  if (fresh) FindNotSeen();
  for (auto& [timeline, line] : lines_) {
    if (const auto mark = line.marks.find(rank); mark != line.marks.end()) mark->second.silent = false;
  }
  // The last that was not seen holds up nothing by being new: it is waited for until it speaks or a deadline passes.
  Deliver(std::move(lock));
  return member;
}

void JobSteps::Leave(uint64_t member) {
  std::unique_lock lock(mutex_);
  const auto found = member_rank_.find(member);
  if (found == member_rank_.end()) return;
  Rank& rank = ranks_[found->second];
  member_rank_.erase(found);
  if (rank.member != member) return;
  rank.member = 0;
  GiveReadyOfAll();
  Deliver(std::move(lock));
}

JobSteps::Taken JobSteps::Contribute(uint64_t member, const Timeline& timeline, uint64_t step,
                                     JobContribution contribution, uint64_t now_ns) {
  std::optional<MemoryBudget::Reservation> memory;  // freed after the lock
  std::unique_lock lock(mutex_);
  const uint32_t* rank = RankOf(member);
  if (rank == nullptr) return Taken::kNotJoined;
  Line& line = LineOf(timeline);
  Mark& mark = line.marks[*rank];
  if (mark.any && step <= mark.step) {
    return Taken::kRepeated;
  }
  Taken taken = Taken::kTaken;
  if (line.recorded && step <= *line.recorded) {
    taken = Taken::kRecorded;
  } else if (line.any_given && step <= line.given) {
    taken = Taken::kLate;
  } else {
    const auto [at, fresh] = line.waiting.try_emplace(step);
    Waiting& waiting = at->second;
    if (fresh) {
      waiting.first_ns = now_ns;
      waiting.number = next_number_++;
      ++waiting_;
    }
    memory = budget_.Reserve(BytesOfContribution(contribution));
    if (memory) {
      contribution.memory = std::move(*memory);
      waiting.ranks.emplace(*rank, std::move(contribution));
    } else {
      taken = Taken::kMemoryFull;
      waiting.no_memory.push_back(*rank);
    }
  }
  Hear(line, *rank, step);
  GiveReady(timeline, line);
  MakeRoom();
  Deliver(std::move(lock));
  return taken;
}

void JobSteps::Pass(uint64_t member, const Timeline& timeline, uint64_t step) {
  std::unique_lock lock(mutex_);
  const uint32_t* rank = RankOf(member);
  if (rank == nullptr) return;
  Line& line = LineOf(timeline);
  Hear(line, *rank, step);
  GiveReady(timeline, line);
  Deliver(std::move(lock));
}

void JobSteps::Tick(uint64_t now_ns) {
  std::unique_lock lock(mutex_);
  if (!not_seen_over_ && !ranks_.empty() && now_ns >= first_join_ns_ + deadline_ns_) {
    not_seen_over_ = true;
    GiveReadyOfAll();
  }
  for (auto& [timeline, line] : lines_) {
    auto last = line.waiting.end();
    for (auto at = line.waiting.begin(); at != line.waiting.end(); ++at) {
      if (now_ns >= at->second.first_ns + deadline_ns_) last = at;
    }
    if (last == line.waiting.end()) continue;
    const uint64_t step = last->first;
    for (const auto& [rank, state] : ranks_) {
      if (state.member == 0) continue;
      Mark& mark = line.marks[rank];
      if (!mark.any || mark.step < step) mark.silent = true;
    }
    GiveUpTo(timeline, line, step);
    GiveReady(timeline, line);
  }
  Deliver(std::move(lock));
}

void JobSteps::Flush() {
  std::unique_lock lock(mutex_);
  for (auto& [timeline, line] : lines_) {
    if (!line.waiting.empty()) GiveUpTo(timeline, line, line.waiting.rbegin()->first);
  }
  Deliver(std::move(lock));
}

uint32_t* JobSteps::RankOf(uint64_t member) {
  const auto found = member_rank_.find(member);
  return found == member_rank_.end() ? nullptr : &found->second;
}

JobSteps::Line& JobSteps::LineOf(const Timeline& timeline) {
  const auto [at, fresh] = lines_.try_emplace(timeline);
  if (fresh && last_recorded_) at->second.recorded = last_recorded_(timeline);
  return at->second;
}

void JobSteps::Hear(Line& line, uint32_t rank, uint64_t step) {
  Mark& mark = line.marks[rank];
  mark.silent = false;
  if (mark.any && step <= mark.step) return;
  mark.any = true;
  mark.step = step;
}

void JobSteps::FindNotSeen() {
  std::vector<RankRange> ranges;
  uint32_t next = 0;
  for (const auto& [rank, state] : ranks_) {
    if (rank >= world_size_) break;
    if (rank > next) ranges.push_back({next, rank - 1});
    next = rank + 1;
  }
  if (next < world_size_) ranges.push_back({next, world_size_ - 1});
  not_seen_ = std::make_shared<const std::vector<RankRange>>(std::move(ranges));
}

// Who is waited for and has closed least decides: what all have closed goes.
void JobSteps::GiveReady(const Timeline& timeline, Line& line) {
  if (line.waiting.empty()) return;
  uint64_t all_closed = line.waiting.rbegin()->first;
  const bool present = std::any_of(ranks_.begin(), ranks_.end(), [](const auto& r) { return r.second.member != 0; });
  if (present && !not_seen_->empty() && !not_seen_over_) return;
  for (const auto& [rank, state] : ranks_) {
    if (state.member == 0) continue;
    const auto mark = line.marks.find(rank);
    if (mark == line.marks.end()) return;
    if (mark->second.silent) continue;
    if (!mark->second.any) return;
    all_closed = std::min(all_closed, mark->second.step);
  }
  GiveUpTo(timeline, line, all_closed);
}

void JobSteps::GiveReadyOfAll() {
  for (auto& [timeline, line] : lines_) GiveReady(timeline, line);
}

void JobSteps::GiveUpTo(const Timeline& timeline, Line& line, uint64_t step) {
  while (!line.waiting.empty() && line.waiting.begin()->first <= step) {
    auto first = line.waiting.extract(line.waiting.begin());
    --waiting_;
    line.any_given = true;
    line.given = first.key();
    Give(timeline, line, first.key(), std::move(first.mapped()));
  }
}

void JobSteps::Give(const Timeline& timeline, const Line& line, uint64_t step, Waiting waiting) {
  if (waiting.ranks.empty()) return;  // all that came was refused, and counted then
  JobStep out;
  out.timeline = timeline;
  out.step = step;
  out.not_seen = not_seen_;
  for (const auto& [rank, state] : ranks_) {
    if (waiting.ranks.contains(rank)) continue;
    out.missing.emplace(rank, WhyMissing(line, rank, step, waiting));
  }
  out.ranks = std::move(waiting.ranks);
  outbox_.push_back(std::move(out));
}

MissingRank JobSteps::WhyMissing(const Line& line, uint32_t rank, uint64_t step, const Waiting& waiting) const {
  if (std::find(waiting.no_memory.begin(), waiting.no_memory.end(), rank) != waiting.no_memory.end()) {
    return MissingRank::kNoMemory;
  }
  const auto mark = line.marks.find(rank);
  if (mark != line.marks.end() && mark->second.any && mark->second.step >= step) return MissingRank::kNothing;
  return ranks_.at(rank).member == 0 ? MissingRank::kLeft : MissingRank::kLate;
}

void JobSteps::MakeRoom() {
  while (waiting_ > kMaxWaiting) {
    auto oldest = lines_.end();
    for (auto at = lines_.begin(); at != lines_.end(); ++at) {
      if (at->second.waiting.empty()) continue;
      if (oldest == lines_.end() ||
          at->second.waiting.begin()->second.number < oldest->second.waiting.begin()->second.number) {
        oldest = at;
      }
    }
    GiveUpTo(oldest->first, oldest->second, oldest->second.waiting.begin()->first);
  }
}

// One thread at a time, so that the order stays; what others let go meanwhile it takes along.
void JobSteps::Deliver(std::unique_lock<std::mutex> lock) {
  if (delivering_) return;
  delivering_ = true;
  while (!outbox_.empty()) {
    JobStep step = std::move(outbox_.front());
    outbox_.pop_front();
    lock.unlock();
    give_(std::move(step));
    lock.lock();
  }
  delivering_ = false;
}

}  // namespace ikkuna::graph
