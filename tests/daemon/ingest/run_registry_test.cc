// Under which key a producer's values are kept: no two lives share a series, the ranks of a job agree.
#include "daemon/ingest/run_registry.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace ikkuna::ingest {
namespace {

class RunRegistryTest : public testing::Test {
 protected:
  static Uuid UuidOf(unsigned char number) {
    Uuid uuid{};
    uuid[0] = number;
    return uuid;
  }
  Applicant Of(const std::string& name = "job", uint32_t rank = 0, uint32_t world_size = 1) {
    Applicant applicant;
    applicant.uuid = UuidOf(++count_);
    applicant.name = name;
    applicant.rank = rank;
    applicant.world_size = world_size;
    return applicant;
  }
  // As ingest does: places it, and it lives from then on.
  Placement Enter(const Applicant& applicant) {
    Placement placement = registry_.Place(applicant);
    RunRegistry::Member member;
    member.uuid = applicant.uuid;
    member.key = placement.key;
    member.job = applicant.job;
    member.world_size = applicant.world_size;
    member.continues = placement.continues;
    member.line = placement.continues ? placement.line : placement.key.attempt;
    member.parent = applicant.parent;
    member.alive = true;
    member.count = applicant.count;
    member.unnamed = applicant.unnamed;
    member.uid = applicant.uid;
    registry_.Add(member);
    return placement;
  }
  void Die(const Applicant& applicant) { registry_.SetAlive(applicant.uuid, false); }

  // With the note that says so.
  static bool StandsAlone(const Placement& placement) {
    return !placement.continues && std::any_of(placement.notes.begin(), placement.notes.end(), [](const auto& note) {
      return note.find("of which run is not known") != std::string::npos;
    });
  }

