#include "shared/base/suggestion.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace ikkuna {
namespace {

TEST(Suggestion, TheNearestNameIfAnyIsNear) {
  const std::vector<std::string> names{"weights", "weight_gradients", "mean", "loss"};
  EXPECT_EQ(Suggestion("wieghts", names), "; did you mean 'weights'?");
  EXPECT_EQ(Suggestion("weight_gradient", names), "; did you mean 'weight_gradients'?");
  EXPECT_EQ(Suggestion("maen", names), "; did you mean 'mean'?");
  EXPECT_EQ(Suggestion("zzz", names), ".");
  EXPECT_EQ(Suggestion("9", std::vector<std::string>{"0", "1"}), ".") << "nothing of it is left";
  EXPECT_EQ(Suggestion("", names), ".");
  EXPECT_EQ(Suggestion(std::string(1'000'000, 'w'), names), ".");
}

}  // namespace
}  // namespace ikkuna
