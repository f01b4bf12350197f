// Thinning: what keeps a run that goes on within the store's cap. Two neighbouring segments become one of about the size of
// one: of each series' numbers only those at steps that are multiples of 2^k stay, with k the least that leaves half of
// them, and the first and last of all. Levels are kept about equally long, the highest the oldest, so that a run of any
// length is kept whole, coarser the older it is.
#include <algorithm>
#include <map>

#include "daemon/sinks/run_writer.h"

namespace ikkuna::sinks {
namespace {

constexpr uint32_t kGroupsPerSlice = 4'096;
constexpr size_t kStampsMost = StampColumns::kStampsMax;  // of one timeline in one segment

bool Keeps(uint64_t step, uint32_t k) { return k >= 64 ? step == 0 : (step & ((uint64_t{1} << k) - 1)) == 0; }

}  // namespace

// A number that stays, with where it stands in the old segments.
struct RunWriter::Kept {
  uint64_t step;
  double value;
  uint16_t flags;
  uint16_t at;
  uint8_t from;  // index of the old segment
};

struct RunWriter::Thinning {
  struct Line {
    std::vector<StampColumns> stamps;            // of each old segment; empty: it has none of this timeline
    std::vector<std::vector<uint16_t>> place;    // [old segment][index of the stamp]: used (1), then its new index
    std::vector<StepStamp> merged;
  };
  std::vector<std::shared_ptr<const Segment>> old;  // one or two, oldest first
  Segment merged;
  std::map<TimelineId, Line> lines;
  bool writes = false;  // first which stamps are used is found, then rows are written
  uint32_t group = 0, groups = 0;
  uint64_t removes = 0;
  std::vector<uint64_t> old_bytes;  // of the numbers of each, as far as rows were written
  std::vector<std::pair<uint32_t, uint64_t>> gone;  // series, numbers
};

RunWriter::RunWriter(RunEntry& entry, std::unique_ptr<RunFile> file) : entry_(entry), file_(std::move(file)) {}
RunWriter::~RunWriter() = default;

bool RunWriter::BeginThinning() {
  if (thinning_) return true;
  std::vector<std::shared_ptr<const Segment>> segments;
  {
    std::lock_guard lock(entry_.mutex);
    segments = entry_.loaded->segments;
  }
  if (segments.empty()) return false;
  std::map<uint32_t, size_t> of_level;
  for (const auto& segment : segments) ++of_level[segment->level];
  const auto longest = std::max_element(of_level.begin(), of_level.end(),
                                        [](const auto& a, const auto& b) { return a.second < b.second; });
  size_t first = 0;
  if (longest->second > 1) {
    while (segments[first]->level != longest->first) ++first;
  }
  auto fresh = std::make_unique<Thinning>();
  fresh->old.push_back(segments[first]);
  if (first + 1 < segments.size()) fresh->old.push_back(segments[first + 1]);
  if (fresh->old.size() == 1 && fresh->old[0]->id == thinned_out_) return false;
  thinning_ = std::move(fresh);
  if (Status read = ReadStamps(*thinning_); !read) {
    thinning_.reset();
    return false;
  }
  return true;
}

Status RunWriter::ReadStamps(Thinning& thinning) {
  thinning.lines.clear();
  thinning.group = 0;
  thinning.removes = 0;
  thinning.groups = static_cast<uint32_t>((entry_.loaded->run->series().Since(0).size() + kSeriesPerGroup)) / kSeriesPerGroup;
  thinning.merged = {0, thinning.old[0]->place, 0, {}};
  for (size_t i = 0; i < thinning.old.size(); ++i) {
    const Segment& segment = *thinning.old[i];
    thinning.merged.level = std::max(thinning.merged.level, segment.level + 1);
    for (const StampRange& range : segment.ranges) {
      Thinning::Line& line = thinning.lines[range.timeline];
      line.stamps.resize(thinning.old.size());
      line.place.resize(thinning.old.size());
      Result<StampColumns> stamps = file_->LoadStamps(segment.id, range.timeline);
      if (!stamps) return stamps.error();
      line.place[i].assign(stamps->size(), 0);
      line.stamps[i] = *std::move(stamps);
    }
  }
  return {};
}

// What stays of one series. `before`: numbers that were gone already.
Status RunWriter::Keep(const Thinning& thinning, std::span<const StampColumns> stamps_of, uint32_t series,
                       std::span<const GroupRow> rows, std::vector<Kept>* kept, uint8_t* coarsened, uint64_t* before) {
  kept->clear();
  *coarsened = 0;
  *before = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    for (const ChunkHead& head : rows[i].heads) {
      if (head.series != series) continue;
      const StampColumns& stamps = stamps_of[i];
      if (head.last_at >= stamps.size() || head.offset > rows[i].data.size() ||
          !DecodeChunk(head, std::string_view(rows[i].data).substr(head.offset, head.bytes), coder_, &numbers_)) {
        return Error{ErrorCode::kCorrupt, "a chunk of segment " + std::to_string(thinning.old[i]->id) + " is broken"};
      }
      *coarsened = std::max(*coarsened, head.coarsened);
      *before += head.thinned;
      for (size_t n = 0; n < numbers_.at.size(); ++n) {
        kept->push_back({stamps.step(numbers_.at[n]), numbers_.values[n], numbers_.flags[n], numbers_.at[n],
                         static_cast<uint8_t>(i)});
      }
    }
  }
  auto by_step = [](const Kept& a, const Kept& b) { return a.step < b.step; };
  if (!std::is_sorted(kept->begin(), kept->end(), by_step)) std::stable_sort(kept->begin(), kept->end(), by_step);
  if (kept->size() <= 2) return {};
  const uint64_t first = kept->front().step, last = kept->back().step;
  const size_t most = kept->size() / 2 + 1;
  uint32_t k = *coarsened;
  size_t stay = 0;
  for (;; ++k) {
    stay = 0;
    for (const Kept& one : *kept) stay += one.step == first || one.step == last || Keeps(one.step, k) ? 1 : 0;
    if (stay <= std::max<size_t>(most, 2) || k >= 64) break;
  }
  // Steps that are all odd, as the last ones of epochs may be: every second number, as they come.
  if (stay * 4 < kept->size()) {
    const size_t end = kept->size() - 1;
    size_t into = 0;
    for (size_t i = 0; i <= end; ++i) {
      if (i % 2 == 0 || i == end) (*kept)[into++] = (*kept)[i];
    }
    kept->resize(into);
    return {};
  }
  *coarsened = static_cast<uint8_t>(k);
  std::erase_if(*kept, [&](const Kept& one) { return one.step != first && one.step != last && !Keeps(one.step, k); });
  return {};
}

