#include "daemon/sinks/run_writer.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace ikkuna::sinks {
namespace {

constexpr size_t kTailBytesMin = 1 << 20;   // of a run with few series: longer segments, so that fewer rows are read
constexpr size_t kTailBytesMost = 96 << 20;
constexpr size_t kFramesMax = 8'192;        // of a segment; its stamps are read whole
constexpr size_t kFramesMost = 56'000;      // an index of a stamp has 16 bits, and a commit is not cut in two
static_assert(kFramesMost + kFramesPerCommit <= StampColumns::kStampsMax);

bool ConcernsRow(const Status& status) { return !status && status.error().code == ErrorCode::kInvalidArgument; }

// Private from its first byte on; SQLite gives the files beside it the same rights. One that is there is not opened: to
// close it would give up the locks that this process has on it.
// False: it was there.
Result<bool> MakeFile(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd >= 0) {
    ::close(fd);
    return true;
  }
  if (errno != EEXIST) return PosixError("cannot make it", errno);
  struct stat there {};
  if (::stat(path.c_str(), &there) != 0) {
    if (errno != ENOENT && errno != ELOOP) return PosixError("cannot look at it", errno);
    return Error{ErrorCode::kFailedPrecondition, "it is a link to a file that is not there"};
  }
  if (!S_ISREG(there.st_mode)) return Error{ErrorCode::kFailedPrecondition, "it is no file"};
  return false;
}

}  // namespace

void CommitReport::AddDropsTo(std::map<std::string, uint64_t>& counts) const {
  for (const auto& [reason, count] : drops()) {
    if (count > 0) counts[reason] += count;
  }
}

Result<std::unique_ptr<RunWriter>> RunWriter::Open(RunEntry& entry) {
  const Result<bool> made = MakeFile(entry.path());
  if (!made) return made.error();
  if (*made) entry.file = FileIdOf(entry.path());
  Result<std::unique_ptr<RunFile>> file = RunFile::Open(entry.path(), Database::Mode::kCreate, true);
  if (!file) return file.error();
  std::unique_ptr<RunWriter> writer(new RunWriter(entry, *std::move(file)));
  Database& db = writer->file_->database();
  Result<int64_t> known = db.QueryInt("SELECT count(*) FROM meta WHERE name = 'run_id'");
  if (!known) return known.error();
  RunHead head;
  std::shared_ptr<LoadedRun> loaded;
  {
    std::lock_guard lock(entry.mutex);
    head = entry.head;
    loaded = entry.loaded;
  }
  std::shared_ptr<Run> run = loaded ? loaded->run : nullptr;
  if (std::shared_ptr<Run> live = entry.run.lock()) run = std::move(live);
  if (*known == 0) {
    Transaction transaction(db);
    Status saved = transaction.Begin();
    if (saved) saved = writer->file_->SaveProducer(head.producer, head.host);
    if (saved) saved = writer->file_->SaveTags(head.tags);
    if (saved) saved = writer->file_->SaveUnrecorded(head.unrecorded);
    if (saved) saved = transaction.Commit();
    if (!saved) return saved.error();
    auto fresh = std::make_shared<LoadedRun>();
    fresh->run = run ? run : std::make_shared<Run>(head.producer.info);
    std::lock_guard lock(entry.mutex);
    entry.loaded = std::move(fresh);
    return writer;
  }
  Result<RunHead> stored = writer->file_->LoadHead();
  if (!stored) return stored.error();
  if (stored->producer.info.run_key != entry.key || stored->producer.info.uuid != head.producer.info.uuid) {
    return Error{ErrorCode::kFailedPrecondition, "it is of another producer, " + Describe(stored->producer.info.run_key)};
  }
  Result<std::shared_ptr<LoadedRun>> read =
      LoadRun(entry, *writer->file_, run);
  if (!read) return read.error();
  loaded = *read;
  if (Status dropped = writer->DropGarbage(); !dropped) return dropped.error();
  std::vector<SeriesTally>& compacted = writer->compacted_;
  if (Status counted = writer->file_->LoadTallies(&compacted); !counted) return counted.error();
  for (const auto& segment : loaded->segments) {
    writer->segment_next_ = std::max(writer->segment_next_, segment->id + 1);
  }
  writer->log_seq_ = loaded->open.log_last;
  Result<int64_t> timelines = db.QueryInt("SELECT count(*) FROM timeline");
  if (!timelines) return timelines.error();
  writer->timelines_saved_ = static_cast<TimelineId>(*timelines);
  Result<int64_t> last = db.QueryInt("SELECT coalesce(max(id), 0) FROM series");
  if (!last) return last.error();
  writer->series_saved_ = static_cast<uint32_t>(*last);
  const auto series = loaded->run->series().Since(0);
  {
    std::lock_guard lock(entry.mutex);
    entry.loaded = loaded;
    // It may be another file than the one that was known: somebody put an older copy in its place.
    const Progress known_progress = entry.head.totals.progress;
    entry.head.totals = stored->totals;
    if (known_progress.done_seq > stored->totals.progress.done_seq) entry.head.totals.progress = known_progress;
    entry.head.events = stored->events;
    entry.head.event_first = stored->event_first;
    entry.head.event_last = stored->event_last;
  }
  for (const auto& one : series) {
    if (one->id > loaded->tallies.size() || loaded->tallies[one->id - 1].count == 0) continue;
    Admitted* admitted = writer->Find(one->id);
    admitted->any = true;
    admitted->last_step = loaded->tallies[one->id - 1].last_step;
  }
  writer->MarkTail();
  return writer;
}

