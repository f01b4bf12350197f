#include "daemon/series_catalogue.h"

#include <gtest/gtest.h>

#include <set>
#include <thread>

namespace ikkuna {
namespace {

SeriesKey Key(const std::string& module, const std::string& topic = "weights_mean") {
  return {{"run", 0, 0}, "default", "model", module, "weight", topic};
}

TEST(SeriesCatalogue, GivesOneIdToOneKey) {
  SeriesCatalogue catalogue;
  EXPECT_EQ(catalogue.Intern(Key("fc1"), "Linear", "s"), 1u);
  EXPECT_EQ(catalogue.Intern(Key("fc2"), "Linear", ""), 2u);
  EXPECT_EQ(catalogue.Intern(Key("fc1"), "Other", "other"), 1u);
  EXPECT_EQ(catalogue.size(), 2u);
  const auto series = catalogue.Find(1);
  ASSERT_TRUE(series);
  EXPECT_EQ(series->key, Key("fc1"));
  EXPECT_EQ(series->module_type, "Linear");
  EXPECT_EQ(series->unit, "s");
  EXPECT_EQ(catalogue.FindId(Key("fc2")), 2u);
  EXPECT_EQ(catalogue.FindId(Key("fc3")), std::nullopt);
  EXPECT_FALSE(catalogue.Find(0));
  EXPECT_FALSE(catalogue.Find(3));
}

TEST(SeriesCatalogue, EveryPartOfTheKeyCounts) {
  SeriesCatalogue catalogue;
  std::set<uint64_t> ids{catalogue.Intern(Key("fc1"), "", "")};
  for (int part = 0; part < 8; ++part) {
    SeriesKey key = Key("fc1");
    if (part == 0) key.run.run_id = "x";
    if (part == 1) key.run.attempt = 1;
    if (part == 2) key.run.rank = 1;
    if (part == 3) key.tag = "x";
    if (part == 4) key.root = "x";
    if (part == 5) key.module = "x";
    if (part == 6) key.param = "x";
    if (part == 7) key.topic = "x";
    ids.insert(catalogue.Intern(key, "", ""));
  }
  EXPECT_EQ(ids.size(), 9u);
}

TEST(SeriesCatalogue, GoesOnWhereTheStoreEnded) {
  SeriesCatalogue catalogue;
  catalogue.Load({{9, Key("fc9"), "Linear", ""},
                  {3, Key("fc3"), "Conv2d", ""},
                  {0, Key("zero"), "", ""},
                  {4, Key("fc3"), "", ""}});
  EXPECT_EQ(catalogue.size(), 2u);
  EXPECT_EQ(catalogue.Intern(Key("fc3"), "", ""), 3u);
  EXPECT_EQ(catalogue.Intern(Key("new"), "", ""), 10u);
  EXPECT_EQ(catalogue.Find(3)->module_type, "Conv2d");
  EXPECT_EQ(catalogue.Find(9)->key, Key("fc9"));
  EXPECT_FALSE(catalogue.Find(4));
  EXPECT_FALSE(catalogue.Find(5));
}

TEST(SeriesCatalogue, SinceGivesWhatIsNew) {
  SeriesCatalogue catalogue;
  catalogue.Load({{2, Key("a"), "", ""}, {5, Key("b"), "", ""}, {7, Key("c"), "", ""}});
  const auto ids = [&](uint64_t after) {
    std::vector<uint64_t> found;
    for (const Series& series : catalogue.Since(after)) found.push_back(series.id);
    return found;
  };
  EXPECT_EQ(ids(0), (std::vector<uint64_t>{2, 5, 7}));
  EXPECT_EQ(ids(2), (std::vector<uint64_t>{5, 7}));
  EXPECT_EQ(ids(6), (std::vector<uint64_t>{7}));
  EXPECT_TRUE(ids(7).empty());
}

TEST(SeriesCatalogue, IsFullAtItsMaximum) {
  SeriesCatalogue catalogue;
  std::vector<Series> series(SeriesCatalogue::kMaxSeries - 1);
  for (size_t i = 0; i < series.size(); ++i) {
    series[i].id = i + 1;
    series[i].key.module = std::to_string(i);
  }
  catalogue.Load(std::move(series));
  EXPECT_NE(catalogue.Intern(Key("last"), "", ""), 0u);
  EXPECT_EQ(catalogue.Intern(Key("beyond"), "", ""), 0u);
  EXPECT_EQ(catalogue.Intern(Key("beyond2"), "", ""), 0u);
  EXPECT_EQ(catalogue.refused(), 2u);
  EXPECT_NE(catalogue.Intern(Key("last"), "", ""), 0u);  // what is known stays
}

TEST(SeriesCatalogue, ThreadsAgreeOnIds) {
  SeriesCatalogue catalogue;
  std::vector<std::vector<uint64_t>> seen(4);
  std::vector<std::thread> threads;
  for (auto& mine : seen) {
    threads.emplace_back([&] {
      for (int i = 0; i < 500; ++i) mine.push_back(catalogue.Intern(Key(std::to_string(i)), "", ""));
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& mine : seen) EXPECT_EQ(mine, seen[0]);
  EXPECT_EQ(catalogue.size(), 500u);
}

}  // namespace
}  // namespace ikkuna
