// The whole way of a producer through ingest: admitted, drained through its graph, kept, accounted for, at every end.
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
#include "tests/daemon/ingest/fake_pool.h"
#include "tests/daemon/ingest/ingest_fixture.h"

namespace ikkuna::ingest {
namespace {

TEST_F(IngestTest, FromPublishToStore) {
  auto core = MakeCore();
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  for (uint64_t step = 0; step < 100; ++step) producer.Step(step, static_cast<float>(step) * 0.5f);
  ASSERT_TRUE(AllHandled(*core, producer));
  auto status = core->StatusOf(producer.hello().uuid);
  EXPECT_EQ(status.state, RunState::kRunning);
  EXPECT_EQ(status.info.pid, ::getpid());
  EXPECT_EQ(status.info.uid, ::geteuid());
  EXPECT_EQ(status.attempted, 100 * TestProducer::kRecordsPerStep);
  EXPECT_EQ(status.handled, status.attempted);
  EXPECT_EQ(status.steps_total, 100u);
  EXPECT_EQ(status.steps_while_connected, 100u);
  EXPECT_EQ(status.coverage, 1.0);
  ASSERT_EQ(status.roots.size(), 1u);
  EXPECT_EQ(status.roots[0].name, "model");
  EXPECT_EQ(status.roots[0].steps_observed, 100u);
  ExpectBalanced(status);

  producer.Finish();
  ASSERT_TRUE(Reaches(*core, producer, RunState::kFinished));
  EXPECT_EQ(core->Events("run_ended").size(), 1u);
  for (const std::string topic : {"loss", "weights_mean"}) {
    const auto values = core->Values(topic);
    ASSERT_EQ(values.size(), 100u) << topic;
    for (const auto& [step, value] : values) EXPECT_EQ(value, static_cast<double>(step) * 0.5) << topic;
  }
  // What is known of it is in the store, for the time after this daemon.
  const RunKey key{producer.hello().run_id, 0, 0};
  const auto modules = core->store().Modules(key);
  ASSERT_EQ(modules.size(), 1u);
  EXPECT_EQ(modules[0].name, "fc");
  EXPECT_EQ(modules[0].type, "Linear");
  ASSERT_EQ(modules[0].params.size(), 1u);
  EXPECT_EQ(modules[0].params[0].sizes, (std::vector<int64_t>{2, 2}));
  const auto kept = core->store().LoadProducers();
  ASSERT_EQ(kept->size(), 1u);
  EXPECT_EQ(kept->front().state, RunState::kFinished);
  EXPECT_EQ(kept->front().info.facts,
            (std::vector<std::pair<std::string, std::string>>{{"command", "train --lr 0.1"}}));
}

// What the probe could not finish is passed over, its bytes are given back, and status counts it.
TEST_F(IngestTest, AVoidRecordIsCountedAndPassedOver) {
  auto core = MakeCore();
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  producer.pub().BackArena(1 << 20);
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  for (uint64_t step = 0; step < 4; ++step) {
    { shm::Reservation failed = producer.pub().Reserve(Space::kHostArena, step % 2 == 0 ? 700'000 : 0); }
    producer.Step(step, 1);
    ASSERT_TRUE(AllHandled(*core, producer));
  }
  const auto status = core->StatusOf(producer.hello().uuid);
  EXPECT_EQ(status.state, RunState::kRunning);
  EXPECT_EQ(status.dropped_total, 0u) << "the second payload found the room of the first";
  ExpectBalanced(status);
  ASSERT_EQ(status.missing.size(), 1u);
  EXPECT_EQ(status.missing[0].reason, "void");
  EXPECT_EQ(status.missing[0].count, 4u);
  EXPECT_EQ(core->Values("loss").size(), 4u);
}

TEST_F(IngestTest, DemandFollowsSubscriptions) {
  auto core = MakeCore();
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  const auto kinds = [&] {
    uint64_t all = 0;
    if (auto items = producer.ctl().CopyDemand(2)) {
      for (const auto& item : *items) all |= item.kinds;
    }
    return all;
  };
  // With the WELCOME already, so that the first step is captured.
  EXPECT_TRUE((kinds() & KindBit(Kind::kLoss)) != 0);
  EXPECT_TRUE((kinds() & KindBit(Kind::kWeights)) != 0);
  EXPECT_TRUE((kinds() & KindBit(Kind::kActivations)) == 0);
  EXPECT_EQ(producer.ctl().registry_seen(), 4u);
  core->knobs().kinds.fetch_or(KindBit(Kind::kActivations));
  core->ingest().WakeAll();
  EXPECT_TRUE(Eventually([&] { return (kinds() & KindBit(Kind::kActivations)) != 0; }));
  core->knobs().kinds.fetch_and(~KindBit(Kind::kActivations));
  core->ingest().WakeAll();
  EXPECT_TRUE(Eventually([&] { return (kinds() & KindBit(Kind::kActivations)) == 0; }));
  producer.AddFact("late", "yes");
  EXPECT_TRUE(Eventually([&] { return producer.ctl().registry_seen() == 5u; }));
}

TEST_F(IngestTest, TheProducerLearnsWhatIsSafe) {
  auto core = MakeCore();
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  for (uint64_t step = 0; step < 10; ++step) producer.Step(step, 1);
  const uint64_t published = shm::LoadAcquire(producer.pub().status().reserved);
  // Progress of records that gave no sample is committed as well.
  EXPECT_TRUE(Eventually([&] {
    auto progress = core->store().LoadProgress({producer.hello().run_id, 0, 0});
    return progress && progress->done_seq == published && progress->handled() == published;
  }));
}

TEST_F(IngestTest, WhatFindsTheRingFullIsDroppedAndCounted) {
  auto core = MakeCore();
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  for (uint64_t step = 0; step < 20'000; ++step) producer.Step(step, 1);
  ASSERT_TRUE(AllHandled(*core, producer));
  const auto status = core->StatusOf(producer.hello().uuid);
  EXPECT_EQ(status.attempted, 20'000 * TestProducer::kRecordsPerStep);
  EXPECT_GT(status.handled, 0u);
  ExpectBalanced(status);
  uint64_t by_reason = 0;
  for (const auto& drop : status.drops) by_reason += drop.count;
  EXPECT_EQ(by_reason, status.dropped_total);
}

TEST_F(IngestTest, Malicious_ProducerIsQuarantinedAndTheOthersGoOn) {
  auto core = MakeCore();
  TestProducer good(temp_.sub("dir")), bad(temp_.sub("dir"));
  good.Register();
  bad.Register();
  ASSERT_TRUE(good.Connect()) << good.reject();
  ASSERT_TRUE(bad.Connect()) << bad.reject();
  good.Step(0, 1);
  bad.Step(0, 1);
  bad.Publish(1, Kind::kLoss, [](shm::Record& record) { record.type = 77; });
  bad.Step(1, 1);
  ASSERT_TRUE(Reaches(*core, bad, RunState::kQuarantined));
  EXPECT_TRUE(Eventually([&] {
    auto items = bad.ctl().CopyDemand(2);
    return items && items->empty();
  }));
  EXPECT_FALSE(bad.DaemonGone());
  const auto events = core->Events("quarantined");
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].severity, Severity::kError);
  EXPECT_NE(events[0].text.find("type"), std::string::npos) << events[0].text;
  bad.Disconnect();
  EXPECT_FALSE(bad.Connect());
  EXPECT_NE(bad.reject().find("broke the format"), std::string::npos) << bad.reject();
  for (uint64_t step = 1; step < 50; ++step) good.Step(step, 1);
  ASSERT_TRUE(AllHandled(*core, good));
  ExpectBalanced(core->StatusOf(good.hello().uuid));
}

// Its counters were last asked before the records that were handled in the turn in which it broke the format.
TEST_F(IngestTest, Malicious_AQuarantinedProducerAddsUp) {
  auto core = MakeCore();
  TestProducer bad(temp_.sub("dir"));
  bad.Register();
  ASSERT_TRUE(bad.Connect()) << bad.reject();
  bad.Step(0, 1);
  ASSERT_TRUE(AllHandled(*core, bad));
  for (uint64_t step = 1; step < 5; ++step) bad.Step(step, 1);
  bad.Publish(5, Kind::kLoss, [](shm::Record& record) { record.type = 77; });
  for (uint64_t step = 5; step < 8; ++step) bad.Step(step, 1);
  ASSERT_TRUE(Reaches(*core, bad, RunState::kQuarantined));
  for (uint64_t step = 8; step < 12; ++step) bad.Step(step, 1);
  for (const char* when : {"by its daemon", "by the next"}) {
    SCOPED_TRACE(when);
    const auto status = core->StatusOf(bad.hello().uuid);
    EXPECT_EQ(status.handled, 5 * TestProducer::kRecordsPerStep);
    ExpectBalanced(status);
    ASSERT_EQ(status.roots.size(), 1u);
    EXPECT_EQ(status.roots[0].steps_observed, 5u);
    EXPECT_GE(status.roots[0].steps_due, 5u);
    EXPECT_GE(status.steps_total, 5u);
    EXPECT_LE(status.steps_while_connected, status.steps_total);
    core->Stop();
    core = MakeCore();
  }
}

TEST_F(IngestTest, Malicious_CountersOfAQuarantinedProducerAreNotBelieved) {
  auto core = MakeCore();
  TestProducer bad(temp_.sub("dir"));
  bad.Register();
  ASSERT_TRUE(bad.Connect()) << bad.reject();
  shm::PubStatus& pub = bad.pub().status();
  for (uint64_t step = 0; step < 5; ++step) bad.Step(step, 1);
  shm::StoreRelease(pub.attempted, uint64_t{0});
  shm::StoreRelease(pub.dropped[0], ~uint64_t{0});
  shm::StoreRelease(pub.roots[0].step, uint64_t{1});
  bad.Publish(5, Kind::kLoss, [](shm::Record& record) { record.type = 77; });
  ASSERT_TRUE(Reaches(*core, bad, RunState::kQuarantined));
  const auto status = core->StatusOf(bad.hello().uuid);
  EXPECT_EQ(status.handled, 5 * TestProducer::kRecordsPerStep);
  ExpectBalanced(status);
  EXPECT_GE(status.steps_total, 5u);
}

TEST_F(IngestTest, Malicious_SegmentAndHelloOfDifferentProducers) {
  auto core = MakeCore();
  TestProducer producer(temp_.sub("dir"));
  producer.hello().uuid[0] ^= 1;
  EXPECT_FALSE(producer.Connect());
  EXPECT_NE(producer.reject().find("different producers"), std::string::npos) << producer.reject();
  EXPECT_TRUE(core->ingest().Producers().empty());
}

TEST_F(IngestTest, Malicious_HeadsThatNoDaemonCanHaveHad) {
  auto core = MakeCore();
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  auto socket = shm::ConnectToDaemon(temp_.sub("dir"));
  ASSERT_TRUE(socket.ok());
  producer.hello().heads = {1000, 0};
  ASSERT_TRUE(shm::SendHello(socket->get(), producer.hello(), producer.pub().fd()).ok());
  pollfd fd{socket->get(), POLLIN, 0};
  ASSERT_EQ(::poll(&fd, 1, 30'000), 1);
  auto answer = shm::ReceiveAnswer(socket->get());
  ASSERT_TRUE(answer.ok());
  EXPECT_TRUE(std::holds_alternative<shm::Reject>(*answer));
  // Its name is free: who comes next under it, while that process still lives, is no second job.
  producer.hello().heads = {};
  const std::string run_id = producer.hello().run_id;
  EXPECT_EQ(store_->LoadProducers()->at(0).state, RunState::kDied);
  TestProducer next(temp_.sub("dir"));
  next.Register();
  next.hello().run_id = run_id;
  ASSERT_TRUE(next.Connect()) << next.reject();
  EXPECT_EQ(core->StatusOf(next.hello().uuid).info.run_key.run_id, run_id);
}

TEST_F(IngestTest, Malicious_GarbageAndSilenceAtTheDoor) {
  AcceptorOptions options;
  options.hello_timeout_ms = 1'000;  // of the silent; this test itself must not be that late
  auto core = MakeCore(options);
  std::vector<UniqueFd> silent;
  for (int i = 0; i < 200; ++i) {
    auto socket = shm::ConnectToDaemon(temp_.sub("dir"));
    if (socket) silent.push_back(std::move(socket).value());
  }
  auto garbage = shm::ConnectToDaemon(temp_.sub("dir"));
  for (int i = 0; i < 1000 && !garbage; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    garbage = shm::ConnectToDaemon(temp_.sub("dir"));
  }
  ASSERT_TRUE(garbage.ok()) << garbage.error().text;
  const std::string bytes(4096, 'x');
  // Preempted for long enough in between, it was late after all and is out already.
  const ssize_t sent = ::send(garbage->get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  ASSERT_TRUE(sent == 4096 || (sent < 0 && (errno == EPIPE || errno == ECONNRESET))) << std::strerror(errno);
  const auto closed = [](int fd) {
    pollfd poll_fd{fd, POLLRDHUP, 0};
    return ::poll(&poll_fd, 1, 0) > 0 && (poll_fd.revents & POLLHUP) != 0;
  };
  EXPECT_TRUE(Eventually([&] { return closed(garbage->get()); }));
  for (const UniqueFd& socket : silent) EXPECT_TRUE(Eventually([&] { return closed(socket.get()); }));
  EXPECT_GE(core->acceptor().refused(), 1u);
  EXPECT_TRUE(Eventually([&] { return !core->Events("connection_refused").empty(); }));
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  EXPECT_TRUE(Eventually([&] { return producer.Connect(); })) << producer.reject();
}

TEST_F(IngestTest, AProducerIsServedOnceAndMayComeBack) {
  auto core = MakeCore();
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  for (uint64_t step = 0; step < 10; ++step) producer.Step(step, 1);
  {
    // The same producer on a second socket, while the first is alive.
    auto socket = shm::ConnectToDaemon(temp_.sub("dir"));
    ASSERT_TRUE(socket.ok());
    ASSERT_TRUE(shm::SendHello(socket->get(), producer.hello(), producer.pub().fd()).ok());
    pollfd fd{socket->get(), POLLIN, 0};
    ASSERT_EQ(::poll(&fd, 1, 30'000), 1);
    auto answer = shm::ReceiveAnswer(socket->get());
    ASSERT_TRUE(answer.ok());
    ASSERT_TRUE(std::holds_alternative<shm::Reject>(*answer));
    EXPECT_NE(std::get<shm::Reject>(*answer).reason.find("connected already"), std::string::npos);
  }
  producer.Disconnect();
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  for (uint64_t step = 10; step < 20; ++step) producer.Step(step, 1);
  ASSERT_TRUE(AllHandled(*core, producer));
  const auto status = core->StatusOf(producer.hello().uuid);
  EXPECT_EQ(status.handled, 20 * TestProducer::kRecordsPerStep);
  EXPECT_EQ(status.lost_in_daemon, 0u);
  EXPECT_EQ(status.steps_while_connected, 20u);
  ExpectBalanced(status);
  EXPECT_EQ(core->ingest().Producers().size(), 1u);
  EXPECT_EQ(core->Values("loss").size(), 20u);
}

TEST_F(IngestTest, ServesItsMaximumAndSaysSo) {
  auto core = MakeCore();
  shm::PubSizes sizes;
  sizes.ring_slots = 64;
  sizes.arena_bytes = 4096;
  sizes.registry_bytes = 1 << 16;
  std::vector<std::unique_ptr<TestProducer>> producers;
  for (size_t i = 0; i < kMaxProducers; ++i) {
    producers.push_back(std::make_unique<TestProducer>(temp_.sub("dir"), sizes));
    producers.back()->Register();
    ASSERT_TRUE(producers.back()->Connect()) << i << ": " << producers.back()->reject();
    producers.back()->Step(0, static_cast<float>(i));
  }
  TestProducer one_more(temp_.sub("dir"), sizes);
  EXPECT_FALSE(one_more.Connect());
  EXPECT_NE(one_more.reject().find("64"), std::string::npos) << one_more.reject();
  for (auto& producer : producers) EXPECT_TRUE(AllHandled(*core, *producer));
  producers[5]->Finish();
  ASSERT_TRUE(Reaches(*core, *producers[5], RunState::kFinished));
  EXPECT_TRUE(Eventually([&] { return one_more.Connect(); })) << one_more.reject();
}

TEST_F(IngestTest, CommandsReachTheProducerInOrder) {
  auto core = MakeCore();
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  auto session = core->ingest().FindLive(producer.hello().run_id, 0);
  ASSERT_EQ(session.size(), 1u);
  std::vector<shm::Command> commands(100);  // more than CTL holds at a time
  for (uint32_t i = 0; i < commands.size(); ++i) {
    commands[i].type = static_cast<uint32_t>(shm::CommandType::kFreeze);
    commands[i].module = i + 1;
  }
  ASSERT_TRUE(session[0]->PushCommands(commands, "a freeze").ok());
  uint64_t done = 0;
  ASSERT_TRUE(Eventually([&] {
    while (auto command = producer.ctl().NextCommand(done)) {
      EXPECT_EQ(command->module, done + 1);
      shm::StoreRelease(producer.pub().status().command_done, ++done);
    }
    return done == commands.size();
  })) << done;
}

TEST_F(IngestTest, ADevicePayloadGoesThroughTheWholeDaemon) {
  FakeDevice device;
  TestCore core(temp_.sub("dir"), store_, {}, [&] {
    std::vector<std::unique_ptr<PayloadSource>> sources;
    sources.push_back(std::make_unique<HostArenaSource>());
    sources.push_back(std::make_unique<FakePoolSource>(device));
    return sources;
  });
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  RegisterPool(producer.pub());
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  const float weights[4] = {1, 2, 3, 6};
  std::memcpy(device.pool.data() + 64, weights, sizeof weights);
  producer.Marker(Kind::kBatchStarted, 0);
  producer.Publish(0, Kind::kWeights, [&](shm::Record& record) {
    record.type = static_cast<uint8_t>(RecordType::kTensor);
    record.module = 1;
    record.param = 1;
    record.dtype = static_cast<uint8_t>(DType::kF32);
    record.layout = static_cast<uint8_t>(Layout::kRowMajor);
    record.ndim = 2;
    record.sizes[0] = record.sizes[1] = 2;
    record.space = static_cast<uint8_t>(Space::kDevicePool);
    record.payload = {64, sizeof weights, 2, kPoolId};
  });
  producer.Scalar(Kind::kLoss, 0, 7);
  producer.Marker(Kind::kBatchFinished, 0);
  // The ring is read to its end while the device is still at work.
  ASSERT_TRUE(Eventually([&] { return producer.ctl().heads().ring_head == 4; }));
  ASSERT_TRUE(Eventually([&] { return core.StatusOf(producer.hello().uuid).handled == 1; }));
  EXPECT_EQ(producer.ctl().pool_heads(kPoolId), (shm::PoolHeads{0, 0}));
  device.Complete(2);
  ASSERT_TRUE(AllHandled(core, producer));
  EXPECT_EQ(producer.ctl().pool_heads(kPoolId), (shm::PoolHeads{128, 1}));
  EXPECT_EQ(core.Values("weights_mean"), (std::map<uint64_t, double>{{0, 3.0}}));
  EXPECT_EQ(core.Values("loss"), (std::map<uint64_t, double>{{0, 7.0}}));
  ExpectBalanced(core.StatusOf(producer.hello().uuid));
}

TEST_F(IngestTest, ASessionThatCannotBeginEndsAlone) {
  int sessions = 0;
  TestCore core(temp_.sub("dir"), store_, {}, [&] {
    if (++sessions == 1) throw std::runtime_error("no room for its payloads");
    std::vector<std::unique_ptr<PayloadSource>> sources;
    sources.push_back(std::make_unique<HostArenaSource>());
    return sources;
  });
  TestProducer unlucky(temp_.sub("dir")), producer(temp_.sub("dir"));
  unlucky.Register();
  producer.Register();
  EXPECT_FALSE(unlucky.Connect());
  const auto status = core.StatusOf(unlucky.hello().uuid);
  EXPECT_EQ(status.state, RunState::kDisconnected) << "it is not the producer's fault";
  ASSERT_FALSE(status.notes.empty());
  EXPECT_NE(status.notes.back().find("no room for its payloads"), std::string::npos) << status.notes.back();
  EXPECT_EQ(core.Events("ingest_failed").size(), 1u);
  EXPECT_FALSE(unlucky.Connect()) << "at once it would only fail again";
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  producer.Step(0, 1);
  ASSERT_TRUE(AllHandled(core, producer));
}

TEST_F(IngestTest, AFailureOfOursIsNotTheTrainersFault) {
  auto core = MakeCore();
  core->knobs().throws_at.store(5);
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  for (uint64_t step = 0; step < 10; ++step) producer.Step(step, 1);
  ASSERT_TRUE(Reaches(*core, producer, RunState::kDisconnected));
  ASSERT_EQ(core->Events("ingest_failed").size(), 1u);
  EXPECT_TRUE(core->Events("quarantined").empty());
  EXPECT_EQ(core->Values("loss").size(), 5u);
}

TEST_F(IngestTest, ResultsThatComeLaterHoldBackWhatIsDoneAndNothingElse) {
  auto core = MakeCore();
  core->knobs().later.store(true);
  core->knobs().hold.store(true);
  TestProducer producer(temp_.sub("dir"));
  ASSERT_NO_FATAL_FAILURE(Trains(*core, producer, 5));
  const RunKey key{producer.hello().run_id, 0, 0};
  std::this_thread::sleep_for(std::chrono::milliseconds(400));  // longer than progress waits for
  EXPECT_EQ(store_->LoadProgress(key)->done_seq, 0u);
  EXPECT_TRUE(core->Values("loss").empty());
  core->knobs().hold.store(false);
  ASSERT_TRUE(Eventually([&] { return store_->LoadProgress(key)->done_seq == 20; }));
  EXPECT_EQ(core->Values("loss").size(), 5u) << "offered before they count as done";
}

TEST_F(IngestTest, WhatATrainerThatHasGoneLeftToBeComputedIsWaitedFor) {
  auto core = MakeCore();
  TestProducer producer(temp_.sub("dir"));
  ASSERT_NO_FATAL_FAILURE(LeavesAStepToCompute(*core, producer));
  std::this_thread::sleep_for(std::chrono::nanoseconds(ProducerSession::kFinishNs) + std::chrono::milliseconds(500));
  EXPECT_NE(core->StatusOf(producer.hello().uuid).state, RunState::kFinished);
  core->knobs().hold.store(false);
  ASSERT_TRUE(Reaches(*core, producer, RunState::kFinished));
  EXPECT_EQ(core->Values("loss").size(), 1u);
  EXPECT_TRUE(core->StatusOf(producer.hello().uuid).missing.empty());
}

TEST_F(IngestTest, WhatIsNotComputedWhenTheDaemonEndsIsCancelledAndShown) {
  auto core = MakeCore();
  TestProducer producer(temp_.sub("dir"));
  ASSERT_NO_FATAL_FAILURE(LeavesAStepToCompute(*core, producer));
  core->Stop();
  core = MakeCore();
  const auto status = core->StatusOf(producer.hello().uuid);
  EXPECT_EQ(status.state, RunState::kFinished);
  EXPECT_EQ(status.missing, (std::vector<Count>{{"cancelled", 1}}));
}

TEST_F(IngestTest, TheGraphLooksAtTheTimeWhereNoMessagesCome) {
  auto core = MakeCore();
  TestProducer producer(temp_.sub("dir"));
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  EXPECT_TRUE(Eventually([&] { return core->knobs().ticks.load() > 5; }));
}

// A process has one probe at a time: the one before is through, even if its end was not seen yet.
TEST_F(IngestTest, TheNextProbeOfAProcessIsTheNextAttempt) {
  auto core = MakeCore();
  TestProducer one(temp_.sub("dir")), two(temp_.sub("dir")), three(temp_.sub("dir"));
  two.hello().run_id = three.hello().run_id = one.hello().run_id;
  three.hello().start_step = 7;
  ASSERT_TRUE(one.Connect()) << one.reject();
  ASSERT_TRUE(two.Connect()) << two.reject();
  ASSERT_TRUE(three.Connect()) << three.reject();
  const std::string run = one.hello().run_id;
  EXPECT_EQ(core->StatusOf(one.hello().uuid).info.run_key, (RunKey{run, 0, 0}));
  EXPECT_EQ(core->StatusOf(two.hello().uuid).info.run_key, (RunKey{run, 1, 0}));
  const auto info = core->StatusOf(three.hello().uuid).info;
  EXPECT_EQ(info.run_key, (RunKey{run, 2, 0}));
  EXPECT_EQ(info.continues, 1u);
  EXPECT_EQ(info.line, 1u);
  EXPECT_EQ(info.start_step, 7u);
}

TEST_F(IngestTest, NamesThatFoundNoRoomAreShown) {
  auto core = MakeCore();
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  shm::AddRelaxed(producer.pub().status().registry_rejected, 3);
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  EXPECT_TRUE(Eventually([&] {
    for (const std::string& note : core->StatusOf(producer.hello().uuid).notes) {
      if (note.find("3 names found the registry full") != std::string::npos) return true;
    }
    return false;
  }));
}

}  // namespace
}  // namespace ikkuna::ingest