Status RunWriter::ThinGroup(Thinning& thinning, uint32_t group, size_t* bytes) {
  std::vector<GroupRow> rows(thinning.old.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    if (Status read = file_->LoadGroup(thinning.old[i]->id, group, &rows[i]); !read) return read;
    *bytes += rows[i].data.size();
    if (thinning.writes) thinning.old_bytes[i] += rows[i].data.size() + rows[i].heads.size() * ChunkHead::kBytes;
  }
  ChunkRow row;
  std::vector<Kept> kept;
  const uint32_t first = group * kSeriesPerGroup + 1;
  for (uint32_t series = first; series < first + kSeriesPerGroup; ++series) {
    size_t had = 0;
    const ChunkHead* any = nullptr;
    for (const GroupRow& one : rows) {
      for (const ChunkHead& head : one.heads) {
        if (head.series != series) continue;
        had += head.count;
        any = &head;
      }
    }
    if (!any) continue;
    const auto known = entry_.loaded->run->series().Find(series);
    const auto found = known ? thinning.lines.find(known->timeline) : thinning.lines.end();
    if (found == thinning.lines.end()) return Error{ErrorCode::kCorrupt, "a chunk is of a series that is not known"};
    Thinning::Line& line = found->second;
    uint8_t coarsened = 0;
    uint64_t before = 0;
    if (Status done = Keep(thinning, line.stamps, series, rows, &kept, &coarsened, &before); !done) return done;
    const uint64_t removed = had - kept.size();
    if (!thinning.writes) {
      for (const Kept& one : kept) line.place[one.from][one.at] = 1;
      thinning.removes += removed;
      continue;
    }
    if (removed > 0) thinning.gone.emplace_back(series, removed);
    // What is gone stood among all of them, so that each chunk says of a part that it is.
    uint64_t thinned = before + removed;
    size_t chunks = (kept.size() + kNumbersPerChunk - 1) / kNumbersPerChunk;
    for (size_t begin = 0; begin < kept.size(); begin += kNumbersPerChunk, --chunks) {
      const uint64_t share = (thinned + chunks - 1) / chunks;
      thinned -= share;
      numbers_.Clear();
      for (size_t i = begin; i < std::min(begin + kNumbersPerChunk, kept.size()); ++i) {
        numbers_.at.push_back(line.place[kept[i].from][kept[i].at]);
        numbers_.values.push_back(kept[i].value);
        numbers_.flags.push_back(kept[i].flags);
      }
      row.AddChunk(series, any->precision, numbers_, coarsened,
                   static_cast<uint32_t>(std::min<uint64_t>(share, UINT32_MAX)), coder_);
    }
  }
  if (row.empty()) return {};
  return file_->AddChunks(thinning.merged.id, group, row);
}

