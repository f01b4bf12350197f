#include "daemon/graph/job_steps.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <set>
#include <thread>
#include <tuple>

namespace ikkuna::graph {
namespace {

using Taken = JobSteps::Taken;
constexpr uint64_t kDeadline = 1000;
const Timeline kTrain{"model", "default"};
const Timeline kTest{"model", "test"};

JobContribution Brought(double value, size_t inputs = 1) {
  JobContribution contribution;
  for (size_t i = 0; i < inputs; ++i) {
    JobInput input;
    input.index = i;
    input.module = "fc1";
    input.content = Value(value);
    contribution.inputs.push_back(std::move(input));
  }
  return contribution;
}

// What was given out, as text: "model/default 3: 0 1 missing 2 late, not seen 3-7".
std::string Line(const JobStep& step) {
  std::string line = step.timeline.root + "/" + step.timeline.tag + " " + std::to_string(step.step) + ":";
  for (const auto& [rank, contribution] : step.ranks) line += " " + std::to_string(rank);
  for (const auto& [rank, why] : step.missing) {
    line += ", " + std::to_string(rank) + " " + std::string(MissingRankName(why));
  }
  for (const RankRange& range : *step.not_seen) {
    line += ", not seen " + std::to_string(range.first) + "-" + std::to_string(range.last);
  }
  return line;
}

class JobStepsTest : public testing::Test {
 public:
  void SetUp() override { ::alarm(120); }  // nothing here may hang
  void TearDown() override { ::alarm(0); }

  void Make(uint32_t world_size, uint64_t bytes_max = 1 << 30, JobSteps::LastRecorded last_recorded = nullptr) {
    budget_ = std::make_unique<MemoryBudget>(bytes_max);
    steps_ = std::make_unique<JobSteps>(world_size, kDeadline, *budget_,
                                        [this](JobStep step) { given_.push_back(Line(step)); },
                                        std::move(last_recorded));
  }
  std::vector<std::string> Given() { return std::exchange(given_, {}); }
  Taken Put(uint64_t member, uint64_t step, uint64_t now = 0, const Timeline& timeline = kTrain) {
    return steps_->Contribute(member, timeline, step, Brought(1), now);
  }

