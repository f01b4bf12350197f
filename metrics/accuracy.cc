#include "metrics/accuracy.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <string_view>
#include <utility>

#include "metrics/elements.h"
#include "metrics/number.h"

namespace ikkuna::metrics {

namespace {

constexpr uint64_t kTopMax = 1000;  // an insertion list that long is no longer cheap
constexpr size_t kPendingMax = 64;  // outputs whose labels have not come, or the other way round
constexpr size_t kBlock = 64;       // positions that are looked at together
// Labels and class indices kept until their other half comes: half a gigabyte at most, a batch of a million rows is 16
// MB.
constexpr uint64_t kKeptMax = 1u << 26;

// What the probe calls integers that a loss takes as something else: counts, signs.
constexpr std::string_view kNoClasses = "no_classes";

// The label that does not count, which the probe gives labels as their name: `ignore_index=0`.
std::optional<int64_t> IgnoredLabel(std::string_view name) {
  constexpr std::string_view kPrefix = "ignore_index=";
  if (!name.starts_with(kPrefix)) return std::nullopt;
  int64_t label = 0;
  const auto [end, error] = std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), label);
  return error == std::errc() && end == name.data() + name.size() ? std::optional(label) : std::nullopt;
}

bool Greater(double a, double b) { return std::isnan(a) ? !std::isnan(b) : a > b; }

// The k best entries of a row so far, best first.
class TopList {
 public:
  void Start(size_t k) {
    k_ = k;
    entries_.clear();
  }
  // Indices come ascending, so an equal entry goes behind those that are there.
  void Offer(double value, int32_t index) {
    if (entries_.size() == k_) {
      if (!Greater(value, entries_.back().first)) return;
      entries_.pop_back();
    }
    auto at = entries_.end();
    while (at != entries_.begin() && Greater(value, std::prev(at)->first)) --at;
    entries_.insert(at, {value, index});
  }
  void AppendTo(std::vector<int32_t>& indices) const {
    for (const auto& entry : entries_) indices.push_back(entry.second);
  }

 private:
  size_t k_ = 0;
  std::vector<std::pair<double, int32_t>> entries_;
};

struct Pending {
  uint64_t key = 0;
  uint64_t rows = 0;
  std::vector<int32_t> top;  // of an output: `width` class indices a row
  size_t width = 0;
  std::vector<int64_t> labels;  // of labels: one a row
  bool no_classes = false;      // of labels: they are targets of another kind of loss

  uint64_t kept() const { return top.size() + labels.size(); }
};

class Accuracy final : public Subscriber {
 public:
  explicit Accuracy(size_t top) : top_(top) {}

  void OnMessage(const Input& input, const Payload* payload) override {
    const uint64_t key = (uint64_t{input.pass} << 16) | input.call;
    const bool is_output = input.index == 0;
    std::optional<Pending> taken = is_output ? Reduce(payload->view) : CopyLabels(payload->view, input.param);
    if (!taken) return;
    Pending& part = *taken;
    part.key = key;
    auto& others = is_output ? labels_ : outputs_;
    const auto partner = std::find_if(others.begin(), others.end(), [&](const Pending& p) { return p.key == key; });
    if (partner == others.end()) {
      auto& mine = is_output ? outputs_ : labels_;
      kept_ += part.kept();
      mine.push_back(std::move(part));
      while (mine.size() > kPendingMax || kept_ > kKeptMax) {
        kept_ -= mine.front().kept();
        mine.erase(mine.begin());
        incomplete_ = true;
      }
      return;
    }
    kept_ -= partner->kept();
    Count(is_output ? part : *partner, is_output ? *partner : part);
    others.erase(partner);
  }

  // Outputs and labels of one loss are of one pass: no half here waits for one there.
  void Merge(Subscriber& pass) override {
    const auto& more = static_cast<const Accuracy&>(pass);
    rows_ += more.rows_;
    right_ += more.right_;
    unusable_ |= more.unusable_;
    no_classes_ |= more.no_classes_;
    incomplete_ |= more.incomplete_ || !more.outputs_.empty() || !more.labels_.empty();
  }

  void OnStep(const StepInfo&, std::span<const Input>, const ResultsRef& results) override {
    if (unusable_ || (rows_ == 0 && no_classes_)) return;
    if (incomplete_ || !outputs_.empty() || !labels_.empty()) return results->Incomplete();
    results->Put({}, static_cast<double>(right_) / static_cast<double>(rows_));
  }

  uint64_t bytes() const override { return kept_ * sizeof(int64_t); }

  void Reset() override {
    rows_ = right_ = 0;
    unusable_ = incomplete_ = no_classes_ = false;
    outputs_.clear();
    labels_.clear();
    kept_ = 0;
  }

 private:
  std::optional<Pending> Reduce(const TensorView& output) {
    Pending part;
    const auto& sizes = output.sizes;
    if (sizes.empty() || IsInteger(output.dtype)) return Unusable();
    const size_t class_dim = sizes.size() == 1 ? 0 : 1;
    const uint64_t classes = static_cast<uint64_t>(sizes[class_dim]);
    const uint64_t outer = class_dim == 0 ? 1 : static_cast<uint64_t>(sizes[0]);
    uint64_t inner = 1;
    for (size_t i = class_dim + 1; i < sizes.size(); ++i) inner *= static_cast<uint64_t>(sizes[i]);
    if (classes == 0 || classes > INT32_MAX) return Unusable();
    part.width = std::min<size_t>(top_, classes);
    part.rows = output.elements / classes;
    if (part.rows > kKeptMax / part.width) return TooLarge();
    if (part.rows == 0) return part;  // its other sizes may be anything
    part.top.reserve(part.rows * part.width);
    lists_.resize(inner == 1 ? 1 : kBlock);
    for (uint64_t o = 0; o < outer; ++o) {
      for (uint64_t i = 0; i < inner; i += kBlock) {
        const size_t count = static_cast<size_t>(std::min<uint64_t>(kBlock, inner - i));
        TopOfBlock(output, o * classes * inner + i, classes, inner, count, part);
      }
    }
    return part;
  }

