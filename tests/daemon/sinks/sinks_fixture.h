// What the tests of the sinks share: a folder that goes away, runs with series, batches.
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

#include "daemon/model/batch.h"
#include "daemon/model/sink.h"
#include "tests/watchdog.h"

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

// Within a test fixture `Run` is GoogleTest's.
using RunPtr = std::shared_ptr<Run>;

inline constexpr int64_t kStartNs = 1'700'000'000'000'000'000;

inline ProducerInfo Producer(const RunKey& run = {"run-1", 0, 0}, unsigned char uuid = 7) {
  ProducerInfo producer;
  producer.uuid[0] = uuid;
  producer.run_key = run;
  producer.run = "fashion";
  producer.world_size = 2;
  producer.pid = 4711;
  producer.uid = 1000;
  producer.start_unix_ns = kStartNs;
  producer.facts = {{"command", "ikkuna-train --model fc | tee log"}, {"lr", "0.01"}};
  return producer;
}

inline std::shared_ptr<Run> NewRun(const RunKey& run = {"run-1", 0, 0}) { return std::make_shared<Run>(Producer(run)); }

inline SeriesName Name(const std::string& topic, const std::string& module = "", const std::string& param = "",
                       const std::string& tag = "default", const std::string& root = "model") {
  return {{root, tag}, module, param, topic};
}

inline uint32_t Intern(Run& run, const SeriesName& name, ValueType type = ValueType::kNumber) {
  SeriesTraits traits;
  traits.type = type;
  return run.series().Intern(name, traits);
}

// Values of one step; the timeline is that of the first series.
inline std::shared_ptr<Batch> BatchOf(const std::shared_ptr<Run>& run, uint64_t step, std::vector<Sample> samples,
                                      std::vector<OtherValue> others = {}) {
  auto batch = std::make_shared<Batch>();
  batch->run = run;
  const uint32_t series = !samples.empty() ? samples[0].series : !others.empty() ? others[0].series : 0;
  if (const auto found = run ? run->series().Find(series) : nullptr) batch->stamp.timeline = found->timeline;
  batch->stamp.step = step;
  batch->stamp.epoch = static_cast<uint32_t>(step / 100);
  // Steps up to 2^64 - 1 are tested; the time may wrap, which only unsigned arithmetic is allowed to.
  batch->stamp.unix_ns = static_cast<int64_t>(uint64_t{kStartNs} + step * 1'000'000);
  batch->stamp.samples_seen = step * 128;
  batch->samples = std::move(samples);
  batch->others = std::move(others);
  return batch;
}

inline Sample Number(uint32_t series, double value) { return {series, 0, value}; }

inline Event EventOf(const std::string& kind, const RunKey& run = {"run-1", 0, 0}) {
  Event event;
  event.unix_ns = kStartNs;
  event.severity = Severity::kWarning;
  event.run = run;
  event.kind = kind;
  event.text = "text of " + kind;
  event.step = 3;
  return event;
}

// Waits for what another thread will bring about. The limit is a watchdog, not an expectation.
inline bool Eventually(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + test::kWatchdog;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

// A deadline that only a hang reaches.
inline std::chrono::steady_clock::time_point Watchdog() {
  return std::chrono::steady_clock::now() + test::kWatchdog;
}

inline void ExpectIdentity(const SinkCounters& counters) {
  EXPECT_EQ(counters.offered, counters.written + counters.dropped + counters.waiting);
  uint64_t dropped = 0;
  for (const Count& drop : counters.drops) dropped += drop.count;
  EXPECT_EQ(counters.dropped, dropped);
}

inline uint64_t DropsFor(const SinkCounters& counters, const std::string& reason) {
  for (const Count& drop : counters.drops) {
    if (drop.reason == reason) return drop.count;
  }
  return 0;
}

}  // namespace ikkuna::sinks
