#include "daemon/ingest/run_registry.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "shared/base/utf8.h"
#include "shared/codes.h"

namespace ikkuna::ingest {

namespace {

// name, name~2, name~3, ...
std::string NameOf(const std::string& name, uint32_t copy) {
  if (copy == 1) return name;
  const std::string suffix = "~" + std::to_string(copy);
  return CleanUtf8(name, kMaxNameBytes - suffix.size()) + suffix;
}

bool HasAddress(const JobKey& job) { return !job.address.empty() || !job.port.empty(); }

// Members of one job have its address in common. Where nobody knows one, only their parent process is left.
bool OneJob(const Applicant& applicant, const RunRegistry::Member& member) {
  if (applicant.job != member.job || applicant.world_size != member.world_size) return false;
  return HasAddress(applicant.job) || applicant.parent == 0 || member.parent == 0 || applicant.parent == member.parent;
}

std::string NumberedHere(const Applicant& applicant, uint32_t attempt) {
  return "rank " + std::to_string(applicant.rank) + " of " + std::to_string(applicant.world_size) + ": no scheduler " +
         "told a restart count, so this host alone numbered attempt " + std::to_string(attempt) +
         "; other hosts may count otherwise";
}

}  // namespace

bool RunRegistry::Attempt::lives() const {
  return std::any_of(ranks.begin(), ranks.end(), [](const auto& rank) { return rank.second.alive; });
}

bool RunRegistry::Attempt::IsOfJob(const Applicant& applicant) const {
  return std::any_of(ranks.begin(), ranks.end(), [&](const auto& rank) {
    return rank.second.job == applicant.job && rank.second.world_size == applicant.world_size;
  });
}

void RunRegistry::Add(const Member& member) {
  if (const auto known = keys_.find(member.uuid); known != keys_.end() && known->second != member.key) {
    runs_[known->second.run_id][known->second.attempt].ranks.erase(known->second.rank);
  }
  keys_[member.uuid] = member.key;
  runs_[member.key.run_id][member.key.attempt].ranks[member.key.rank] = member;
}

void RunRegistry::SetAlive(const Uuid& uuid, bool alive) {
  const auto known = keys_.find(uuid);
  if (known == keys_.end()) return;
  Member& member = runs_[known->second.run_id][known->second.attempt].ranks[known->second.rank];
  if (member.uuid == uuid) member.alive = alive;
}

bool RunRegistry::AreAnothers(const Attempts& attempts, uint32_t uid) const {
  return several_users_ && std::any_of(attempts.begin(), attempts.end(), [&](const auto& attempt) {
    const auto& ranks = attempt.second.ranks;
    return std::any_of(ranks.begin(), ranks.end(), [&](const auto& rank) { return rank.second.uid.value_or(uid) != uid; });
  });
}

bool RunRegistry::IsAnothers(const Uuid& uuid, uint32_t uid) const {
  const auto known = keys_.find(uuid);
  if (known == keys_.end() || !several_users_) return false;
  const Member& member = runs_.at(known->second.run_id).at(known->second.attempt).ranks.at(known->second.rank);
  return member.uid.value_or(uid) != uid;
}

// Rule 2.
bool RunRegistry::Joins(const Applicant& applicant, const Attempts& attempts) const {
  if (attempts.empty() || AreAnothers(attempts, applicant.uid)) return false;
  const auto& [number, newest] = *attempts.rbegin();
  if (newest.ranks.contains(applicant.rank)) return false;
  if (applicant.count && *applicant.count > number) return false;  // its scheduler has started the job anew since
  return std::any_of(newest.ranks.begin(), newest.ranks.end(), [&](const auto& rank) {
    // Our number may be above the scheduler's count: then only the counts tell a life that hangs on from this one.
    const bool other_life = applicant.count && rank.second.count && *applicant.count != *rank.second.count;
    return rank.second.alive && !other_life && OneJob(applicant, rank.second);
  });
}

Placement RunRegistry::PlaceIn(const std::string& name, const Attempts& attempts, uint32_t rank) {
  const auto& [number, newest] = *attempts.rbegin();
  Placement placement;
  placement.key = {name, number, rank};
  const Member& sibling = newest.ranks.begin()->second;
  placement.continues = sibling.continues;
  placement.line = sibling.line;
  return placement;
}

// Rule 2 of ranks that nobody gave a name in common: all that tells them is where they meet and who started them. A
// member whose parent nobody knows may be of a job in another container that meets at the same address.
std::optional<Placement> RunRegistry::JoinUnnamed(const Applicant& applicant) const {
  if (applicant.world_size < 2 || applicant.job.address.empty() || applicant.job.port.empty() ||
      applicant.parent == 0) {
    return std::nullopt;
  }
  std::optional<Placement> placement;
  for (const auto& [name, attempts] : runs_) {
    if (!Joins(applicant, attempts)) continue;
    const auto& ranks = attempts.rbegin()->second.ranks;
    const auto sibling = [&](const auto& rank) {
      return rank.second.alive && rank.second.unnamed && rank.second.parent == applicant.parent;
    };
    if (!std::any_of(ranks.begin(), ranks.end(), sibling)) continue;
    if (placement) return std::nullopt;  // it may be of either
    placement = PlaceIn(name, attempts, applicant.rank);
  }
  return placement;
}

std::optional<Placement> RunRegistry::Join(const Applicant& applicant) const {
  if (applicant.unnamed) return JoinUnnamed(applicant);
  std::optional<Placement> placement;
  for (uint32_t copy = 1; copy <= kSameNameMax; ++copy) {
    const auto run = runs_.find(NameOf(applicant.name, copy));
    if (run == runs_.end() || !Joins(applicant, run->second)) continue;
    if (placement) {
      placement->notes.push_back("rank " + std::to_string(applicant.rank) + " fits '" + placement->key.run_id +
                                 "' and '" + run->first + "' and went to the first: set MASTER_ADDR and MASTER_PORT, "
                                 "or give each job an id of its own");
      return placement;
    }
    placement = PlaceIn(run->first, run->second, applicant.rank);
  }
  return placement;
}

RunRegistry::Family RunRegistry::FamilyOf(const Applicant& applicant) const {
  Family family;
  for (uint32_t copy = 1; copy <= kSameNameMax; ++copy) {
    const auto run = runs_.find(NameOf(applicant.name, copy));
    const bool kept = run != runs_.end() && !run->second.empty();
    if (kept && AreAnothers(run->second, applicant.uid)) {
      if (family.own == copy) ++family.own;
      continue;
    }
    const auto any = [&](const auto& is) {
      return kept && std::any_of(run->second.begin(), run->second.end(),
                                 [&](const auto& attempt) { return is(attempt.second); });
    };
    if (!any([](const Attempt& attempt) { return attempt.lives(); })) family.free = std::min(family.free, copy);
    if (kept) family.runs.push_back(&run->first);
    if (HasAddress(applicant.job) && any([&](const Attempt& attempt) { return attempt.IsOfJob(applicant); })) {
      family.of_job.push_back(&run->first);
    }
  }
  return family;
}

// Rule 5.
const std::string* RunRegistry::ContinuedBy(const Applicant& applicant, const Family& family) const {
  const auto lives = [this](const std::string& name) {
    const Attempts& attempts = runs_.at(name);
    return std::any_of(attempts.begin(), attempts.end(), [](const auto& attempt) { return attempt.second.lives(); });
  };
  // An older attempt may have the key too: one that stood alone went under whichever name was free.
  if (family.of_job.size() == 1) {
    const std::string& name = *family.of_job.front();
    const bool newest = runs_.at(name).rbegin()->second.IsOfJob(applicant);
    return newest && !lives(name) ? &name : nullptr;
  }
  // Without the key nothing tells which of several it was, even where all but one are taken: who took them may be
  // another's continuation that stands alone.
  if (!family.of_job.empty() || family.runs.size() != 1) return nullptr;
  const std::string& only = *family.runs.front();
  return only == NameOf(applicant.name, family.own) && !lives(only) ? &only : nullptr;
}

// Rules 3 to 5.
Placement RunRegistry::Open(const Applicant& applicant) const {
  Placement placement;
  const Family family = FamilyOf(applicant);
  const bool continuation = applicant.resume || applicant.start_step > 0;
  const std::string* continued = continuation ? ContinuedBy(applicant, family) : nullptr;
  const std::string name = continued != nullptr ? *continued : NameOf(applicant.name, family.free);
  const auto run = runs_.find(name);
  const bool kept = run != runs_.end() && !run->second.empty();
  // A file that was brought from elsewhere may say any number.
  const auto beyond = kept ? run->second.upper_bound(kAttemptMax) : Attempts::const_iterator();
  const bool numbered = kept && beyond != run->second.begin();
  const uint32_t highest = numbered ? std::prev(beyond)->first : 0;
  const bool counted = applicant.count && (!numbered || *applicant.count > highest);
  placement.key = {name, counted ? *applicant.count : numbered ? highest + 1 : 0, applicant.rank};
  if (continued != nullptr && numbered) {
    placement.continues = highest;
    const auto& ranks = run->second.at(highest).ranks;
    placement.line = ranks.empty() ? highest : ranks.begin()->second.line;
  }
  if (continuation && continued == nullptr && !family.runs.empty()) {
    std::string names;
    for (const std::string* one : family.runs) names += (names.empty() ? "'" : ", '") + *one + "'";
    placement.notes.push_back("it goes on with an earlier attempt, but of which run is not known: " + names +
                              "; it stands alone. Give each job an id of its own");
  }
  if (continuation && family.runs.empty()) {
    placement.notes.push_back(
        "it goes on with an earlier attempt that is not among the runs of this host: it was deleted, or "
        "recorded on another host under this name, and stands alone; to have both as one line bring "
        "that one here before the next begins, see 'ikkuna import --help'");
  }
  if (name != applicant.name && family.own > 1 && (continued != nullptr || family.free == family.own)) {
    placement.notes.push_back("runs under the name '" + applicant.name + "' are another user's, so this one is '" + name +
                              "': give each job an id of its own");
  } else if (name != applicant.name && family.free > 1) {
    placement.notes.push_back("another job lives under the name '" + applicant.name + "', so this one is '" + name +
                              "': give each job an id of its own, or its ranks one MASTER_ADDR and MASTER_PORT");
  } else if (name != applicant.name) {
    placement.notes.push_back("it goes on with '" + name +
                              "', as its MASTER_ADDR, MASTER_PORT and world size say: give each job an id of its own");
  }
  if (!counted && applicant.world_size > 1) {
    placement.notes.push_back(NumberedHere(applicant, placement.key.attempt));
  }
  return placement;
}

Placement RunRegistry::Place(const Applicant& applicant) const {
  if (const auto known = keys_.find(applicant.uuid); known != keys_.end()) {
    Placement placement;
    placement.key = known->second;
    placement.known = true;
    const Member& member = runs_.at(known->second.run_id).at(known->second.attempt).ranks.at(known->second.rank);
    placement.continues = member.continues;
    placement.line = member.line;
    return placement;
  }
  if (auto joined = Join(applicant)) return *std::move(joined);
  return Open(applicant);
}

size_t RunRegistry::size() const { return keys_.size(); }

}  // namespace ikkuna::ingest
