#include "daemon/sinks/number_reader.h"

#include <algorithm>
#include <utility>

#include "daemon/sinks/extremes.h"

namespace ikkuna::sinks {
namespace {

constexpr size_t kStampsBytesMax = 32 << 20;  // kept for the next series of the same timeline

Error Broken(const RunSnapshot& run) {
  return {ErrorCode::kCorrupt, "the file of " + Describe(run.info->run_key) + ", '" + run.entry->path() + "', is broken"};
}

uint16_t FlagsOf(const ChunkHead& head) { return head.coarsened > 0 || head.thinned > 0 ? kFlagThinned : 0; }

bool ByStep(const Point& a, const Point& b) { return a.step < b.step; }

}  // namespace

Status NumberReader::Start(std::shared_ptr<const Series> series) {
  series_ = std::move(series);
  pieces_.clear();
  memory_.clear();
  open_.clear();
  open_at_ = 0;
  piece_ = 0;
  committed_ = 0;
  reduced_ = thinned_ = false;
  if (!run_->segments.empty()) {
    if (Status gathered = GatherChunks(); !gathered) return gathered;
  }
  GatherMemory();
  // Pieces come in the order in which they were written, which is that of steps but for what came late.
  std::stable_sort(pieces_.begin(), pieces_.end(),
                   [](const Piece& a, const Piece& b) { return a.first_step < b.first_step; });
  return {};
}

Result<std::shared_ptr<const StampColumns>> NumberReader::StampsOf(uint64_t segment) {
  const StampsKey key{segment, series_->timeline};
  if (const auto found = stamps_.find(key); found != stamps_.end()) return found->second;
  auto columns = std::make_shared<StampColumns>();
  const uint64_t row_id = (segment << 16) | series_->timeline;
  bool good = false;
  size_t bytes = 0;
  Status read = (*file_)->database().Each(
      "SELECT stamps FROM step WHERE id = ?1",
      [&](Statement& row) {
        bytes = row.Blob(0).size();
        std::string_view blob = row.Blob(0);
        good = CheckSigned(&blob, row_id) && StampColumns::Parse(std::string(blob), series_->timeline, columns.get());
        return false;
      },
      row_id);
  if (!read) return read.error();
  if (!good) return Broken(*run_);
  if (stamps_bytes_ + bytes > kStampsBytesMax) {
    stamps_.clear();
    stamps_bytes_ = 0;
  }
  stamps_bytes_ += bytes;
  stamps_[key] = columns;
  return std::shared_ptr<const StampColumns>(std::move(columns));
}

Status NumberReader::GatherChunks() {
  if (!file_) {
    Result<BorrowedFile> file = BorrowedFile::Borrow(run_->entry, mode_);
    if (!file) return file.error();
    file_ = *std::move(file);
  }
  std::vector<ChunkHead> heads;
  for (const auto& segment : run_->segments) {
    const auto range = std::lower_bound(
        segment->ranges.begin(), segment->ranges.end(), series_->timeline,
        [](const StampRange& one, TimelineId timeline) { return one.timeline < timeline; });
    if (range == segment->ranges.end() || range->timeline != series_->timeline) continue;
    if (range->last_step < step_min() || range->first_step > step_max()) continue;
    heads.clear();
    const uint64_t row_id = segment->id * RunFile::kGroupsMax + GroupOf(series_->id);
    bool good = true;
    Status read = (*file_)->database().Each(
        "SELECT heads FROM chunk WHERE id = ?1",
        [&](Statement& row) {
          std::string_view blob = row.Blob(0);
          good = CheckSigned(&blob, row_id) && ParseHeads(blob, &heads);
          return false;
        },
        row_id);
    if (!read) return read;
    if (!good) return Broken(*run_);
    std::shared_ptr<const StampColumns> stamps;
    for (const ChunkHead& head : heads) {
      if (head.series != series_->id) continue;
      if (!stamps) {
        Result<std::shared_ptr<const StampColumns>> found = StampsOf(segment->id);
        if (!found) return found.error();
        stamps = *found;
      }
      if (head.last_at >= stamps->size()) return Broken(*run_);
      Piece piece{stamps->step(head.first_at), stamps->step(head.last_at), segment->id, head, 0, 0};
      if (piece.last_step < step_min() || piece.first_step > step_max()) continue;
      thinned_ = thinned_ || head.coarsened > 0 || head.thinned > 0;
      committed_ += head.count;
      pieces_.push_back(piece);
    }
  }
  return {};
}

void NumberReader::GatherMemory() {
  const uint32_t id = series_->id;
  const Layout* layout = nullptr;
  std::optional<size_t> position;
  for (const auto& frame : run_->frames) {
    if (frame->stamp.timeline != series_->timeline) continue;
    if (frame->layout.get() != layout) {
      layout = frame->layout.get();
      position = Frame::PositionOf(*layout, id);
    }
    if (!position || !InRange(frame->stamp.step)) continue;
    ++committed_;
    memory_.push_back(PointOf(frame->stamp, frame->At(*position, id), frame->FlagsAt(id)));
  }
  size_t guess = 0;  // the next batch nearly always has it where the last had
  for (const auto& batch : run_->batches) {
    if (batch->stamp.timeline != series_->timeline || !InRange(batch->stamp.step)) continue;
    const std::vector<Sample>& samples = batch->samples;
    size_t at = guess;
    if (at >= samples.size() || samples[at].series != id) {
      for (at = 0; at < samples.size() && samples[at].series != id; ++at) {
      }
    }
    if (at >= samples.size()) continue;
    guess = at;
    double value = samples[at].value;
    if (series_->traits.precision == Precision::kSingle && FitsSingle(value)) {
      value = static_cast<double>(static_cast<float>(value));
    }
    memory_.push_back(PointOf(batch->stamp, value, samples[at].flags));
  }
  std::stable_sort(memory_.begin(), memory_.end(), ByStep);
  for (size_t begin = 0; begin < memory_.size(); begin += kNumbersPerChunk) {
    const size_t end = std::min(begin + kNumbersPerChunk, memory_.size());
    pieces_.push_back({memory_[begin].step, memory_[end - 1].step, 0, {}, begin, end});
  }
}

Status NumberReader::PointsOf(const Piece& piece, std::vector<Point>* points) {
  if (piece.segment == 0) {
    points->insert(points->end(), memory_.begin() + static_cast<ptrdiff_t>(piece.begin),
                   memory_.begin() + static_cast<ptrdiff_t>(piece.end));
    return {};
  }
  SeriesNumbers numbers;
  std::string data;
  Result<std::shared_ptr<const StampColumns>> stamps = StampsOf(piece.segment);
  if (!stamps) return stamps.error();
  bool found = false;
  Status read = (*file_)->database().Each(
      "SELECT substr(data, ?2, ?3) FROM chunk WHERE id = ?1",
      [&](Statement& row) {
        data.assign(row.Blob(0));
        found = true;
        return false;
      },
      piece.segment * RunFile::kGroupsMax + GroupOf(series_->id), int64_t{piece.head.offset} + 1,
      int64_t{piece.head.bytes});
  if (!read) return read.error();
  if (!found || !DecodeChunk(piece.head, data, coder_, &numbers)) return Broken(*run_);
  const uint16_t more = FlagsOf(piece.head);
  for (size_t n = 0; n < numbers.at.size(); ++n) {
    const StepStamp stamp = (*stamps)->at(numbers.at[n]);
    if (InRange(stamp.step)) points->push_back(PointOf(stamp, numbers.values[n], numbers.flags[n] | more));
  }
  return {};
}

Status NumberReader::OpenNext() {
  open_.erase(open_.begin(), open_.begin() + static_cast<ptrdiff_t>(std::exchange(open_at_, 0)));
  const auto before = static_cast<ptrdiff_t>(open_.size());
  if (Status read = PointsOf(pieces_[piece_++], &open_); !read) return read;
  std::inplace_merge(open_.begin(), open_.begin() + before, open_.end(), ByStep);
  // What came first for a step stands.
  open_.erase(std::unique(open_.begin(), open_.end(), [](const Point& a, const Point& b) { return a.step == b.step; }),
              open_.end());
  return {};
}

size_t NumberReader::Ready() const {
  if (piece_ == pieces_.size()) return open_.size();
  const uint64_t first = pieces_[piece_].first_step;
  const auto end = std::lower_bound(open_.begin() + static_cast<ptrdiff_t>(open_at_), open_.end(), first,
                                    [](const Point& point, uint64_t step) { return point.step < step; });
  return static_cast<size_t>(end - open_.begin());
}

bool NumberReader::HeadSuffices(const Piece& piece, uint64_t steps_per_bucket) const {
  return piece.segment != 0 && !piece.head.has_flags && InRange(piece.first_step) && InRange(piece.last_step) &&
         piece.last_step - piece.first_step < steps_per_bucket;
}

Result<std::vector<Point>> NumberReader::Reduce() {
  reduced_ = true;
  uint64_t last = 0;
  for (const Piece& piece : pieces_) last = std::max(last, piece.last_step);
  Extremes extremes(std::max(step_min(), pieces_.front().first_step), std::min(step_max(), last), query_.max_points);
  std::vector<std::pair<uint16_t, double>> chosen;
  std::vector<Point> few;
  for (;;) {
    for (const size_t ready = Ready(); open_at_ < ready; ++open_at_) extremes.Add(open_[open_at_]);
    if (piece_ == pieces_.size()) break;
    const Piece& piece = pieces_[piece_];
    const bool alone = (open_at_ == open_.size() || open_[open_at_].step > piece.last_step) &&
                       (piece_ + 1 == pieces_.size() || pieces_[piece_ + 1].first_step > piece.last_step);
    if (!alone || !HeadSuffices(piece, extremes.steps_per_bucket())) {
      if (Status opened = OpenNext(); !opened) return opened.error();
      continue;
    }
    ++piece_;
    Result<std::shared_ptr<const StampColumns>> stamps = StampsOf(piece.segment);
    if (!stamps) return stamps.error();
    const ChunkHead& head = piece.head;
    chosen = {{head.first_at, head.first}, {head.last_at, head.last}};
    if (head.least_at != ChunkHead::kNone) chosen.emplace_back(head.least_at, head.least);
    if (head.greatest_at != ChunkHead::kNone) chosen.emplace_back(head.greatest_at, head.greatest);
    if (head.nan_at != ChunkHead::kNone) chosen.emplace_back(head.nan_at, std::numeric_limits<double>::quiet_NaN());
    std::sort(chosen.begin(), chosen.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    few.clear();
    for (const auto& [at, value] : chosen) {
      if (at >= (*stamps)->size()) return Broken(*run_);
      few.push_back(PointOf((*stamps)->at(at), value, FlagsOf(head)));
    }
    extremes.AddTogether(few);
  }
  return std::move(extremes).Take();
}

Result<std::vector<Point>> NumberReader::Next() {
  std::vector<Point> points;
  if (piece_ == 0 && query_.max_points > 0 && !pieces_.empty()) {
    // Of chunks that the range cuts some may be outside; where steps came out of order that may be any number of them.
    const uint64_t limit = std::max<uint64_t>(query_.max_points, kPointsMin);
    uint64_t most = 0, least = 0;
    for (const Piece& piece : pieces_) {
      const uint64_t count = piece.segment == 0 ? piece.end - piece.begin : piece.head.count;
      most += count;
      if (InRange(piece.first_step) && InRange(piece.last_step)) least += count;
    }
    if (least > limit) return Reduce();
    if (most > limit) {
      while (piece_ < pieces_.size() && open_.size() <= limit) {
        if (Status opened = OpenNext(); !opened) return opened.error();
      }
      if (open_.size() > limit) return Reduce();
      return std::exchange(open_, {});
    }
  }
  while (points.size() < SeriesReader::kPointsMax) {
    const size_t ready = std::min(Ready(), open_at_ + SeriesReader::kPointsMax - points.size());
    points.insert(points.end(), open_.begin() + static_cast<ptrdiff_t>(open_at_),
                  open_.begin() + static_cast<ptrdiff_t>(ready));
    if (open_at_ == ready && piece_ == pieces_.size()) break;
    const bool gave = std::exchange(open_at_, ready) < ready;
    if (gave || piece_ == pieces_.size()) continue;
    if (Status opened = OpenNext(); !opened) return opened.error();
  }
  return points;
}

}  // namespace ikkuna::sinks
