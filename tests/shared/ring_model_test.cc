// The transport against a model of it: random operations without threads, then with; and positions near the ends of u32
// and u64, where a long run would stand.
#include <gtest/gtest.h>

#include <atomic>
#include <deque>
#include <limits>
#include <random>
#include <thread>
#include <vector>

#include "tests/shared/transport_pair.h"

namespace ikkuna::shm {
namespace {

constexpr uint64_t kPage = 4096;

// What was published and not read, in order; what was read and not freed.
struct Model {
  struct Sent {
    uint64_t bytes;
    unsigned char fill;
  };
  std::deque<Sent> unread;
  uint64_t next_position = 0;
  uint64_t dropped = 0;
  uint64_t attempted = 0;
};

unsigned char FillOf(uint64_t position) { return static_cast<unsigned char>(position * 7 + 1); }

void ExpectMessage(const Message& message, const Model::Sent& sent, uint64_t position) {
  EXPECT_EQ(message.record.seq, position + 1);
  ASSERT_EQ(message.payload_bytes, sent.bytes);
  for (uint64_t i = 0; i < sent.bytes; ++i) {
    ASSERT_EQ(message.payload[i], sent.fill) << "byte " << i << " of position " << position;
  }
}

void RunModel(uint64_t first_position, uint32_t seed, int operations) {
  constexpr uint32_t kSlots = 16;
  TransportPair pair(
      {.ring_slots = kSlots, .arena_bytes = 3 * kPage, .registry_bytes = kPage, .first_position = first_position});
  ASSERT_TRUE(pair.ok());
  Model model;
  model.next_position = first_position;
  uint64_t freed_slots = first_position;
  std::mt19937 random(seed);
  uint64_t read_position = first_position;
  for (int i = 0; i < operations; ++i) {
    switch (random() % 8) {
      default: {  // publish
        const uint64_t bytes = random() % 4 == 0 ? 0 : random() % (random() % 8 == 0 ? 4 * kPage : 600);
        ++model.attempted;
        if (PublishBytes(*pair.writer, bytes, FillOf(model.next_position))) {
          EXPECT_LT(model.next_position - freed_slots, kSlots) << "published into a slot that is in use";
          EXPECT_LE(bytes, 3 * kPage);
          model.unread.push_back({bytes, FillOf(model.next_position)});
          ++model.next_position;
        } else {
          ++model.dropped;
        }
        break;
      }
      case 5:
      case 6: {  // read some; what has been read and is not freed must still hold its bytes at the next read
        for (uint32_t n = random() % 6; n > 0; --n) {
          auto next = pair.view->Next();
          ASSERT_TRUE(next.ok()) << next.error().text;
          ASSERT_EQ(next->has_value(), !model.unread.empty());
          if (!*next) break;
          ExpectMessage(**next, model.unread.front(), read_position);
          model.unread.pop_front();
          ++read_position;
        }
        break;
      }
      case 7:
        pair.FreeAll();
        freed_slots = read_position;
        break;
    }
    if (i % 1000 == 999 && random() % 3 == 0) {  // the daemon restarts with nothing pending
      pair.FreeAll();
      ASSERT_TRUE(pair.writer->AcceptHeads(pair.ctl_view->heads()));
      freed_slots = read_position;
      pair.writer->SetHeadSource(nullptr);
      pair.Connect();
      ASSERT_EQ(pair.view->ring_position(), read_position);
    }
  }
  while (!model.unread.empty()) {
    ExpectMessage(MustRead(*pair.view), model.unread.front(), read_position++);
    model.unread.pop_front();
  }
  EXPECT_TRUE(ReadsNothing(*pair.view));
  const StatusSnapshot status = pair.view->ReadStatus();
  EXPECT_EQ(status.status.attempted, model.attempted);
  EXPECT_EQ(status.dropped_total, model.dropped);
  EXPECT_EQ(status.status.reserved, model.next_position);
  EXPECT_GT(model.next_position - first_position, static_cast<uint64_t>(operations) / 20) << "the test moved something";
  pair.FreeAll();
  EXPECT_TRUE(PublishBytes(*pair.writer, 3 * kPage, 1)) << "with all freed everything fits again";
}

TEST(RingModel, RandomOperations) {
  for (uint32_t seed = 1; seed <= 20; ++seed) RunModel(0, seed, 5000);
}

TEST(RingModel, PositionsPastTheEndOfU32) {
  for (uint32_t seed = 1; seed <= 5; ++seed) RunModel((uint64_t{1} << 32) - kPage, seed, 5000);
}

TEST(RingModel, PositionsPastTheEndOfI64) {
  for (uint32_t seed = 1; seed <= 5; ++seed) RunModel((uint64_t{1} << 63) - kPage, seed, 5000);
}

// Positions never wrap: at the end everything is dropped and counted, and what was published is still read.
TEST(RingModel, AtTheEndOfU64EverythingIsDropped) {
  const uint64_t first = std::numeric_limits<uint64_t>::max() - (kPage - 1);
  TransportPair pair({.ring_slots = 16, .arena_bytes = kPage, .registry_bytes = kPage, .first_position = first});
  ASSERT_TRUE(pair.ok());
  uint64_t published = 0;
  for (int i = 0; i < 5000; ++i) {
    published += PublishScalar(*pair.writer, i) ? 1 : 0;
    auto next = pair.view->Next();
    ASSERT_TRUE(next.ok()) << next.error().text;
    if (*next) {
      EXPECT_NE((*next)->record.seq, 0u);
    }
    pair.FreeAll();
  }
  EXPECT_EQ(published, kPage - 1) << "the last position, whose seq would be 0, is never handed out";
  EXPECT_EQ(pair.view->ReadStatus().status.dropped[static_cast<size_t>(DropReason::kRingFull)], 5000 - published);
}

TEST(RingModel, AtTheEndOfU64PayloadsAreDropped) {
  const uint64_t first = std::numeric_limits<uint64_t>::max() - (kPage - 1);
  TransportPair pair({.ring_slots = 16, .arena_bytes = kPage, .registry_bytes = kPage, .first_position = first});
  ASSERT_TRUE(pair.ok());
  ASSERT_TRUE(PublishBytes(*pair.writer, kPage - 128, 3));
  EXPECT_FALSE(PublishBytes(*pair.writer, 128, 4)) << "its end would be position 0";
  EXPECT_EQ(MustRead(*pair.view).payload_bytes, kPage - 128);
  pair.FreeAll();
  EXPECT_FALSE(PublishBytes(*pair.writer, 128, 4));
  EXPECT_TRUE(PublishBytes(*pair.writer, 64, 4));
  EXPECT_EQ(MustRead(*pair.view).payload_bytes, 64u);
}

// ---- With threads

// Messages of every thread come in that thread's order, whole, and none is lost without being counted.
TEST(RingThreads, EveryMessageArrivesOnceOrIsCounted) {
  constexpr uint32_t kThreads = 4;
  constexpr uint32_t kEach = 20000;    // at the least
  constexpr uint64_t kHandled = 1000;  // however seldom the reader gets its turn
  TransportPair pair({.ring_slots = 64, .arena_bytes = 16 * kPage, .registry_bytes = kPage});
  ASSERT_TRUE(pair.ok());
  std::atomic<uint32_t> running{kThreads};
  std::atomic<uint64_t> attempted{0}, handled{0};
  std::vector<std::jthread> threads;
  for (uint32_t thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread](const std::stop_token& stop) {
      std::mt19937 random(thread);
      for (uint32_t i = 0; i < kEach || (handled <= kHandled && !stop.stop_requested()); ++i) {
        ++attempted;
        const uint64_t bytes = random() % 3 == 0 ? 0 : random() % 700;
        auto reservation = pair.writer->Reserve(Space::kHostArena, bytes);
        if (!reservation) {
          if (i % 16 == 0) std::this_thread::yield();
          continue;
        }
        FillTensor(reservation.record(), bytes);
        reservation.record().epoch = thread;
        reservation.record().train_step = i;
        if (bytes > 0) std::memset(reservation.payload(), FillOf(i + thread), bytes);
        reservation.Commit();
      }
      --running;
    });
  }
  std::vector<int64_t> last(kThreads, -1);
  uint64_t dropped_before = 0;
  for (bool last_round = false;;) {
    auto next = pair.view->Next();
    ASSERT_TRUE(next.ok()) << next.error().text;
    if (!*next) {
      if (last_round) break;
      last_round = running.load() == 0;
      const StatusSnapshot status = pair.view->ReadStatus();
      EXPECT_LE(status.status.reserved + status.dropped_total, status.status.attempted);
      pair.FreeAll();
      std::this_thread::yield();
      continue;
    }
    const Message& message = **next;
    const uint32_t thread = message.record.epoch;
    ASSERT_LT(thread, kThreads);
    ASSERT_GT(int64_t{message.record.train_step}, last[thread]);
    last[thread] = message.record.train_step;
    for (uint64_t i = 0; i < message.payload_bytes; ++i) {
      ASSERT_EQ(message.payload[i], FillOf(message.record.train_step + thread));
    }
    EXPECT_LE(message.record.dropped_total, attempted);
    EXPECT_GE(message.record.dropped_total, dropped_before) << "what is between two records is their difference";
    dropped_before = message.record.dropped_total;
    if (++handled % 8 == 0) pair.FreeAll();
  }
  for (std::jthread& thread : threads) thread.join();
  const StatusSnapshot status = pair.view->ReadStatus();
  EXPECT_EQ(status.status.attempted, attempted);
  EXPECT_EQ(handled + status.dropped_total, status.status.attempted);
  EXPECT_LE(dropped_before, status.dropped_total);
  EXPECT_GT(handled, kHandled);
}

