// Whether a file from elsewhere is a run's, wholly: no other tables than ours, every row signed and decoded once.
#include <algorithm>
#include <map>
#include <set>

#include "daemon/model/counted.h"
#include "daemon/sinks/run_file.h"
#include "shared/base/utf8.h"

namespace ikkuna::sinks {
namespace {

constexpr size_t kRunIdBytesMax = 255;

Error Broken(const std::string& what) { return {ErrorCode::kCorrupt, what}; }

using Schema = std::set<std::string>;

Result<Schema> SchemaOf(Database& db) {
  Schema schema;
  Status read = db.Each("SELECT type || ' ' || name || ' ' || coalesce(sql, '') FROM sqlite_schema", [&](Statement& row) {
    schema.insert(row.Text(0));
    return true;
  });
  if (!read) return read.error();
  return schema;
}

}  // namespace

Status RunFile::CheckWhole() {
  // What stands in a schema may run when a row is touched: nothing of it is believed before it is known to be ours.
  sqlite3* handle = database_.handle();
  sqlite3_db_config(handle, SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
  sqlite3_db_config(handle, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, nullptr);
  sqlite3_db_config(handle, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, nullptr);
  sqlite3_db_config(handle, SQLITE_DBCONFIG_ENABLE_VIEW, 0, nullptr);
  Result<Database> memory = Database::Open(":memory:", Database::Mode::kCreate);
  if (!memory) return memory.error();
  if (Status made = memory->Execute(Tables()); !made) return made;
  Result<Schema> ours = SchemaOf(*memory), its = SchemaOf(database_);
  if (!ours) return ours.error();
  if (!its) return its.error();
  if (*ours != *its) return Error{ErrorCode::kInvalidArgument, "it has other tables than a run's file"};
  Result<std::string> sound = database_.QueryText("PRAGMA integrity_check(1)");
  if (!sound) return sound.error();
  if (*sound != "ok") return Broken(*sound);

  Result<RunHead> head = LoadHead();
  if (!head) return head.error();
  const RunKey& key = head->producer.info.run_key;
  if (key.run_id.empty() || key.run_id.size() > kRunIdBytesMax || !IsValidUtf8(key.run_id)) {
    return Error{ErrorCode::kInvalidArgument, "its run has no id of 1 to 255 bytes of UTF-8"};
  }
  std::vector<Timeline> timelines;
  std::vector<Series> list;
  if (Status read = LoadSeries(&timelines, &list); !read) return read;
  std::map<uint32_t, const Series*> series;
  for (const Series& one : list) series[one.id] = &one;
  Result<std::vector<Segment>> segments = LoadSegments();
  if (!segments) return segments.error();
  Result<std::vector<uint64_t>> garbage = LoadGarbage();
  if (!garbage) return garbage.error();
  std::vector<SeriesTally> tallies;
  if (Status read = LoadTallies(&tallies); !read) return read;
  if (Result<std::vector<ModuleInfo>> modules = LoadModules(); !modules) return modules.error();
  PlaneCoder coder;
  Tail tail;
  if (Status read = LoadTail(coder, &tail); !read) return read;
  for (const auto& frame : tail.frames) {
    for (const auto* ids : {&frame->layout->singles, &frame->layout->doubles}) {
      for (uint32_t id : *ids) {
        if (series.count(id) == 0) return Broken("a commit has a series that is not in its list");
      }
    }
  }
  uint64_t found = tail.values;
  if (Status read = CheckChunks(*segments, *garbage, series, coder, &found); !read) return read;
  if (Status read = CheckRows(series, &found); !read) return read;
  if (found != head->totals.values) {
    return Broken("it says that it has " + Counted(head->totals.values, "value") + ", and has " +
                  std::to_string(found));
  }
  return {};
}

Status RunFile::CheckChunks(const std::vector<Segment>& segments, const std::vector<uint64_t>& garbage,
                            const std::map<uint32_t, const Series*>& series, PlaneCoder& coder,
                            uint64_t* found) {
  std::map<std::pair<uint64_t, TimelineId>, StampColumns> stamps;
  std::set<uint64_t> known(garbage.begin(), garbage.end());
  std::vector<uint64_t> ids;
  Status listed = database_.Each("SELECT id FROM chunk ORDER BY id", [&](Statement& row) {
    ids.push_back(row.Unsigned(0));
    return true;
  });
  if (!listed) return listed;
  uint64_t loaded = 0;
  std::set<uint64_t> live;
  for (const Segment& segment : segments) live.insert(segment.id);
  SeriesNumbers numbers;
  GroupRow row;
  for (const uint64_t id : ids) {
    const uint64_t segment = id / kGroupsMax;
    if (live.count(segment) == 0) {
      if (known.count(segment) > 0) continue;  // goes when the file is next written
      return Broken("a chunk is of no segment");
    }
    if (segment != loaded) {
      stamps.clear();
      const auto found = std::find_if(segments.begin(), segments.end(), [&](const Segment& s) { return s.id == segment; });
      for (const StampRange& range : found->ranges) {
        Result<StampColumns> columns = LoadStamps(segment, range.timeline);
        if (!columns) return columns.error();
        stamps[{segment, range.timeline}] = *std::move(columns);
      }
      loaded = segment;
    }
    const auto group = static_cast<uint32_t>(id % kGroupsMax);
    if (Status read = LoadGroup(segment, group, &row); !read) return read;
    for (const ChunkHead& head : row.heads) {
      const auto one = series.find(head.series);
      if (one == series.end() || GroupOf(head.series) != group)
        return Broken("a chunk is of a series that is not in its list");
      const auto columns = stamps.find({segment, one->second->timeline});
      if (columns == stamps.end() || head.last_at >= columns->second.size() || head.offset > row.data.size() ||
          !DecodeChunk(head, std::string_view(row.data).substr(head.offset, head.bytes), coder, &numbers)) {
        return Broken("a chunk of segment " + std::to_string(segment) + " is broken");
      }
      *found += head.count;
    }
  }
  return {};
}

Status RunFile::CheckRows(const std::map<uint32_t, const Series*>& series, uint64_t* found) {
  bool good = true;
  Status read = database_.Each(
      "SELECT series, step, epoch, unix_ns, samples_seen, flags, value, sum FROM value", [&](Statement& row) {
        const auto one = series.find(static_cast<uint32_t>(row.Unsigned(0)));
        StepStamp stamp;
        stamp.step = row.Unsigned(1);
        stamp.epoch = static_cast<uint32_t>(row.Int(2));
        stamp.unix_ns = row.Int(3);
        stamp.samples_seen = row.Unsigned(4);
        stamp.flags = static_cast<uint16_t>(row.Int(5));
        Value value;
        good = one != series.end() && row.Unsigned(7) == SumOfOther(one->first, stamp, row.Blob(6)) &&
               DecodeOther(one->second->traits.type, row.Blob(6), &value);
        ++*found;
        return good;
      });
  if (read && !good) return Broken("a value that is no number is broken");
  if (!read) return read;
  Result<int64_t> bad_ids = database_.QueryInt("SELECT count(*) FROM event WHERE id <= 0");
  if (!bad_ids) return bad_ids.error();
  if (*bad_ids > 0) return Broken("an event has no id");
  std::vector<Event> events;
  return LoadEvents({}, INT64_MAX, &events);
}

}  // namespace ikkuna::sinks