// Which series are in the tail.
void RunWriter::MarkTail() {
  series_in_tail_ = 0;
  const Layout* layout = nullptr;
  for (const auto& frame : entry_.loaded->open.frames) {
    if (frame->layout.get() == layout) continue;
    layout = frame->layout.get();
    for (const auto* ids : {&layout->singles, &layout->doubles}) {
      for (uint32_t id : *ids) {
        Admitted* admitted = Find(id);
        if (!admitted || admitted->segment == segment_) continue;
        admitted->segment = segment_;
        ++series_in_tail_;
      }
    }
  }
}

size_t RunWriter::room() const {
  const size_t kept = entry_.loaded->open.frames.size() + frames_.size();
  const size_t most = std::min(kFramesPerCommit - std::min(kFramesPerCommit, batches_.size()),
                               kFramesMost - std::min(kFramesMost, kept));
  return entry_.loaded->open.bytes < 2 * kTailBytesMost ? most : 0;
}

RunWriter::Admitted* RunWriter::Find(uint32_t series) {
  if (series == 0 || series > SeriesCatalogue::kMaxSeries) return nullptr;
  if (admitted_.size() < series) admitted_.resize(std::max<size_t>(series, admitted_.size() * 2));
  Admitted& admitted = admitted_[series - 1];
  if (!admitted.known) {
    const auto found = entry_.loaded->run->series().Find(series);
    if (!found) return nullptr;
    admitted.known = true;
    admitted.type = found->traits.type;
    admitted.timeline = found->timeline;
    admitted.precision = found->traits.precision;
  }
  return &admitted;
}

// Whether numbers of any series stand beside this step: one look for a whole batch.
bool RunWriter::HasStep(const StepStamp& stamp) {
  auto has = [&](const std::vector<std::shared_ptr<const Frame>>& frames) {
    return std::any_of(frames.begin(), frames.end(), [&](const auto& frame) {
      return frame->stamp.step == stamp.step && frame->stamp.timeline == stamp.timeline;
    });
  };
  const LoadedRun& loaded = *entry_.loaded;
  if (has(frames_) || has(loaded.open.frames) || (loaded.sealed && has(loaded.sealed->frames))) return true;
  return std::any_of(loaded.segments.begin(), loaded.segments.end(), [&](const auto& segment) {
    return std::any_of(segment->ranges.begin(), segment->ranges.end(), [&](const StampRange& range) {
      return range.timeline == stamp.timeline && range.first_step <= stamp.step && stamp.step <= range.last_step;
    });
  });
}