TEST(RingThreads, RegistryGrowsWhileItIsRead) {
  TransportPair pair({.ring_slots = 8, .arena_bytes = 0, .registry_bytes = 4 << 20});
  ASSERT_TRUE(pair.ok());
  constexpr uint32_t kThreads = 2;
  constexpr uint32_t kEach = 10000;
  std::vector<std::thread> threads;
  for (uint32_t thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      for (uint32_t i = 0; i < kEach; ++i) {
        RegistryEntry entry;
        entry.type = EntryType::kParam;
        entry.id = i + 1;
        entry.parent = thread;
        entry.name = std::to_string(i + 1);
        EXPECT_TRUE(pair.writer->Append(entry));
      }
    });
  }
  std::vector<uint32_t> last(kThreads, 0);
  uint32_t seen = 0;
  while (seen < kThreads * kEach) {
    auto entries = pair.view->ReadRegistry();
    ASSERT_TRUE(entries.ok()) << entries.error().text;
    for (const RegistryEntry& entry : *entries) {
      ASSERT_LT(entry.parent, kThreads);
      EXPECT_EQ(entry.id, ++last[entry.parent]);
      EXPECT_EQ(entry.name, std::to_string(entry.id));
      ++seen;
    }
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(RingThreads, ClockPairIsNeverTorn) {
  TransportPair pair;
  ASSERT_TRUE(pair.ok());
  std::atomic<bool> done{false};
  std::thread clock([&] {
    while (!done.load()) pair.writer->WriteClock();
  });
  uint64_t before = 0;
  for (int i = 0; i < 20000; ++i) {
    const PubStatus status = pair.view->ReadStatus().status;
    EXPECT_EQ(status.clock_generation % 2, 0u);
    EXPECT_GE(status.clock_monotonic_ns, before);
    before = status.clock_monotonic_ns;
  }
  done = true;
  clock.join();
}

}  // namespace
}  // namespace ikkuna::shm
