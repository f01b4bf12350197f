// A trainer that is killed between any two stores of a publish: the daemon takes what was committed, counts the rest
// exactly, says that the run died, and goes on serving. The points are those of shared/publish_point.h, all of them.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "build_paths.h"
#include "tests/daemon/ingest/fake_pool.h"
#include "tests/daemon/ingest/kill_points/kill_point.h"
#include "tests/daemon/ingest/test_core.h"
#include "tests/daemon/ingest/test_producer.h"

namespace ikkuna::ingest {
namespace {

using shm::PublishPoint;

constexpr std::array kPoints{
#define IKKUNA_LISTED(name) PublishPoint::k##name,
    IKKUNA_FOR_EACH_PUBLISH_POINT(IKKUNA_LISTED)
#undef IKKUNA_LISTED
};

constexpr uint64_t kWholeSteps = 20;
constexpr uint64_t kArenaBytes = 1 << 16;
constexpr uint64_t kLateBytes = 4096;
constexpr uint64_t kRecordsPerStep = TestProducer::kRecordsPerStep + 1;  // and activations in the arena

// In the arena, or (where a device is to write them, and has not) among the late bytes.
bool PublishActivations(TestProducer& producer, uint64_t step, Space space = Space::kHostArena) {
  auto reservation = producer.pub().Reserve(space, 4 * sizeof(float));
  if (!reservation) return false;
  if (space == Space::kHostLate) static_cast<void>(reservation.TakeLate());
  shm::Record& record = reservation.record();
  record.time_ns = 1;
  record.global_step = step;
  record.module = 1;
  record.param = 0;
  record.epoch = record.train_step = 0;
  record.root = 1;
  record.pass = 0;
  record.tag = 0;
  record.call = 0;
  record.type = static_cast<uint8_t>(RecordType::kTensor);
  record.kind = static_cast<uint8_t>(Kind::kActivations);
  record.dtype = static_cast<uint8_t>(DType::kF32);
  record.ndim = 1;
  record.space = static_cast<uint8_t>(space);
  record.layout = static_cast<uint8_t>(Layout::kRowMajor);
  record.flags = 0;
  std::fill(std::begin(record.sizes), std::end(record.sizes), 0);
  record.sizes[0] = 4;
  const float values[4] = {1, 2, 3, 4};
  std::memcpy(reservation.payload(), values, sizeof values);
  reservation.Commit();
  return true;
}

void PublishStep(TestProducer& producer, uint64_t step) {
  producer.Marker(Kind::kBatchStarted, step);
  producer.Summary(step, 1);
  PublishActivations(producer, step);
  producer.Scalar(Kind::kLoss, step, 1);
  producer.Marker(Kind::kBatchFinished, step);
}

// The publish that is to be cut off. Without a drop: one record, with a payload in that space or none.
void PublishOrDrop(TestProducer& producer, bool drop, Space space) {
  const bool payload = space != Space::kInline;
  if (drop && payload) {
    static_cast<void>(producer.pub().Reserve(space, 2 * kArenaBytes));
  } else if (drop) {
    producer.pub().CountDrop(DropReason::kFailed);
  } else if (payload) {
    PublishActivations(producer, kWholeSteps, space);
  } else {
    producer.Scalar(Kind::kLoss, kWholeSteps, 1);
  }
}

// A trainer in a process of its own, forked while the test has a single thread. It waits for Go(), then runs `body`.
class Trainer {
 public:
  Trainer(const std::string& directory, const std::function<void(TestProducer&)>& body) {
    EXPECT_EQ(::pipe2(go_, O_CLOEXEC), 0);
    EXPECT_EQ(::pipe2(name_, O_CLOEXEC), 0);
    pid_ = ::fork();
    EXPECT_GE(pid_, 0);
    if (pid_ == 0) Run(directory, body);
    ::close(go_[0]);
    ::close(name_[1]);
  }
  ~Trainer() {
    ::close(go_[1]);
    ::close(name_[0]);
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
  }
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  // Returns its uuid once it is connected.
  std::array<unsigned char, 16> Go() {
    std::array<unsigned char, 16> uuid{};
    EXPECT_EQ(::write(go_[1], "g", 1), 1);
    EXPECT_EQ(::read(name_[0], uuid.data(), uuid.size()), static_cast<ssize_t>(uuid.size())) << "it could not connect";
    return uuid;
  }
  // Blocks until it says so; false: it ended first.
  bool Ready() {
    char byte;
    return ::read(name_[0], &byte, 1) == 1;
  }
  void Kill() { EXPECT_EQ(::kill(pid_, SIGKILL), 0); }
  // The signal that ended it; 0: it ended by itself.
  int SignalOfDeath() {
    int state = 0;
    EXPECT_EQ(::waitpid(pid_, &state, 0), pid_);
    pid_ = -1;
    return WIFSIGNALED(state) ? WTERMSIG(state) : 0;
  }

