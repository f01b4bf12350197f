// What the tests of the C interface share.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>

#include "tests/probe/core/c_step.h"
#include "tests/probe/core/daemon_by_hand.h"

namespace ikkuna {

inline ikkuna_options OptionsFor(const DaemonByHand& daemon) {
  ikkuna_options options{};
  options.size = sizeof options;
  options.directory = daemon.directory().c_str();
  return options;
}

class CInterface : public ::testing::Test {
 protected:
  void SetUp() override {
    ::unsetenv("IKKUNA");
    ::setenv("IKKUNA_WAIT_MS", "120000", 1);
    ::setenv("IKKUNA_ARENA_MB", "4", 1);
  }
  void TearDown() override {
    ::unsetenv("IKKUNA_WAIT_MS");
    ::unsetenv("IKKUNA_ARENA_MB");
  }
};

}  // namespace ikkuna