  std::unique_ptr<MemoryBudget> budget_;
  std::unique_ptr<JobSteps> steps_;
  std::vector<std::string> given_;
};
using Lines = std::vector<std::string>;

TEST_F(JobStepsTest, AStepGoesWhenEveryRankClosedIt) {
  Make(3);
  uint64_t m[3];
  for (uint32_t i = 0; i < 3; ++i) m[i] = steps_->Join(i, 0);
  Put(m[0], 10);
  Put(m[0], 20);
  Put(m[1], 10);
  EXPECT_EQ(Given(), Lines());
  Put(m[2], 20);  // it has nothing for 10, and never will
  EXPECT_EQ(Given(), Lines{"model/default 10: 0 1, 2 nothing"});
  steps_->Pass(m[1], kTrain, 30);
  EXPECT_EQ(Given(), Lines{"model/default 20: 0 2, 1 nothing"});
  EXPECT_EQ(Put(m[1], 30), Taken::kRepeated);
  EXPECT_EQ(Put(m[0], 20), Taken::kRepeated);
}

TEST_F(JobStepsTest, WhatAnEarlierDaemonRecordedIsNotMadeAgain) {
  Make(2, 1 << 30, [](const Timeline& timeline) {
    return timeline == kTrain ? std::optional<uint64_t>(20) : std::nullopt;
  });
  const uint64_t a = steps_->Join(0, 0), b = steps_->Join(1, 0);
  EXPECT_EQ(Put(a, 10), Taken::kRecorded);
  EXPECT_EQ(Put(a, 20), Taken::kRecorded);
  EXPECT_EQ(Put(b, 20), Taken::kRecorded);
  EXPECT_EQ(Put(a, 10, 0, kTest), Taken::kTaken);
  EXPECT_EQ(Given(), Lines());
  EXPECT_EQ(Put(a, 30), Taken::kTaken);
  EXPECT_EQ(Put(b, 30), Taken::kTaken);
  EXPECT_EQ(Given(), Lines{"model/default 30: 0 1"});
  EXPECT_EQ(Put(b, 30), Taken::kRepeated);
}

TEST_F(JobStepsTest, TimelinesKnowNothingOfEachOther) {
  Make(2);
  const uint64_t a = steps_->Join(0, 0), b = steps_->Join(1, 0);
  Put(a, 10);
  Put(a, 10, 0, kTest);
  Put(b, 100, 0, kTest);
  EXPECT_EQ(Given(), Lines{"model/test 10: 0, 1 nothing"});
  Put(b, 10);
  EXPECT_EQ(Given(), Lines{"model/default 10: 0 1"});
}

TEST_F(JobStepsTest, AfterTheDeadlineTheMissingAreNamed) {
  Make(3);
  const uint64_t a = steps_->Join(0, 0), b = steps_->Join(1, 0);
  steps_->Join(2, 0);
  Put(a, 1, 500);
  Put(a, 2, 600);
  Put(b, 2, 700);
  steps_->Tick(1499);
  EXPECT_EQ(Given(), Lines());
  steps_->Tick(1500);
  // It is not waited for again until it was heard: the next step goes, too.
  EXPECT_EQ(Given(), (Lines{"model/default 1: 0, 1 nothing, 2 late", "model/default 2: 0 1, 2 late"}));
}

TEST_F(JobStepsTest, ARankThatWasSilentIsWaitedForOnceItIsHeard) {
  Make(2);
  const uint64_t a = steps_->Join(0, 0), b = steps_->Join(1, 0);
  Put(a, 1, 0);
  steps_->Tick(1000);
  EXPECT_EQ(Given(), Lines{"model/default 1: 0, 1 late"});
  Put(a, 2, 1001);
  EXPECT_EQ(Given(), Lines{"model/default 2: 0, 1 late"});
  EXPECT_EQ(Put(b, 1, 1002), Taken::kLate);
  Put(a, 3, 1003);
  EXPECT_EQ(Given(), Lines());
  EXPECT_EQ(Put(b, 2, 1004), Taken::kLate);
  EXPECT_EQ(Put(b, 3, 1005), Taken::kTaken);
  EXPECT_EQ(Given(), Lines{"model/default 3: 0 1"});
}

TEST_F(JobStepsTest, ADeadlineTakesAllBeforeItAlong) {
  Make(2);
  const uint64_t a = steps_->Join(0, 0), b = steps_->Join(1, 0);
  steps_->Join(7, 0);  // above world_size, and never speaks
  Put(a, 20, 0);
  Put(b, 10, 900);
  steps_->Tick(1000);
  EXPECT_EQ(Given(), (Lines{"model/default 10: 1, 0 nothing, 7 late", "model/default 20: 0, 1 late, 7 late"}));
}

TEST_F(JobStepsTest, ARankThatLeavesIsNotWaitedFor) {
  Make(2);
  const uint64_t a = steps_->Join(0, 0), b = steps_->Join(1, 0);
  Put(a, 1);
  Put(b, 1);
  Put(b, 2);
  Put(a, 2);
  Put(b, 3);
  Put(a, 4);
  EXPECT_EQ(Given(), (Lines{"model/default 1: 0 1", "model/default 2: 0 1", "model/default 3: 1, 0 nothing"}));
  steps_->Leave(b);
  EXPECT_EQ(Given(), Lines{"model/default 4: 0, 1 left"});
  EXPECT_EQ(Put(b, 5), Taken::kNotJoined);
  steps_->Leave(b);
  const uint64_t again = steps_->Join(1, 0);
  Put(a, 5);
  EXPECT_EQ(Given(), Lines());
  Put(again, 5);
  EXPECT_EQ(Given(), Lines{"model/default 5: 0 1"});
}

TEST_F(JobStepsTest, WhatARankBroughtBeforeItLeftStays) {
  Make(2);
  const uint64_t a = steps_->Join(0, 0), b = steps_->Join(1, 0);
  Put(b, 1);
  steps_->Leave(b);
  EXPECT_EQ(Given(), Lines());
  Put(a, 1);
  EXPECT_EQ(Given(), Lines{"model/default 1: 0 1"});
}

// The new connection of a process may come before the daemon is done with its old one.
TEST_F(JobStepsTest, ARankThatComesAgainTakesItsPlaceOver) {
  Make(2);
  const uint64_t a = steps_->Join(0, 0), b = steps_->Join(1, 0);
  const uint64_t again = steps_->Join(1, 0);
  Put(a, 1);
  steps_->Leave(b);
  EXPECT_EQ(Given(), Lines()) << "its former self's leaving is not its own";
  Put(again, 1);
  EXPECT_EQ(Given(), Lines{"model/default 1: 0 1"});
}

TEST_F(JobStepsTest, RanksThatNeverCameAreWaitedForAtTheBeginningOnly) {
  Make(8);
  const uint64_t a = steps_->Join(1, 100), b = steps_->Join(4, 200);
  Put(a, 1, 300);
  Put(b, 1, 300);
  steps_->Tick(1099);
  EXPECT_EQ(Given(), Lines());
  steps_->Tick(1100);
  EXPECT_EQ(Given(), Lines{"model/default 1: 1 4, not seen 0-0, not seen 2-3, not seen 5-7"});
  Put(a, 2, 1200);
  Put(b, 2, 1200);
  EXPECT_EQ(Given(), Lines{"model/default 2: 1 4, not seen 0-0, not seen 2-3, not seen 5-7"});
  const uint64_t late = steps_->Join(0, 1300);
  Put(a, 3, 1400);
  Put(b, 3, 1400);
  EXPECT_EQ(Given(), Lines());
  Put(late, 3, 1400);
  EXPECT_EQ(Given(), Lines{"model/default 3: 0 1 4, not seen 2-3, not seen 5-7"});
}

// A short run of one rank, whose job has others elsewhere: its steps do not go with it.
TEST_F(JobStepsTest, WhenTheLastLeavesAllGoesOut) {
  Make(4);
  const uint64_t a = steps_->Join(0, 0), b = steps_->Join(1, 0);
  Put(a, 1);
  Put(b, 1);
  Put(b, 2);
  steps_->Leave(a);
  EXPECT_EQ(Given(), Lines());
  steps_->Leave(b);
  EXPECT_EQ(Given(), (Lines{"model/default 1: 0 1, not seen 2-3", "model/default 2: 1, 0 left, not seen 2-3"}));
}

TEST_F(JobStepsTest, AWorldOfBillionsCostsNothing) {
  Make(~0u);
  const uint64_t a = steps_->Join(0, 0);
  Put(a, 1);
  steps_->Tick(kDeadline);
  EXPECT_EQ(Given(), Lines{"model/default 1: 0, not seen 1-4294967294"});
}

TEST_F(JobStepsTest, WithoutRoomTheRankIsMissingAndTheOthersGoOn) {
  Make(2, 2000);
  const uint64_t a = steps_->Join(0, 0), b = steps_->Join(1, 0);
  EXPECT_EQ(Put(a, 1), Taken::kTaken);
  EXPECT_EQ(steps_->Contribute(b, kTrain, 1, Brought(1, 100), 0), Taken::kMemoryFull);
  EXPECT_EQ(Given(), Lines{"model/default 1: 0, 1 no_memory"});
  EXPECT_EQ(budget_->used(), 0u);
  // Nobody had room: there is no such step.
  EXPECT_EQ(steps_->Contribute(a, kTrain, 2, Brought(1, 100), 0), Taken::kMemoryFull);
  EXPECT_EQ(steps_->Contribute(b, kTrain, 2, Brought(1, 100), 0), Taken::kMemoryFull);
  EXPECT_EQ(Given(), Lines());
}

TEST_F(JobStepsTest, TooManyStepsSendTheOldestEarly) {
  Make(2);
  const uint64_t a = steps_->Join(0, 0);
  steps_->Join(1, 0);
  for (uint64_t step = 1; step <= JobSteps::kMaxWaiting; ++step) Put(a, step, 0, step % 2 == 0 ? kTrain : kTest);
  EXPECT_EQ(Given(), Lines());
  Put(a, 5000);
  EXPECT_EQ(Given(), Lines{"model/test 1: 0, 1 late"});
  steps_->Flush();
  EXPECT_EQ(Given().size(), JobSteps::kMaxWaiting);
}

TEST_F(JobStepsTest, GiveMayCallBack) {
  Make(2);
  uint64_t a = 0, b = 0;
  Lines given;
  JobSteps steps(2, kDeadline, *budget_, [&](JobStep step) {
    given.push_back(Line(step));
    if (step.step == 1) {
      steps.Leave(b);
      steps.Contribute(a, kTrain, 2, Brought(1), 0);
    }
  });
  a = steps.Join(0, 0);
  b = steps.Join(1, 0);
  steps.Contribute(a, kTrain, 1, Brought(1), 0);
  steps.Contribute(b, kTrain, 1, Brought(1), 0);
  EXPECT_EQ(given, (Lines{"model/default 1: 0 1", "model/default 2: 0, 1 left"}));
}

TEST_F(JobStepsTest, TheHoldGoesWithTheStepOrTheRefusal) {
  MemoryBudget budget(1 << 20);
  std::vector<JobStep> kept;
  JobSteps steps(2, kDeadline, budget, [&](JobStep step) { kept.push_back(std::move(step)); });
  const uint64_t a = steps.Join(0, 0), b = steps.Join(1, 0);
  const auto held = std::make_shared<int>();
  const auto put = [&](uint64_t member, uint64_t step) {
    JobContribution contribution = Brought(1);
    contribution.hold = held;
    return steps.Contribute(member, kTrain, step, std::move(contribution), 0);
  };
  put(a, 1);
  EXPECT_EQ(put(a, 1), Taken::kRepeated);
  EXPECT_EQ(held.use_count(), 2);
  put(b, 1);
  EXPECT_EQ(held.use_count(), 3);
  EXPECT_GT(budget.used(), 0u);
  kept.clear();
  EXPECT_EQ(held.use_count(), 1);
  EXPECT_EQ(budget.used(), 0u);
}

// The rules once more, as slowly as they read: after every move each step that waits is looked at anew, from a list of
// all that ever happened.
class Reference {
 public:
  explicit Reference(uint32_t world_size) : world_size_(world_size) {}