// Steps nearly always ascend. One that does not is looked for, wherever it may be; where that cannot be read it may be there.
bool RunWriter::IsRepeated(uint32_t series, Admitted& admitted, const StepStamp& stamp) {
  const uint64_t step = stamp.step;
  if (!admitted.any || step > admitted.last_step) return false;
  if (step == admitted.last_step) return true;
  for (const auto& [stamp, other] : others_) {
    if (other->series == series && stamp.step == step) return true;
  }
  if (admitted.type != ValueType::kNumber) {
    const Result<bool> found = file_->HasOther(series, step);
    return !found || *found;
  }
  if (!step_kept_) step_kept_ = HasStep(stamp);
  if (!*step_kept_) return false;
  auto has = [&](const std::vector<std::shared_ptr<const Frame>>& frames) {
    return std::any_of(frames.begin(), frames.end(), [&](const auto& frame) {
      return frame->stamp.step == step && Frame::PositionOf(*frame->layout, series);
    });
  };
  const LoadedRun& loaded = *entry_.loaded;
  if (has(frames_) || has(loaded.open.frames) || (loaded.sealed && has(loaded.sealed->frames))) return true;
  auto snapshot = std::make_shared<RunSnapshot>();
  snapshot->info = loaded.run->info();
  snapshot->run = loaded.run;
  snapshot->segments = loaded.segments;
  snapshot->entry = std::shared_ptr<RunEntry>(&entry_, [](RunEntry*) {});  // for the length of this call
  const auto found = loaded.run->series().Find(series);
  auto one = [what = std::optional<SeriesToRead>({snapshot, {{found}}})]() mutable -> Result<std::optional<SeriesToRead>> {
    return std::exchange(what, std::nullopt);
  };
  ReadQuery query;
  query.step_min = query.step_max = step;
  const auto reader = MakeReader(std::move(one), query, Database::Mode::kReadWrite, nullptr);
  const auto part = reader->Next();
  return !part || (*part && !(*part)->steps.empty());
}

void RunWriter::Stage(const std::shared_ptr<const Batch>& batch) {
  ++batch_;
  step_kept_.reset();
  const StepStamp& stamp = batch->stamp;
  std::vector<FrameMaker::Number> numbers;
  numbers.reserve(batch->samples.size());
  for (const Sample& sample : batch->samples) {
    Admitted* admitted = Find(sample.series);
    // Steps are those of a timeline: under another one they would be other steps.
    if (!admitted || admitted->type != ValueType::kNumber || admitted->timeline != stamp.timeline) {
      ++staged_.no_series;
    } else if (admitted->batch == batch_ || IsRepeated(sample.series, *admitted, stamp)) {
      ++staged_.repeated;
    } else {
      admitted->batch = batch_;
      numbers.push_back({sample.series, admitted->precision, sample.flags, sample.value});
    }
  }
  for (const FrameMaker::Number& number : numbers) {
    Admitted& admitted = admitted_[number.series - 1];
    admitted.last_step = admitted.any ? std::max(admitted.last_step, stamp.step) : stamp.step;
    admitted.any = true;
    if (admitted.segment != segment_) {
      admitted.segment = segment_;
      ++series_in_tail_;
    }
  }
  if (!numbers.empty()) frames_.push_back(maker_.Make(stamp, numbers));
  for (const OtherValue& other : batch->others) {
    Admitted* admitted = Find(other.series);
    if (!admitted || admitted->type != TypeOf(other.value) || admitted->type == ValueType::kNumber ||
        admitted->timeline != stamp.timeline) {
      ++staged_.no_series;
    } else if (admitted->type != ValueType::kText && IsRepeated(other.series, *admitted, stamp)) {
      ++staged_.repeated;
    } else {
      admitted->last_step = admitted->any ? std::max(admitted->last_step, stamp.step) : stamp.step;
      admitted->any = true;
      others_.emplace_back(stamp, &other);
    }
  }
  for (const Event& event : batch->events) events_.push_back(&event);
  if (batch->progress) progress_ = batch->progress;
  staged_values_ += batch->values();
  batches_.push_back(batch);
}

