// TestCore: the daemon from probe socket to store, without service and TensorBoard.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "daemon/graph/subscriber_set.h"
#include "daemon/ingest/acceptor.h"
#include "daemon/ingest/ingest.h"
#include "daemon/series_catalogue.h"
#include "daemon/sinks/store.h"
#include "tests/daemon/ingest/test_producer.h"

namespace ikkuna::ingest {

class TestCore {
 public:
  TestCore(const std::string& directory, const std::string& data, AcceptorOptions options = {},
           const std::string& subscribers = "loss(); mean(weights)",
           decltype(IngestContext::make_sources) make_sources = {}, SampleSink* witness = nullptr)
      : directory_(directory) {
    EXPECT_TRUE(shm::PrepareDirectory(directory, false).ok());
    auto lock = shm::DirectoryLock::Take(directory);
    EXPECT_TRUE(lock.ok()) << lock.error().text;
    if (lock) lock_.emplace(std::move(lock).value());
    sinks::StoreOptions store_options;
    store_options.data_dir = data;
    store_options.on_committed = [this](const Uuid& uuid, uint64_t seq) {
      if (auto* ingest = ingest_pointer_.load()) ingest->OnCommitted(uuid, seq);
    };
    auto store = sinks::Store::Open(store_options, catalogue_);
    EXPECT_TRUE(store.ok()) << store.error().text;
    store_ = std::move(store).value();
    auto added = subscribers_.Add(subscribers, graph::Source::kFlag);
    EXPECT_TRUE(added.ok()) << added.error().text;
    IngestContext context;
    context.catalogue = &catalogue_;
    context.subscribers = &subscribers_;
    context.store = store_.get();
    context.sinks = {store_.get()};
    if (witness != nullptr) context.sinks.push_back(witness);
    context.version = "test";
    context.make_sources = std::move(make_sources);
    ingest_ = std::make_unique<Ingest>(context);
    ingest_pointer_.store(ingest_.get());
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
    if (store_) {
      auto flushed = store_->Flush();
      EXPECT_TRUE(flushed.ok()) << flushed.error().text;
    }
    ingest_pointer_.store(nullptr);
    ingest_.reset();
    store_.reset();
    lock_.reset();
  }

  Ingest& ingest() { return *ingest_; }
  Acceptor& acceptor() { return *acceptor_; }
  sinks::Store& store() { return *store_; }
  graph::SubscriberSet& subscribers() { return subscribers_; }

  ProducerStatus StatusOf(const std::array<unsigned char, 16>& uuid) {
    for (const auto& status : ingest_->Producers()) {
      if (status.info.uuid == uuid) return status;
    }
    ADD_FAILURE() << "the producer is not listed";
    return {};
  }
  // Value by step of the one series with this topic; empty: there is none.
  std::map<uint64_t, double> Values(const std::string& topic) {
    EXPECT_TRUE(store_->Flush().ok());
    SeriesFilter filter;
    filter.topic = topic;
    auto series = store_->ListSeries(filter);
    EXPECT_TRUE(series.ok()) << series.error().text;
    std::map<uint64_t, double> values;
    if (!series || series->empty()) return values;
    EXPECT_EQ(series->size(), 1u);
    auto answer = store_->Read({series->front().series.id, {}, {}, 0});
    EXPECT_TRUE(answer.ok()) << answer.error().text;
    if (!answer) return values;
    for (const Sample& sample : answer->samples) values[sample.step] = sample.value;
    return values;
  }
  // Events of a kind so far.
  std::vector<Event> Events(const std::string& kind) {
    EXPECT_TRUE(store_->Flush().ok());
    auto events = store_->ListEvents({});
    EXPECT_TRUE(events.ok()) << events.error().text;
    std::vector<Event> found;
    if (!events) return found;
    for (const Event& event : *events) {
      if (event.kind == kind) found.push_back(event);
    }
    return found;
  }

 private:
  const std::string directory_;
  std::optional<shm::DirectoryLock> lock_;
  SeriesCatalogue catalogue_;
  graph::SubscriberSet subscribers_;
  std::unique_ptr<sinks::Store> store_;
  std::atomic<Ingest*> ingest_pointer_{nullptr};
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
