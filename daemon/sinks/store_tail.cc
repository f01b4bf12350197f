#include "daemon/sinks/store_tail.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace ikkuna::sinks {
namespace {

constexpr uint8_t kVersion = 1;
constexpr size_t kHeadBytesMax = 256 << 20;
constexpr uint64_t kValuesMax = 64 << 20;  // of one commit: beyond it the blob is broken

// Ascending ids as runs of neighbours: gap to the last run's end, length.
void PutIds(const std::vector<uint32_t>& ids, ByteWriter& out) {
  out.PutVarint(ids.size());
  uint32_t end = 0;
  for (size_t i = 0; i < ids.size();) {
    size_t j = i + 1;
    while (j < ids.size() && ids[j] == ids[j - 1] + 1) ++j;
    out.PutVarint(ids[i] - end);
    out.PutVarint(j - i);
    end = ids[j - 1] + 1;
    i = j;
  }
}

bool GetIds(ByteReader& in, std::vector<uint32_t>* ids) {
  const uint64_t size = in.GetVarint();
  if (!in.ok() || size > SeriesCatalogue::kMaxSeries) return false;
  uint64_t at = 0;
  while (ids->size() < size) {
    at += in.GetVarint();
    const uint64_t length = in.GetVarint();
    if (!in.ok() || length == 0 || length > size - ids->size() || at + length > SeriesCatalogue::kMaxSeries + 1) {
      return false;
    }
    for (uint64_t i = 0; i < length; ++i) ids->push_back(static_cast<uint32_t>(at++));
  }
  return true;
}

}  // namespace

bool FitsSingle(double value) {
  if (value == 0 || !std::isfinite(value)) return true;
  const float single = static_cast<float>(value);
  return std::isfinite(single) && std::fabs(single) >= std::numeric_limits<float>::min();
}

std::optional<size_t> Frame::PositionOf(const Layout& layout, uint32_t series) {
  auto found = std::lower_bound(layout.singles.begin(), layout.singles.end(), series);
  if (found != layout.singles.end() && *found == series) return found - layout.singles.begin();
  found = std::lower_bound(layout.doubles.begin(), layout.doubles.end(), series);
  if (found != layout.doubles.end() && *found == series) {
    return layout.singles.size() + static_cast<size_t>(found - layout.doubles.begin());
  }
  return std::nullopt;
}

double Frame::At(size_t position, uint32_t series) const {
  if (position >= singles.size()) return doubles[position - singles.size()];
  if (!exact.empty()) {
    const auto found = std::lower_bound(exact.begin(), exact.end(), series,
                                        [](const auto& pair, uint32_t id) { return pair.first < id; });
    if (found != exact.end() && found->first == series) return found->second;
  }
  return static_cast<double>(singles[position]);
}

uint16_t Frame::FlagsAt(uint32_t series) const {
  if (flags.empty()) return 0;
  const auto found = std::lower_bound(flags.begin(), flags.end(), series,
                                      [](const auto& pair, uint32_t id) { return pair.first < id; });
  return found != flags.end() && found->first == series ? found->second : 0;
}

size_t Frame::bytes() const {
  return sizeof(Frame) + 64 + singles.size() * sizeof(float) + doubles.size() * sizeof(double) +
         exact.size() * sizeof(exact[0]) + flags.size() * sizeof(flags[0]);
}

Tail Tail::Cut(size_t most) {
  size_t end = std::min(most, frames.size());
  while (end > 0 && end < frames.size() && rows[end] == rows[end - 1]) ++end;
  Tail rest;
  rest.log_last = log_last;
  for (size_t i = end; i < frames.size(); ++i) rest.Add(std::move(frames[i]), rows[i]);
  frames.resize(end);
  rows.resize(end);
  if (!rest.frames.empty()) log_last = rows.back();
  bytes -= rest.bytes;
  values -= rest.values;
  std::swap(*this, rest);
  return rest;
}

