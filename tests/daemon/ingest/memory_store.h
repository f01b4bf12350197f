// MemoryStore: what ingest needs of a store and of a sink, in memory; outlives daemons, as files do.
//
// Thread rule: any thread. A kill of the daemon is played by Crash(): what was offered since the last Commit() is gone.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "daemon/model/run_store.h"
#include "daemon/model/sink.h"

namespace ikkuna::ingest {

class MemoryStore : public RunStore, public Sink {
 public:
  Result<std::vector<ProducerStatus>> LoadProducers() override {
    std::lock_guard lock(mutex_);
    std::vector<ProducerStatus> all;
    for (const auto& [key, file] : files_) {
      if (unreadable_.contains(key)) continue;
      ProducerStatus status = file.status;
      CatchUp(status, file.progress);
      all.push_back(status);
    }
    std::sort(all.begin(), all.end(),
              [](const auto& a, const auto& b) { return a.info.start_unix_ns < b.info.start_unix_ns; });
    return all;
  }
  std::vector<ProducerStatus> TakeFound() override {
    std::lock_guard lock(mutex_);
    if (failures_ > 0 && failures_-- > 0) throw std::bad_alloc();
    std::vector<ProducerStatus> found;
    for (const RunKey& key : std::exchange(found_, {})) {
      found.push_back(files_[key].status);
      CatchUp(found.back(), files_[key].progress);
    }
    return found;
  }
  std::optional<Progress> LoadProgress(const RunKey& run) override {
    std::lock_guard lock(mutex_);
    const auto file = files_.find(run);
    if (file == files_.end()) return std::nullopt;
    return file->second.progress;
  }
  Result<std::shared_ptr<Run>> Begin(const ProducerInfo& producer) override {
    std::lock_guard lock(mutex_);
    if (unreadable_.contains(producer.run_key)) {
      return Error{waits_ ? ErrorCode::kUnavailable : ErrorCode::kAlreadyExists, "the file cannot be read"};
    }
    const auto [file, fresh] = files_.try_emplace(producer.run_key);
    if (!fresh && file->second.status.info.uuid != producer.uuid) {
      return Error{ErrorCode::kAlreadyExists, "the file is another's"};
    }
    file->second.status.info = producer;
    return std::make_shared<Run>(producer);
  }
  void SaveProducer(const ProducerStatus& status) override {
    std::lock_guard lock(mutex_);
    if (!statuses_held_) files_[status.info.run_key].status = status;
  }
  void SaveModules(const RunKey& run, std::vector<ModuleInfo> modules) override {
    std::lock_guard lock(mutex_);
    files_[run].modules = std::move(modules);
  }

  std::string name() const override { return "memory"; }
  void Offer(std::shared_ptr<const Batch> batch) override {
    std::lock_guard lock(mutex_);
    if (crashed_) return;
    for (const Event& event : batch->events) events_.push_back(event);
    if (!batch->run) return;
    File& file = files_[batch->run->key()];
    for (const Sample& sample : batch->samples) {
      const auto series = batch->run->series().Find(sample.series);
      file.values[series->name.topic][batch->stamp.step] = sample.value;
    }
    if (batch->progress) file.progress = *batch->progress;
  }
  SinkCounters Counters() const override { return {}; }
  Status Flush(std::chrono::steady_clock::time_point) override { return {}; }
  void Close() override {}

  // Nothing that is offered from now on is kept, until Revive().
  void Crash() {
    std::lock_guard lock(mutex_);
    crashed_ = true;
  }
  void Revive() {
    std::lock_guard lock(mutex_);
    crashed_ = statuses_held_ = false;
  }
  // The next so many looks for what was found throw.
  void FailToLook(int times) {
    std::lock_guard lock(mutex_);
    failures_ = times;
  }
  bool fails_to_look() {
    std::lock_guard lock(mutex_);
    return failures_ > 0;
  }
  // Results go on being kept, the producer's own counters are as old as they are now, until Revive(): a daemon that is
  // killed leaves them like this.
  void HoldStatuses() {
    std::lock_guard lock(mutex_);
    statuses_held_ = true;
  }

  // The run's file cannot be read. `waits`: its producer is asked to come again, not to take another key.
  void Hide(const RunKey& key, bool waits) {
    std::lock_guard lock(mutex_);
    unreadable_.insert(key);
    waits_ = waits;
  }
  void Reveal(const RunKey& key) {
    std::lock_guard lock(mutex_);
    unreadable_.erase(key);
    found_.push_back(key);
  }
  ProducerStatus Saved(const RunKey& key) {
    std::lock_guard lock(mutex_);
    return files_[key].status;
  }

  std::map<uint64_t, double> Values(const std::string& topic) {
    std::lock_guard lock(mutex_);
    std::map<uint64_t, double> all;
    for (const auto& [key, file] : files_) {
      const auto values = file.values.find(topic);
      if (values != file.values.end()) all.insert(values->second.begin(), values->second.end());
    }
    return all;
  }
  std::map<uint64_t, double> Values(const RunKey& run, const std::string& topic) {
    std::lock_guard lock(mutex_);
    return files_[run].values[topic];
  }
  std::vector<Event> Events(const std::string& kind) {
    std::lock_guard lock(mutex_);
    std::vector<Event> found;
    for (const Event& event : events_) {
      if (event.kind == kind) found.push_back(event);
    }
    return found;
  }
  std::vector<ModuleInfo> Modules(const RunKey& run) {
    std::lock_guard lock(mutex_);
    return files_[run].modules;
  }
  std::vector<RunKey> Keys() {
    std::lock_guard lock(mutex_);
    std::vector<RunKey> keys;
    for (const auto& [key, file] : files_) keys.push_back(key);
    return keys;
  }

 private:
  struct File {
    ProducerStatus status;
    Progress progress;
    std::vector<ModuleInfo> modules;
    std::map<std::string, std::map<uint64_t, double>> values;  // by topic, by step
  };
  std::mutex mutex_;
  // Guarded by mutex_.
  std::map<RunKey, File> files_;
  std::vector<Event> events_;
  std::set<RunKey> unreadable_;
  std::vector<RunKey> found_;
  int failures_ = 0;
  bool waits_ = false;
  bool crashed_ = false;
  bool statuses_held_ = false;
};

}  // namespace ikkuna::ingest