  // `count` neighbouring rows; entry c of the first is at `first + c * stride`.
  void TopOfBlock(const TensorView& output, uint64_t first, uint64_t classes, uint64_t stride, size_t count,
                  Pending& part) {
    double values[kChunk];
    for (size_t j = 0; j < count; ++j) lists_[j].Start(part.width);
    if (stride == 1) {
      for (uint64_t c = 0; c < classes; c += kChunk) {
        const size_t loaded = static_cast<size_t>(std::min<uint64_t>(kChunk, classes - c));
        LoadDoubles(output, first + c, loaded, values);
        for (size_t i = 0; i < loaded; ++i) lists_[0].Offer(values[i], static_cast<int32_t>(c + i));
      }
    } else {
      for (uint64_t c = 0; c < classes; ++c) {
        LoadDoubles(output, first + c * stride, count, values);
        for (size_t j = 0; j < count; ++j) lists_[j].Offer(values[j], static_cast<int32_t>(c));
      }
    }
    for (size_t j = 0; j < count; ++j) lists_[j].AppendTo(part.top);
  }

  std::optional<Pending> CopyLabels(const TensorView& labels, std::string_view name) {
    Pending part;
    part.no_classes = !IsInteger(labels.dtype) || name == kNoClasses;
    if (part.no_classes) return part;
    const std::optional<int64_t> ignored = IgnoredLabel(name);
    if (labels.elements > kKeptMax) return TooLarge();
    part.rows = labels.elements;
    part.labels.reserve(labels.elements);
    for (uint64_t i = 0; i < labels.elements; ++i) {
      const int64_t label = LoadInteger(labels, i);
      part.labels.push_back(ignored && label == *ignored ? -1 : label);
    }
    return part;
  }

  std::nullopt_t Unusable() {
    unusable_ = true;
    return std::nullopt;
  }

  std::nullopt_t TooLarge() {
    incomplete_ = true;
    return std::nullopt;
  }

  void Count(const Pending& output, const Pending& labels) {
    if (labels.no_classes) {
      no_classes_ = true;
      return;
    }
    if (output.rows != labels.rows) {
      incomplete_ = true;
      return;
    }
    for (uint64_t row = 0; row < labels.rows; ++row) {
      const int64_t label = labels.labels[row];
      if (label < 0) continue;
      ++rows_;
      const auto begin = output.top.begin() + static_cast<std::ptrdiff_t>(row * output.width);
      right_ += std::find(begin, begin + static_cast<std::ptrdiff_t>(output.width), label) !=
                begin + static_cast<std::ptrdiff_t>(output.width);
    }
  }

  const size_t top_;
  uint64_t rows_ = 0;
  uint64_t right_ = 0;
  bool unusable_ = false;    // a shape or type of which this is not defined
  bool no_classes_ = false;  // a loss had targets that are no class indices
  bool incomplete_ = false;  // a half was given up before its other half came, is too large, or fits no other
  std::vector<Pending> outputs_;
  std::vector<Pending> labels_;
  uint64_t kept_ = 0;           // numbers in the two
  std::vector<TopList> lists_;  // scratch
};

constexpr Kind kAccuracyInputs[] = {Kind::kNetworkOutput, Kind::kInputLabels};
constexpr Parameter kParameters[] = {{"top", "1", "how many of the largest outputs count as right, 1 to 1000"}};

Result<Definition> DefineAccuracy(const char* name, std::span<const std::string> values) {
  const auto top = ParseParameter(name, "top", values[0], kTopMax);
  if (!top) return top.error();
  Definition definition;
  definition.content = Content::kTensor;
  definition.delivery = Delivery::kEachMessage;
  definition.scope = Scope::kRoot;
  definition.topic = name;
  definition.outputs = {Output{.precision = Precision::kDouble}};
  definition.values = {std::to_string(*top)};
  definition.create = [top = static_cast<size_t>(*top)] { return std::make_unique<Accuracy>(top); };
  return definition;
}

}  // namespace

constexpr Descriptor kTrainAccuracy{
    .name = "train_accuracy",
    .parameters = kParameters,
    .inputs_min = 0,
    .inputs_max = 0,
    .default_inputs = kAccuracyInputs,
    .publishes = "train_accuracy",
    .help = "share of rows whose label is among the `top` largest outputs",
    .define = [](std::span<const std::string>,
                 std::span<const std::string> values) { return DefineAccuracy("train_accuracy", values); },
};

constexpr Descriptor kTestAccuracy{
    .name = "test_accuracy",
    .parameters = kParameters,
    .inputs_min = 0,
    .inputs_max = 0,
    .default_inputs = kAccuracyInputs,
    .publishes = "test_accuracy",
    .help = "train_accuracy over a whole evaluation pass",
    .default_tag = "test",
    .define = [](std::span<const std::string>,
                 std::span<const std::string> values) { return DefineAccuracy("test_accuracy", values); },
};

}  // namespace ikkuna::metrics