  uint64_t Join(uint32_t rank, uint64_t now) {
    if (joins_.empty()) first_join_ = now;
    joins_.push_back({rank, true});
    silent_.erase(std::remove_if(silent_.begin(), silent_.end(), [&](const auto& s) { return s.first == rank; }),
                  silent_.end());
    Look();
    return joins_.size();
  }
  void Leave(uint64_t member) {
    joins_[member - 1].present = false;
    Look();
  }
  Taken Contribute(uint64_t member, const Timeline& timeline, uint64_t step, uint64_t now) {
    const Membership& me = joins_[member - 1];
    if (!me.present) return Taken::kNotJoined;
    if (Closed(me.rank, timeline, step)) return Taken::kRepeated;
    closed_.push_back({me.rank, timeline, step});
    Unsilence(me.rank, timeline);
    bool late = false;
    for (const auto& [t, s] : given_) late = late || (t == timeline && s >= step);
    if (!late) {
      if (!First(timeline, step)) first_.push_back({timeline, step, now});
      brought_.push_back({me.rank, timeline, step});
    }
    Look();
    return late ? Taken::kLate : Taken::kTaken;
  }
  void Pass(uint64_t member, const Timeline& timeline, uint64_t step) {
    const Membership& me = joins_[member - 1];
    if (!me.present) return;
    closed_.push_back({me.rank, timeline, step});
    Unsilence(me.rank, timeline);
    Look();
  }
  void Tick(uint64_t now) {
    if (!joins_.empty() && now >= first_join_ + kDeadline) not_seen_over_ = true;
    Look();
    while (true) {
      // The last of a timeline that waited too long.
      const FirstSeen* last = nullptr;
      for (const FirstSeen& one : first_) {
        if (now >= one.ns + kDeadline && !WasGiven(one.timeline, one.step) &&
            (last == nullptr || std::tie(one.timeline, one.step) > std::tie(last->timeline, last->step))) {
          last = &one;
        }
      }
      if (last == nullptr) break;
      const Timeline timeline = last->timeline;
      const uint64_t until = last->step;
      for (const uint32_t rank : Present()) {
        if (!Closed(rank, timeline, until)) silent_.push_back({rank, timeline});
      }
      for (const uint64_t step : WaitingOf(timeline)) {
        if (step <= until) Give(timeline, step);
      }
      Look();
    }
  }

