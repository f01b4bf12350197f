// The SeriesReader of the store: run after run, series after series, in parts.
#include <algorithm>

#include "daemon/sinks/number_reader.h"
#include "daemon/sinks/run_entry.h"

namespace ikkuna::sinks {
namespace {

constexpr size_t kOthersPerPart = 1'024;
constexpr size_t kOtherBytesPerPart = 4 << 20;

class Reader : public SeriesReader {
 public:
  Reader(NextToRead next, const ReadQuery& query, Database::Mode mode,
         std::function<void(RunEntry&, const Error&)> on_failure)
      : next_run_(std::move(next)),
        query_(query),
        step_max_(query.step_max),
        mode_(mode),
        on_failure_(std::move(on_failure)) {}

  Result<std::optional<SeriesColumns>> Next() override {
    for (;;) {
      Result<std::optional<SeriesColumns>> part = NextOfRun();
      if (part && *part) return part;
      if (part) break;
      // What is wrong with one run costs that run alone: what is left of it is not tried.
      const RunEntry& entry = *run()->entry;
      const bool named = part.error().text.find(entry.path()) != std::string::npos;
      const Error error = named ? part.error() : CannotRead(entry, part.error());
      if (on_failure_) on_failure_(*run()->entry, error);
      if (!failed_) failed_ = error;
      series_.reset();
      next_ = what_->series.size();
      missing_ = 0;  // more than one thing need not be said
    }
    if (!failed_) return std::optional<SeriesColumns>();
    return *std::exchange(failed_, std::nullopt);
  }

 private:
  Result<std::optional<SeriesColumns>> NextOfRun() {
    for (;;) {
      if (!series_) {
        if (!Advance()) return std::optional<SeriesColumns>();
        if (series_->traits.type == ValueType::kNumber) {
          if (!numbers_) numbers_.emplace(run(), query_, mode_);
          if (Status started = numbers_->Start(series_); !started) return started.error();
          if (IsWhole()) Miss(numbers_->committed());
          waiting_.clear();
          given_ = 0;
        } else {
          StartOthers();
        }
      }
      SeriesColumns part;
      part.run = run()->info;
      part.series = series_;
      Status filled = series_->traits.type == ValueType::kNumber ? FillNumbers(&part) : FillOthers(&part);
      if (!filled) return filled.error();
      if (!part.steps.empty()) return std::optional<SeriesColumns>(std::move(part));
      series_.reset();
    }
  }

  const std::shared_ptr<const RunSnapshot>& run() const { return what_->run; }

  bool Advance() {
    for (;;) {
      if (what_ && next_ < what_->series.size()) {
        one_ = what_->series[next_++];
        series_ = one_.series;
        return true;
      }
      if (what_) TellMissing();
      numbers_.reset();
      file_.reset();
      what_.reset();  // its tail may go
      next_ = 0;
      Result<std::optional<SeriesToRead>> next = next_run_();
      if (!next) {
        if (!failed_) failed_ = next.error();
        continue;
      }
      if (!*next) return false;
      what_ = **std::move(next);
      const auto cut = query_.cut_from.find(run()->info->run_key);
      query_.step_max = step_max_;
      if (cut == query_.cut_from.end()) continue;
      if (cut->second == 0) next_ = what_->series.size();
      query_.step_max = std::min(step_max_.value_or(UINT64_MAX), cut->second - 1);
    }
  }

  // No value is left out by the question itself.
  bool IsWhole() const { return !query_.step_min && !query_.step_max; }
  // So many were found where more should be: damage hides them.
  void Miss(uint64_t found) { missing_ += one_.kept - std::min(one_.kept, found); }
  void TellMissing() {
    if (missing_ == 0) return;
    const Error error = HiddenValues(run()->entry->path(), std::exchange(missing_, 0));
    if (on_failure_) on_failure_(*run()->entry, error);
    if (!failed_) failed_ = error;
  }
  // Some were thinned away since the run was looked at.
  bool WasThinned() const {
    std::lock_guard lock(run()->entry->mutex);
    const auto& loaded = run()->entry->loaded;
    return !loaded || loaded->tallies.size() < series_->id || loaded->tallies[series_->id - 1].thinned != one_.thinned;
  }

  Status FillNumbers(SeriesColumns* part) {
    if (given_ >= waiting_.size()) {
      Result<std::vector<Point>> points = numbers_->Next();
      if (!points) return points.error();
      waiting_ = *std::move(points);
      given_ = 0;
    }
    const size_t end = std::min(given_ + kPointsMax, waiting_.size());
    for (; given_ < end; ++given_) {
      const Point& point = waiting_[given_];
      part->steps.push_back(point.step);
      part->epochs.push_back(point.epoch);
      part->unix_ns.push_back(point.unix_ns);
      part->samples_seen.push_back(point.samples_seen);
      part->flags.push_back(point.flags);
      part->numbers.push_back(point.value);
    }
    part->reduced = numbers_->reduced();
    part->thinned = numbers_->thinned();
    return {};
  }

  struct Other {
    StepStamp stamp;
    uint16_t flags;
    Value value;
  };

  void StartOthers() {
    queued_.clear();
    queued_given_ = 0;
    rows_ = 0;
    counts_ = true;
    high_ = false;
    first_other_ = true;
    after_step_.reset();
    for (const auto& batch : run()->batches) {
      if (!InRange(batch->stamp.step)) continue;
      for (const OtherValue& other : batch->others) {
        if (other.series == series_->id) queued_.push_back({batch->stamp, other.flags, other.value});
      }
    }
    std::stable_sort(queued_.begin(), queued_.end(),
                     [](const Other& a, const Other& b) { return a.stamp.step < b.stamp.step; });
  }

