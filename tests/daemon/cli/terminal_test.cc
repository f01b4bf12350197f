#include "daemon/cli/terminal.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <limits>

namespace ikkuna::cli {
namespace {

TEST(NumbersTest, AreShortForPeopleAndExactForPrograms) {
  EXPECT_EQ(ShortNumber(0.123456), "0.1235");
  EXPECT_EQ(ShortNumber(1.5e-7), "1.5e-07");
  EXPECT_EQ(ShortNumber(std::numeric_limits<double>::quiet_NaN()), "NaN");
  EXPECT_EQ(ShortNumber(-std::numeric_limits<double>::infinity()), "-Infinity");
  for (double value : {0.1, 1.0 / 3, 5e-324, 1.7976931348623157e308, -2.5}) {
    EXPECT_EQ(std::strtod(ExactNumber(value).c_str(), nullptr), value);
  }
  EXPECT_EQ(ExactNumber(std::numeric_limits<double>::infinity()), "Infinity");
}

TEST(NumbersTest, CountsSharesBytesAndTimes) {
  EXPECT_EQ(Count(0), "0");
  EXPECT_EQ(Count(999), "999");
  EXPECT_EQ(Count(1000), "1,000");
  EXPECT_EQ(Count(18446744073709551615u), "18,446,744,073,709,551,615");
  EXPECT_EQ(Percent(1), "100.0%");
  EXPECT_EQ(Percent(0.9999999), "99.999%");
  EXPECT_EQ(Percent(0.123), "12.3%");
  EXPECT_EQ(Percent(0.0123), "1.23%");
  EXPECT_EQ(Percent(0), "0.0%");
  EXPECT_EQ(Bytes(0), "0 B");
  EXPECT_EQ(Bytes(1536), "1.5 KiB");
  EXPECT_EQ(Bytes(uint64_t{3} << 30), "3.0 GiB");
  EXPECT_EQ(Duration(4.25), "4.2 s");
  EXPECT_EQ(Duration(61), "1 min 01 s");
  EXPECT_EQ(Duration(7380), "2 h 03 min");
  EXPECT_EQ(LocalTime(0), "-");
}

TEST(TextTest, ControlCharactersOfOthersDoNotReachTheTerminal) {
  EXPECT_EQ(PlainText("a\x1b[31mb\nc\td\x7f"), "a\\x1b[31mb\\nc\\td\\x7f");
  EXPECT_EQ(PlainText(std::string("nul\0", 4)), "nul\\x00");
  // A C1 control (CSI in one character), a mark that turns the direction, and bytes that are no text.
  EXPECT_EQ(PlainText("a\u009b31m"), "a\\u009b31m");
  EXPECT_EQ(PlainText("loss\u202egnp"), "loss\\u202egnp");
  EXPECT_EQ(PlainText("a\xff\xc3"), "a??");
  EXPECT_EQ(PlainText("層😀"), "層😀");
  EXPECT_EQ(PlainText("größe"), "größe");
  EXPECT_EQ(DisplayWidth("größe"), 5u);
}

TEST(TextTableTest, ColumnsAreAsWideAsTheirWidestCell) {
  TextTable table({{"name"}, {"value", true}});
  table.Add({"ä", "1"});
  table.Add({"longer", "12345678"});
  EXPECT_EQ(table.Text(Terminal()),
            "name       value\n"
            "ä              1\n"
            "longer  12345678\n");
  EXPECT_EQ(table.Text(Terminal(), 1),
            "name       value\n"
            "ä              1\n"
            "... 1 more\n");
}

TEST(TextTableTest, NeighboursShareAHeading) {
  TextTable table({{"module"}, {"mean", true, "weights"}, {"std", true, "weights"}, {"mean", true, "a_long_heading"}});
  table.Add({"fc1", "0.1", "0.2", "0.3"});
  EXPECT_EQ(table.Text(Terminal()),
            "        weights    a_long_heading\n"
            "module  mean  std            mean\n"
            "fc1      0.1  0.2             0.3\n");
}

TEST(PaintTest, OnlyWhereColoursAreTaken) {
  Terminal terminal;
  EXPECT_EQ(Paint(terminal, Colour::kRed, "x"), "x");
  terminal.colour = true;
  EXPECT_EQ(Paint(terminal, Colour::kRed, "x"), "\x1b[31mx\x1b[0m");
  EXPECT_EQ(Paint(terminal, Colour::kPlain, "x"), "x");
}

TEST(TerminalTest, TheLocaleDecidesOnUtf8) {
  ASSERT_EQ(::setenv("LC_ALL", "de_DE.ISO-8859-1", 1), 0);
  EXPECT_FALSE(DetectTerminal().utf8);
  ASSERT_EQ(::setenv("LC_ALL", "en_US.UTF-8", 1), 0);
  EXPECT_TRUE(DetectTerminal().utf8);
  ASSERT_EQ(::setenv("LC_ALL", "C", 1), 0);
  EXPECT_TRUE(DetectTerminal().utf8);
  ::unsetenv("LC_ALL");
}

}  // namespace
}  // namespace ikkuna::cli
