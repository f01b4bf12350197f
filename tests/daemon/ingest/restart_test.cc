// What is left when a producer or a daemon is killed or ends, and what the next daemon makes of it.
#include "daemon/ingest/ingest.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "daemon/ingest/producer_session.h"
#include "tests/daemon/ingest/ingest_fixture.h"

namespace ikkuna::ingest {
namespace {

TEST_F(IngestTest, AKilledProducerIsHandledToItsLastRecord) {
  HangingTrainer child(temp_.sub("dir"), 50);
  auto core = MakeCore();
  const Uuid uuid = child.Publish();
  ASSERT_EQ(::kill(child.pid(), SIGKILL), 0);
  // A zombie is dead as well: nobody has to wait for it first.
  ASSERT_TRUE(Eventually([&] { return core->StatusOf(uuid).state == RunState::kDied; }));
  child.Wait();
  const auto status = core->StatusOf(uuid);
  EXPECT_EQ(status.info.pid, child.pid());
  EXPECT_EQ(status.killed, 1u);
  EXPECT_EQ(status.handled, 51 * TestProducer::kRecordsPerStep);
  ExpectBalanced(status);
  EXPECT_EQ(core->Values("loss").size(), 51u);
  ASSERT_EQ(core->Events("run_ended").size(), 1u);
  EXPECT_EQ(core->Events("run_ended")[0].severity, Severity::kWarning);
}

TEST_F(IngestTest, WhatHasNoProcessIsNoRunThatEndedUnseen) {
  // As a daemon that was killed leaves it: all ranks of a job, or a client's own run.
  ProducerStatus all;
  all.info.run_key = {"job", 0, kAllRanks};
  all.info.run = "job";
  all.state = RunState::kRunning;
  store_->SaveProducer(all);
  for (int daemon = 0; daemon < 2; ++daemon) {
    auto core = MakeCore();
    EXPECT_EQ(store_->Saved(all.info.run_key).state, RunState::kDied);
    EXPECT_EQ(store_->Saved(all.info.run_key).notes, std::vector<std::string>());
    EXPECT_TRUE(core->Events("run_ended").empty());
    store_->SaveProducer(all);
  }
}

TEST_F(IngestTest, ADeathThatNoDaemonSawIsNotedByTheNext) {
  HangingTrainer child(temp_.sub("dir"), 50);
  auto core = MakeCore();
  const Uuid uuid = child.Publish();
  core->Stop();
  core = MakeCore();
  EXPECT_EQ(core->StatusOf(uuid).state, RunState::kDisconnected);
  child.Kill();
  ASSERT_TRUE(Eventually([&] { return core->StatusOf(uuid).state == RunState::kDied; }));
  // What it had published and nobody had read went with it.
  ExpectBalanced(core->StatusOf(uuid));
  core->Stop();
  core = MakeCore();
  EXPECT_EQ(core->StatusOf(uuid).state, RunState::kDied);
}

TEST_F(IngestTest, ARestartedDaemonGoesOnWhereTheOldOneEnded) {
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  auto core = MakeCore();
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  for (uint64_t step = 0; step < 50; ++step) producer.Step(step, 1);
  ASSERT_TRUE(AllHandled(*core, producer));
  EXPECT_FALSE(producer.DaemonGone());
  core->Stop();
  core.reset();
  EXPECT_TRUE(producer.DaemonGone());
  for (uint64_t step = 50; step < 60; ++step) producer.Step(step, 1);  // nobody reads
  producer.Disconnect();
  for (uint64_t step = 60; step < 70; ++step) producer.pub().status().roots[0].step = step + 1;  // nobody asks

  core = MakeCore();
  EXPECT_EQ(core->StatusOf(producer.hello().uuid).state, RunState::kDisconnected);
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  for (uint64_t step = 70; step < 100; ++step) producer.Step(step, 1);
  ASSERT_TRUE(AllHandled(*core, producer));
  const auto status = core->StatusOf(producer.hello().uuid);
  EXPECT_EQ(status.lost_in_daemon, 0u);
  EXPECT_EQ(status.handled, 90 * TestProducer::kRecordsPerStep);
  EXPECT_EQ(status.steps_total, 100u);
  EXPECT_EQ(status.steps_while_connected,
            90u);  // it had not seen yet that the daemon was gone when it made ten of them
  EXPECT_EQ(status.roots[0].steps_observed, 90u);  // by both daemons: the store keeps the counters of roots
  ExpectBalanced(status);
  producer.Finish();
  ASSERT_TRUE(Reaches(*core, producer, RunState::kFinished));
  EXPECT_EQ(core->Values("loss").size(), 90u);
  EXPECT_EQ(core->Events("run_resumed").size(), 1u);
}

TEST_F(IngestTest, WhatAKilledDaemonReleasedButDidNotKeepIsCounted) {
  auto core = MakeCore();
  TestProducer producer(temp_.sub("dir"));
  ASSERT_NO_FATAL_FAILURE(Trains(*core, producer, 20));
  const RunKey key{producer.hello().run_id, 0, 0};
  ASSERT_TRUE(Eventually([&] { return store_->LoadProgress(key)->done_seq == 80; }));
  store_->Crash();  // what follows is read, but never kept
  for (uint64_t step = 20; step < 30; ++step) producer.Step(step, 1);
  const uint64_t at_kill = shm::LoadAcquire(producer.pub().status().reserved);
  ASSERT_TRUE(Eventually([&] { return producer.ctl().heads().ring_head == at_kill; }));
  ASSERT_TRUE(producer.pub().AcceptHeads(producer.ctl().heads()));
  core->Stop();
  store_->Revive();
  producer.Disconnect();

  core = MakeCore();
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  for (uint64_t step = 30; step < 40; ++step) producer.Step(step, 1);
  ASSERT_TRUE(AllHandled(*core, producer));
  const auto status = core->StatusOf(producer.hello().uuid);
  EXPECT_EQ(status.lost_in_daemon, at_kill - 80);
  EXPECT_EQ(status.steps_total, 40u);
  EXPECT_EQ(status.steps_while_connected, 40u);  // those too that the killed daemon had seen and not kept
  ExpectBalanced(status);
  EXPECT_EQ(core->Events("records_lost").size(), 1u);
  EXPECT_EQ(core->Values("loss").size(), 30u);
}

// A step that is open holds back how far all is done, not what others have brought meanwhile.
TEST_F(IngestTest, WhatIsKeptBehindAStepThatIsNotDoneIsNotLost) {
  auto core = MakeCore();
  core->knobs().later = true;
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  const RunKey key{producer.hello().run_id, 0, 0};
  core->knobs().hold = true;
  producer.Step(0, 1);
  ASSERT_TRUE(Eventually([&] { return core->StatusOf(producer.hello().uuid).handled == 4; }));
  core->knobs().later = false;
  for (uint64_t step = 1; step < 64; ++step) producer.Step(step, 1);
  const uint64_t published = 64 * TestProducer::kRecordsPerStep;
  ASSERT_TRUE(Eventually([&] { return store_->LoadProgress(key)->read_seq == published; }));
  EXPECT_EQ(store_->LoadProgress(key)->done_seq, 0u);
  ASSERT_TRUE(Eventually([&] { return store_->LoadProgress(key)->handled() == published - 4; }));
  ASSERT_TRUE(Eventually([&] { return producer.ctl().heads().ring_head == published; }));
  ASSERT_TRUE(producer.pub().AcceptHeads(producer.ctl().heads()));
  store_->Crash();
  core->Stop();
  store_->Revive();
  producer.Disconnect();
  core = MakeCore();
  EXPECT_EQ(core->StatusOf(producer.hello().uuid).handled, published - 4);
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  for (uint64_t step = 64; step < 70; ++step) producer.Step(step, 1);
  ASSERT_TRUE(AllHandled(*core, producer));
  const auto status = core->StatusOf(producer.hello().uuid);
  EXPECT_EQ(status.lost_in_daemon, 4u);
  ExpectBalanced(status);
  ASSERT_EQ(core->Events("records_lost").size(), 1u);
  EXPECT_TRUE(core->Events("records_lost")[0].text.starts_with("4 records")) << core->Events("records_lost")[0].text;
  EXPECT_EQ(core->Values("loss").size(), 69u);
}

// What is held open by one step makes the next daemon read others, that were closed and kept, once more.
TEST_F(IngestTest, StepsThatAreReadOnceMoreAreCountedOnce) {
  auto core = MakeCore();
  core->knobs().later = true;
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  const RunKey key{producer.hello().run_id, 0, 0};
  for (uint64_t step = 0; step < 10; ++step) producer.Step(step, 1);
  ASSERT_TRUE(AllHandled(*core, producer));
  ASSERT_TRUE(Eventually([&] { return store_->LoadProgress(key)->done_seq == 40; }));
  core->knobs().hold = true;
  producer.Step(10, 1);
  ASSERT_TRUE(Eventually([&] { return core->StatusOf(producer.hello().uuid).handled == 44; }));
  core->knobs().later = false;
  for (uint64_t step = 11; step < 20; ++step) producer.Step(step, 1);
  // The daemon has read them, and kept all but what is made of step 10.
  ASSERT_TRUE(Eventually([&] { return store_->LoadProgress(key)->read_seq == 80; }));
  EXPECT_EQ(store_->LoadProgress(key)->done_seq, 40u);
  EXPECT_EQ(core->Values("loss").size(), 19u);
  store_->Crash();
  core->Stop();
  store_->Revive();
  producer.Disconnect();
  core = MakeCore();
  EXPECT_EQ(core->StatusOf(producer.hello().uuid).roots[0].steps_observed, 20u);
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  for (uint64_t step = 20; step < 25; ++step) producer.Step(step, 1);
  ASSERT_TRUE(AllHandled(*core, producer));
  const auto status = core->StatusOf(producer.hello().uuid);
  EXPECT_EQ(status.roots[0].steps_observed, 25u);
  ExpectBalanced(status);
  // The one that is killed next says what both have counted.
  ASSERT_TRUE(Eventually([&] { return store_->LoadProgress(key)->done_seq == 100; }));
  store_->Crash();
  core->Stop();
  store_->Revive();
  producer.Disconnect();
  core = MakeCore();
  EXPECT_EQ(core->StatusOf(producer.hello().uuid).roots[0].steps_observed, 25u);
}

// The producer's own counters are saved each second, what came to nothing is committed with what came to something.
TEST_F(IngestTest, WhatCameToNothingBeforeAKillIsCountedOnce) {
  auto core = MakeCore();
  core->knobs().later = true;
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  const RunKey key{producer.hello().run_id, 0, 0};
  producer.Step(0, 1);
  ASSERT_TRUE(AllHandled(*core, producer));
  ASSERT_TRUE(Eventually([&] { return store_->LoadProgress(key)->done_seq == 4; }));
  store_->HoldStatuses();
  core->knobs().hold = true;
  producer.Step(1, 1);
  ASSERT_TRUE(Eventually([&] { return core->StatusOf(producer.hello().uuid).handled == 8; }));
  core->knobs().later = false;
  producer.Marker(Kind::kBatchStarted, 2);
  producer.Marker(Kind::kBatchFinished, 2);  // withheld
  producer.Marker(Kind::kBatchFinished, 3);  // discarded
  { shm::Reservation failed = producer.pub().Reserve(Space::kInline, 0); }
  const std::vector<Count> once{{"discarded", 1}, {"void", 1}, {"withheld", 1}};
  // No value came of the last ones, and none is done while step 1 is not.
  ASSERT_TRUE(Eventually([&] { return store_->LoadProgress(key)->read_seq == 12; }));
  EXPECT_EQ(store_->LoadProgress(key)->done_seq, 4u);
  store_->Crash();
  core->Stop();
  store_->Revive();
  producer.Disconnect();
  core = MakeCore();
  EXPECT_EQ(core->StatusOf(producer.hello().uuid).missing, once);
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  ASSERT_TRUE(AllHandled(*core, producer));
  EXPECT_EQ(core->StatusOf(producer.hello().uuid).missing, once);
  EXPECT_EQ(core->Values("loss").size(), 2u);
  producer.Marker(Kind::kBatchFinished, 4);
  { shm::Reservation failed = producer.pub().Reserve(Space::kInline, 0); }
  ASSERT_TRUE(AllHandled(*core, producer));
  const std::vector<Count> more{{"discarded", 2}, {"void", 2}, {"withheld", 1}};
  EXPECT_EQ(core->StatusOf(producer.hello().uuid).missing, more);
  ExpectBalanced(core->StatusOf(producer.hello().uuid));
  // On another socket of the same daemon.
  producer.Disconnect();
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  producer.Step(5, 1);
  ASSERT_TRUE(AllHandled(*core, producer));
  EXPECT_EQ(core->StatusOf(producer.hello().uuid).missing, more);
}

// The daemon shows so many that ended, and no more; the store has all.
TEST_F(IngestTest, OneThatIsShownNoMoreComesBackWithAllItHad) {
  auto core = MakeCore();
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  for (uint64_t step = 0; step < 10; ++step) producer.Step(step, 1);
  producer.Marker(Kind::kBatchFinished, 10);
  ASSERT_TRUE(AllHandled(*core, producer));
  core->Stop();
  producer.Disconnect();
  const RunKey key{producer.hello().run_id, 0, 0};
  ProducerStatus status = store_->Saved(key);
  status.info.pid = kPidUnknown;  // whether it lives is not seen
  store_->SaveProducer(status);
  for (size_t i = 0; i < Ingest::kPastMax; ++i) {
    ProducerStatus other;
    other.state = RunState::kFinished;
    other.info.run_key.run_id = "other-" + std::to_string(i);
    other.info.uuid[0] = static_cast<unsigned char>(i);
    other.info.uuid[15] = 1;
    other.info.pid = 1;
    other.info.start_unix_ns = status.info.start_unix_ns + 1 + static_cast<int64_t>(i);
    store_->SaveProducer(other);
  }
  core = std::make_unique<TestCore>(temp_.sub("dir"), store_, AcceptorOptions{}, nullptr, 0);
  const std::vector<ProducerStatus> shown = core->ingest().Producers();
  ASSERT_TRUE(std::none_of(shown.begin(), shown.end(), [&](const auto& one) { return one.info.run_key == key; }));
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  for (uint64_t step = 10; step < 15; ++step) producer.Step(step, 1);
  ASSERT_TRUE(AllHandled(*core, producer));
  status = core->StatusOf(producer.hello().uuid);
  EXPECT_EQ(status.info.run_key, key);
  EXPECT_EQ(status.roots[0].steps_observed, 15u);
  EXPECT_EQ(status.steps_while_connected, 15u);
  EXPECT_EQ(status.missing, (std::vector<Count>{{"discarded", 1}}));
  ExpectBalanced(status);
}

TEST_F(IngestTest, OneWhoseFileIsReadLateGoesOnAsIfItHadBeenReadAtOnce) {
  auto core = MakeCore();
  TestProducer producer(temp_.sub("dir"));
  ASSERT_NO_FATAL_FAILURE(Trains(*core, producer, 10));
  const RunKey key{producer.hello().run_id, 0, 0};
  core->Stop();
  producer.Disconnect();
  store_->Hide(key, true);
  core = MakeCore();
  EXPECT_TRUE(core->ingest().Producers().empty());
  EXPECT_FALSE(producer.Connect());
  store_->Reveal(key);
  ASSERT_TRUE(Eventually([&] { return core->ingest().Producers().size() == 1; }));
  EXPECT_EQ(core->StatusOf(producer.hello().uuid).state, RunState::kDisconnected);
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  for (uint64_t step = 10; step < 15; ++step) producer.Step(step, 1);
  ASSERT_TRUE(AllHandled(*core, producer));
  const auto status = core->StatusOf(producer.hello().uuid);
  EXPECT_EQ(status.info.run_key, key);
  EXPECT_EQ(status.state, RunState::kRunning);
  EXPECT_EQ(status.steps_while_connected, 15u);
  EXPECT_EQ(status.roots[0].steps_observed, 15u);
  ExpectBalanced(status);
  EXPECT_EQ(core->Events("run_resumed").size(), 1u);
}

TEST_F(IngestTest, OneWhoseFileIsReadLateAndThatDiedMeanwhileIsNotGoingOn) {
  HangingTrainer child(temp_.sub("dir"), 5);
  auto core = MakeCore();
  const Uuid uuid = child.Publish();
  const RunKey key = core->StatusOf(uuid).info.run_key;
  core->Stop();
  child.Kill();
  store_->Hide(key, true);
  core = MakeCore();
  store_->Reveal(key);
  ASSERT_TRUE(Eventually([&] { return core->ingest().Producers().size() == 1; }));
  EXPECT_EQ(core->StatusOf(uuid).state, RunState::kDied);
  EXPECT_EQ(store_->Saved(key).state, RunState::kDied);
  EXPECT_EQ(core->Events("run_ended").size(), 1u);
  // Its attempt counts.
  TestProducer again(temp_.sub("dir"));
  again.hello().run_id = key.run_id;
  ASSERT_TRUE(again.Connect()) << again.reject();
  EXPECT_EQ(core->StatusOf(again.hello().uuid).info.run_key, (RunKey{key.run_id, 1, 0}));
}

TEST_F(IngestTest, OneThatCouldNotWaitForItsFileGoesOnUnderTheKeyItTook) {
  auto core = MakeCore();
  TestProducer producer(temp_.sub("dir"));
  ASSERT_NO_FATAL_FAILURE(Trains(*core, producer, 10));
  const RunKey key{producer.hello().run_id, 0, 0};
  core->Stop();
  producer.Disconnect();
  store_->Hide(key, false);
  core = MakeCore();
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  const RunKey taken = core->StatusOf(producer.hello().uuid).info.run_key;
  EXPECT_NE(taken, key);
  store_->Reveal(key);
  ASSERT_TRUE(Eventually([&] { return store_->Saved(key).state == RunState::kDied; }));
  ExpectBalanced(store_->Saved(key));
  ASSERT_EQ(core->Events("run_ended").size(), 1u);
  EXPECT_EQ(core->Events("run_ended")[0].run, key);
  EXPECT_EQ(core->StatusOf(producer.hello().uuid).state, RunState::kRunning);
  EXPECT_EQ(core->StatusOf(producer.hello().uuid).info.run_key, taken);
  // It is still found under that one.
  producer.Disconnect();
  ASSERT_TRUE(Eventually([&] { return core->ingest().connected() == 0; }));
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  EXPECT_EQ(core->StatusOf(producer.hello().uuid).info.run_key, taken);
}

// A job that exits in order leaves the next daemon no more than one that dies.
TEST_F(IngestTest, AnEndThatNoDaemonSawIsNoClaimOfHowFarItCame) {
  int go[2], done[2];
  ASSERT_EQ(::pipe2(go, O_CLOEXEC), 0);
  ASSERT_EQ(::pipe2(done, O_CLOEXEC), 0);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    char byte;
    if (::read(go[0], &byte, 1) != 1) ::_exit(2);
    TestProducer producer(temp_.sub("dir"));
    producer.Register();
    if (!producer.Connect()) ::_exit(3);
    for (uint64_t step = 0; step < 10; ++step) producer.Step(step, 1);
    if (::write(done[1], producer.hello().uuid.data(), 16) != 16) ::_exit(4);
    if (::read(go[0], &byte, 1) != 1) ::_exit(2);  // the daemon is down
    producer.Disconnect();
    for (uint64_t step = 10; step < 25; ++step) producer.Step(step, 1);
    producer.Finish();
    ::_exit(0);
  }
  auto core = MakeCore();
  ASSERT_EQ(::write(go[1], "g", 1), 1);
  Uuid uuid{};
  ASSERT_EQ(::read(done[0], uuid.data(), uuid.size()), 16);
  ASSERT_TRUE(Eventually([&] { return core->StatusOf(uuid).steps_total == 10; }));
  core->Stop();
  ASSERT_EQ(::write(go[1], "g", 1), 1);
  int exit = 0;
  ASSERT_EQ(::waitpid(child, &exit, 0), child);
  ASSERT_EQ(exit, 0);
  for (const char* when : {"by the next daemon", "by the one after"}) {
    SCOPED_TRACE(when);
    core = MakeCore();
    const auto status = core->StatusOf(uuid);
    ExpectBalanced(status);
    EXPECT_EQ(status.steps_total, 10u);
    const auto says = [](const std::string& text) {
      return text.find("whether it finished or died") != std::string::npos &&
             text.find("after the 10 that were counted, is not known") != std::string::npos;
    };
    EXPECT_EQ(std::count_if(status.notes.begin(), status.notes.end(), says), 1);
    const auto events = core->Events("run_ended");
    ASSERT_EQ(events.size(), 1u);
    EXPECT_TRUE(says(events[0].text)) << events[0].text;
    EXPECT_EQ(events[0].run, status.info.run_key);
    core->Stop();
  }
  for (int fd : {go[0], go[1], done[0], done[1]}) ::close(fd);
}

TEST_F(IngestTest, WhatAKilledDaemonKeptOfCountersIsOlderThanItsResults) {
  HangingTrainer child(temp_.sub("dir"), 50);
  auto core = MakeCore();
  store_->HoldStatuses();
  const Uuid uuid = child.Publish();
  // All before the hole.
  ASSERT_TRUE(Eventually([&] { return core->StatusOf(uuid).handled == 50 * TestProducer::kRecordsPerStep; }));
  core->Stop();
  store_->Revive();
  core = MakeCore();
  auto status = core->StatusOf(uuid);
  EXPECT_EQ(status.state, RunState::kDisconnected);
  EXPECT_EQ(status.handled, 50 * TestProducer::kRecordsPerStep);
  EXPECT_EQ(status.steps_total, 51u);
  EXPECT_EQ(status.steps_while_connected, 51u);
  ASSERT_EQ(status.roots.size(), 1u);
  EXPECT_EQ(status.roots[0].name, "model");
  EXPECT_EQ(status.roots[0].steps_observed, 50u);
  EXPECT_EQ(status.coverage, 1);
  ExpectBalanced(status);
  core->Stop();
  child.Kill();
  core = MakeCore();
  status = core->StatusOf(uuid);
  EXPECT_EQ(status.state, RunState::kDied);
  ExpectBalanced(status);
}

// Its parent has not reaped it yet, and starts it again: the next life of the run, no second job of its name.
TEST_F(IngestTest, ARestartBeforeTheDeadOneIsReapedIsTheNextAttempt) {
  HangingTrainer child(temp_.sub("dir"), 5);
  auto core = MakeCore();
  const Uuid uuid = child.Publish();
  const RunKey first = core->StatusOf(uuid).info.run_key;
  core->Stop();  // no daemon sees it die
  ASSERT_EQ(::kill(child.pid(), SIGKILL), 0);
  siginfo_t info{};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(child.pid()), &info, WEXITED | WNOWAIT), 0);
  core = MakeCore();
  EXPECT_EQ(core->StatusOf(uuid).state, RunState::kDied);
  TestProducer again(temp_.sub("dir"));
  again.hello().run_id = first.run_id;
  ASSERT_TRUE(again.Connect()) << again.reject();
  EXPECT_EQ(core->StatusOf(again.hello().uuid).info.run_key, (RunKey{first.run_id, 1, 0}));
  child.Wait();
}

