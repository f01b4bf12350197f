// The commands that read values: read, export, texts, histogram.
#include <algorithm>

#include "tests/daemon/cli/recorded_fixture.h"

namespace ikkuna::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

class ReadCommandsTest : public RecordedTest {};

TEST_F(ReadCommandsTest, ReadWritesCsvThatKeepsEveryBit) {
  scripted_.series[0].values[2] = Kept(20, 0.1, 16);
  EXPECT_EQ(Out({"read", "loss", "--format", "csv"}),
            "run_id,attempt,rank,tag,root,module,param,topic,step,epoch,unix_ns,samples_seen,value,flags,type\n"
            "id-1,0,0,default,model,,,loss,0,0,1700000000000000000,0,2.5,,number\n"
            "id-1,0,0,default,model,,,loss,10,0,1700000000010000000,0,NaN,,number\n"
            "id-1,0,0,default,model,,,loss,20,0,1700000000020000000,0,0.1,step_skipped,number\n");
  scripted_.series[0].values[2] = Kept(20, 0.1, 16 | v1::SAMPLE_FLAG_THINNED);
  EXPECT_THAT(Out({"read", "loss", "--format", "csv"}), HasSubstr(",0.1,step_skipped|thinned,number\n"));
  scripted_.series[0].series.mutable_key()->set_param("a,\"b\"");
  EXPECT_THAT(Out({"read", "loss", "--format", "csv"}), HasSubstr(",\"a,\"\"b\"\"\",loss,"));
}

TEST_F(ReadCommandsTest, ReadWritesJsonForSeveralSeries) {
  scripted_.part_size = 1;  // what comes in parts is one series all the same
  json read = json::parse(Out({"read", "weights_*", "--format", "json", "--from-step", "10"}));
  ASSERT_EQ(read.size(), 3u);
  EXPECT_EQ(read[0]["key"]["topic"], "weights_mean");
  EXPECT_EQ(read[0]["samples"].size(), 2u);
  EXPECT_EQ(read[0]["samples"][0]["value"], "NaN");
  EXPECT_EQ(read[0]["samples"][1]["flags"][0], "step_skipped");
  EXPECT_EQ(read[0]["thinned"], false);
  EXPECT_EQ(json::parse(Out({"read", "weights_*", "--json", "--from-step", "10"})), read);
  // A range without values is an empty answer.
  EXPECT_EQ(Out({"read", "loss", "--json", "--from-step", "1000"}), "[]\n");
}

TEST_F(ReadCommandsTest, ReadShowsATable) {
  scripted_.series[0].values[2] = Kept(20, 0.1, 16);
  EXPECT_EQ(Out({"read", "loss"}),
            "loss (nats)\n"
            "step  epoch  time                 value  flags\n"
            "   0      0  2023-11-14 22:13:20    2.5\n"
            "  10      0  2023-11-14 22:13:20    NaN\n"
            "  20      0  2023-11-14 22:13:20    0.1  step_skipped\n");
  scripted_.part_size = 1;
  EXPECT_THAT(Out({"read", "loss"}), AllOf(HasSubstr("\n   0      0  "), HasSubstr("\n  20      0  ")));
  scripted_.reduced = true;
  scripted_.series[0].thinned = 5;
  std::string out = Out({"read", "loss", "--points", "4"});
  EXPECT_THAT(out, HasSubstr("Reduced to the first, the last, the least and the greatest value"));
  EXPECT_THAT(out, HasSubstr("Some of these steps were thinned away"));
  EXPECT_EQ(scripted_.last_read().max_points(), 4u);
}

