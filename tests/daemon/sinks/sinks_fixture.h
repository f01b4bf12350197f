// What the tests of the sinks share: a folder that goes away, a catalogue with series, batches.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "daemon/sample.h"
#include "daemon/series_catalogue.h"
#include "daemon/sinks/store.h"

namespace ikkuna::sinks {

class TempDir {
 public:
  TempDir() {
    const char* base = std::getenv("TMPDIR");
    std::string name = std::string(base ? base : "/tmp") + "/ikkuna-sinks-XXXXXX";
    path_ = mkdtemp(name.data()) ? name : "";
    EXPECT_FALSE(path_.empty());
  }
  ~TempDir() {
    std::error_code code;
    if (!path_.empty()) std::filesystem::remove_all(path_, code);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline const RunKey kRun{"run-1", 0, 0};

inline SeriesKey Key(const std::string& topic, const std::string& module = "features.0",
                     const std::string& param = "weight", const RunKey& run = kRun) {
  return {run, "default", "model", module, param, topic};
}

inline std::shared_ptr<ProducerInfo> Producer(unsigned char uuid = 7, const RunKey& run = kRun) {
  auto producer = std::make_shared<ProducerInfo>();
  producer->uuid[0] = uuid;
  producer->run_key = run;
  producer->run = "fashion";
  producer->world_size = 2;
  producer->pid = 4711;
  producer->uid = 1000;
  producer->start_unix_ns = 1'700'000'000'000'000'000;
  producer->facts = {{"command", "ikkuna-train --model fc | tee log"}, {"lr", "0.01"}};
  return producer;
}

inline Sample At(uint64_t series_id, uint64_t step, double value) {
  Sample sample;
  sample.series_id = series_id;
  sample.step = step;
  sample.epoch = static_cast<uint32_t>(step / 100);
  // Steps up to 2^64 - 1 are tested; the time may wrap, which only unsigned arithmetic is allowed to.
  sample.unix_ns = static_cast<int64_t>(1'700'000'000'000'000'000 + step * 1'000'000);
  sample.samples_seen = step * 128;
  sample.value = value;
  return sample;
}

inline std::shared_ptr<Batch> BatchOf(std::vector<Sample> samples, uint64_t done_seq = 0,
                                      std::shared_ptr<const ProducerInfo> producer = Producer()) {
  auto batch = std::make_shared<Batch>();
  batch->samples = std::move(samples);
  if (done_seq > 0) {
    batch->progress.producer = producer->uuid;
    batch->progress.done_seq = done_seq;
  }
  batch->producer = std::move(producer);
  return batch;
}

inline Event EventOf(const std::string& kind, const RunKey& run = kRun) {
  Event event;
  event.unix_ns = 1'700'000'000'000'000'000;
  event.severity = Severity::kWarning;
  event.run = run;
  event.kind = kind;
  event.text = "text of " + kind;
  event.step = 3;
  return event;
}

// Waits for what another thread will bring about. The limit is a watchdog, not an expectation.
inline bool Eventually(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

// A store in a folder of its own, with its catalogue.
class StoreTest : public ::testing::Test {
 protected:
  void Open() {
    catalogue_ = std::make_unique<SeriesCatalogue>();
    options_.data_dir = dir_.path() + "/data";
    auto store = Store::Open(options_, *catalogue_);
    ASSERT_TRUE(store.ok()) << store.error().text;
    store_ = std::move(store).value();
  }
  void Reopen() {
    store_.reset();
    Open();
  }
  uint64_t Intern(const SeriesKey& key) { return catalogue_->Intern(key, "Linear", "1"); }
  void Flush() {
    Status status = store_->Flush();
    ASSERT_TRUE(status.ok()) << status.error().text;
  }
  std::vector<Sample> ReadAll(uint64_t series_id) {
    (void)store_->Flush();
    auto answer = store_->Read({.series_id = series_id, .step_min = {}, .step_max = {}, .max_points = 0});
    EXPECT_TRUE(answer.ok()) << answer.error().text;
    return answer ? answer->samples : std::vector<Sample>();
  }
  SeriesInfo Info(uint64_t series_id) {
    (void)store_->Flush();
    auto list = store_->ListSeries({});
    EXPECT_TRUE(list.ok());
    for (const SeriesInfo& info : *list) {
      if (info.series.id == series_id) return info;
    }
    return {};
  }

  TempDir dir_;
  StoreOptions options_;
  std::unique_ptr<SeriesCatalogue> catalogue_;
  std::unique_ptr<Store> store_;
};

}  // namespace ikkuna::sinks
