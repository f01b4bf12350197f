#include "daemon/health.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <string_view>
#include <utility>

#include "shared/base/clock.h"
#include "shared/base/utf8.h"

namespace ikkuna {

namespace {

constexpr double kMiB = 1 << 20;
constexpr double kLeastCpuSeconds = 0.01;  // what a look itself costs stays well below it
constexpr double kLeastShare = 0.0001;
constexpr size_t kNameBytesMax = 255;  // as of every name

double Number(uint64_t value) { return static_cast<double>(value); }
// Our own samples make the files grow a little: no reason for another sample.
double LeastBytes(uint64_t bytes) { return std::max(kMiB, Number(bytes) * 0.01); }

class Values {
 public:
  // What the next values are of: names as in SeriesKey.
  void Of(std::string root, std::string module) {
    root_ = std::move(root);
    module_ = std::move(module);
  }
  void Add(std::string_view topic, const char* unit, double value, double least_change = 0, std::string param = "") {
    SeriesKey key{{kDaemonRunId, 0, 0}, kDaemonTag, root_, module_, std::move(param), "daemon_" + std::string(topic)};
    values_.push_back({std::move(key), unit, value, least_change});
  }
  std::vector<HealthValue> Take() { return std::move(values_); }

 private:
  std::string root_, module_;
  std::vector<HealthValue> values_;
};

void AddProducer(const ProducerStatus& producer, Values& values) {
  const RunKey& run = producer.info.run_key;
  values.Of(run.run_id + "/" + std::to_string(run.attempt) + "/" + std::to_string(run.rank), producer.info.run);
  values.Add("records_handled", "records", Number(producer.handled));
  values.Add("records_in_flight", "records", Number(producer.in_flight));
  values.Add("records_dropped", "records", Number(producer.dropped_total));
  for (const DropCount& drop : producer.drops) {
    if (drop.count > 0) values.Add("records_dropped", "records", Number(drop.count), 0, drop.reason);
  }
  values.Add("records_lost", "records", Number(producer.lost_in_daemon + producer.killed));
  values.Add("bundles_incomplete", "bundles", Number(producer.incomplete_bundles));
  values.Add("arena_used", "bytes", Number(producer.arena_used));
  values.Add("coverage", "share", producer.coverage, kLeastShare);
  values.Add("budget", "share", producer.budget);
  values.Add("probe_cost", "share", producer.probe_cost, kLeastShare);
  values.Add("period_factor", "", producer.period_factor_tensor, 0, "tensor");
  values.Add("period_factor", "", producer.period_factor_summary, 0, "summary");
  values.Add("period_factor", "", producer.period_factor_scalar, 0, "scalar");
}

bool Changed(double before, double now, double least_change) {
  if (std::isnan(before) || std::isnan(now)) return std::isnan(before) != std::isnan(now);
  return before != now && !(std::abs(now - before) <= least_change);
}

}  // namespace

std::vector<HealthValue> HealthOf(const HealthReading& reading) {
  const DaemonStatus& status = reading.status;
  Values values;
  values.Add("cpu_seconds", "s", reading.cpu_seconds, kLeastCpuSeconds);
  values.Add("resident_bytes", "bytes", Number(status.resident_bytes), LeastBytes(status.resident_bytes));
  values.Add("store_bytes", "bytes", Number(status.store_bytes), LeastBytes(status.store_bytes));
  values.Add("series", "series", Number(status.series));
  values.Add("series_refused", "series", Number(status.series_refused));
  values.Add(
      "producers", "producers",
      Number(static_cast<uint64_t>(std::count_if(status.producers.begin(), status.producers.end(),
                                                 [](const ProducerStatus& one) { return one.state == "running"; }))));
  for (const SinkCounters& sink : status.sinks) {
    values.Of("", sink.name);
    values.Add("queue", "batches", Number(sink.queued));
    values.Add("lag", "s", sink.lag_seconds);
    values.Add("samples_dropped", "samples", Number(sink.dropped));
  }
  for (const ProducerStatus& producer : status.producers) AddProducer(producer, values);
  for (const SubscriberInfo& subscriber : reading.subscribers) {
    values.Of("", std::string(CutUtf8(subscriber.text, kNameBytesMax)));
    values.Add("subscriber_seconds", "s", subscriber.cpu_seconds, kLeastCpuSeconds / 10);
    values.Add("subscriber_incomplete", "bundles", Number(subscriber.incomplete));
  }
  return values.Take();
}

void HealthSeries::LeaveOutThoseThatRest(std::vector<ProducerStatus>& producers) {
  std::map<Uuid, int> left;
  std::erase_if(producers, [&](const ProducerStatus& producer) {
    const auto known = looks_left_.find(producer.info.uuid);
    const int looks = producer.state == "running" ? kLooksAfterEnd : known == looks_left_.end() ? 0 : known->second - 1;
    if (looks <= 0) return true;
    left[producer.info.uuid] = looks;
    return false;
  });
  looks_left_ = std::move(left);
}

std::shared_ptr<const Batch> HealthSeries::Look(HealthReading reading, int64_t unix_ns, bool all) {
  LeaveOutThoseThatRest(reading.status.producers);
  // Also where the clock was set back, steps go on.
  const uint64_t step = std::max(static_cast<uint64_t>(std::max<int64_t>(unix_ns, 0)) / 1'000'000'000, last_step_ + 1);
  last_step_ = step;
  auto batch = std::make_shared<Batch>();
  for (auto& [key, written] : written_) written.seen = false;
  for (const HealthValue& value : HealthOf(reading)) {
    auto [found, fresh] = written_.try_emplace(value.key);
    Written& written = found->second;
    if (fresh) written.series_id = catalogue_.Intern(value.key, "", value.unit);
    written.seen = true;
    if (written.series_id == 0) continue;  // the catalogue is full, and has counted it
    if (!fresh && !all && step - written.step < kRepeatSteps &&
        !Changed(written.value, value.value, value.least_change)) {
      continue;
    }
    written.step = step;
    written.value = value.value;
    Sample sample;
    sample.series_id = written.series_id;
    sample.step = step;
    sample.unix_ns = unix_ns;
    sample.value = value.value;
    batch->samples.push_back(sample);
  }
  std::erase_if(written_, [](const auto& entry) { return !entry.second.seen; });
  return batch->samples.empty() ? nullptr : batch;
}

HealthSampler::HealthSampler(std::function<HealthReading()> read, SeriesCatalogue& catalogue,
                             std::vector<SampleSink*> sinks)
    : read_(std::move(read)), sinks_(std::move(sinks)), series_(catalogue), thread_([this] { Run(); }) {}

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
  std::shared_ptr<const Batch> batch = series_.Look(read_(), UnixNs(), all);
  if (!batch) return;
  for (SampleSink* sink : sinks_) sink->Offer(batch);
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
