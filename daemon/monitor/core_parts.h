// CoreParts: the parts of a daemon that answer clients, and what is said about it.
//
// A plain value. Thread rule: what it refers to takes calls from any thread, and outlives whoever has it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "daemon/graph/memory_budget.h"
#include "daemon/graph/subscriber_set.h"
#include "daemon/graph/work_queue.h"
#include "daemon/ingest/control.h"
#include "daemon/ingest/ingest.h"
#include "daemon/model/recorded.h"
#include "daemon/model/run_store.h"
#include "daemon/model/sink.h"
#include "daemon/monitor/status_monitor.h"
#include "daemon/sinks/store.h"
#include "daemon/sinks/watch_hub.h"

namespace ikkuna {

// What becomes of recorded runs.
struct StoreCalls {
  std::function<Status(const RunKey&)> remove;
  std::function<Status(const RunKey&, const std::vector<std::string>& add, const std::vector<std::string>& remove)> tag;
  std::function<Status(const RunKey&, const std::string& path)> export_file;
  std::function<Result<RunKey>(const std::string& path)> import_file;  // moves it
  std::function<Status(const RunKey&)> can_take;  // kResourceExhausted: values of the run would be dropped now
  std::function<Status(uint64_t bytes)> room;  // kResourceExhausted: there is none for so many more
  std::function<uint64_t()> take_event_id;
  std::function<StoreShown()> show;
};
StoreCalls CallsOf(sinks::Store& store);

struct CoreParts {
  ingest::Ingest* ingest = nullptr;
  ingest::Control* control = nullptr;
  graph::SubscriberSet* subscribers = nullptr;
  graph::WorkQueue* queue = nullptr;
  graph::MemoryBudget* memory = nullptr;
  Recorded* recorded = nullptr;
  RunStore* runs = nullptr;
  StoreCalls store;
  sinks::WatchHub* watch_hub = nullptr;
  std::vector<Sink*> sinks;  // all of them
  // Clients changed what is subscribed: on the thread of the call, after it. For whoever keeps it over restarts.
  std::function<void()> on_subscriptions = nullptr;

  std::string version;
  std::string directory;
  std::string data_directory;
  std::string tensorboard_directory;  // empty: none is written
  std::string health_run;             // empty: none is kept
  std::string staging_directory;      // for files of runs on their way; ours alone; made when missing
  double linger_seconds = 0;
};

}  // namespace ikkuna
