#include "probe/torch/loss_unit.h"

#include <ATen/ExpandUtils.h>

#include <algorithm>
#include <cmath>

namespace ikkuna::torch_probe {

namespace {

bool Near(double left, double right, bool rounded) {
  constexpr double kHalf = 4e-3, kExact = 1e-6;  // bfloat16 has 8 bits
  return std::abs(left - right) <= (rounded ? kHalf : kExact) * std::abs(right);
}

double CountOf(const at::Tensor& labels, int64_t ignored) {
  const at::Tensor whole = labels.to(at::kLong).contiguous();
  const auto* const values = whole.const_data_ptr<int64_t>();
  return static_cast<double>(whole.numel() - std::count(values, values + whole.numel(), ignored));
}

}  // namespace

std::optional<double> ElementsOf(const std::string& function, const at::Tensor& output, const at::Tensor& labels,
                                 int64_t ignore_index, bool weighted) {
  if (!output.defined() || !labels.defined()) return std::nullopt;
  const auto is = [&](const char* name) { return function == name; };
  if (is("cross_entropy_loss") || function.rfind("nll_loss", 0) == 0) {
    if (weighted || !labels.is_cpu()) return std::nullopt;
    if (c10::isIntegralType(labels.scalar_type(), false)) return CountOf(labels, ignore_index);
    const int64_t classes = output.size(output.dim() > 1 ? 1 : 0);  // the labels are probabilities
    return classes == 0 ? std::nullopt : std::optional(static_cast<double>(output.numel() / classes));
  }
  if (is("multi_margin_loss") || is("multilabel_margin_loss")) {
    return output.dim() > 1 ? static_cast<double>(output.size(0)) : 1.;
  }
  for (const char* elementwise : {"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy",
                                  "binary_cross_entropy_with_logits", "kl_div", "poisson_nll_loss", "soft_margin_loss",
                                  "hinge_embedding_loss"}) {
    if (!is(elementwise)) continue;
    double count = 1;
    for (const int64_t size : at::infer_size(output.sizes(), labels.sizes())) count *= static_cast<double>(size);
    return count;
  }
  return std::nullopt;
}

std::optional<UnitSet> UnitsOf(const LossCount& count, double given, double published, bool rounded) {
  if (!count.summed) return Only(LossUnit::kMean);
  if (given == 0 || !std::isfinite(given) || !std::isfinite(published)) return std::nullopt;
  UnitSet units = kNoUnit;
  const auto try_unit = [&](LossUnit unit, double divisor) {
    if (divisor > 0 && Near(published, given / divisor, rounded)) units |= Only(unit);
  };
  try_unit(LossUnit::kSum, 1);
  try_unit(LossUnit::kRows, count.rows);
  if (count.elements) try_unit(LossUnit::kMean, *count.elements);
  return units;
}

// Where training has shown several they are the same for it, and of those that which depends least on the batch is taken.
std::optional<double> InUnits(UnitSet units, const LossCount& count, double given) {
  const bool mean = Has(units, LossUnit::kMean);
  if (!count.summed) return mean ? std::optional(given) : std::nullopt;
  if (mean && count.elements) return given / *count.elements;
  if (Has(units, LossUnit::kRows)) return given / count.rows;
  return Has(units, LossUnit::kSum) ? std::optional(given) : std::nullopt;
}

std::optional<double> Untrained(const LossCount& count, double given, const std::string& function) {
  if (!count.summed) return given;
  if (function == "kl_div") return given / count.rows;
  return count.elements ? std::optional(given / *count.elements) : std::nullopt;
}

std::string FamilyOf(const std::string& function) {
  if (function == "nll") return "cross_entropy";
  return function == "binary_cross_entropy_with_logits" ? "binary_cross_entropy" : function;
}

void TrainedLoss::Fits(UnitSet of_step) {
  if (against_ >= kAgainstMax) return;
  if ((units_ & of_step) == kNoUnit) {
    against_ += kAgainst;
    return;
  }
  units_ &= of_step;
  seen_ = true;
  against_ = std::max(0, against_ - 1);
}

}  // namespace ikkuna::torch_probe