const FrameMaker::Shape& FrameMaker::ShapeOf(std::span<const Number> numbers) {
  for (size_t s = 0; s < shapes_.size(); ++s) {
    const std::vector<uint32_t>& series = shapes_[s].series;
    const bool same = series.size() == numbers.size() &&
                      std::equal(series.begin(), series.end(), numbers.begin(),
                                 [](uint32_t id, const Number& number) { return id == number.series; });
    if (!same) continue;
    std::rotate(shapes_.begin(), shapes_.begin() + static_cast<ptrdiff_t>(s),
                shapes_.begin() + static_cast<ptrdiff_t>(s) + 1);
    return shapes_.front();
  }
  Shape shape;
  for (const Number& number : numbers) shape.series.push_back(number.series);
  shape.position.resize(numbers.size());
  shape.single.assign(numbers.size(), false);
  std::vector<uint32_t> order(numbers.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return shape.series[a] < shape.series[b]; });
  auto layout = std::make_shared<Layout>();
  for (uint32_t i : order) {
    shape.single[i] = numbers[i].precision == Precision::kSingle;
    auto& ids = shape.single[i] ? layout->singles : layout->doubles;
    shape.position[i] = static_cast<uint32_t>(ids.size());
    ids.push_back(shape.series[i]);
  }
  for (const Shape& other : shapes_) {
    if (*other.layout == *layout) shape.layout = other.layout;  // the same in another order
  }
  if (!shape.layout) shape.layout = std::move(layout);
  if (shapes_.size() >= kShapesMax) shapes_.pop_back();
  shapes_.insert(shapes_.begin(), std::move(shape));
  return shapes_.front();
}

std::shared_ptr<const Frame> FrameMaker::Make(const StepStamp& stamp, std::span<const Number> numbers) {
  const Shape& shape = ShapeOf(numbers);
  auto frame = std::make_shared<Frame>();
  frame->stamp = stamp;
  frame->layout = shape.layout;
  frame->singles.resize(shape.layout->singles.size());
  frame->doubles.resize(shape.layout->doubles.size());
  for (size_t i = 0; i < numbers.size(); ++i) {
    const Number& number = numbers[i];
    if (shape.single[i]) {
      const bool fits = FitsSingle(number.value);
      frame->singles[shape.position[i]] = fits ? static_cast<float>(number.value) : 0.0f;
      if (!fits) frame->exact.emplace_back(number.series, number.value);
    } else {
      frame->doubles[shape.position[i]] = number.value;
    }
    if (number.flags != 0) frame->flags.emplace_back(number.series, number.flags);
  }
  std::sort(frame->exact.begin(), frame->exact.end());
  std::sort(frame->flags.begin(), frame->flags.end());
  return frame;
}

std::string EncodeFrames(std::span<const std::shared_ptr<const Frame>> frames, PlaneCoder& coder) {
  ByteWriter head;
  head.PutVarint(frames.size());
  const Layout* before = nullptr;
  std::vector<float> singles;
  std::vector<double> doubles;
  for (const auto& frame : frames) {
    head.PutVarint(frame->stamp.timeline);
    head.PutVarint(frame->stamp.step);
    head.PutVarint(frame->stamp.epoch);
    head.Put(frame->stamp.unix_ns);
    head.PutVarint(frame->stamp.samples_seen);
    head.PutVarint(frame->stamp.flags);
    const bool same = before != nullptr && (before == frame->layout.get() || *before == *frame->layout);
    head.Put<uint8_t>(same);
    if (!same) {
      PutIds(frame->layout->singles, head);
      PutIds(frame->layout->doubles, head);
    }
    before = frame->layout.get();
    head.PutVarint(frame->exact.size());
    for (const auto& [series, value] : frame->exact) {
      head.PutVarint(series);
      head.Put(value);
    }
    head.PutVarint(frame->flags.size());
    for (const auto& [series, flags] : frame->flags) {
      head.PutVarint(series);
      head.PutVarint(flags);
    }
    singles.insert(singles.end(), frame->singles.begin(), frame->singles.end());
    doubles.insert(doubles.end(), frame->doubles.begin(), frame->doubles.end());
  }
  ByteWriter out;
  out.Put(kVersion);
  out.PutText(Pack(head.bytes()));
  coder.Encode<float>(singles, out);
  coder.Encode<double>(doubles, out);
  return std::move(out.bytes());
}

