// ScriptedMonitor: a Monitor whose answers a test writes down, over a real hub of watchers: for what the daemon's own
// parts do not do at will, such as a wait, a throw, a failure of each kind.
//
// Thread rule: fill the public members before the server starts; what is recorded of calls is read through accessors.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "daemon/monitor/monitor.h"
#include "daemon/sinks/watch_hub.h"

namespace ikkuna::test {

inline RunInfo MakeRun(const std::string& run_id, const std::string& name, uint32_t attempt, uint32_t rank,
                       int64_t start_unix_ns, RunState state = RunState::kRunning) {
  RunInfo run;
  run.info.run_key = {run_id, attempt, rank};
  run.info.run = name;
  run.info.start_unix_ns = start_unix_ns;
  run.state = state;
  return run;
}

inline SeriesInfo MakeSeries(uint32_t id, const RunKey& run, const std::string& module, const std::string& param,
                             const std::string& topic, ValueType type = ValueType::kNumber) {
  ProducerInfo producer;
  producer.run_key = run;
  producer.run = "fashion";
  Series series;
  series.id = id;
  series.timeline = 1;
  series.name = {{"model", "default"}, module, param, topic};
  series.traits.type = type;
  SeriesInfo info;
  info.run = std::make_shared<const ProducerInfo>(std::move(producer));
  info.series = std::make_shared<const Series>(std::move(series));
  return info;
}

// Columns of one series, all of which but `steps` and the values follow from the step.
inline SeriesColumns MakeColumns(const SeriesInfo& info, uint64_t first_step, std::vector<double> numbers,
                                 std::vector<Value> others = {}) {
  SeriesColumns columns;
  columns.run = info.run;
  columns.series = info.series;
  for (size_t i = 0; i < numbers.size() + others.size(); ++i) {
    const uint64_t step = first_step + i;
    columns.steps.push_back(step);
    columns.epochs.push_back(static_cast<uint32_t>(step / 100));
    columns.unix_ns.push_back(1'700'000'000'000'000'000 + static_cast<int64_t>(step) * 1'000'000);
    columns.samples_seen.push_back(step * 128);
    columns.flags.push_back(0);
  }
  columns.numbers = std::move(numbers);
  columns.others = std::move(others);
  return columns;
}

// Gives parts that are written down, or that are made as they are asked for.
class ScriptedReader final : public SeriesReader {
 public:
  using Make = std::function<Result<std::optional<SeriesColumns>>(size_t part)>;
  explicit ScriptedReader(Make make) : make_(std::move(make)) {}
  Result<std::optional<SeriesColumns>> Next() override { return make_(next_++); }

