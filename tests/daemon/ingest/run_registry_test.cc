#include "daemon/ingest/run_registry.h"

#include <gtest/gtest.h>

namespace ikkuna::ingest {
namespace {

Applicant Who(unsigned char uuid, const std::string& name, uint32_t rank = 0, uint32_t world_size = 1) {
  Applicant applicant;
  applicant.uuid[0] = uuid;
  applicant.name = name;
  applicant.rank = rank;
  applicant.world_size = world_size;
  return applicant;
}

// Places the applicant and lets it live there.
Placement Come(RunRegistry& registry, const Applicant& applicant) {
  Placement placement = registry.Place(applicant);
  registry.Add({applicant.uuid, placement.key, applicant.job, applicant.world_size, placement.continues,
                applicant.parent, true});
  return placement;
}

TEST(RunRegistry, EachLifeOfARunIsAnAttempt) {
  RunRegistry registry;
  for (unsigned char life = 0; life < 3; ++life) {
    const Applicant job = Who(life, "job");
    EXPECT_EQ(Come(registry, job).key, (RunKey{"job", life, 0}));
    registry.SetAlive(job.uuid, false);
  }
}

TEST(RunRegistry, TheSchedulersCountIsTheAttemptWhereItIsAboveAllThatAreKept) {
  RunRegistry registry;
  Applicant job = Who(1, "job");
  job.count = 3;
  EXPECT_EQ(Come(registry, job).key.attempt, 3u);
  registry.SetAlive(job.uuid, false);
  job = Who(2, "job");
  job.count = 3;
  EXPECT_EQ(Come(registry, job).key.attempt, 4u);
}

TEST(RunRegistry, AUuidThatIsKnownTakesItsOldPlace) {
  RunRegistry registry;
  Come(registry, Who(1, "job"));
  registry.SetAlive(Who(1, "").uuid, false);
  Come(registry, Who(2, "job"));
  const Placement back = registry.Place(Who(1, "job"));
  EXPECT_TRUE(back.known);
  EXPECT_EQ(back.key, (RunKey{"job", 0, 0}));
}

TEST(RunRegistry, TwoJobsAtOnceUnderOneNameAreTwoRuns) {
  RunRegistry registry;
  EXPECT_EQ(Come(registry, Who(1, "same")).key.run_id, "same");
  const Placement second = Come(registry, Who(2, "same"));
  EXPECT_EQ(second.key, (RunKey{"same~2", 0, 0}));
  ASSERT_FALSE(second.notes.empty());
  EXPECT_NE(second.notes.front().find("same~2"), std::string::npos);
  EXPECT_EQ(Come(registry, Who(3, "same")).key.run_id, "same~3");
}

TEST(RunRegistry, RanksThatComeLaterJoinTheirJobsAttempt) {
  RunRegistry registry;
  Applicant first = Who(1, "job", 0, 2);
  first.job = {"host", "29500"};
  EXPECT_EQ(Come(registry, first).key, (RunKey{"job", 0, 0}));
  Applicant second = Who(2, "job", 1, 2);
  second.job = {"host", "29500"};
  EXPECT_EQ(Come(registry, second).key, (RunKey{"job", 0, 1}));
  Applicant other = Who(3, "job", 1, 2);
  other.job = {"host", "29501"};
  EXPECT_EQ(registry.Place(other).key.run_id, "job~2");
}

TEST(RunRegistry, ARankJoinsWhomAnEarlierDaemonServed) {
  RunRegistry registry;
  Applicant first = Who(1, "job", 0, 2);
  registry.Add({first.uuid, {"job", 4, 0}, {}, 2, std::nullopt, 0, true});
  Applicant second = Who(2, "job", 1, 2);
  second.job = {"host", "29500"};
  EXPECT_EQ(registry.Place(second).key, (RunKey{"job", 4, 1}));
}

TEST(RunRegistry, AnAttemptContinuesTheOneBeforeIfItsTrainerSaysSo) {
  RunRegistry registry;
  Come(registry, Who(1, "job"));
  registry.SetAlive(Who(1, "").uuid, false);
  EXPECT_FALSE(registry.Place(Who(2, "job")).continues);
  Applicant resumed = Who(2, "job");
  resumed.start_step = 5;
  const Placement placement = Come(registry, resumed);
  EXPECT_EQ(placement.key.attempt, 1u);
  EXPECT_EQ(placement.continues, 0u);
}

TEST(RunRegistry, AContinuationThatFitsTwoRunsStandsAlone) {
  RunRegistry registry;
  Come(registry, Who(1, "same"));
  Come(registry, Who(2, "same"));
  registry.SetAlive(Who(1, "").uuid, false);
  registry.SetAlive(Who(2, "").uuid, false);
  Applicant resumed = Who(3, "same");
  resumed.resume = true;
  const Placement placement = registry.Place(resumed);
  EXPECT_FALSE(placement.continues);
  EXPECT_FALSE(placement.notes.empty());
}

}  // namespace
}  // namespace ikkuna::ingest
