#include "daemon/health.h"

#include <pthread.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <exception>
#include <string_view>
#include <utility>

#include "shared/base/clock.h"
#include "shared/base/utf8.h"

namespace ikkuna {

namespace {

constexpr double kBytesPerMiB = 1 << 20;
constexpr double kLeastCpuSeconds = 0.01;  // what a look itself costs stays well below it
constexpr double kLeastShare = 0.0001;
constexpr size_t kNameBytesMax = 255;  // as of every name

double Number(uint64_t value) { return static_cast<double>(value); }
// Our own samples make the files grow a little: no reason for another sample.
double LeastBytes(uint64_t bytes) { return std::max(kBytesPerMiB, Number(bytes) * 0.01); }

class Values {
 public:
  // What the next values are of: the name of a sink, a producer, a subscriber.
  void Of(std::string module) { module_ = std::move(module); }
  void Add(std::string_view topic, const char* unit, double value, double least_change = 0, std::string param = "") {
    SeriesName name{{"", kDaemonTag}, module_, std::move(param), "daemon_" + std::string(topic)};
    values_.push_back({std::move(name), unit, value, least_change});
  }
  // All of them without a reason; those that happened by reason.
  void AddCounts(std::string_view topic, const char* unit, uint64_t all, const std::vector<Count>& counts) {
    Add(topic, unit, Number(all));
    for (const Count& count : counts) {
      if (count.count > 0) Add(topic, unit, Number(count.count), 0, count.reason);
    }
  }
  std::vector<HealthValue> Take() { return std::move(values_); }

