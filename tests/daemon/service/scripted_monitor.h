// ScriptedMonitor: a Monitor whose answers a test writes down, for the tests of the service and of the client.
//
// Thread rule: fill the public members before the server starts; what is recorded of calls is read through accessors.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "daemon/monitor.h"

namespace ikkuna::test {

// What the test pushes, bounded as a watcher of the daemon is: the oldest samples go, counted.
class WatchQueue {
 public:
  explicit WatchQueue(size_t samples_max) : samples_max_(samples_max) {}

  void Push(std::vector<Series> series, std::vector<Sample> samples, std::vector<Event> events = {}) {
    std::function<void()> wake_up;
    {
      std::lock_guard lock(mutex_);
      series_.insert(series_.end(), series.begin(), series.end());
      samples_.insert(samples_.end(), samples.begin(), samples.end());
      events_.insert(events_.end(), events.begin(), events.end());
      for (; samples_.size() > samples_max_; ++dropped_) samples_.pop_front();
      wake_up = wake_up_;
    }
    if (wake_up) wake_up();
  }

  WatchUpdate Take(size_t samples_max) {
    std::lock_guard lock(mutex_);
    WatchUpdate update;
    update.new_series = std::exchange(series_, {});
    update.events = std::exchange(events_, {});
    size_t count = std::min(samples_max, samples_.size());
    update.samples.assign(samples_.begin(), samples_.begin() + static_cast<std::ptrdiff_t>(count));
    samples_.erase(samples_.begin(), samples_.begin() + static_cast<std::ptrdiff_t>(count));
    update.dropped = dropped_;
    return update;
  }

  void SetWakeUp(std::function<void()> wake_up) {
    std::lock_guard lock(mutex_);
    wake_up_ = std::move(wake_up);
  }

  size_t waiting() {
    std::lock_guard lock(mutex_);
    return samples_.size();
  }

 private:
  const size_t samples_max_;
  std::mutex mutex_;
  // Guarded by mutex_.
  std::vector<Series> series_;
  std::deque<Sample> samples_;
  std::vector<Event> events_;
  uint64_t dropped_ = 0;
  std::function<void()> wake_up_;
};

class ScriptedMonitor final : public Monitor {
 public:
  DaemonStatus status;
  std::vector<RunInfo> runs;
  std::vector<ModuleInfo> modules;
  std::vector<MetricInfo> metrics;
  std::vector<SeriesInfo> series;
  std::vector<Sample> samples;  // of every series
  bool reduced = false;
  std::vector<Event> events;
  std::vector<SubscriberInfo> subscribers;
  std::vector<SubscriberInfo> replaced;  // by what is subscribed, and back when it is unsubscribed
  std::vector<std::string> warnings;
  std::string control_text = "will be done at the next step";
  std::optional<Error> failure;                                 // of every call that can fail
  std::function<void()> before_read;                            // runs inside Read, such as a wait or a throw
  std::function<Result<ControlAnswer>(const RunKey&)> control;  // instead of control_text
  size_t watch_queue_max = 1000;

  // What the calls were given.
  std::vector<std::string> log() {
    std::lock_guard lock(mutex_);
    return log_;
  }
  SeriesFilter last_filter() {
    std::lock_guard lock(mutex_);
    return last_filter_;
  }
  ReadQuery last_read() {
    std::lock_guard lock(mutex_);
    return last_read_;
  }
  EventQuery last_events() {
    std::lock_guard lock(mutex_);
    return last_events_;
  }

  // The n-th watch from the start, waiting until it has begun; null after a minute.
  std::shared_ptr<WatchQueue> watch(size_t n) {
    std::unique_lock lock(mutex_);
    watched_.wait_for(lock, std::chrono::minutes(1), [&] { return watches_.size() > n; });
    return watches_.size() > n ? watches_[n] : nullptr;
  }
  size_t watches_alive() {
    std::lock_guard lock(mutex_);
    return alive_;
  }

