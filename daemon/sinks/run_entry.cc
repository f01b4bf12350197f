#include "daemon/sinks/run_entry.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <set>

#include "daemon/model/counted.h"
#include "daemon/sinks/run_writer.h"

namespace ikkuna::sinks {
namespace {

constexpr size_t kIdleMax = 2;  // connections kept for the next reader of a run

uint64_t Fnv(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325;
  for (char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

bool HasLog(const std::string& path) {
  struct stat found {};
  for (const char* suffix : {"-wal", "-journal"}) {
    if (::stat((path + suffix).c_str(), &found) == 0 && found.st_size > 0) return true;
  }
  return false;
}

// Whether ids mean in the file what they mean in memory, where there may be more.
bool Agrees(const SeriesCatalogue& catalogue, const std::vector<Series>& series) {
  return std::all_of(series.begin(), series.end(), [&](const Series& one) {
    const auto found = catalogue.Find(one.id);
    return found && found->timeline == one.timeline && found->name == one.name && found->traits.type == one.traits.type;
  });
}

}  // namespace

// A run that was left in the middle is read with its log, which only a connection that could write can do; it is kept
// from folding the log into the file when it closes.
Result<std::unique_ptr<RunFile>> OpenStored(const std::string& path) {
  const bool log = HasLog(path);
  auto file = RunFile::Open(path, log ? Database::Mode::kReadWrite : Database::Mode::kAtRest, false);
  // One that was copied without its log wants to make one, which only who may write beside it can.
  if (!file && !log && file.error().code == ErrorCode::kSystem) {
    file = RunFile::Open(path, Database::Mode::kFrozen, false);
  }
  if (file && log) sqlite3_db_config((*file)->database().handle(), SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
  if (!file && file.error().code == ErrorCode::kUnavailable) {
    return Error{ErrorCode::kUnavailable, "a daemon has it open: read it through its daemon"};
  }
  return file;
}

RunEntry::RunEntry(RunKey run_key, std::string file) : key(std::move(run_key)), path_(std::move(file)) {}
RunEntry::~RunEntry() = default;

void CountValue(uint32_t series, uint64_t step, double value, std::vector<SeriesTally>& tallies) {
  if (series == 0) return;
  if (tallies.size() < series) tallies.resize(series);
  SeriesTally& tally = tallies[series - 1];
  if (tally.count == 0 || step < tally.first_step) tally.first_step = step;
  if (tally.count == 0 || step >= tally.last_step) {
    tally.last_step = step;
    tally.last = value;
  }
  ++tally.count;
}

void CountFrame(const Frame& frame, std::vector<SeriesTally>& tallies) {
  const auto& [singles, doubles] = *frame.layout;
  for (size_t i = 0; i < singles.size(); ++i) {
    CountValue(singles[i], frame.stamp.step, static_cast<double>(frame.singles[i]), tallies);
  }
  for (size_t i = 0; i < doubles.size(); ++i) CountValue(doubles[i], frame.stamp.step, frame.doubles[i], tallies);
  for (const auto& [series, value] : frame.exact) {
    SeriesTally& tally = tallies[series - 1];
    if (tally.last_step == frame.stamp.step) tally.last = value;
  }
}

std::shared_ptr<const Segment> SharedSegment(RunEntry& entry, Segment segment) {
  std::weak_ptr<const Segment>& known = entry.segments[segment.id];
  std::shared_ptr<const Segment> shared = known.lock();
  if (!shared) {
    shared = std::make_shared<const Segment>(std::move(segment));
    known = shared;
  }
  return shared;
}

Result<std::shared_ptr<LoadedRun>> LoadRun(RunEntry& entry, RunFile& file, std::shared_ptr<Run> run) {
  auto loaded = std::make_shared<LoadedRun>();
  loaded->run = std::move(run);
  if (!loaded->run) {
    std::lock_guard lock(entry.mutex);
    loaded->run = std::make_shared<Run>(entry.head.producer.info);
  }
  std::vector<Timeline> timelines;
  std::vector<Series> series;
  if (Status read = file.LoadSeries(&timelines, &series); !read) return read.error();
  if (loaded->run->series().size() == 0) {
    loaded->run->series().Load(std::move(timelines), std::move(series));
  } else if (!Agrees(loaded->run->series(), series)) {
    return Error{ErrorCode::kCorrupt, "its series are others than those of the run that goes on"};
  }
  Result<std::vector<Segment>> segments = file.LoadSegments();
  if (!segments) return segments.error();
  {
    std::lock_guard lock(entry.mutex);
    for (Segment& segment : *segments) loaded->segments.push_back(SharedSegment(entry, std::move(segment)));
  }
  if (Status read = file.LoadTallies(&loaded->tallies); !read) return read.error();
  PlaneCoder coder;
  if (Status read = file.LoadTail(coder, &loaded->open); !read) return read.error();
  for (const auto& frame : loaded->open.frames) CountFrame(*frame, loaded->tallies);
  Result<int64_t> last = file.database().QueryInt("SELECT coalesce(max(id), 0) FROM value");
  if (!last) return last.error();
  loaded->value_last = static_cast<uint64_t>(*last);
  // What a row that is hidden would have told is missed here, or where its series is read.
  Totals totals;
  if (Status read = file.LoadTotals(&totals); !read) return read.error();
  uint64_t counted = 0;
  const size_t series_known = loaded->run->series().size();
  for (size_t i = 0; i < loaded->tallies.size(); ++i) {
    counted += loaded->tallies[i].count;
    if (i >= series_known && loaded->tallies[i].count > 0) return Error{ErrorCode::kCorrupt, "its list of series is broken"};
  }
  loaded->hidden = totals.values - std::min(totals.values, counted);
  return loaded;
}

RecordedSteps LoadRecorded(const std::shared_ptr<RunEntry>& entry,
                           const std::vector<std::shared_ptr<const Batch>>& waiting) {
  RecordedSteps recorded;
  std::vector<std::shared_ptr<const Segment>> segments;
  std::vector<std::shared_ptr<const Frame>> frames;
  std::vector<Timeline> timelines;
  std::map<TimelineId, std::set<uint64_t>> steps;
  {
    std::lock_guard lock(entry->mutex);
    if (!entry->loaded) return recorded;
    const LoadedRun& loaded = *entry->loaded;
    segments = loaded.segments;
    frames = loaded.open.frames;
    if (loaded.sealed) frames.insert(frames.end(), loaded.sealed->frames.begin(), loaded.sealed->frames.end());
    timelines = loaded.run->series().Timelines();
    recorded.next.resize(loaded.tallies.size());
    for (const auto& series : loaded.run->series().Since(0)) {
      if (series->id > loaded.tallies.size() || loaded.tallies[series->id - 1].count == 0) continue;
      const uint64_t last = loaded.tallies[series->id - 1].last_step;
      recorded.next[series->id - 1] = last + 1;
      steps[series->timeline].insert(last);
    }
  }
  for (const auto& batch : waiting) {
    const uint64_t step = batch->stamp.step;
    const auto add = [&](uint32_t series) {
      if (series == 0 || series > SeriesCatalogue::kMaxSeries) return;
      if (series > recorded.next.size()) recorded.next.resize(series, 0);
      recorded.next[series - 1] = std::max(recorded.next[series - 1], step + 1);
    };
    for (const Sample& sample : batch->samples) add(sample.series);
    for (const OtherValue& other : batch->others) add(other.series);
    if (batch->values() > 0) steps[batch->stamp.timeline].insert(step);
  }
  for (const auto& frame : frames) steps[frame->stamp.timeline].insert(frame->stamp.step);
  for (auto& [timeline, known] : steps) {
    if (timeline < 1 || timeline > timelines.size()) continue;
    const uint64_t from = *known.rbegin() - std::min(*known.rbegin(), RecordedSteps::kBehindMax);
    for (const auto& segment : segments) {
      for (const StampRange& range : segment->ranges) {
        if (range.timeline != timeline || range.last_step < from) continue;
        Result<BorrowedFile> file = BorrowedFile::Borrow(entry, Database::Mode::kReadWrite);
        if (!file) continue;
        const Result<StampColumns> stamps = (*file)->LoadStamps(segment->id, timeline);
        if (!stamps) continue;
        for (size_t i = stamps->size(); i-- > 0 && stamps->step(i) >= from;) known.insert(stamps->step(i));
      }
    }
    recorded.steps[timelines[timeline - 1]].assign(known.lower_bound(from), known.end());
  }
  return recorded;
}

Error CannotRead(const RunEntry& entry, const Error& error) {
  struct stat found {};
  if (::lstat(entry.path().c_str(), &found) != 0 && errno == ENOENT) {
    return Error{ErrorCode::kNotFound, Describe(entry.key) + " cannot be read: it was deleted meanwhile, or '" +
                                           entry.path() + "' taken away"};
  }
  return Error{error.code, "cannot read " + Describe(entry.key) + " from '" + entry.path() + "': " + error.text};
}

Result<BorrowedFile> BorrowedFile::Borrow(std::shared_ptr<RunEntry> entry, Database::Mode mode) {
  {
    std::lock_guard lock(entry->mutex);
    if (!entry->idle.empty()) {
      std::unique_ptr<RunFile> file = std::move(entry->idle.back());
      entry->idle.pop_back();
      return BorrowedFile(std::move(entry), std::move(file));
    }
  }
  Result<std::unique_ptr<RunFile>> file =
      mode == Database::Mode::kAtRest ? OpenStored(entry->path()) : RunFile::Open(entry->path(), mode, false);
  if (!file) return CannotRead(*entry, file.error());
  return BorrowedFile(std::move(entry), *std::move(file));
}

BorrowedFile::~BorrowedFile() {
  if (!entry_ || !file_) return;
  std::lock_guard lock(entry_->mutex);
  // Nobody's connection keeps a run that is over from becoming one file.
  if (entry_->loaded && entry_->idle.size() < kIdleMax && IsOpen(entry_->head.producer.state)) {
    entry_->idle.push_back(std::move(file_));
  }
}

std::vector<SeriesInfo> MatchSeries(const RunSnapshot& snapshot, std::vector<SeriesTally> tallies,
                                    const SeriesFilter& filter, uint32_t after, size_t limit) {
  std::vector<SeriesInfo> found;
  if (!filter.MatchesRun(snapshot.info->run_key, snapshot.info->run)) return found;
  for (const auto& batch : snapshot.batches) {
    for (const Sample& sample : batch->samples) {
      if (sample.series <= SeriesCatalogue::kMaxSeries) {
        CountValue(sample.series, batch->stamp.step, sample.value, tallies);
      }
    }
    for (const OtherValue& other : batch->others) {
      if (other.series <= SeriesCatalogue::kMaxSeries) CountValue(other.series, batch->stamp.step, 0, tallies);
    }
  }
  for (const auto& series : snapshot.run->series().Since(after)) {
    if (found.size() >= limit) break;
    // A name that nothing came for is no series yet.
    if (series->id > tallies.size() || tallies[series->id - 1].count + tallies[series->id - 1].thinned == 0) continue;
    if (!filter.MatchesSeries(series->name)) continue;
    const SeriesTally& tally = tallies[series->id - 1];
    SeriesInfo info;
    info.run = snapshot.info;
    info.series = series;
    info.count = tally.count;
    info.thinned = tally.thinned;
    info.first_step = tally.first_step;
    info.last_step = tally.last_step;
    if (series->traits.type == ValueType::kNumber) info.last = tally.last;
    found.push_back(std::move(info));
  }
  return found;
}

SeriesToRead ToRead(std::shared_ptr<const RunSnapshot> run, std::vector<SeriesTally> tallies, const ReadQuery& query) {
  SeriesToRead what{std::move(run), {}};
  const std::vector<SeriesTally> committed = tallies;
  for (SeriesInfo& info : MatchSeries(*what.run, std::move(tallies), query.filter, 0, SIZE_MAX)) {
    const ValueType type = info.series->traits.type;
    if (!query.types.empty() && std::find(query.types.begin(), query.types.end(), type) == query.types.end()) continue;
    const uint32_t id = info.series->id;
    what.series.push_back({std::move(info.series), id <= committed.size() ? committed[id - 1].count : 0, info.thinned});
  }
  return what;
}

Error HiddenValues(const std::string& path, uint64_t values) {
  return {ErrorCode::kCorrupt, Counted(values, "value") + " that '" + path + "' says it has cannot be found in it"};
}

RunInfo InfoOf(const RunHead& head, uint64_t bytes) {
  RunInfo info;
  info.info = head.producer.info;
  info.state = head.producer.state;
  info.host = head.host;
  info.last_unix_ns = std::max(head.totals.last_unix_ns, head.producer.info.start_unix_ns);
  info.last_step = head.totals.last_step;
  info.series = head.series;
  info.values = head.totals.values;
  info.thinned = head.totals.thinned;
  info.bytes = bytes;
  info.tags = head.tags;
  for (const auto& [reason, count] : head.unrecorded) info.unrecorded.push_back({reason, count});
  return info;
}

std::string RunFileName(const RunKey& key, int number) {
  constexpr size_t kNameMax = 100;
  std::string name;
  bool plain = !key.run_id.empty() && key.run_id.size() <= kNameMax;
  for (char c : key.run_id.substr(0, kNameMax)) {
    const bool kept = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '~';
    plain = plain && kept;  // capital letters, too, are not told apart everywhere
    name += kept || (c >= 'A' && c <= 'Z') ? c : '_';
  }
  // No shell takes it for an option or a home, no listing hides it.
  if (name.empty() || name[0] == '-' || name[0] == '~') {
    name.insert(0, "_");
    plain = false;
  }
  if (!plain) {
    char hash[24];
    std::snprintf(hash, sizeof(hash), ".%016llx", static_cast<unsigned long long>(Fnv(key.run_id)));
    name += hash;
  }
  name += ".a" + std::to_string(key.attempt);
  name += key.rank == kAllRanks ? ".rall" : ".r" + std::to_string(key.rank);
  if (number > 1) name += "." + std::to_string(number);
  return name + ".run";
}

uint64_t FileBytes(const std::string& path) {
  uint64_t bytes = 0;
  for (const char* suffix : {"", "-wal"}) {
    struct stat found {};
    if (::stat((path + suffix).c_str(), &found) == 0) bytes += static_cast<uint64_t>(found.st_size);
  }
  return bytes;
}

uint64_t FileBytes(const RunEntry& entry) {
  const uint64_t rest = entry.rest_bytes.load(std::memory_order_relaxed);
  return rest > 0 ? rest : FileBytes(entry.path());
}

}  // namespace ikkuna::sinks
