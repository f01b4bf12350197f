// RunFile: the SQLite file of one run, attempt and rank, as it is written. STORE.md says what is in it.
//
// Owner: the run's entry in the store. Thread rule: one thread at a time. Errors give the reason alone; kInvalidArgument
// means that a row, kCorrupt that the file, any other code that the disk is at fault.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "daemon/model/batch.h"
#include "daemon/model/query.h"
#include "daemon/model/series.h"
#include "daemon/model/status.h"
#include "daemon/sinks/file_id.h"
#include "daemon/sinks/sqlite.h"
#include "daemon/sinks/store_chunk.h"
#include "daemon/sinks/store_tail.h"

namespace ikkuna::sinks {

constexpr uint64_t kOtherRowBytes = 64;             // of a value's row, beside the value
constexpr int kRunFileVersion = 3;                  // PRAGMA user_version
constexpr int kRunFileApplication = 0x494b524e;     // PRAGMA application_id: "IKRN"

// What a run has come to, as of a commit.
struct Totals {
  Progress progress;
  uint64_t written = 0;  // values
  uint64_t values = 0;   // kept
  uint64_t thinned = 0;
  uint64_t last_step = 0;
  int64_t last_unix_ns = 0;
  uint64_t others_bytes = 0;  // of texts, histograms, tensors
};

// What is known of one series' values.
struct SeriesTally {
  uint64_t count = 0;
  uint64_t thinned = 0;
  uint64_t first_step = 0;
  uint64_t last_step = 0;
  double last = 0;
};

// All that a listing shows of a run.
struct RunHead {
  ProducerStatus producer;
  std::string host;
  std::vector<std::string> tags;
  std::map<std::string, uint64_t> unrecorded;  // values that were not kept, by reason, as of a commit
  Totals totals;
  uint64_t series = 0;
  uint64_t events = 0, event_first = 0, event_last = 0;  // ids
};

// Stamps of one timeline in one segment, without reading them.
struct StampRange {
  TimelineId timeline = 0;
  uint64_t first_step = 0, last_step = 0;
};
struct Segment {
  uint64_t id = 0;     // of its rows
  uint64_t place = 0;  // among the others, oldest first
  uint32_t level = 0;  // how often it was coarsened, each time together with its neighbour
  std::vector<StampRange> ranges;  // ascending by timeline
};

// The row of a group of series in a segment.
struct GroupRow {
  std::vector<ChunkHead> heads;
  std::string data;
};

class RunFile {
 public:
  static constexpr uint64_t kGroupsMax = uint64_t{1} << 20;  // of a chunk's row id: segment * kGroupsMax + group

  // Makes the tables where there are none. Refuses a newer version with kFailedPrecondition, and a file of another
  // program. `to_write`: puts it in WAL mode.
  static Result<std::unique_ptr<RunFile>> Open(const std::string& path, Database::Mode mode, bool to_write,
                                               int busy_ms = Database::kBusyTimeoutMs);

  // Reads all of it: whether it is a run's file, no other tables beside, every row as it was written. For one from
  // elsewhere. kInvalidArgument: it is no run.
  Status CheckWhole();

  // Reading what is small.
  Result<RunHead> LoadHead();
  Status LoadTotals(Totals* totals);
  Status LoadSeries(std::vector<Timeline>* timelines, std::vector<Series>* series);
  Result<std::vector<Segment>> LoadSegments();
  // Of what was compacted and, for others, of all rows; [id - 1].
  Status LoadTallies(std::vector<SeriesTally>* tallies);
  Status LoadTail(PlaneCoder& coder, Tail* tail);
  Result<StampColumns> LoadStamps(uint64_t segment, TimelineId timeline);
  // The chunks of a group of series in one segment; none: the row is empty.
  Status LoadGroup(uint64_t segment, uint32_t group, GroupRow* row);
  // The least step that a series of others has; unchanged where it has none.
  Status LoadFirstStep(uint32_t series, uint64_t* step);
  // Those of the query's kind: ascending ids above its `after_id`, at most `most`, the first of them or the last.
  Status LoadEvents(const EventQuery& query, size_t most, std::vector<Event>* events);
  Result<std::vector<ModuleInfo>> LoadModules();