  DaemonStatus GetStatus() override { return status; }
  Result<std::vector<RunInfo>> ListRuns() override { return Or(runs); }
  Result<std::vector<ModuleInfo>> ListModules(const RunKey& run) override {
    Note("modules " + Text(run));
    return Or(modules);
  }
  std::vector<MetricInfo> ListMetrics() override { return metrics; }
  Result<std::vector<SeriesInfo>> ListSeries(const SeriesFilter& filter) override {
    {
      std::lock_guard lock(mutex_);
      last_filter_ = filter;
    }
    std::vector<SeriesInfo> found;
    for (const SeriesInfo& info : series) {
      if (Matches(filter, info.series.key)) found.push_back(info);
    }
    return Or(found);
  }
  Result<ReadAnswer> Read(const ReadQuery& query) override {
    if (before_read) before_read();
    {
      std::lock_guard lock(mutex_);
      last_read_ = query;
    }
    for (const SeriesInfo& info : series) {
      if (info.series.id != query.series_id) continue;
      ReadAnswer answer{info.series, {}, reduced};
      for (Sample sample : samples) {
        if (query.step_min && sample.step < *query.step_min) continue;
        if (query.step_max && sample.step > *query.step_max) continue;
        sample.series_id = info.series.id;
        answer.samples.push_back(sample);
      }
      return Or(answer);
    }
    return Error{ErrorCode::kNotFound, "there is no series " + std::to_string(query.series_id)};
  }
  Result<std::vector<Event>> ListEvents(const EventQuery& query) override {
    std::lock_guard lock(mutex_);
    last_events_ = query;
    std::vector<Event> found;
    for (const Event& event : events) {
      if (event.id > query.after_id && found.size() < query.limit) found.push_back(event);
    }
    return Or(found);
  }
  Result<std::unique_ptr<Watcher>> Watch(const SeriesFilter& filter) override {
    std::lock_guard lock(mutex_);
    last_filter_ = filter;
    if (failure) return *failure;
    watches_.push_back(std::make_shared<WatchQueue>(watch_queue_max));
    ++alive_;
    watched_.notify_all();
    return std::unique_ptr<Watcher>(new ScriptedWatcher(*this, watches_.back()));
  }
  std::vector<SubscriberInfo> ListSubscribers() override { return subscribers; }
  Result<SubscribeAnswer> Subscribe(const std::string& text) override {
    Note("subscribe " + text);
    return Or(SubscribeAnswer{subscribers, replaced, warnings});
  }
  Result<UnsubscribeAnswer> Unsubscribe(const std::string& what) override {
    Note("unsubscribe " + what);
    return Or(UnsubscribeAnswer{subscribers, replaced});
  }
  Result<ControlAnswer> Freeze(const RunKey& run, const std::string& module_pattern, bool freeze) override {
    Note((freeze ? "freeze " : "unfreeze ") + Text(run) + " " + module_pattern);
    return control ? control(run) : Or(ControlAnswer{control_text});
  }
  Result<ControlAnswer> Stop(const RunKey& run) override {
    Note("stop " + Text(run));
    return control ? control(run) : Or(ControlAnswer{control_text});
  }

 private:
  class ScriptedWatcher final : public Watcher {
   public:
    ScriptedWatcher(ScriptedMonitor& owner, std::shared_ptr<WatchQueue> queue)
        : owner_(owner), queue_(std::move(queue)) {}
    ~ScriptedWatcher() override {
      queue_->SetWakeUp(nullptr);
      std::lock_guard lock(owner_.mutex_);
      --owner_.alive_;
    }
    WatchUpdate Take(size_t samples_max) override { return queue_->Take(samples_max); }
    void SetWakeUp(std::function<void()> wake_up) override { queue_->SetWakeUp(std::move(wake_up)); }

   private:
    ScriptedMonitor& owner_;
    std::shared_ptr<WatchQueue> queue_;
  };

  // A pattern is a text, or a text with `*` at its end: enough for what the tests ask.
  static bool Like(const std::string& pattern, const std::string& text) {
    if (pattern.empty()) return true;
    if (pattern.back() == '*') return text.compare(0, pattern.size() - 1, pattern, 0, pattern.size() - 1) == 0;
    return pattern == text;
  }
  static bool Matches(const SeriesFilter& filter, const SeriesKey& key) {
    return Like(filter.run_id, key.run.run_id) && (!filter.attempt || *filter.attempt == key.run.attempt) &&
           (!filter.rank || *filter.rank == key.run.rank) && Like(filter.tag, key.tag) && Like(filter.root, key.root) &&
           Like(filter.module, key.module) && Like(filter.param, key.param) && Like(filter.topic, key.topic);
  }
  static std::string Text(const RunKey& run) {
    return run.run_id + "/" + std::to_string(run.attempt) + "/" + std::to_string(run.rank);
  }
  template <typename T>
  Result<T> Or(T value) const {
    if (failure) return *failure;
    return value;
  }
  void Note(std::string text) {
    std::lock_guard lock(mutex_);
    log_.push_back(std::move(text));
  }

  std::mutex mutex_;
  std::condition_variable watched_;
  // Guarded by mutex_.
  std::vector<std::string> log_;
  SeriesFilter last_filter_;
  ReadQuery last_read_;
  EventQuery last_events_;
  std::vector<std::shared_ptr<WatchQueue>> watches_;
  size_t alive_ = 0;
};

inline RunInfo MakeRun(const std::string& run_id, const std::string& name, uint32_t attempt, uint32_t rank,
                       int64_t start_unix_ns, const std::string& state = "running") {
  RunInfo run;
  run.key = {run_id, attempt, rank};
  run.run = name;
  run.state = state;
  run.start_unix_ns = start_unix_ns;
  return run;
}

inline SeriesInfo MakeSeries(uint64_t id, const RunKey& run, const std::string& module, const std::string& param,
                             const std::string& topic) {
  SeriesInfo info;
  info.series.id = id;
  info.series.key = {run, "default", "model", module, param, topic};
  return info;
}

inline Sample MakeSample(uint64_t series_id, uint64_t step, double value) {
  Sample sample;
  sample.series_id = series_id;
  sample.step = step;
  sample.unix_ns = 1'700'000'000'000'000'000 + static_cast<int64_t>(step) * 1'000'000;
  sample.value = value;
  return sample;
}

}  // namespace ikkuna::test
