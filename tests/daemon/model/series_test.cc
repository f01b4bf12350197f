#include "daemon/model/series.h"

#include <gtest/gtest.h>

#include <set>
#include <thread>

namespace ikkuna {
namespace {

SeriesName Name(const std::string& module, const std::string& topic = "weights_mean") {
  return {{"model", "default"}, module, "weight", topic};
}

TEST(SeriesCatalogue, GivesOneIdToOneName) {
  SeriesCatalogue catalogue;
  EXPECT_EQ(catalogue.Intern(Name("fc1"), {ValueType::kNumber, Precision::kSingle, "Linear", "s"}), 1u);
  EXPECT_EQ(catalogue.Intern(Name("fc2"), {}), 2u);
  EXPECT_EQ(catalogue.Intern(Name("fc1"), {ValueType::kNumber, Precision::kDouble, "Other", "other"}), 1u);
  EXPECT_EQ(catalogue.size(), 2u);
  const auto series = catalogue.Find(1);
  ASSERT_TRUE(series);
  EXPECT_EQ(series->name, Name("fc1"));
  EXPECT_EQ(series->traits, (SeriesTraits{ValueType::kNumber, Precision::kSingle, "Linear", "s"}));
  EXPECT_EQ(catalogue.FindId(Name("fc2")), 2u);
  EXPECT_EQ(catalogue.FindId(Name("fc3")), std::nullopt);
  EXPECT_FALSE(catalogue.Find(0));
  EXPECT_FALSE(catalogue.Find(3));
}

TEST(SeriesCatalogue, EveryPartOfTheNameCounts) {
  SeriesCatalogue catalogue;
  std::set<uint32_t> ids{catalogue.Intern(Name("fc1"), {})};
  for (int part = 0; part < 5; ++part) {
    SeriesName name = Name("fc1");
    if (part == 0) name.timeline.tag = "x";
    if (part == 1) name.timeline.root = "x";
    if (part == 2) name.module = "x";
    if (part == 3) name.param = "x";
    if (part == 4) name.topic = "x";
    ids.insert(catalogue.Intern(name, {}));
  }
  EXPECT_EQ(ids.size(), 6u);
}

TEST(SeriesCatalogue, ANameHasOneType) {
  SeriesCatalogue catalogue;
  EXPECT_EQ(catalogue.Intern(Name("fc1"), {}), 1u);
  EXPECT_EQ(catalogue.Intern(Name("fc1"), {ValueType::kHistogram, Precision::kDouble, "", ""}), 0u);
  EXPECT_EQ(catalogue.refused(), 1u);
}

TEST(SeriesCatalogue, TimelinesAreNumberedOnce) {
  SeriesCatalogue catalogue;
  EXPECT_EQ(catalogue.InternTimeline({"model", "default"}), 1u);
  EXPECT_EQ(catalogue.InternTimeline({"model", "test"}), 2u);
  EXPECT_EQ(catalogue.InternTimeline({"model", "default"}), 1u);
  SeriesName name = Name("fc1");
  name.timeline.tag = "test";
  EXPECT_EQ(catalogue.Find(catalogue.Intern(name, {}))->timeline, 2u);
  EXPECT_EQ(catalogue.Timelines().at(1), (Timeline{"model", "test"}));
  EXPECT_EQ(catalogue.Timelines().size(), 2u);
  for (size_t i = 2; i < SeriesCatalogue::kMaxTimelines; ++i) {
    EXPECT_NE(catalogue.InternTimeline({"model", "tag" + std::to_string(i)}), 0u);
  }
  EXPECT_EQ(catalogue.InternTimeline({"model", "one too many"}), 0u);
  name.timeline.tag = "one too many";
  EXPECT_EQ(catalogue.Intern(name, {}), 0u);
}

TEST(SeriesCatalogue, GoesOnWhereTheFileEnded) {
  SeriesCatalogue catalogue;
  catalogue.Load({{"model", "default"}}, {{9, 1, Name("fc9"), {}},
                                          {3, 1, Name("fc3"), {ValueType::kNumber, Precision::kDouble, "Conv2d", ""}},
                                          {0, 1, Name("zero"), {}},
                                          {4, 1, Name("fc3"), {}}});
  EXPECT_EQ(catalogue.size(), 2u);
  EXPECT_EQ(catalogue.Intern(Name("fc3"), {}), 3u);
  EXPECT_EQ(catalogue.Intern(Name("new"), {}), 10u);
  EXPECT_EQ(catalogue.Find(3)->traits.module_type, "Conv2d");
  EXPECT_EQ(catalogue.Find(9)->name, Name("fc9"));
  EXPECT_FALSE(catalogue.Find(4));
  EXPECT_FALSE(catalogue.Find(5));
  std::vector<uint32_t> since;
  for (const auto& series : catalogue.Since(3)) since.push_back(series->id);
  EXPECT_EQ(since, (std::vector<uint32_t>{9, 10}));
  EXPECT_EQ(catalogue.Since(0).size(), 3u);
  EXPECT_TRUE(catalogue.Since(10).empty());
  EXPECT_TRUE(catalogue.Since(11).empty());
}

TEST(SeriesCatalogue, ThreadsAgreeOnIds) {
  SeriesCatalogue catalogue;
  std::vector<std::vector<uint32_t>> seen(4);
  std::vector<std::thread> threads;
  for (auto& mine : seen) {
    threads.emplace_back([&] {
      for (int i = 0; i < 500; ++i) mine.push_back(catalogue.Intern(Name(std::to_string(i)), {}));
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& mine : seen) EXPECT_EQ(mine, seen[0]);
  EXPECT_EQ(catalogue.size(), 500u);
}

TEST(RunObject, ItsInfoMayGrow) {
  ProducerInfo info;
  info.run_key = {"job", 1, 0};
  ikkuna::Run run(info);
  const auto before = run.info();
  info.facts = {{"host", "h"}};
  run.SetInfo(info);
  EXPECT_EQ(run.info()->facts.size(), 1u);
  EXPECT_TRUE(before->facts.empty());
  EXPECT_EQ(run.key(), (RunKey{"job", 1, 0}));
}

}  // namespace
}  // namespace ikkuna
