// A writer at full speed, compaction, runs that end and are put at rest, and readers of every kind at once: each answer
// is what was offered up to some moment within the call, without a hole and without a double.
#include <atomic>
#include <cinttypes>
#include <cstdio>

#include "tests/daemon/sinks/store_fixture.h"

namespace ikkuna::sinks {
namespace {

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr uint64_t kSteps = 1'500;
#else
constexpr uint64_t kSteps = 12'000;
#endif
constexpr int kNumbersAtOnce = 64;
constexpr uint64_t kEventEvery = 5;

double ValueAtOnce(int series, uint64_t step) { return static_cast<double>(series) * 1e5 + static_cast<double>(step); }
std::string Topic(int series) { return "n" + std::to_string(series); }

// What one run is offered: numbers at every step, two texts at every step, a histogram at every tenth, an event at
// every fifth, in one batch.
class Source {
 public:
  Source(Store& store, const RunKey& key) : store_(store), key_(key) {
    auto begun = store.Begin(Producer(key));
    EXPECT_TRUE(begun.ok());
    run_ = *begun;
    for (int i = 0; i < kNumbersAtOnce; ++i) {
      SeriesTraits traits;
      traits.precision = i % 2 == 0 ? Precision::kDouble : Precision::kSingle;
      numbers_.push_back(run_->series().Intern(Name(Topic(i)), traits));
    }
    text_ = Intern(*run_, Name("text"), ValueType::kText);
    histogram_ = Intern(*run_, Name("histogram"), ValueType::kHistogram);
  }

