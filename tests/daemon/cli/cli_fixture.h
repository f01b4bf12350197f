// Runs the built `ikkuna` against a Server over a ScriptedMonitor, each in a folder of its own.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "build_paths.h"
#include "tests/daemon/cli/program.h"
#include "tests/daemon/service/service_fixture.h"

namespace ikkuna::test {

class CliTest : public ServiceTest {
 protected:
  std::map<std::string, std::string> environment_ = {{"IKKUNA_DIR", dir_.path()}, {"TZ", "UTC"}, {"LC_ALL", "C.UTF-8"}};

  std::unique_ptr<Program> Spawn(std::vector<std::string> arguments, const std::string& out_path = "") {
    arguments.insert(arguments.begin(), IKKUNA_BIN_DIR "/ikkuna");
    std::string base = dir_.path() + "/" + std::to_string(++spawned_);
    return std::make_unique<Program>(arguments, environment_, out_path.empty() ? base + ".out" : out_path,
                                     base + ".err");
  }
  Outcome Run(const std::vector<std::string>& arguments) {
    std::unique_ptr<Program> program = Spawn(arguments);
    Outcome outcome;
    outcome.code = program->Wait();
    outcome.out = program->out();
    outcome.err = program->err();
    return outcome;
  }
  // The output of a command that must succeed, silently.
  std::string Out(const std::vector<std::string>& arguments) {
    Outcome outcome = Run(arguments);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_EQ(outcome.err, "");
    return outcome.out;
  }

 private:
  int spawned_ = 0;
};

}  // namespace ikkuna::test
