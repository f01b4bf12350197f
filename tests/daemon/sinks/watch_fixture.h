// What the tests of the watch hub share: a hub, a run with a loss, and what a client makes of updates.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "daemon/sinks/watch_hub.h"
#include "tests/daemon/sinks/sinks_fixture.h"

namespace ikkuna::sinks {

// What a client has put together of updates.
struct View {
  std::map<uint64_t, std::string> runs;                         // number -> run_id
  std::map<std::pair<uint64_t, uint32_t>, std::string> series;  // -> topic
  std::vector<uint64_t> steps;                                  // of each number
  std::vector<std::string> events;
  size_t others = 0;
  uint64_t position = 0;

  void Add(const WatchTaken& taken) {
    for (const auto& update : taken.updates) {
      EXPECT_EQ(update->position == 0, !update->new_series.empty());
      if (update->position > 0) {
        EXPECT_GT(update->position, position);
        position = update->position;
      }
      if (update->run_number > 0) runs[update->run_number] = update->run->run_key.run_id;
      for (const auto& one : update->new_series) {
        EXPECT_TRUE(series.emplace(std::pair(update->run_number, one->id), one->name.topic).second) << "told twice";
      }
      if (!update->batch) continue;
      for (const Sample& sample : update->batch->samples) {
        EXPECT_TRUE(series.contains({update->run_number, sample.series})) << "not announced";
        steps.push_back(update->batch->stamp.step);
      }
      for (const OtherValue& other : update->batch->others) {
        EXPECT_TRUE(series.contains({update->run_number, other.series})) << "not announced";
        ++others;
      }
      for (const Event& event : update->batch->events) events.push_back(event.kind);
    }
  }
  // All that is there.
  WatchTaken Take(Watcher& watcher, size_t values_max = 1'000'000) {
    while (true) {
      WatchTaken taken = watcher.Take(values_max);
      Add(taken);
      if (taken.updates.empty()) return taken;
    }
  }
};

class WatchHubTest : public ::testing::Test {
 protected:
  std::unique_ptr<Watcher> Watch(const SeriesFilter& filter = {}, std::optional<WatchCursor> from = {}) {
    auto watcher = hub_->Watch(filter, from);
    EXPECT_TRUE(watcher.ok()) << (watcher.ok() ? "" : watcher.error().text);
    return *std::move(watcher);
  }
  void Make(size_t past_bytes_max, size_t waiting_bytes_max) {
    WatchOptions options;
    options.past_bytes_max = past_bytes_max;
    options.waiting_bytes_max = waiting_bytes_max;
    hub_ = std::make_unique<WatchHub>(options);
  }
  void Offer(uint64_t step, const RunPtr& run = nullptr) {
    hub_->Offer(BatchOf(run ? run : run_, step, {Number(loss_, 1)}));
  }
  void Flush() { ASSERT_TRUE(hub_->Flush(Watchdog()).ok()); }

  RunPtr run_ = NewRun();
  uint32_t loss_ = Intern(*run_, Name("loss"));
  std::unique_ptr<WatchHub> hub_ = std::make_unique<WatchHub>();
};

}  // namespace ikkuna::sinks
