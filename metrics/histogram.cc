#include "metrics/histogram.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "metrics/elements.h"
#include "metrics/number.h"
#include "shared/stats/derive.h"
#include "shared/stats/merge.h"
#include "shared/stats/stats_pass.h"

namespace ikkuna::metrics {

namespace {

constexpr size_t kTables = 4;  // of counts, so that an addition need not wait for the one before to the same bin
constexpr uint64_t kOfHistogram = kMomentFirst | kMomentSquare | kMomentBounds;

// One message, held until the step is whole: its range is that of all of them.
struct Part {
  std::shared_ptr<const void> bytes;
  const void* data;
  DType dtype;
  uint64_t elements;
  bool all_finite = false;

  // The sizes do not matter to a histogram.
  TensorView view() const { return {data, dtype, {}, elements}; }
};

double SumOfFinite(TensorStats stats) {
  stats.n = stats.finite_n;
  stats.nans = stats.positive_infinities = stats.negative_infinities = 0;
  return stats::Sum(stats);
}

// By what a range is multiplied so that it and its inverse are doubles.
double ScaleOf(double min, double max) {
  const double range = max - min;
  return !std::isfinite(range) ? 0.5 : range < 0x1p-900 ? 0x1p200 : 1;
}

// In which bin elements are, by their place in the range.
struct Places {
  double scale, origin, factor, top;
  double unsure;  // a place no further than this from an edge may be on its other side

  // False: of some it is not sure.
  bool Find(const double* x, size_t count, int32_t* bin) const {
    int32_t differ = 0;
    for (size_t i = 0; i < count; ++i) {
      double place = (x[i] * scale - origin) * factor;
      place = place < top ? place : top;
      const auto low = static_cast<int32_t>(place - unsure), high = static_cast<int32_t>(place + unsure);
      differ |= low ^ high;
      bin[i] = high;
    }
    return differ == 0;
  }
};

std::vector<double> EdgesOf(double min, double max, size_t bins) {
  const double scale = ScaleOf(min, max);
  const double step = (max * scale - min * scale) / static_cast<double>(bins);
  std::vector<double> edges(bins + 1);
  for (size_t i = 0; i < bins; ++i) edges[i] = (min * scale + static_cast<double>(i) * step) / scale;
  edges[bins] = max;
  return edges;
}

int32_t BinOf(double x, std::span<const double> edges) {
  return static_cast<int32_t>(std::upper_bound(edges.begin() + 1, edges.end() - 1, x) - edges.begin() - 1);
}

class HistogramOfStep final : public Subscriber {
 public:
  explicit HistogramOfStep(size_t bins) : bins_(bins) {}

  void OnMessage(const Input&, const Payload* payload) override {
    const TensorView& view = payload->view;
    Part part{payload->bytes, view.data, view.dtype, view.elements};
    if (!part.bytes && view.elements != 0) {
      const size_t bytes = view.elements * DTypeBytes(view.dtype);
      auto copy = std::make_shared<std::vector<unsigned char>>(bytes);
      std::memcpy(copy->data(), view.data, bytes);
      part.data = copy->data();
      part.bytes = std::move(copy);
      copied_ += bytes;
    }
    parts_.push_back(std::move(part));
  }
  void Merge(Subscriber& pass) override {
    auto& other = static_cast<HistogramOfStep&>(pass);
    parts_.insert(parts_.end(), std::make_move_iterator(other.parts_.begin()),
                  std::make_move_iterator(other.parts_.end()));
    copied_ += std::exchange(other.copied_, 0);
    other.parts_.clear();
  }
  void OnStep(const StepInfo&, std::span<const Input> inputs, const ResultsRef& results) override {
    if (parts_.empty()) return;
    TensorStats stats;
    for (size_t i = 0; i < parts_.size(); ++i) {
      const TensorStats one = ComputeStats(parts_[i].data, parts_[i].dtype, parts_[i].elements, kOfHistogram);
      stats = i == 0 ? one : MergeStats(stats, one);
      parts_[i].all_finite = one.finite_n == one.n;
    }
    Histogram histogram;
    histogram.min = stats.min;
    histogram.max = stats.max;
    histogram.n = stats.finite_n;
    histogram.sum = SumOfFinite(stats);
    histogram.sum_squares = stats.square_sum;
    histogram.nans = stats.nans;
    histogram.positive_infinities = stats.positive_infinities;
    histogram.negative_infinities = stats.negative_infinities;
    histogram.counts.resize(bins_);
    if (stats.min == stats.max) {
      histogram.counts.back() = stats.finite_n;
    } else if (stats.finite_n != 0) {
      const std::vector<double> edges = EdgesOf(stats.min, stats.max, bins_);
      for (const Part& part : parts_) CountInto(part.view(), part.all_finite, edges, histogram.counts);
    }
    results->Put(inputs[0].subject, std::move(histogram));
    Reset();
  }
  uint64_t bytes() const override { return copied_ + parts_.size() * sizeof(Part); }
  void Reset() override {
    parts_.clear();
    copied_ = 0;
  }

