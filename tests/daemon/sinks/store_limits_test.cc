// A store that cannot write, or may not grow: nothing is lost without being counted, and nothing crashes.
#include <gmock/gmock.h>
#include <sqlite3.h>
#include <sys/mount.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <fstream>
#include <mutex>

#include "tests/daemon/sinks/sinks_fixture.h"

namespace ikkuna::sinks {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

class StoreLimits : public StoreTest {
 protected:
  StoreLimits() {
    options_.on_event = [this](const Event& event) {
      std::lock_guard lock(mutex_);
      raised_.push_back(event);
    };
  }
  ~StoreLimits() override { store_.reset(); }

  bool Raised(const std::string& kind) {
    std::lock_guard lock(mutex_);
    return std::any_of(raised_.begin(), raised_.end(), [&](const Event& event) { return event.kind == kind; });
  }
  std::vector<std::string> StoredEvents() {
    std::vector<std::string> kinds;
    auto events = store_->ListEvents({.run_id = "", .after_id = 0, .limit = 100'000});
    EXPECT_TRUE(events.ok());
    for (const Event& event : *events) kinds.push_back(event.kind);
    return kinds;
  }
  void ExpectIdentity() {
    const SinkCounters counters = store_->counters();
    EXPECT_EQ(counters.offered, counters.written + counters.dropped);
    EXPECT_EQ(counters.queued, 0u);
  }

  std::mutex mutex_;
  std::vector<Event> raised_;
};

// Another program in the middle of a write: the writer cannot begin.
class Obstacle {
 public:
  explicit Obstacle(const std::string& path) {
    EXPECT_EQ(sqlite3_open(path.c_str(), &db_), SQLITE_OK);
    EXPECT_EQ(sqlite3_exec(db_, "BEGIN IMMEDIATE", nullptr, nullptr, nullptr), SQLITE_OK);
  }
  ~Obstacle() { sqlite3_close(db_); }

 private:
  sqlite3* db_ = nullptr;
};

TEST_F(StoreLimits, WhatWaitsIsWrittenWhenTheFileIsFreeAgain) {
  Open();
  const uint64_t id = Intern(Key("loss", "", ""));
  {
    Obstacle obstacle(store_->path());
    store_->Offer(BatchOf({At(id, 1, 1)}, 1));
    Status status = store_->Flush();
    ASSERT_FALSE(status.ok());
    EXPECT_THAT(status.error().text, HasSubstr("cannot write run store"));
    EXPECT_TRUE(Eventually([&] { return Raised("store_failed"); }));
    EXPECT_FALSE(store_->LoadProgress(Producer()->uuid).has_value());
  }
  ASSERT_TRUE(Eventually([&] { return store_->Flush().ok(); }));
  EXPECT_EQ(ReadAll(id).size(), 1u);
  EXPECT_EQ(store_->LoadProgress(Producer()->uuid)->progress.done_seq, 1u);
  EXPECT_TRUE(Eventually([&] { return Raised("store_recovered"); }));
  Flush();
  EXPECT_THAT(StoredEvents(), Contains("store_failed"));
  EXPECT_THAT(StoredEvents(), Contains("store_recovered"));
  ExpectIdentity();
}

TEST_F(StoreLimits, AFullQueueDropsSamplesAndKeepsEventsAndProgress) {
  Open();
  const uint64_t id = Intern(Key("loss", "", ""));
  constexpr uint64_t kPerBatch = 1'000;
  constexpr uint64_t kBatches = Store::kSamplesQueuedMax / kPerBatch + 100;
  uint64_t seq = 0, step = 0;
  {
    Obstacle obstacle(store_->path());
    for (; seq < kBatches;) {
      std::vector<Sample> samples;
      for (uint64_t i = 0; i < kPerBatch; ++i) samples.push_back(At(id, step++, 1));
      auto batch = BatchOf(std::move(samples), ++seq);
      if (seq == kBatches) batch->events.push_back(EventOf("of_the_last"));
      store_->Offer(batch);
    }
    const SinkCounters counters = store_->counters();
    EXPECT_EQ(counters.offered, kBatches * kPerBatch);
    EXPECT_EQ(counters.dropped, 100 * kPerBatch);
    EXPECT_EQ(counters.queued, kBatches - 100);
    EXPECT_GT(counters.lag_seconds, 0);
  }
  ASSERT_TRUE(Eventually([&] { return store_->Flush().ok(); }));
  EXPECT_EQ(Info(id).count, (kBatches - 100) * kPerBatch);
  EXPECT_EQ(store_->LoadProgress(Producer()->uuid)->progress.done_seq, seq);
  EXPECT_THAT(StoredEvents(), Contains("of_the_last"));
  ExpectIdentity();
}

TEST_F(StoreLimits, ClosingWhileNothingCanBeWrittenEndsAndCounts) {
  Open();
  const uint64_t id = Intern(Key("loss", "", ""));
  Obstacle obstacle(store_->path());
  store_->Offer(BatchOf({At(id, 1, 1), At(id, 2, 1)}, 1));
  store_->Close();
  const SinkCounters counters = store_->counters();
  EXPECT_EQ(counters.dropped, 2u);
  ExpectIdentity();
}

TEST_F(StoreLimits, AboveTheCapLongSeriesAreThinnedAndAnEventSaysSo) {
  options_.bytes_max = 4 << 20;
  Open();
  const uint64_t series = Intern(Key("loss", "", ""));
  const uint64_t other = Intern(Key("short"));
  std::vector<Sample> few;
  for (uint64_t step = 0; step < 100; ++step) few.push_back(At(other, step, 1));
  store_->Offer(BatchOf(few));
  uint64_t step = 0;
  for (int round = 0; round < 40; ++round) {
    std::vector<Sample> samples;
    for (int i = 0; i < 10'000; ++i, ++step) {
      samples.push_back(At(series, step, std::sin(double(step))));
      if (step == 33'333) samples.back().value = 1e6;
      if (step == 44'444) samples.back().value = NAN;
    }
    store_->Offer(BatchOf(samples));
    Flush();
  }
  ASSERT_TRUE(Eventually([&] { return Raised("store_thinned"); }));
  EXPECT_THAT(StoredEvents(), Contains("store_thinned"));
  // All of them were written; fewer remain, and the index agrees with the file.
  EXPECT_EQ(store_->counters().written, step + 100);
  // Thinning goes on behind our back, and may still be at it afterwards: what is read is whole at any time.
  uint64_t remain = 0;
  std::vector<Sample> samples;
  ASSERT_TRUE(Eventually([&] {
    remain = Info(series).count;
    samples = ReadAll(series);
    return remain == samples.size() && remain < step / 2 && remain * 36 <= options_.bytes_max;
  })) << "index "
      << remain << ", file " << samples.size();
  EXPECT_TRUE(
      std::is_sorted(samples.begin(), samples.end(), [](const Sample& a, const Sample& b) { return a.step < b.step; }));
  // The newer half is denser than the older; the spike and the NaN are still there; short series are whole.
  EXPECT_EQ(samples.back().step, step - 1);
  EXPECT_EQ(std::count_if(samples.begin(), samples.end(), [](const Sample& s) { return s.value == 1e6; }), 1);
  EXPECT_EQ(std::count_if(samples.begin(), samples.end(), [](const Sample& s) { return std::isnan(s.value); }), 1);
  const auto older = std::count_if(samples.begin(), samples.end(), [&](const Sample& s) { return s.step < step / 2; });
  EXPECT_LT(older, static_cast<int64_t>(samples.size()) / 2);
  EXPECT_EQ(ReadAll(other).size(), 100u);
  Reopen();
  EXPECT_TRUE(Eventually([&] { return Info(series).count == ReadAll(series).size(); }));
  EXPECT_LE(Info(series).count, remain);
  store_->Close();
  EXPECT_LE(std::filesystem::file_size(store_->path()), options_.bytes_max * 3);
}

TEST_F(StoreLimits, WithNothingToThinSamplesAreRefusedAndCounted) {
  options_.bytes_max = 300 << 10;
  Open();
  for (int i = 0; i < 200; ++i) {
    const uint64_t id = Intern(Key("m" + std::to_string(i)));
    std::vector<Sample> samples;
    for (uint64_t step = 0; step < 100; ++step) samples.push_back(At(id, step, 1));
    store_->Offer(BatchOf(samples, 1 + i));
  }
  Flush();
  ASSERT_TRUE(Eventually([&] { return Raised("store_full"); }));
  const uint64_t dropped = store_->counters().dropped;
  const uint64_t id = Intern(Key("late"));
  store_->Offer(BatchOf({At(id, 1, 1)}, 1'000));
  Flush();
  EXPECT_EQ(store_->counters().dropped, dropped + 1);
  EXPECT_EQ(store_->LoadProgress(Producer()->uuid)->progress.done_seq, 1'000u);
  EXPECT_THAT(StoredEvents(), Contains("store_full"));
  ExpectIdentity();
}

TEST_F(StoreLimits, OldEventsLeave) {
  Open();
  constexpr size_t kPerBatch = 5'000;
  for (size_t sent = 0; sent < Store::kEventsKeptMax + 2 * kPerBatch; sent += kPerBatch) {
    auto batch = BatchOf({});
    batch->events.assign(kPerBatch, EventOf("many"));
    store_->Offer(batch);
    Flush();
  }
  auto events = store_->ListEvents({.run_id = "", .after_id = 0, .limit = 1'000'000});
  ASSERT_TRUE(events.ok());
  EXPECT_EQ(events->size(), Store::kEventsKeptMax);
  EXPECT_EQ(events->back().id, Store::kEventsKeptMax + 2 * kPerBatch);
}

// A file system of a few MB; needs the right to mount.
class SmallDisk {
 public:
  explicit SmallDisk(std::string path) : path_(std::move(path)) {
    std::filesystem::create_directories(path_);
    mounted_ = mount("tmpfs", path_.c_str(), "tmpfs", 0, "size=6m") == 0;
  }
  ~SmallDisk() {
    if (mounted_) umount2(path_.c_str(), MNT_DETACH);
  }
  bool mounted() const { return mounted_; }

 private:
  const std::string path_;
  bool mounted_ = false;
};

TEST_F(StoreLimits, AFullDiskIsSurvived) {
  SmallDisk disk(dir_.path() + "/data");
  if (!disk.mounted()) GTEST_SKIP() << "SKIP: no right to mount a small file system here";
  Open();
  const uint64_t id = Intern(Key("loss", "", ""));
  const std::string ballast = dir_.path() + "/data/ballast";
  std::ofstream(ballast) << std::string(4 << 20, 'x');
  uint64_t step = 0, seq = 0;
  for (int round = 0; round < 30 && !Raised("store_failed"); ++round) {
    std::vector<Sample> samples;
    for (int i = 0; i < 5'000; ++i) samples.push_back(At(id, step++, 1));
    store_->Offer(BatchOf(samples, ++seq));
    (void)store_->Flush();
  }
  ASSERT_TRUE(Raised("store_failed"));
  {
    std::lock_guard lock(mutex_);
    EXPECT_THAT(raised_.front().text, HasSubstr("full"));
  }
  // Reading goes on, and progress says nothing that is not there.
  const uint64_t done = store_->LoadProgress(Producer()->uuid)->progress.done_seq;
  EXPECT_LT(done, seq);
  EXPECT_EQ(ReadAll(id).size(), done * 5'000);
  std::filesystem::remove(ballast);
  ASSERT_TRUE(Eventually([&] { return store_->Flush().ok(); }));
  EXPECT_EQ(store_->LoadProgress(Producer()->uuid)->progress.done_seq, seq);
  EXPECT_EQ(Info(id).count, step);
  EXPECT_TRUE(Eventually([&] { return Raised("store_recovered"); }));
  ExpectIdentity();
  store_.reset();
}

}  // namespace
}  // namespace ikkuna::sinks