  // Writing. Each within a transaction of database().
  // `before`: what the file has, of the same host; only what is other is written.
  Status SaveProducer(const ProducerStatus& status, const std::string& host, const ProducerStatus* before = nullptr);
  Status SaveModules(const std::vector<ModuleInfo>& modules);
  Status SaveTags(const std::vector<std::string>& tags);
  Status SaveUnrecorded(const std::map<std::string, uint64_t>& counts);
  Status AddTimelines(std::span<const Timeline> timelines, TimelineId from);
  Status AddSeries(std::span<const std::shared_ptr<const Series>> series);
  Status AddEvent(const Event& event);
  Status AddOther(const StepStamp& stamp, const OtherValue& other, uint64_t* bytes);
  // The commit itself; `seq` above all before.
  Status AddLog(uint64_t seq, const Totals& totals, std::string_view blob);
  Result<bool> HasOther(uint32_t series, uint64_t step);

  // Compaction: rows of a segment that does not count until FinishSegment.
  Status AddChunks(uint64_t segment, uint32_t group, ChunkRow& row);
  struct Stamps {
    TimelineId timeline;
    uint64_t first_step, last_step;
    std::string columns;
  };
  Status FinishSegment(uint64_t segment, uint64_t log_last, const std::vector<Stamps>& stamps,
                       std::span<const SeriesTally> tallies, const Totals& totals);
  // One segment in the place of others, whose rows become garbage.
  Status ReplaceSegments(const Segment& segment, std::span<const uint64_t> old, const std::vector<Stamps>& stamps,
                         std::span<const SeriesTally> tallies);
  // Segments that are not finished, or that were replaced: their rows go by DropGarbage, after a crash too.
  Status AddGarbage(uint64_t segment);
  Result<std::vector<uint64_t>> LoadGarbage();
  // Removes up to `rows` rows. True: there are more.
  Result<bool> DropGarbage(uint64_t segment, int rows);

  Status SaveTallies(std::span<const SeriesTally> tallies);

  // Removes the oldest events beyond `most`, but none that says whose a topic is: answers how many; and the oldest
  // others until `bytes` of them are gone, a slice a call, never the newest: `gone` gets how many of each series.
  Result<uint64_t> TrimEvents(size_t most);
  Status TrimOthers(uint64_t bytes, uint64_t* removed, std::map<uint32_t, uint64_t>* gone);

  // Gives up to `pages` free pages back. True: there may be more.
  Result<bool> Shrink(int pages);
  // Waits until the disk has all commits: the write-ahead log itself, and the file with what readers allow of it.
  Status Sync();
  // The write-ahead log into the file, as far as readers allow.
  Status FoldLog();
  // One file, at rest. kUnavailable: somebody reads it now; try again.
  Status Rest();
  // `allowed` is asked now and then; its error ends it.
  Status CopyTo(const std::string& path, const std::function<Status()>& allowed);
  // Its name does not lead to it any more: somebody deleted it, moved it, or put another in its place. What is written goes
  // on to be written, where nobody will find it.
  bool IsGone();
  // Its write-ahead log, as IsGone() last saw it beside the file.
  std::optional<FileId> log() const { return log_; }

  Database& database() { return database_; }
  const std::string& path() const { return path_; }

 private:
  RunFile(std::string path, Database database) : path_(std::move(path)), database_(std::move(database)) {}
  static const char* Tables();
  Status MakeTables();
  Status CheckChunks(const std::vector<Segment>& segments, const std::vector<uint64_t>& garbage,
                     const std::map<uint32_t, const Series*>& series, PlaneCoder& coder, uint64_t* found);
  Status CheckRows(const std::map<uint32_t, const Series*>& series, uint64_t* found);
  Status AddStamps(uint64_t segment, const std::vector<Stamps>& stamps);

  const std::string path_;
  Database database_;
  std::optional<FileId> log_;
};

// Of a row of `event` and of `value`, with the flags of both step and sample: whether they are what was written. The id
// of an event is not part of it: one that is imported gets another.
uint64_t SumOf(const Event& event);
uint64_t SumOfOther(uint32_t series, const StepStamp& stamp, std::string_view value);

// A value that is no number, as a blob, and back. Texts stand as they are.
std::string EncodeOther(const Value& value);
bool DecodeOther(ValueType type, std::string_view bytes, Value* value);

}  // namespace ikkuna::sinks