Status RunWriter::Commit(const ProducerStatus* status, const std::vector<ModuleInfo>* modules,
                         const std::vector<std::string>* tags, std::map<std::string, uint64_t> unrecorded,
                         CommitReport* report) {
  CommitReport done = staged_;
  LoadedRun& loaded = *entry_.loaded;
  Totals totals;
  std::string host;
  std::map<std::string, uint64_t> unrecorded_before;
  {
    std::lock_guard lock(entry_.mutex);
    totals = entry_.head.totals;
    host = entry_.head.host;
    unrecorded_before = entry_.head.unrecorded;
  }
  Database& db = file_->database();
  Transaction transaction(db);
  if (Status begun = transaction.Begin(); !begun) return begun;
  const auto timelines = loaded.run->series().Timelines();
  const auto series = loaded.run->series().Since(series_saved_);
  if (Status saved = file_->AddTimelines(timelines, timelines_saved_); !saved) return saved;
  if (Status saved = file_->AddSeries(series); !saved) return saved;
  if (status) {
    if (Status saved = file_->SaveProducer(*status, host, status_saved_ ? &*status_saved_ : nullptr); !saved) return saved;
  }
  if (modules) {
    if (Status saved = file_->SaveModules(*modules); !saved) return saved;
  }
  if (tags) {
    if (Status saved = file_->SaveTags(*tags); !saved) return saved;
  }
  std::vector<const Event*> events;
  for (const Event* event : events_) {
    Status added = file_->AddEvent(*event);
    if (ConcernsRow(added)) {
      ++done.events_dropped;
      done.refusal = added.error().text;
    } else if (!added) {
      return added;
    } else {
      events.push_back(event);
    }
  }
  std::vector<std::pair<StepStamp, const OtherValue*>> others;
  for (const auto& [stamp, other] : others_) {
    uint64_t bytes = 0;
    Status added = file_->AddOther(stamp, *other, &bytes);
    if (ConcernsRow(added)) {
      ++done.refused;
      done.refusal = added.error().text;
      continue;
    }
    if (!added) return added;
    totals.others_bytes += bytes;
    others.emplace_back(stamp, other);
  }
  done.written = others.size();
  for (const auto& frame : frames_) done.written += frame->values();
  if (progress_) totals.progress = *progress_;
  totals.written += done.written;
  totals.values += done.written;
  for (const auto& batch : batches_) {
    if (batch->values() == 0) continue;
    totals.last_step = std::max(totals.last_step, batch->stamp.step);
    totals.last_unix_ns = std::max(totals.last_unix_ns, batch->stamp.unix_ns);
  }
  // With the commit that did not take them: a daemon that is killed now has not forgotten them.
  done.AddDropsTo(unrecorded);
  if (unrecorded != unrecorded_before) {
    if (Status saved = file_->SaveUnrecorded(unrecorded); !saved) return saved;
  }
  if (!batches_.empty()) {
    const std::string blob = frames_.empty() ? std::string() : EncodeFrames(frames_, coder_);
    if (Status added = file_->AddLog(log_seq_ + 1, totals, blob); !added) return added;
  }
  const int64_t value_last = others.empty() ? 0 : sqlite3_last_insert_rowid(db.handle());
  Result<int64_t> last = value_last > 0 ? db.QueryInt("SELECT coalesce(max(id), 0) FROM value") : Result<int64_t>(0);
  if (!last) return last.error();
  if (Status committed = transaction.Commit(); !committed) return committed;

  std::lock_guard lock(entry_.mutex);
  if (status) status_saved_ = *status;
  if (!batches_.empty()) loaded.open.log_last = ++log_seq_;
  entry_.published = batches_.size();
  timelines_saved_ = static_cast<TimelineId>(timelines.size());
  if (!series.empty()) series_saved_ = series.back()->id;
  for (auto& frame : frames_) {
    CountFrame(*frame, loaded.tallies);
    loaded.open.Add(std::move(frame), log_seq_);
  }
  for (const auto& [stamp, other] : others) CountValue(other->series, stamp.step, 0, loaded.tallies);
  if (*last > 0) loaded.value_last = static_cast<uint64_t>(*last);
  RunHead& head = entry_.head;
  head.totals = totals;
  head.series = loaded.run->series().size();
  for (const Event* event : events) {
    if (head.events++ == 0) head.event_first = event->id;
    head.event_last = std::max(head.event_last, event->id);
  }
  frames_.clear();
  others_.clear();
  events_.clear();
  batches_.clear();
  progress_.reset();
  staged_values_ = 0;
  staged_ = {};
  *report = done;
  return {};
}

