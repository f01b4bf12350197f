#include "daemon/event_log.h"

#include <gmock/gmock.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>

#include <chrono>
#include <sstream>

#include "tests/watchdog.h"

namespace ikkuna {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;

class EventLogTest : public ::testing::Test {
 protected:
  void SetUp() override {
    before_ = spdlog::default_logger();
    auto sink = std::make_shared<spdlog::sinks::ostream_sink_mt>(lines_);
    auto logger = std::make_shared<spdlog::logger>("test", sink);
    logger->set_pattern("%l %v");
    spdlog::set_default_logger(logger);
  }
  void TearDown() override { spdlog::set_default_logger(before_); }

  static std::shared_ptr<Batch> BatchOf(Severity severity, const std::string& kind, const std::string& text) {
    auto batch = std::make_shared<Batch>();
    Event event;
    event.severity = severity;
    event.kind = kind;
    event.text = text;
    batch->events.push_back(event);
    return batch;
  }
  static auto Watchdog() { return std::chrono::steady_clock::now() + test::kWatchdog; }

  std::ostringstream lines_;
  std::shared_ptr<spdlog::logger> before_;
};

TEST(EventLogEscape, WhatAPeerWroteStaysOneLineAndMovesNoCursor) {
  EXPECT_EQ(Escaped("plain, größe, 层"), "plain, größe, 层");
  EXPECT_EQ(Escaped("a\nb\tc\rd"), "a\\nb\\tc\\rd");
  EXPECT_EQ(Escaped(std::string_view("\x1b[2J\x7f\0", 6)), "\\x1b[2J\\x7f\\x00");
  EXPECT_EQ(Escaped("\xc2\x9b"
                    "2J"),
            "\\u009b2J");  // CSI of eight bits
  EXPECT_EQ(Escaped("\xe2\x80\xae"
                    "txt"),
            "\\u202etxt");                        // right to left
  EXPECT_EQ(Escaped("\xe2\x80\xa8"), "\\u2028");  // a line separator
  EXPECT_EQ(Escaped("\xff\xc3"), "\\xff\\xc3");   // no UTF-8, and cut off
  EXPECT_EQ(Escaped("\xc0\x8a"), "\\xc0\\x8a");   // an overlong newline
  EXPECT_EQ(Escaped("a\\nb"), "a\\\\nb");         // not to be taken for a newline
  EXPECT_EQ(Escaped(""), "");
}

TEST_F(EventLogTest, EachEventIsALineAtItsSeverity) {
  auto log = MakeEventLog();
  EXPECT_EQ(log->name(), "log");
  log->Offer(BatchOf(Severity::kInfo, "run_started", "run 'a\nerror forged: b' began"));
  log->Offer(BatchOf(Severity::kWarning, "non_finite", "NaN"));
  log->Offer(BatchOf(Severity::kError, "quarantined", "bad"));
  ASSERT_TRUE(log->Flush(Watchdog()).ok());
  EXPECT_EQ(lines_.str(),
            "info run_started: run 'a\\nerror forged: b' began\nwarning non_finite: NaN\nerror quarantined: bad\n");
}

TEST_F(EventLogTest, ALongTextIsCutBetweenCharactersAndSaysSo) {
  std::string text(kLogTextBytesMax - 1, 'x');
  LogEvent(BatchOf(Severity::kInfo, "k", text + "öy")->events[0]);
  EXPECT_THAT(lines_.str(), EndsWith("x... (3 bytes more)\n"));
}

TEST_F(EventLogTest, TakesEventsAloneAndNothingOnceClosed) {
  auto log = MakeEventLog();
  auto values = std::make_shared<Batch>();
  values->samples.push_back({1, 0, 1.0});
  log->Offer(values);
  log->Close();
  log->Offer(BatchOf(Severity::kInfo, "late", "late"));
  const SinkCounters counters = log->Counters();
  EXPECT_EQ(counters.offered, 0u);
  EXPECT_EQ(counters.events_dropped, 1u);
  EXPECT_EQ(lines_.str(), "");
}

}  // namespace
}  // namespace ikkuna
