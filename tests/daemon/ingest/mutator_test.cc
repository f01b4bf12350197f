// A producer whose segment another hand scribbles on while the daemon reads it and its own threads publish: the daemon
// quarantines it or reads on, never crashes or hangs, and an innocent producer beside it loses nothing.
//
// Each liar is a process of its own, forked before the daemon has threads, and ends as liars do: killed. Its mutator
// writes through a second mapping of the segment, as another process would: no order with the publishing thread is
// promised, and the thread sanitizer, which goes by addresses, does not look for one.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/daemon/ingest/test_core.h"
#include "tests/daemon/ingest/test_producer.h"

namespace ikkuna::ingest {
namespace {

constexpr int kMutatorWatchdogSeconds = 120;
constexpr uint64_t kStepsOfALiar = 400;
constexpr int kFlipsBetweenYields = 8;
constexpr uint64_t kArenaBytes = 1 << 16;

// What a round scribbles on.
enum class Target { kPayloads, kPlaces, kRecords, kRegistry, kStatus, kHeader, kFront, kAll };
constexpr Target kTargets[] = {Target::kPayloads, Target::kPlaces, Target::kRecords, Target::kRegistry,
                               Target::kStatus,   Target::kHeader, Target::kFront,   Target::kAll};

class Scribbler {
 public:
  Scribbler(shm::PubWriter& writer, Target target, uint32_t seed) : target_(target), random_(seed) {
    shm::Segment& segment = writer.segment();
    // With a length of 0 mremap makes a second mapping of the same pages and leaves the first.
    void* second = ::mremap(segment.data(), 0, segment.bytes(), MREMAP_MAYMOVE);
    if (second != MAP_FAILED) data_ = static_cast<unsigned char*>(second);
    header_ = writer.header();
  }
  bool ok() const { return data_ != nullptr; }

  void Run(const std::atomic<bool>& stop) {
    while (!stop.load(std::memory_order_relaxed)) {
      for (int i = 0; i < kFlipsBetweenYields; ++i) Flip();
      std::this_thread::yield();
    }
  }

 private:
  uint64_t Below(uint64_t bound) { return random_() % bound; }
  uint64_t Somewhere() {
    switch (target_) {
      case Target::kPayloads:
        return header_.arena_offset + Below(kArenaBytes);
      case Target::kPlaces:  // what Flip() never asks for
      case Target::kRecords:
        return header_.ring_offset + Below(uint64_t{header_.ring_slots} * header_.record_bytes);
      case Target::kRegistry:
        return header_.registry_offset + Below(1024);
      case Target::kStatus:
        return header_.status_offset + Below(sizeof(shm::PubStatus));
      case Target::kHeader:
        return Below(sizeof(shm::PubHeader));
      case Target::kFront:
        return Below(header_.status_offset + header_.status_bytes);
      case Target::kAll:
        break;
    }
    constexpr Target kWritten[] = {Target::kPayloads, Target::kRecords, Target::kRegistry, Target::kStatus,
                                   Target::kHeader};
    target_ = kWritten[Below(std::size(kWritten))];
    const uint64_t at = Somewhere();
    target_ = Target::kAll;
    return at;
  }
  // A record that is right in all but where its payload lies.
  void MovePayload() {
    unsigned char* slot = data_ + header_.ring_offset + Below(header_.ring_slots) * header_.record_bytes;
    if (slot[offsetof(shm::Record, type)] != static_cast<uint8_t>(RecordType::kTensor)) return;
    const uint64_t lie = Below(2) == 0 ? random_() / shm::kPayloadAlign * shm::kPayloadAlign : Below(1 << 20);
    *reinterpret_cast<volatile uint64_t*>(slot + offsetof(shm::Record, payload.position)) = lie;
  }
  // A bit, a byte or a word: small lies pass more checks than large ones.
  void Flip() {
    if (target_ == Target::kPlaces) return MovePayload();
    const uint64_t at = Somewhere();
    auto* byte = static_cast<volatile unsigned char*>(data_ + at);
    const uint64_t how = Below(4);
    if (how < 2) {
      *byte = static_cast<unsigned char>(*byte ^ (1u << Below(8)));
    } else if (how == 2) {
      *byte = static_cast<unsigned char>(random_());
    } else {
      const uint64_t word_at = at / 8 * 8;
      *reinterpret_cast<volatile uint64_t*>(data_ + word_at) = Below(3) == 0 ? random_() : Below(2048);
    }
  }

