// A store in a folder of its own, with a run.
#pragma once

#include <cmath>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "daemon/sinks/store.h"
#include "daemon/sinks/stored_runs.h"
#include "tests/daemon/sinks/sinks_fixture.h"

namespace ikkuna::sinks {

inline const RunKey kRun{"run-1", 0, 0};

// Keeps the store's thread in the commit of one run for as long as this wants.
class Gate {
 public:
  void Close() {
    std::lock_guard lock(mutex_);
    closed_ = true;
  }
  void Open() {
    std::lock_guard lock(mutex_);
    closed_ = false;
    changed_.notify_all();
  }
  void Pass() {
    std::unique_lock lock(mutex_);
    waits_ = closed_;
    changed_.wait_for(lock, test::kWatchdog, [&] { return !closed_; });
    waits_ = false;
  }
  bool Waits() {
    std::lock_guard lock(mutex_);
    return waits_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool closed_ = false, waits_ = false;
};

class StoreTest : public ::testing::Test {
 protected:
  static auto Soon() { return std::chrono::steady_clock::now() + test::kWatchdog; }

  void OpenStore() {
    options_.data_dir = dir_.path() + "/data";
    options_.host = "here";
    auto store = Store::Open(options_);
    ASSERT_TRUE(store.ok()) << store.error().text;
    store_ = std::move(store).value();
  }
  void Begin(const RunKey& key = kRun, unsigned char uuid = 7) {
    auto run = store_->Begin(Producer(key, uuid));
    ASSERT_TRUE(run.ok()) << run.error().text;
    run_ = *run;
  }
  void OpenAndBegin() {
    OpenStore();
    Begin();
  }
  void Reopen() {
    run_.reset();
    store_.reset();
    OpenStore();
  }
  void Flush() {
    Status flushed = store_->Flush(Soon());
    ASSERT_TRUE(flushed.ok()) << flushed.error().text;
  }
  uint32_t Series(const std::string& topic, ValueType type = ValueType::kNumber,
                  Precision precision = Precision::kDouble, const std::string& module = "features.0") {
    SeriesTraits traits;
    traits.type = type;
    traits.precision = precision;
    traits.module_type = "Linear";
    traits.unit = "1";
    return run_->series().Intern(Name(topic, module), traits);
  }
  // One number at one step.
  void Put(uint32_t series, uint64_t step, double value, uint64_t done_seq = 0) {
    auto batch = BatchOf(run_, step, {{series, 0, value}});
    if (done_seq > 0) batch->progress = Progress{done_seq, 0, 0};
    store_->Offer(batch);
  }
  std::string file(const RunKey& key = kRun) const {
    return dir_.path() + "/data/runs/here/" + key.run_id + ".a" + std::to_string(key.attempt) + ".r" +
           std::to_string(key.rank) + ".run";
  }
  // The run is over, and its file at rest.
  void EndRun(RunState state = RunState::kFinished, const RunKey& key = kRun) {
    ProducerStatus status;
    status.info = Producer(key);
    status.state = state;
    store_->SaveProducer(status);
    // Its log goes a moment before the lock does: then another process may read it.
    ASSERT_TRUE(Eventually(
        [&] { return !std::filesystem::exists(file(key) + "-wal") && StoredRuns::Open(file(key)).ok(); }));
  }

  static std::vector<SeriesColumns> ReadFrom(Recorded& recorded, const ReadQuery& query) {
    std::vector<SeriesColumns> parts;
    auto reader = recorded.Read(query);
    EXPECT_TRUE(reader.ok()) << (reader.ok() ? "" : reader.error().text);
    if (!reader) return parts;
    for (;;) {
      auto part = (*reader)->Next();
      EXPECT_TRUE(part.ok()) << (part.ok() ? "" : part.error().text);
      if (!part || !*part) return parts;
      EXPECT_EQ((*part)->steps.size(), (*part)->unix_ns.size());
      EXPECT_LE((*part)->steps.size(), SeriesReader::kPointsMax);
      parts.push_back(**std::move(part));
    }
  }
  // One series as one.
  static SeriesColumns ReadOne(Recorded& recorded, const std::string& topic, ReadQuery query = {}) {
    query.filter.topic = topic;
    SeriesColumns all;
    for (SeriesColumns& part : ReadFrom(recorded, query)) {
      all.run = part.run;
      all.series = part.series;
      auto append = [](auto& to, auto& from) { to.insert(to.end(), from.begin(), from.end()); };
      append(all.steps, part.steps);
      append(all.epochs, part.epochs);
      append(all.unix_ns, part.unix_ns);
      append(all.samples_seen, part.samples_seen);
      append(all.flags, part.flags);
      append(all.numbers, part.numbers);
      append(all.others, part.others);
      all.reduced = all.reduced || part.reduced;
      all.thinned = all.thinned || part.thinned;
    }
    return all;
  }
  SeriesColumns ReadOne(const std::string& topic, ReadQuery query = {}) {
    return ReadOne(*store_, topic, std::move(query));
  }
  std::optional<SeriesInfo> Info(const std::string& topic) {
    SeriesQuery query;
    query.filter.topic = topic;
    auto page = store_->ListSeries(query);
    EXPECT_TRUE(page.ok()) << (page.ok() ? "" : page.error().text);
    if (!page || page->series.size() != 1) return std::nullopt;
    return page->series[0];
  }

  void TakeLimitsAway() {
    options_.free_bytes_min = 0;
    options_.free_bytes_pause = 0;
    options_.bytes_max = 0;
  }

  TempDir dir_;
  StoreOptions options_;
  RunPtr run_;
  std::unique_ptr<Store> store_;
};

// A store without limits, of which each event is heard.
class HeardStoreTest : public StoreTest {
 protected:
  HeardStoreTest() {
    TakeLimitsAway();
    options_.on_event = [this](const Event& event) {
      std::lock_guard lock(said_mutex_);
      said_.push_back(event);
    };
  }
  ~HeardStoreTest() override { store_.reset(); }  // it speaks to what stands here

  std::vector<std::string> TextsOf(const std::string& kind) {
    std::lock_guard lock(said_mutex_);
    std::vector<std::string> texts;
    for (const Event& event : said_) {
      if (event.kind == kind) texts.push_back(event.text);
    }
    return texts;
  }
  size_t Said(const std::string& kind) { return TextsOf(kind).size(); }
  // Of the first; empty: there was none.
  std::string TextOf(const std::string& kind) {
    const std::vector<std::string> texts = TextsOf(kind);
    return texts.empty() ? "" : texts.front();
  }

  std::mutex said_mutex_;
  std::vector<Event> said_;  // guarded by said_mutex_
};

}  // namespace ikkuna::sinks
