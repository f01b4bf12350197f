// Smoothing against the weights written out, and what survives thinning.
#include "daemon/cli/smoothing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace ikkuna::cli {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::Pair;

constexpr double kGap = std::numeric_limits<double>::quiet_NaN();

TEST(SmootherTest, IsTheWeightedMeanOfAllValuesSoFar) {
  // Span 3 keeps half of every weight. pandas.Series([1, 2, 6]).ewm(span=3, adjust=True).mean(): 1, 5/3, 29/7.
  Smoother smoother(3);
  EXPECT_DOUBLE_EQ(smoother.Add(1), 1);
  EXPECT_DOUBLE_EQ(smoother.Add(2), 5.0 / 3);
  EXPECT_DOUBLE_EQ(smoother.Add(6), (6 + 2 * 0.5 + 1 * 0.25) / 1.75);
}

TEST(SmootherTest, AConstantStaysWhatItIs) {
  Smoother smoother(1000);
  for (int i = 0; i < 5; ++i) EXPECT_DOUBLE_EQ(smoother.Add(7), 7);
}

TEST(SmootherTest, ASpanOfOneChangesNothing) {
  Smoother smoother(1);
  for (double value : {3.0, -1.0, 8.0}) EXPECT_EQ(smoother.Add(value), value);
}

TEST(SmootherTest, WhatIsNotFiniteStandsForItselfAndSpoilsNothing) {
  Smoother smoother(3);
  smoother.Add(1);
  EXPECT_TRUE(std::isnan(smoother.Add(kGap)));
  EXPECT_EQ(smoother.Add(std::numeric_limits<double>::infinity()), std::numeric_limits<double>::infinity());
  EXPECT_DOUBLE_EQ(smoother.Add(2), 5.0 / 3);
}

TEST(ThinnerTest, FewPointsStayAsTheyCame) {
  Thinner thinner(4);
  EXPECT_TRUE(thinner.Points().empty());
  for (int x = 0; x < 4; ++x) thinner.Add(x, 10 - x);
  EXPECT_THAT(thinner.Points(), ElementsAre(Pair(0, 10), Pair(1, 9), Pair(2, 8), Pair(3, 7)));
}

TEST(ThinnerTest, OfManyTheEndsTheSpikesAndTheGapsStay) {
  Thinner thinner(64);
  constexpr int kPoints = 100'003;
  for (int x = 0; x < kPoints; ++x) thinner.Add(x, x == 41'234 ? 99 : x == 70'001 ? -99 : x == 50'000 ? kGap : 1);
  const auto points = thinner.Points();
  EXPECT_LE(points.size(), 3 * 64 + 2u);
  EXPECT_EQ(points.front().first, 0);
  EXPECT_EQ(points.back().first, kPoints - 1);
  EXPECT_THAT(points, Contains(Pair(41'234, 99)));
  EXPECT_THAT(points, Contains(Pair(70'001, -99)));
  EXPECT_THAT(points, Contains(Pair(50'000, ::testing::IsNan())));
  for (size_t i = 1; i < points.size(); ++i) EXPECT_LT(points[i - 1].first, points[i].first);
  EXPECT_EQ(thinner.size(), static_cast<uint64_t>(kPoints));
}

TEST(ThinnerTest, TheOrderOfEqualPlacesIsThatInWhichTheyCame) {
  Thinner thinner(2);
  for (int i = 0; i < 100; ++i) thinner.Add(5, i);
  const auto points = thinner.Points();
  for (size_t i = 1; i < points.size(); ++i) EXPECT_LT(points[i - 1].second, points[i].second);
}

}  // namespace
}  // namespace ikkuna::cli