  Target target_;
  std::mt19937_64 random_;
  unsigned char* data_ = nullptr;
  shm::PubHeader header_{};
};

void PublishActivations(TestProducer& producer, uint64_t step) {
  auto reservation = producer.pub().Reserve(Space::kHostArena, 256);
  if (!reservation) return;
  shm::Record& record = reservation.record();
  record.global_step = step;
  record.module = 1;
  record.param = 0;
  record.root = 1;
  record.pass = 0;
  record.tag = 0;
  record.call = record.flags = 0;
  record.type = static_cast<uint8_t>(RecordType::kTensor);
  record.kind = static_cast<uint8_t>(Kind::kActivations);
  record.dtype = static_cast<uint8_t>(DType::kF32);
  record.ndim = 1;
  record.space = static_cast<uint8_t>(Space::kHostArena);
  record.layout = static_cast<uint8_t>(Layout::kRowMajor);
  for (int64_t& size : record.sizes) size = 0;
  record.sizes[0] = 64;
  std::memset(reservation.payload(), 0x3f, 256);
  reservation.Commit();
}

// Until its steps are done, whether it is read or not; then it is gone without a word.
[[noreturn]] void Lie(const std::string& directory, int go, Target target, uint32_t seed) {
  char byte;
  if (::read(go, &byte, 1) != 1) ::_exit(1);
  ::alarm(kMutatorWatchdogSeconds);  // from its turn on
  shm::PubSizes sizes;
  sizes.ring_slots = 64;
  sizes.arena_bytes = kArenaBytes;
  sizes.registry_bytes = 1 << 16;
  TestProducer producer(directory, sizes);
  producer.Register();
  if (producer.pub().BackArena(kArenaBytes) != kArenaBytes || !producer.Connect()) ::_exit(2);
  Scribbler scribbler(producer.pub(), target, seed);
  if (!scribbler.ok()) ::_exit(3);
  std::atomic<bool> stop{false};
  std::thread mutator([&] { scribbler.Run(stop); });
  for (uint64_t step = 0; step < kStepsOfALiar; ++step) {
    producer.Marker(Kind::kBatchStarted, step);
    producer.Summary(step, 1);
    PublishActivations(producer, step);
    producer.Scalar(Kind::kLoss, step, 1);
    producer.Marker(Kind::kBatchFinished, step);
    if (step % 4 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  ::kill(::getpid(), SIGKILL);
  ::_exit(4);
}

struct Liar {
  pid_t pid = -1;
  UniqueFd go;
  Target target = Target::kAll;
};

std::vector<Liar> ForkLiars(const std::string& directory, uint32_t rounds) {
  std::vector<Liar> liars;
  for (uint32_t round = 0; round < rounds; ++round) {
    for (const Target target : kTargets) {
      int fds[2];
      EXPECT_EQ(::pipe2(fds, O_CLOEXEC), 0);
      UniqueFd read_end(fds[0]), write_end(fds[1]);
      const auto seed = static_cast<uint32_t>(liars.size() + 1);
      const pid_t pid = ::fork();
      EXPECT_GE(pid, 0);
      if (pid == 0) {
        // The others' ends too: when the test is gone everyone sees the end of its pipe.
        write_end.reset();
        liars.clear();
        Lie(directory, read_end.get(), target, seed);
      }
      liars.push_back({pid, std::move(write_end), target});
    }
  }
  return liars;
}

TEST(Malicious_Mutator, AnInnocentProducerLosesNothing) {
  TempDirectory temp;
  std::vector<Liar> liars = ForkLiars(temp.sub("dir"), 4);
  TestCore core(temp.sub("dir"));
  // Room for half a minute of its steps, during which the session may not get a turn on a loaded machine.
  shm::PubSizes sizes = TestProducer::SmallSizes();
  sizes.ring_slots = 131'072;
  TestProducer innocent(temp.sub("dir"), sizes);
  innocent.Register();
  ASSERT_TRUE(innocent.Connect()) << innocent.reject();
  const auto& uuid = innocent.hello().uuid;
  uint64_t step = 0;
  for (Liar& liar : liars) {
    ASSERT_EQ(::write(liar.go.get(), "g", 1), 1);
    int state = 0;
    pid_t ended = 0;
    while ((ended = ::waitpid(liar.pid, &state, WNOHANG)) == 0) {
      innocent.Step(step++, 1);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    ASSERT_EQ(ended, liar.pid);
    // Its own watchdog ends it with SIGALRM.
    ASSERT_TRUE(WIFSIGNALED(state) && WTERMSIG(state) == SIGKILL)
        << "target " << static_cast<int>(liar.target) << " ended with state " << state;
    // Its session is over, however it was left: only the innocent's goes on.
    ASSERT_TRUE(Eventually([&] { return core.ingest().live() == 1; }));
    ASSERT_TRUE(Eventually([&] { return core.StatusOf(uuid).handled == step * TestProducer::kRecordsPerStep; }));
    const auto status = core.StatusOf(uuid);
    EXPECT_EQ(status.attempted, step * TestProducer::kRecordsPerStep);
    EXPECT_EQ(status.state, RunState::kRunning);
    ExpectBalanced(status);
  }
  // Neither is every lie found out at once, nor none.
  uint64_t quarantined = 0, read_to_the_end = 0;
  for (const ProducerStatus& status : core.ingest().Producers()) {
    if (status.state == RunState::kQuarantined) ExpectBalanced(status);
    quarantined += status.state == RunState::kQuarantined;
    read_to_the_end += status.state == RunState::kDied;
  }
  RecordProperty("quarantined", std::to_string(quarantined));
  RecordProperty("read_to_the_end", std::to_string(read_to_the_end));
  EXPECT_GT(quarantined, 0u);
  EXPECT_GT(read_to_the_end, 0u);
  innocent.Finish();
  ASSERT_TRUE(Eventually([&] { return core.StatusOf(uuid).state == RunState::kFinished; }));
}

}  // namespace
}  // namespace ikkuna::ingest
