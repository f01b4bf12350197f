// Plots, character by character.
#include "daemon/cli/plot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace ikkuna::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

PlotOptions Small(bool ascii) {
  PlotOptions options;
  options.width = 10;
  options.height = 5;
  options.ascii = ascii;
  return options;
}

Terminal Plain() { return Terminal(); }

TEST(PlotTest, ARisingLineInAscii) {
  std::string plot = DrawPlot({{"loss", {{0, 0}, {9, 4}}}}, Small(true), Plain());
  EXPECT_EQ(plot,
            "4 +        **\n"
            "  |      **\n"
            "  |    **\n"
            "  |  **\n"
            "0 +**\n"
            "  +----------\n"
            "   0  step  9\n"
            "* loss  last 4\n");
}

TEST(PlotTest, ARisingLineInBraille) {
  PlotOptions options = Small(false);
  options.height = 2;
  std::string plot = DrawPlot({{"loss", {{0, 1}, {19, 8}}}}, options, Plain());
  EXPECT_EQ(plot,
            "8 ┤     ⣀⡠⠔⠒⠉\n"
            "1 ┤⣀⠤⠔⠊⠉\n"
            "  └──────────\n"
            "   0  step 19\n"
            "━ loss  last 8\n");
}

TEST(PlotTest, EveryDotOfABrailleCellHasItsPlace) {
  // One point in a cell of 2 x 4 dots, at each of its places.
  const char* kExpected[4][2] = {{"⠁", "⠈"}, {"⠂", "⠐"}, {"⠄", "⠠"}, {"⡀", "⢀"}};
  for (int row = 0; row < 4; ++row) {
    for (int column = 0; column < 2; ++column) {
      // Corners pin the ranges; the drawn point has a line of its own.
      PlotOptions options;
      options.width = 8;
      options.height = 2;
      PlotSeries corners{"corners", {{0, 0}, {0, kNaN}, {15, 7}}};
      PlotSeries point{"point", {{6.0 + column, 7.0 - row}}};
      Terminal colours;
      colours.colour = true;
      std::string plot = DrawPlot({corners, point}, options, colours);
      EXPECT_THAT(plot, HasSubstr(std::string("\x1b[33m") + kExpected[row][column] + "\x1b[0m"));
    }
  }
}

TEST(PlotTest, SeveralSeriesHaveLettersWhereThereAreNoColours) {
  std::string plot = DrawPlot({{"up", {{0, 0}, {9, 4}}}, {"flat", {{0, 4}, {4, 4}}}}, Small(true), Plain());
  EXPECT_EQ(plot,
            "4 +bbbbb   aa\n"
            "  |      aa\n"
            "  |    aa\n"
            "  |  aa\n"
            "0 +aa\n"
            "  +----------\n"
            "   0  step  9\n"
            "a up  last 4\n"
            "b flat  last 4\n");
}

TEST(PlotTest, ValuesThatAreNoneLeaveAGapAndAreCounted) {
  std::string plot =
      DrawPlot({{"loss", {{0, 0}, {1, 0}, {2, kNaN}, {7, kInfinity}, {8, 4}, {9, 4}}}}, Small(true), Plain());
  EXPECT_EQ(plot,
            "4 +        **\n"
            "  |\n"
            "  |\n"
            "  |\n"
            "0 +**\n"
            "  +----------\n"
            "   0  step  9\n"
            "loss: not drawn: 2 NaN or infinite, the first at 2\n"
            "* loss  last 4\n");
}

TEST(PlotTest, OneValueAndAConstantHaveRoomAround) {
  std::string one = DrawPlot({{"x", {{5, 0}}}}, Small(true), Plain());
  EXPECT_THAT(one, HasSubstr(" 1 +\n"));
  EXPECT_THAT(one, HasSubstr("-1 +\n"));
  EXPECT_THAT(one, HasSubstr("*\n"));
  std::string constant = DrawPlot({{"x", {{0, 100}, {9, 100}}}}, Small(true), Plain());
  EXPECT_THAT(constant, HasSubstr("105 +\n"));
  EXPECT_THAT(constant, HasSubstr("    |**********\n"));
  EXPECT_THAT(constant, HasSubstr(" 95 +\n"));
}

