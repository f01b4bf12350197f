// Losses: a probe without a daemon, and the losses that it captured, by name.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "tests/probe/torch/capture_fixture.h"

namespace ikkuna {

class Losses : public Capture {
 protected:
  static Tensor X() { return torch::randn({12, 8}); }
  static Tensor Y() { return torch::randn({12, 4}); }
  static Tensor K() { return torch::randint(0, 4, {12}); }
  static torch::nn::Sequential Net(int64_t out = 4) {
    return torch::nn::Sequential(torch::nn::Linear(8, 16), torch::nn::ReLU(), torch::nn::Linear(16, out));
  }
  // By name, of a tag; the value at each step.
  std::map<std::string, std::vector<double>> Values(const std::string& tag = "default") const {
    std::map<std::string, std::vector<double>> values;
    for (const Kept& kept : Of("loss")) {
      if (kept.message.tag == tag) values[kept.message.param].push_back(kept.message.scalar);
    }
    return values;
  }
  static void Expect(const std::vector<double>& got, const std::vector<double>& want) {
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < got.size(); ++i) EXPECT_FLOAT_EQ(got[i], want[i]) << i;
  }
};

}  // namespace ikkuna