  std::map<Timeline, Lines> lines;  // what was given, by timeline

 private:
  struct Membership {
    uint32_t rank = 0;
    bool present = false;
  };
  struct Event {
    uint32_t rank;
    Timeline timeline;
    uint64_t step;
  };
  struct FirstSeen {
    Timeline timeline;
    uint64_t step;
    uint64_t ns;
  };

  bool Closed(uint32_t rank, const Timeline& timeline, uint64_t step) const {
    return std::any_of(closed_.begin(), closed_.end(),
                       [&](const Event& e) { return e.rank == rank && e.timeline == timeline && e.step >= step; });
  }
  bool First(const Timeline& timeline, uint64_t step) const {
    return std::any_of(first_.begin(), first_.end(),
                       [&](const FirstSeen& f) { return f.timeline == timeline && f.step == step; });
  }
  bool WasGiven(const Timeline& timeline, uint64_t step) const {
    return std::find(given_.begin(), given_.end(), std::pair(timeline, step)) != given_.end();
  }
  void Unsilence(uint32_t rank, const Timeline& timeline) {
    silent_.erase(std::remove(silent_.begin(), silent_.end(), std::pair(rank, timeline)), silent_.end());
  }
  bool Silent(uint32_t rank, const Timeline& timeline) const {
    return std::find(silent_.begin(), silent_.end(), std::pair(rank, timeline)) != silent_.end();
  }
  std::set<uint32_t> Seen() const {
    std::set<uint32_t> seen;
    for (const Membership& m : joins_) seen.insert(m.rank);
    return seen;
  }
  // A rank is there while its last membership is.
  std::set<uint32_t> Present() const {
    std::map<uint32_t, bool> last;
    for (const Membership& m : joins_) last[m.rank] = m.present;
    std::set<uint32_t> present;
    for (const auto& [rank, there] : last) {
      if (there) present.insert(rank);
    }
    return present;
  }
  std::vector<uint64_t> WaitingOf(const Timeline& timeline) const {
    std::set<uint64_t> steps;
    for (const FirstSeen& f : first_) {
      if (f.timeline == timeline && !WasGiven(timeline, f.step)) steps.insert(f.step);
    }
    return {steps.begin(), steps.end()};
  }
  void Look() {
    for (const FirstSeen& f : std::vector(first_)) {
      for (const uint64_t step : WaitingOf(f.timeline)) {
        bool ready = true;
        const std::set<uint32_t> seen = Seen();
        const bool deserted = Present().empty();
        for (uint32_t rank = 0; rank < world_size_ && !not_seen_over_ && !deserted; ++rank) {
          ready = ready && seen.contains(rank);
        }
        for (const uint32_t rank : Present()) {
          ready = ready && (Silent(rank, f.timeline) || Closed(rank, f.timeline, step));
        }
        if (ready) Give(f.timeline, step);
      }
    }
  }
  void Give(const Timeline& timeline, uint64_t step) {
    given_.push_back({timeline, step});
    std::string line = timeline.root + "/" + timeline.tag + " " + std::to_string(step) + ":";
    std::set<uint32_t> have;
    for (const Event& e : brought_) {
      if (e.timeline == timeline && e.step == step) have.insert(e.rank);
    }
    for (const uint32_t rank : have) line += " " + std::to_string(rank);
    const std::set<uint32_t> seen = Seen(), present = Present();
    for (const uint32_t rank : seen) {
      if (have.contains(rank)) continue;
      line += ", " + std::to_string(rank);
      line += Closed(rank, timeline, step) ? " nothing" : present.contains(rank) ? " late" : " left";
    }
    for (uint32_t rank = 0; rank < world_size_; ++rank) {
      if (seen.contains(rank)) continue;
      uint32_t last = rank;
      while (last + 1 < world_size_ && !seen.contains(last + 1)) ++last;
      line += ", not seen " + std::to_string(rank) + "-" + std::to_string(last);
      rank = last;
    }
    lines[timeline].push_back(line);
  }

