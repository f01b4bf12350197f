// What the tests of passes share: a graph, and passes of a few messages.
#pragma once

#include <string>
#include <vector>

#include "daemon/graph/open_passes.h"
#include "tests/daemon/graph/site.h"
#include "tests/daemon/graph/test_metrics.h"

namespace ikkuna::graph {

using Named = std::vector<uint32_t>;

class Passes : public testing::Test {
 protected:
  static void SetUpTestSuite() { RegisterTestMetrics(); }
  explicit Passes(const std::vector<std::string>& texts = {"loss", "mean(activations)", "mean(weights)"})
      : site(texts) {}

  static Where At(uint64_t step, uint16_t tag = kTagDefault, uint16_t root = 1) { return {root, tag, step}; }
  void Loss(uint64_t step, uint32_t pass, double value, uint16_t tag = kTagDefault) {
    site.Handle(Site::At(site.Scalar(Kind::kLoss, At(step, tag), value), pass, 0));
  }
  void Activations(uint64_t step, uint32_t pass, double value, uint16_t call = 0) {
    site.Handle(Site::At(site.Tensor(Kind::kActivations, At(step), Site::kFc1, 0, {value}), pass, call));
  }
  void Weights(uint64_t step, double value) {
    site.Handle(site.Summary(Kind::kWeights, At(step), Site::kFc1, Site::kW1, {value}));
  }
  // A pass of two messages.
  void Pass(uint64_t step, uint32_t pass, double value) {
    site.StartPass(At(step), pass);
    Activations(step, pass, value);
    Loss(step, pass, value);
  }
  uint64_t no_step() const { return site.missing(MissReason::kNoStep); }
  uint64_t withheld() const { return site.missing(MissReason::kWithheld); }
  void ExpectPassesWithheld(uint64_t step) {
    EXPECT_FALSE(site.has("loss", step));
    EXPECT_FALSE(site.has(kActivations, step));
    EXPECT_TRUE(site.has(kWeights, step)) << "what belongs to the step as a whole lacks nothing";
  }

  const std::string kActivations = "fc1/activations_mean";
  const std::string kWeights = "fc1.weight/weights_mean";
  Site site;
};

}  // namespace ikkuna::graph
