// What the tests of the TensorBoard sink share: a sink on a folder that goes away, and TensorBoard's own reader.
#pragma once

#include <gmock/gmock.h>

#include <array>
#include <cstdio>
#include <fstream>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "build_paths.h"
#include "daemon/sinks/tensorboard/tensorboard.h"
#include "tests/daemon/sinks/sinks_fixture.h"

namespace ikkuna::sinks {

using nlohmann::json;

// The interpreter of tests/run.sh, or the one that IKKUNA_TEST_PYTHON names.
inline std::string Python() {
  if (const char* named = std::getenv("IKKUNA_TEST_PYTHON")) return named;
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  const std::string base = cache && *cache ? cache : std::string(home ? home : "") + "/.cache";
  return base + "/ikkuna/venv-tests/bin/python";
}

inline std::optional<json> ReadBack(const std::string& logdir) {
  // Sanitizers are not for the interpreter's libraries.
  const std::string command = "env -u LD_PRELOAD '" + Python() + "' '" + IKKUNA_SOURCE_DIR +
                              "/tests/daemon/sinks/read_event_files.py' '" + logdir + "'";
  FILE* pipe = popen(command.c_str(), "r");
  if (!pipe) return std::nullopt;
  std::string text;
  std::array<char, 4096> buffer;
  for (size_t count; (count = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) text.append(buffer.data(), count);
  EXPECT_EQ(pclose(pipe), 0) << text;
  json answer = json::parse(text, nullptr, false);
  if (answer.is_discarded()) return std::nullopt;
  return answer;
}

#define SKIP_WITHOUT_PYTHON()                                                                              \
  if (!std::filesystem::exists(Python())) {                                                                \
    GTEST_SKIP() << "SKIP: no " << Python() << " with TensorBoard: run tests/run.sh once to have it made"; \
  }

class TensorBoardTest : public ::testing::Test {
 protected:
  void SetUp() override {
    options_.logdir = dir_.path() + "/tb";
    options_.report = [this](Event event) {
      std::lock_guard lock(mutex_);
      events_.push_back(std::move(event));
    };
  }
  // A daemon's life: closes the one before.
  void Open() {
    Close();
    auto sink = OpenTensorBoard(options_);
    ASSERT_TRUE(sink.ok()) << sink.error().text;
    sink_ = *std::move(sink);
  }
  void Close() {
    if (!sink_) return;
    Flush();
    sink_->Close();
    sink_.reset();
  }
  void Flush() { ASSERT_TRUE(sink_->Flush(Watchdog()).ok()); }
  void Offer(const RunPtr& run, uint64_t step, std::vector<Sample> samples, std::vector<OtherValue> others = {}) {
    sink_->Offer(BatchOf(run, step, std::move(samples), std::move(others)));
  }
  static RunPtr Continuing(uint32_t attempt, uint32_t continues, uint64_t start_step, uint32_t rank = 0) {
    ProducerInfo info = Producer({"run-1", attempt, rank}, static_cast<unsigned char>(20 + attempt));
    info.continues = continues;
    info.line = 0;
    info.start_step = start_step;
    return std::make_shared<ikkuna::Run>(info);
  }
  static std::vector<uint64_t> Steps(const json& curve) {
    std::vector<uint64_t> steps;
    for (const json& point : curve) steps.push_back(point.is_array() ? point[0] : point);
    return steps;
  }
  std::vector<std::string> EventKinds() {
    std::lock_guard lock(mutex_);
    std::vector<std::string> kinds;
    for (const Event& event : events_) kinds.push_back(event.kind);
    return kinds;
  }
  std::vector<Event> Events() {
    std::lock_guard lock(mutex_);
    return events_;
  }
  std::vector<std::filesystem::path> EventFiles(const std::string& below) {
    std::vector<std::filesystem::path> files;
    std::error_code code;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(below, code)) {
      if (entry.path().filename().string().starts_with("events.out.tfevents.")) files.push_back(entry.path());
    }
    std::sort(files.begin(), files.end());
    return files;
  }

  TempDir dir_;
  TensorBoardOptions options_;
  std::mutex mutex_;
  std::vector<Event> events_;
  std::unique_ptr<Sink> sink_;
};

}  // namespace ikkuna::sinks
