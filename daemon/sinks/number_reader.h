// NumberReader: the numbers of series of one run, from its segments and from what is in memory.
//
// Owner: a SeriesReader. Thread rule: one thread at a time.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "daemon/sinks/run_entry.h"

namespace ikkuna::sinks {

class NumberReader {
 public:
  NumberReader(std::shared_ptr<const RunSnapshot> run, const ReadQuery& query, Database::Mode mode)
      : run_(std::move(run)), query_(query), mode_(mode) {}

  // Begins a series.
  Status Start(std::shared_ptr<const Series> series);
  // The next points of it, ascending; empty: no more.
  Result<std::vector<Point>> Next();
  // How many there are within the range, but for those that wait to be committed.
  uint64_t committed() const { return committed_; }
  bool reduced() const { return reduced_; }
  bool thinned() const { return thinned_; }

 private:
  // Something with a first and a last step, of at most kNumbersPerChunk points: a chunk, or some of the points in memory.
  struct Piece {
    uint64_t first_step = 0, last_step = 0;
    uint64_t segment = 0;  // 0: in memory
    ChunkHead head;
    size_t begin = 0, end = 0;  // in memory_
  };
  using StampsKey = std::pair<uint64_t, TimelineId>;

  uint64_t step_min() const { return query_.step_min.value_or(0); }
  uint64_t step_max() const { return query_.step_max.value_or(UINT64_MAX); }
  bool InRange(uint64_t step) const { return step >= step_min() && step <= step_max(); }
  Status GatherChunks();
  void GatherMemory();
  Result<std::shared_ptr<const StampColumns>> StampsOf(uint64_t segment);
  Status PointsOf(const Piece& piece, std::vector<Point>* points);  // appends
  // Merges the next piece into what is open: one that came late may reach over many others, which are read one by one.
  Status OpenNext();
  // The end of those in open_ that are given before any piece that is still to come.
  size_t Ready() const;
  Result<std::vector<Point>> Reduce();
  // Whether a look at its head will do.
  bool HeadSuffices(const Piece& piece, uint64_t steps_per_bucket) const;

  // Constant after construction.
  const std::shared_ptr<const RunSnapshot> run_;
  const ReadQuery query_;
  const Database::Mode mode_;

  std::optional<BorrowedFile> file_;
  std::map<StampsKey, std::shared_ptr<const StampColumns>> stamps_;
  size_t stamps_bytes_ = 0;
  PlaneCoder coder_;

  std::shared_ptr<const Series> series_;
  std::vector<Piece> pieces_;  // by first step
  std::vector<Point> memory_;
  size_t piece_ = 0;  // the next
  std::vector<Point> open_;  // of pieces before it, ascending; those before open_at_ were given
  size_t open_at_ = 0;
  uint64_t committed_ = 0;
  bool reduced_ = false, thinned_ = false;
};

}  // namespace ikkuna::sinks
