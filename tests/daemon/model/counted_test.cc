#include "daemon/model/counted.h"

#include <gtest/gtest.h>

namespace ikkuna {
namespace {

TEST(Counted, OneIsNoPlural) {
  EXPECT_EQ(Counted(0, "value"), "0 values");
  EXPECT_EQ(Counted(1, "value"), "1 value");
  EXPECT_EQ(Counted(2, "value"), "2 values");
}

}  // namespace
}  // namespace ikkuna