TEST_F(IngestTest, ARunThatIsCalledLatestCanBeNamed) {
  auto core = MakeCore();
  TestProducer producer(temp_.sub("dir"));
  producer.hello().run_id = "latest";
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  EXPECT_EQ(core->StatusOf(producer.hello().uuid).info.run_key, (RunKey{"latest~1", 0, 0}));
  ASSERT_TRUE(Eventually([&] { return core->Events("run_placed").size() == 1; }));
  EXPECT_NE(core->Events("run_placed")[0].text.find("'latest~1'"), std::string::npos);
}

// The next daemon finds it in the store, and its process alive.
TEST_F(IngestTest, AStrangerIsNoRankOfAJobThatAnEarlierDaemonServed) {
  HangingTrainer child(temp_.sub("dir"), 5);
  auto core = MakeCore();
  const Uuid uuid = child.Publish();
  const RunKey first = core->StatusOf(uuid).info.run_key;
  core->Stop();
  core = MakeCore();
  // The same job by its address, which is empty here, and its parent: this process is the child's, so it is not ours.
  TestProducer stranger(temp_.sub("dir"));
  stranger.hello().run_id = first.run_id;
  stranger.hello().rank = 1;
  ASSERT_TRUE(stranger.Connect()) << stranger.reject();
  EXPECT_EQ(core->StatusOf(stranger.hello().uuid).info.run_key, (RunKey{first.run_id + "~2", 0, 1}));
  child.Kill();
}

