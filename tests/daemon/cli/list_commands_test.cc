// The commands that list what is recorded: runs, series, modules, table, events, why.
#include "tests/daemon/cli/recorded_fixture.h"

namespace ikkuna::test {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class ListCommandsTest : public RecordedTest {};

TEST_F(ListCommandsTest, RunsAreListedNewestFirst) {
  EXPECT_EQ(Out({"runs"}),
            "run      id    attempt  rank  state     started              last step  series  values     size\n"
            "fashion  id-1        0     0  running   2023-11-14 22:13:20      1,234       3   4,567  2.0 KiB\n"
            "older    id-0        0     0  finished  1970-01-01 00:00:01          0       0       0      0 B\n");
  json runs = json::parse(Out({"runs", "--json", "--run", "older"}));
  ASSERT_EQ(runs.size(), 1u);
  EXPECT_EQ(runs[0]["key"]["run_id"], "id-0");
}

TEST_F(ListCommandsTest, RunsShowWhatTheyContinueWhatWasThinnedAndTheirTags) {
  scripted_.runs[1].mutable_key()->set_attempt(1);
  scripted_.runs[1].set_continues(0);
  scripted_.runs[1].set_line(0);
  scripted_.runs[1].set_thinned(433);
  scripted_.runs[1].add_tags("keep");
  scripted_.runs[1].mutable_key()->set_rank(4294967295u);
  std::string out = Out({"runs"});
  EXPECT_THAT(out, HasSubstr(" 1 (of 0)   all  running "));
  EXPECT_THAT(out, HasSubstr("4,567 of 5,000"));
  EXPECT_THAT(out, HasSubstr("  keep\n"));
  EXPECT_EQ(json::parse(Out({"runs", "--tagged", "keep", "--json"})).size(), 1u);
  EXPECT_EQ(json::parse(Out({"runs", "--state", "finished", "--state", "died", "--json"}))[0]["name"], "older");
  EXPECT_EQ(Out({"runs", "--tagged", "none"}), "No run is like that.\n");
}

TEST_F(ListCommandsTest, ListsOfManyPagesAreWhole) {
  scripted_.page_size = 2;
  EXPECT_EQ(json::parse(Out({"series", "--json"})).size(), 6u);
  EXPECT_EQ(json::parse(Out({"runs", "--json"})).size(), 2u);
  scripted_.page_size = 1;
  EXPECT_EQ(json::parse(Out({"runs", "--json"})).size(), 2u);
  EXPECT_EQ(json::parse(Out({"modules", "--json"})).size(), 2u);
}

TEST_F(ListCommandsTest, NothingRecordedIsNoFailureOfAList) {
  scripted_.runs = {};
  EXPECT_EQ(Out({"runs"}), "No run has been recorded yet.\n");
  EXPECT_EQ(Out({"runs", "--json"}), "[]\n");
  EXPECT_EQ(Out({"events"}), "No events.\n");
  Outcome outcome = Run({"plot", "loss"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.err, "ikkuna: no run has been recorded yet\n");
}

TEST_F(ListCommandsTest, SeriesAreThoseOfTheNewestRun) {
  EXPECT_EQ(Out({"series", "activations_*"}),
            "id  tag      root   module  type    param  topic             values  steps   last\n"
            " 5  default  model  fc1     Linear         activations_mean       3  0..20  0.625\n"
            " 6  default  model  fc0     Linear         activations_mean       3  0..20   0.75\n");
  EXPECT_EQ(json::parse(Out({"series", "--json"})).size(), 6u);
  EXPECT_EQ(json::parse(Out({"series", "--json", "--run", "older"}))[0]["series"]["id"], 1);
  // Patterns separated by a bar, of any part of a name.
  EXPECT_EQ(json::parse(Out({"series", "--json", "loss|weights_*", "--module", "|fc1"})).size(), 4u);
}

TEST_F(ListCommandsTest, ANameThatIsNoneIsAnsweredWithTheNearest) {
  Outcome outcome = Run({"series", "nothing"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.err,
            "ikkuna: run 'fashion' has no series 'nothing' that matches; 'ikkuna series' lists what there is\n");
  EXPECT_EQ(Run({"series", "wieghts_mean"}).err,
            "ikkuna: run 'fashion' has no series 'wieghts_mean' that matches; did you mean 'weights_mean'?\n");
  EXPECT_EQ(Run({"read", "los"}).err, "ikkuna: run 'fashion' has no series 'los' that matches; did you mean 'loss'?\n");
  for (const std::vector<std::string>& command : std::vector<std::vector<std::string>>{{"series"},
                                                                                       {"plot", "loss"},
                                                                                       {"read", "loss"},
                                                                                       {"table"},
                                                                                       {"modules"},
                                                                                       {"texts"},
                                                                                       {"histogram"},
                                                                                       {"runs"},
                                                                                       {"events"},
                                                                                       {"export", "fasion"}}) {
    std::vector<std::string> words = command;
    if (command[0] != "export") words.insert(words.end(), {"--run", "fasion"});
    outcome = Run(words);
    EXPECT_EQ(outcome.code, 1) << command[0];
    EXPECT_EQ(outcome.err, "ikkuna: there is no run 'fasion'; did you mean 'fashion'?\n") << command[0];
  }
  EXPECT_EQ(Run({"series", "--run", "zzz"}).err, "ikkuna: there is no run 'zzz'; 'ikkuna runs' lists what there is\n");
  EXPECT_EQ(Run({"series", "--rank", "3"}).err,
            "ikkuna: run 'fashion' has no attempt 0 rank 3; its ranks are 0 to 0\n");
  EXPECT_EQ(Run({"modules", "--attempt", "3"}).err, "ikkuna: run 'fashion' has no attempt 3; its last is 0\n");
}

TEST_F(ListCommandsTest, SeriesOfSeveralRanksSayWhose) {
  AddLoss(MakeKey("id-1", 0, 1), {Kept(0, 7)});
  EXPECT_EQ(Out({"series", "loss", "--rank", "all"}),
            "rank  id  tag      root   module  type  param  topic  values  steps   last\n"
            "   0   1  default  model                       loss        3  0..20  0.125\n"
            "   1   1  default  model                       loss        1   0..0      7\n");
  EXPECT_THAT(Out({"series", "loss", "--run", "fashion", "--run", "older"}), HasSubstr("older     1  default"));
}

TEST_F(ListCommandsTest, ModulesShowTheirParameters) {
  EXPECT_EQ(Out({"modules"}),
            "root   module  type    parameters\n"
            "model  fc0     Linear\n"
            "model  fc1     Linear  weight f32 10x784, mean f32 scalar (buffer)\n");
  EXPECT_EQ(json::parse(Out({"modules", "--json"}))[1]["parameters"][0]["sizes"], json({10, 784}));
  EXPECT_EQ(json::parse(Out({"modules", "--module", "fc0|x", "--json"})).size(), 1u);
}

TEST_F(ListCommandsTest, TheTableHasLayersDownAndKindsAcross) {
  EXPECT_EQ(Out({"table"}),
            "fashion, up to step 20\n"
            "                activations  weights\n"
            "module  type           mean  mean    std  norm2\n"
            "fc0     Linear         0.75\n"
            "fc1     Linear        0.625  0.25  0.375    0.5\n"
            "5 of these values have flags: step_skipped; 'ikkuna read' shows which.\n");
  json rows = json::parse(Out({"table", "--json"}));
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[1]["module"], "fc1");
  EXPECT_EQ(rows[1]["weights"]["std"]["value"], 0.375);
  EXPECT_EQ(rows[1]["weights"]["std"]["step"], 20);
  EXPECT_EQ(rows[1]["weights"]["std"]["flags"], json({"step_skipped"}));
  // Of the last values alone, though series end at steps of their own.
  for (const size_t series : {1, 2, 3, 4, 5}) scripted_.series[series].values[2].flags = 0;
  scripted_.series[3].values[1].flags = 16;
  EXPECT_THAT(Out({"table"}), Not(HasSubstr("flag")));
  scripted_.series[3].values.pop_back();
  EXPECT_THAT(Out({"table"}), HasSubstr("\n1 of these values has a flag: step_skipped; 'ikkuna read' shows which.\n"));
  Outcome outcome = Run({"table", "--tag", "test"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("has no means, deviations or norms of layers under the tag 'test'"));
}

v1::Event MakeEvent(uint64_t id, v1::Severity severity, const std::string& kind, const std::string& text) {
  v1::Event event;
  event.set_id(id);
  event.set_unix_ns(static_cast<int64_t>(id) * 1'000'000'000);
  event.set_severity(severity);
  event.set_kind(kind);
  event.set_text(text);
  return event;
}

TEST_F(ListCommandsTest, EventsAreLines) {
  scripted_.events = {MakeEvent(1, v1::SEVERITY_INFO, "started", "The daemon started."),
                      MakeEvent(2, v1::SEVERITY_ERROR, "non_finite", "NaN in fc1.")};
  *scripted_.events[1].mutable_run() = kRun;
  scripted_.events[1].set_step(30);
  EXPECT_EQ(Out({"events"}),
            "1  1970-01-01 00:00:01  info     started  The daemon started.  (daemon)\n"
            "2  1970-01-01 00:00:02  error    non_finite  NaN in fc1.  (run id-1 rank 0 step 30)\n");
  EXPECT_THAT(Out({"events", "--last", "1"}), Not(HasSubstr("started")));
  json events = json::parse(Out({"events", "--after", "1", "--run", "fashion", "--json"}));
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0]["severity"], "error");
  scripted_.events[1].set_kind("non\x1b[31m");
  EXPECT_THAT(Out({"events"}), HasSubstr("non\\x1b[31m"));
}

TEST_F(ListCommandsTest, TheLastEventsAreOneCall) {
  for (uint64_t id = 1; id <= 2500; ++id) scripted_.events.push_back(MakeEvent(id, v1::SEVERITY_INFO, "k", "t"));
  EXPECT_EQ(json::parse(Out({"events", "--last", "3", "--json"}))[0]["id"], 2498);
  EXPECT_EQ(scripted_.last_events().last(), 3u);
  EXPECT_EQ(scripted_.events_calls(), 1u);
  EXPECT_EQ(json::parse(Out({"events", "--last", "0", "--json"})).size(), 2500u);
  EXPECT_EQ(json::parse(Out({"events", "--last", "1500", "--json"}))[0]["id"], 1001);
  json after = json::parse(Out({"events", "--after", "10", "--json"}));
  EXPECT_EQ(after.size(), 2490u) << "all of them, whatever is shown without an id";
  EXPECT_EQ(after[0]["id"], 11);
  after = json::parse(Out({"events", "--after", "10", "--last", "2", "--json"}));
  ASSERT_EQ(after.size(), 2u);
  EXPECT_EQ(after[0]["id"], 2499);
  EXPECT_EQ(json::parse(Out({"events", "--json"})).size(), 50u);
}

TEST_F(ListCommandsTest, EventsStandInTheOrderOfTheirIdsWhichEachLineBeginsWith) {
  // The last two are of a run that was imported: they happened first.
  for (const uint64_t id : {9, 10, 11, 12}) {
    scripted_.events.push_back(MakeEvent(id, v1::SEVERITY_INFO, "k", "t"));
    scripted_.events.back().set_unix_ns(static_cast<int64_t>(id < 11 ? id : id - 10) * 1'000'000'000);
  }
  EXPECT_EQ(Out({"events"}),
            " 9  1970-01-01 00:00:09  info     k  t  (daemon)\n"
            "10  1970-01-01 00:00:10  info     k  t  (daemon)\n"
            "11  1970-01-01 00:00:01  info     k  t  (daemon)\n"
            "12  1970-01-01 00:00:02  info     k  t  (daemon)\n");
  // As the daemon gives the last ones: by their times.
  std::sort(scripted_.events.begin(), scripted_.events.end(),
            [](const v1::Event& a, const v1::Event& b) { return a.unix_ns() < b.unix_ns(); });
  json last = json::parse(Out({"events", "--last", "3", "--json"}));
  ASSERT_EQ(last.size(), 3u);
  EXPECT_EQ(last[0]["id"], 9);
  EXPECT_EQ(last[2]["id"], 12);
  EXPECT_EQ(json::parse(Out({"events", "--last", "0", "--json"}))[3]["id"], 12);
  EXPECT_THAT(Out({"events", "--help"}), HasSubstr("in the order of their ids"));
}

TEST_F(ListCommandsTest, EventsThatCannotBeReadAreNamedOnce) {
  for (uint64_t id = 1; id <= 1500; ++id) scripted_.events.push_back(MakeEvent(id, v1::SEVERITY_INFO, "k", "t"));
  scripted_.unread_events = {"cannot read the events of 'bad'"};
  Outcome outcome = Run({"events", "--after", "0", "--json"});
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.err, "ikkuna: left out: cannot read the events of 'bad'\n");
}

TEST_F(ListCommandsTest, WhyNamesReasons) {
  EXPECT_EQ(Out({"why"}), "Nothing is missing: all that was asked is there.\n");
  EXPECT_EQ(Out({"why", "latest", "fc9"}), "Nothing is missing of that: all that was asked is there.\n");
  v1::MissingValue* one = scripted_.why.add_missing();
  *one->mutable_run() = kRun;
  one->set_reason("dropped");
  one->set_module("fc1");
  one->set_kind("activations");
  one->set_count(1200);
  one->set_text("1,200 messages were dropped: the ring was full.");
  one->set_subscriber("mean(activations)");
  EXPECT_EQ(Out({"why", "fashion", "fc*", "activations|weights"}),
            "reason   module  kind         count  what is missing, and what would change it\n"
            "dropped  fc1     activations  1,200  1,200 messages were dropped: the ring was full. "
            "(mean(activations))\n");
  EXPECT_EQ(scripted_.log().back(), "why fashion 'fc*' 'activations|weights'");
  EXPECT_EQ(json::parse(Out({"why", "--json"}))[0]["reason"], "dropped");
  v1::MissingValue* other = scripted_.why.add_missing();
  *other->mutable_run() = MakeKey("id-1", 0, 3);
  scripted_.why.set_more(true);
  std::string out = Out({"why"});
  EXPECT_THAT(out, HasSubstr("rank  reason"));
  EXPECT_THAT(out, HasSubstr("There is more: name a module or a kind.\n"));
}

}  // namespace
}  // namespace ikkuna::test