  const uint32_t world_size_;
  std::vector<Membership> joins_;  // [i] is member i + 1
  uint64_t first_join_ = 0;
  bool not_seen_over_ = false;
  std::vector<Event> closed_, brought_;
  std::vector<FirstSeen> first_;
  std::vector<std::pair<Timeline, uint64_t>> given_;
  std::vector<std::pair<uint32_t, Timeline>> silent_;
};

TEST_F(JobStepsTest, DoesWhatTheSlowReferenceDoes) {
  uint64_t given_in_all = 0, incomplete_in_all = 0;
  for (uint32_t seed = 0; seed < 300; ++seed) {
    std::mt19937 random(seed);
    const auto world_size = static_cast<uint32_t>(random() % 5);
    std::map<Timeline, Lines> lines;
    MemoryBudget budget(1 << 30);
    JobSteps steps(world_size, kDeadline, budget, [&](JobStep step) {
      lines[step.timeline].push_back(Line(step));
      ++given_in_all;
      incomplete_in_all += step.complete() ? 0 : 1;
    });
    Reference reference(world_size);
    std::vector<uint64_t> members;
    std::vector<uint64_t> at(8, 0);  // of each rank: its step
    std::map<uint64_t, uint32_t> rank_of;
    uint64_t now = random() % 10'000;
    const auto join = [&] {
      const auto rank = static_cast<uint32_t>(random() % 5);
      const uint64_t member = steps.Join(rank, now);
      ASSERT_EQ(member, reference.Join(rank, now));
      rank_of[member] = rank;
      members.push_back(member);
    };
    join();
    for (int move = 0; move < 120; ++move) {
      const uint64_t member = members[random() % members.size()];
      const Timeline& timeline = random() % 4 == 0 ? kTest : kTrain;
      uint64_t& step = at[rank_of[member]];
      std::string what;
      switch (random() % 12) {
        case 0:
          join();
          break;
        case 1:
          if (random() % 2 == 0) break;
          steps.Leave(member);
          reference.Leave(member);
          break;
        case 2:
        case 3:
          now += random() % 700;
          steps.Tick(now);
          reference.Tick(now);
          break;
        case 4:
          step += random() % 3;
          steps.Pass(member, timeline, step);
          reference.Pass(member, timeline, step);
          break;
        default: {
          now += random() % 20;
          step += random() % 3 == 0 ? random() % 4 : 1;
          if (random() % 8 == 0 && step > 3) step -= 3;
          const Taken taken = steps.Contribute(member, timeline, step, Brought(1), now);
          ASSERT_EQ(taken, reference.Contribute(member, timeline, step, now)) << "seed " << seed << " move " << move;
        }
      }
      ASSERT_EQ(lines, reference.lines) << "seed " << seed << " move " << move;
    }
    steps.Flush();
    EXPECT_EQ(budget.used(), 0u);
  }
  // The schedules reach both.
  EXPECT_GT(given_in_all, 2000u);
  EXPECT_GT(incomplete_in_all, 500u);
  EXPECT_GT(given_in_all - incomplete_in_all, 300u);
}

// Four ranks on four threads, one of which dies now and then; every contribution that is taken comes out once, and the
// steps of a timeline ascend.
TEST_F(JobStepsTest, NothingIsLostOrGivenTwiceUnderThreads) {
  MemoryBudget budget(1 << 26);
  std::map<Timeline, uint64_t> last;
  std::atomic<uint64_t> inputs{0}, taken{0}, holds{0};
  std::atomic<bool> inside{false}, overlap{false};
  JobSteps steps(4, 5'000'000, budget, [&](JobStep step) {
    if (inside.exchange(true)) overlap = true;
    const auto at = last.find(step.timeline);
    EXPECT_TRUE(at == last.end() || at->second < step.step);
    last[step.timeline] = step.step;
    inputs += step.ranks.size();
    inside = false;
  });
  std::atomic<uint64_t> clock{0};
  std::vector<std::thread> ranks;
  for (uint32_t rank = 0; rank < 4; ++rank) {
    ranks.emplace_back([&, rank] {
      std::mt19937 random(rank);
      uint64_t member = steps.Join(rank, clock);
      for (uint64_t step = 1; step <= 3000; ++step) {
        const Timeline& timeline = step % 10 == 0 ? kTest : kTrain;
        if (random() % 20 == 0) {
          steps.Pass(member, timeline, step);
        } else {
          JobContribution contribution = Brought(static_cast<double>(step));
          ++holds;
          contribution.hold = std::shared_ptr<void>(nullptr, [&](void*) { --holds; });
          taken += steps.Contribute(member, timeline, step, std::move(contribution), clock) == Taken::kTaken;
        }
        if (rank == 3 && random() % 200 == 0) {
          steps.Leave(member);
          member = steps.Join(rank, clock);
        }
        steps.Tick(clock += 1000);
      }
      steps.Leave(member);
    });
  }
  for (std::thread& thread : ranks) thread.join();
  EXPECT_FALSE(overlap);
  EXPECT_EQ(inputs, taken);
  EXPECT_EQ(holds, 0u);
  EXPECT_EQ(budget.used(), 0u);
}

}  // namespace
}  // namespace ikkuna::graph
