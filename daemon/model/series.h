// Series: what is recorded of a run, by name; and the catalogue of one run's series.
//
// SeriesCatalogue's thread rule: all methods from any thread. Ids are small and dense: a sink may index by them. They
// stay the same as long as the run's file does, also over restarts of the daemon.
#pragma once

#include <compare>
#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "daemon/model/run.h"
#include "metrics/value.h"

namespace ikkuna {

// Steps are counted, and belong to phases, by (root, tag): a timeline. An id within one run, from 1.
using TimelineId = uint16_t;
struct Timeline {
  std::string root;  // model, model1, ...; empty: the run as a whole
  std::string tag;   // default, test, no_grad, or the caller's
  auto operator<=>(const Timeline&) const = default;
};

// Names a series within its run. Empty where a part does not apply (META topics have no module).
struct SeriesName {
  Timeline timeline;
  std::string module;  // dotted path
  std::string param;   // weight, bias, weight_ih_l0; the name of a scalar logged by the trainer
  std::string topic;   // weights_norm2, loss, scalar, ...
  auto operator<=>(const SeriesName&) const = default;
};

struct SeriesTraits {
  ValueType type = ValueType::kNumber;
  Precision precision = Precision::kDouble;
  std::string module_type;  // Linear, Conv2d, ...
  std::string unit;         // empty: none
  bool operator==(const SeriesTraits&) const = default;
};

struct Series {
  uint32_t id = 0;  // within its run, from 1
  TimelineId timeline = 0;
  SeriesName name;
  SeriesTraits traits;
};

class SeriesCatalogue {
 public:
  // Named maxima: a run of 20,000 parameters under 100 metrics; roots (16) times tags (256).
  static constexpr size_t kMaxSeries = 2'000'000;
  static constexpr size_t kMaxTimelines = 4096;

  // Puts back what a file holds, in any order of ids. Call before anything else.
  void Load(std::vector<Timeline> timelines, std::vector<Series> series);

  // 0: full, counted.
  TimelineId InternTimeline(const Timeline& timeline);
  // The id of the name, made when new. 0: full, or the name is taken by a series of another type; counted in refused().
  uint32_t Intern(const SeriesName& name, const SeriesTraits& traits);

  std::shared_ptr<const Series> Find(uint32_t id) const;  // null: none
  std::optional<uint32_t> FindId(const SeriesName& name) const;
  // Ids from `after` + 1 on, in their order.
  std::vector<std::shared_ptr<const Series>> Since(uint32_t after) const;
  std::vector<Timeline> Timelines() const;  // [i] has the id i + 1
  size_t size() const;
  uint64_t refused() const;

 private:
  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::deque<std::shared_ptr<const Series>> series_;  // [i] has the id i + 1; null: deleted
  std::map<SeriesName, uint32_t> ids_;
  std::vector<Timeline> timelines_;
  std::map<Timeline, TimelineId> timeline_ids_;
  uint64_t refused_ = 0;
};

// What a run had been given when its producer came (back), so that a step that comes again is known again.
struct RecordedSteps {
  static constexpr uint64_t kBehindMax = 1024;  // how far behind the last step of a timeline they are told one by one
  std::map<Timeline, std::vector<uint64_t>> steps;  // those that have values, ascending
  std::vector<uint64_t> next;                       // [id - 1]: the last step of the series, + 1; 0: it has none
};

// A run as the parts of the daemon hold it while they work with it: what it is, and its series.
//
// Shared; the last holder destroys it. Thread rule: any thread.
class Run {
 public:
  explicit Run(ProducerInfo info) : info_(std::make_shared<const ProducerInfo>(std::move(info))) {}
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  std::shared_ptr<const ProducerInfo> info() const;
  const RunKey& key() const { return key_; }
  void SetInfo(ProducerInfo info);  // of the same key: facts came
  // Never null.
  std::shared_ptr<const RecordedSteps> recorded() const;
  void SetRecorded(RecordedSteps recorded);
  // Records of the producer below this one may have been read by an earlier daemon: what of them is recorded already was
  // not said twice by the trainer.
  uint64_t reread_until() const { return reread_until_.load(std::memory_order_relaxed); }
  void SetRereadUntil(uint64_t seq) { reread_until_.store(seq, std::memory_order_relaxed); }
  // What came of the records up to this one an earlier daemon has counted, and this one does not count again.
  uint64_t counted_until() const { return counted_until_.load(std::memory_order_relaxed); }
  void SetCountedUntil(uint64_t seq) { counted_until_.store(seq, std::memory_order_relaxed); }
  SeriesCatalogue& series() { return series_; }
  const SeriesCatalogue& series() const { return series_; }

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<const ProducerInfo> info_;  // guarded by mutex_
  std::shared_ptr<const RecordedSteps> recorded_ = std::make_shared<const RecordedSteps>();  // guarded by mutex_
  std::atomic<uint64_t> reread_until_{0};
  std::atomic<uint64_t> counted_until_{0};
  const RunKey key_ = info_->run_key;
  SeriesCatalogue series_;
};

}  // namespace ikkuna