 private:
  [[noreturn]] void Run(const std::string& directory, const std::function<void(TestProducer&)>& body) {
    ::alarm(120);  // its watchdog
    char byte;
    if (::read(go_[0], &byte, 1) != 1) ::_exit(1);
    shm::PubSizes sizes = TestProducer::SmallSizes();
    sizes.late_bytes = kLateBytes;
    TestProducer producer(directory, sizes);
    producer.Register();
    if (producer.pub().BackArena(kArenaBytes) != kArenaBytes) ::_exit(2);
    if (!producer.Connect()) ::_exit(3);
    const auto& uuid = producer.hello().uuid;
    if (::write(name_[1], uuid.data(), uuid.size()) != static_cast<ssize_t>(uuid.size())) ::_exit(4);
    body(producer);
    if (::write(name_[1], "r", 1) != 1) ::_exit(5);
    for (;;) ::pause();
  }

  int go_[2];
  int name_[2];
  pid_t pid_ = -1;
};

// A producer that has nothing to do with it and must not notice.
class Bystander {
 public:
  explicit Bystander(const std::string& directory) : producer_(directory) {
    producer_.Register();
    EXPECT_TRUE(producer_.Connect()) << producer_.reject();
  }
  void Publish(uint64_t steps) {
    for (uint64_t i = 0; i < steps; ++i, ++step_) {
      producer_.Marker(Kind::kBatchStarted, step_);
      producer_.Marker(Kind::kBatchFinished, step_);
    }
  }
  void ExpectServed(TestCore& core) {
    const auto& uuid = producer_.hello().uuid;
    EXPECT_TRUE(Eventually([&] { return core.StatusOf(uuid).handled == 2 * step_; }));
    const auto status = core.StatusOf(uuid);
    EXPECT_EQ(status.state, RunState::kRunning);
    EXPECT_EQ(status.attempted, 2 * step_);
    ExpectBalanced(status);
  }

