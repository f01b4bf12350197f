// What is given to the store comes back: from the queue, from the tail, from chunks, from another process's file.
#include <sqlite3.h>
#include <sys/stat.h>

#include <limits>
#include <random>

#include "daemon/sinks/number_reader.h"
#include "daemon/sinks/run_entry.h"
#include "tests/daemon/sinks/store_fixture.h"

namespace ikkuna::sinks {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

TEST_F(StoreTest, EveryClassOfNumberComesBackFromEachPlaceItMayBe) {
  OpenAndBegin();
  const std::vector<double> values = {0.0,   -0.0, 1.5,  kNan, kInf, -kInf, 1e-45, 1e-40, 1e300, -1e300, 3.5e38,
                                      1e-308, 4.9e-324, 0.1,  -7,   1e10,  123456789.123};
  const uint32_t wide = Series("wide");
  const uint32_t narrow = Series("narrow", ValueType::kNumber, Precision::kSingle);
  for (uint64_t step = 0; step < values.size(); ++step) {
    store_->Offer(BatchOf(run_, step, {{wide, 0, values[step]}, {narrow, 0, values[step]}}));
  }
  auto expect = [&](Recorded& recorded, const char* where) {
    SCOPED_TRACE(where);
    const SeriesColumns w = ReadOne(recorded, "wide"), n = ReadOne(recorded, "narrow");
    ASSERT_EQ(w.numbers.size(), values.size());
    ASSERT_EQ(n.numbers.size(), values.size());
    for (size_t i = 0; i < values.size(); ++i) {
      EXPECT_EQ(w.steps[i], i);
      if (std::isnan(values[i])) {
        EXPECT_TRUE(std::isnan(w.numbers[i]) && std::isnan(n.numbers[i]));
        continue;
      }
      EXPECT_EQ(w.numbers[i], values[i]);
      EXPECT_EQ(std::signbit(w.numbers[i]), std::signbit(values[i]));
      // What a float cannot hold stays a double.
      const float single = static_cast<float>(values[i]);
      const bool fits =
          values[i] == 0 || std::isinf(values[i]) || (std::isfinite(single) && std::fabs(single) >= 1.17549435e-38f);
      EXPECT_EQ(n.numbers[i], fits ? static_cast<double>(single) : values[i]) << values[i];
    }
  };
  expect(*store_, "queue or tail");
  Flush();
  expect(*store_, "tail");
  Reopen();
  expect(*store_, "tail of another life");
  EndRun();
  expect(*store_, "chunks");
  store_.reset();
  auto stored = StoredRuns::Open(dir_.path() + "/data");
  ASSERT_TRUE(stored.ok()) << stored.error().text;
  EXPECT_TRUE((*stored)->unread().empty());
  expect(**stored, "without a daemon");
  auto one = StoredRuns::Open(file());
  ASSERT_TRUE(one.ok()) << one.error().text;
  expect(**one, "one file");
}

TEST_F(StoreTest, WhatBelongsToAStepStandsBesideEachOfItsNumbers) {
  OpenAndBegin();
  const uint32_t a = Series("a");
  for (uint64_t step = 0; step < 3000; ++step) {
    auto batch = BatchOf(run_, step * 3, {{a, static_cast<uint16_t>(step % 100 == 0 ? 2 : 0), double(step)}});
    batch->stamp.epoch = static_cast<uint32_t>(step / 1000);
    batch->stamp.unix_ns = kStartNs + static_cast<int64_t>(step * 1'000'003 + (step % 7) * 11);
    batch->stamp.samples_seen = step * 128;
    batch->stamp.flags = step == 17 ? 8 : 0;
    store_->Offer(batch);
  }
  Flush();
  for (const bool rested : {false, true}) {
    if (rested) EndRun();
    const SeriesColumns read = ReadOne("a");
    ASSERT_EQ(read.steps.size(), 3000u);
    for (uint64_t i = 0; i < 3000; ++i) {
      ASSERT_EQ(read.steps[i], i * 3);
      ASSERT_EQ(read.epochs[i], i / 1000);
      ASSERT_EQ(read.unix_ns[i], kStartNs + static_cast<int64_t>(i * 1'000'003 + (i % 7) * 11));
      ASSERT_EQ(read.samples_seen[i], i * 128);
      ASSERT_EQ(read.flags[i], (i % 100 == 0 ? 2 : 0) | (i == 17 ? 8 : 0));
      ASSERT_EQ(read.numbers[i], double(i));
    }
  }
}

TEST_F(StoreTest, StepsUpToTheGreatestAreKept) {
  OpenAndBegin();
  const uint32_t a = Series("a"), t = Series("t", ValueType::kText);
  const std::vector<uint64_t> steps = {
      0, 1, uint64_t{1} << 62, (uint64_t{1} << 63) - 1, uint64_t{1} << 63, UINT64_MAX - 1, UINT64_MAX};
  for (uint64_t step : steps) store_->Offer(BatchOf(run_, step, {{a, 0, 1}}, {{t, 0, Text{std::to_string(step)}}}));
  Flush();
  for (const bool rested : {false, true}) {
    if (rested) EndRun();
    EXPECT_EQ(ReadOne("a").steps, steps);
    const SeriesColumns texts = ReadOne("t");
    ASSERT_EQ(texts.steps, steps);
    for (size_t i = 0; i < steps.size(); ++i) EXPECT_EQ(std::get<Text>(texts.others[i]).text, std::to_string(steps[i]));
    ReadQuery high;
    high.step_min = uint64_t{1} << 63;
    EXPECT_EQ(ReadOne("a", high).steps.size(), 3u);
    EXPECT_EQ(ReadOne("t", high).steps.size(), 3u);
    EXPECT_EQ(Info("a")->last_step, UINT64_MAX);
  }
}

TEST_F(StoreTest, ANumberForAStepThatHasOneIsRefusedAndCounted) {
  OpenAndBegin();
  const uint32_t a = Series("a");
  for (uint64_t step : {5, 7, 9}) Put(a, step, double(step));
  Flush();
  Put(a, 7, 100);  // in the tail
  Put(a, 9, 100);  // the last
  Put(a, 8, 8);    // late, but its first
  store_->Offer(BatchOf(run_, 10, {{a, 0, 10}, {a, 0, 11}}));  // twice in one batch
  Flush();
  EndRun();
  RunPtr old = run_;
  Begin();
  EXPECT_EQ(run_, old);
  Put(a, 5, 100);  // in a chunk
  Put(a, 6, 6);
  Flush();
  const SeriesColumns read = ReadOne("a");
  EXPECT_EQ(read.steps, (std::vector<uint64_t>{5, 6, 7, 8, 9, 10}));
  EXPECT_EQ(read.numbers, (std::vector<double>{5, 6, 7, 8, 9, 10}));
  EXPECT_EQ(Info("a")->count, 6u);
  const SinkCounters counters = store_->Counters();
  EXPECT_EQ(counters.offered, 10u);
  EXPECT_EQ(counters.written, 6u);
  EXPECT_EQ(counters.dropped, 4u);
  EXPECT_EQ(counters.drops, (std::vector<Count>{{"repeated", 4}}));
  auto events = store_->ListEvents({});
  ASSERT_TRUE(events.ok());
  EXPECT_TRUE(std::any_of(events->begin(), events->end(), [](const Event& e) { return e.kind == "values_dropped"; }));
}

TEST_F(StoreTest, TextsOfOneStepAllStayInTheirOrder) {
  OpenAndBegin();
  const uint32_t t = Series("t", ValueType::kText);
  store_->Offer(BatchOf(run_, 1, {}, {{t, 0, Text{"a"}}, {t, 0, Text{"b"}}}));
  store_->Offer(BatchOf(run_, 1, {}, {{t, 0, Text{""}}}));
  Flush();
  store_->Offer(BatchOf(run_, 1, {}, {{t, 0, Text{"d"}}}));
  store_->Offer(BatchOf(run_, 0, {}, {{t, 0, Text{"late"}}}));
  auto texts = [&] {
    std::vector<std::string> list;
    for (const Value& value : ReadOne("t").others) list.push_back(std::get<Text>(value).text);
    return list;
  };
  const std::vector<std::string> expected = {"late", "a", "b", "", "d"};
  EXPECT_EQ(texts(), expected);
  Flush();
  EXPECT_EQ(texts(), expected);
  EXPECT_EQ(Info("t")->count, 5u);
  Reopen();
  EXPECT_EQ(texts(), expected);
  EXPECT_EQ(Info("t")->count, 5u);
}

TEST_F(StoreTest, HistogramsAndTensorsComeBackAndAreOfOneAStep) {
  OpenAndBegin();
  const uint32_t h = Series("h", ValueType::kHistogram), m = Series("m", ValueType::kTensor);
  Histogram histogram{-1.5, kInf, 7, 3.25, 9, 1, 2, 3, {1, 2, 0, uint64_t{1} << 40}};
  TensorValue tensor{TensorValue::Form::kImage, {2, 2, 1}, {0.0f, 0.25f, 0.5f, 1.0f}};
  store_->Offer(BatchOf(run_, 3, {}, {{h, 4, histogram}, {m, 0, tensor}}));
  store_->Offer(BatchOf(run_, 3, {}, {{h, 0, Histogram{}}}));
  store_->Offer(BatchOf(run_, 4, {}, {{h, 0, Text{"no histogram"}}}));
  for (int i = 0; i < 2; ++i) {
    const SeriesColumns hs = ReadOne("h"), ms = ReadOne("m");
    ASSERT_GE(hs.others.size(), 1u);
    EXPECT_EQ(std::get<Histogram>(hs.others[0]), histogram);
    EXPECT_EQ(hs.flags[0], 4);
    ASSERT_EQ(ms.others.size(), 1u);
    EXPECT_EQ(std::get<TensorValue>(ms.others[0]), tensor);
    Flush();
  }
  EXPECT_EQ(Info("h")->count, 1u);
  EXPECT_EQ(store_->Counters().drops, (std::vector<Count>{{"no_series", 1}, {"repeated", 1}}));
}

TEST_F(StoreTest, ManySeriesOfManyStepsAreCompactedAndReadTheSame) {
  options_.tail_bytes_max = 8 << 20;
  OpenAndBegin();
  constexpr uint32_t kSeries = 600;
  constexpr uint64_t kSteps = 2600;
  std::vector<uint32_t> ids;
  for (uint32_t i = 0; i < kSeries; ++i) {
    ids.push_back(Series("s" + std::to_string(i), ValueType::kNumber, i % 2 ? Precision::kSingle : Precision::kDouble));
  }
  auto value = [](uint32_t series, uint64_t step) { return double(series) + double(step % 97) / 128; };
  for (uint64_t step = 0; step < kSteps; ++step) {
    std::vector<Sample> samples;
    // One in seven comes each tenth step only.
    for (uint32_t i = 0; i < kSeries; ++i) {
      if (i % 7 != 0 || step % 10 == 0) samples.push_back({ids[i], 0, value(i, step)});
    }
    store_->Offer(BatchOf(run_, step, std::move(samples)));
  }
  Flush();
  auto check = [&](const char* where) {
    SCOPED_TRACE(where);
    for (uint32_t i : {0u, 1u, 6u, 7u, 300u, 301u, 599u}) {
      const SeriesColumns read = ReadOne("s" + std::to_string(i));
      const uint64_t every = i % 7 != 0 ? 1 : 10;
      ASSERT_EQ(read.steps.size(), kSteps / every) << i;
      for (size_t n = 0; n < read.steps.size(); ++n) {
        ASSERT_EQ(read.steps[n], n * every);
        ASSERT_EQ(read.numbers[n], value(i, n * every));
      }
      const auto info = Info("s" + std::to_string(i));
      ASSERT_TRUE(info);
      EXPECT_EQ(info->count, kSteps / every);
      EXPECT_EQ(info->last, value(i, read.steps.back()));
    }
    ReadQuery range;
    range.step_min = 1000;
    range.step_max = 1010;
    EXPECT_EQ(ReadOne("s1", range).steps.size(), 11u);
  };
  check("while it is written");
  EXPECT_LT(store_->GetStatus().tail_bytes, size_t{30} << 20);
  Reopen();
  check("opened again");
  Begin();
  for (uint64_t step = kSteps; step < kSteps + 5; ++step) Put(Series("s1", ValueType::kNumber, Precision::kSingle), step, 1);
  Flush();
  EXPECT_EQ(ReadOne("s1").steps.size(), kSteps + 5);
  EndRun();
  EXPECT_EQ(ReadOne("s1").steps.size(), kSteps + 5);
  EXPECT_EQ(ReadOne("s300").steps.size(), kSteps);
}

// Where steps came out of order every chunk has some of a range, which holds few all the same.
TEST_F(StoreTest, ARangeOfFewPointsIsWholeInWhateverOrderTheyCame) {
  OpenAndBegin();
  const uint32_t a = Series("a");
  constexpr uint64_t kSteps = 20'000, kStride = 7'919;  // has no divisor in common with them
  for (uint64_t i = 0; i < kSteps; ++i) Put(a, i * kStride % kSteps, static_cast<double>(i * kStride % kSteps));
  Flush();
  for (const bool rested : {false, true}) {
    if (rested) EndRun();
    ReadQuery query;
    query.max_points = 100;
    query.step_min = 9'000;
    query.step_max = 9'099;
    const SeriesColumns read = ReadOne("a", query);
    EXPECT_FALSE(read.reduced);
    ASSERT_EQ(read.steps.size(), 100u);
    for (size_t i = 0; i < 100; ++i) EXPECT_EQ(read.numbers[i], 9'000.0 + static_cast<double>(i));
    query.step_max = 9'100;
    EXPECT_TRUE(ReadOne("a", query).reduced);
  }
}

TEST_F(StoreTest, AShortenedSeriesKeepsWhatStandsOut) {
  OpenAndBegin();
  const uint32_t a = Series("a");
  constexpr uint64_t kSteps = 50'000;
  auto value = [](uint64_t step) {
    if (step == 12'345) return 1000.0;
    if (step == 30'001) return -1000.0;
    if (step == 40'000) return kNan;
    return std::sin(double(step) / 1000);
  };
  for (uint64_t step = 0; step < kSteps; ++step) Put(a, step, value(step));
  Flush();
  for (const bool rested : {false, true}) {
    if (rested) EndRun();
    ReadQuery query;
    query.max_points = 200;
    const SeriesColumns read = ReadOne("a", query);
    EXPECT_TRUE(read.reduced);
    EXPECT_LE(read.steps.size(), 200u);
    EXPECT_GE(read.steps.size(), 50u);
    EXPECT_EQ(read.steps.front(), 0u);
    EXPECT_EQ(read.steps.back(), kSteps - 1);
    bool high = false, low = false, nan = false;
    for (size_t i = 0; i < read.steps.size(); ++i) {
      if (i > 0) { ASSERT_LT(read.steps[i - 1], read.steps[i]); }
      const double expected = value(read.steps[i]);
      if (std::isnan(expected)) {
        nan = std::isnan(read.numbers[i]);
      } else {
        ASSERT_EQ(read.numbers[i], expected);
      }
      high = high || expected == 1000;
      low = low || expected == -1000;
    }
    EXPECT_TRUE(high && low && nan);
    query.max_points = kSteps;
    EXPECT_FALSE(ReadOne("a", query).reduced);
    EXPECT_EQ(ReadOne("a", query).steps.size(), kSteps);
    query.max_points = 1;
    EXPECT_LE(ReadOne("a", query).steps.size(), 4u);
    query.max_points = 500;
    query.step_min = 12'000;
    query.step_max = 12'400;
    EXPECT_EQ(ReadOne("a", query).steps.size(), 401u);
  }
}

TEST_F(StoreTest, ProgressIsCommittedWithItsValuesAndSaidAfterwards) {
  std::mutex mutex;
  std::vector<uint64_t> said;
  options_.on_committed = [&](const RunKey& run, uint64_t done_seq) {
    std::lock_guard lock(mutex);
    if (run == kRun) said.push_back(done_seq);
  };
  OpenAndBegin();
  const uint32_t a = Series("a");
  EXPECT_EQ(store_->LoadProgress(kRun)->done_seq, 0u);
  EXPECT_FALSE(store_->LoadProgress({"nobody", 0, 0}));
  Put(a, 1, 1, 10);
  auto only = std::make_shared<Batch>();
  only->run = run_;
  only->progress = Progress{25, 3, 2, 11, 9};
  store_->Offer(only);
  Flush();
  {
    std::lock_guard lock(mutex);
    ASSERT_FALSE(said.empty());
    EXPECT_EQ(said.back(), 25u);
  }
  Reopen();
  const auto progress = store_->LoadProgress(kRun);
  ASSERT_TRUE(progress);
  EXPECT_EQ(*progress, (Progress{25, 3, 2, 11, 9}));
  EXPECT_EQ(progress->handled(), 22u);
}

TEST_F(StoreTest, RunsComeBackWithWhatIsKnownOfThem) {
  OpenStore();
  ProducerInfo info = Producer();
  info.continues = 3;
  info.line = 2;
  info.start_step = 77;
  info.unnamed = true;
  info.restarts = 5;
  info.job = {"10.0.0.1", "29500"};
  auto run = store_->Begin(info);
  ASSERT_TRUE(run.ok());
  EXPECT_EQ(store_->Begin(Producer(kRun, 8)).error().code, ErrorCode::kAlreadyExists);
  EXPECT_TRUE(store_->Begin(info).ok());
  ProducerStatus status;
  status.info = info;
  status.state = RunState::kDied;
  status.attempted = 100;
  status.handled = 90;
  status.dropped_total = 10;
  status.drops = {{"ring_full", 10}};
  status.missing = {{"withheld", 4}};
  status.notes = {"a note", "another"};
  status.coverage = 0.125;
  RootStatusInfo root;
  root.name = "model";
  root.phase = RootPhase::kTrain;
  root.step = 12;
  status.roots = {root};
  store_->SaveProducer(status);
  ModuleInfo module{"model", "fc", "Linear", false, {{"weight", "float32", {3, 4}, false, true, false}}};
  store_->SaveModules(kRun, {module});
  auto modules = store_->ListModules(kRun);
  ASSERT_TRUE(modules.ok() && modules->size() == 1);  // at once
  ASSERT_TRUE(store_->TagRun(kRun, {"good", "x"}, {}).ok());
  ASSERT_TRUE(store_->TagRun(kRun, {}, {"x"}).ok());
  EXPECT_FALSE(store_->TagRun(kRun, {""}, {}).ok());
  Flush();
  Reopen();
  auto producers = store_->LoadProducers();
  ASSERT_TRUE(producers.ok());
  ASSERT_EQ(producers->size(), 1u);
  const ProducerStatus& back = producers->front();
  EXPECT_EQ(back.info.uuid, info.uuid);
  EXPECT_EQ(back.info.run_key, kRun);
  EXPECT_EQ(back.info.run, "fashion");
  EXPECT_EQ(back.info.continues, info.continues);
  EXPECT_EQ(back.info.line, info.line);
  EXPECT_EQ(back.info.start_step, 77u);
  EXPECT_TRUE(back.info.unnamed);
  EXPECT_EQ(back.info.restarts, 5);
  EXPECT_EQ(back.info.job, info.job);
  EXPECT_EQ(back.info.facts, info.facts);
  EXPECT_EQ(back.state, RunState::kDied);
  EXPECT_EQ(back.handled, 90u);
  EXPECT_EQ(back.drops, status.drops);
  EXPECT_EQ(back.missing, status.missing);
  EXPECT_EQ(back.notes, status.notes);
  EXPECT_EQ(back.coverage, 0.125);
  ASSERT_EQ(back.roots.size(), 1u);
  EXPECT_EQ(back.roots[0].step, 12u);
  modules = store_->ListModules(kRun);
  ASSERT_TRUE(modules.ok() && modules->size() == 1);
  EXPECT_EQ((*modules)[0].params[0].sizes, (std::vector<int64_t>{3, 4}));
  auto runs = store_->FindRuns("fashion");
  ASSERT_TRUE(runs.ok() && runs->size() == 1);
  EXPECT_EQ((*runs)[0].host, "here");
  EXPECT_EQ((*runs)[0].tags, std::vector<std::string>{"good"});
  EXPECT_TRUE(store_->FindRuns("nobody")->empty());
}

// The counters were saved a while before the last commit.
TEST_F(StoreTest, WhatACommitSaysIsNotBehindTheCountersThatWereSaved) {
  OpenAndBegin();
  ProducerStatus status;
  status.info = Producer(kRun);
  status.attempted = status.handled = 3;
  store_->SaveProducer(status);
  Put(Series("a"), 1, 1, 25);
  Flush();
  for (const bool again : {false, true}) {
    if (again) Reopen();
    const auto producers = store_->LoadProducers();
    ASSERT_EQ(producers->size(), 1u);
    EXPECT_EQ(producers->at(0).handled, 25u);
    EXPECT_EQ(producers->at(0).attempted, 25u);
  }
}

TEST_F(StoreTest, ARunThatADeadDaemonLeftRunningIsDisconnected) {
  OpenAndBegin();
  Put(Series("a"), 1, 1, 5);
  Flush();
  Reopen();
  EXPECT_EQ(store_->LoadProducers()->front().state, RunState::kDisconnected);
  EXPECT_EQ(store_->LoadProducers()->front().handled, 5u);
}

TEST_F(StoreTest, SeriesKeepTheirIdsOverARestart) {
  OpenAndBegin();
  const uint32_t a = Series("a"), b = Series("b");
  Put(a, 1, 1);
  Put(b, 1, 2);
  Flush();
  Reopen();
  Begin();
  EXPECT_EQ(Series("b"), b);
  EXPECT_EQ(Series("c"), b + 1);
  EXPECT_EQ(run_->series().Find(a)->traits.module_type, "Linear");
  Put(b, 2, 3);
  EXPECT_EQ(ReadOne("b").numbers, (std::vector<double>{2, 3}));
}

TEST_F(StoreTest, SeriesComeInPagesNewestRunFirst) {
  OpenStore();
  for (int r = 0; r < 3; ++r) {
    ProducerInfo info = Producer({"run-" + std::to_string(r), 0, 0});
    info.start_unix_ns += r;
    run_ = *store_->Begin(info);
    for (int i = 0; i < 5; ++i) Put(Series("s" + std::to_string(i)), 1, i);
  }
  SeriesQuery query;
  query.limit = 4;
  std::vector<std::string> seen;
  for (int pages = 0; pages < 10; ++pages) {
    auto page = store_->ListSeries(query);
    ASSERT_TRUE(page.ok()) << page.error().text;
    EXPECT_LE(page->series.size(), 4u);
    for (const SeriesInfo& one : page->series) seen.push_back(one.run->run_key.run_id + one.series->name.topic);
    if (page->next.empty()) break;
    query.page = page->next;
  }
  ASSERT_EQ(seen.size(), 15u);
  EXPECT_EQ(seen.front(), "run-2s0");
  EXPECT_EQ(seen[5], "run-1s0");
  EXPECT_EQ(seen.back(), "run-0s4");
  query.page = "nonsense";
  EXPECT_EQ(store_->ListSeries(query).error().code, ErrorCode::kInvalidArgument);
  query = {};
  query.filter.run = "run-1";
  query.filter.topic = "s1|s2";
  EXPECT_EQ(store_->ListSeries(query)->series.size(), 2u);
}

TEST_F(StoreTest, EventsHaveRisingIdsOverAllRunsAndRestarts) {
  OpenStore();
  auto event = [&](const RunKey& key, const std::string& kind) {
    auto batch = std::make_shared<Batch>();
    Event one;
    one.run = key;
    one.kind = kind;
    one.text = "text of " + kind;
    batch->events.push_back(one);
    store_->Offer(batch);
  };
  Begin({"a", 0, 0});
  Begin({"b", 0, 0}, 9);
  event({"a", 0, 0}, "one");
  event({"b", 0, 0}, "two");
  event({}, "three");
  auto kinds = [&](EventQuery query) {
    std::string text;
    auto events = store_->ListEvents(query);
    EXPECT_TRUE(events.ok());
    uint64_t before = 0;
    for (const Event& one : *events) {
      EXPECT_GT(one.id, before);
      before = one.id;
      text += one.kind + " ";
    }
    return text;
  };
  EXPECT_EQ(kinds({}), "one two three ");  // waiting
  Flush();
  EXPECT_EQ(kinds({}), "one two three ");
  Reopen();
  event({"a", 0, 0}, "four");
  Flush();
  EXPECT_EQ(kinds({}), "one two three four ");
  EventQuery last;
  last.last = 2;
  EXPECT_EQ(kinds(last), "three four ");
  EventQuery run;
  run.filter.run = "a";
  EXPECT_EQ(kinds(run), "one four ");
  EventQuery after;
  after.after_id = store_->ListEvents({})->at(1).id;
  after.limit = 1;
  EXPECT_EQ(kinds(after), "three ");
}

TEST_F(StoreTest, FilesAreForTheirOwnerAlone) {
  OpenAndBegin();
  Put(Series("a"), 1, 1);
  Flush();
  for (const auto& item : std::filesystem::recursive_directory_iterator(dir_.path() + "/data")) {
    struct stat found {};
    ASSERT_EQ(::stat(item.path().c_str(), &found), 0);
    EXPECT_EQ(found.st_mode & 077, 0u) << item.path();
  }
}

TEST_F(StoreTest, AStepThatCameLateDoesNotMakeOnePieceOfALongSeries) {
  TakeLimitsAway();
  OpenAndBegin();
  const uint32_t a = Series("a");
  constexpr uint64_t kSteps = 60'000;
  auto value = [](uint64_t step) { return std::sin(static_cast<double>(step)); };
  for (uint64_t step = 1; step < kSteps; ++step) {
    if (step != 7 && step != 40'000) Put(a, step, value(step));
    if (step == kSteps / 2) Put(a, 7, value(7));
    if (step % 10'000 == 0) Flush();
  }
  Put(a, 40'000, value(40'000));
  Put(a, 0, value(0));
  Flush();
  auto check = [&](const std::shared_ptr<RunSnapshot>& snapshot) {
    NumberReader reader(snapshot, {}, Database::Mode::kAtRest);
    ASSERT_TRUE(reader.Start(snapshot->run->series().Find(a)).ok());
    uint64_t step = 0;
    for (;;) {
      auto points = reader.Next();
      ASSERT_TRUE(points.ok()) << points.error().text;
      if (points->empty()) break;
      ASSERT_LE(points->size(), SeriesReader::kPointsMax);
      for (const Point& point : *points) {
        ASSERT_EQ(point.step, step++);
        ASSERT_EQ(point.value, value(point.step));
      }
    }
    EXPECT_EQ(step, kSteps);
  };
  EXPECT_EQ(ReadOne("a").steps.size(), kSteps);
  ReadQuery few;
  few.max_points = 100;
  const SeriesColumns reduced = ReadOne("a", few);
  EXPECT_LE(reduced.steps.size(), 100u);
  EXPECT_EQ(reduced.steps.front(), 0u);
  EXPECT_EQ(reduced.steps.back(), kSteps - 1);
  EndRun();
  store_.reset();
  auto entry = std::make_shared<RunEntry>(kRun, file());
  auto opened = OpenStored(file());
  ASSERT_TRUE(opened.ok());
  auto loaded = LoadRun(*entry, **opened, nullptr);
  ASSERT_TRUE(loaded.ok());
  auto snapshot = std::make_shared<RunSnapshot>();
  snapshot->entry = entry;
  snapshot->info = std::make_shared<const ProducerInfo>(Producer());
  snapshot->run = (*loaded)->run;
  snapshot->segments = (*loaded)->segments;
  check(snapshot);
}

}  // namespace
}  // namespace ikkuna::sinks
