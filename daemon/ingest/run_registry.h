// RunRegistry: under which key a producer's values are kept, so that no two lives share a series.
//
// A run's name is what the trainer or its scheduler calls it; each life of its processes is an attempt. The rules, in
// this order:
//   1. A uuid that is known takes its old place again (a daemon that restarts, a connection that was lost).
//   2. A rank joins the newest attempt of its job if a member of that lives and the rank's own slot was never taken
//      (ranks that start seconds apart). Members of one job agree in name, MASTER_ADDR, MASTER_PORT and world size;
//      where the address is unknown, also in their parent process, where that is known; of a scheduler's restart counts
//      those that are known are the same. It takes over whether the attempt continues another. Ranks whose launcher
//      named no run (torchrun without an id) are of one job if they agree in MASTER_ADDR, MASTER_PORT, world size and a
//      parent process that is known.
//   3. Where a member of the name lives otherwise, this is another job under the same name: `name~2`, `name~3`, ...,
//      the first of which nobody lives, with a note. So it is where runs of the name are another user's, living or not:
//      those are neither joined nor continued.
//   4. Else a new attempt begins: the scheduler's restart count if it is above all that are kept, else the highest plus one.
//   5. An attempt continues the one before if its trainer says so and it is known which that is: of `name`, `name~2`,
//      ... the run that alone has the applicant's job key (where it has an address), if its newest attempt has it and
//      nobody lives there; else `name` itself (the first that is not another user's), if that is all there is of the
//      name and nobody lives there. Any other
//      stands alone, with a note: two jobs must never be drawn as one line.
// A known uuid that another user says is no rule: ask IsAnothers() first.
// Owner: Ingest, under its mutex. No clock, no file, no process is looked at here: who lives is the caller's word.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "daemon/model/run.h"

namespace ikkuna::ingest {

// Who asks for a place.
struct Applicant {
  Uuid uuid{};
  std::string name;               // its run_id
  std::optional<uint32_t> count;  // the scheduler's restart count
  uint32_t rank = 0;
  uint32_t world_size = 1;
  JobKey job;
  bool resume = false;      // the trainer says that it goes on
  uint64_t start_step = 0;  // above 0 says the same
  int32_t parent = 0;       // its parent process; 0: not known
  bool unnamed = false;     // nobody gave it a run_id: it made up one of its own
  uint32_t uid = 0;         // its user, the kernel's word
};

struct Placement {
  RunKey key;
  std::optional<uint32_t> continues;
  uint32_t line = 0;               // with `continues`: the attempt with which its line began
  bool known = false;              // by rule 1
  std::vector<std::string> notes;  // for status and an event: what a person should know of this choice
};

class RunRegistry {
 public:
  // How many jobs may live at once under one name: all producers of a daemon, each a job of its own.
  static constexpr uint32_t kSameNameMax = 64;
  // Beyond it nothing is counted on: a later attempt needs a number above.
  static constexpr uint32_t kAttemptMax = 1'000'000'000;

  struct Member {
    Uuid uuid{};
    RunKey key;
    JobKey job;
    uint32_t world_size = 1;
    std::optional<uint32_t> continues;
    uint32_t line = 0;  // the attempt with which its line began
    int32_t parent = 0;
    bool alive = false;
    std::optional<uint32_t> count = std::nullopt;  // the scheduler's restart count; none: not known
    bool unnamed = false;
    std::optional<uint32_t> uid = std::nullopt;  // none: not known, and so nobody else's
  };

  // Whether runs of one user are not another's; else they are one's all the same: a run may have been brought from another
  // host, whose users have other numbers.
  void SetSeveralUsers(bool several) { several_users_ = several; }

  // One that is kept from before, or that lives. A later one of the same uuid takes its place.
  void Add(const Member& member);
  void SetAlive(const Uuid& uuid, bool alive);

  // The uuid is of a member that another user has.
  bool IsAnothers(const Uuid& uuid, uint32_t uid) const;

  // Where the applicant belongs. Changes nothing: Add() what came of it.
  Placement Place(const Applicant& applicant) const;

  size_t size() const;

 private:
  struct Attempt {
    std::map<uint32_t, Member> ranks;
    bool lives() const;
    bool IsOfJob(const Applicant& applicant) const;  // by the job key
  };
  using Attempts = std::map<uint32_t, Attempt>;  // by number
  // What there is of name, name~2, ...
  struct Family {
    uint32_t free = kSameNameMax + 1;  // the first copy that nobody lives
    uint32_t own = 1;                // the first copy that is not another user's
    std::vector<const std::string*> runs;  // that are not another user's
    std::vector<const std::string*> of_job;  // those that have the applicant's job key
  };

  bool AreAnothers(const Attempts& attempts, uint32_t uid) const;
  bool Joins(const Applicant& applicant, const Attempts& attempts) const;
  std::optional<Placement> Join(const Applicant& applicant) const;
  std::optional<Placement> JoinUnnamed(const Applicant& applicant) const;
  static Placement PlaceIn(const std::string& name, const Attempts& attempts, uint32_t rank);
  Family FamilyOf(const Applicant& applicant) const;
  // The run whose newest attempt the applicant goes on with; null: not known.
  const std::string* ContinuedBy(const Applicant& applicant, const Family& family) const;
  Placement Open(const Applicant& applicant) const;

  std::map<std::string, Attempts> runs_;  // by run_id
  std::map<Uuid, RunKey> keys_;
  bool several_users_ = true;
};

}  // namespace ikkuna::ingest
