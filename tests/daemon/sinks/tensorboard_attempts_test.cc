// Attempts that continue one another, the cap, and disks that fail; read back with TensorBoard's own readers.
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <optional>

#include "daemon/sinks/tensorboard/tensorboard.h"
#include "daemon/sinks/tensorboard/tree.h"
#include "tests/daemon/sinks/tensorboard_fixture.h"

namespace ikkuna::sinks {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::vector<uint64_t> UpTo(uint64_t end, uint64_t begin = 0) {
  std::vector<uint64_t> steps;
  for (uint64_t step = begin; step < end; ++step) steps.push_back(step);
  return steps;
}

class TensorBoardAttempts : public TensorBoardTest {
 protected:
  // Steps [begin, end) of the loss, of a value each attempt has for itself.
  void Train(const RunPtr& run, uint64_t begin, uint64_t end) {
    const uint32_t loss = Intern(*run, Name("loss"));
    for (uint64_t step = begin; step < end; ++step) Offer(run, step, {Number(loss, double(run->key().attempt))});
  }
  void Evaluate(const RunPtr& run, uint64_t step) {
    Offer(run, step, {Number(Intern(*run, Name("loss", "", "", "test")), double(run->key().attempt))});
  }
  void End(const RunPtr& run) {
    auto batch = std::make_shared<Batch>();
    batch->run = run;
    batch->events = {EventOf(kRunEnded, run->key())};
    sink_->Offer(batch);
  }
  // What both readers see of the training loss: {step, attempt}.
  std::vector<std::pair<uint64_t, std::string>> Line(const json& read, const std::string& folder) {
    std::vector<std::pair<uint64_t, std::string>> line;
    const json& content = read.at(folder);
    for (const json& point : content["scalars"]["loss"]) line.emplace_back(point[0], point[2]);
    EXPECT_EQ(Steps(content["scalars"]["loss"]), Steps(content["shown"]["loss"]));
    return line;
  }
  static std::vector<std::pair<uint64_t, std::string>> Joined(
      std::vector<std::pair<std::vector<uint64_t>, std::string>> parts) {
    std::vector<std::pair<uint64_t, std::string>> line;
    for (const auto& [steps, value] : parts) {
      for (const uint64_t step : steps) line.emplace_back(step, value);
    }
    return line;
  }
};

TEST_F(TensorBoardAttempts, OneThatGoesBackBeginsWithARestartAndIsOneLine) {
  SKIP_WITHOUT_PYTHON();
  Open();
  auto first = NewRun();
  Train(first, 0, 10);
  Evaluate(first, 4);
  Evaluate(first, 9);
  auto second = Continuing(1, 0, 5);
  Train(second, 5, 15);
  Flush();
  auto read = ReadBack(options_.logdir);
  ASSERT_TRUE(read.has_value());
  ASSERT_EQ(read->size(), 2u) << *read;
  EXPECT_EQ(Line(*read, "fashion/0/default"), Joined({{UpTo(5), "0.0"}, {UpTo(15, 5), "1.0"}}));
  EXPECT_EQ((*read)["fashion/0/default"]["starts"], json::parse("[0, 5]"));
  // Also of a tag of which the later attempt has nothing yet.
  EXPECT_EQ(Steps((*read)["fashion/0/test"]["scalars"]["loss"]), (std::vector<uint64_t>{4}));
  EXPECT_EQ((*read)["fashion/0/test"]["starts"], json::parse("[0, 5]"));
  Evaluate(second, 14);
  Flush();
  read = ReadBack(options_.logdir);
  EXPECT_EQ(Steps((*read)["fashion/0/test"]["scalars"]["loss"]), (std::vector<uint64_t>{4, 14}));
  ExpectIdentity(sink_->Counters());
}

// It has no folder, since it wrote nothing; the line goes on all the same.
TEST_F(TensorBoardAttempts, OneThatDiedBeforeItsFirstValuePartsNoLine) {
  SKIP_WITHOUT_PYTHON();
  Open();
  Train(NewRun(), 0, 10);
  static_cast<void>(Continuing(1, 0, 10));
  Train(Continuing(2, 1, 6), 6, 15);
  Flush();
  Open();
  Train(Continuing(4, 3, 12), 12, 20);
  Flush();
  const auto read = ReadBack(options_.logdir);
  ASSERT_TRUE(read.has_value());
  ASSERT_EQ(read->size(), 1u) << *read;
  EXPECT_EQ(Line(*read, "fashion/0/default"), Joined({{UpTo(6), "0.0"}, {UpTo(12, 6), "2.0"}, {UpTo(20, 12), "4.0"}}));
}

TEST_F(TensorBoardAttempts, TheRestartIsSaidOnceWhateverTheDaemonDoes) {
  SKIP_WITHOUT_PYTHON();
  Open();
  Train(NewRun(), 0, 10);
  auto second = Continuing(1, 0, 5);
  Train(second, 5, 8);
  Open();
  Train(second, 8, 12);
  Open();
  Train(second, 12, 14);
  Close();
  auto read = ReadBack(options_.logdir);
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(Line(*read, "fashion/0/default"), Joined({{UpTo(5), "0.0"}, {UpTo(14, 5), "1.0"}}));
  EXPECT_EQ((*read)["fashion/0/default"]["starts"], json::parse("[0, 5]"));
}

// A run was deleted, and the daemon that knew of it has ended.
TEST_F(TensorBoardAttempts, AnotherProcessThatGetsTheNumberOvertakesAllOfIt) {
  SKIP_WITHOUT_PYTHON();
  Open();
  Train(NewRun(), 0, 10);
  Open();
  Train(std::make_shared<ikkuna::Run>(Producer({"run-1", 0, 0}, 99)), 0, 5);
  Close();
  auto read = ReadBack(options_.logdir);
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(Line(*read, "fashion/0/default"), Joined({{UpTo(5), "0.0"}}));
}

TEST_F(TensorBoardAttempts, AChainGoesBackFurtherAndFurther) {
  SKIP_WITHOUT_PYTHON();
  Open();
  Train(NewRun(), 0, 10);
  Train(Continuing(1, 0, 8), 8, 12);
  Open();  // the folder is found by its marker
  Train(Continuing(2, 1, 3), 3, 6);
  Train(Continuing(3, 2, 6), 6, 7);  // goes on where the one before ended
  Close();
  auto read = ReadBack(options_.logdir);
  ASSERT_TRUE(read.has_value());
  ASSERT_EQ(read->size(), 1u);
  EXPECT_EQ(Line(*read, "fashion/0/default"), Joined({{UpTo(3), "0.0"}, {UpTo(6, 3), "2.0"}, {{6}, "3.0"}}));
}

TEST_F(TensorBoardAttempts, RanksAreMarkedEachForItself) {
  SKIP_WITHOUT_PYTHON();
  Open();
  Train(NewRun({"run-1", 0, 0}), 0, 10);
  Train(NewRun({"run-1", 0, 1}), 0, 10);
  Train(Continuing(1, 0, 5, 0), 5, 6);
  Flush();
  auto read = ReadBack(options_.logdir);
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(Steps((*read)["fashion/0/default"]["scalars"]["loss"]), UpTo(6));
  EXPECT_EQ(Steps((*read)["fashion/1/default"]["scalars"]["loss"]), UpTo(10));
}

TEST_F(TensorBoardAttempts, AStragglerOfTheOneBeforeDoesNotStandInTheNewLine) {
  SKIP_WITHOUT_PYTHON();
  Open();
  auto first = NewRun();
  Train(first, 0, 10);
  Train(Continuing(1, 0, 5), 5, 7);
  const uint32_t late = Intern(*first, Name("late"));
  Offer(first, 4, {Number(late, 1)});
  Offer(first, 9, {Number(late, 1)});
  Flush();
  EXPECT_EQ(DropsFor(sink_->Counters(), "overtaken"), 1u);
  auto read = ReadBack(options_.logdir);
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(Steps((*read)["fashion/0/default"]["scalars"]["late"]), (std::vector<uint64_t>{4}));
  EXPECT_EQ((*read)["fashion/0/default"]["starts"], json::parse("[0, 5]"));
}

TEST_F(TensorBoardAttempts, CurvesKeepTheirNamesThoughTheCatalogueIsAnother) {
  SKIP_WITHOUT_PYTHON();
  Open();
  auto first = NewRun();
  Offer(first, 0, {Number(Intern(*first, Name("x", "a", "b")), 1), Number(Intern(*first, Name("x", "a.b")), 2)});
  Open();
  auto second = Continuing(1, 0, 1);
  Offer(second, 1, {Number(Intern(*second, Name("x", "a.b")), 2), Number(Intern(*second, Name("x", "a", "b")), 1)});
  Close();
  auto read = ReadBack(options_.logdir);
  ASSERT_TRUE(read.has_value());
  const json& scalars = (*read)["fashion/0/default"]["scalars"];
  ASSERT_EQ(scalars.size(), 2u);
  for (const auto& [name, curve] : scalars.items()) {
    ASSERT_EQ(curve.size(), 2u) << name;
    EXPECT_EQ(curve[0][2], curve[1][2]) << name;
  }
}

TEST_F(TensorBoardAttempts, OneWhosePredecessorIsNotHereOrThatContinuesItselfStandsAlone) {
  SKIP_WITHOUT_PYTHON();
  Open();
  Train(Continuing(3, 2, 5), 5, 6);
  Train(Continuing(4, 4, 5), 5, 6);
  Flush();
  auto read = ReadBack(options_.logdir);
  ASSERT_TRUE(read.has_value());
  EXPECT_TRUE(read->contains("fashion-attempt3/0/default"));
  EXPECT_TRUE(read->contains("fashion-attempt4/0/default"));
}

class TensorBoardTrouble : public TensorBoardAttempts {};

TEST_F(TensorBoardTrouble, AtTheCapTheRunGoesThatWasNotWrittenToForLongest) {
  SKIP_WITHOUT_PYTHON();
  options_.bytes_max = 75'000;
  Open();
  std::vector<RunPtr> held;  // others may know of a run for long after its end
  for (int i = 0; i < 3; ++i) {
    auto run = NewRun({"old-" + std::to_string(i), 0, 0});
    Train(run, 0, 400);  // some 19 kB
    End(run);
    Flush();
    if (i > 0) held.push_back(run);
    // So that the times of their files tell them apart.
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  EXPECT_THAT(EventKinds(), IsEmpty());
  auto kept = NewRun({"live", 0, 0});
  Train(kept, 0, 600);
  Flush();
  ASSERT_THAT(EventKinds(), ElementsAre("tensorboard_removed"));
  EXPECT_THAT(Events()[0].text, HasSubstr("/tb/fashion'"));
  EXPECT_FALSE(std::filesystem::exists(options_.logdir + "/fashion"));
  auto read = ReadBack(options_.logdir);
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(Steps((*read)["fashion-4/0/default"]["scalars"]["loss"]), UpTo(600));
  EXPECT_EQ(Steps((*read)["fashion-2/0/default"]["scalars"]["loss"]), UpTo(400));
  EXPECT_EQ(sink_->Counters().dropped, 0u);
  // What goes on is never deleted: then it is dropped, and told once.
  for (int i = 0; i < 8; ++i) {
    Train(kept, 600 + uint64_t(i) * 400, 1'000 + uint64_t(i) * 400);
    Flush();
  }
  const SinkCounters counters = sink_->Counters();
  ExpectIdentity(counters);
  const uint64_t dropped = DropsFor(counters, "size_cap");
  EXPECT_GT(dropped, 0u);
  EXPECT_EQ(counters.dropped, dropped);
  const auto kinds = EventKinds();
  EXPECT_EQ(std::count(kinds.begin(), kinds.end(), "tensorboard_removed"), 3);
  EXPECT_EQ(std::count(kinds.begin(), kinds.end(), "tensorboard_full"), 1);
  uint64_t bytes = 0;
  for (const auto& file : EventFiles(options_.logdir)) bytes += std::filesystem::file_size(file);
  EXPECT_LE(bytes, options_.bytes_max);
  read = ReadBack(options_.logdir);
  EXPECT_EQ((*read)["fashion-4/0/default"]["scalars"]["loss"].size(), 600 + 3'200 - dropped);
}

// The store's files are the originals: these go a little earlier than those.
TEST_F(TensorBoardTrouble, OnADiskThatIsNearlyFullFinishedRunsGoAndThenNothingIsWritten) {
  std::atomic<uint64_t> free{1'000'000};
  options_.free_bytes_min = 800'000;
  options_.free_bytes_pause = 100'000;
  options_.free_bytes = [&] { return std::optional<uint64_t>(free.load()); };
  Open();
  for (int i = 0; i < 2; ++i) {
    auto run = NewRun({"old-" + std::to_string(i), 0, 0});
    Train(run, 0, 400);  // some 19 kB
    End(run);
    Flush();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  EXPECT_THAT(EventKinds(), IsEmpty());
  free = 899'000;  // the store does not mind yet
  auto live = NewRun({"live", 0, 0});
  Train(live, 0, 10);
  Flush();
  ASSERT_THAT(EventKinds(), ElementsAre("tensorboard_removed"));
  EXPECT_THAT(Events()[0].text, HasSubstr("shall stay free (--store-min-free-mb)"));
  EXPECT_FALSE(std::filesystem::exists(options_.logdir + "/fashion"));
  EXPECT_TRUE(std::filesystem::exists(options_.logdir + "/fashion-2"));
  EXPECT_EQ(sink_->Counters().dropped, 0u);
  free = 99'000;
  Train(live, 10, 20);
  Flush();
  free = 110'000;  // not enough to begin again
  Train(live, 20, 30);
  Flush();
  const uint64_t dropped = DropsFor(sink_->Counters(), "paused");
  EXPECT_GT(dropped, 0u);
  EXPECT_EQ(sink_->Counters().dropped, dropped);
  EXPECT_THAT(EventKinds(), ElementsAre("tensorboard_removed", "tensorboard_paused"));
  free = 2'000'000;
  Train(live, 30, 40);
  Flush();
  EXPECT_THAT(EventKinds(), ElementsAre("tensorboard_removed", "tensorboard_paused", "tensorboard_resumed"));
  EXPECT_EQ(sink_->Counters().dropped, dropped);
}

// Its end is known before its last values are written, and of all that is over it is the oldest.
TEST_F(TensorBoardTrouble, ARunWhoseLastValuesTakeItsOwnFolderLosesThemCounted) {
  std::atomic<uint64_t> free{1'000'000};
  options_.free_bytes_min = 800'000;
  options_.free_bytes_pause = 100'000;
  options_.free_bytes = [&] { return std::optional<uint64_t>(free.load()); };
  Open();
  auto run = NewRun();
  Train(run, 0, 400);  // some 19 kB
  End(run);
  Flush();
  free = 890'000;
  Train(run, 400, 410);
  Flush();
  EXPECT_THAT(EventKinds(), ElementsAre("tensorboard_removed"));
  SinkCounters counters = sink_->Counters();
  ExpectIdentity(counters);
  EXPECT_EQ(DropsFor(counters, "file_removed"), 10u);
  EXPECT_EQ(counters.dropped, 10u);
  EXPECT_THAT(EventFiles(options_.logdir), IsEmpty());
  // What comes afterwards has a folder anew.
  free = 1'000'000;
  Train(run, 410, 420);
  Flush();
  counters = sink_->Counters();
  ExpectIdentity(counters);
  EXPECT_EQ(counters.dropped, 10u);
  EXPECT_EQ(EventFiles(options_.logdir).size(), 1u);
}

TEST_F(TensorBoardTrouble, TheCapCountsFilesOfEarlierDaemonsAndTouchesNoOthers) {
  options_.bytes_max = 30'000;
  Open();
  Train(NewRun(), 0, 400);
  Close();
  // A folder without our marker, and another host's file in one of ours.
  std::filesystem::create_directories(options_.logdir + "/mine");
  std::ofstream(options_.logdir + "/mine/events.out.tfevents.1.elsewhere.1.0.a0") << std::string(100'000, 'x');
  const std::string other = options_.logdir + "/fashion/0/default/events.out.tfevents.1.elsewhere.1.0.a0";
  std::ofstream(other) << std::string(100'000, 'x');
  Open();
  Train(NewRun({"run-2", 0, 0}), 0, 400);
  Flush();
  EXPECT_THAT(EventKinds(), ElementsAre("tensorboard_removed"));
  EXPECT_TRUE(std::filesystem::exists(other));
  EXPECT_TRUE(std::filesystem::exists(options_.logdir + "/mine/events.out.tfevents.1.elsewhere.1.0.a0"));
  EXPECT_EQ(EventFiles(options_.logdir + "/fashion").size(), 1u);
  EXPECT_EQ(EventFiles(options_.logdir + "/fashion-2").size(), 1u);
  EXPECT_EQ(sink_->Counters().dropped, 0u);
}

TEST_F(TensorBoardTrouble, AFolderThatCannotBeMadeIsNamed) {
  std::ofstream(dir_.path() + "/file") << "text";
  options_.logdir = dir_.path() + "/file/tb";
  auto tensorboard = OpenTensorBoard(options_);
  ASSERT_FALSE(tensorboard.ok());
  EXPECT_THAT(tensorboard.error().text, HasSubstr(dir_.path() + "/file"));
  EXPECT_THAT(tensorboard.error().text, HasSubstr("pass --tensorboard-dir"));
}

TEST_F(TensorBoardTrouble, AFolderThatIsTakenAwayIsMadeAgain) {
  SKIP_WITHOUT_PYTHON();
  Open();
  auto run = NewRun();
  Train(run, 0, 5);
  Flush();
  std::filesystem::remove_all(options_.logdir + "/fashion");
  Train(run, 5, 6);
  Flush();
  EXPECT_EQ(DropsFor(sink_->Counters(), "file_removed"), 1u);
  Train(run, 6, 9);
  Flush();
  auto read = ReadBack(options_.logdir);
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(Steps((*read)["fashion/0/default"]["scalars"]["loss"]), UpTo(9, 6));
  // All of it.
  std::filesystem::remove_all(options_.logdir);
  Train(run, 9, 10);
  Flush();
  Train(run, 10, 12);
  Flush();
  read = ReadBack(options_.logdir);
  EXPECT_EQ(Steps((*read)["fashion/0/default"]["scalars"]["loss"]), UpTo(12, 10));
  ExpectIdentity(sink_->Counters());
}

TEST_F(TensorBoardTrouble, AFullDiskCostsValuesAndNoRecordIsTorn) {
  SKIP_WITHOUT_PYTHON();
  const std::string mount_point = dir_.path() + "/tb";
  std::filesystem::create_directories(mount_point);
  if (mount("tmpfs", mount_point.c_str(), "tmpfs", 0, "size=256k") != 0) {
    GTEST_SKIP() << "SKIP: no right to mount a small file system here";
  }
  Open();
  auto run = NewRun();
  uint64_t step = 0;
  for (int round = 0; round < 20; ++round, step += 1'000) {
    Train(run, step, step + 1'000);
    Flush();
  }
  EXPECT_THAT(EventKinds(), ElementsAre("tensorboard_failed"));
  EXPECT_THAT(Events()[0].text, HasSubstr("No space left"));
  // Room again, and it goes on.
  ASSERT_EQ(mount("tmpfs", mount_point.c_str(), "tmpfs", MS_REMOUNT, "size=8m"), 0);
  Train(run, step, step + 1'000);
  Flush();
  EXPECT_THAT(EventKinds(), ElementsAre("tensorboard_failed", "tensorboard_recovered"));
  const SinkCounters counters = sink_->Counters();
  EXPECT_GT(DropsFor(counters, "disk"), 0u);
  EXPECT_THAT(Events()[1].text, HasSubstr(std::to_string(counters.dropped) + " values"));
  ExpectIdentity(counters);
  auto read = ReadBack(options_.logdir);
  ASSERT_TRUE(read.has_value());
  const json& curve = (*read)["fashion/0/default"]["scalars"]["loss"];
  EXPECT_EQ(curve.size(), counters.written);
  EXPECT_EQ(curve.back()[0], step + 999);
  Close();
  umount2(mount_point.c_str(), MNT_DETACH);
}

TEST_F(TensorBoardTrouble, ALimitOnTheSizeOfFilesIsAFailureLikeAnother) {
  SKIP_WITHOUT_PYTHON();
  const auto before = std::signal(SIGXFSZ, SIG_IGN);  // as the daemon does
  rlimit old{};
  getrlimit(RLIMIT_FSIZE, &old);
  rlimit small = old;
  small.rlim_cur = 100'000;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  Open();
  auto run = NewRun();
  for (uint64_t round = 0; round < 5; ++round) {
    Train(run, round * 1'000, round * 1'000 + 1'000);
    Flush();
  }
  setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, before);
  const SinkCounters counters = sink_->Counters();
  EXPECT_GT(counters.written, 0u);
  EXPECT_GT(DropsFor(counters, "disk"), 0u);
  ExpectIdentity(counters);
  EXPECT_THAT(EventKinds(), ElementsAre("tensorboard_failed"));
  auto read = ReadBack(options_.logdir);
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ((*read)["fashion/0/default"]["scalars"]["loss"].size(), counters.written);
}

}  // namespace
}  // namespace ikkuna::sinks
