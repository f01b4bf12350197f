// LossUnit: what a loss counts, so that an evaluation's can be compared with training's.
//
// Loss functions give the mean over their elements, or their sum, which the trainer may divide by the rows or by what it
// likes. What training publishes shows which it is; of an evaluation, which no backward follows, only what the function
// gave is seen. Thread rule: none, values alone.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <ATen/core/Tensor.h>

namespace ikkuna::torch_probe {

enum class LossUnit : uint8_t {
  kMean = 1,  // over what the function's own mean is over
  kRows = 2,  // the sum over the rows of the batch, as kl_div with `batchmean`
  kSum = 4,
};
// Those that fit what was seen: of one row sum and mean are the same. Empty: the sum, divided by something else.
using UnitSet = uint8_t;
constexpr UnitSet kNoUnit = 0, kAnyUnit = 7;
constexpr UnitSet Only(LossUnit unit) { return static_cast<UnitSet>(unit); }
constexpr bool Has(UnitSet units, LossUnit unit) { return (units & Only(unit)) != 0; }

// How a loss function has reduced.
struct LossCount {
  bool summed = false;
  double rows = 1;
  std::optional<double> elements;  // by which its mean would divide; known of sums alone
};

// By which the mean of this loss function (`cross_entropy_loss`) divides; null: not known, or the labels are not on the
// host. `weighted`: by class weights.
std::optional<double> ElementsOf(const std::string& function, const at::Tensor& output, const at::Tensor& labels,
                                 int64_t ignore_index, bool weighted);

// The units that fit what training has published of what the function gave; null: that shows nothing. `rounded`: it was
// read from what backward starts from, which may be of half precision.
std::optional<UnitSet> UnitsOf(const LossCount& count, double given, double published, bool rounded);

// What a loss function gave in an evaluation, in the unit of training. Null: it cannot be told.
std::optional<double> InUnits(UnitSet units, const LossCount& count, double given);
// The same where nothing was trained: the mean, of `kl_div` that over the rows (its `batchmean` is a sum that it divides
// itself).
std::optional<double> Untrained(const LossCount& count, double given, const std::string& function);

// Functions that make the same loss of what they are given have one name: nll is the cross_entropy of log_softmax.
std::string FamilyOf(const std::string& function);

// What one term of training counts, as its steps have shown it.
class TrainedLoss {
 public:
  // `alone`: the term was the loss of the step.
  void Saw(bool alone) { alone_ |= alone; }
  // The units that fit a step. One that nothing known fits is the short last batch of an epoch; three in a row, or every
  // other step, are another unit, and then none is known any more.
  void Fits(UnitSet of_step);

  bool alone() const { return alone_; }
  UnitSet units() const { return seen_ && against_ < kAgainstMax ? units_ : kNoUnit; }

 private:
  static constexpr int kAgainst = 3, kAgainstMax = 9;
  UnitSet units_ = kAnyUnit;
  bool seen_ = false;
  bool alone_ = false;
  int against_ = 0;  // a step that nothing fits counts kAgainst, any other takes one back
};

}  // namespace ikkuna::torch_probe
