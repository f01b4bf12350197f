#include "daemon/model/filter.h"

#include <gtest/gtest.h>

namespace ikkuna {
namespace {

constexpr char kDisplay[] = "fashion";

TEST(SeriesFilter, EveryPartCounts) {
  const RunKey run{"run-1", 2, 3};
  const SeriesName name{{"generator", "test"}, "features.0", "weight", "weights_norm2"};
  const auto passes = [&](auto set) {
    SeriesFilter filter;
    set(filter);
    return filter.MatchesRun(run, kDisplay) && filter.MatchesSeries(name);
  };
  EXPECT_TRUE(passes([](SeriesFilter&) {}));
  EXPECT_TRUE(passes([](SeriesFilter& f) { f.run = "run-1"; }));
  EXPECT_TRUE(passes([](SeriesFilter& f) { f.run = "fashion"; }));
  const auto by_id = [](const char* id) {
    return [id](SeriesFilter& f) {
      f.run = id;
      f.run_is_id = true;
    };
  };
  EXPECT_TRUE(passes(by_id("run-1")));
  EXPECT_FALSE(passes(by_id("fashion")));
  EXPECT_FALSE(passes([](SeriesFilter& f) { f.run = "run-*"; }));  // a run is named, not matched
  EXPECT_TRUE(passes([](SeriesFilter& f) { f.attempt = 2; }));
  EXPECT_FALSE(passes([](SeriesFilter& f) { f.attempt = 0; }));
  EXPECT_TRUE(passes([](SeriesFilter& f) { f.rank = 3; }));
  EXPECT_FALSE(passes([](SeriesFilter& f) { f.rank = 0; }));
  EXPECT_TRUE(passes([](SeriesFilter& f) { f.tag = "t*"; }));
  EXPECT_FALSE(passes([](SeriesFilter& f) { f.tag = "default"; }));
  EXPECT_FALSE(passes([](SeriesFilter& f) { f.root = "model"; }));
  EXPECT_TRUE(passes([](SeriesFilter& f) { f.root = "model|gen*"; }));
  EXPECT_TRUE(passes([](SeriesFilter& f) { f.module = "features.?"; }));
  EXPECT_TRUE(passes([](SeriesFilter& f) { f.module = "classifier*|features.0"; }));
  EXPECT_FALSE(passes([](SeriesFilter& f) { f.module = "classifier*"; }));
  EXPECT_FALSE(passes([](SeriesFilter& f) { f.param = "bias"; }));
  EXPECT_TRUE(passes([](SeriesFilter& f) { f.topic = "*_norm?"; }));
  EXPECT_FALSE(passes([](SeriesFilter& f) { f.topic = "loss"; }));
}

TEST(SeriesFilter, TheDaemonsOwnRunIsMeantOnlyByItsName) {
  const RunKey own{kDaemonRunId, 0, 0};
  SeriesFilter filter;
  EXPECT_FALSE(filter.MatchesRun(own, ""));
  EXPECT_TRUE(filter.MatchesRun({"run-1", 0, 0}, kDisplay));
  filter.run = kDaemonRunId;
  EXPECT_TRUE(filter.MatchesRun(own, ""));
  EXPECT_FALSE(filter.MatchesRun({"run-1", 0, 0}, kDisplay));
}

}  // namespace
}  // namespace ikkuna
