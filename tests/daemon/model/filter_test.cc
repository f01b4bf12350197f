#include "daemon/sinks/sample_filter.h"

#include <gtest/gtest.h>

#include <string>

namespace ikkuna::sinks {
namespace {

TEST(MatchesPattern, KnowsStarAndQuestionMarkAlone) {
  EXPECT_TRUE(MatchesPattern("", ""));
  EXPECT_FALSE(MatchesPattern("", "a"));
  EXPECT_TRUE(MatchesPattern("*", ""));
  EXPECT_TRUE(MatchesPattern("*", "features.0 > relu"));
  EXPECT_TRUE(MatchesPattern("features.*", "features."));
  EXPECT_FALSE(MatchesPattern("features.*", "features"));
  EXPECT_TRUE(MatchesPattern("*.0", "a.0.0"));
  EXPECT_TRUE(MatchesPattern("a*b*c", "aXbYbZc"));
  EXPECT_FALSE(MatchesPattern("a*b*c", "aXbYbZ"));
  EXPECT_TRUE(MatchesPattern("features.?", "features.1"));
  EXPECT_FALSE(MatchesPattern("features.?", "features.10"));
  EXPECT_TRUE(MatchesPattern("[ab]", "[ab]"));
  EXPECT_FALSE(MatchesPattern("[ab]", "a"));
  EXPECT_TRUE(MatchesPattern("a\\*", "a\\b"));
  EXPECT_FALSE(MatchesPattern("Features", "features"));
}

TEST(MatchesPattern, EvilPatternsEnd) {
  std::string pattern, text(50'000, 'a');
  for (int i = 0; i < 1'000; ++i) pattern += "*a";
  EXPECT_TRUE(MatchesPattern(pattern, text));
  EXPECT_FALSE(MatchesPattern(pattern + "b", text));
}

TEST(SampleFilter, EveryPartCounts) {
  const SeriesKey key{{"run-1", 2, 3}, "test", "generator", "features.0", "weight", "weights_norm2"};
  EXPECT_TRUE(SampleFilter({}).Matches(key, "fashion"));
  auto passes = [&](auto set) {
    SeriesFilter filter;
    set(filter);
    return SampleFilter(filter).Matches(key, "fashion");
  };
  EXPECT_TRUE(passes([](SeriesFilter& f) { f.run_id = "run-1"; }));
  EXPECT_TRUE(passes([](SeriesFilter& f) { f.run_id = "fashion"; }));
  EXPECT_FALSE(passes([](SeriesFilter& f) { f.run_id = "run-*"; }));
  EXPECT_TRUE(passes([](SeriesFilter& f) { f.attempt = 2; }));
  EXPECT_FALSE(passes([](SeriesFilter& f) { f.attempt = 0; }));
  EXPECT_TRUE(passes([](SeriesFilter& f) { f.rank = 3; }));
  EXPECT_FALSE(passes([](SeriesFilter& f) { f.rank = 0; }));
  EXPECT_TRUE(passes([](SeriesFilter& f) { f.tag = "t*"; }));
  EXPECT_FALSE(passes([](SeriesFilter& f) { f.tag = "default"; }));
  EXPECT_FALSE(passes([](SeriesFilter& f) { f.root = "model"; }));
  EXPECT_TRUE(passes([](SeriesFilter& f) { f.module = "features.?"; }));
  EXPECT_FALSE(passes([](SeriesFilter& f) { f.module = "classifier*"; }));
  EXPECT_FALSE(passes([](SeriesFilter& f) { f.param = "bias"; }));
  EXPECT_TRUE(passes([](SeriesFilter& f) { f.topic = "*_norm?"; }));
  EXPECT_FALSE(passes([](SeriesFilter& f) { f.topic = "loss"; }));
}

TEST(SampleFilter, TheDaemonsOwnRunIsMeantOnlyByItsName) {
  const SeriesKey own{{kDaemonRunId, 0, 0}, kDaemonTag, "", "store", "", "daemon_queue"};
  EXPECT_FALSE(SampleFilter({}).Matches(own, ""));
  SeriesFilter filter;
  filter.topic = "daemon_*";
  EXPECT_FALSE(SampleFilter(filter).Matches(own, ""));
  filter.run_id = kDaemonRunId;
  EXPECT_TRUE(SampleFilter(filter).Matches(own, ""));
  EXPECT_FALSE(SampleFilter(filter).Matches({{"run-1", 0, 0}, "default", "", "", "", "daemon_queue"}, "fashion"));
}

}  // namespace
}  // namespace ikkuna::sinks