 private:
  const Make make_;
  size_t next_ = 0;
};

class ScriptedMonitor final : public StatusMonitor,
                              public RunMonitor,
                              public SeriesMonitor,
                              public SubscriberMonitor,
                              public EventMonitor,
                              public ControlMonitor {
 public:
  DaemonStatus status;
  std::vector<RunInfo> runs;
  std::vector<ModuleInfo> modules;
  WhyAnswer why;
  std::vector<MetricInfo> metrics;
  std::vector<SeriesInfo> series;
  std::vector<SeriesColumns> columns;  // of every read
  std::vector<Event> events;
  std::vector<std::string> unread_events;
  std::vector<SubscriberInfo> subscribers;
  std::vector<SubscriberInfo> replaced;  // by what is subscribed, and back when it is removed
  std::vector<SubscriberInfo> kept;
  std::vector<std::string> warnings;
  std::optional<Failure> failure;     // of every call that can fail
  std::function<void()> before_read;  // runs inside ReadSamples, such as a wait or a throw
  ScriptedReader::Make make_part;     // instead of columns
  sinks::WatchHub hub;

  Monitor& monitor() { return monitor_; }
  const Activity& activity() const { return activity_; }

  // What the calls were given.
  std::vector<std::string> log() const { return Of(log_); }
  ReadOptions last_read() const { return Of(last_read_); }
  SeriesQuery last_series() const { return Of(last_series_); }
  RunQuery last_runs() const { return Of(last_runs_); }
  ModuleQuery last_modules() const { return Of(last_modules_); }
  EventQuery last_events() const { return Of(last_events_); }
  PublishRequest last_publish() const { return Of(last_publish_); }

  DaemonStatus GetStatus() override { return status; }

  Answer<RunPage> ListRuns(const RunQuery& query) override {
    Keep(&last_runs_, query);
    if (failure) return *failure;
    RunPage page;
    const size_t first = query.page.empty() ? 0 : std::stoul(query.page);
    for (size_t i = first; i < runs.size(); ++i) {
      if (page.runs.size() == query.limit) {
        page.next = std::to_string(i);
        break;
      }
      page.runs.push_back(runs[i]);
    }
    return page;
  }
  Answer<std::vector<RunInfo>> FindRuns(const RunChoice&) override { return Or(runs); }
  Answer<ModulePage> ListModules(const ModuleQuery& query) override {
    Keep(&last_modules_, query);
    if (failure) return *failure;
    ModulePage page;
    page.run = {"r", 1, 2};
    const size_t first = query.page.empty() ? 0 : std::stoul(query.page);
    for (size_t i = first; i < modules.size(); ++i) {
      if (page.modules.size() == query.limit) {
        page.next = std::to_string(i);
        break;
      }
      page.modules.push_back(modules[i]);
    }
    return page;
  }
  Answer<WhyAnswer> Why(const WhyQuery& query) override {
    Note("why " + Text(query.run) + " " + query.module + " " + query.kind);
    return Or(why);
  }
  Answer<DeletedRuns> DeleteRun(const Caller& caller, const RunChoice& choice) override {
    Note("delete " + Text(choice) + " by " + caller.name);
    return Or(DeletedRuns{{{choice.run, 0, 0}}, 4096});
  }
  Answer<RunTags> TagRun(const Caller& caller, const std::string& run, const std::vector<std::string>& add,
                         const std::vector<std::string>& remove) override {
    std::string text = "tag " + run;
    for (const std::string& tag : add) text += " +" + tag;
    for (const std::string& tag : remove) text += " -" + tag;
    Note(text + " by " + caller.name);
    return Or(RunTags{run, add});
  }
  std::function<void()> on_export;  // within it
  Answer<std::unique_ptr<RunFiles>> ExportRun(const RunChoice&) override {
    if (on_export) on_export();
    return Failure(ErrorCode::kNotFound, "no files", Reason::kNoSuchRun);
  }
  Answer<std::unique_ptr<RunImport>> ImportRun(const Caller&) override {
    return Failure(ErrorCode::kPermissionDenied, "no files", Reason::kRole);
  }

  Answer<SeriesPage> ListSeries(const SeriesQuery& query) override {
    Keep(&last_series_, query);
    if (failure) return *failure;
    SeriesPage page;
    const size_t first = query.page.empty() ? 0 : std::stoul(query.page);
    for (size_t i = first; i < series.size(); ++i) {
      if (page.series.size() == query.limit) {
        page.next = std::to_string(i);
        break;
      }
      page.series.push_back(series[i]);
    }
    return page;
  }
  Answer<ReadAnswer> ReadSamples(const ReadOptions& options) override {
    if (before_read) before_read();
    Keep(&last_read_, options);
    if (failure) return *failure;
    ReadAnswer answer;
    answer.cursor = hub.Cursor();
    ScriptedReader::Make make = make_part;
    if (!make) {
      make = [parts = columns](size_t part) -> Result<std::optional<SeriesColumns>> {
        return part < parts.size() ? std::optional(parts[part]) : std::nullopt;
      };
    }
    answer.reader = std::make_unique<ScriptedReader>(std::move(make));
    return answer;
  }
  Answer<WatchAnswer> Watch(const SeriesFilter& filter, const std::optional<WatchCursor>& cursor) override {
    if (failure) return *failure;
    Result<std::unique_ptr<Watcher>> watcher = hub.Watch(filter, cursor);
    if (!watcher) return watcher.error();
    return WatchAnswer{*std::move(watcher), hub.Cursor().daemon};
  }
  Answer<PublishAnswer> Publish(const Caller&, const PublishRequest& request) override {
    Keep(&last_publish_, request);
    uint64_t values = 0;
    for (const PublishedStep& step : request.steps) values += step.values.size();
    return Or(PublishAnswer{{request.own_run, 0, 0}, values});
  }

  std::vector<MetricInfo> ListMetrics() override { return metrics; }
  Answer<std::vector<SubscriberInfo>> ListSubscribers(const std::string& run) override {
    Note("subscribers " + run);
    return Or(subscribers);
  }
  Answer<SubscribeAnswer> AddSubscribers(const Caller& caller, const std::string& text) override {
    Note("subscribe " + text + " by " + caller.name);
    return Or(SubscribeAnswer{subscribers, replaced, warnings});
  }
  Answer<UnsubscribeAnswer> RemoveSubscribers(const Caller&, const SubscriberChoice& choice) override {
    Note("unsubscribe " + std::to_string(static_cast<int>(choice.by)) + " " + std::to_string(choice.id) + " " +
         choice.text);
    return Or(UnsubscribeAnswer{subscribers, kept, replaced});
  }

  Answer<EventList> ListEvents(const EventQuery& query) override {
    Keep(&last_events_, query);
    if (failure) return *failure;
    EventList found;
    found.unread = unread_events;
    for (const Event& event : events) {
      if (event.id > query.after_id) found.push_back(event);
    }
    if (query.last && found.size() > *query.last) found.erase(found.begin(), found.end() - *query.last);
    if (!query.last && found.size() > query.limit) found.resize(query.limit);
    return found;
  }

  Answer<std::string> Freeze(const Caller& caller, const ControlChoice& choice, const std::string& modules_) override {
    Note("freeze " + Text(choice) + " " + modules_ + " by " + caller.name);
    return Or(std::string("frozen from step 7 on"));
  }
  Answer<std::string> Unfreeze(const Caller&, const ControlChoice& choice, const std::string& modules_) override {
    Note("unfreeze " + Text(choice) + " " + modules_);
    return Or(std::string("thawed from step 9 on"));
  }
  Answer<std::string> Stop(const Caller&, const ControlChoice& choice) override {
    Note("stop " + Text(choice));
    return Or(std::string("ends after step 12"));
  }

 private:
  static std::string Text(const RunChoice& choice) {
    return choice.run + "/" + (choice.attempt ? std::to_string(*choice.attempt) : "-") + "/" +
           (choice.rank ? std::to_string(*choice.rank) : "-");
  }
  static std::string Text(const ControlChoice& choice) {
    std::string text = choice.run + "/" + (choice.attempt ? std::to_string(*choice.attempt) : "-");
    for (const uint32_t rank : choice.ranks) text += "/" + std::to_string(rank);
    return text;
  }
  template <typename T>
  Answer<T> Or(T value) const {
    if (failure) return *failure;
    return value;
  }
  template <typename T>
  T Of(const T& member) const {
    std::lock_guard lock(mutex_);
    return member;
  }
  template <typename T>
  void Keep(T* member, const T& value) {
    std::lock_guard lock(mutex_);
    *member = value;
  }
  void Note(std::string text) {
    std::lock_guard lock(mutex_);
    log_.push_back(std::move(text));
  }

  Activity activity_;
  Monitor monitor_{*this, *this, *this, *this, *this, *this, activity_};

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::vector<std::string> log_;
  ReadOptions last_read_;
  SeriesQuery last_series_;
  RunQuery last_runs_;
  ModuleQuery last_modules_;
  EventQuery last_events_;
  PublishRequest last_publish_;
};

}  // namespace ikkuna::test
