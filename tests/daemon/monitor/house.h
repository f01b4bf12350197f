// House: the middle of a daemon in a folder of its own, all of it real: store, hub, graph, queue, ingest behind the
// probe socket, and the monitor over them. Once more over the same folder it is the daemon after a restart.
#pragma once

#include <gmock/gmock.h>
#include <unistd.h>

#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "daemon/graph/graph.h"
#include "daemon/graph/job_graph.h"
#include "daemon/graph/memory_budget.h"
#include "daemon/graph/subscriber_set.h"
#include "daemon/graph/work_queue.h"
#include "daemon/ingest/acceptor.h"
#include "daemon/ingest/control.h"
#include "daemon/ingest/ingest.h"
#include "daemon/monitor/core_monitor.h"
#include "daemon/sinks/store.h"
#include "daemon/sinks/watch_hub.h"
#include "shared/base/clock.h"
#include "shared/handshake.h"
#include "tests/daemon/ingest/test_producer.h"

namespace ikkuna {

using ingest::Eventually;
using ingest::TempDirectory;
using ingest::TestProducer;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

inline Caller Operator() { return {"token", std::nullopt, Role::kControl}; }
inline Caller Reader(uid_t uid) { return {"uid:" + std::to_string(uid), uid, Role::kRead}; }
inline Caller Me() { return Reader(::getuid()); }
inline Caller Stranger() { return Reader(::getuid() + 4711); }

class House {
 public:
  explicit House(const TempDirectory& temp, const std::vector<std::string>& subscribers = {"loss", "mean(weights)"},
                 uint64_t memory_bytes = 64 << 20, const sinks::StoreOptions& store = {})
      : memory_(memory_bytes) {
    const std::string directory = temp.sub("sockets");
    EXPECT_TRUE(shm::PrepareDirectory(directory, false).ok());
    auto lock = shm::DirectoryLock::Take(directory);
    EXPECT_TRUE(lock.ok()) << (lock.ok() ? "" : lock.error().text);
    if (lock) lock_.emplace(std::move(lock).value());
    OpenStore(temp.sub("data"), store);
    for (const std::string& text : subscribers) {
      const auto added = set_.Add(text, SubscriberSource::kFlag);
      EXPECT_TRUE(added.ok()) << added.error().text;
    }
    OpenJobs();
    OpenIngest(directory);
    CoreParts parts;
    parts.ingest = ingest_.get();
    parts.control = control_.get();
    parts.subscribers = &set_;
    parts.queue = queue_.get();
    parts.memory = &memory_;
    parts.recorded = store_.get();
    parts.runs = store_.get();
    parts.store = CallsOf(*store_);
    parts.watch_hub = &hub_;
    parts.sinks = {store_.get(), &hub_};
    parts.on_subscriptions = [this] { ++subscription_changes_; };
    parts.version = "test";
    parts.data_directory = temp.sub("data");
    parts.staging_directory = temp.sub("staging");
    monitor_ = std::make_unique<CoreMonitor>(std::move(parts));
  }
  ~House() { Stop(); }

  // In the daemon's order.
  void Stop() {
    acceptor_.reset();
    if (ingest_) ingest_->Stop();
    monitor_.reset();
    if (store_) Flush();
    {
      std::lock_guard hold(door_->mutex);
      door_->ingest = nullptr;
    }
    control_.reset();
    ingest_.reset();
    jobs_.reset();
    queue_.reset();
    store_.reset();
    lock_.reset();
  }

  // Until all sinks have what was offered.
  void Flush() {
    const auto deadline = std::chrono::steady_clock::now() + test::kWatchdog;
    EXPECT_TRUE(store_->Flush(deadline).ok());
    EXPECT_TRUE(hub_.Flush(deadline).ok());
  }