  bool InRange(uint64_t step) const {
    return step >= query_.step_min.value_or(0) && step <= query_.step_max.value_or(UINT64_MAX);
  }

  // Whether a value of this series and step is in the part, or was in an earlier one.
  static bool Has(const SeriesColumns& part, uint64_t step) { return !part.steps.empty() && part.steps.back() == step; }

  void Append(const StepStamp& stamp, uint16_t flags, Value value, SeriesColumns* part) {
    if (series_->traits.type != ValueType::kText && (Has(*part, stamp.step) || last_given_ == stamp.step)) return;
    last_given_ = stamp.step;
    if (std::exchange(first_other_, false) && one_.thinned > 0) flags |= kFlagThinned;  // the oldest go
    part->steps.push_back(stamp.step);
    part->epochs.push_back(stamp.epoch);
    part->unix_ns.push_back(stamp.unix_ns);
    part->samples_seen.push_back(stamp.samples_seen);
    part->flags.push_back(static_cast<uint16_t>(stamp.flags | flags));
    part->others.push_back(std::move(value));
  }

  // Steps from 2^63 on are negative numbers in the file: those of the lower half come first.
  Status FillOthers(SeriesColumns* part) {
    part->thinned = one_.thinned > 0;
    if (!after_step_) last_given_.reset();
    size_t bytes = 0;
    bool more = true;
    while (more && run()->value_last > 0) {
      if (!file_) {
        Result<BorrowedFile> file = BorrowedFile::Borrow(run()->entry, mode_);
        if (!file) return file.error();
        file_ = *std::move(file);
      }
      const int64_t low = high_ ? INT64_MIN : 0, high = high_ ? -1 : INT64_MAX;
      bool broken = false, full = false;
      Status read = (*file_)->database().Each(
          "SELECT step, id, epoch, unix_ns, samples_seen, flags, value, sum FROM value WHERE series = ?1 AND "
          "(step, id) > (?2, ?3) AND step <= ?4 AND id <= ?5 ORDER BY step, id",
          [&](Statement& row) {
            StepStamp stamp;
            stamp.timeline = series_->timeline;
            stamp.step = row.Unsigned(0);
            after_step_ = row.Int(0);
            after_id_ = row.Int(1);
            ++rows_;
            if (!InRange(stamp.step)) return true;
            stamp.epoch = static_cast<uint32_t>(row.Int(2));
            stamp.unix_ns = row.Int(3);
            stamp.samples_seen = row.Unsigned(4);
            stamp.flags = static_cast<uint16_t>(row.Int(5));
            Value value;
            if (row.Unsigned(7) != SumOfOther(series_->id, stamp, row.Blob(6)) ||
                !DecodeOther(series_->traits.type, row.Blob(6), &value)) {
              broken = true;
              return false;
            }
            bytes += row.Blob(6).size();
            while (queued_given_ < queued_.size() && queued_[queued_given_].stamp.step < stamp.step) GiveQueued(part);
            Append(stamp, 0, std::move(value), part);
            full = part->steps.size() >= kOthersPerPart || bytes >= kOtherBytesPerPart;
            return !full;
          },
          static_cast<int64_t>(series_->id), after_step_.value_or(low), after_step_ ? after_id_ : int64_t{0}, high,
          run()->value_last);
      if (!read) return read;
      if (broken) {
        return Error{ErrorCode::kCorrupt, "a value of " + Describe(run()->info->run_key) + " in '" +
                                              run()->entry->path() + "' is broken"};
      }
      if (full) return {};
      if (!high_) {
        high_ = true;
        after_step_ = INT64_MIN;
        after_id_ = 0;
      } else {
        more = false;
      }
    }
    if (IsWhole() && std::exchange(counts_, false) && rows_ < one_.kept && !WasThinned()) Miss(rows_);
    while (queued_given_ < queued_.size() && part->steps.size() < kOthersPerPart) GiveQueued(part);
    return {};
  }

  void GiveQueued(SeriesColumns* part) {
    Other& other = queued_[queued_given_++];
    Append(other.stamp, other.flags, std::move(other.value), part);
  }

  const NextToRead next_run_;
  ReadQuery query_;  // step_max: of the run that is read
  const std::optional<uint64_t> step_max_;
  const Database::Mode mode_;
  std::optional<SeriesToRead> what_;  // the run that is read
  size_t next_ = 0;                   // of its series
  SeriesToRead::One one_;                 // being read
  std::shared_ptr<const Series> series_;  // its series; null: none is
  uint64_t missing_ = 0;                  // values of the run that cannot be found

  std::optional<Error> failed_;
  const std::function<void(RunEntry&, const Error&)> on_failure_;

  std::optional<NumberReader> numbers_;
  std::vector<Point> waiting_;
  size_t given_ = 0;

  std::optional<BorrowedFile> file_;
  std::vector<Other> queued_;
  size_t queued_given_ = 0;
  bool first_other_ = true;
  uint64_t rows_ = 0;     // of the file
  bool counts_ = true;    // they were not compared with what there should be
  bool high_ = false;
  std::optional<int64_t> after_step_;
  int64_t after_id_ = 0;
  std::optional<uint64_t> last_given_;
};

}  // namespace

std::unique_ptr<SeriesReader> MakeReader(NextToRead next, const ReadQuery& query, Database::Mode mode,
                                         std::function<void(RunEntry&, const Error&)> on_failure) {
  return std::make_unique<Reader>(std::move(next), query, mode, std::move(on_failure));
}

}  // namespace ikkuna::sinks