TEST_F(IngestTest, ARankWithoutANameFindsItsJobBehindARestart) {
  const auto of_job = [](uint32_t rank) {
    return [rank](shm::Hello& hello) {
      hello.run_id = "made-up-" + std::to_string(rank);
      hello.run_id_made_up = true;
      hello.rank = rank;
      hello.world_size = 2;
      hello.job_address = "127.0.0.1";
      hello.job_port = "29500";
    };
  };
  HangingTrainer first(temp_.sub("dir"), 5, of_job(0)), second(temp_.sub("dir"), 5, of_job(1));
  auto core = MakeCore();
  const RunKey key = core->StatusOf(first.Publish()).info.run_key;
  EXPECT_EQ(key, (RunKey{"made-up-0", 0, 0}));
  core->Stop();
  core = MakeCore();
  EXPECT_EQ(core->StatusOf(second.Publish()).info.run_key, (RunKey{"made-up-0", 0, 1}));
  first.Kill();
  second.Kill();
}

// Of a life that hangs on it is known, behind a restart too, that the scheduler has started the job anew since.
TEST_F(IngestTest, ALifeThatHangsOnIsNotJoinedBehindARestart) {
  const auto of_life = [](uint32_t rank, uint32_t restarts) {
    return [rank, restarts](shm::Hello& hello) {
      hello.run_id = "job";
      hello.rank = rank;
      hello.world_size = 2;
      hello.job_address = "127.0.0.1";
      hello.job_port = "29500";
      hello.has_attempt = true;
      hello.attempt = restarts;
    };
  };
  HangingTrainer earlier(temp_.sub("dir"), 5, of_life(0, 7)), hung(temp_.sub("dir"), 5, of_life(0, 1));
  HangingTrainer anew(temp_.sub("dir"), 5, of_life(1, 2));
  auto core = MakeCore();
  earlier.Publish();
  earlier.Kill();
  EXPECT_EQ(core->StatusOf(hung.Publish()).info.run_key, (RunKey{"job", 8, 0}));  // above the scheduler's count
  core->Stop();
  core = MakeCore();
  EXPECT_EQ(core->StatusOf(anew.Publish()).info.run_key, (RunKey{"job~2", 2, 1}));
  hung.Kill();
  anew.Kill();
}