bool RunWriter::Seal(bool whole) {
  if (sealed_) return true;
  const Tail& open = entry_.loaded->open;
  if (open.frames.empty()) return false;
  const bool many = open.values >= kNumbersPerChunk * std::max<uint64_t>(1, series_in_tail_);
  const bool long_enough = (many && (open.bytes >= kTailBytesMin * 4 || open.frames.size() >= kFramesMax)) ||
                           (many && open.bytes >= kTailBytesMin && open.frames.size() >= kNumbersPerChunk * 8) ||
                           open.bytes >= kTailBytesMost || open.frames.size() >= kFramesMost;
  if (!long_enough && !whole) return false;
  {
    std::lock_guard lock(entry_.mutex);
    LoadedRun& loaded = *entry_.loaded;
    sealed_ = std::make_shared<const Tail>(loaded.open.Cut(kFramesMost));
    loaded.sealed = sealed_;
  }
  group_ = 0;
  sealed_id_ = segment_next_++;
  OrderSealed();
  // Marks of what comes now, and of what was left, are of the next segment.
  ++segment_;
  MarkTail();
  return true;
}

void RunWriter::OrderSealed() {
  std::vector<const Frame*> frames;
  for (const auto& frame : sealed_->frames) frames.push_back(frame.get());
  std::stable_sort(frames.begin(), frames.end(), [](const Frame* a, const Frame* b) {
    return std::pair(a->stamp.timeline, a->stamp.step) < std::pair(b->stamp.timeline, b->stamp.step);
  });
  order_.clear();
  for (const Frame* frame : frames) {
    const StepStamp& stamp = frame->stamp;
    if (order_.empty() || order_.back().timeline != stamp.timeline) order_.push_back({stamp.timeline, {}, {}});
    Order& order = order_.back();
    auto same = [&](const StepStamp& s) {
      return s.step == stamp.step && s.epoch == stamp.epoch && s.unix_ns == stamp.unix_ns &&
             s.samples_seen == stamp.samples_seen && s.flags == stamp.flags;
    };
    // What comes of one step in several batches has one stamp, if it says the same.
    if (order.stamps.empty() || !same(order.stamps.back())) order.stamps.push_back(stamp);
    order.frames.emplace_back(frame, static_cast<uint16_t>(order.stamps.size() - 1));
  }
}

Status RunWriter::SaveCounts() {
  Database& db = file_->database();
  Result<int64_t> untold = db.QueryInt(
      "SELECT count(*) FROM value WHERE id > coalesce((SELECT value FROM meta WHERE name = 'value_tallied'), 0)");
  if (!untold) return untold.error();
  if (*untold == 0) return {};
  Transaction transaction(db);
  if (Status begun = transaction.Begin(); !begun) return begun;
  if (Status saved = file_->SaveTallies(TalliesOfFile(compacted_)); !saved) return saved;
  return transaction.Commit();
}

