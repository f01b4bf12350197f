// What the tests of what leaves the store share: runs of noise, finished at a given time or live.
#pragma once

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/daemon/sinks/store_faults_fixture.h"

namespace ikkuna::sinks {

class StoreRetentionTest : public HeardStoreTest {
 protected:
  // A finished run of noise, which ended at `ended`.
  void Finished(const std::string& id, unsigned char uuid, int64_t ended_ns, uint64_t steps = 3000) {
    const RunKey key{id, 0, 0};
    ProducerInfo info = Producer(key, uuid);
    info.start_unix_ns = ended_ns;
    run_ = *store_->Begin(info);
    const uint32_t a = Series("a");
    for (uint64_t step = 0; step < steps; ++step) {
      auto batch = BatchOf(run_, step, {{a, 0, noise_(random_)}});
      batch->stamp.unix_ns = ended_ns;
      store_->Offer(batch);
    }
    Flush();
    ProducerStatus status;
    status.info = info;
    status.state = RunState::kFinished;
    store_->SaveProducer(status);
    ASSERT_TRUE(Eventually([&] { return !std::filesystem::exists(file(key) + "-wal"); }));
  }
  // A live run of 64 series of noise, written.
  void FillSixtyFour(uint64_t steps) {
    options_.tail_bytes_max = 1 << 20;
    OpenStore();
    Begin();
    std::vector<uint32_t> ids;
    for (uint32_t i = 0; i < 64; ++i) ids.push_back(Series("s" + std::to_string(i)));
    for (uint64_t step = 0; step < steps; ++step) {
      std::vector<Sample> samples;
      for (uint32_t id : ids) samples.push_back({id, 0, noise_(random_)});
      store_->Offer(BatchOf(run_, step, std::move(samples)));
    }
    Flush();
  }
  // A run of noise that is live, and takes so many values more.
  void Grow(const RunPtr& run, uint64_t from, uint64_t steps) {
    const RunPtr other = std::exchange(run_, run);
    const uint32_t a = Series("a");
    for (uint64_t step = from; step < from + steps; ++step) Put(a, step, noise_(random_));
    Flush();
    run_ = other;
  }
  std::vector<std::string> Ids() {
    std::vector<std::string> ids;
    const auto runs = store_->ListRuns();
    for (const RunInfo& run : *runs) ids.push_back(run.info.run_key.run_id);
    std::sort(ids.begin(), ids.end());
    return ids;
  }
  static int64_t Now() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch())
        .count();
  }

  std::mt19937_64 random_{7};
  std::normal_distribution<double> noise_;
};

}  // namespace ikkuna::sinks