 private:
  TestProducer producer_;
  uint64_t step_ = 0;
};

using Case = std::tuple<PublishPoint, Space>;  // the point, and where the publish has a payload

std::string CaseName(const testing::TestParamInfo<Case>& info) {
  const Space space = std::get<1>(info.param);
  const char* where = space == Space::kInline ? "Inline" : space == Space::kHostLate ? "WithLateBytes" : "WithPayload";
  return std::string(shm::NameOf(std::get<0>(info.param))) + where;
}

// Every point with a payload and without; without one, nothing is placed.
std::vector<Case> AllCases() {
  std::vector<Case> cases;
  for (const PublishPoint point : kPoints) {
    for (const Space space : {Space::kInline, Space::kHostArena, Space::kHostLate}) {
      if (space != Space::kInline || point != PublishPoint::kPlaced) cases.emplace_back(point, space);
    }
  }
  return cases;
}

class KillPoint : public testing::TestWithParam<Case> {};

uint64_t Unready(const ProducerStatus& status) {
  for (const Count& count : status.missing) {
    if (count.reason == "unready") return count.count;
  }
  return 0;
}

// What is counted of the publish that was cut off, by layout.md: section 6 says what each point leaves, 10 what it is.
TEST_P(KillPoint, LeavesNothingUncounted) {
  const auto [point, space] = GetParam();
  const bool dropped = point == PublishPoint::kDropped;
  const bool committed = point == PublishPoint::kCommitted;
  const bool killed = !dropped && !committed;

  TempDirectory temp;
  Trainer trainer(temp.sub("dir"), [point = point, space = space, dropped](TestProducer& producer) {
    for (uint64_t step = 0; step < kWholeSteps; ++step) PublishStep(producer, step);
    shm::DieAt(point);
    PublishOrDrop(producer, dropped, space);
  });
  TestCore core(temp.sub("dir"), std::make_shared<MemoryStore>());
  Bystander bystander(temp.sub("dir"));
  bystander.Publish(50);
  const auto uuid = trainer.Go();
  bystander.Publish(50);
  ASSERT_EQ(trainer.SignalOfDeath(), SIGKILL) << "it never came to this point";
  ASSERT_TRUE(Eventually([&] { return core.StatusOf(uuid).state == RunState::kDied; }))
      << RunStateName(core.StatusOf(uuid).state);

  const auto status = core.StatusOf(uuid);
  EXPECT_EQ(status.handled, kWholeSteps * kRecordsPerStep + committed);
  EXPECT_EQ(status.dropped_total, dropped ? 1u : 0u);
  EXPECT_EQ(status.killed, killed ? 1u : 0u);
  EXPECT_EQ(status.lost_in_daemon, 0u);
  EXPECT_EQ(status.attempted, kWholeSteps * kRecordsPerStep + 1);
  EXPECT_EQ(Unready(status), committed && space == Space::kHostLate ? 1u : 0u);
  ExpectBalanced(status);
  EXPECT_EQ(core.Events("run_ended").size(), 1u);
  EXPECT_TRUE(core.Events("quarantined").empty());
  for (const std::string topic : {"loss", "weights_mean"}) {
    EXPECT_EQ(core.Values(topic).size(), kWholeSteps) << topic;
  }
  bystander.Publish(50);
  bystander.ExpectServed(core);
}

INSTANTIATE_TEST_SUITE_P(AllPoints, KillPoint, testing::ValuesIn(AllCases()), CaseName);

// A hole is skipped, and what other threads committed behind it is taken; each thread leaves one thing at most.
TEST(KillPoints, ThreadsThatDieTogetherLeaveOneThingEach) {
  TempDirectory temp;
  Trainer trainer(temp.sub("dir"), [](TestProducer& producer) {
    PublishStep(producer, 0);
    int threads = 0;
    for (const PublishPoint point : {PublishPoint::kEntered, PublishPoint::kWritten, PublishPoint::kWritten}) {
      std::thread([&producer, point] {
        shm::StayAt(point);
        PublishActivations(producer, 1);
      }).detach();
      ++threads;
      while (shm::Staying() < threads) std::this_thread::yield();
    }
    PublishStep(producer, 1);
  });
  TestCore core(temp.sub("dir"), std::make_shared<MemoryStore>());
  Bystander bystander(temp.sub("dir"));
  const auto uuid = trainer.Go();
  ASSERT_TRUE(trainer.Ready());
  trainer.Kill();
  ASSERT_EQ(trainer.SignalOfDeath(), SIGKILL);
  ASSERT_TRUE(Eventually([&] { return core.StatusOf(uuid).state == RunState::kDied; }))
      << RunStateName(core.StatusOf(uuid).state);
  const auto status = core.StatusOf(uuid);
  EXPECT_EQ(status.handled, 2 * kRecordsPerStep);
  EXPECT_EQ(status.killed, 3u);
  EXPECT_EQ(status.dropped_total, 0u);
  ExpectBalanced(status);
  EXPECT_EQ(core.Values("loss").size(), 2u);
  bystander.Publish(50);
  bystander.ExpectServed(core);
}

// A device that dies with its trainer never says that a payload is ready: what waits for it, and what waits behind it,
// is given up and counted as lost.
TEST(KillPoints, WhatWaitsForADeadDeviceIsLost) {
  TempDirectory temp;
  Trainer trainer(temp.sub("dir"), [](TestProducer& producer) {
    RegisterPool(producer.pub());
    PublishStep(producer, 0);
    producer.Marker(Kind::kBatchStarted, 1);
    producer.Publish(1, Kind::kWeights, [](shm::Record& record) {
      record.type = static_cast<uint8_t>(RecordType::kTensor);
      record.module = record.param = 1;
      record.dtype = static_cast<uint8_t>(DType::kF32);
      record.layout = static_cast<uint8_t>(Layout::kRowMajor);
      record.ndim = 1;
      record.sizes[0] = 4;
      record.space = static_cast<uint8_t>(Space::kDevicePool);
      record.payload = {0, 16, 1, kPoolId};
    });
    producer.Marker(Kind::kBatchFinished, 1);
  });
  FakeDevice device;
  TestCore core(temp.sub("dir"), std::make_shared<MemoryStore>(), {}, [&] {
    std::vector<std::unique_ptr<PayloadSource>> sources;
    sources.push_back(std::make_unique<HostArenaSource>());
    sources.push_back(std::make_unique<FakePoolSource>(device));
    return sources;
  });
  const auto uuid = trainer.Go();
  ASSERT_TRUE(trainer.Ready());
  trainer.Kill();
  ASSERT_EQ(trainer.SignalOfDeath(), SIGKILL);
  ASSERT_TRUE(Eventually([&] { return core.StatusOf(uuid).state == RunState::kDied && core.ingest().live() == 0; }));
  const auto status = core.StatusOf(uuid);
  EXPECT_EQ(status.handled, kRecordsPerStep + 1);
  EXPECT_EQ(status.lost_in_daemon, 2u);
  EXPECT_EQ(status.killed, 0u);
  ExpectBalanced(status);
}

// What a device had not delivered when its trainer was killed is counted; what it had is in the store.
TEST(KillPoints, WhatIsNotReadyIsCountedWithWhatIsHandled) {
  TempDirectory temp;
  Trainer trainer(temp.sub("dir"), [](TestProducer& producer) {
    PublishStep(producer, 0);
    const float values[4] = {5, 5, 5, 5};
    const TensorStats stats = ComputeStats(values, DType::kF32, 4);
    for (uint64_t step = 1; step <= 3; ++step) {
      producer.Marker(Kind::kBatchStarted, step);
      producer.LateSummary(step, step != 3 ? &stats : nullptr);
      producer.Scalar(Kind::kLoss, step, 1);
      producer.Marker(Kind::kBatchFinished, step);
    }
  });
  TestCore core(temp.sub("dir"), std::make_shared<MemoryStore>());
  const auto uuid = trainer.Go();
  ASSERT_TRUE(trainer.Ready());
  trainer.Kill();
  ASSERT_EQ(trainer.SignalOfDeath(), SIGKILL);
  ASSERT_TRUE(Eventually([&] { return core.StatusOf(uuid).state == RunState::kDied && core.ingest().live() == 0; }));
  const auto status = core.StatusOf(uuid);
  EXPECT_EQ(status.handled, kRecordsPerStep + 3 * 4);
  EXPECT_EQ(Unready(status), 1u);
  EXPECT_EQ(status.lost_in_daemon, 0u);
  EXPECT_EQ(status.killed, 0u);
  ExpectBalanced(status);
  EXPECT_EQ(core.Values("loss").size(), 4u);
  EXPECT_EQ(core.Values("weights_mean").size(), 3u);
}

// A message that is dropped when a place is taken already counts in the record behind it, never in the one before:
// neighbours' counts differ by exactly what was dropped between them, whichever threads they come from.
TEST(KillPoints, ADropBehindAReservationCountsInTheNextRecord) {
  auto made = shm::PubWriter::Create({.ring_slots = 8, .arena_bytes = 0, .registry_bytes = 4096});
  ASSERT_TRUE(made.ok());
  shm::PubWriter& writer = **made;
  shm::DoAt(PublishPoint::kReserved, [&] { writer.CountDrop(DropReason::kFailed); });
  auto first = writer.Reserve(Space::kInline, 0);
  ASSERT_TRUE(first);
  EXPECT_EQ(first.record().dropped_total, 0u);
  first = {};
  auto second = writer.Reserve(Space::kInline, 0);
  ASSERT_TRUE(second);
  EXPECT_EQ(second.record().dropped_total, 1u);
}

// The list of the code and the table of the contract name the same points in the same order.
TEST(KillPoints, AreThoseOfTheLayout) {
  std::ifstream file(IKKUNA_SOURCE_DIR "/shared/layout.md");
  ASSERT_TRUE(file.is_open());
  std::vector<std::string> in_layout, in_code;
  bool within = false;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("#")) within = line == "### One publish, in its order of stores";
    if (!within || !line.starts_with("| ")) continue;
    const std::string name = line.substr(2, line.find(' ', 2) - 2);
    if (name != "point") in_layout.push_back(name);
  }
  for (const PublishPoint point : kPoints) {
    std::string name = shm::NameOf(point);
    std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::toupper(c); });
    in_code.push_back(name);
  }
  EXPECT_EQ(in_layout, in_code);
}

}  // namespace
}  // namespace ikkuna::ingest
