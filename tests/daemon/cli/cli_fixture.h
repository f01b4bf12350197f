// Runs the built `ikkuna` against a scripted daemon, each in a folder of its own.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "build_paths.h"
#include "tests/daemon/cli/folder.h"
#include "tests/daemon/cli/program.h"
#include "tests/daemon/cli/scripted_daemon.h"

namespace ikkuna::test {

class CliTest : public ::testing::Test {
 protected:
  void StartDaemon() { scripted_.Start("unix:" + socket_path()); }
  std::string home() const { return dir_.path() + "/home"; }  // not made
  std::string socket_path() const { return dir_.path() + "/grpc.sock"; }

  std::unique_ptr<Program> Spawn(std::vector<std::string> arguments, const std::string& out_path = "") {
    arguments.insert(arguments.begin(), IKKUNA_BIN_DIR "/ikkuna");
    std::string base = dir_.path() + "/" + std::to_string(++spawned_);
    return std::make_unique<Program>(arguments, environment_, out_path.empty() ? base + ".out" : out_path,
                                     base + ".err");
  }
  // As a person at a shell does.
  Outcome RunShell(const std::string& line) {
    std::string base = dir_.path() + "/" + std::to_string(++spawned_);
    Program program({"sh", "-c", "ikkuna() { " IKKUNA_BIN_DIR "/ikkuna \"$@\"; }; " + line}, environment_,
                    base + ".out", base + ".err");
    Outcome outcome;
    outcome.code = program.Wait();
    outcome.out = program.out();
    outcome.err = program.err();
    return outcome;
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

  Folder dir_;
  std::map<std::string, std::string> environment_ = {{"IKKUNA_DIR", dir_.path()}, {"TZ", "UTC"}, {"LC_ALL", "C.UTF-8"}};
  ScriptedDaemon scripted_;

 private:
  int spawned_ = 0;
};

}  // namespace ikkuna::test