TEST_F(ReadCommandsTest, ReadTakesASeriesByIdWithinItsRun) {
  EXPECT_THAT(Out({"read", "--series", "1", "--run", "older", "--format", "csv"}), HasSubstr("\nid-0,0,0,"));
  EXPECT_THAT(Out({"read", "--series", "6", "--format", "csv"}), HasSubstr(",fc0,,activations_mean,"));
  Outcome outcome = Run({"read", "--series", "99"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.err, "ikkuna: run 'fashion' has no series 99; 'ikkuna series' lists what there is\n");
  EXPECT_EQ(Run({"read"}).code, 2);
  for (const char* option : {"--from-step", "--to-step", "--points", "--series", "--attempt"}) {
    const Outcome negative = Run({"read", "loss", option, "-5"});
    EXPECT_EQ(negative.code, 2) << option;
    EXPECT_THAT(negative.err, HasSubstr("-5")) << option;
  }
  EXPECT_THAT(Run({"read"}).err, HasSubstr("give a topic, such as loss, or --series ID"));
  EXPECT_EQ(Run({"read", "loss", "--from-step", "3", "--to-step", "2"}).err,
            "ikkuna: --from-step is greater than --to-step\n");
  // A name that looks like a pattern is found by its id alone.
  scripted_.series[5].series.mutable_key()->set_module("a|b");
  EXPECT_THAT(Out({"read", "--series", "6", "--format", "csv"}), HasSubstr(",a|b,,activations_mean,"));
}

TEST_F(ReadCommandsTest, TheDaemonsOwnSeriesAreReadByItsName) {
  scripted_.series.push_back({MakeSeries(1, MakeKey("ikkuna-daemon"), "", "", "daemon_lag"), {Kept(5, 1)}});
  scripted_.runs.insert(scripted_.runs.begin(), MakeRun(MakeKey("ikkuna-daemon"), "", 0));
  EXPECT_THAT(Out({"read", "--series", "1", "--run", "ikkuna-daemon", "--format", "csv"}), HasSubstr(",daemon_lag,5,"));
  EXPECT_THAT(Out({"read", "daemon_*", "--run", "ikkuna-daemon", "--format", "csv"}), HasSubstr(",daemon_lag,5,"));
}

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

TEST_F(ReadCommandsTest, AMillionValuesAreStreamed) {
  constexpr uint64_t kValues = 1'000'000;
  scripted_.series[0].values.clear();
  for (uint64_t step = 0; step < kValues; ++step) scripted_.series[0].values.push_back(Kept(step, 1));
  scripted_.part_size = 16'384;
  for (const char* format : {"csv", "json", "table"}) {
    const std::string file = dir_.path() + "/" + format;
    // The peak of its memory, as it stood when it was last looked at.
    Outcome outcome = RunShell(std::string(IKKUNA_BIN_DIR "/ikkuna read loss --format ") + format + " >" + file +
                               " & while grep VmHWM /proc/$!/status 2>/dev/null; do sleep 0.01; done; wait $!");
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    const std::string out = ReadText(file);
    EXPECT_GE(static_cast<uint64_t>(std::count(out.begin(), out.end(), '\n')), kValues + 1) << format;
    EXPECT_THAT(out.substr(out.size() - 200), HasSubstr("999999")) << format;
    const size_t last = outcome.out.rfind("VmHWM:");
    ASSERT_NE(last, std::string::npos);
    // All of it would be 50 MB and more, beside the 20 that gRPC takes; a sanitizer takes more than that.
    if (!kSanitized) {
      EXPECT_LT(std::stoul(outcome.out.substr(last + 6)), 50u << 10) << format;
    }
  }
}

TEST_F(ReadCommandsTest, AReaderThatHasGoneEndsTheRead) {
  for (uint64_t step = 21; step < 300'000; ++step) scripted_.series[0].values.push_back(Kept(step, 1));
  Outcome outcome = RunShell("ikkuna read loss --format csv | head -n 2");
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(std::count(outcome.out.begin(), outcome.out.end(), '\n'), 2);
}

TEST_F(ReadCommandsTest, AttemptsThatContinueAreOneLine) {
  AddLoss(MakeKey("id-1", 1), {Kept(10, 100), Kept(30, 101)}, 0, 10);
  std::string out = Out({"read", "loss", "--format", "csv"});
  EXPECT_THAT(out, HasSubstr("id-1,0,0,default,model,,,loss,0,"));
  EXPECT_THAT(out, Not(HasSubstr("id-1,0,0,default,model,,,loss,10,"))) << "the later attempt has step 10";
  EXPECT_THAT(out, HasSubstr("id-1,1,0,default,model,,,loss,10,"));
  EXPECT_THAT(out, HasSubstr("id-1,1,0,default,model,,,loss,30,"));
  EXPECT_EQ(Out({"read", "loss"}),
            "loss (nats)\n"
            "step  epoch  time                 value  flags\n"
            "   0      0  2023-11-14 22:13:20    2.5\n"
            "\nloss\n"
            "step  epoch  time                 value  flags\n"
            "  10      0  2023-11-14 22:13:20    100\n"
            "  30      0  2023-11-14 22:13:20    101\n")
      << "units differ here; of one unit it is one table";
  scripted_.series.back().series.set_unit("nats");
  EXPECT_EQ(Out({"read", "loss"}),
            "loss (nats)\n"
            "step  epoch  time                 value  flags\n"
            "   0      0  2023-11-14 22:13:20    2.5\n"
            "  10      0  2023-11-14 22:13:20    100\n"
            "  30      0  2023-11-14 22:13:20    101\n");
  // One life alone, whole.
  out = Out({"read", "loss", "--attempt", "0", "--format", "csv"});
  EXPECT_THAT(out, HasSubstr("id-1,0,0,default,model,,,loss,20,"));
  EXPECT_THAT(out, Not(HasSubstr("id-1,1,")));
}

TEST_F(ReadCommandsTest, AnAttemptThatBeginsAnewStandsAlone) {
  AddLoss(MakeKey("id-1", 1), {Kept(0, 100)});
  AddLoss(MakeKey("id-1", 2), {Kept(5, 200)}, 1, 5);
  std::string out = Out({"read", "loss", "--format", "csv"});
  EXPECT_THAT(out, Not(HasSubstr("id-1,0,")));
  EXPECT_THAT(out, HasSubstr("id-1,1,0,default,model,,,loss,0,"));
  EXPECT_THAT(out, HasSubstr("id-1,2,0,default,model,,,loss,5,"));
}

TEST_F(ReadCommandsTest, TwoSeriesThatReadAlikeAreTwoTables) {
  scripted_.series.push_back({MakeSeries(71, kRun, "a.b", "c", "norm"), {Kept(0, 1)}});
  scripted_.series.push_back({MakeSeries(72, kRun, "a", "b.c", "norm"), {Kept(0, 2)}});
  const std::string out = Out({"read", "norm"});
  const size_t first = out.find("a.b.c norm");
  ASSERT_NE(first, std::string::npos) << out;
  EXPECT_NE(out.find("a.b.c norm", first + 1), std::string::npos) << out;
}

TEST_F(ReadCommandsTest, WhatWasDeletedOfALinePartsNothing) {
  AddLoss(MakeKey("id-1", 2), {Kept(15, 200), Kept(25, 201)}, 1, 15);
  scripted_.runs.back().set_line(0);  // attempt 1 went on with attempt 0, and is gone
  const std::string out = Out({"read", "loss", "--format", "csv"});
  EXPECT_THAT(out, HasSubstr("id-1,0,0,default,model,,,loss,10,"));
  EXPECT_THAT(out, Not(HasSubstr("id-1,0,0,default,model,,,loss,20,")));
  EXPECT_THAT(out, HasSubstr("id-1,2,0,default,model,,,loss,15,"));
}

TEST_F(ReadCommandsTest, ExportIsAllThatIsKeptOfARun) {
  AddLoss(MakeKey("id-1", 1), {Kept(10, 100)}, 0, 10);
  AddLoss(MakeKey("id-1", 1, 1), {Kept(10, 300)});
  scripted_.series.push_back(
      {MakeSeries(7, kRun, "", "note", "text", v1::VALUE_TYPE_TEXT), {KeptText(3, "two\nlines, \"quoted\"")}});
  std::string out = Out({"export", "fashion"});
  EXPECT_THAT(out, StartsWith("run_id,attempt,rank,"));
  EXPECT_THAT(out, HasSubstr("id-1,0,0,default,model,,,loss,20,")) << "what was overtaken is kept, too";
  EXPECT_THAT(out, HasSubstr("id-1,1,0,default,model,,,loss,10,"));
  EXPECT_THAT(out, HasSubstr("id-1,1,1,default,model,,,loss,10,"));
  EXPECT_THAT(out, HasSubstr("text,3,0,1700000000003000000,0,\"two\nlines, \"\"quoted\"\"\",,text\n"));
  EXPECT_THAT(out, Not(HasSubstr("id-0,")));
  json all = json::parse(Out({"export", "fashion", "--format", "json"}));
  EXPECT_EQ(all.size(), 9u);
  EXPECT_EQ(json::parse(Out({"export", "fashion", "--json", "--attempt", "1", "--rank", "1"})).size(), 1u);
  EXPECT_THAT(Run({"export", "fashion", "--rank", "9"}).err, HasSubstr("has no such attempt and rank"));
  const std::string path = dir_.path() + "/fashion.csv";
  EXPECT_EQ(Run({"export", "fashion", "--output", path}).code, 0);
  EXPECT_EQ(ReadText(path), out);
  Outcome again = Run({"export", "fashion", "--output", path});
  EXPECT_EQ(again.code, 1);
  EXPECT_THAT(again.err, HasSubstr("'" + path + "' exists already"));
}

v1::ExportedFile FileOf(const v1::RunKey& key, const std::string& name, uint64_t bytes) {
  v1::ExportedFile file;
  *file.mutable_run() = key;
  file.set_name(name);
  file.set_bytes(bytes);
  return file;
}

TEST_F(ReadCommandsTest, FilesAreCopiedWholeOrNotAtAll) {
  const std::string bytes(1'234'567, '\x07');
  const std::string path = dir_.path() + "/copy.db";
  scripted_.files = {{FileOf(kRun, "a.db", bytes.size()), bytes}};
  EXPECT_EQ(Out({"export", "fashion", "--file", path}), "wrote " + path + ", 1.2 MiB\n");
  EXPECT_EQ(ReadText(path), bytes);
  EXPECT_THAT(Run({"export", "fashion", "--file", path}).err, HasSubstr("exists already"));
  // Less came than was promised.
  scripted_.files[0].first.set_bytes(bytes.size() + 1);
  const std::string cut = dir_.path() + "/cut.db";
  Outcome outcome = Run({"export", "fashion", "--file", cut});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("bytes came instead of"));
  EXPECT_FALSE(std::filesystem::exists(cut));
  EXPECT_FALSE(std::filesystem::exists(cut + ".part"));
}

TEST_F(ReadCommandsTest, SeveralFilesGoIntoAFolderAndStayInIt) {
  AddLoss(MakeKey("id-1", 0, 1), {});
  scripted_.files = {{FileOf(kRun, "r0.db", 3), "abc"}, {FileOf(MakeKey("id-1", 0, 1), "r1.db", 2), "de"}};
  const std::string folder = dir_.path() + "/files";
  EXPECT_EQ(json::parse(Out({"export", "fashion", "--file", folder, "--json"})).size(), 2u);
  EXPECT_EQ(ReadText(folder + "/r0.db"), "abc");
  EXPECT_EQ(ReadText(folder + "/r1.db"), "de");
  scripted_.files = {{FileOf(kRun, "../escaped.db", 3), "abc"}};
  Outcome outcome = Run({"export", "fashion", "--file", folder});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("which is no name of a file"));
  EXPECT_FALSE(std::filesystem::exists(dir_.path() + "/escaped.db"));
}

