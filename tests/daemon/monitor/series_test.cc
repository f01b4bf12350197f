// Values as clients see them: lists, reads over attempts, reads that a watch goes on with.
#include <algorithm>
#include <atomic>
#include <set>
#include <thread>

#include "daemon/monitor/overtaken.h"
#include "tests/daemon/monitor/house.h"

namespace ikkuna {
namespace {

std::vector<std::string> Names(const SeriesPage& page) {
  std::vector<std::string> names;
  for (const SeriesInfo& info : page.series) {
    names.push_back(info.run->run_key.run_id + ":" + info.series->name.module + "/" + info.series->name.topic);
  }
  return names;
}

TEST(MonitorSeries, ListsOfARunAndOfAllComeInPages) {
  TempDirectory temp;
  House house(temp, {"loss", "mean(weights)", "max(weights)"});
  house.Record({"old", 0, 0}, "old", 5);
  auto trainer = Trainer(temp, "job");
  Train(*trainer, 0, 3);
  house.Settled(*trainer);
  SeriesQuery query;
  query.filter.run = "job";
  const auto all = house.series().ListSeries(query);
  ASSERT_TRUE(all.ok()) << all.failure().text;
  EXPECT_THAT(Names(*all), UnorderedElementsAre("job:/loss", "job:fc/weights_mean", "job:fc/weights_max"));
  for (const SeriesInfo& info : all->series) {
    EXPECT_EQ(info.count, 3u) << "what is in memory is part of the answer";
    EXPECT_EQ(info.last_step, 2u);
    EXPECT_EQ(info.last, 2.0);
  }
  for (const uint32_t limit : {0u, 1u, 2u, 3u}) {
    query.limit = limit;
    query.page.clear();
    std::vector<std::string> pages;
    int asked = 0;
    do {
      const auto page = house.series().ListSeries(query);
      ASSERT_TRUE(page.ok()) << page.failure().text;
      for (const std::string& name : Names(*page)) pages.push_back(name);
      query.page = page->next;
      ASSERT_LT(++asked, 10) << "the pages do not end";
    } while (!query.page.empty());
    EXPECT_EQ(pages, Names(*all)) << limit;
  }
  query = {};
  const auto every = house.series().ListSeries(query);
  ASSERT_EQ(every->series.size(), 4u);
  EXPECT_EQ(Names(*every).back(), "old:/loss") << "newest run first";
  query.page = "nonsense";
  EXPECT_EQ(house.series().ListSeries(query).failure().code, ErrorCode::kInvalidArgument);
  query = {};
  query.filter.run = "nobody";
  EXPECT_EQ(house.series().ListSeries(query).failure().reason, Reason::kNoSuchRun);
}

// One whose id is the display name of another is meant alone: numbers of the two would be taken for one run's.
TEST(MonitorSeries, ARunIdThatIsTheDisplayNameOfAnotherIsMeantAlone) {
  TempDirectory temp;
  House house(temp);
  house.Record({"fashion", 0, 0}, "first", 1, 3);
  house.Record({"uuid-7", 0, 0}, "fashion", 2, 5);
  EXPECT_EQ(house.Values("fashion", "loss").size(), 3u);
  EXPECT_EQ(house.Values("uuid-7", "loss").size(), 5u);
  SeriesQuery query;
  query.filter.run = "fashion";
  EXPECT_THAT(Names(*house.series().ListSeries(query)), ElementsAre("fashion:/loss"));
  const std::vector<RunInfo> latest = *house.runs().FindRuns({"latest"});
  EXPECT_EQ(latest[0].info.run_key.run_id, "uuid-7");
  SeriesFilter filter;
  filter.run = "fashion";
  auto watcher = house.series().Watch(filter, {});
  ASSERT_TRUE(watcher.ok());
  house.Record({"uuid-8", 0, 0}, "fashion", 3, 5);
  house.Flush();
  EXPECT_THAT(watcher->watcher->Take(1000).updates, IsEmpty());
}

TEST(MonitorSeries, ReadsARangeAndAsManyPointsAsAskedFor) {
  TempDirectory temp;
  House house(temp);
  auto trainer = Trainer(temp, "job");
  for (uint64_t step = 0; step < 2000; step += 200) {
    Train(*trainer, step, step + 200);
    house.Settled(*trainer);
  }
  ReadOptions options;
  options.query.step_min = 100;
  options.query.step_max = 103;
  EXPECT_THAT(house.Values("job", "loss", options),
              ElementsAre(std::pair(100, 100.0), std::pair(101, 101.0), std::pair(102, 102.0), std::pair(103, 103.0)));
  options = {};
  options.query.max_points = 40;
  const auto few = house.Values("job", "loss", options);
  EXPECT_LE(few.size(), 40u);
  EXPECT_GE(few.size(), 10u);
  EXPECT_EQ(few.begin()->first, 0u);
  EXPECT_EQ(few.rbegin()->first, 1999u);
  for (const auto& [step, value] : few) EXPECT_EQ(value, static_cast<double>(step)) << "every point is one of the run";
  options = {};
  options.query.types = {ValueType::kText};
  EXPECT_THAT(house.Values("job", "loss", options), IsEmpty());
  options = {};
  options.query.step_min = 5000;
  EXPECT_THAT(house.Values("job", "loss", options), IsEmpty());
  options.query.step_min = 10;
  options.query.step_max = 5;
  EXPECT_THAT(house.Values("job", "loss", options), IsEmpty());
}

// Three lives: 0 to 99, on from 60, on from 40 (further back than the second began); then one that says nothing of
// going on.
TEST(MonitorSeries, AttemptsThatContinueEachOtherAreOneLine) {
  TempDirectory temp;
  House house(temp);
  const auto live = [&](uint64_t from, uint64_t to, float base) {
    auto trainer = Trainer(temp, "job", "test", from);
    Train(*trainer, from, to, base);
    house.Settled(*trainer);
    trainer->Finish();
    house.Settled(*trainer, RunState::kFinished);
  };
  live(0, 100, 0);
  live(60, 110, 1000);
  ReadOptions merged;
  merged.merge_attempts = true;
  auto line = house.Values("job", "loss", merged);
  ASSERT_EQ(line.size(), 110u);
  EXPECT_EQ(line[59], 59);
  EXPECT_EQ(line[60], 1060);
  EXPECT_EQ(line[109], 1109);
  // As they are drawn: from the first step on.
  ReadOptions drawn = merged;
  drawn.query.filter.run = "job";
  drawn.query.filter.topic = "loss";
  auto read = house.series().ReadSamples(drawn);
  ASSERT_TRUE(read.ok());
  std::vector<uint64_t> steps;
  for (auto part = read->reader->Next(); part.ok() && *part; part = read->reader->Next()) {
    steps.insert(steps.end(), (*part)->steps.begin(), (*part)->steps.end());
  }
  ASSERT_EQ(steps.size(), 110u);
  EXPECT_TRUE(std::is_sorted(steps.begin(), steps.end()));
  // Nothing kept is written over.
  ReadOptions first;
  first.query.filter.attempt = 0;
  EXPECT_EQ(house.Values("job", "loss", first).at(99), 99);

  // Lives that end before their first step, the usual loop of crashes.
  for (const uint64_t start : {uint64_t{0}, uint64_t{60}}) {
    TestProducer trainer(temp.sub("sockets"));
    trainer.hello().run_id = "job";
    trainer.hello().start_step = start;
    trainer.hello().resume = true;
    trainer.Register();
    ASSERT_TRUE(trainer.Connect()) << trainer.reject();
    trainer.Finish();
    house.Settled(trainer, RunState::kFinished);
    EXPECT_EQ(house.Values("job", "loss", merged).size(), 110u);
  }

  live(40, 80, 2000);
  line = house.Values("job", "loss", merged);
  ASSERT_EQ(line.size(), 80u);
  EXPECT_EQ(line[39], 39);
  EXPECT_EQ(line[40], 2040);
  EXPECT_EQ(line.count(100), 0u) << "of the second nothing is left";
  merged.query.max_points = 16;
  line = house.Values("job", "loss", merged);
  EXPECT_FALSE(line.empty());
  for (const auto& [step, value] : line) {
    EXPECT_EQ(value, static_cast<double>(step < 40 ? step : 2000 + step)) << "no point of what was overtaken";
  }

  live(0, 5, 3000);  // a fresh start is a line of its own
  merged.query.max_points = 0;
  merged.query.filter.attempt = 5;
  EXPECT_EQ(house.Values("job", "loss", merged).size(), 5u);
  merged.query.filter.attempt = 0;
  EXPECT_EQ(house.Values("job", "loss", merged).size(), 40u);
}

// The greatest value of a bucket that reaches over the cut is of what was overtaken: that of what is left is shown.
TEST(MonitorSeries, AnOvertakenPartTakesNoSpikeOfWhatIsLeft) {
  TempDirectory temp;
  House house(temp);
  auto first = Trainer(temp, "job");
  for (uint64_t step = 0; step < 2000; ++step) {
    first->Step(step, step == 1049 ? 1e6F : step == 1051 ? 1e7F : 1.0F);
    if (step % 200 == 199) house.Settled(*first);
  }
  first->Finish();
  house.Settled(*first, RunState::kFinished);
  auto second = Trainer(temp, "job", "test", 1050);
  Train(*second, 1050, 1100);
  house.Settled(*second);
  ReadOptions merged;
  merged.merge_attempts = true;
  merged.query.max_points = 40;
  auto line = house.Values("job", "loss", merged);
  EXPECT_EQ(line[1049], 1e6);
  EXPECT_EQ(line[1050], 1050);
  EXPECT_EQ(line.rbegin()->first, 1099u);
}

TEST(OvertakenFrom, TellsHowMuchIsLeftOfEach) {
  const auto run = [](uint32_t attempt, std::optional<uint32_t> continues, uint64_t start_step, uint32_t rank = 0) {
    RunInfo info;
    info.values = 1;
    info.info.run_key = {"job", attempt, rank};
    info.info.continues = continues;
    info.info.line = 0;
    info.info.start_step = start_step;
    return info;
  };
  using Left = std::map<RunKey, uint64_t>;
  EXPECT_EQ(OvertakenFrom({}), Left());
  EXPECT_EQ(OvertakenFrom({run(1, {}, 50), run(0, {}, 0)}), Left()) << "it did not say that it goes on";
  EXPECT_EQ(OvertakenFrom({run(1, 0, 50), run(0, {}, 0)}), (Left{{{"job", 0, 0}, 50}}));
  EXPECT_EQ(OvertakenFrom({run(0, {}, 0), run(2, 1, 30), run(1, 0, 50)}),
            (Left{{{"job", 0, 0}, 30}, {{"job", 1, 0}, 30}}));
  // What is deleted of a line is missing in it, and parts nothing.
  EXPECT_EQ(OvertakenFrom({run(0, {}, 0), run(2, 1, 70)}), (Left{{{"job", 0, 0}, 70}}));
  EXPECT_EQ(OvertakenFrom({run(0, {}, 0), run(3, 2, 30), run(1, 0, 70)}),
            (Left{{{"job", 0, 0}, 30}, {{"job", 1, 0}, 30}}));
  // A line may begin behind the first attempt.
  RunInfo second = run(3, 2, 50);
  second.info.line = 2;
  EXPECT_EQ(OvertakenFrom({run(0, {}, 0), run(1, 0, 60), run(2, {}, 0), second}),
            (Left{{{"job", 0, 0}, 60}, {{"job", 2, 0}, 50}}));
  // Ranks know nothing of each other; one that names itself or a later one lies.
  EXPECT_EQ(OvertakenFrom({run(0, {}, 0, 1), run(1, 0, 50, 0)}), Left());
  EXPECT_EQ(OvertakenFrom({run(0, 0, 5), run(1, 2, 5), run(2, 2, 5)}), Left());
  // One without values overtakes nothing, and hands on what overtakes it.
  RunInfo empty = run(1, 0, 0);
  empty.values = 0;
  EXPECT_EQ(OvertakenFrom({run(0, {}, 0), empty}), Left());
  EXPECT_EQ(OvertakenFrom({run(0, {}, 0), empty, run(2, 1, 70)}), (Left{{{"job", 0, 0}, 70}, {{"job", 1, 0}, 70}}));
  empty.thinned = 1;
  EXPECT_EQ(OvertakenFrom({run(0, {}, 0), empty}), (Left{{{"job", 0, 0}, 0}}));
}

// What a watch brings, by series and step.
void TakeAll(Watcher& watcher, std::map<std::pair<std::string, uint64_t>, int>& got, uint64_t& dropped) {
  static thread_local std::map<std::pair<uint64_t, uint32_t>, std::string> names;
  while (true) {
    const WatchTaken taken = watcher.Take(10'000);
    dropped = taken.dropped;
    if (taken.updates.empty()) return;
    for (const auto& update : taken.updates) {
      for (const auto& series : update->new_series) names[{update->run_number, series->id}] = series->name.topic;
      if (!update->batch) continue;
      for (const Sample& sample : update->batch->samples) {
        ++got[{names.at({update->run_number, sample.series}), update->batch->stamp.step}];
      }
    }
  }
}

// While the trainer goes on as fast as it is read: what was read, and what a watch brings that begins at the cursor of
// the read, is everything; nothing comes twice but what came while it was read.
TEST(MonitorSeries, AWatchFromTheCursorOfAReadMissesNothing) {
  TempDirectory temp;
  House house(temp);
  auto trainer = Trainer(temp, "job");
  Train(*trainer, 0, 10);
  house.Settled(*trainer);
  std::atomic<uint64_t> steps{10}, wanted{10};
  std::jthread training([&](const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      const uint64_t step = steps.load();
      // Whoever is read late drops, and is not what this is about.
      const uint64_t unread = shm::LoadAcquire(trainer->pub().status().reserved) - trainer->ctl().heads().ring_head;
      if (step < wanted && unread < TestProducer::SmallSizes().ring_slots / 2) {
        trainer->Step(step, static_cast<float>(step));
        steps.store(step + 1);
      }
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
  });
  for (int round = 0; round < 10; ++round) {
    wanted = steps + 2000;  // more than a round takes, and no end if this thread stands still for a while
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    ReadOptions options;
    options.query.filter.run = "job";
    auto read = house.series().ReadSamples(options);
    ASSERT_TRUE(read.ok()) << read.failure().text;
    std::map<std::pair<std::string, uint64_t>, int> got;
    uint64_t last_read = 0;
    while (true) {
      auto part = read->reader->Next();
      ASSERT_TRUE(part.ok());
      if (!*part) break;
      for (const uint64_t step : (*part)->steps) {
        const int times = ++got[std::pair((*part)->series->name.topic, step)];
        EXPECT_EQ(times, 1) << "a read has each value once";
        last_read = std::max(last_read, step);
      }
    }
    auto watcher = house.series().Watch(options.query.filter, read->cursor);
    ASSERT_TRUE(watcher.ok()) << watcher.failure().text;
    const uint64_t until = steps.load() + 50;
    wanted = std::max(wanted.load(), until + 1);
    uint64_t dropped = 0;
    std::map<std::pair<std::string, uint64_t>, int> watched;
    ASSERT_TRUE(Eventually([&] {
      TakeAll(*watcher->watcher, watched, dropped);
      return watched.contains({"loss", until});
    }));
    EXPECT_EQ(dropped, 0u);
    for (const auto& [what, times] : watched) {
      EXPECT_EQ(times, 1) << what.first << " " << what.second << " was told twice by the watch";
      ++got[what];
    }
    for (const char* topic : {"loss", "weights_mean"}) {
      for (uint64_t step = 0; step <= until; ++step) {
        EXPECT_TRUE(got.contains({topic, step})) << topic << " of step " << step << " in round " << round;
      }
    }
    // Told twice is only what came while it was read: no more than is under way at one time.
    const uint64_t first_watched = watched.begin()->first.second;
    EXPECT_LE(first_watched > last_read ? 0 : last_read - first_watched, 4096u);
  }
}

TEST(MonitorSeries, ARunThatIsYetToComeCanBeWatched) {
  TempDirectory temp;
  House house(temp);
  house.Record({"there", 0, 0}, "old", 1);
  const auto watch = [&](const std::string& name) {
    SeriesFilter filter;
    filter.run = name;
    auto begun = house.series().Watch(filter, {});
    EXPECT_TRUE(begun.ok()) << name;
    return begun ? std::move(begun->watcher) : nullptr;
  };
  const std::unique_ptr<Watcher> by_id = watch("id-new"), by_name = watch("night");
  ASSERT_TRUE(by_id && by_name);
  house.Record({"there", 1, 0}, "old", 2, 5);
  house.Record({"id-new", 0, 0}, "night", 3, 2);
  house.Record({"id-newer", 0, 0}, "night", 4, 7);
  house.Flush();
  const auto values = [](Watcher& watcher) {
    size_t all = 0;
    for (const auto& update : watcher.Take(1000).updates) all += update->batch ? update->batch->values() : 0;
    return all;
  };
  EXPECT_EQ(values(*by_id), 2u);
  EXPECT_EQ(values(*by_name), 9u);
}

TEST(MonitorSeries, CursorsThatAreNoneAreRefused) {
  TempDirectory temp;
  House house(temp);
  SeriesFilter filter;
  WatchCursor cursor = house.hub().Cursor();
  EXPECT_TRUE(house.series().Watch(filter, cursor).ok());
  cursor.daemon[0] ^= 1;
  EXPECT_EQ(house.series().Watch(filter, cursor).failure().reason, Reason::kBadCursor);
  cursor = house.hub().Cursor();
  cursor.position += 1000;
  EXPECT_EQ(house.series().Watch(filter, cursor).failure().reason, Reason::kBadCursor);
  filter.run = kLatestRun;
  EXPECT_EQ(house.series().Watch(filter, {}).failure().reason, Reason::kNoSuchRun) << "no name to wait for";
  filter.run.clear();
  std::vector<std::unique_ptr<Watcher>> many;
  while (many.size() < sinks::WatchHub::kWatchersMax) {
    auto watcher = house.series().Watch(filter, {});
    ASSERT_TRUE(watcher.ok()) << watcher.failure().text;
    many.push_back(std::move(watcher->watcher));
  }
  const auto refused = house.series().Watch(filter, {});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.failure().reason, Reason::kLimit);
  EXPECT_EQ(refused.failure().subject, "watches");
  EXPECT_EQ(house.monitor().status.GetStatus().watches, sinks::WatchHub::kWatchersMax);
}

// A read of very much is a part at a time: nobody holds all of it.
TEST(MonitorSeries, AnAnswerIsAPartAtATime) {
  TempDirectory temp;
  House house(temp);
  house.Record({"long", 0, 0}, "long", 1, 200'000);
  ReadOptions options;
  options.query.filter.run = "long";
  auto read = house.series().ReadSamples(options);
  ASSERT_TRUE(read.ok());
  size_t points = 0;
  while (true) {
    auto part = read->reader->Next();
    ASSERT_TRUE(part.ok());
    if (!*part) break;
    EXPECT_LE((*part)->steps.size(), SeriesReader::kPointsMax);
    points += (*part)->steps.size();
  }
  EXPECT_EQ(points, 200'000u);
}

}  // namespace
}  // namespace ikkuna