 private:
  std::string module_;
  std::vector<HealthValue> values_;
};

uint64_t SumOf(const std::vector<Count>& counts) {
  uint64_t sum = 0;
  for (const Count& count : counts) sum += count.count;
  return sum;
}

// "run_id/attempt/rank", of which the numbers stay where the whole is too long.
std::string NameOf(const RunKey& run) {
  const std::string numbers = "/" + std::to_string(run.attempt) + "/" + std::to_string(run.rank);
  return std::string(CutUtf8(run.run_id, kNameBytesMax - numbers.size())) + numbers;
}

void AddProducer(const ProducerStatus& producer, Values& values) {
  values.Of(NameOf(producer.info.run_key));
  values.Add("records_handled", "records", Number(producer.handled));
  values.Add("records_in_flight", "records", Number(producer.in_flight));
  values.AddCounts("records_dropped", "records", producer.dropped_total, producer.drops);
  values.Add("records_lost", "records", Number(producer.lost_in_daemon + producer.killed));
  values.AddCounts("missing", "", SumOf(producer.missing), producer.missing);
  values.Add("arena_used", "bytes", Number(producer.arena_used));
  values.Add("coverage", "share", producer.coverage, kLeastShare);
  values.Add("budget", "share", producer.budget);
  values.Add("probe_cost", "share", producer.probe_cost, kLeastShare);
  values.Add("period_factor", "", producer.period_factor_tensor, 0, "tensor");
  values.Add("period_factor", "", producer.period_factor_summary, 0, "summary");
  values.Add("period_factor", "", producer.period_factor_scalar, 0, "scalar");
}

void AddStore(const StoreShown& store, Values& values) {
  values.Add("store_bytes", "bytes", Number(store.bytes), LeastBytes(store.bytes));
  values.Add("store_free_bytes", "bytes", Number(store.free_bytes), LeastBytes(store.free_bytes));
  values.Add("store_tail_bytes", "bytes", Number(store.tail_bytes), LeastBytes(store.tail_bytes));
  values.Add("store_runs", "runs", Number(store.runs));
  values.Add("store_paused", "", store.paused ? 1 : 0);
}

void AddQueue(const QueueShown& queue, Values& values) {
  values.Add("queue_waiting", "jobs", Number(queue.waiting));
  values.Add("queue_seconds", "s", queue.busy_seconds, kLeastCpuSeconds);
  values.Add("queue_memory_bytes", "bytes", Number(queue.memory_bytes), kBytesPerMiB);
  values.Add("queue_memory_refused", "copies", Number(queue.memory_refused));
}

bool Changed(double before, double now, double least_change) {
  if (std::isnan(before) || std::isnan(now)) return std::isnan(before) != std::isnan(now);
  return before != now && !(std::abs(now - before) <= least_change);
}

}  // namespace

ProducerInfo HealthProducer() {
  ProducerInfo producer;
  producer.run_key = {kDaemonRunId, 0, 0};
  producer.run = kDaemonRunId;
  const std::string_view name = kDaemonRunId;
  std::copy(name.begin(), name.end(), producer.uuid.begin());
  producer.uid = ::geteuid();
  producer.start_unix_ns = UnixNs();
  return producer;
}

std::vector<HealthValue> HealthOf(const HealthReading& reading) {
  const DaemonStatus& status = reading.status;
  Values values;
  values.Add("cpu_seconds", "s", status.cpu_seconds, kLeastCpuSeconds);
  values.Add("resident_bytes", "bytes", Number(status.resident_bytes), LeastBytes(status.resident_bytes));
  values.Add("threads", "threads", status.threads);
  values.Add("series", "series", Number(status.series));
  values.Add("series_refused", "series", Number(status.series_refused));
  values.Add("watches", "watches", status.watches);
  values.Add("producers", "producers",
             Number(static_cast<uint64_t>(
                 std::count_if(status.producers.begin(), status.producers.end(),
                               [](const ProducerStatus& one) { return one.state == RunState::kRunning; }))));
  values.AddCounts("connections_refused", "connections", SumOf(reading.connections_refused),
                   reading.connections_refused);
  AddStore(status.store, values);
  AddQueue(status.queue, values);
  for (const SinkCounters& sink : status.sinks) {
    values.Of(sink.name);
    values.Add("sink_waiting", "values", Number(sink.waiting));
    values.Add("sink_lag", "s", sink.lag_seconds);
    values.AddCounts("sink_dropped", "values", sink.dropped, sink.drops);
    values.Add("sink_events_dropped", "events", Number(sink.events_dropped));
    values.Add("sink_failures", "failures", Number(sink.failures));
  }
  for (const ProducerStatus& producer : status.producers) AddProducer(producer, values);
  for (const SubscriberInfo& subscriber : reading.subscribers) {
    values.Of(std::string(CutUtf8(subscriber.text, kNameBytesMax)));
    values.Add("subscriber_seconds", "s", subscriber.cpu_seconds, kLeastCpuSeconds / 10);
    values.Add("subscriber_waiting", "jobs", Number(subscriber.waiting));
    const std::vector<Count> missing = CountsOf(subscriber.missing);
    values.AddCounts("subscriber_missing", "", SumOf(missing), missing);
  }
  return values.Take();
}

// Of those that do not run: the ones that ran a moment ago, or came and ended since the last look.
void HealthSeries::LeaveOutThoseThatRest(std::vector<ProducerStatus>& producers) {
  std::map<Uuid, int> left;
  std::set<Uuid> known;
  std::erase_if(producers, [&](const ProducerStatus& producer) {
    const Uuid& uuid = producer.info.uuid;
    known.insert(uuid);
    const bool fresh = producer.state == RunState::kRunning || (known_ && !known_->contains(uuid));
    const auto before = looks_left_.find(uuid);
    const int looks = fresh ? kLooksAfterEnd : before == looks_left_.end() ? 0 : before->second - 1;
    if (looks <= 0) return true;
    left[uuid] = looks;
    return false;
  });
  looks_left_ = std::move(left);
  known_ = std::move(known);
}

HealthSeries::HealthSeries(std::shared_ptr<Run> run, uint64_t last_step)
    : run_(std::move(run)), timeline_(run_->series().InternTimeline({"", kDaemonTag})), last_step_(last_step) {}

std::shared_ptr<const Batch> HealthSeries::Look(HealthReading reading, int64_t unix_ns, bool all) {
  LeaveOutThoseThatRest(reading.status.producers);
  // Also where the clock was set back, steps go on.
  const uint64_t step = std::max(static_cast<uint64_t>(std::max<int64_t>(unix_ns, 0)) / 1'000'000'000, last_step_ + 1);
  last_step_ = step;
  auto batch = std::make_shared<Batch>();
  batch->run = run_;
  batch->stamp.timeline = timeline_;
  batch->stamp.step = step;
  batch->stamp.unix_ns = unix_ns;
  for (auto& [name, written] : written_) written.seen = false;
  for (const HealthValue& value : HealthOf(reading)) {
    auto [found, fresh] = written_.try_emplace(value.name);
    Written& written = found->second;
    if (fresh) {
      SeriesTraits traits;
      traits.unit = value.unit;
      written.series = run_->series().Intern(value.name, traits);
    }
    // Two subscribers may be called the same, cut to the length of a name: the first is kept.
    if (std::exchange(written.seen, true)) continue;
    if (written.series == 0) continue;  // the catalogue is full, and has counted it
    if (!fresh && !all && step - written.step < kRepeatSteps &&
        !Changed(written.value, value.value, value.least_change)) {
      continue;
    }
    written.step = step;
    written.value = value.value;
    batch->samples.push_back({written.series, 0, value.value});
  }
  std::erase_if(written_, [](const auto& entry) { return !entry.second.seen; });
  return batch->samples.empty() ? nullptr : batch;
}

HealthSampler::HealthSampler(std::function<HealthReading()> read, std::shared_ptr<ikkuna::Run> run, uint64_t last_step,
                             Sink& sink)
    : read_(std::move(read)), sink_(sink), series_(std::move(run), last_step), thread_([this] { Run(); }) {}

void HealthSampler::Run() {
  ::pthread_setname_np(::pthread_self(), "ikkuna-health");
  auto due = std::chrono::steady_clock::now();
  std::unique_lock lock(mutex_);
  while (true) {
    const bool last = finishing_;
    lock.unlock();
    Look(last);
    lock.lock();
    if (last) return;
    due = std::max(due + kEvery, std::chrono::steady_clock::now());
    wakes_.wait_until(lock, due, [this] { return finishing_; });
  }
}

void HealthSampler::Look(bool all) {
  try {
    if (std::shared_ptr<const Batch> batch = series_.Look(read_(), UnixNs(), all)) sink_.Offer(std::move(batch));
  } catch (const std::exception& error) {
    spdlog::warn("a look at the daemon's own health failed: {}", error.what());
  }
}

void HealthSampler::Finish() {
  if (!thread_.joinable()) return;
  {
    std::lock_guard lock(mutex_);
    finishing_ = true;
  }
  wakes_.notify_one();
  thread_.join();
}

}  // namespace ikkuna
