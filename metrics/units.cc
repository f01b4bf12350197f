#include "metrics/units.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <optional>

#include "metrics/elements.h"

namespace ikkuna::metrics {

namespace {

constexpr int kAxisMax = 7;  // a message has up to eight dimensions

class DeadFraction final : public Subscriber {
 public:
  explicit DeadFraction(std::optional<int> axis) : axis_(axis) {}

  void OnMessage(const Input&, const Payload* payload) override {
    const TensorView& view = payload->view;
    const std::optional<size_t> axis = AxisOf(view.sizes.size());
    size_t units = 1;
    uint64_t stride = std::max<uint64_t>(1, view.elements);  // elements from one unit to the next
    if (axis) {
      units = static_cast<size_t>(view.sizes[*axis]);
      stride = 1;
      for (size_t i = *axis + 1; i < view.sizes.size(); ++i) stride *= static_cast<uint64_t>(view.sizes[i]);
    }
    if (view.elements == 0) return;
    if (elements_ == 0) alive_.assign(units, 0);
    fits_ = fits_ && (axis || !axis_) && alive_.size() == units;
    elements_ += view.elements;
    if (!fits_) return;
    uint64_t within = 0;  // of a unit's run
    size_t unit = 0;
    ForChunks(view, [&](const double* chunk, size_t count) {
      for (size_t i = 0; i < count; ++i) {
        alive_[unit] |= chunk[i] != 0 ? 1 : 0;
        if (++within < stride) continue;
        within = 0;
        if (++unit == units) unit = 0;
      }
    });
  }
  void Merge(Subscriber& pass) override {
    auto& more = static_cast<DeadFraction&>(pass);
    if (elements_ == 0) alive_ = more.alive_;
    fits_ = fits_ && more.fits_ && (more.elements_ == 0 || alive_.size() == more.alive_.size());
    for (size_t i = 0; fits_ && i < more.alive_.size(); ++i) alive_[i] |= more.alive_[i];
    elements_ += more.elements_;
    more.Reset();
  }
  void OnStep(const StepInfo&, std::span<const Input> inputs, const ResultsRef& results) override {
    if (!fits_) return results->Incomplete();
    const auto dead = static_cast<double>(std::count(alive_.begin(), alive_.end(), 0));
    results->Put(inputs[0].subject,
                 elements_ == 0 ? std::numeric_limits<double>::quiet_NaN() : dead / static_cast<double>(alive_.size()));
  }
  uint64_t bytes() const override { return alive_.size(); }
  void Reset() override {
    alive_.clear();
    elements_ = 0;
    fits_ = true;
  }

 private:
  // None: there is no such axis, or (auto) the whole tensor is one unit.
  std::optional<size_t> AxisOf(size_t dimensions) const {
    if (axis_) {
      const int axis = *axis_ < 0 ? *axis_ + static_cast<int>(dimensions) : *axis_;
      if (axis < 0 || axis >= static_cast<int>(dimensions)) return {};
      return static_cast<size_t>(axis);
    }
    if (dimensions < 2) return {};
    return dimensions >= 4 ? 1 : dimensions - 1;
  }

  const std::optional<int> axis_;
  std::vector<unsigned char> alive_;
  uint64_t elements_ = 0;
  bool fits_ = true;
};

Result<Definition> DefineDeadFraction(std::span<const std::string> inputs, std::span<const std::string> values) {
  std::optional<int> axis;
  if (values[0] != "auto") {
    int number = 0;
    const char* end = values[0].data() + values[0].size();
    const auto parsed = std::from_chars(values[0].data(), end, number);
    if (parsed.ec != std::errc() || parsed.ptr != end || number > kAxisMax || number < -kAxisMax - 1) {
      return Error{ErrorCode::kInvalidArgument,
                   "axis='" + values[0] + "' of dead_fraction is neither auto nor an axis, -8 to 7"};
    }
    axis = number;
  }
  Definition definition;
  definition.values = {axis ? std::to_string(*axis) : "auto"};
  definition.content = Content::kTensor;
  definition.delivery = Delivery::kEachMessage;
  definition.topic = inputs[0] + "_dead_fraction";
  definition.create = [axis] { return std::make_unique<DeadFraction>(axis); };
  return definition;
}

constexpr Parameter kDeadParameters[] = {
    {"axis", "auto", "whose indices are the units; auto: channels of four dimensions and more, features of fewer"},
};

}  // namespace

constexpr Descriptor kDeadFraction{
    .name = "dead_fraction",
    .parameters = kDeadParameters,
    .publishes = "{kind}_dead_fraction",
    .help = "share of units that are 0 over the whole batch",
    .define = DefineDeadFraction,
};

}  // namespace ikkuna::metrics