// False: more stamps stay than one segment can have.
bool RunWriter::PlaceStamps(Thinning& thinning) {
  for (auto& [timeline, line] : thinning.lines) {
    struct Used {
      StepStamp stamp;
      size_t from, at;
    };
    std::vector<Used> used;
    for (size_t i = 0; i < line.place.size(); ++i) {
      for (size_t at = 0; at < line.place[i].size(); ++at) {
        if (line.place[i][at] != 0) used.push_back({line.stamps[i].at(at), i, at});
      }
    }
    if (used.size() > kStampsMost) return false;
    std::stable_sort(used.begin(), used.end(),
                     [](const Used& a, const Used& b) { return a.stamp.step < b.stamp.step; });
    line.merged.clear();
    for (const Used& one : used) {
      line.place[one.from][one.at] = static_cast<uint16_t>(line.merged.size());
      line.merged.push_back(one.stamp);
    }
  }
  return true;
}

Result<bool> RunWriter::Thin(size_t slice_bytes) {
  if (!thinning_) return false;
  Thinning& thinning = *thinning_;
  const size_t gone_before = thinning.gone.size();
  auto give_up = [&](const Error& error) {
    // The next try begins anew; what was written of it is garbage by name.
    thinning_.reset();
    return error;
  };
  Transaction transaction(file_->database());
  if (thinning.writes) {
    if (Status begun = transaction.Begin(); !begun) return begun.error();
    if (thinning.group == 0) {
      if (Status marked = file_->AddGarbage(thinning.merged.id); !marked) return give_up(marked.error());
    }
  }
  uint32_t group = thinning.group;
  size_t bytes = 0;
  for (; group < thinning.groups && bytes < 2 * slice_bytes && group - thinning.group < kGroupsPerSlice; ++group) {
    if (Status done = ThinGroup(thinning, group, &bytes); !done) {
      thinning.gone.resize(gone_before);
      if (done.error().code == ErrorCode::kCorrupt || !thinning.writes) return give_up(done.error());
      return done.error();
    }
  }
  if (group < thinning.groups) {
    if (thinning.writes) {
      if (Status committed = transaction.Commit(); !committed) {
        thinning.gone.resize(gone_before);
        return committed.error();
      }
    }
    thinning.group = group;
    return true;
  }
  if (!thinning.writes) {
    if (thinning.old.size() == 1 && thinning.removes == 0) {
      thinned_out_ = thinning.old[0]->id;
      thinning_.reset();
      return false;
    }
    if (!PlaceStamps(thinning)) {
      thinning.old.pop_back();
      if (Status read = ReadStamps(thinning); !read) return give_up(read.error());
      return true;
    }
    thinning.writes = true;
    thinning.old_bytes.assign(thinning.old.size(), 0);
    thinning.group = 0;
    thinning.merged.id = segment_next_++;
    return true;
  }
  Status finished = FinishThinning(thinning, transaction);
  if (!finished) {
    thinning.gone.resize(gone_before);
    return finished.error();
  }
  thinning_.reset();
  return false;
}