  Monitor& monitor() { return monitor_->monitor(); }
  CoreMonitor& core() { return *monitor_; }
  RunMonitor& runs() { return monitor().runs; }
  SeriesMonitor& series() { return monitor().series; }
  sinks::Store& store() { return *store_; }
  sinks::WatchHub& hub() { return hub_; }
  ingest::Ingest& ingest() { return *ingest_; }
  graph::SubscriberSet& set() { return set_; }
  int subscription_changes() const { return subscription_changes_; }

  // A finished run in the store, of which no trainer ever came, with `steps` values of `loss`.
  void Record(const RunKey& key, const std::string& display, int64_t start_unix_ns, uint64_t steps = 1,
              uint32_t uid = ::getuid(), RunState state = RunState::kFinished) {
    ProducerStatus status;
    ProducerInfo& info = status.info;
    for (size_t i = 0; i < 4; ++i) info.uuid[i] = static_cast<unsigned char>(recorded_ >> 8 * i);
    info.uuid[15] = 1;
    ++recorded_;
    info.run_key = key;
    info.run = display;
    info.start_unix_ns = start_unix_ns;
    info.uid = uid;
    auto run = store_->Begin(info);
    ASSERT_TRUE(run.ok()) << run.error().text;
    SeriesName name;
    name.timeline = {"model", "default"};
    name.topic = "loss";
    const uint32_t series = (*run)->series().Intern(name, {});
    for (uint64_t step = 0; step < steps; ++step) {
      auto batch = std::make_shared<Batch>();
      batch->run = *run;
      batch->stamp.timeline = (*run)->series().InternTimeline(name.timeline);
      batch->stamp.step = step;
      batch->stamp.unix_ns = start_unix_ns;
      batch->samples.push_back({series, 0, static_cast<double>(step)});
      store_->Offer(batch);
      hub_.Offer(batch);
      if (step % 10'000 == 9'999) Flush();  // a queue has a bound
    }
    status.state = state;
    store_->SaveProducer(status);
  }

  // Until every record of the producer is handled and what came of it is offered.
  ProducerStatus Settled(TestProducer& producer, RunState state = RunState::kRunning) {
    ProducerStatus settled;
    const uint64_t attempted = shm::LoadAcquire(producer.pub().status().attempted);
    EXPECT_TRUE(Eventually([&] {
      for (const ProducerStatus& status : ingest_->Producers()) {
        if (status.info.uuid != producer.hello().uuid) continue;
        settled = status;
        return status.state == state && status.attempted == attempted && status.in_flight == 0;
      }
      return false;
    })) << "state "
        << RunStateName(settled.state) << ", " << settled.in_flight << " under way";
    return settled;
  }

  // Of one series (by topic, of one run) the values by step, as they are read, all its attempts and ranks together.
  std::map<uint64_t, double> Values(const std::string& run, const std::string& topic, ReadOptions options = {}) {
    options.query.filter.run = run;
    options.query.filter.topic = topic;
    std::map<uint64_t, double> values;
    auto read = series().ReadSamples(options);
    EXPECT_TRUE(read.ok()) << (read ? "" : read.failure().text);
    if (!read) return values;
    while (true) {
      auto part = read->reader->Next();
      EXPECT_TRUE(part.ok());
      if (!part || !*part) return values;
      for (size_t i = 0; i < (*part)->steps.size(); ++i) {
        const bool fresh = values.emplace((*part)->steps[i], (*part)->numbers.at(i)).second;
        EXPECT_TRUE(fresh) << "step " << (*part)->steps[i] << " twice";
      }
    }
  }

 private:
  struct Door {
    std::mutex mutex;
    ingest::Ingest* ingest = nullptr;
  };