TEST_F(ReadCommandsTest, ImportSendsAFile) {
  const std::string bytes(3'000'000, 'x');
  const std::string path = dir_.Write("run.db", bytes);
  EXPECT_EQ(Out({"import", path}), "imported 'fashion', attempt 0, rank 0: 4,567 values, up to step 1,234\n");
  EXPECT_EQ(scripted_.imported(), bytes);
  EXPECT_EQ(json::parse(Out({"import", path, "--json"}))[0]["name"], "fashion");
  EXPECT_THAT(Run({"import", dir_.path()}).err, HasSubstr("is a folder"));
  EXPECT_THAT(Run({"import", path + "x"}).err, HasSubstr("cannot read '" + path + "x'"));
  dir_.Write("run.db-wal", "some");
  Outcome outcome = Run({"import", path});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("is being written"));
  std::filesystem::remove(path + "-wal");
  scripted_.failure = Refusal(grpc::StatusCode::INVALID_ARGUMENT, "this is no run", v1::ERROR_REASON_BAD_FILE);
  EXPECT_EQ(Run({"import", path}).err, "ikkuna: '" + path + "': this is no run\n");
}

TEST_F(ReadCommandsTest, TextsAreShownWithTheirLines) {
  EXPECT_EQ(Out({"texts"}), "No texts.\n");
  EXPECT_EQ(Out({"texts", "--json"}), "[]\n");
  scripted_.series.push_back({MakeSeries(7, kRun, "", "note", "text", v1::VALUE_TYPE_TEXT),
                              {KeptText(3, "first\nsecond\x1b[31m\n"), KeptText(3, "again"), KeptText(1000, "late")}});
  EXPECT_EQ(Out({"texts"}),
            "2023-11-14 22:13:20  step 3  note: first\n    second\\x1b[31m\n"
            "2023-11-14 22:13:20  step 3  note: again\n"
            "2023-11-14 22:13:21  step 1,000  note: late\n");
  EXPECT_EQ(Out({"texts", "--last", "1", "--param", "no*"}), "2023-11-14 22:13:21  step 1,000  note: late\n");
  json texts = json::parse(Out({"texts", "--json", "--to-step", "3"}));
  ASSERT_EQ(texts.size(), 2u);
  EXPECT_EQ(texts[0]["text"], "first\nsecond\x1b[31m\n");
  EXPECT_EQ(texts[0]["param"], "note");
  ASSERT_EQ(scripted_.last_read().types_size(), 1);
  EXPECT_EQ(scripted_.last_read().types(0), v1::VALUE_TYPE_TEXT);
  EXPECT_THAT(Run({"plot", "text"}).err, HasSubstr("'text' are no numbers"));
}