Result<std::vector<std::shared_ptr<const Frame>>> DecodeFrames(std::string_view blob, PlaneCoder& coder,
                                                               Layouts& layouts) {
  constexpr size_t kLayoutsMax = 16;
  const Error broken{ErrorCode::kCorrupt, "a commit's blob is broken"};
  ByteReader in(blob);
  std::string head_bytes;
  if (in.Get<uint8_t>() != kVersion || !Unpack(in.GetText(), kHeadBytesMax, &head_bytes)) return broken;
  ByteReader head(head_bytes);
  const uint64_t count = head.GetVarint();
  if (!head.ok() || count > kFramesPerCommit) return broken;
  std::vector<std::shared_ptr<Frame>> frames;
  std::shared_ptr<const Layout> layout;
  uint64_t singles = 0, doubles = 0;
  for (uint64_t i = 0; i < count; ++i) {
    auto frame = std::make_shared<Frame>();
    frame->stamp.timeline = static_cast<TimelineId>(head.GetVarint());
    frame->stamp.step = head.GetVarint();
    frame->stamp.epoch = static_cast<uint32_t>(head.GetVarint());
    frame->stamp.unix_ns = head.Get<int64_t>();
    frame->stamp.samples_seen = head.GetVarint();
    frame->stamp.flags = static_cast<uint16_t>(head.GetVarint());
    if (head.Get<uint8_t>() == 0) {
      auto fresh = std::make_shared<Layout>();
      if (!GetIds(head, &fresh->singles) || !GetIds(head, &fresh->doubles)) return broken;
      const auto known =
          std::find_if(layouts.begin(), layouts.end(), [&](const auto& one) { return *one == *fresh; });
      if (known != layouts.end()) {
        layout = *known;
      } else {
        layout = std::move(fresh);
        if (layouts.size() >= kLayoutsMax) layouts.pop_back();
        layouts.insert(layouts.begin(), layout);
      }
    } else if (i == 0) {
      return broken;
    }
    frame->layout = layout;
    for (uint64_t n = head.GetVarint(); n > 0 && head.ok(); --n) {
      const auto series = static_cast<uint32_t>(head.GetVarint());
      frame->exact.emplace_back(series, head.Get<double>());
    }
    for (uint64_t n = head.GetVarint(); n > 0 && head.ok(); --n) {
      const auto series = static_cast<uint32_t>(head.GetVarint());
      frame->flags.emplace_back(series, static_cast<uint16_t>(head.GetVarint()));
    }
    if (!head.ok()) return broken;
    singles += layout->singles.size();
    doubles += layout->doubles.size();
    if (singles + doubles > kValuesMax) return broken;
    frames.push_back(std::move(frame));
  }
  std::vector<float> single_values(singles);
  std::vector<double> double_values(doubles);
  if (!coder.Decode<float>(in, single_values) || !coder.Decode<double>(in, double_values)) return broken;
  const float* single = single_values.data();
  const double* wide = double_values.data();
  std::vector<std::shared_ptr<const Frame>> decoded;
  decoded.reserve(frames.size());
  for (auto& frame : frames) {
    frame->singles.assign(single, single + frame->layout->singles.size());
    frame->doubles.assign(wide, wide + frame->layout->doubles.size());
    single += frame->layout->singles.size();
    wide += frame->layout->doubles.size();
    decoded.push_back(std::move(frame));
  }
  return decoded;
}

}  // namespace ikkuna::sinks