Result<bool> RunWriter::Compact(size_t slice_bytes) {
  if (!sealed_) return false;
  const uint64_t segment = sealed_id_;
  uint32_t series_last = 0;
  for (const auto& frame : sealed_->frames) {
    if (!frame->layout->singles.empty()) series_last = std::max(series_last, frame->layout->singles.back());
    if (!frame->layout->doubles.empty()) series_last = std::max(series_last, frame->layout->doubles.back());
  }
  const uint32_t groups = series_last == 0 ? 0 : GroupOf(series_last) + 1;
  Transaction transaction(file_->database());
  if (Status begun = transaction.Begin(); !begun) return begun.error();
  if (group_ == 0) {
    if (Status marked = file_->AddGarbage(segment); !marked) return marked.error();
  }
  uint32_t group = group_;
  size_t bytes = 0;
  std::array<SeriesNumbers, kSeriesPerGroup> numbers;
  std::array<std::optional<size_t>, kSeriesPerGroup> position;
  std::array<bool, kSeriesPerGroup> single;
  for (; group < groups && bytes < slice_bytes; ++group) {
    const uint32_t first = group * kSeriesPerGroup + 1;
    for (SeriesNumbers& one : numbers) one.Clear();
    for (const Order& order : order_) {
      const Layout* layout = nullptr;
      bool any = false;
      for (const auto& [frame, stamp] : order.frames) {
        if (frame->layout.get() != layout) {
          layout = frame->layout.get();
          any = false;
          for (uint32_t i = 0; i < kSeriesPerGroup; ++i) {
            position[i] = Frame::PositionOf(*layout, first + i);
            any = any || position[i];
          }
        }
        if (!any) continue;
        for (uint32_t i = 0; i < kSeriesPerGroup; ++i) {
          if (!position[i]) continue;
          single[i] = *position[i] < layout->singles.size();
          SeriesNumbers& one = numbers[i];
          if (!one.at.empty() && one.at.back() == stamp) continue;
          one.at.push_back(stamp);
          one.values.push_back(frame->At(*position[i], first + i));
          one.flags.push_back(frame->FlagsAt(first + i));
        }
      }
    }
    ChunkRow row;
    for (uint32_t i = 0; i < kSeriesPerGroup; ++i) {
      if (numbers[i].at.empty()) continue;
      row.Add(first + i, single[i] ? Precision::kSingle : Precision::kDouble, numbers[i], coder_);
    }
    if (row.empty()) continue;
    bytes += row.data().size() + row.heads().size();
    if (Status added = file_->AddChunks(segment, group, row); !added) return added.error();
  }
  if (group < groups) {
    if (Status committed = transaction.Commit(); !committed) return committed.error();
    group_ = group;
    return true;
  }

  LoadedRun& loaded = *entry_.loaded;
  std::vector<SeriesTally> tallies = compacted_;
  for (const auto& frame : sealed_->frames) CountFrame(*frame, tallies);
  tallies = TalliesOfFile(std::move(tallies));
  std::vector<RunFile::Stamps> stamps;
  Segment done;
  done.id = done.place = segment;
  for (const Order& order : order_) {
    const uint64_t first_step = order.stamps.front().step, last_step = order.stamps.back().step;
    stamps.push_back({order.timeline, first_step, last_step, StampColumns::Encode(order.stamps)});
    done.ranges.push_back({order.timeline, first_step, last_step});
  }
  Totals totals;
  {
    std::lock_guard lock(entry_.mutex);
    totals = entry_.head.totals;
  }
  Status finished = file_->FinishSegment(segment, sealed_->log_last, stamps, tallies, totals);
  if (finished) finished = transaction.Commit();
  if (!finished) return finished.error();
  compacted_ = std::move(tallies);
  order_.clear();
  sealed_.reset();
  std::lock_guard lock(entry_.mutex);
  loaded.segments.push_back(SharedSegment(entry_, std::move(done)));
  loaded.sealed.reset();
  return false;
}

}  // namespace ikkuna::sinks