// Attempts that continue each other are one line, also where each has several series.
TEST_F(ReadCommandsTest, TheLastTextsAreThoseOfTheLine) {
  const v1::RunKey later = MakeKey("id-1", 1);
  scripted_.runs.push_back(MakeRun(later, "fashion", 1'700'000'001'000'000'000));
  scripted_.runs.back().set_continues(0);
  scripted_.runs.back().set_line(0);
  scripted_.runs.back().set_start_step(10);
  uint32_t id = 70;
  for (const v1::RunKey& run : {kRun, later}) {
    for (const char* name : {"a", "b"}) {
      const uint64_t step = run.attempt() * 10;
      KeptValue cut = KeptText(step + 2, std::string(name) + std::to_string(run.attempt()));
      cut.flags = v1::SAMPLE_FLAG_TRUNCATED;
      scripted_.series.push_back(
          {MakeSeries(++id, run, "", name, "text", v1::VALUE_TYPE_TEXT), {KeptText(step + 1, "early"), cut}});
    }
  }
  const json texts = json::parse(Out({"texts", "--run", "fashion", "--last", "1", "--json"}));
  ASSERT_EQ(texts.size(), 2u);
  EXPECT_EQ(texts[0]["text"], "a1");
  EXPECT_EQ(texts[1]["text"], "b1");
  EXPECT_EQ(texts[1]["flags"], json({"truncated"}));
  EXPECT_THAT(Out({"texts", "--run", "fashion", "--last", "1"}), HasSubstr("b (truncated): b1\n"));
}

