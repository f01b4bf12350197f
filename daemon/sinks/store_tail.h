// Frame, Tail: numbers of steps as they came, in the columns in which a commit writes them and memory keeps them until
// they are compacted.
//
// A Frame is immutable and shared by the writer and those who read. Thread rule: frames from any thread; a FrameMaker
// and a Tail by the writer, or under the run's mutex.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "daemon/model/batch.h"
#include "daemon/model/series.h"
#include "daemon/sinks/store_columns.h"
#include "shared/base/result.h"

namespace ikkuna::sinks {

// Whether a double survives as float32: no other value turns to 0, a subnormal or an infinity.
bool FitsSingle(double value);

// Which series a frame has, each ascending by id. Frames of the same series share one.
struct Layout {
  std::vector<uint32_t> singles;  // of Precision::kSingle
  std::vector<uint32_t> doubles;
  bool operator==(const Layout&) const = default;
};

// Numbers of one step of one timeline.
struct Frame {
  StepStamp stamp;
  std::shared_ptr<const Layout> layout;
  std::vector<float> singles;                            // as layout->singles
  std::vector<double> doubles;                           // as layout->doubles
  std::vector<std::pair<uint32_t, double>> exact;        // singles that do not fit one, by ascending series
  std::vector<std::pair<uint32_t, uint16_t>> flags = {};  // of samples that have some, by ascending series

  // Where a series stands: its index in singles, or in doubles after those. None: the frame has not got it.
  static std::optional<size_t> PositionOf(const Layout& layout, uint32_t series);
  double At(size_t position, uint32_t series) const;
  uint16_t FlagsAt(uint32_t series) const;  // those of the sample alone
  size_t values() const { return singles.size() + doubles.size(); }
  size_t bytes() const;
};

// Makes frames; remembers the last few layouts, since the next frame nearly always has one of them.
class FrameMaker {
 public:
  struct Number {
    uint32_t series;
    Precision precision;
    uint16_t flags;
    double value;
  };
  // `numbers`: each series once, in any order.
  std::shared_ptr<const Frame> Make(const StepStamp& stamp, std::span<const Number> numbers);

 private:
  // Timelines and topics of different periods take turns. More than these are made anew each time.
  static constexpr size_t kShapesMax = 16;
  struct Shape {
    std::vector<uint32_t> series;    // as they came
    std::vector<uint32_t> position;  // [i]: where the i-th went
    std::vector<bool> single;
    std::shared_ptr<const Layout> layout;
  };
  const Shape& ShapeOf(std::span<const Number> numbers);
  std::vector<Shape> shapes_;  // the latest first
};

// Of one row of `log`; a row that claims more is broken.
constexpr size_t kFramesPerCommit = 4'096;

// What is committed and not compacted, ascending by log row.
struct Tail {
  std::vector<std::shared_ptr<const Frame>> frames;
  std::vector<uint64_t> rows;  // [i]: the row of `log` of frames[i]
  uint64_t log_last = 0;       // the last row of `log` that is in it, which may have no frames
  size_t bytes = 0;
  uint64_t values = 0;

  void Add(std::shared_ptr<const Frame> frame, uint64_t row) {
    bytes += frame->bytes();
    values += frame->values();
    frames.push_back(std::move(frame));
    rows.push_back(row);
  }
  // Takes its first frames out of it: `most`, and what else is of the last one's row.
  Tail Cut(size_t most);
};

// The blob of one commit (STORE.md, "log").
std::string EncodeFrames(std::span<const std::shared_ptr<const Frame>> frames, PlaneCoder& coder);
// Layouts of what was decoded before, the latest first: frames of the same series share one.
using Layouts = std::vector<std::shared_ptr<const Layout>>;
// kCorrupt: the blob is broken.
Result<std::vector<std::shared_ptr<const Frame>>> DecodeFrames(std::string_view blob, PlaneCoder& coder,
                                                               Layouts& layouts);

}  // namespace ikkuna::sinks
