#include "daemon/sinks/store.h"

#include <gmock/gmock.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <mutex>

#include "daemon/sinks/store_queue.h"
#include "tests/daemon/sinks/sinks_fixture.h"

namespace ikkuna::sinks {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

uint64_t Bits(double value) {
  uint64_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

TEST_F(StoreTest, EveryClassOfValueComesBackAsItWas) {
  Open();
  const uint64_t id = Intern(Key("weights_norm2"));
  const std::vector<double> values = {1.5,
                                      -0.0,
                                      0.0,
                                      std::numeric_limits<double>::quiet_NaN(),
                                      std::numeric_limits<double>::infinity(),
                                      -std::numeric_limits<double>::infinity(),
                                      std::numeric_limits<double>::denorm_min(),
                                      -std::numeric_limits<double>::max(),
                                      3.0,
                                      0.1};
  std::vector<Sample> samples;
  for (size_t i = 0; i < values.size(); ++i) {
    samples.push_back(At(id, 10 * i, values[i]));
    samples.back().flags = static_cast<uint16_t>(i);
  }
  store_->Offer(BatchOf(samples));
  for (int pass = 0; pass < 2; ++pass) {
    const std::vector<Sample> read = ReadAll(id);
    ASSERT_EQ(read.size(), values.size());
    for (size_t i = 0; i < values.size(); ++i) {
      EXPECT_EQ(read[i].series_id, id);
      EXPECT_EQ(read[i].step, 10 * i);
      EXPECT_EQ(read[i].epoch, samples[i].epoch);
      EXPECT_EQ(read[i].flags, i);
      EXPECT_EQ(read[i].unix_ns, samples[i].unix_ns);
      EXPECT_EQ(read[i].samples_seen, samples[i].samples_seen);
      if (std::isnan(values[i])) {
        EXPECT_TRUE(std::isnan(read[i].value));
      } else {
        EXPECT_EQ(Bits(read[i].value), Bits(values[i])) << values[i];
      }
    }
    Reopen();
  }
}

TEST_F(StoreTest, ALaterSampleOfAStepReplacesTheEarlier) {
  Open();
  const uint64_t id = Intern(Key("loss", "", ""));
  store_->Offer(BatchOf({At(id, 1, 1.0), At(id, 2, 2.0), At(id, 2, 2.5)}));
  Flush();
  store_->Offer(BatchOf({At(id, 1, 1.5)}));
  const std::vector<Sample> read = ReadAll(id);
  ASSERT_EQ(read.size(), 2u);
  EXPECT_EQ(read[0].value, 1.5);
  EXPECT_EQ(read[1].value, 2.5);
  const SeriesInfo info = Info(id);
  EXPECT_EQ(info.count, 2u);
  EXPECT_EQ(info.first_step, 1u);
  EXPECT_EQ(info.last_step, 2u);
  ASSERT_TRUE(info.last.has_value());
  EXPECT_EQ(info.last->value, 2.5);
  const SinkCounters counters = store_->counters();
  EXPECT_EQ(counters.offered, 4u);
  EXPECT_EQ(counters.written, 4u);
  EXPECT_EQ(counters.dropped, 0u);
}

TEST_F(StoreTest, RangesAndBuckets) {
  Open();
  const uint64_t id = Intern(Key("activations_mean"));
  std::vector<Sample> samples;
  for (uint64_t step = 0; step < 10'000; ++step) samples.push_back(At(id, step, std::sin(0.01 * double(step))));
  samples[4321].value = 1e9;
  samples[7777].value = -1e9;
  samples[5000].value = std::numeric_limits<double>::quiet_NaN();
  samples[6000].value = std::numeric_limits<double>::infinity();
  store_->Offer(BatchOf(samples));
  Flush();

  auto part = store_->Read({.series_id = id, .step_min = 100, .step_max = 199, .max_points = 0});
  ASSERT_TRUE(part.ok());
  EXPECT_EQ(part->samples.size(), 100u);
  EXPECT_EQ(part->samples.front().step, 100u);
  EXPECT_FALSE(part->reduced);

  auto all = store_->Read({.series_id = id, .step_min = {}, .step_max = {}, .max_points = 100});
  ASSERT_TRUE(all.ok());
  EXPECT_TRUE(all->reduced);
  EXPECT_LE(all->samples.size(), 100u);
  EXPECT_GE(all->samples.size(), 50u);
  std::vector<uint64_t> spikes;
  for (size_t i = 0; i < all->samples.size(); ++i) {
    const Sample& sample = all->samples[i];
    if (i > 0) {
      EXPECT_GT(sample.step, all->samples[i - 1].step);
    }
    if (!std::isfinite(sample.value) || std::fabs(sample.value) > 2) spikes.push_back(sample.step);
  }
  EXPECT_THAT(spikes, ElementsAre(4321u, 5000u, 6000u, 7777u));

  auto enough = store_->Read({.series_id = id, .step_min = {}, .step_max = {}, .max_points = 10'000});
  ASSERT_TRUE(enough.ok());
  EXPECT_FALSE(enough->reduced);
  EXPECT_EQ(enough->samples.size(), 10'000u);

  auto nobody = store_->Read({.series_id = 999, .step_min = {}, .step_max = {}, .max_points = 0});
  ASSERT_FALSE(nobody.ok());
  EXPECT_EQ(nobody.error().code, ErrorCode::kNotFound);
}

TEST_F(StoreTest, ProgressIsReportedAfterItsSamplesAreReadable) {
  std::mutex mutex;
  std::vector<uint64_t> committed;
  Uuid uuid{};
  options_.on_committed = [&](const Uuid& producer, uint64_t done_seq) {
    std::lock_guard lock(mutex);
    uuid = producer;
    committed.push_back(done_seq);
  };
  Open();
  const uint64_t id = Intern(Key("loss", "", ""));
  EXPECT_FALSE(store_->LoadProgress(Producer()->uuid).has_value());
  store_->Offer(BatchOf({At(id, 1, 1)}, 10));
  store_->Offer(BatchOf({At(id, 2, 1)}, 20));
  Flush();
  ASSERT_TRUE(Eventually([&] {
    std::lock_guard lock(mutex);
    return !committed.empty() && committed.back() == 20;
  }));
  EXPECT_EQ(uuid, Producer()->uuid);
  ASSERT_TRUE(store_->LoadProgress(uuid).has_value());
  EXPECT_EQ(store_->LoadProgress(uuid)->progress.done_seq, 20u);
  auto batch = BatchOf({}, 15);  // an old one never takes progress back
  batch->progress.lost_in_daemon = 5;
  batch->progress.killed = 1;
  store_->Offer(batch);
  Flush();
  Reopen();
  const auto stored = store_->LoadProgress(uuid);
  ASSERT_TRUE(stored.has_value());
  EXPECT_EQ(stored->progress.done_seq, 20u);
  EXPECT_EQ(stored->progress.lost_in_daemon, 5u);
  EXPECT_EQ(stored->progress.killed, 1u);
  EXPECT_EQ(stored->handled, 15u);
}

TEST_F(StoreTest, WithoutAnyoneAskingABatchIsCommittedByItself) {
  std::atomic<uint64_t> committed{0};
  options_.on_committed = [&](const Uuid&, uint64_t done_seq) { committed = done_seq; };
  Open();
  store_->Offer(BatchOf({At(Intern(Key("loss", "", "")), 1, 1)}, 3));
  EXPECT_TRUE(Eventually([&] { return committed == 3; }));
}

TEST_F(StoreTest, SeriesKeepTheirIdsAndNumbersOverARestart) {
  Open();
  const uint64_t loss = Intern(Key("loss", "", ""));
  const uint64_t norm = Intern(Key("weights_norm2"));
  store_->Offer(BatchOf({At(loss, 5, 1), At(loss, 6, 2), At(norm, 7, 3)}));
  Reopen();
  EXPECT_EQ(catalogue_->FindId(Key("loss", "", "")), loss);
  EXPECT_EQ(catalogue_->FindId(Key("weights_norm2")), norm);
  EXPECT_EQ(catalogue_->Find(norm)->module_type, "Linear");
  EXPECT_EQ(catalogue_->Find(norm)->unit, "1");
  EXPECT_EQ(Info(loss).count, 2u);
  EXPECT_EQ(Info(loss).first_step, 5u);
  EXPECT_EQ(Info(loss).last_step, 6u);
  ASSERT_TRUE(Info(norm).last.has_value());
  EXPECT_EQ(Info(norm).last->value, 3);
  EXPECT_GT(Intern(Key("another")), norm);
}

TEST_F(StoreTest, WhatBelongsNowhereIsDroppedAndCounted) {
  Open();
  const uint64_t id = Intern(Key("loss", "", ""));
  store_->Offer(BatchOf({At(id, 1, 1), At(id + 1000, 1, 1), At(0, 1, 1), At(id, uint64_t{1} << 63, 1)}));
  Flush();
  EXPECT_EQ(ReadAll(id).size(), 1u);
  const SinkCounters counters = store_->counters();
  EXPECT_EQ(counters.offered, 4u);
  EXPECT_EQ(counters.written, 1u);
  EXPECT_EQ(counters.dropped, 3u);
  EXPECT_EQ(counters.queued, 0u);
}

TEST_F(StoreTest, FiltersTakeShellPatterns) {
  Open();
  const RunKey other{"run-2", 1, 3};
  const uint64_t a = Intern(Key("weights_norm2", "features.0"));
  const uint64_t b = Intern(Key("weights_norm2", "features.10"));
  const uint64_t c = Intern(Key("loss", "", "", other));
  store_->UpsertRun(*Producer(), "running");
  store_->Offer(BatchOf({At(a, 1, 1), At(b, 1, 1), At(c, 1, 1)}));
  auto ids = [&](const SeriesFilter& filter) {
    std::vector<uint64_t> found;
    auto list = store_->ListSeries(filter);
    EXPECT_TRUE(list.ok());
    for (const SeriesInfo& info : *list) found.push_back(info.series.id);
    return found;
  };
  SeriesFilter filter;
  EXPECT_THAT(ids(filter), ElementsAre(a, b, c));
  filter.module = "features.?";
  EXPECT_THAT(ids(filter), ElementsAre(a));
  filter.module = "features.*";
  EXPECT_THAT(ids(filter), ElementsAre(a, b));
  filter = {};
  filter.run_id = "fashion";
  EXPECT_THAT(ids(filter), ElementsAre(a, b));
  filter.run_id = "run-2";
  EXPECT_THAT(ids(filter), ElementsAre(c));
  filter = {};
  filter.rank = 3;
  filter.attempt = 1;
  EXPECT_THAT(ids(filter), ElementsAre(c));
}

TEST_F(StoreTest, RunsProducersAndModules) {
  Open();
  auto producer = Producer();
  store_->UpsertRun(*producer, "running");
  ModuleInfo module{.root = "model", .name = "features.0", .type = "Conv2d", .functional = true, .params = {}};
  module.params.push_back({.name = "weight", .dtype = "float32", .sizes = {4, 1, 3, 3}});
  module.params.push_back({.name = "bias", .dtype = "float32", .sizes = {}, .bias = true, .trainable = false});
  store_->SaveModules(kRun, {ModuleInfo{.root = "model", .name = "old", .type = "Linear", .params = {}}});
  store_->SaveModules(kRun, {module, ModuleInfo{.root = "model", .name = "relu", .type = "ReLU", .params = {}}});
  const uint64_t id = Intern(Key("loss", "", ""));
  store_->Offer(BatchOf({At(id, 41, 1), At(id, 42, 1)}, 9));

  auto runs = store_->ListRuns();
  ASSERT_TRUE(runs.ok());
  ASSERT_EQ(runs->size(), 1u);
  const RunInfo& run = runs->front();
  EXPECT_EQ(run.key, kRun);
  EXPECT_EQ(run.run, "fashion");
  EXPECT_EQ(run.state, "running");
  EXPECT_EQ(run.start_unix_ns, producer->start_unix_ns);
  EXPECT_EQ(run.last_step, 42u);
  EXPECT_EQ(run.last_unix_ns, At(id, 42, 1).unix_ns);
  EXPECT_EQ(run.series, 1u);
  EXPECT_EQ(run.samples, 2u);
  EXPECT_EQ(run.facts, producer->facts);

  auto modules = store_->ListModules(kRun);
  ASSERT_TRUE(modules.ok());
  ASSERT_EQ(modules->size(), 2u);
  EXPECT_EQ(modules->at(0).type, "Conv2d");
  EXPECT_TRUE(modules->at(0).functional);
  ASSERT_EQ(modules->at(0).params.size(), 2u);
  EXPECT_THAT(modules->at(0).params[0].sizes, ElementsAre(4, 1, 3, 3));
  EXPECT_TRUE(modules->at(0).params[0].trainable);
  EXPECT_TRUE(modules->at(0).params[1].sizes.empty());
  EXPECT_TRUE(modules->at(0).params[1].bias);
  EXPECT_FALSE(modules->at(0).params[1].trainable);
  EXPECT_EQ(modules->at(1).name, "relu");
  EXPECT_TRUE(store_->ListModules({"nobody", 0, 0})->empty());

  ProducerStatus status;
  status.info = *producer;
  status.attempted = 100;
  status.dropped_total = 4;
  status.drops = {{"ring_full", 3}, {"arena_full", 1}};
  status.steps_total = 50;
  status.steps_while_connected = 40;
  status.coverage = 0.8;
  status.incomplete_bundles = 2;
  status.probe_cost = 0.003;
  status.handled = 8;
  status.lost_in_daemon = 87;
  status.killed = 1;
  status.notes = {"no pidfd", "two\nlines"};
  status.roots.push_back({.name = "model", .phase = "train", .step = 42, .epoch = 2, .samples_seen = 5376});
  status.roots.back().steps_due = 5;
  status.roots.back().steps_observed = 4;
  status.state = "disconnected";
  store_->SaveProducer(status);
  Flush();
  // It may go on: what was committed with its samples counts.
  EXPECT_EQ(store_->LoadProducers()->front().handled, 9u);
  EXPECT_EQ(store_->LoadProducers()->front().lost_in_daemon, 0u);
  status.state = "died";
  store_->SaveProducer(status);
  Flush();
  auto producers = store_->LoadProducers();
  ASSERT_TRUE(producers.ok());
  ASSERT_EQ(producers->size(), 1u);
  const ProducerStatus& stored = producers->front();
  EXPECT_EQ(stored.info.uuid, producer->uuid);
  EXPECT_EQ(stored.info.run_key, kRun);
  EXPECT_EQ(stored.info.world_size, 2u);
  EXPECT_EQ(stored.info.pid, 4711);
  EXPECT_EQ(stored.state, "died");
  EXPECT_EQ(stored.attempted, 100u);
  EXPECT_EQ(stored.handled, 8u);
  EXPECT_EQ(stored.lost_in_daemon, 87u);
  EXPECT_EQ(stored.killed, 1u);
  EXPECT_THAT(stored.notes, ElementsAre("no pidfd", "two lines"));
  ASSERT_EQ(stored.roots.size(), 1u);
  EXPECT_EQ(stored.roots[0].name, "model");
  EXPECT_EQ(stored.roots[0].phase, "train");
  EXPECT_EQ(stored.roots[0].step, 42u);
  EXPECT_EQ(stored.roots[0].epoch, 2u);
  EXPECT_EQ(stored.roots[0].samples_seen, 5376u);
  EXPECT_EQ(stored.roots[0].steps_due, 5u);
  EXPECT_EQ(stored.roots[0].steps_observed, 4u);
  ASSERT_EQ(stored.drops.size(), 2u);
  EXPECT_EQ(stored.drops[1].reason, "arena_full");
  EXPECT_EQ(stored.drops[1].count, 1u);
  EXPECT_EQ(stored.steps_while_connected, 40u);
  EXPECT_EQ(stored.coverage, 0.8);
  EXPECT_EQ(stored.probe_cost, 0.003);
  EXPECT_EQ(store_->ListRuns()->front().state, "died");
}

TEST_F(StoreTest, ARunThatADeadDaemonLeftRunningIsDisconnected) {
  Open();
  store_->UpsertRun(*Producer(), "running");
  store_->UpsertRun(*Producer(8, {"run-2", 0, 0}), "finished");
  Reopen();
  auto runs = store_->ListRuns();
  ASSERT_TRUE(runs.ok());
  ASSERT_EQ(runs->size(), 2u);
  EXPECT_EQ(runs->at(0).state, "disconnected");
  EXPECT_EQ(runs->at(1).state, "finished");
}

// The writer may find the queue empty and come back to one that was filled and closed meanwhile.
TEST(StoreQueueTest, WhatCameBetweenAnEmptyTakeAndTheCloseIsTakenBeforeTheEnd) {
  StoreQueue queue;
  StoreQueue::Taken taken = queue.Take(StoreQueue::Clock::now());
  EXPECT_FALSE(taken.chunk.has_value());
  EXPECT_FALSE(taken.ended);
  queue.Push(RunUpsert{*Producer(), "running"});
  queue.Close();
  taken = queue.Take(StoreQueue::Clock::now());
  ASSERT_TRUE(taken.chunk.has_value());
  EXPECT_EQ(taken.chunk->run_writes.size(), 1u);
  EXPECT_FALSE(taken.ended);
  taken = queue.Take(StoreQueue::Clock::now());
  EXPECT_FALSE(taken.chunk.has_value());
  EXPECT_TRUE(taken.ended);
}

TEST_F(StoreTest, EventsHaveRisingIdsAndFilters) {
  Open();
  store_->UpsertRun(*Producer(), "running");
  auto batch = BatchOf({});
  batch->events = {EventOf("run_started"), EventOf("non_finite", {"run-2", 0, 0}), EventOf("quarantined")};
  store_->Offer(batch);
  auto events = store_->ListEvents({.run_id = "", .after_id = 0, .limit = 1000});
  ASSERT_TRUE(events.ok());
  ASSERT_EQ(events->size(), 3u);
  EXPECT_EQ(events->at(0).id, 1u);
  EXPECT_EQ(events->at(0).kind, "run_started");
  EXPECT_EQ(events->at(0).severity, Severity::kWarning);
  EXPECT_EQ(events->at(0).text, "text of run_started");
  EXPECT_EQ(events->at(0).step, 3u);
  EXPECT_EQ(events->at(2).run, kRun);
  auto later = store_->ListEvents({.run_id = "", .after_id = 1, .limit = 1});
  ASSERT_EQ(later->size(), 1u);
  EXPECT_EQ(later->at(0).id, 2u);
  EXPECT_EQ(store_->ListEvents({.run_id = "fashion", .after_id = 0, .limit = 9})->size(), 2u);
  EXPECT_EQ(store_->ListEvents({.run_id = "run-2", .after_id = 0, .limit = 9})->size(), 1u);
}

TEST_F(StoreTest, TextsAreKept) {
  Open();
  const uint64_t id = Intern(Key("text", "", "note"));
  auto batch = BatchOf({});
  batch->texts = {{id, 1, 11, "first"}, {id, 2, 22, std::string("with\0nul", 8)}};
  store_->Offer(batch);
  auto texts = store_->ReadTexts(id);
  ASSERT_TRUE(texts.ok());
  ASSERT_EQ(texts->size(), 2u);
  EXPECT_EQ(texts->at(0).text, "first");
  EXPECT_EQ(texts->at(1).text, std::string("with\0nul", 8));
  EXPECT_EQ(texts->at(1).unix_ns, 22);
  EXPECT_EQ(store_->counters().written, 2u);
  Reopen();
  EXPECT_EQ(Info(id).count, 2u);
  EXPECT_EQ(Info(id).last_step, 2u);
}

TEST_F(StoreTest, ADeletedRunIsGoneAndMayComeAgain) {
  Open();
  const RunKey other{"run-2", 0, 0};
  const uint64_t gone = Intern(Key("loss", "", ""));
  const uint64_t kept = Intern(Key("loss", "", "", other));
  store_->UpsertRun(*Producer(), "running");
  std::vector<Sample> samples;
  for (uint64_t step = 0; step < 120'000; ++step) samples.push_back(At(gone, step, 1));
  samples.push_back(At(kept, 1, 1));
  auto batch = BatchOf(samples, 5);
  batch->events = {EventOf("run_started"), EventOf("run_started", other)};
  store_->Offer(batch);

  Status running = store_->DeleteRun(kRun);
  ASSERT_FALSE(running.ok());
  EXPECT_EQ(running.error().code, ErrorCode::kFailedPrecondition);
  store_->UpsertRun(*Producer(), "finished");
  Status deleted = store_->DeleteRun(kRun);
  ASSERT_TRUE(deleted.ok()) << deleted.error().text;
  EXPECT_EQ(store_->DeleteRun(kRun).error().code, ErrorCode::kNotFound);

  EXPECT_EQ(store_->ListRuns()->size(), 1u);
  EXPECT_EQ(store_->ListSeries({})->size(), 1u);
  EXPECT_EQ(store_->ListEvents({.run_id = "", .after_id = 0, .limit = 9})->size(), 1u);
  EXPECT_FALSE(store_->Read({.series_id = gone, .step_min = {}, .step_max = {}, .max_points = 0}).ok());

  // The catalogue still knows the series: a new sample brings both back.
  store_->Offer(BatchOf({At(gone, 7, 2)}));
  EXPECT_EQ(ReadAll(gone).size(), 1u);
  EXPECT_EQ(Info(gone).count, 1u);
}

TEST_F(StoreTest, AfterCloseNothingHangsAndOffersCountAsDropped) {
  Open();
  const uint64_t id = Intern(Key("loss", "", ""));
  store_->Offer(BatchOf({At(id, 1, 1)}));
  store_->Close();
  store_->Close();
  EXPECT_FALSE(std::filesystem::exists(store_->path() + "-wal"));
  store_->Offer(BatchOf({At(id, 2, 1)}));
  EXPECT_TRUE(store_->Flush().ok());
  auto read = store_->Read({.series_id = id, .step_min = {}, .step_max = {}, .max_points = 0});
  ASSERT_FALSE(read.ok());
  EXPECT_THAT(read.error().text, HasSubstr("closed"));
  EXPECT_EQ(store_->DeleteRun(kRun).error().code, ErrorCode::kUnavailable);
  const SinkCounters counters = store_->counters();
  EXPECT_EQ(counters.offered, 2u);
  EXPECT_EQ(counters.written, 1u);
  EXPECT_EQ(counters.dropped, 1u);
}

TEST_F(StoreTest, ManyThreadsOfferAndReadAtOnce) {
  Open();
  constexpr int kThreads = 4;
  constexpr uint64_t kSteps = 500;
  std::vector<uint64_t> ids;
  for (int i = 0; i < kThreads; ++i) ids.push_back(Intern(Key("m" + std::to_string(i))));
  for (uint64_t id : ids) store_->Offer(BatchOf({At(id, 0, 0)}));
  Flush();
  std::atomic<bool> done{false};
  std::vector<std::thread> readers, writers;
  for (int i = 0; i < 6; ++i) {
    readers.emplace_back([&, i] {
      while (!done) {
        (void)ReadAll(ids[i % kThreads]);
        (void)store_->ListRuns();
        (void)store_->counters();
      }
    });
  }
  for (int i = 0; i < kThreads; ++i) {
    writers.emplace_back([&, i] {
      for (uint64_t step = 1; step < kSteps; ++step) store_->Offer(BatchOf({At(ids[i], step, double(step))}));
    });
  }
  for (auto& thread : writers) thread.join();
  // Each thread's own writes are seen by its reads at once.
  for (uint64_t id : ids) EXPECT_EQ(ReadAll(id).size(), kSteps);
  done = true;
  for (auto& thread : readers) thread.join();
  EXPECT_EQ(store_->counters().written, kThreads * kSteps);
}

}  // namespace
}  // namespace ikkuna::sinks