class HistogramCommandTest : public RecordedTest {
 protected:
  void SetUp() override {
    RecordedTest::SetUp();
    KeptSeries one{MakeSeries(7, kRun, "fc1", "weight", "weights_histogram", v1::VALUE_TYPE_HISTOGRAM), {}};
    for (uint64_t step : {0, 100, 200}) {
      KeptValue kept{step, {}, 0, 0, 0};
      v1::Histogram* histogram = kept.value.mutable_histogram();
      histogram->set_min(-1);
      histogram->set_max(1);
      histogram->set_n(4);
      histogram->set_sum_squares(4);
      for (uint64_t count : {1, 0, 0, 3}) histogram->add_counts(step == 0 ? 1 : count);
      one.values.push_back(std::move(kept));
    }
    scripted_.series.push_back(std::move(one));
  }
};

TEST_F(HistogramCommandTest, ShowsOneStep) {
  EXPECT_EQ(Out({"histogram", "--ascii", "--width", "9"}),
            "fc1.weight weights_histogram, step 200\n"
            "4 values from -1 to 1, mean 0, standard deviation 1\n"
            "  -1 | ### 1\n"
            "-0.5 | 0\n"
            "   0 | 0\n"
            " 0.5 | ######### 3\n");
  EXPECT_THAT(Out({"histogram", "weights_histogram", "--module", "fc1", "--step", "0"}), HasSubstr(", step 0\n"));
  Outcome outcome = Run({"histogram", "--step", "50"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.err,
            "ikkuna: fc1.weight weights_histogram has no histogram of step 50; its steps are within 0 to 200\n");
  EXPECT_THAT(Run({"histogram", "loss"}).err, HasSubstr("has no histograms 'loss'"));
  EXPECT_THAT(Out({"histogram", "--from-step", "20", "--to-step", "150"}), HasSubstr(", step 100\n"));
  EXPECT_EQ(json::parse(Out({"histogram", "--to-step", "150", "--json"}))[0]["step"], 100);
  EXPECT_THAT(Run({"histogram", "--from-step", "201"}).err, HasSubstr("no histogram of these steps"));
  EXPECT_THAT(Run({"histogram", "--from-step", "1", "--step", "100"}).err, HasSubstr("leave out one"));
  json all = json::parse(Out({"histogram", "--json"}));
  ASSERT_EQ(all.size(), 1u);
  EXPECT_EQ(all[0]["step"], 200);
  EXPECT_EQ(all[0]["histogram"]["counts"], json({1, 0, 0, 3}));
}

TEST_F(HistogramCommandTest, ShowsAllStepsAsAMap) {
  std::string out = Out({"histogram", "--map", "--ascii", "--height", "4"});
  EXPECT_THAT(out, StartsWith("fc1.weight weights_histogram\n"));
  EXPECT_THAT(out, HasSubstr("step 0 to 200\n"));
  EXPECT_THAT(Run({"histogram", "--map", "--step", "1"}).err, HasSubstr("leave out one"));
  EXPECT_EQ(json::parse(Out({"histogram", "--map", "--json"})).size(), 3u);
}

}  // namespace
}  // namespace ikkuna::test
