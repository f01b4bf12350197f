// A Server over a CoreMonitor with a store, a hub, subscribers and an ingest without producers: runs are begun in the
// store, and their values offered to every sink, as the graph does.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "daemon/graph/graph.h"
#include "daemon/monitor/core_monitor.h"
#include "tests/daemon/service/service_fixture.h"

namespace ikkuna::test {

class CoreTest : public ServiceTest {
 protected:
  using RunPtr = std::shared_ptr<ikkuna::Run>;  // within a fixture `Run` is GoogleTest's

  ~CoreTest() override {
    server_.reset();
    core_.reset();
    control_.reset();
    ingest_.reset();
  }

  Monitor& monitor() override {
    if (!core_) MakeCore();
    return core_->monitor();
  }

  RunPtr BeginRun(const std::string& run_id, uint32_t attempt = 0, uint32_t rank = 0, const std::string& name = "") {
    monitor();
    ProducerInfo producer;
    producer.uuid = {static_cast<unsigned char>(++begun_), 1};
    producer.run_key = {run_id, attempt, rank};
    producer.run = name.empty() ? run_id : name;
    producer.uid = ::geteuid();
    producer.start_unix_ns = 1'700'000'000'000'000'000 + begun_;
    Result<RunPtr> run = store_->Begin(producer);
    EXPECT_TRUE(run.ok()) << (run.ok() ? "" : run.error().text);
    ProducerStatus status;
    status.info = producer;
    store_->SaveProducer(status);
    return *run;
  }
  void EndRun(const RunPtr& run) {
    ProducerStatus status;
    status.info = *run->info();
    status.state = RunState::kFinished;
    store_->SaveProducer(status);
    Flush();
  }
  static uint32_t Intern(const RunPtr& run, const std::string& topic, ValueType type = ValueType::kNumber,
                         const std::string& module = "") {
    SeriesTraits traits;
    traits.type = type;
    return run->series().Intern({{"model", "default"}, module, "", topic}, traits);
  }
  void Offer(const RunPtr& run, uint64_t step, std::vector<Sample> samples, std::vector<OtherValue> others = {},
             std::vector<Event> events = {}) {
    auto batch = std::make_shared<Batch>();
    batch->run = run;
    if (!samples.empty() || !others.empty()) {
      batch->stamp.timeline = run->series().InternTimeline({"model", "default"});
      batch->stamp.step = step;
      batch->stamp.epoch = static_cast<uint32_t>(step / 100);
      batch->stamp.unix_ns = 1'700'000'000'000'000'000 + static_cast<int64_t>(step) * 1'000'000;
      batch->stamp.samples_seen = step * 128;
    }
    batch->samples = std::move(samples);
    batch->others = std::move(others);
    batch->events = std::move(events);
    store_->Offer(batch);
    hub_->Offer(batch);
  }
  void Flush() {
    const auto soon = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    ASSERT_TRUE(store_->Flush(soon).ok());
    ASSERT_TRUE(hub_->Flush(soon).ok());
  }

  std::unique_ptr<sinks::Store> store_;
  std::unique_ptr<sinks::WatchHub> hub_;
  graph::SubscriberSet subscribers_;
  std::unique_ptr<ingest::Ingest> ingest_;
  std::unique_ptr<ingest::Control> control_;
  std::unique_ptr<CoreMonitor> core_;
  sinks::WatchOptions watch_options_;

 private:
  void MakeCore() {
    sinks::StoreOptions options;
    options.data_dir = dir_.path() + "/data";
    options.host = "here";
    options.free_bytes_min = 0;
    auto store = sinks::Store::Open(options);
    if (!store) FAIL() << store.error().text;
    store_ = *std::move(store);
    hub_ = std::make_unique<sinks::WatchHub>(watch_options_);
    ingest::IngestContext context;
    graph::GraphParts graph;
    graph.subscribers = &subscribers_;
    context.make_graph = graph::MakeGraph(std::move(graph));
    context.store = store_.get();
    context.sinks = {store_.get(), hub_.get()};
    ingest_ = std::make_unique<ingest::Ingest>(std::move(context));
    control_ = std::make_unique<ingest::Control>(*ingest_);
    CoreParts parts;
    parts.ingest = ingest_.get();
    parts.control = control_.get();
    parts.subscribers = &subscribers_;
    parts.recorded = store_.get();
    parts.runs = store_.get();
    parts.store = CallsOf(*store_);
    parts.watch_hub = hub_.get();
    parts.sinks = {store_.get(), hub_.get()};
    parts.version = "1.2.3";
    parts.directory = dir_.path();
    parts.data_directory = dir_.path() + "/data";
    parts.staging_directory = dir_.path() + "/staging";
    core_ = std::make_unique<CoreMonitor>(std::move(parts));
  }

  int begun_ = 0;
};

}  // namespace ikkuna::test
