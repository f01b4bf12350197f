// What leaves the store, in which order, and what is said of it.
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "tests/daemon/sinks/store_retention_fixture.h"

namespace ikkuna::sinks {
namespace {

constexpr int64_t kHourNs = int64_t{3'600} * 1'000'000'000;

TEST_F(StoreRetentionTest, FinishedRunsThatAreTooOldLeave) {
  OpenStore();
  Finished("old", 1, Now() - 50 * kHourNs);
  Finished("young", 2, Now() - kHourNs);
  // One that goes on never leaves, however old.
  ProducerInfo info = Producer({"live", 0, 0}, 3);
  info.start_unix_ns = Now() - 100 * kHourNs;
  run_ = *store_->Begin(info);
  run_.reset();
  store_->Close();
  options_.age_max = std::chrono::hours(48);
  Reopen();
  ASSERT_TRUE(Eventually([&] { return Said("run_retired") == 1; }));
  EXPECT_EQ(Ids(), (std::vector<std::string>{"live", "young"}));
  EXPECT_FALSE(std::filesystem::exists(file({"old", 0, 0})));
  EXPECT_NE(TextsOf("run_retired")[0].find("'old'"), std::string::npos);
  EXPECT_NE(TextsOf("run_retired")[0].find("48 hours"), std::string::npos);
  // It is in the list of events, too.
  Flush();
  const auto events = store_->ListEvents({});
  EXPECT_TRUE(std::any_of(events->begin(), events->end(), [](const Event& e) { return e.kind == "run_retired"; }));
}

TEST_F(StoreRetentionTest, AboveTheCapTheOldestFinishedRunsLeaveFirst) {
  OpenStore();
  constexpr uint64_t kLong = 30'000;  // steps: much more than the log of events takes meanwhile
  // Not in the order in which they ended.
  Finished("c", 3, kStartNs + 3, kLong);
  Finished("a", 1, kStartNs + 1, kLong);
  Finished("d", 4, kStartNs + 4, kLong);
  Finished("b", 2, kStartNs + 2, kLong);
  const uint64_t each = std::filesystem::file_size(file({"a", 0, 0}));
  const uint64_t others = store_->store_bytes() - 4 * each;
  options_.bytes_max = others + 2 * each + each / 2;
  Reopen();
  ASSERT_TRUE(Eventually([&] { return Said("run_retired") >= 2; }));
  EXPECT_EQ(Ids(), (std::vector<std::string>{"c", "d"}));
  EXPECT_LE(store_->store_bytes(), *options_.bytes_max + each);
  // Each with an event of its own, in their order.
  const auto texts = TextsOf("run_retired");
  ASSERT_EQ(texts.size(), 2u);
  EXPECT_NE(texts[0].find("'a'"), std::string::npos);
  EXPECT_NE(texts[1].find("'b'"), std::string::npos);
  EXPECT_EQ(store_->bytes_max(), *options_.bytes_max);
}

TEST_F(StoreRetentionTest, WhereTheDiskRunsFullAsManyFinishedRunsLeaveAsAreNeededAndNoMore) {
  SmallDisk disk(dir_.path() + "/data", 24);
  if (!disk.mounted()) GTEST_SKIP() << "NOT TESTED: no file system can be mounted here";
  OpenStore();
  constexpr uint64_t kLong = 60'000;
  Finished("a", 1, kStartNs + 1, kLong);
  Finished("b", 2, kStartNs + 2, kLong);
  Finished("c", 3, kStartNs + 3, kLong);
  Reopen();
  store_.reset();
  const uint64_t each = std::filesystem::file_size(file({"a", 0, 0}));
  options_.free_bytes_min = std::filesystem::space(dir_.path() + "/data").available + each / 2;
  OpenStore();
  // Who reads it keeps the disk from being given back: nothing else leaves for that.
  ReadQuery query;
  query.filter.run = "a";
  auto reader = store_->Read(query);
  ASSERT_TRUE(reader.ok());
  ASSERT_TRUE((*reader)->Next().ok());
  Begin({"live", 0, 0}, 9);
  Put(Series("a"), 1, 2.5);
  ASSERT_TRUE(Eventually([&] { return Said("run_retired") >= 1; }));
  std::this_thread::sleep_for(std::chrono::milliseconds(2'200));
  EXPECT_EQ(Ids(), (std::vector<std::string>{"b", "c", "live"}));
  EXPECT_NE(TextsOf("run_retired")[0].find("free"), std::string::npos);
  EXPECT_EQ(Said("store_low_space"), 0u);
  EXPECT_EQ(store_->Counters().dropped, 0u);
  reader->reset();
  run_.reset();
  store_.reset();
}

TEST_F(StoreRetentionTest, WhereAllFinishedRunsWouldNotMakeRoomNoneLeavesAndThatIsSaid) {
  OpenStore();
  Finished("a", 1, kStartNs + 1);
  Finished("b", 2, kStartNs + 2);
  options_.free_bytes_min = uint64_t{1} << 60;  // no disk has that
  Reopen();
  Begin({"live", 0, 0}, 9);
  Put(Series("a"), 1, 2.5);
  ASSERT_TRUE(Eventually([&] { return Said("store_low_space") == 1; }));
  EXPECT_NE(TextOf("store_low_space").find("--store-min-free-mb"), std::string::npos) << TextOf("store_low_space");
  std::this_thread::sleep_for(std::chrono::milliseconds(2'200));
  EXPECT_EQ(Ids(), (std::vector<std::string>{"a", "b", "live"}));
  EXPECT_EQ(Said("run_retired"), 0u);
  EXPECT_EQ(Said("store_low_space"), 1u);
  ReadQuery query;
  query.filter.run = "live";
  EXPECT_EQ(ReadOne("a", query).numbers, std::vector<double>{2.5});
  EXPECT_EQ(store_->Counters().dropped, 0u);
}

TEST_F(StoreRetentionTest, WhatStaysFreeIsNoMoreThanAShareOfTheFileSystem) {
  SmallDisk disk(dir_.path() + "/data", 40);
  if (!disk.mounted()) GTEST_SKIP() << "NOT TESTED: no file system can be mounted here";
  EXPECT_EQ(Store::FreeBytesMinDefault(dir_.path() + "/data"), uint64_t{2} << 20);
  EXPECT_EQ(Store::FreeBytesMinDefault("/nowhere"), uint64_t{2} << 30);
  // A disk of 40 MB is not full because it is small.
  options_ = {};
  OpenStore();
  Finished("a", 1, kStartNs + 1);
  Finished("b", 2, kStartNs + 2);
  std::this_thread::sleep_for(std::chrono::milliseconds(1'500));
  EXPECT_EQ(Ids(), (std::vector<std::string>{"a", "b"}));
  EXPECT_FALSE(store_->GetStatus().paused);
  run_.reset();
  store_.reset();
}

TEST_F(StoreRetentionTest, WhereNothingIsFreeRecordingPausesAndGoesOn) {
  options_.free_bytes_pause = uint64_t{1} << 60;
  OpenAndBegin();
  const uint32_t a = Series("a");
  const uint32_t b = Series("b");
  ASSERT_TRUE(Eventually([&] { return store_->GetStatus().paused; }));
  ASSERT_TRUE(Eventually([&] { return Said("store_paused") == 1; }));
  // At once: a commit in between would tell of one alone.
  auto both = BatchOf(run_, 1, {{a, 0, 1}, {b, 0, 1}});
  both->progress = Progress{6, 0, 0};
  store_->Offer(both);
  Flush();
  // Dropped under a name, and the progress goes on: the trainer's records were handled.
  const SinkCounters counters = store_->Counters();
  ExpectIdentity(counters);
  EXPECT_EQ(DropsFor(counters, "paused"), 2u);
  EXPECT_EQ(counters.waiting, 0u);
  EXPECT_EQ(store_->LoadProgress(kRun)->done_seq, 6u);
  EXPECT_TRUE(ReadOne("a").steps.empty());
  // Told for what it was, and of the run as well.
  ASSERT_TRUE(Eventually([&] { return Said("values_dropped") == 1; }));
  EXPECT_NE(TextOf("values_dropped").find("2 came while recording was paused"), std::string::npos)
      << TextOf("values_dropped");
  EXPECT_EQ(TextOf("values_dropped").find("faster"), std::string::npos) << TextOf("values_dropped");
  EXPECT_EQ(store_->ListRuns()->front().unrecorded, (std::vector<Count>{{"paused", 2}}));
  options_.free_bytes_pause = 1;
  Reopen();
  EXPECT_EQ(store_->ListRuns()->front().unrecorded, (std::vector<Count>{{"paused", 2}}));
  Begin();
  EXPECT_EQ(store_->ListRuns()->front().unrecorded, (std::vector<Count>{{"paused", 2}}));
  Put(Series("a"), 3, 1);
  Flush();
  EXPECT_EQ(ReadOne("a").steps, std::vector<uint64_t>{3});
  EXPECT_FALSE(store_->GetStatus().paused);
}

TEST_F(StoreRetentionTest, LiveRunsAboveTheCapAreThinnedOldestFirstAndSaySo) {
  options_.bytes_max = 3 << 20;
  options_.tail_bytes_max = 1 << 20;
  OpenAndBegin();
  constexpr uint32_t kSeries = 200;
  constexpr uint64_t kSteps = 12'000;
  std::vector<uint32_t> ids;
  for (uint32_t i = 0; i < kSeries; ++i) ids.push_back(Series("s" + std::to_string(i)));
  // Deterministic noise, so that what is kept can be compared.
  auto value = [](uint32_t series, uint64_t step) {
    return std::cos(double(series * 7919 + step) * 12.9898) * 43758.5453 - std::floor(double(step % 3));
  };
  // Some come each tenth step only, and one each second: steps that are multiples of 2 are all they have, or those that
  // are odd.
  auto every_of = [](uint32_t i) -> uint64_t { return i == 15 ? 2 : i < 20 ? 10 : 1; };
  auto first_of = [](uint32_t i) -> uint64_t { return i == 15 ? 1 : i >= 10 && i < 20 ? 9 : 0; };
  for (uint64_t step = 0; step < kSteps; ++step) {
    std::vector<Sample> samples;
    for (uint32_t i = 0; i < kSeries; ++i) {
      if (step % every_of(i) == first_of(i)) samples.push_back({ids[i], 0, value(i, step)});
    }
    store_->Offer(BatchOf(run_, step, std::move(samples)));
    if (step % 200 == 0) Flush();
  }
  Flush();
  const uint64_t offered = store_->Counters().offered;
  EXPECT_EQ(store_->Counters().dropped, 0u);
  ASSERT_TRUE(Eventually([&] { return store_->store_bytes() <= *options_.bytes_max; })) << store_->store_bytes();
  ASSERT_GE(Said("run_thinned"), 1u);
  auto check = [&](Recorded& recorded, const char* where) {
    SCOPED_TRACE(where);
    // Thinning goes on below the cap for a while: what is compared is of one state.
    struct Reads {
      SeriesColumns all, newest, shortened;
    };
    RunInfo run;
    SeriesPage page;
    std::map<uint32_t, Reads> reads;
    auto look = [&] {
      const auto runs = recorded.ListRuns();
      ASSERT_TRUE(runs.ok());
      ASSERT_EQ(runs->size(), 1u);
      run = runs->front();
      auto listed = recorded.ListSeries({});
      ASSERT_TRUE(listed.ok());
      page = *std::move(listed);
      for (uint32_t i : {0u, 5u, 15u, 20u, 100u, 199u}) {
        const std::string topic = "s" + std::to_string(i);
        ReadQuery newest, few;
        newest.step_min = kSteps - 20;
        few.max_points = 100;
        reads[i] = {ReadOne(recorded, topic), ReadOne(recorded, topic, newest), ReadOne(recorded, topic, few)};
      }
    };
    do {
      ASSERT_NO_FATAL_FAILURE(look());
    } while (recorded.ListRuns()->front().thinned != run.thinned);
    EXPECT_GT(run.thinned, 0u);
    EXPECT_EQ(run.thinned + run.values, offered);
    uint64_t kept = 0;
    ASSERT_EQ(page.series.size(), kSeries);
    for (const SeriesInfo& info : page.series) {
      kept += info.count;
      EXPECT_EQ(info.count + info.thinned, kSteps / every_of(info.series->id - 1));
    }
    EXPECT_EQ(kept, run.values);
    for (const auto& [i, looked] : reads) {
      const auto& [read, newest, shortened] = looked;
      const uint64_t every = every_of(i), begin = first_of(i);
      ASSERT_LT(read.steps.size(), kSteps / every);
      EXPECT_TRUE(read.thinned);
      EXPECT_EQ(read.steps.front(), begin);
      EXPECT_EQ(read.steps.back(), (kSteps - 1 - begin) / every * every + begin);
      for (size_t n = 0; n < read.steps.size(); ++n) {
        if (n > 0) {
          ASSERT_LT(read.steps[n - 1], read.steps[n]);
        }
        ASSERT_EQ(read.numbers[n], value(i, read.steps[n])) << read.steps[n];
        ASSERT_EQ(read.unix_ns[n], kStartNs + static_cast<int64_t>(read.steps[n]) * 1'000'000);
      }
      // Where something is gone the values beside it say so, and the newest do not.
      for (size_t n = 1; n < read.steps.size(); ++n) {
        if (read.steps[n] - read.steps[n - 1] > every) {
          ASSERT_NE((read.flags[n] | read.flags[n - 1]) & kFlagThinned, 0) << read.steps[n];
        }
      }
      EXPECT_EQ(read.flags.back() & kFlagThinned, 0);
      // Coarser the older it is: most of the newest tenth is there, of the oldest less than half.
      auto in = [&](uint64_t from, uint64_t to) {
        return std::count_if(read.steps.begin(), read.steps.end(), [&](uint64_t s) { return s >= from && s < to; });
      };
      EXPECT_LT(in(0, kSteps / 10), static_cast<int64_t>(kSteps / 10 / every) * 2 / 3);
      EXPECT_GT(in(kSteps - kSteps / 10, kSteps), in(0, kSteps / 10));
      // What is not asked for was not thinned: newest steps say nothing.
      EXPECT_EQ(newest.steps.size(), 20 / every);
      EXPECT_LE(shortened.steps.size(), 100u);
      EXPECT_NE(shortened.flags.front() & kFlagThinned, 0);
    }
    EXPECT_GT(reads[15].all.steps.size() * 2, reads[5].all.steps.size());
  };
  check(*store_, "while it goes on");
  Reopen();
  check(*store_, "opened again");
  Begin();
  EndRun();
  check(*store_, "at rest");
  store_.reset();
  auto alone = StoredRuns::Open(file());
  ASSERT_TRUE(alone.ok()) << alone.error().text;
  check(**alone, "without a daemon");
}

TEST_F(StoreRetentionTest, AReaderOfWhatIsThinnedMeanwhileReadsWhatWasThere) {
  constexpr uint64_t kSteps = 6'000;
  FillSixtyFour(kSteps);
  store_->Close();
  options_.bytes_max = 1 << 20;
  run_.reset();
  store_.reset();
  options_.on_event = nullptr;
  OpenStore();
  auto reader = store_->Read({});
  ASSERT_TRUE(reader.ok());
  Begin();  // from now on the file is written, and too large
  ASSERT_TRUE(Eventually([&] { return store_->ListRuns()->front().thinned > 64 * kSteps / 2; }));
  uint64_t read = 0;
  for (;;) {
    auto part = (*reader)->Next();
    ASSERT_TRUE(part.ok()) << part.error().text;
    if (!*part) break;
    read += (*part)->steps.size();
  }
  EXPECT_EQ(read, 64 * kSteps);
  reader->reset();
  // What it had held on to leaves when it is gone.
  ASSERT_TRUE(Eventually([&] { return store_->store_bytes() <= *options_.bytes_max; })) << store_->store_bytes();
}

TEST_F(StoreRetentionTest, AReaderThatStopsReadingDoesNotLetARunBeThinnedToNothing) {
  constexpr uint64_t kSteps = 6'000;
  FillSixtyFour(kSteps);
  run_.reset();
  store_->Close();
  const uint64_t whole = std::filesystem::file_size(file());
  options_.bytes_max = whole / 2;
  store_.reset();
  OpenStore();
  auto reader = store_->Read({});
  ASSERT_TRUE(reader.ok());
  Begin();
  // All that is asked for is about half; what the reader holds cannot go, and nothing more leaves for that.
  uint64_t thinned = 0;
  ASSERT_TRUE(Eventually([&] {
    const uint64_t before = thinned;
    thinned = store_->ListRuns()->front().thinned;
    if (thinned == before && thinned > 0) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(1'500));
    return false;
  }));
  EXPECT_LT(thinned, 64 * kSteps * 3 / 4);
  reader->reset();
  ASSERT_TRUE(Eventually([&] { return store_->store_bytes() <= *options_.bytes_max; })) << store_->store_bytes();
  EXPECT_LT(store_->ListRuns()->front().thinned, 64 * kSteps * 3 / 4);
}

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr int kKills = 8;
#else
constexpr int kKills = 12;
#endif

TEST_F(StoreRetentionTest, KilledWhileItThinsItLosesNothingThatIsNotCounted) {
  constexpr uint32_t kSeries = 30;
  auto value = [](uint32_t series, uint64_t step) {
    return std::cos(double(series * 7919 + step) * 12.9898) * 43758.5;
  };
  store_.reset();
  struct Report {
    uint64_t done, thinned;
  };
  uint64_t thinned_before = 0;
  int thinned_in = 0;
  for (int kill = 0; kill < kKills; ++kill) {
    int ready[2];
    ASSERT_EQ(::pipe(ready), 0);
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      options_.on_event = nullptr;
      options_.bytes_max = 1 << 20;
      options_.tail_bytes_max = 128 << 10;
      options_.slice_bytes = 8 << 10;
      OpenAndBegin();
      std::vector<uint32_t> ids;
      for (uint32_t i = 0; i < kSeries; ++i) ids.push_back(Series("s" + std::to_string(i)));
      uint64_t step = store_->LoadProgress(kRun)->done_seq;
      for (;; ++step) {
        std::vector<Sample> samples;
        for (uint32_t i = 0; i < kSeries; ++i) samples.push_back({ids[i], 0, value(i, step)});
        auto batch = BatchOf(run_, step, std::move(samples));
        batch->progress = Progress{step + 1, 0, 0};
        store_->Offer(batch);
        if (step % 16 == 0) std::this_thread::sleep_for(std::chrono::microseconds(500));
        while (store_->Counters().waiting > 20'000) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        if (step % 16 != 0) continue;
        const Report report{store_->LoadProgress(kRun)->done_seq, store_->ListRuns()->front().thinned};
        if (::write(ready[1], &report, sizeof(report)) != sizeof(report)) ::_exit(1);
      }
    }
    ::close(ready[1]);
    // Each second life gets as far as thinning, the others end after some commits, all of them within something.
    const bool until_thinned = kill % 2 == 1;
    uint64_t commits = random_() % 4, reports = random_() % 64;
    Report said{}, last{};
    while (::read(ready[0], &said, sizeof(said)) == sizeof(said)) {
      if (said.done != std::exchange(last, said).done && commits > 0) --commits;
      if (commits > 0 || (until_thinned && said.thinned <= thinned_before)) continue;
      if (reports-- == 0) break;
    }
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status)) << status;
    ::close(ready[0]);
    OpenStore();
    const uint64_t done = store_->LoadProgress(kRun)->done_seq;
    ASSERT_GE(done, said.done);
    SCOPED_TRACE("killed at " + std::to_string(done));
    if (done == 0) {
      store_.reset();
      continue;
    }
    uint64_t kept = 0, thinned = 0;
    for (uint32_t i = 0; i < kSeries; ++i) {
      const auto info = Info("s" + std::to_string(i));
      ASSERT_TRUE(info);
      ASSERT_EQ(info->count + info->thinned, done);
      const SeriesColumns read = ReadOne("s" + std::to_string(i));
      ASSERT_EQ(read.steps.size(), info->count);
      ASSERT_EQ(read.steps.front(), 0u);
      ASSERT_EQ(read.steps.back(), done - 1);
      for (size_t n = 0; n < read.steps.size(); ++n) {
        if (n > 0) {
          ASSERT_LT(read.steps[n - 1], read.steps[n]);
        }
        ASSERT_EQ(read.numbers[n], value(i, read.steps[n]));
      }
      kept += info->count;
      thinned += info->thinned;
    }
    const RunInfo run = store_->ListRuns()->front();
    EXPECT_EQ(run.values, kept);
    EXPECT_EQ(run.thinned, thinned);
    ASSERT_GE(thinned, said.thinned);
    thinned_in += thinned > thinned_before ? 1 : 0;
    thinned_before = thinned;
    store_.reset();
  }
  EXPECT_GE(thinned_in, kKills / 2);
}

TEST_F(StoreRetentionTest, OneLongSeriesOfTextsAboveTheCapLosesItsOldest) {
  options_.bytes_max = 1 << 20;
  OpenAndBegin();
  const uint32_t t = Series("t", ValueType::kText);
  constexpr uint64_t kTexts = 3'000;
  auto text = [](uint64_t step) { return std::to_string(step) + std::string("\0 ", 2) + std::string(1'000, 'x'); };
  for (uint64_t step = 0; step < kTexts; ++step) {
    store_->Offer(BatchOf(run_, step, {}, {{t, 0, Text{text(step)}}}));
    if (step % 100 == 0) Flush();
  }
  Flush();
  ASSERT_TRUE(Eventually([&] { return store_->store_bytes() <= *options_.bytes_max; })) << store_->store_bytes();
  for (int life = 0; life < 2; ++life) {
    SeriesColumns read;
    std::optional<SeriesInfo> info;
    uint64_t thinned_of_run = 0;
    do {  // it may be at it still
      info = Info("t");
      ASSERT_TRUE(info);
      thinned_of_run = store_->ListRuns()->front().thinned;
      read = ReadOne("t");
    } while (Info("t")->thinned != info->thinned);
    ASSERT_GT(read.steps.size(), 10u);
    EXPECT_LT(read.steps.size(), 1'200u);
    EXPECT_TRUE(read.thinned);
    EXPECT_EQ(read.steps.back(), kTexts - 1);
    for (size_t i = 0; i < read.steps.size(); ++i) {
      ASSERT_EQ(read.steps[i], read.steps[0] + i);
      ASSERT_EQ((read.flags[i] & kFlagThinned) != 0, i == 0) << i;
      ASSERT_EQ(std::get<Text>(read.others[i]).text, text(read.steps[i]));
    }
    EXPECT_EQ(info->count, read.steps.size());
    EXPECT_EQ(info->count + info->thinned, kTexts);
    EXPECT_EQ(info->first_step, read.steps[0]);
    EXPECT_EQ(thinned_of_run, info->thinned);
    if (life == 0) Reopen();
  }
  EXPECT_EQ(Said("run_thinned") > 0, true);
}

TEST_F(StoreRetentionTest, TextsHistogramsAndEventsHaveBoundsOfTheirOwn) {
  options_.others_bytes_max = 100'000;
  options_.events_max = 50;
  OpenAndBegin();
  const uint32_t h = Series("h", ValueType::kHistogram), a = Series("a");
  Histogram histogram{-1, 1, 7, 3.25, 9, 0, 0, 0, {}};
  for (uint64_t i = 0; i < 500; ++i) histogram.counts.push_back(random_());
  for (uint64_t step = 0; step < 400; ++step) {
    auto batch = BatchOf(run_, step, {{a, 0, 1}}, {{h, 0, histogram}});
    batch->events.push_back(EventOf("e" + std::to_string(step)));
    if (step == 3) batch->events.push_back(EventOf(kPublished));
    store_->Offer(batch);
  }
  Flush();
  ASSERT_TRUE(Eventually([&] { return Info("h")->count < 40; }));
  const SeriesColumns read = ReadOne("h");
  EXPECT_EQ(read.steps.back(), 399u);
  EXPECT_TRUE(read.thinned);
  EXPECT_FALSE(ReadOne("a").thinned);
  EXPECT_EQ(ReadOne("a").steps.size(), 400u);
  ASSERT_TRUE(Eventually([&] {
    EventQuery query;
    query.filter.run = kRun.run_id;
    query.limit = 100'000;
    return store_->ListEvents(query)->size() <= 60;
  }));
  EventQuery query;
  query.filter.run = kRun.run_id;
  query.last = 1'000;
  const auto events = store_->ListEvents(query);
  EXPECT_TRUE(std::any_of(events->begin(), events->end(), [](const Event& e) { return e.kind == "e399"; }));
  EXPECT_FALSE(std::any_of(events->begin(), events->end(), [](const Event& e) { return e.kind == "e0"; }));
  // Whose a topic is stays, and is found among however many.
  query = {};
  query.filter.run = kRun.run_id;
  query.kind = kPublished;
  query.limit = 1;
  EXPECT_EQ(store_->ListEvents(query)->size(), 1u);
  EXPECT_TRUE(Eventually([&] { return Said("events_thinned") > 0; }));
}

TEST_F(StoreRetentionTest, ALiveRunThatCannotBecomeSmallerIsRecordedAndSaidOnce) {
  options_.bytes_max = 1;
  OpenAndBegin();
  const uint32_t a = Series("a");
  for (uint64_t step = 0; step < 2'000; ++step) Put(a, step, noise_(random_));
  Flush();
  ASSERT_TRUE(Eventually([&] { return Said("store_over_cap") == 1; }));
  Put(a, 2'000, 7);
  Flush();
  EXPECT_EQ(ReadOne("a").numbers.back(), 7);
  EXPECT_EQ(ReadOne("a").steps.front(), 0u);
  EXPECT_EQ(store_->Counters().dropped, 0u);
  std::this_thread::sleep_for(std::chrono::milliseconds(2'500));
  EXPECT_EQ(Said("store_over_cap"), 1u);
}

TEST_F(StoreRetentionTest, AFileThatWasSetAsideCountsAndLeavesInItsTurn) {
  OpenAndBegin();
  Put(Series("a"), 1, 1);
  Flush();
  run_.reset();
  store_.reset();
  {
    std::ofstream broken(file(), std::ios::trunc);
    broken << std::string(200'000, 'x');
  }
  OpenStore();
  Begin();
  const std::string aside = file() + ".broken-1";
  ASSERT_TRUE(std::filesystem::exists(aside));
  EXPECT_GE(store_->store_bytes(), 200'000u);
  run_.reset();
  store_.reset();
  options_.bytes_max = 190'000;
  OpenStore();
  EXPECT_TRUE(Eventually([&] { return !std::filesystem::exists(aside); }));
  EXPECT_TRUE(Eventually([&] { return Said("run_retired") == 1; }));
}

// What the daemon before this one said of itself is newer than what was trained, and nobody's last run.
TEST_F(StoreRetentionTest, TheHealthOfAnEarlierDaemonDoesNotTakeTheLastRunsPlace) {
  for (const bool for_space : {false, true}) {
    OpenStore();
    const int64_t now = Now();
    Finished("only", 1, now - 5'000'000'000, 40'000);
    Finished(kDaemonRunId, 2, now, 3'000);
    run_.reset();
    store_.reset();
    if (for_space) {
      const uint64_t free = fs::space(dir_.path()).available;
      options_.free_bytes_min = free + (256 << 10);
    } else {
      options_.bytes_max = 200 << 10;
    }
    OpenStore();
    std::this_thread::sleep_for(std::chrono::milliseconds(1'500));  // a look a second
    EXPECT_EQ(Ids().back(), "only") << for_space;
    store_.reset();
    fs::remove_all(dir_.path() + "/data");
    TakeLimitsAway();
  }
}

TEST_F(StoreRetentionTest, TheOnlyRunStaysWhenItEndsAtTheCapAndGoesWhenAnotherNeedsItsRoom) {
  OpenStore();
  Finished("a", 1, kStartNs + 1);
  options_.bytes_max = store_->store_bytes() / 2;
  Reopen();
  std::this_thread::sleep_for(std::chrono::milliseconds(1'500));
  EXPECT_EQ(Ids(), std::vector<std::string>{"a"});
  Begin({"live", 0, 0}, 9);
  EXPECT_TRUE(Eventually([&] { return Said("run_retired") == 1; }));
  EXPECT_EQ(Ids(), std::vector<std::string>{"live"});
}

}  // namespace
}  // namespace ikkuna::sinks
