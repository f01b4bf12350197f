// Histograms, character by character.
#include "daemon/cli/histogram_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

namespace ikkuna::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

Histogram Four() {
  Histogram histogram;
  histogram.min = -1;
  histogram.max = 1;
  histogram.counts = {1, 4, 0, 3};
  histogram.n = 8;
  histogram.sum = 0.8;
  histogram.sum_squares = 2;
  return histogram;
}

HistogramOptions Small(bool ascii) { return {8, 20, ascii}; }

TEST(HistogramTextTest, ALineForEachBin) {
  EXPECT_EQ(HistogramText(Four(), Small(true), Terminal()),
            "8 values from -1 to 1, mean 0.1, standard deviation 0.4899\n"
            "  -1 | ## 1\n"
            "-0.5 | ######## 4\n"
            "   0 | 0\n"
            " 0.5 | ###### 3\n");
  EXPECT_THAT(HistogramText(Four(), Small(false), Terminal()), HasSubstr("-0.5 │ ████████ 4\n"));
}

TEST(HistogramTextTest, ABinThatHasSomethingHasABar) {
  Histogram histogram = Four();
  histogram.counts = {1, 1'000'000, 0, 0};
  EXPECT_THAT(HistogramText(histogram, Small(true), Terminal()), HasSubstr("  -1 | # 1\n"));
  EXPECT_THAT(HistogramText(histogram, Small(false), Terminal()), HasSubstr("  -1 │ ▏ 1\n"));
}

TEST(HistogramTextTest, ManyBinsShareLines) {
  HistogramOptions options = Small(true);
  options.height = 2;
  EXPECT_THAT(HistogramText(Four(), options, Terminal()), HasSubstr("-1 | ######## 5\n 0 | ##### 3\n"));
}

TEST(HistogramTextTest, WhatIsNotFiniteIsSaid) {
  Histogram histogram;
  histogram.min = 1;
  histogram.max = 0;
  histogram.nans = 2;
  histogram.negative_infinities = 1;
  EXPECT_EQ(HistogramText(histogram, Small(true), Terminal()), "0 values\nnot in a bin: 2 NaN, 1 -Infinity\n");
}

TEST(HistogramTextTest, TheGreatestDoublesFit) {
  Histogram histogram = Four();
  histogram.min = std::numeric_limits<double>::lowest();
  histogram.max = std::numeric_limits<double>::max();
  EXPECT_THAT(HistogramText(histogram, Small(true), Terminal()), HasSubstr("\n          0 | 0\n"));
  EXPECT_THAT(HistogramMap({{0, histogram}, {1, histogram}}, Small(true), Terminal()), Not(HasSubstr("Nothing")));
}

TEST(HistogramMapTest, StepsToTheRightValuesUpwards) {
  Histogram low = Four(), high = Four();
  low.counts = {8, 0, 0, 0};
  high.counts = {0, 0, 0, 8};
  HistogramOptions options{2, 4, true};
  EXPECT_EQ(HistogramMap({{10, low}, {20, high}}, options, Terminal()),
            " 0.75 | #\n"
            "      |\n"
            "      |\n"
            "-0.75 |#\n"
            "       step 10 to 20\n");
}

TEST(HistogramMapTest, MoreStepsThanColumnsAreAveraged) {
  Histogram low = Four(), high = Four();
  low.counts = {8, 0, 0, 0};
  high.counts = {0, 0, 0, 8};
  HistogramOptions options{1, 4, true};
  const std::string map = HistogramMap({{10, low}, {20, high}}, options, Terminal());
  EXPECT_THAT(map, HasSubstr(" 0.75 |#\n"));
  EXPECT_THAT(map, HasSubstr("-0.75 |#\n"));
}

TEST(HistogramMapTest, NothingIsSaid) {
  Histogram empty;
  empty.min = 1;
  EXPECT_EQ(HistogramMap({{1, empty}}, Small(true), Terminal()), "Nothing to draw.\n");
}

}  // namespace
}  // namespace ikkuna::cli