TEST(PlotTest, NothingToDrawIsSaid) {
  EXPECT_EQ(DrawPlot({{"x", {}}}, Small(true), Plain()), "Nothing to draw.\n* x  no samples\n");
  EXPECT_EQ(DrawPlot({{"x", {{3, kNaN}}}}, Small(true), Plain()),
            "Nothing to draw.\nx: not drawn: 1 NaN or infinite, the first at 3\n* x  last NaN\n");
}

TEST(PlotTest, LogarithmsPutDecadesAtOneDistance) {
  PlotOptions options = Small(true);
  options.log = true;
  std::string plot = DrawPlot({{"x", {{0, 1}, {4, 100}, {5, 0}, {9, 10000}}}}, options, Plain());
  // What cannot be drawn at 5 leaves a gap.
  EXPECT_EQ(plot,
            "1e+04 +         *\n"
            "      |\n"
            "      |    *\n"
            "      |  **\n"
            "    1 +**\n"
            "      +----------\n"
            "       0  step  9\n"
            "x: not drawn: 1 not above zero, the first at 5\n"
            "* x  last 1e+04\n");
}

TEST(PlotTest, TheGreatestDoublesFit) {
  double most = std::numeric_limits<double>::max();
  std::string plot = DrawPlot({{"x", {{0, -most}, {9, most}}}}, Small(true), Plain());
  EXPECT_THAT(plot, HasSubstr("1.798e+308 +        **\n"));
  EXPECT_THAT(plot, HasSubstr("-1.798e+308 +**\n"));
}

TEST(PlotTest, LargeStepsAreWrittenInFull) {
  std::string plot = DrawPlot({{"x", {{1234567, 0}, {7654321, 4}}}}, Small(true), Plain());
  EXPECT_THAT(plot, HasSubstr("1234567"));
  EXPECT_THAT(plot, HasSubstr("7654321"));
}

TEST(PlotTest, ColoursOnlyOnATerminalThatTakesThem) {
  Terminal colours;
  colours.colour = true;
  EXPECT_THAT(DrawPlot({{"x", {{0, 0}, {9, 4}}}}, Small(false), colours), HasSubstr("\x1b[36m"));
  EXPECT_THAT(DrawPlot({{"x", {{0, 0}, {9, 4}}}}, Small(false), Plain()), Not(HasSubstr("\x1b")));
}

TEST(PlotTest, WhatWasSmoothedLiesBeneathTheLine) {
  PlotSeries line{"loss", {{0, 2}, {9, 2}}, {{0, 0}, {3, 4}, {6, 2}, {9, 3}}};
  EXPECT_EQ(DrawPlot({line}, Small(true), Plain()),
            "4 +   .\n"
            "  |         .\n"
            "  |**********\n"
            "  |\n"
            "0 +.\n"
            "  +----------\n"
            "   0  step  9\n"
            "* loss  last 2, unsmoothed 3\n");
  // With colours the dots are dim, and a character of the line is all the line's.
  Terminal colours;
  colours.colour = true;
  EXPECT_THAT(DrawPlot({line}, Small(false), colours), HasSubstr("\x1b[2m⠁\x1b[0m"));
  // Two at once: letters for the lines, dots beneath.
  std::string two = DrawPlot({line, {"other", {{0, 1}, {9, 1}}, {{4, 4}}}}, Small(true), Plain());
  EXPECT_THAT(two, HasSubstr("4 +   ..\n"));
  EXPECT_THAT(two, HasSubstr("|aaaaaaaaaa\n"));
}

TEST(PlotTest, AsciiIsAscii) {
  for (char c : DrawPlot({{"x", {{0, 0}, {3, 1}, {9, 4}}}}, Small(true), Plain())) EXPECT_EQ(c & 0x80, 0);
}

}  // namespace
}  // namespace ikkuna::cli