 private:
  const size_t bins_;
  std::vector<Part> parts_;
  uint64_t copied_ = 0;  // bytes of parts that nobody else holds
};

Result<Definition> DefineHistogram(std::span<const std::string> inputs, std::span<const std::string> values) {
  const auto bins = ParseParameter("histogram", "bins", values[0], Histogram::kMaxBins);
  if (!bins) return bins.error();
  Definition definition;
  definition.values = {std::to_string(*bins)};
  definition.topic = inputs[0] + "_histogram";
  definition.outputs = {Output{.type = ValueType::kHistogram}};
  definition.content = Content::kTensor;
  definition.delivery = Delivery::kEachMessage;
  definition.runs = Runs::kQueue;  // its messages are held until the last has come: copies, within the daemon's memory
  definition.create = [bins = static_cast<size_t>(*bins)] { return std::make_unique<HistogramOfStep>(bins); };
  return definition;
}

constexpr Parameter kHistogramParameters[] = {
    {"bins", "64", "equal bins over the range of the finite elements, 1 to 4096"},
};

}  // namespace

void CountInto(const TensorView& tensor, bool all_finite, std::span<const double> edges, std::span<uint64_t> counts) {
  const size_t bins = counts.size();
  const double min = edges.front(), max = edges.back();
  const double scale = ScaleOf(min, max);
  Places places;
  places.scale = scale;
  places.origin = min * scale;
  places.factor = static_cast<double>(bins) / (max * scale - places.origin);
  places.top = static_cast<double>(bins) - 0.5;
  // By the rounding of the place, and by that of the edge.
  places.unsure = 4 * std::numeric_limits<double>::epsilon() *
                  (static_cast<double>(bins) + std::max(std::fabs(min), std::fabs(max)) * scale * places.factor);
  std::vector<uint64_t> tables(kTables * bins);
  int32_t bin[kChunk];
  ForChunks(tensor, [&](double* chunk, size_t count) {
    if (!all_finite) {
      const auto is_not = [](double x) { return !std::isfinite(x); };
      count = static_cast<size_t>(std::remove_if(chunk, chunk + count, is_not) - chunk);
    }
    if (!(places.unsure < 0.5) || !places.Find(chunk, count, bin)) {
      for (size_t i = 0; i < count; ++i) bin[i] = BinOf(chunk[i], edges);
    }
    for (size_t i = 0; i < count; ++i) ++tables[i % kTables * bins + static_cast<size_t>(bin[i])];
  });
  for (size_t i = 0; i < tables.size(); ++i) counts[i % bins] += tables[i];
}

constexpr Descriptor kHistogram{
    .name = "histogram",
    .parameters = kHistogramParameters,
    .publishes = "{kind}_histogram",
    .cost = Cost::kHeavy,
    .help = "counts of equal bins over [min, max] of the finite elements, with sum, NaN and infinities beside them",
    .define = DefineHistogram,
};

}  // namespace ikkuna::metrics