  void Step(uint64_t step) {
    std::vector<Sample> samples;
    for (int i = 0; i < kNumbersAtOnce; ++i) samples.push_back(Number(numbers_[i], ValueAtOnce(i, step)));
    std::vector<OtherValue> others;
    for (const char* which : {"a", "b"}) others.push_back({text_, 0, Text{which + std::to_string(step)}});
    if (step % 10 == 0) {
      Histogram histogram;
      histogram.n = step;
      histogram.counts = {step};
      others.push_back({histogram_, 0, histogram});
    }
    auto batch = BatchOf(run_, step, std::move(samples), std::move(others));
    if (step % kEventEvery == 0) {
      batch->events.push_back(EventOf("c", key_));
      batch->events.back().step = step;
    }
    batch->progress = Progress{step + 1, 0, 0};
    begun_.store(step + 1);
    store_.Offer(batch);
    offered_.store(step + 1);
    // As fast as it goes without loss.
    if (step % 16 == 0) {
      while (store_.Counters().waiting > 100'000) std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  }
  void End() {
    ProducerStatus status;
    status.info = Producer(key_);
    status.state = RunState::kFinished;
    store_.SaveProducer(status);
  }

  // Steps of which every value is part of an answer that is asked for now; and of which some may be, in one that came
  // now.
  uint64_t offered() const { return offered_.load(); }
  uint64_t begun() const { return begun_.load(); }
  const RunKey& key() const { return key_; }

 private:
  Store& store_;
  const RunKey key_;
  RunPtr run_;
  std::vector<uint32_t> numbers_;
  uint32_t text_ = 0, histogram_ = 0;
  std::atomic<uint64_t> offered_{0}, begun_{0};
};

class StoreConcurrentTest : public StoreTest {
 protected:
  SeriesColumns All(const Source& source, const std::string& topic, ReadQuery query = {}) {
    query.filter.run = source.key().run_id;
    return ReadOne(topic, query);
  }
  void CheckNumbers(const Source& source, int series) {
    const uint64_t least = source.offered();
    const SeriesColumns read = All(source, Topic(series));
    const uint64_t most = source.begun();
    ASSERT_GE(read.steps.size(), least);
    ASSERT_LE(read.steps.size(), most);
    for (size_t i = 0; i < read.steps.size(); ++i) {
      ASSERT_EQ(read.steps[i], i);
      ASSERT_EQ(read.numbers[i], ValueAtOnce(series, i));
    }
  }
  void CheckReduced(const Source& source, int series) {
    const uint64_t least = source.offered();
    ReadQuery query;
    query.max_points = 100;
    const SeriesColumns read = All(source, Topic(series), query);
    if (least == 0) return;
    ASSERT_FALSE(read.steps.empty());
    ASSERT_LE(read.steps.size(), 100u);
    ASSERT_EQ(read.steps.front(), 0u);
    ASSERT_GE(read.steps.back() + 1, least);
    ASSERT_LE(read.steps.back() + 1, source.begun());
    for (size_t i = 0; i < read.steps.size(); ++i) {
      if (i > 0) {
        ASSERT_GT(read.steps[i], read.steps[i - 1]);
      }
      ASSERT_EQ(read.numbers[i], ValueAtOnce(series, read.steps[i]));
    }
  }
  void CheckOthers(const Source& source) {
    const uint64_t least = source.offered();
    const SeriesColumns texts = All(source, "text");
    const SeriesColumns histograms = All(source, "histogram");
    const uint64_t most = source.begun();
    ASSERT_GE(texts.steps.size(), 2 * least);
    ASSERT_LE(texts.steps.size(), 2 * most);
    ASSERT_EQ(texts.steps.size() % 2, 0u);
    for (size_t i = 0; i < texts.steps.size(); ++i) {
      ASSERT_EQ(texts.steps[i], i / 2);
      ASSERT_EQ(std::get<Text>(texts.others[i]).text, (i % 2 == 0 ? "a" : "b") + std::to_string(i / 2));
    }
    ASSERT_GE(histograms.steps.size(), (least + 9) / 10);
    ASSERT_LE(histograms.steps.size(), (most + 9) / 10);
    for (size_t i = 0; i < histograms.steps.size(); ++i) {
      ASSERT_EQ(histograms.steps[i], i * 10);
      ASSERT_EQ(std::get<Histogram>(histograms.others[i]).n, i * 10);
    }
  }
  void CheckLists(const Source& source) {
    const uint64_t least = source.offered();
    SeriesQuery query;
    query.filter.run = source.key().run_id;
    auto page = store_->ListSeries(query);
    uint64_t most = source.begun();
    ASSERT_TRUE(page.ok()) << page.error().text;
    if (least > 0) {
      ASSERT_EQ(page->series.size(), size_t{kNumbersAtOnce} + 2);
    }
    for (const SeriesInfo& info : page->series) {
      const bool number = info.series->traits.type == ValueType::kNumber;
      const uint64_t each = info.series->name.topic == "text" ? 2 : 1;
      if (!number && each == 1) continue;
      ASSERT_GE(info.count, least * each) << info.series->name.topic;
      ASSERT_LE(info.count, most * each) << info.series->name.topic;
      if (number) {
        ASSERT_EQ(info.last_step + 1, info.count);
        ASSERT_EQ(info.last, ValueAtOnce(std::atoi(info.series->name.topic.c_str() + 1), info.last_step));
      }
    }
    const uint64_t least_now = source.offered();
    auto runs = store_->FindRuns(source.key().run_id);
    most = source.begun();
    ASSERT_TRUE(runs.ok() && runs->size() == 1);
    ASSERT_GE(runs->front().values, least_now * (kNumbersAtOnce + 2));
    ASSERT_LE(runs->front().values, most * (kNumbersAtOnce + 2) + (most + 9) / 10);
  }
  void CheckEvents(const Source& source) {
    const uint64_t least = source.offered();
    EventQuery query;
    query.filter.run = source.key().run_id;
    query.limit = 7'000;
    std::vector<uint64_t> steps;
    // In parts, each from where the last one ended.
    for (bool more = true; more;) {
      auto events = store_->ListEvents(query);
      ASSERT_TRUE(events.ok()) << events.error().text;
      more = events->size() == query.limit;
      for (const Event& event : *events) {
        ASSERT_GT(event.id, query.after_id);
        query.after_id = event.id;
        if (event.kind == "c") steps.push_back(event.step);
      }
    }
    ASSERT_GE(steps.size(), (least + kEventEvery - 1) / kEventEvery);
    for (size_t i = 0; i < steps.size(); ++i) ASSERT_EQ(steps[i], i * kEventEvery);
  }
};

TEST_F(StoreConcurrentTest, EveryAnswerIsAllOfWhatWasOfferedUpToSomeMoment) {
  options_.tail_bytes_max = 1 << 20;
  options_.slice_bytes = 32 << 10;
  OpenStore();
  Source main(*store_, {"main", 0, 0});
  // One that ends, and is read while it becomes one file; then one more.
  std::mutex mutex;
  std::vector<std::unique_ptr<Source>> others;  // guarded by mutex
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    for (uint64_t step = 0; step < kSteps; ++step) main.Step(step);
  });
  std::thread ender([&] {
    for (int n = 0; n < 3; ++n) {
      auto fresh = std::make_unique<Source>(*store_, RunKey{"other-" + std::to_string(n), 0, 0});
      Source* source = fresh.get();
      {
        std::lock_guard lock(mutex);
        others.push_back(std::move(fresh));
      }
      for (uint64_t step = 0; step < kSteps / 8; ++step) source->Step(step);
      source->End();
      EXPECT_TRUE(Eventually([&] {
        return !std::filesystem::exists(file(source->key()) + "-wal") || ::testing::Test::HasFatalFailure();
      }));
    }
  });
  std::vector<std::atomic<uint64_t>> reads(4);
  std::vector<std::thread> readers;
  for (int kind = 0; kind < 4; ++kind) {
    readers.emplace_back([&, kind] {
      for (uint64_t n = 0; !stop && !HasFatalFailure(); ++n) {
        const Source* source = &main;
        {
          std::lock_guard lock(mutex);
          if (n % 2 == 1 && !others.empty()) source = others[n / 2 % others.size()].get();
        }
        const int series = static_cast<int>(n % kNumbersAtOnce);
        if (kind == 0) CheckNumbers(*source, series);
        if (kind == 1) CheckReduced(*source, series);
        if (kind == 2) CheckLists(*source);
        if (kind == 3) n % 4 < 2 ? CheckOthers(*source) : CheckEvents(*source);
        ++reads[static_cast<size_t>(kind)];
      }
    });
  }
  writer.join();
  ender.join();
  // Each has read what it was to read beside the rest, or reads on.
  (void)Eventually([&] {
    return HasFatalFailure() || std::all_of(reads.begin(), reads.end(), [](const auto& count) { return count > 3; });
  });
  stop = true;
  for (std::thread& reader : readers) reader.join();
  if (HasFatalFailure()) return;
  std::printf("reads: %" PRIu64 " whole, %" PRIu64 " short, %" PRIu64 " lists, %" PRIu64 " texts and events\n",
              reads[0].load(), reads[1].load(), reads[2].load(), reads[3].load());
  for (const auto& count : reads) EXPECT_GT(count, 3u);
  Flush();
  EXPECT_EQ(store_->Counters().dropped, 0u);
  ExpectIdentity(store_->Counters());
  others.push_back(nullptr);
  for (const auto& source : others) {
    const Source& one = source ? *source : main;
    CheckNumbers(one, 5);
    CheckReduced(one, 6);
    CheckOthers(one);
    CheckLists(one);
    CheckEvents(one);
  }
}

}  // namespace
}  // namespace ikkuna::sinks
