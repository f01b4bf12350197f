// Chunk: up to 512 numbers of one series within one segment, compressed, with a head that says what is in it. The
// chunks of 16 neighbouring series (by id) in a segment are one row.
//
// Thread rule: as values; a PlaneCoder by one thread at a time.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/model/batch.h"
#include "daemon/model/series.h"
#include "daemon/sinks/store_columns.h"

namespace ikkuna::sinks {

constexpr uint32_t kSeriesPerGroup = 16;
constexpr size_t kNumbersPerChunk = 512;
constexpr uint32_t GroupOf(uint32_t series) { return (series - 1) / kSeriesPerGroup; }

// A number with all that stands beside it.
struct Point {
  uint64_t step = 0;
  uint64_t samples_seen = 0;
  int64_t unix_ns = 0;
  double value = 0;
  uint32_t epoch = 0;
  uint16_t flags = 0;  // those of the step included
};
Point PointOf(const StepStamp& stamp, double value, uint16_t flags);

struct ChunkHead {
  static constexpr uint16_t kNone = 0xffff;
  static constexpr size_t kBytes = 68;

  uint32_t series = 0;
  uint16_t count = 0;       // numbers in it
  Precision precision = Precision::kDouble;
  uint8_t coarsened = 0;    // k: of what was here only steps that are multiples of 2^k stayed, and the first and last; where
                            // `thinned` says that more is gone, every second of these, perhaps several times
  uint32_t offset = 0;      // of its bytes in the row's data
  uint32_t bytes = 0;
  uint32_t thinned = 0;     // numbers that are gone
  uint32_t sum = 0;         // ChecksumOf its bytes, seeded with the series
  bool has_flags = false;   // some of its samples have flags of their own
  uint16_t nans = 0;
  // Indices into the stamps of the segment, ascending from first to last. least, greatest: kNone if all are NaN.
  uint16_t first_at = 0, last_at = 0, least_at = kNone, greatest_at = kNone, nan_at = kNone;
  double first = 0, last = 0, least = 0, greatest = 0;
};
void PutHead(const ChunkHead& head, ByteWriter& out);
// Heads of a row, in the order of series, then of steps. False: broken.
bool ParseHeads(std::string_view heads, std::vector<ChunkHead>* parsed);

// The numbers of one series within one segment, ascending by stamp.
struct SeriesNumbers {
  std::vector<uint16_t> at;     // index of the stamp
  std::vector<double> values;
  std::vector<uint16_t> flags;  // of the samples alone
  void Clear() {
    at.clear();
    values.clear();
    flags.clear();
  }
};

// The row of a group: its two blobs.
class ChunkRow {
 public:
  // Series in ascending order. Cuts into chunks.
  void Add(uint32_t series, Precision precision, const SeriesNumbers& numbers, PlaneCoder& coder);
  // One chunk of at most kNumbersPerChunk numbers, of what was once more.
  void AddChunk(uint32_t series, Precision precision, const SeriesNumbers& numbers, uint8_t coarsened, uint32_t thinned,
                PlaneCoder& coder);
  // One as it is.
  void AddEncoded(ChunkHead head, std::string_view data);
  const std::string& heads() { return heads_.bytes(); }
  const std::string& data() { return data_.bytes(); }
  bool empty() const { return heads_.size() == 0; }

 private:
  ByteWriter heads_, data_;
};

// False: broken.
bool DecodeChunk(const ChunkHead& head, std::string_view data, PlaneCoder& coder, SeriesNumbers* numbers);

}  // namespace ikkuna::sinks