Status RunWriter::FinishThinning(Thinning& thinning, Transaction& transaction) {
  LoadedRun& loaded = *entry_.loaded;
  std::vector<RunFile::Stamps> stamps;
  for (auto& [timeline, line] : thinning.lines) {
    if (line.merged.empty()) continue;
    const uint64_t first = line.merged.front().step, last = line.merged.back().step;
    stamps.push_back({timeline, first, last, StampColumns::Encode(line.merged)});
    thinning.merged.ranges.push_back({timeline, first, last});
  }
  auto thin = [&](std::vector<SeriesTally>& tallies) {
    for (const auto& [series, numbers] : thinning.gone) {
      if (series > tallies.size()) continue;
      tallies[series - 1].count -= std::min(tallies[series - 1].count, numbers);
      tallies[series - 1].thinned += numbers;
    }
  };
  std::vector<SeriesTally> compacted = compacted_;
  thin(compacted);
  uint64_t removed = 0;
  for (const auto& [series, numbers] : thinning.gone) removed += numbers;
  std::vector<uint64_t> old;
  for (const auto& segment : thinning.old) old.push_back(segment->id);
  Status done = file_->ReplaceSegments(thinning.merged, old, stamps, TalliesOfFile(compacted));
  if (done) done = CommitThinned(removed, 0, transaction);
  if (!done) {
    thinning.merged.ranges.clear();
    return done;
  }
  compacted_ = std::move(compacted);
  std::lock_guard lock(entry_.mutex);
  thin(loaded.tallies);
  auto merged = SharedSegment(entry_, thinning.merged);
  const auto at = std::find(loaded.segments.begin(), loaded.segments.end(), thinning.old[0]);
  *at = std::move(merged);
  for (size_t i = 1; i < thinning.old.size(); ++i) {
    loaded.segments.erase(std::find(loaded.segments.begin(), loaded.segments.end(), thinning.old[i]));
  }
  for (size_t i = 0; i < thinning.old.size(); ++i) {
    retired_.push_back({std::move(thinning.old[i]), i < thinning.old_bytes.size() ? thinning.old_bytes[i] : 0});
  }
  return {};
}

// Commits with the totals less what is gone, which stand in a row of the log as those of a commit do.
Status RunWriter::CommitThinned(uint64_t removed, uint64_t others_bytes_removed, Transaction& transaction) {
  Totals totals;
  {
    std::lock_guard lock(entry_.mutex);
    totals = entry_.head.totals;
  }
  totals.values -= std::min(totals.values, removed);
  totals.thinned += removed;
  totals.others_bytes -= std::min(totals.others_bytes, others_bytes_removed);
  if (Status added = file_->AddLog(log_seq_ + 1, totals, {}); !added) return added;
  if (Status committed = transaction.Commit(); !committed) return committed;
  std::lock_guard lock(entry_.mutex);
  entry_.loaded->open.log_last = ++log_seq_;
  entry_.head.totals = totals;
  return {};
}

