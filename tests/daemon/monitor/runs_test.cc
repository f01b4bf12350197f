// Runs as clients see them: lists, names, tags, deleting, files.
#include "daemon/monitor/run_monitor.h"

#include <filesystem>
#include <set>

#include "daemon/monitor/run_files.h"
#include "shared/base/utf8.h"
#include "tests/daemon/monitor/house.h"

namespace ikkuna {
namespace {

std::vector<std::string> AllPages(RunMonitor& runs, RunQuery query) {
  std::vector<std::string> keys;
  for (int page = 0; page < 100; ++page) {
    const auto answer = runs.ListRuns(query);
    EXPECT_TRUE(answer.ok()) << (answer ? "" : answer.failure().text);
    if (!answer) break;
    EXPECT_LE(answer->runs.size(), std::max(query.limit, 1u));
    for (const std::string& key : Keys(answer->runs)) keys.push_back(key);
    query.page = answer->next;
    if (query.page.empty()) return keys;
  }
  ADD_FAILURE() << "the pages do not end";
  return keys;
}

TEST(MonitorRuns, ListsAreInPagesNewestFirst) {
  TempDirectory temp;
  House house(temp);
  std::vector<std::string> expected;
  for (int i = 0; i < 23; ++i) {
    // Several that began at one time, and several attempts and ranks; ids that hold the page's own separator.
    const std::string id = "run:" + std::to_string(i % 7);
    const RunKey key{id, static_cast<uint32_t>(i / 7), static_cast<uint32_t>(i % 2)};
    house.Record(key, "d", 1000 + i / 5);
  }
  house.Record({kDaemonRunId, 0, 0}, "health", 9'999'999);
  RunQuery query;
  const auto all = house.runs().ListRuns(query);
  ASSERT_TRUE(all.ok());
  ASSERT_EQ(all->runs.size(), 23u) << "the daemon's own is no training";
  for (size_t i = 1; i < all->runs.size(); ++i) {
    EXPECT_GE(all->runs[i - 1].info.start_unix_ns, all->runs[i].info.start_unix_ns);
  }
  EXPECT_EQ(all->next, "");
  for (const uint32_t limit : {0u, 1u, 4u, 22u, 23u, 24u, UINT32_MAX}) {
    query.limit = limit;
    EXPECT_EQ(AllPages(house.runs(), query), Keys(all->runs)) << limit;
  }
  // One that begins while somebody turns pages moves nothing.
  query.limit = 5;
  auto page = house.runs().ListRuns(query);
  house.Record({"new", 0, 0}, "d", 5000);
  query.page = page->next;
  EXPECT_EQ(Keys(house.runs().ListRuns(query)->runs)[0], Keys(all->runs)[5]);
  // Nor does one that goes, though the page names it.
  const RunKey last = page->runs.back().info.run_key;
  ASSERT_TRUE(house.runs().DeleteRun(Me(), {last.run_id, last.attempt, last.rank}).ok());
  EXPECT_EQ(Keys(house.runs().ListRuns(query)->runs)[0], Keys(all->runs)[5]);
  for (const char* bad : {"x", "1:2", "1:2:x:run", "99999999999999999999:0:0:a", ":::", "1:2:3"}) {
    query.page = bad;
    const auto refused = house.runs().ListRuns(query);
    ASSERT_FALSE(refused.ok()) << bad;
    EXPECT_EQ(refused.failure().reason, Reason::kBadField);
    EXPECT_EQ(refused.failure().subject, "page");
  }
}

TEST(MonitorRuns, AreChosenByStateAndTags) {
  TempDirectory temp;
  House house(temp);
  house.Record({"a", 0, 0}, "x", 1);
  house.Record({"b", 0, 0}, "x", 2, 1, ::getuid(), RunState::kDied);
  house.Record({"c", 0, 0}, "y", 3);
  ASSERT_TRUE(house.runs().TagRun(Me(), "a", {"good", "paper"}, {}).ok());
  ASSERT_TRUE(house.runs().TagRun(Me(), "c", {"good"}, {}).ok());
  RunQuery query;
  query.tags = {"good"};
  EXPECT_THAT(AllPages(house.runs(), query), ElementsAre("c/0/0", "a/0/0"));
  query.tags = {"good", "paper"};
  EXPECT_THAT(AllPages(house.runs(), query), ElementsAre("a/0/0"));
  query.tags.clear();
  query.states = {RunState::kDied, RunState::kQuarantined};
  EXPECT_THAT(AllPages(house.runs(), query), ElementsAre("b/0/0"));
  query.states.clear();
  query.run = "x";  // of a display name of several the one that started last
  EXPECT_THAT(AllPages(house.runs(), query), ElementsAre("b/0/0"));
}

TEST(MonitorRuns, NamesLatestAndDoubts) {
  TempDirectory temp;
  House house(temp);
  EXPECT_EQ(house.runs().FindRuns({}).failure().reason, Reason::kNoSuchRun);
  EXPECT_THAT(house.runs().FindRuns({}).failure().text, HasSubstr("no run has been recorded yet"));
  house.Record({"job", 0, 0}, "fashion", 10);
  house.Record({"job", 1, 1}, "fashion", 21);
  house.Record({"job", 1, 0}, "fashion", 20);
  house.Record({"other", 0, 0}, "fashion", 15);
  house.Record({"third", 0, 0}, "job", 30);  // its display name is the id of another
  house.Record({kDaemonRunId, 0, 0}, "health", 99);
  const auto find = [&](const RunChoice& choice) {
    const auto found = house.runs().FindRuns(choice);
    return found ? Keys(*found) : std::vector<std::string>{found.failure().text};
  };
  EXPECT_THAT(find({"latest"}), ElementsAre("third/0/0"));
  EXPECT_THAT(find({}), ElementsAre("third/0/0"));
  EXPECT_THAT(find({"job"}), ElementsAre("job/1/0", "job/1/1", "job/0/0"));
  EXPECT_THAT(find({"fashion"}), ElementsAre("job/1/0", "job/1/1", "job/0/0")) << "the one that started last";
  EXPECT_THAT(find({"job", 0u}), ElementsAre("job/0/0"));
  EXPECT_THAT(find({"job", {}, 1u}), ElementsAre("job/1/1"));
  EXPECT_THAT(find({"job", 7u}), ElementsAre("run 'fashion' has no attempt 7"));
  EXPECT_THAT(find({kDaemonRunId}), ElementsAre(std::string(kDaemonRunId) + "/0/0")) << "by its name";
  const std::string sweep = std::string(280, 's') + "/lr=0.1";  // longer than any name that travels
  house.Record({WireName(sweep, kMaxNameBytes), 0, 0}, "", 1);
  EXPECT_EQ(find({sweep}), find({WireName(sweep, kMaxNameBytes)}));
  EXPECT_THAT(find({sweep}), ElementsAre(testing::StartsWith(std::string(200, 's'))));
  const auto typo = house.runs().FindRuns({"fashio"});
  ASSERT_FALSE(typo.ok());
  EXPECT_EQ(typo.failure().reason, Reason::kNoSuchRun);
  EXPECT_EQ(typo.failure().subject, "fashio");
  EXPECT_THAT(typo.failure().hint, HasSubstr("fashion"));
  EXPECT_THAT(typo.failure().hint, testing::Not(HasSubstr("health")));

  // A clock that was set back makes no run that is over the latest until it has come there again.
  const int64_t later = UnixNs() + int64_t{3600} * 1'000'000'000;
  house.Record({"ahead", 0, 0}, "fashion", later);
  EXPECT_THAT(find({"latest"}), ElementsAre("third/0/0"));
  EXPECT_THAT(find({"fashion"}), ElementsAre("job/1/0", "job/1/1", "job/0/0"));
  house.Record({"goes-on", 0, 0}, "x", later, 1, ::getuid(), RunState::kRunning);
  EXPECT_THAT(find({"latest"}), ElementsAre("goes-on/0/0")) << "it is there now";

  // What cannot be undone takes no name that leaves a doubt.
  const auto doubt = house.runs().DeleteRun(Operator(), {"fashion"});
  ASSERT_FALSE(doubt.ok());
  EXPECT_EQ(doubt.failure().reason, Reason::kAmbiguousRun);
  EXPECT_EQ(doubt.failure().hint, "ahead, job, other");
  EXPECT_EQ(house.runs().DeleteRun(Operator(), {"latest"}).failure().reason, Reason::kBadField);
  EXPECT_EQ(house.runs().DeleteRun(Operator(), {}).failure().reason, Reason::kBadField);
  EXPECT_EQ(house.runs().ListRuns({})->runs.size(), 8u);
}

TEST(MonitorRuns, OnlyWhatIsOverIsDeletedByWhoseItIs) {
  TempDirectory temp;
  House house(temp);
  house.Record({"mine", 0, 0}, "x", 1, 100);
  house.Record({"mine", 1, 0}, "x", 2, 100);
  house.Record({"theirs", 0, 0}, "x", 3, 1, ::getuid() + 1);
  auto trainer = Trainer(temp, "mine");  // attempt 2
  Train(*trainer, 0, 3);
  house.Settled(*trainer);
  const auto live = house.runs().DeleteRun(Operator(), {"mine"});
  ASSERT_FALSE(live.ok());
  EXPECT_EQ(live.failure().reason, Reason::kRunOpen);
  EXPECT_EQ(house.runs().FindRuns({"mine"})->size(), 3u) << "all or nothing";
  const auto stranger = house.runs().DeleteRun(Me(), {"theirs"});
  ASSERT_FALSE(stranger.ok());
  EXPECT_EQ(stranger.failure().code, ErrorCode::kPermissionDenied);
  EXPECT_EQ(stranger.failure().reason, Reason::kRole);
  EXPECT_EQ(stranger.failure().subject, Me().name);
  const auto one = house.runs().DeleteRun(Me(), {"mine", 0u});
  ASSERT_TRUE(one.ok()) << one.failure().text;
  EXPECT_THAT(one->runs, ElementsAre(RunKey{"mine", 0, 0}));
  EXPECT_GT(one->bytes, 0u);
  trainer->Disconnect();  // its process lives: it may come back
  house.Settled(*trainer, RunState::kDisconnected);
  EXPECT_EQ(house.runs().DeleteRun(Me(), {"mine"}).failure().reason, Reason::kRunOpen);
  ASSERT_TRUE(trainer->Connect());
  trainer->Finish();
  house.Settled(*trainer, RunState::kFinished);
  const auto rest = house.runs().DeleteRun(Me(), {"mine"});
  ASSERT_TRUE(rest.ok()) << rest.failure().text;
  EXPECT_EQ(rest->runs.size(), 2u);
  EXPECT_EQ(house.runs().FindRuns({"mine"}).failure().reason, Reason::kNoSuchRun);
  EXPECT_EQ(house.runs().DeleteRun(Operator(), {"theirs"})->runs.size(), 1u);
  // An event of the daemon says who did it.
  const std::vector<Event> events = *house.monitor().events.ListEvents({});
  bool told = false;
  for (const Event& event : events) {
    told |= event.kind == "run_deleted" && event.text.find(Me().name) != std::string::npos;
  }
  EXPECT_TRUE(told);
}

TEST(MonitorRuns, TagsAreOfTheWholeRunAndOfWhoOwnsIt) {
  TempDirectory temp;
  House house(temp);
  house.Record({"job", 0, 0}, "x", 1);
  house.Record({"job", 0, 1}, "x", 1);
  const auto tagged = house.runs().TagRun(Me(), "job", {"b", "a", "a"}, {});
  ASSERT_TRUE(tagged.ok()) << tagged.failure().text;
  EXPECT_EQ(tagged->run_id, "job");
  EXPECT_THAT(tagged->tags, ElementsAre("a", "b"));
  const std::vector<RunInfo> both = *house.runs().FindRuns({"job"});
  ASSERT_EQ(both.size(), 2u);
  for (const RunInfo& run : both) EXPECT_THAT(run.tags, ElementsAre("a", "b"));
  EXPECT_THAT(house.runs().TagRun(Me(), "x", {}, {"a", "none"})->tags, ElementsAre("b"));
  EXPECT_THAT(house.runs().TagRun(Me(), "latest", {}, {})->tags, ElementsAre("b")) << "nothing to change: only shown";
  EXPECT_EQ(house.runs().TagRun(Stranger(), "job", {"c"}, {}).failure().reason, Reason::kRole);
  for (const std::string& bad : std::vector<std::string>{"", "a b", "a,b", std::string(65, 'x'), "\n"}) {
    EXPECT_EQ(house.runs().TagRun(Me(), "job", {"ok", bad}, {}).failure().reason, Reason::kBadField) << bad;
  }
  std::vector<std::string> many;
  for (int i = 0; i < 65; ++i) many.push_back("t" + std::to_string(i));
  EXPECT_EQ(house.runs().TagRun(Me(), "job", many, {}).failure().reason, Reason::kLimit);
  EXPECT_THAT(house.runs().TagRun(Me(), "job", {}, {})->tags, ElementsAre("b"));
  house.Stop();
  House later(temp);
  EXPECT_THAT(later.runs().FindRuns({"job"})->at(1).tags, ElementsAre("b"));
}

std::vector<std::pair<std::string, std::string>> Export(RunMonitor& runs, const RunChoice& choice) {
  std::vector<std::pair<std::string, std::string>> files;
  auto exported = runs.ExportRun(choice);
  EXPECT_TRUE(exported.ok()) << (exported ? "" : exported.failure().text);
  if (!exported) return files;
  while (true) {
    auto file = (*exported)->NextFile();
    EXPECT_TRUE(file.ok()) << (file ? "" : file.failure().text);
    if (!file || !*file) return files;
    std::string bytes;
    while (true) {
      auto part = (*exported)->Read(1000);
      EXPECT_TRUE(part.ok());
      if (!part || part->empty()) break;
      bytes += *part;
    }
    EXPECT_EQ(bytes.size(), (*file)->bytes);
    files.emplace_back((*file)->name, std::move(bytes));
  }
}

TEST(MonitorRuns, AFileThatComesIsRefusedBeforeItTakesTheRoomOfRuns) {
  TempDirectory temp;
  CoreParts parts;
  parts.staging_directory = temp.sub("staging");
  uint64_t asked = 0;
  parts.store.room = [&](uint64_t bytes) {
    asked += bytes;
    return asked <= (uint64_t{32} << 20) ? Status() : Status(Error{ErrorCode::kResourceExhausted, "there is no room"});
  };
  {
    auto import = StagedRunImport::Begin(parts);
    ASSERT_TRUE(import.ok());
    Status written;
    size_t parts_written = 0;
    for (; written && parts_written < 64; ++parts_written) written = (*import)->Write(std::string(1 << 20, 'x'));
    ASSERT_FALSE(written.ok());
    EXPECT_EQ(written.error().code, ErrorCode::kResourceExhausted);
    EXPECT_NE(written.error().text.find("no room"), std::string::npos);
    EXPECT_GT(parts_written, 8u);
    EXPECT_LT(parts_written, 33u);
  }
  EXPECT_TRUE(std::filesystem::is_empty(temp.sub("staging")));
}

Answer<RunInfo> Import(RunMonitor& runs, const std::string& bytes) {
  auto import = runs.ImportRun(Operator());
  if (!import) return import.failure();
  for (size_t at = 0; at < bytes.size(); at += 777) {
    if (auto written = (*import)->Write(bytes.substr(at, 777)); !written) return written.error();
  }
  return (*import)->Finish();
}

TEST(MonitorRuns, FilesGoOutAndComeInWhole) {
  TempDirectory temp;
  TempDirectory elsewhere;
  House house(temp);
  house.Record({"a/b c", 0, 0}, "x", 1, 500);
  auto trainer = Trainer(temp, "live");
  Train(*trainer, 0, 50);
  house.Settled(*trainer);
  const auto files = Export(house.runs(), {"a/b c"});
  ASSERT_EQ(files.size(), 1u);
  EXPECT_EQ(files[0].first, "a_b_c-attempt0-rank0.run");
  const auto live = Export(house.runs(), {"live"});  // one that goes on, too
  ASSERT_EQ(live.size(), 1u);
  EXPECT_TRUE(std::filesystem::is_empty(temp.sub("staging"))) << "nothing is left of it";

  House other(elsewhere);
  const auto taken = Import(other.runs(), files[0].second);
  ASSERT_TRUE(taken.ok()) << taken.failure().text;
  EXPECT_EQ(taken->info.run_key.run_id, "a/b c");
  EXPECT_EQ(other.Values("a/b c", "loss"), house.Values("a/b c", "loss"));
  EXPECT_EQ(Import(other.runs(), files[0].second).failure().reason, Reason::kExists);
  // What went on there is over here, and can go.
  const auto over = Import(other.runs(), live[0].second);
  ASSERT_TRUE(over.ok()) << over.failure().text;
  EXPECT_FALSE(IsOpen(over->state));
  EXPECT_EQ(other.Values("live", "loss").size(), 50u);
  EXPECT_TRUE(other.runs().DeleteRun(Operator(), {"live"}).ok());

  EXPECT_EQ(Import(other.runs(), "").failure().reason, Reason::kBadFile);
  EXPECT_EQ(Import(other.runs(), "no run at all").failure().reason, Reason::kBadFile);
  EXPECT_EQ(Import(other.runs(), live[0].second.substr(0, 5000)).failure().reason, Reason::kBadFile);
  EXPECT_EQ(other.runs().ImportRun(Me()).failure().reason, Reason::kRole);
  {
    auto given_up = other.runs().ImportRun(Operator());
    ASSERT_TRUE((*given_up)->Write("half").ok());
  }
  EXPECT_TRUE(std::filesystem::is_empty(elsewhere.sub("staging")));
  EXPECT_EQ(other.runs().ListRuns({})->runs.size(), 1u);
}

TEST(MonitorRuns, ModulesOfOneThatIsLiveAndOfOneThatIsOver) {
  TempDirectory temp;
  std::unique_ptr<TestProducer> trainer;
  {
    House house(temp);
    trainer = Trainer(temp, "job");
    Train(*trainer, 0, 2);
    house.Settled(*trainer);
    const auto live = house.runs().ListModules({});
    ASSERT_TRUE(live.ok()) << live.failure().text;
    EXPECT_EQ(live->run, (RunKey{"job", 0, 0}));
    ASSERT_EQ(live->modules.size(), 1u);
    EXPECT_EQ(live->modules[0].name, "fc");
    trainer->Finish();
    house.Settled(*trainer, RunState::kFinished);
  }
  House later(temp);
  ModuleQuery query;
  query.limit = 0;  // asks for one
  const auto kept = later.runs().ListModules(query);
  ASSERT_TRUE(kept.ok()) << kept.failure().text;
  ASSERT_EQ(kept->modules.size(), 1u);
  EXPECT_EQ(kept->modules[0].params.size(), 1u);
  EXPECT_EQ(kept->next, "");
  query.module = "conv*";
  EXPECT_THAT(later.runs().ListModules(query)->modules, IsEmpty());
  query.page = "-1";
  EXPECT_EQ(later.runs().ListModules(query).failure().subject, "page");
}

}  // namespace
}  // namespace ikkuna