  RunRegistry registry_;
  unsigned char count_ = 0;
};

TEST_F(RunRegistryTest, EachLifeIsAnAttempt) {
  for (uint32_t attempt = 0; attempt < 4; ++attempt) {
    const Applicant life = Of();
    const Placement placement = Enter(life);
    EXPECT_EQ(placement.key, (RunKey{"job", attempt, 0}));
    EXPECT_FALSE(placement.continues);
    EXPECT_TRUE(placement.notes.empty());
    Die(life);
  }
}

TEST_F(RunRegistryTest, AKnownUuidTakesItsOldPlace) {
  const Applicant first = Of();
  Enter(first);
  Die(first);
  const Applicant second = Of();
  Enter(second);
  const Placement back = registry_.Place(first);
  EXPECT_TRUE(back.known);
  EXPECT_EQ(back.key, (RunKey{"job", 0, 0}));
}

TEST_F(RunRegistryTest, ARequeueWithACheckpointContinuesTheAttemptBefore) {
  const Applicant before = Of();
  Enter(before);
  Die(before);
  Applicant after = Of();
  after.count = 1;  // Slurm says so from the first restart on
  after.start_step = 500;
  const Placement placement = Enter(after);
  EXPECT_EQ(placement.key, (RunKey{"job", 1, 0}));
  EXPECT_EQ(placement.continues, 0u);
  Die(after);
  Applicant resumed = Of();  // by hand, without a scheduler
  resumed.resume = true;
  const Placement third = Enter(resumed);
  EXPECT_EQ(third.key, (RunKey{"job", 2, 0}));
  EXPECT_EQ(third.continues, 1u);
}

TEST_F(RunRegistryTest, TheSchedulersCountIsTakenIfItIsAboveAllKept) {
  Applicant first = Of();
  first.count = 3;
  EXPECT_EQ(Enter(first).key.attempt, 3u);
  Die(first);
  Applicant second = Of();
  second.count = 0;  // torchrun begins at 0 in each of its lives
  EXPECT_EQ(Enter(second).key.attempt, 4u);
  Die(second);
  Applicant third = Of();
  third.count = 9;
  EXPECT_EQ(Enter(third).key.attempt, 9u);
}

// A daemon that takes other users' trainers from now on.
TEST_F(RunRegistryTest, WhatIsKnownOfUsersCountsFromWhenThereAreSeveral) {
  registry_.SetSeveralUsers(false);
  Applicant one = Of(), other = Of();
  one.uid = 1002;
  Enter(one);
  Die(one);
  other.uid = 1003;
  other.resume = true;
  EXPECT_EQ(registry_.Place(other).key, (RunKey{"job", 1, 0}));
  registry_.SetSeveralUsers(true);
  EXPECT_EQ(registry_.Place(other).key, (RunKey{"job~2", 0, 0}));
  EXPECT_TRUE(registry_.IsAnothers(one.uuid, 1003));
}

TEST_F(RunRegistryTest, ANumberBeyondAllCountsForNothing) {
  RunRegistry::Member brought;
  brought.uuid = UuidOf(200);
  brought.key = {"job", UINT32_MAX, 0};
  registry_.Add(brought);
  for (uint32_t attempt = 0; attempt < 3; ++attempt) {
    const Applicant applicant = Of();
    EXPECT_EQ(Enter(applicant).key, (RunKey{"job", attempt, 0}));
    Die(applicant);
  }
}

TEST_F(RunRegistryTest, TwoJobsAtOnceUnderOneId) {
  const Applicant one = Of();
  const Applicant two = Of();
  const Applicant three = Of();
  EXPECT_EQ(Enter(one).key, (RunKey{"job", 0, 0}));
  const Placement second = Enter(two);
  EXPECT_EQ(second.key, (RunKey{"job~2", 0, 0}));
  ASSERT_EQ(second.notes.size(), 1u);
  EXPECT_NE(second.notes[0].find("another job lives under the name 'job'"), std::string::npos) << second.notes[0];
  EXPECT_EQ(Enter(three).key, (RunKey{"job~3", 0, 0}));
  Die(two);
  EXPECT_EQ(Enter(Of()).key, (RunKey{"job~2", 1, 0})) << "the first name that nobody lives";
}

// Without a job key nothing tells it from a job that begins at that step: the one that lives may be either.
TEST_F(RunRegistryTest, ARequeueBesideAJobThatLivesGoesByItsKeyOrStandsAlone) {
  for (const bool keyed : {false, true}) {
    const std::string name = keyed ? "keyed" : "plain";
    Applicant one = Of(name);
    Applicant two = Of(name);
    if (keyed) one.job = {"here", "1"};
    if (keyed) two.job = {"here", "2"};
    Enter(one);
    Enter(two);
    Die(two);
    Applicant again = Of(name);
    again.job = two.job;
    again.count = 1;
    again.start_step = 10;
    const Placement placement = Enter(again);
    EXPECT_EQ(placement.key, (RunKey{name + "~2", 1, 0}));
    EXPECT_EQ(placement.continues, keyed ? std::optional<uint32_t>(0) : std::nullopt);
    EXPECT_EQ(StandsAlone(placement), !keyed);
  }
}

// Two jobs at once under one id, both requeued, in either order, with and without a count and a key.
TEST_F(RunRegistryTest, TwoRequeuedJobsAreNeverDrawnAsOneLine) {
  for (int variant = 0; variant < 8; ++variant) {
    const bool b_first = (variant & 1) != 0;
    const bool counted = (variant & 2) != 0;
    const bool keyed = (variant & 4) != 0;
    const std::string name = "q" + std::to_string(variant);
    const auto life = [&](bool is_b, bool requeued) {
      Applicant applicant = Of(name);
      if (counted) applicant.count = requeued ? 1 : 0;
      if (keyed) applicant.job = {"localhost", is_b ? "29501" : "29500"};
      if (requeued) applicant.start_step = 100;
      return applicant;
    };
    const Applicant a = life(false, false);
    const Applicant b = life(true, false);
    ASSERT_EQ(Enter(a).key, (RunKey{name, 0, 0}));
    ASSERT_EQ(Enter(b).key, (RunKey{name + "~2", 0, 0}));
    Die(a);
    Die(b);
    for (const bool is_b : {b_first, !b_first}) {
      const Placement placement = Enter(life(is_b, true));
      const bool second = is_b != b_first;
      // By the key each goes on with its own; without it they stand under whichever name is free.
      const bool copy = keyed ? is_b : second;
      EXPECT_EQ(placement.key, (RunKey{copy ? name + "~2" : name, 1, 0})) << variant << is_b;
      EXPECT_EQ(placement.continues, keyed ? std::optional<uint32_t>(0) : std::nullopt) << variant << is_b;
      EXPECT_EQ(StandsAlone(placement), !keyed) << variant << is_b;
    }
  }
}

TEST_F(RunRegistryTest, AKeyThatSeveralRunsHaveDoesNotTell) {
  const auto life = [&](uint64_t start_step, const std::string& port = "29500") {
    Applicant applicant = Of();
    applicant.job = {"localhost", port};
    applicant.start_step = start_step;
    return applicant;
  };
  const Applicant a = life(0);
  const Applicant b = life(0);
  Enter(a);
  Enter(b);
  Die(a);
  Die(b);
  const Applicant first = life(100);
  EXPECT_TRUE(StandsAlone(Enter(first)));
  EXPECT_TRUE(StandsAlone(registry_.Place(life(100)))) << "the run of that key that nobody lives is not the only one";
  Die(first);
  // One of another key begins under the name: older attempts still have the key.
  const Applicant other = life(0, "1");
  EXPECT_EQ(Enter(other).key, (RunKey{"job", 2, 0}));
  EXPECT_TRUE(StandsAlone(registry_.Place(life(100))));
  Die(other);
  EXPECT_TRUE(StandsAlone(registry_.Place(life(100))));
  // A key that no run has tells nothing, nor does one of another world size.
  EXPECT_TRUE(StandsAlone(registry_.Place(life(100, "2"))));
  Applicant wider = life(100, "1");
  wider.world_size = 2;
  wider.count = 9;
  EXPECT_TRUE(StandsAlone(registry_.Place(wider)));
}

TEST_F(RunRegistryTest, AKeyTellsOfNoAttemptButTheNewest) {
  Applicant a = Of();
  Applicant b = Of();
  a.job = {"localhost", "1"};
  b.job = {"localhost", "2"};
  Enter(a);
  Enter(b);
  Die(a);
  Die(b);
  const Applicant between = Of();
  EXPECT_EQ(Enter(between).key, (RunKey{"job", 1, 0}));
  Die(between);
  Applicant again = Of();
  again.job = a.job;
  again.resume = true;
  const Placement placement = Enter(again);
  EXPECT_EQ(placement.key, (RunKey{"job", 2, 0}));
  EXPECT_TRUE(StandsAlone(placement)) << "it would be drawn as the line of the one between";
}

// All ranks of a requeued job go by what its first was told.
TEST_F(RunRegistryTest, TheRanksOfARequeuedJobContinueTheirOwn) {
  const auto life = [&](bool is_b, uint32_t rank, bool requeued) {
    Applicant applicant = Of("job", rank, 2);
    applicant.job = {"localhost", is_b ? "29501" : "29500"};
    applicant.count = requeued ? 1 : 0;
    applicant.resume = requeued;
    return applicant;
  };
  std::vector<Applicant> before;
  for (const bool is_b : {false, true}) {
    for (const uint32_t rank : {0u, 1u}) before.push_back(life(is_b, rank, false));
  }
  for (const Applicant& applicant : before) Enter(applicant);
  for (const Applicant& applicant : before) Die(applicant);
  const std::vector<std::pair<bool, uint32_t>> order = {{true, 1}, {false, 0}, {true, 0}, {false, 1}};
  for (const auto& [is_b, rank] : order) {
    const Placement placement = Enter(life(is_b, rank, true));
    EXPECT_EQ(placement.key, (RunKey{is_b ? "job~2" : "job", 1, rank}));
    EXPECT_EQ(placement.continues, 0u);
  }
}

// Of a family of which only a copy is kept the others were deleted: it may have been one of those.
TEST_F(RunRegistryTest, AContinuationBesideACopyAloneStandsAlone) {
  RunRegistry::Member kept;
  kept.uuid = UuidOf(200);
  kept.key = {"job~2", 0, 0};
  registry_.Add(kept);
  Applicant again = Of();
  again.resume = true;
  const Placement placement = Enter(again);
  EXPECT_EQ(placement.key, (RunKey{"job", 0, 0}));
  EXPECT_TRUE(StandsAlone(placement));
}

TEST_F(RunRegistryTest, AContinuationThatFitsTwoRunsStandsAlone) {
  const Applicant one = Of();
  const Applicant two = Of();
  Enter(one);
  Enter(two);
  Die(one);
  Die(two);
  Applicant again = Of();
  again.resume = true;
  const Placement placement = Enter(again);
  EXPECT_EQ(placement.key, (RunKey{"job", 1, 0}));
  EXPECT_FALSE(placement.continues);
  ASSERT_EQ(placement.notes.size(), 1u);
  EXPECT_NE(placement.notes[0].find("'job', 'job~2'"), std::string::npos) << placement.notes[0];
}

TEST_F(RunRegistryTest, RanksThatStartSecondsApartAgree) {
  const Applicant before = Of("job", 0, 4);
  Enter(before);
  Die(before);
  std::vector<Applicant> ranks;
  for (const uint32_t rank : {2u, 0u, 3u, 1u}) {
    Applicant applicant = Of("job", rank, 4);
    applicant.resume = rank == 2;  // the first says it for all
    const Placement placement = Enter(applicant);
    EXPECT_EQ(placement.key, (RunKey{"job", 1, rank}));
    EXPECT_EQ(placement.continues, 0u) << rank;
    ranks.push_back(applicant);
  }
  // One dies and is started anew by hand: its slot was taken, and the others live.
  Die(ranks[0]);
  const Placement again = Enter(Of("job", 2, 4));
  EXPECT_EQ(again.key, (RunKey{"job~2", 0, 2}));
}

TEST_F(RunRegistryTest, ARankOfARestartedJobDoesNotJoinTheLifeBefore) {
  Applicant old = Of("job", 1, 2);
  old.count = 0;
  Enter(old);
  Die(old);
  Applicant leader = Of("job", 0, 2);
  leader.count = 1;
  EXPECT_EQ(Enter(leader).key.attempt, 1u);
  Applicant follower = Of("job", 1, 2);
  follower.count = 1;
  EXPECT_EQ(Enter(follower).key, (RunKey{"job", 1, 1}));
  EXPECT_EQ(Enter(follower).key.attempt, 1u);
  // Nor where a member of that life hangs on, and the slot was never taken.
  Applicant hung = Of("hung", 0, 2);
  hung.count = 0;
  Enter(hung);
  Applicant anew = Of("hung", 1, 2);
  anew.count = 1;
  EXPECT_NE(Enter(anew).key, (RunKey{"hung", 0, 1}));
}

// Earlier lives lifted our number above the scheduler's count.
TEST_F(RunRegistryTest, ARankOfARestartedJobDoesNotJoinOneThatHangsOnUnderAGreaterNumber) {
  for (int life = 0; life < 3; ++life) {
    Applicant before = Of("job", 0, 2);
    before.count = 0;
    Enter(before);
    Die(before);
  }
  Applicant hung = Of("job", 0, 2);
  hung.count = 0;
  EXPECT_EQ(Enter(hung).key, (RunKey{"job", 3, 0}));
  Applicant anew = Of("job", 1, 2);
  anew.count = 1;
  EXPECT_NE(Enter(anew).key, (RunKey{"job", 3, 1}));
  Applicant same = Of("job", 1, 2);
  same.count = 0;
  EXPECT_EQ(Enter(same).key, (RunKey{"job", 3, 1}));
}

TEST_F(RunRegistryTest, AContinuationOfNothingThatIsHereSaysSo) {
  Applicant resumed = Of();
  resumed.start_step = 500;
  const Placement placement = Enter(resumed);
  EXPECT_FALSE(placement.continues);
  ASSERT_EQ(placement.notes.size(), 1u);
  EXPECT_NE(placement.notes[0].find("ikkuna import"), std::string::npos) << placement.notes[0];
}

// torchrun without an id: each rank has made up one.
TEST_F(RunRegistryTest, RanksThatNobodyNamedAreOneRunIfTheyMeetAtOnePlaceAndHaveOneParent) {
  const auto of = [&](int job, uint32_t rank, uint32_t world_size = 3) {
    Applicant applicant = Of("id-" + std::to_string(count_ + 1), rank, world_size);
    applicant.unnamed = true;
    applicant.job = {"localhost", job == 0 ? "29500" : "29501"};
    applicant.parent = 100 + job;
    return applicant;
  };
  const Applicant first = of(0, 1), other = of(1, 0);
  EXPECT_EQ(Enter(first).key, (RunKey{"id-1", 0, 1}));
  EXPECT_EQ(Enter(other).key, (RunKey{"id-2", 0, 0}));
  const Placement joined = Enter(of(0, 0));
  EXPECT_EQ(joined.key, (RunKey{"id-1", 0, 0}));
  EXPECT_TRUE(joined.notes.empty());
  EXPECT_EQ(Enter(of(1, 1)).key, (RunKey{"id-2", 0, 1}));
  // Not where one of these is another: the parent, the address, the size, or that somebody named it.
  Applicant stranger = of(0, 2);
  stranger.parent = 7;
  EXPECT_EQ(Enter(stranger).key, (RunKey{"id-5", 0, 2}));
  stranger = of(0, 2);
  stranger.parent = 0;  // in a container, where another job may meet at the same address
  EXPECT_EQ(Enter(stranger).key, (RunKey{"id-6", 0, 2}));
  stranger = of(0, 2);
  stranger.job = {};
  EXPECT_EQ(Enter(stranger).key, (RunKey{"id-7", 0, 2}));
  EXPECT_EQ(Enter(of(0, 2, 4)).key, (RunKey{"id-8", 0, 2}));
  stranger = of(0, 2);
  stranger.unnamed = false;
  EXPECT_EQ(Enter(stranger).key, (RunKey{"id-9", 0, 2}));
  EXPECT_EQ(Enter(of(0, 2)).key, (RunKey{"id-1", 0, 2}));
  // Its slot was taken: the next probe of a rank is another run, and the others follow it there.
  for (const uint32_t rank : {1u, 0u}) {
    registry_.SetAlive(UuidOf(rank == 1 ? 1 : 3), false);
    EXPECT_EQ(Enter(of(0, rank)).key, (RunKey{"id-11", 0, rank}));
  }
}

TEST_F(RunRegistryTest, TwoJobsOfTwoRanksUnderOneIdAreNotMixed) {
  std::vector<std::string> ports = {"29500", "29501"};
  std::vector<Placement> placements;
  for (const auto& [job, rank] : std::vector<std::pair<int, uint32_t>>{{0, 0}, {1, 1}, {0, 1}, {1, 0}}) {
    Applicant applicant = Of("job", rank, 2);
    applicant.job = {"localhost", ports[static_cast<size_t>(job)]};
    EXPECT_EQ(Enter(applicant).key, (RunKey{job == 0 ? "job" : "job~2", 0, rank}));
  }
  // Where no address is known, the parent process tells them apart.
  for (const auto& [job, rank] : std::vector<std::pair<int, uint32_t>>{{0, 0}, {1, 1}, {0, 1}, {1, 0}}) {
    Applicant applicant = Of("other", rank, 2);
    applicant.parent = 100 + job;
    EXPECT_EQ(Enter(applicant).key, (RunKey{job == 0 ? "other" : "other~2", 0, rank}));
  }
}

TEST_F(RunRegistryTest, ARankThatFitsTwoRunsIsTold) {
  Enter(Of("job", 0, 2));
  Enter(Of("job", 0, 2));
  const Placement placement = Enter(Of("job", 1, 2));
  EXPECT_EQ(placement.key, (RunKey{"job", 0, 1}));
  ASSERT_FALSE(placement.notes.empty());
  EXPECT_NE(placement.notes[0].find("MASTER_ADDR"), std::string::npos);
}

TEST_F(RunRegistryTest, ADaemonThatRestartsBetweenRanks) {
  const Applicant rank0 = Of("job", 0, 2);
  RunRegistry::Member kept;  // as the store has it: nothing of its parent
  kept.uuid = rank0.uuid;
  kept.key = {"job", 7, 0};
  kept.world_size = 2;
  kept.continues = 6;
  kept.line = 4;
  kept.alive = true;
  registry_.Add(kept);
  Applicant rank1 = Of("job", 1, 2);
  rank1.parent = 42;
  const Placement placement = Enter(rank1);
  EXPECT_EQ(placement.key, (RunKey{"job", 7, 1}));
  EXPECT_EQ(placement.continues, 6u);
  EXPECT_EQ(placement.line, 4u);
  EXPECT_EQ(registry_.Place(rank0).key, kept.key);
  EXPECT_EQ(registry_.Place(rank0).line, 4u);
  // Whoever goes on with it is of the same line.
  Die(rank0);
  Die(rank1);
  Applicant next = Of("job", 0, 2);
  next.resume = true;
  EXPECT_EQ(Enter(next).continues, 7u);
  EXPECT_EQ(registry_.Place(next).line, 4u);
}

TEST_F(RunRegistryTest, WithoutACountThisHostNumbersAloneAndSaysSo) {
  const Placement placement = Enter(Of("job", 0, 8));
  ASSERT_EQ(placement.notes.size(), 1u);
  EXPECT_NE(placement.notes[0].find("this host alone"), std::string::npos);
  Applicant counted = Of("counted", 0, 8);
  counted.count = 0;
  EXPECT_TRUE(Enter(counted).notes.empty());
}

TEST_F(RunRegistryTest, ANameOfTheLongestStaysWithinItsLimit) {
  const std::string name(255, 'n');
  Enter(Of(name));
  const Placement second = Enter(Of(name));
  EXPECT_EQ(second.key.run_id, std::string(253, 'n') + "~2");
}

// Two users of one daemon, who call their jobs the same.
TEST_F(RunRegistryTest, ARunOfAnotherUserIsNeitherJoinedNorContinuedNorFree) {
  const Applicant theirs = Of("train", 0, 2);
  Enter(theirs);
  Applicant rank = Of("train", 1, 2);
  rank.uid = 7;
  EXPECT_EQ(registry_.Place(rank).key, (RunKey{"train~2", 0, 1}));
  Die(theirs);
  Applicant own = Of("train");
  own.uid = 7;
  own.resume = true;
  const Placement alone = Enter(own);
  EXPECT_EQ(alone.key, (RunKey{"train~2", 0, 0}));
  EXPECT_FALSE(alone.continues);
  ASSERT_FALSE(alone.notes.empty());
  EXPECT_NE(alone.notes.back().find("another user's"), std::string::npos);
  // Its next life goes on with its own, and the other user's with theirs.
  Die(own);
  Applicant next = Of("train");
  next.uid = 7;
  next.resume = true;
  const Placement continued = Enter(next);
  EXPECT_EQ(continued.key, (RunKey{"train~2", 1, 0}));
  EXPECT_EQ(continued.continues, 0u);
  Die(next);
  Applicant back = Of("train");
  back.start_step = 5;
  EXPECT_EQ(registry_.Place(back).key, (RunKey{"train", 1, 0}));
  EXPECT_TRUE(registry_.IsAnothers(theirs.uuid, 7));
  EXPECT_FALSE(registry_.IsAnothers(own.uuid, 7));
}

}  // namespace
}  // namespace ikkuna::ingest
