// TestCore: ingest from the probe socket to its sinks, with a graph and a store of the tests.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "daemon/ingest/acceptor.h"
#include "daemon/ingest/ingest.h"
#include "tests/daemon/ingest/memory_store.h"
#include "tests/daemon/ingest/step_graph.h"
#include "tests/daemon/ingest/test_producer.h"

namespace ikkuna::ingest {

class TestCore {
 public:
  // The store outlives the core where a daemon is to follow.
  explicit TestCore(const std::string& directory, std::shared_ptr<MemoryStore> store = std::make_shared<MemoryStore>(),
                    AcceptorOptions options = {}, decltype(IngestContext::make_sources) make_sources = {},
                    uint64_t unseen_grace_ns = IngestContext{}.unseen_grace_ns,
                    uint64_t unready_ns = IngestContext{}.unready_ns)
      : store_(std::move(store)) {
    EXPECT_TRUE(shm::PrepareDirectory(directory, false).ok());
    auto lock = shm::DirectoryLock::Take(directory);
    EXPECT_TRUE(lock.ok()) << lock.error().text;
    if (lock) lock_.emplace(std::move(lock).value());
    IngestContext context;
    context.make_graph = [knobs = knobs_](std::shared_ptr<Run> run, std::function<void(Batch)> emit) {
      return std::make_unique<StepGraph>(std::move(run), std::move(emit), knobs);
    };
    context.store = store_.get();
    context.sinks = {store_.get()};
    context.version = "test";
    context.unseen_grace_ns = unseen_grace_ns;
    context.unready_ns = unready_ns;
    context.make_sources = std::move(make_sources);
    ingest_ = std::make_unique<Ingest>(context);
    options.directory = directory;
    auto acceptor = Acceptor::Start(options, *ingest_);
    EXPECT_TRUE(acceptor.ok()) << acceptor.error().text;
    if (acceptor) acceptor_ = std::move(acceptor).value();
  }
  ~TestCore() { Stop(); }

  // In the daemon's order.
  void Stop() {
    acceptor_.reset();
    if (ingest_) ingest_->Stop();
    ingest_.reset();
    lock_.reset();
  }

  Ingest& ingest() { return *ingest_; }
  Acceptor& acceptor() { return *acceptor_; }
  MemoryStore& store() { return *store_; }
  GraphKnobs& knobs() { return *knobs_; }

  ProducerStatus StatusOf(const std::array<unsigned char, 16>& uuid) {
    for (const auto& status : ingest_->Producers()) {
      if (status.info.uuid == uuid) return status;
    }
    ADD_FAILURE() << "the producer is not listed";
    return {};
  }
  std::map<uint64_t, double> Values(const std::string& topic) { return store_->Values(topic); }
  std::vector<Event> Events(const std::string& kind) { return store_->Events(kind); }

 private:
  std::shared_ptr<MemoryStore> store_;
  std::shared_ptr<GraphKnobs> knobs_ = std::make_shared<GraphKnobs>();
  std::optional<shm::DirectoryLock> lock_;
  std::unique_ptr<Ingest> ingest_;
  std::unique_ptr<Acceptor> acceptor_;
};

// The accounting identity of the design, in records, at rest.
inline void ExpectBalanced(const ProducerStatus& status) {
  EXPECT_EQ(status.handled + status.dropped_total + status.lost_in_daemon + status.killed, status.attempted)
      << "handled " << status.handled << " dropped " << status.dropped_total << " lost " << status.lost_in_daemon
      << " killed " << status.killed;
  EXPECT_EQ(status.in_flight, 0u);
}

}  // namespace ikkuna::ingest