  void OpenStore(const std::string& folder, sinks::StoreOptions options) {
    options.data_dir = folder;
    options.host = "here";
    options.free_bytes_min = 0;
    options.on_committed = [door = door_](const RunKey& run, uint64_t done_seq) {
      std::lock_guard hold(door->mutex);
      if (door->ingest != nullptr) door->ingest->OnCommitted(run, done_seq);
    };
    auto store = sinks::Store::Open(options);
    ASSERT_TRUE(store.ok()) << store.error().text;
    store_ = std::move(store).value();
  }
  void OpenJobs() {
    graph::JobParts job;
    job.subscribers = &set_;
    job.memory = &memory_;
    job.queue = queue_.get();
    job.open = [this](const ProducerInfo& all) {
      auto run = store_->Begin(all);
      EXPECT_TRUE(run.ok()) << (run.ok() ? "" : run.error().text);
      return run ? *run : nullptr;
    };
    job.close = [this](const Run& run) {
      ProducerStatus status;
      status.info = *run.info();
      status.state = RunState::kFinished;
      store_->SaveProducer(status);
    };
    job.emit = [this](Batch batch) {
      const auto shared = std::make_shared<Batch>(std::move(batch));
      store_->Offer(shared);
      hub_.Offer(shared);
    };
    jobs_ = std::make_unique<graph::JobGraphs>(std::move(job));
  }
  void OpenIngest(const std::string& directory) {
    ingest::IngestContext context;
    graph::GraphParts graphs;
    graphs.subscribers = &set_;
    graphs.queue = queue_.get();
    graphs.memory = &memory_;
    graphs.jobs = jobs_.get();
    context.make_graph = graph::MakeGraph(graphs);
    context.store = store_.get();
    context.sinks = {store_.get(), &hub_};
    context.budget_ppm = 0;
    context.version = "test";
    ingest_ = std::make_unique<ingest::Ingest>(std::move(context));
    {
      std::lock_guard hold(door_->mutex);
      door_->ingest = ingest_.get();
    }
    control_ = std::make_unique<ingest::Control>(*ingest_);
    ingest::AcceptorOptions door;
    door.directory = directory;
    auto acceptor = ingest::Acceptor::Start(door, *ingest_);
    ASSERT_TRUE(acceptor.ok()) << acceptor.error().text;
    acceptor_ = std::move(acceptor).value();
  }

  static inline uint32_t recorded_ = 1;
  std::optional<shm::DirectoryLock> lock_;
  std::shared_ptr<Door> door_ = std::make_shared<Door>();
  graph::SubscriberSet set_;
  graph::MemoryBudget memory_;
  std::unique_ptr<sinks::Store> store_;
  sinks::WatchHub hub_;
  std::unique_ptr<graph::WorkQueue> queue_ = std::make_unique<graph::WorkQueue>(2, 0);
  std::unique_ptr<graph::JobGraphs> jobs_;
  std::unique_ptr<ingest::Ingest> ingest_;
  std::unique_ptr<ingest::Control> control_;
  std::unique_ptr<ingest::Acceptor> acceptor_;
  std::unique_ptr<CoreMonitor> monitor_;
  int subscription_changes_ = 0;
};

// A trainer that has come in.
inline std::unique_ptr<TestProducer> Trainer(const TempDirectory& temp, const std::string& run_id,
                                             const std::string& display = "test", uint64_t start_step = 0) {
  auto producer = std::make_unique<TestProducer>(temp.sub("sockets"));
  producer->hello().run_id = run_id;
  producer->hello().run = display;
  producer->hello().start_step = start_step;
  producer->hello().resume = start_step > 0;
  producer->Register();
  EXPECT_TRUE(producer->Connect()) << producer->reject();
  return producer;
}
// Steps [from, to), the loss of step s is base + s.
inline void Train(TestProducer& producer, uint64_t from, uint64_t to, float base = 0) {
  for (uint64_t step = from; step < to; ++step) producer.Step(step, base + static_cast<float>(step));
}
inline std::vector<std::string> Keys(const std::vector<RunInfo>& runs) {
  std::vector<std::string> keys;
  for (const RunInfo& run : runs) {
    keys.push_back(run.info.run_key.run_id + "/" + std::to_string(run.info.run_key.attempt) + "/" +
                   std::to_string(run.info.run_key.rank));
  }
  return keys;
}

}  // namespace ikkuna