TEST_F(IngestTest, ADaemonThatEndsLeavesAFullRingToTheNext) {
  auto core = MakeCore();
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  core->knobs().handle_ms = 60;  // a minute for what follows
  for (uint64_t step = 0; step < 250; ++step) producer.Step(step, 1);
  core->Stop();
  EXPECT_LT(store_->LoadProgress({producer.hello().run_id, 0, 0})->handled(), 250 * TestProducer::kRecordsPerStep);
  core = MakeCore();
  producer.Disconnect();
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  ASSERT_TRUE(AllHandled(*core, producer));
  const auto status = core->StatusOf(producer.hello().uuid);
  EXPECT_EQ(status.handled, 250 * TestProducer::kRecordsPerStep);
  EXPECT_EQ(status.lost_in_daemon, 0u);
  ExpectBalanced(status);
}

TEST_F(IngestTest, WhatADaemonThatEndsNoLongerReadsOfADeadOneIsLostAndSaid) {
  HangingTrainer child(temp_.sub("dir"), 200);
  auto core = MakeCore();
  core->knobs().handle_ms = 60;
  child.Publish();
  child.Kill();
  core->Stop();
  const auto kept = store_->LoadProducers();
  ASSERT_EQ(kept->size(), 1u);
  const ProducerStatus& status = kept->at(0);
  EXPECT_EQ(status.state, RunState::kDied);
  EXPECT_GT(status.handled, 0u);
  EXPECT_GT(status.lost_in_daemon, 0u);
  ExpectBalanced(status);
  EXPECT_EQ(core->Events("records_lost").size(), 1u);
}

}  // namespace
}  // namespace ikkuna::ingest