std::vector<SeriesTally> RunWriter::TalliesOfFile(std::vector<SeriesTally> compacted) {
  const std::vector<SeriesTally>& all = entry_.loaded->tallies;
  compacted.resize(std::max(compacted.size(), all.size()));
  for (uint32_t id = 1; id <= all.size(); ++id) {
    // Rows of other values are counted in the file by themselves.
    if (const Admitted* admitted = Find(id); admitted && admitted->type != ValueType::kNumber) {
      compacted[id - 1] = all[id - 1];
    }
  }
  return compacted;
}

// When the file is opened: what was begun and not ended goes at once, what somebody still reads later.
Status RunWriter::DropGarbage() {
  Result<std::vector<uint64_t>> garbage = file_->LoadGarbage();
  if (!garbage) return garbage.error();
  for (const uint64_t id : *garbage) {
    {
      std::lock_guard lock(entry_.mutex);
      const auto known = entry_.segments.find(id);
      std::shared_ptr<const Segment> held = known == entry_.segments.end() ? nullptr : known->second.lock();
      if (held) {
        retired_.push_back({std::move(held), 0});  // not known: it is nothing that an answer needs
        continue;
      }
      entry_.segments.erase(id);
    }
    if (Result<bool> dropped = file_->DropGarbage(id, INT32_MAX); !dropped) return dropped.error();
  }
  return {};
}

Result<bool> RunWriter::DropRetired(int rows) {
  for (size_t i = 0; i < retired_.size(); ++i) {
    if (retired_[i].segment.use_count() > 1) continue;  // somebody reads what was there before
    Transaction transaction(file_->database());
    if (Status begun = transaction.Begin(); !begun) return begun.error();
    Result<bool> more = file_->DropGarbage(retired_[i].segment->id, rows);
    if (!more) return more.error();
    if (Status committed = transaction.Commit(); !committed) return committed.error();
    if (!*more) {
      std::lock_guard lock(entry_.mutex);
      entry_.segments.erase(retired_[i].segment->id);
      retired_.erase(retired_.begin() + static_cast<ptrdiff_t>(i));
    }
    return true;
  }
  return false;
}

uint64_t RunWriter::held_bytes() const {
  uint64_t bytes = 0;
  for (const Retired& one : retired_) bytes += one.segment.use_count() > 1 ? one.bytes : 0;
  return bytes;
}

Result<uint64_t> RunWriter::TrimOthers(uint64_t bytes_max) {
  Transaction transaction(file_->database());
  if (Status begun = transaction.Begin(); !begun) return begun.error();
  uint64_t bytes = 0;
  {
    std::lock_guard lock(entry_.mutex);
    bytes = entry_.head.totals.others_bytes;
  }
  if (bytes <= bytes_max) return uint64_t{0};
  std::map<uint32_t, uint64_t> gone;
  uint64_t removed_bytes = 0, removed = 0;
  if (Status trimmed = file_->TrimOthers(bytes - bytes_max, &removed_bytes, &gone); !trimmed) return trimmed.error();
  std::vector<SeriesTally> tallies = entry_.loaded->tallies;
  for (const auto& [series, count] : gone) {
    removed += count;
    if (series == 0 || series > tallies.size()) continue;
    SeriesTally& tally = tallies[series - 1];
    tally.count -= std::min(tally.count, count);
    tally.thinned += count;
    Status read = file_->LoadFirstStep(series, &tally.first_step);
    if (!read) return read.error();
  }
  // Numbers in the tail are no part of the file's tallies.
  std::vector<SeriesTally> file_tallies = TalliesOfFile(compacted_);
  for (const auto& [series, count] : gone) {
    if (series > 0 && series <= tallies.size()) file_tallies[series - 1] = tallies[series - 1];
  }
  if (Status saved = file_->SaveTallies(file_tallies); !saved) return saved.error();
  if (removed == 0) return uint64_t{0};
  if (Status committed = CommitThinned(removed, removed_bytes, transaction); !committed) return committed.error();
  std::lock_guard lock(entry_.mutex);
  entry_.loaded->tallies = std::move(tallies);
  return removed;
}

}  // namespace ikkuna::sinks
