// Event files are read back with TensorBoard's own readers, by read_event_files.py.
#include "daemon/sinks/tensorboard/tensorboard.h"

#include "daemon/sinks/tensorboard/event_file.h"
#include "daemon/sinks/tensorboard/names.h"
#include "daemon/sinks/tensorboard/tree.h"
#include "daemon/sinks/tensorboard/values.h"
#include "tests/daemon/sinks/tensorboard_fixture.h"

namespace ikkuna::sinks {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(TensorBoardFile, ChecksumsOfKnownBytes) {
  // crc32c("123456789") is e3069283; the mask is the format's.
  constexpr uint32_t kSum = 0xe3069283;
  EXPECT_EQ(MaskedCrc32c("123456789"), ((kSum >> 15) | (kSum << 17)) + 0xa282ead8);
  EXPECT_EQ(FrameRecord("abc").size(), 8u + 4 + 3 + 4);
  EXPECT_EQ(FrameRecord("abc").substr(0, 8), std::string("\3\0\0\0\0\0\0\0", 8));
}

TEST(TensorBoardFile, ANewFileStandsBehindAllOthersWhateverTheClockDid) {
  TempDir dir;
  std::string before;
  for (const int64_t seconds : {1'700'000'000, 1'700'000'000, 1'600'000'000, 1'800'000'000, 5}) {
    auto file = EventFile::Create({dir.path(), seconds * 1'000'000'000, 0, {}, {}});
    ASSERT_TRUE(file.ok()) << file.error().text;
    EXPECT_GT((*file)->path(), before);
    EXPECT_TRUE(IsOwnEventFile(std::filesystem::path((*file)->path()).filename().string()));
    before = (*file)->path();
  }
  EXPECT_FALSE(IsOwnEventFile("events.out.tfevents.1700000000.elsewhere-" + EventFileHost() + ".1.0.a0"));
  EXPECT_FALSE(IsOwnEventFile("events.out.tfevents.1700000000." + EventFileHost()));
}

TEST(TensorBoardNames, CurvesOfTheUsualSeries) {
  EXPECT_EQ(CurveName(Name("weights_norm2", "features.0", "weight")), "weights_norm2/features.0.weight");
  EXPECT_EQ(CurveName(Name("activations_mean", "features.0")), "activations_mean/features.0");
  EXPECT_EQ(CurveName(Name("loss")), "loss");
  EXPECT_EQ(CurveName(Name("scalar", "", "lr")), "scalar/lr");
  EXPECT_EQ(CurveName(Name("weights_norm2", "features.0", "weight", "default", "model1")),
            "weights_norm2/model1/features.0.weight");
  EXPECT_EQ(CurveName(Name("loss", "", "", "default", "model1")), "loss/model1");
  EXPECT_EQ(CurveName(Name("loss", "", "", "default", "")), "loss");
  EXPECT_EQ(CurveName(Name("x", "a/b\n\x1b\xff")), "x/a_b__?");
}

TEST(TensorBoardNames, FoldersStayInside) {
  EXPECT_EQ(FolderName("fashion mnist/1"), "fashion_mnist_1");
  EXPECT_EQ(FolderName(".."), "_..");
  EXPECT_EQ(FolderName("../../etc"), "_.._.._etc");
  EXPECT_EQ(FolderName(""), "_");
  EXPECT_EQ(FolderName("größe"), "größe");
  EXPECT_LE(FolderName(std::string(1'000, 'x')).size(), 201u);
  // Not cut within a character.
  EXPECT_EQ(FolderName(std::string(199, 'x') + "ö"), std::string(199, 'x'));
  EXPECT_EQ(OneLine("a\nb%0a"), "a%0ab%250a");
}

TEST(TensorBoardNames, NoTwoSeriesHaveOneCurveAndEachKeepsItsOwn) {
  TempDir dir;
  const std::vector<SeriesName> alike = {Name("x", "a", "b"), Name("x", "a.b"), Name("x", "", "a.b"),
                                         Name("x", "", "", "default", "a.b"), Name("x", "a.b", "", "default", "")};
  std::vector<std::string> given;
  {
    CurveNames names(dir.path());
    names.Load();
    for (const SeriesName& one : alike) given.push_back(names.Name(one));
    EXPECT_EQ(given[0], "x/a.b");
    for (const std::string& one : given) EXPECT_EQ(std::count(given.begin(), given.end(), one), 1) << one;
    // One that is called as what was appended to another.
    const SeriesName mimic = Name("x", given[1].substr(2));
    EXPECT_NE(names.Name(mimic), given[1]);
    ASSERT_TRUE(names.Save().ok());
  }
  // In another order; and the file's last line was torn.
  std::ofstream(dir.path() + "/.ikkuna-curves", std::ios::app) << "00000000000000";
  for (int life = 0; life < 2; ++life) {
    CurveNames names(dir.path());
    names.Load();
    for (size_t i = alike.size(); i-- > 0;) EXPECT_EQ(names.Name(alike[i]), given[i]);
    names.Name(Name("y" + std::to_string(life)));
    ASSERT_TRUE(names.Save().ok());
  }
  // The mimic that came first has the name; the other's suffix gives way.
  CurveNames names(dir.path() + "/fresh");
  const std::string taken = names.Name(Name("x", given[1].substr(2)));
  EXPECT_EQ(taken, given[1]);
  names.Name(alike[0]);
  EXPECT_NE(names.Name(alike[1]), taken);
}

TEST(TensorBoardValues, HistogramsOfAnyRange) {
  tb::Summary::Value value;
  Histogram histogram;
  histogram.min = -1.5e308;
  histogram.max = 1.5e308;
  histogram.n = 3;
  histogram.counts = {1, 0, 2};
  SetHistogram(value, histogram);
  EXPECT_DOUBLE_EQ(value.histo().bucket_limit(0), -0.5e308);
  EXPECT_DOUBLE_EQ(value.histo().bucket_limit(1), 0.5e308);
  EXPECT_EQ(value.histo().bucket_limit(2), 1.5e308);
  histogram = {};
  histogram.min = 1;
  histogram.max = -1;
  histogram.counts = {0, 0};
  value.Clear();
  SetHistogram(value, histogram);
  EXPECT_EQ(value.histo().bucket_size(), 1);
  EXPECT_EQ(value.histo().min(), 0);
}

TEST(TensorBoardValues, TensorsThatAreNoPictureAreRefused) {
  tb::Summary::Value value;
  TensorValue tensor;
  for (const std::vector<int64_t>& sizes : std::vector<std::vector<int64_t>>{
           {}, {6}, {0, 6}, {2, 2}, {-2, -3}, {1, 2, 3}, {int64_t{1} << 62, 6}, {1, 3, 2}}) {
    tensor.sizes = sizes;
    tensor.values.assign(6, 1);
    EXPECT_FALSE(SetTensor(value, tensor)) << sizes.size();
  }
  tensor.sizes = {1, 3, 2};
  tensor.form = TensorValue::Form::kImage;
  EXPECT_FALSE(SetTensor(value, tensor));
}

TEST_F(TensorBoardTest, TensorBoardReadsWhatWasWritten) {
  SKIP_WITHOUT_PYTHON();
  options_.configuration = "[daemon]\nsubscribe = \"norm\"";
  Open();
  auto run = NewRun();
  const uint32_t loss = Intern(*run, Name("loss"));
  const uint32_t norm = Intern(*run, Name("weights_norm2", "features.0", "weight"));
  const uint32_t other_root = Intern(*run, Name("weights_norm2", "features.0", "weight", "default", "model1"));
  const uint32_t test = Intern(*run, Name("loss", "", "", "test"));
  const uint32_t note = Intern(*run, Name("text", "", "note"), ValueType::kText);
  auto restarted = NewRun({"run-1", 2, 1});
  for (uint64_t step = 0; step < 1'500; ++step) {
    Offer(run, step,
          {Number(loss, 1.0 / double(step + 1)), Number(norm, double(step)), Number(other_root, -double(step))});
  }
  Offer(run, 1'500, {Number(loss, NAN)});
  Offer(run, 1'501, {Number(loss, INFINITY)});
  Offer(run, 1'502, {Number(loss, -1e300)});
  Offer(run, 1'500, {Number(test, 0.25)});
  Offer(run, 1'503, {}, {{note, 0, Text{"hello | world"}}, {note, 0, Text{"and more"}}});
  Offer(restarted, 0, {Number(Intern(*restarted, Name("loss")), 7)});
  Flush();

  auto read = ReadBack(options_.logdir);
  ASSERT_TRUE(read.has_value());
  std::vector<std::string> folders;
  for (const auto& item : read->items()) folders.push_back(item.key());
  EXPECT_THAT(folders, ElementsAre("fashion-attempt2/1/default", "fashion/0/default", "fashion/0/test"));
  const json& folder = (*read)["fashion/0/default"];
  const json& scalars = folder["scalars"];
  ASSERT_EQ(scalars.size(), 3u);
  const json& curve = scalars["loss"];
  ASSERT_EQ(curve.size(), 1'503u);
  for (uint64_t step = 0; step < 1'500; ++step) {
    EXPECT_EQ(curve[step][0], step);
    EXPECT_NEAR(curve[step][1].get<double>(), 1.7e9 + 1e-3 * double(step), 1e-6);
    EXPECT_FLOAT_EQ(std::stof(curve[step][2].get<std::string>()), 1.0f / float(step + 1));
  }
  EXPECT_EQ(curve[1'500][2], "nan");
  EXPECT_EQ(curve[1'501][2], "inf");
  EXPECT_EQ(curve[1'502][2], "-inf");
  EXPECT_EQ(scalars["weights_norm2/features.0.weight"][1'499][2], "1499.0");
  EXPECT_EQ(scalars["weights_norm2/model1/features.0.weight"][1'499][2], "-1499.0");
  EXPECT_EQ((*read)["fashion/0/test"]["scalars"]["loss"][0][2], "0.25");
  EXPECT_EQ(folder["texts"]["text/note"], json::parse(R"([[1503, "hello | world", "and more"]])"));
  EXPECT_THAT(folder["texts"]["run/facts"][0][1].get<std::string>(),
              HasSubstr("| command | ikkuna-train --model fc \\| tee log |"));
  EXPECT_THAT(folder["texts"]["run/configuration"][0][1].get<std::string>(), HasSubstr("    subscribe = \"norm\""));
  // The version, the start, and an event for each step: its values have one time.
  EXPECT_EQ(folder["events"], 2 + 1'504);
  EXPECT_EQ(folder["starts"], json::parse("[0]"));
  const SinkCounters counters = sink_->Counters();
  EXPECT_EQ(counters.written, 3 * 1'500u + 3 + 1 + 2 + 1);
  EXPECT_EQ(counters.dropped, 0u);
  ExpectIdentity(counters);
}

TEST_F(TensorBoardTest, HistogramsAndPicturesInItsForm) {
  SKIP_WITHOUT_PYTHON();
  Open();
  auto run = NewRun();
  const uint32_t histogram = Intern(*run, Name("weights_histogram", "fc", "weight"), ValueType::kHistogram);
  const uint32_t matrix = Intern(*run, Name("confusion"), ValueType::kTensor);
  const uint32_t image = Intern(*run, Name("input"), ValueType::kTensor);
  Histogram full;
  full.min = -1;
  full.max = 3;
  full.n = 6;
  full.nans = 2;
  full.sum = 4;
  full.sum_squares = 10;
  full.counts = {1, 2, 0, 3};
  Histogram none;
  none.min = 1;
  none.max = -1;
  none.counts.assign(8, 0);
  TensorValue grey;
  grey.sizes = {2, 3};
  grey.values = {0, 5, 10, NAN, INFINITY, 2};
  TensorValue colour;
  colour.form = TensorValue::Form::kImage;
  colour.sizes = {1, 2, 3};
  colour.values = {0, 0.5, 1, -3, 7, NAN};
  TensorValue large;  // several stored blocks, and sums that wrap
  large.form = TensorValue::Form::kImage;
  large.sizes = {300, 400};
  large.values.assign(120'000, 1);
  TensorValue broken = grey;
  broken.sizes = {2, 2};
  Offer(run, 1, {}, {{histogram, 0, full}, {matrix, 0, grey}, {image, 0, colour}});
  Offer(run, 2, {}, {{histogram, 0, none}, {matrix, 0, broken}, {image, 0, large}});
  Flush();
  auto read = ReadBack(options_.logdir);
  ASSERT_TRUE(read.has_value());
  const json& folder = (*read)["fashion/0/default"];
  const json& curve = folder["histograms"]["weights_histogram/fc.weight"];
  EXPECT_EQ(curve[0], json::parse("[1, -1.0, 3.0, 6.0, [0.0, 1.0, 2.0, 3.0], [1.0, 2.0, 0.0, 3.0]]"));
  EXPECT_EQ(curve[1], json::parse("[2, 0.0, 0.0, 0.0, [0.0], [0.0]]"));
  EXPECT_EQ(folder["images"]["confusion"], json::parse("[[1, 2, 3, [0, 128, 255, 0, 0, 51]]]"));
  EXPECT_EQ(folder["images"]["input"][0], json::parse("[1, 1, 2, [0, 128, 255, 0, 255, 0]]"));
  EXPECT_EQ(folder["images"]["input"][1][3], json(std::vector<int>(120'000, 255)));
  EXPECT_EQ(Steps(folder["shown"]["weights_histogram/fc.weight"]), (std::vector<uint64_t>{1, 2}));
  EXPECT_EQ(DropsFor(sink_->Counters(), "no_picture"), 1u);
  ExpectIdentity(sink_->Counters());
}

TEST_F(TensorBoardTest, ARestartOfTheDaemonGoesOnInANewFileAndLeavesATornOneAlone) {
  SKIP_WITHOUT_PYTHON();
  Open();
  auto run = NewRun();
  const uint32_t loss = Intern(*run, Name("loss"));
  Offer(run, 1, {Number(loss, 1)});
  Close();
  const std::string folder = options_.logdir + "/fashion/0/default";
  const auto first = EventFiles(folder);
  ASSERT_EQ(first.size(), 1u);
  const auto size = std::filesystem::file_size(first[0]);
  Open();
  Offer(run, 2, {Number(loss, 2)});
  // Another run of the same name is not mixed in.
  auto namesake = NewRun({"run-9", 0, 0});
  Offer(namesake, 1, {Number(Intern(*namesake, Name("loss")), 9)});
  Close();
  EXPECT_EQ(std::filesystem::file_size(first[0]), size);
  auto read = ReadBack(options_.logdir);
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(read->size(), 2u);
  EXPECT_EQ((*read)["fashion/0/default"]["scalars"]["loss"].size(), 2u);
  EXPECT_EQ((*read)["fashion/0/default"]["starts"], json::parse("[0]"));
  EXPECT_EQ((*read)["fashion-2/0/default"]["scalars"]["loss"][0][2], "9.0");
}

TEST_F(TensorBoardTest, WhatTheTopicsLeaveOutIsNotOfferedToIt) {
  SKIP_WITHOUT_PYTHON();
  options_.topics = "loss|*_norm2";
  Open();
  auto run = NewRun();
  const uint32_t loss = Intern(*run, Name("loss"));
  const uint32_t norm = Intern(*run, Name("weights_norm2", "fc", "weight"));
  const uint32_t mean = Intern(*run, Name("activations_mean", "fc"));
  Offer(run, 1, {Number(loss, 1), Number(norm, 2), Number(mean, 3), Number(mean + 100, 3)});
  auto other = NewRun({"run-2", 0, 0});
  Offer(other, 1, {Number(Intern(*other, Name("activations_mean", "fc")), 1)});
  Flush();
  auto read = ReadBack(options_.logdir);
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(read->size(), 1u);  // nor has the other a folder
  EXPECT_EQ((*read)["fashion/0/default"]["scalars"].size(), 2u);
  const SinkCounters counters = sink_->Counters();
  EXPECT_EQ(counters.offered, 3u);
  EXPECT_EQ(counters.written, 2u);
  EXPECT_EQ(DropsFor(counters, "unnamed"), 1u);
  ExpectIdentity(counters);
}

TEST_F(TensorBoardTest, TagsThatAreOnePathKeepApart) {
  SKIP_WITHOUT_PYTHON();
  auto run = NewRun();
  std::vector<std::string> tags = {
      "a b", "a_b", "a/b", "a_b-2", "A_b", "", "..", std::string(250, 'x') + "1", std::string(250, 'x') + "2"};
  for (int life = 0; life < 2; ++life) {
    Open();
    for (size_t i = 0; i < tags.size(); ++i) {
      Offer(run, uint64_t(life), {Number(Intern(*run, Name("loss", "", "", tags[i])), double(i))});
    }
    // The next daemon meets them in another order.
    std::reverse(tags.begin(), tags.end());
    Close();
  }
  auto read = ReadBack(options_.logdir);
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(read->size(), tags.size());
  for (const auto& [folder, content] : read->items()) {
    const json& curve = content["scalars"]["loss"];
    ASSERT_EQ(curve.size(), 2u) << folder;
    const double first = std::stod(curve[0][2].get<std::string>());
    const double second = std::stod(curve[1][2].get<std::string>());
    EXPECT_EQ(first + second, double(tags.size() - 1)) << folder;
  }
}

TEST_F(TensorBoardTest, AFolderThatIsNotOursIsLeftAlone) {
  std::filesystem::create_directories(options_.logdir + "/fashion/mine");
  std::ofstream(options_.logdir + "/fashion-2") << "a file";
  Open();
  auto run = NewRun();
  Offer(run, 1, {Number(Intern(*run, Name("loss")), 1)});
  Flush();
  EXPECT_EQ(EventFiles(options_.logdir + "/fashion").size(), 0u);
  EXPECT_EQ(EventFiles(options_.logdir + "/fashion-3").size(), 1u);
  EXPECT_EQ(std::filesystem::status(options_.logdir + "/fashion-3/0").permissions(), std::filesystem::perms::owner_all);
}

TEST_F(TensorBoardTest, MoreFoldersThanFilesMayBeOpen) {
  Open();
  constexpr size_t kRuns = TensorBoardTree::kFilesOpenMax + 20;
  std::vector<RunPtr> runs;
  for (uint32_t rank = 0; rank < kRuns; ++rank) runs.push_back(NewRun({"run-1", 0, rank}));
  for (uint64_t round = 0; round < 2; ++round) {
    for (const RunPtr& run : runs) Offer(run, round, {Number(Intern(*run, Name("loss")), 1)});
  }
  Flush();
  EXPECT_EQ(sink_->Counters().written, 2 * kRuns);
  size_t open_files = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code code;
    const auto target = std::filesystem::read_symlink(entry.path(), code);
    if (target.string().find("tfevents") != std::string::npos) ++open_files;
  }
  EXPECT_LE(open_files, TensorBoardTree::kFilesOpenMax);
  EXPECT_GT(open_files, 0u);
  EXPECT_EQ(EventFiles(options_.logdir).size(), kRuns);
  ExpectIdentity(sink_->Counters());
  // Of runs that are gone nothing stays open.
  runs.clear();
  auto last = NewRun({"run-2", 0, 0});
  Offer(last, 1, {Number(Intern(*last, Name("loss")), 1)});
  Flush();
  open_files = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code code;
    if (std::filesystem::read_symlink(entry.path(), code).string().find("tfevents") != std::string::npos) ++open_files;
  }
  EXPECT_EQ(open_files, 1u);
}

TEST_F(TensorBoardTest, StepsBeyondTheFormatAreDropped) {
  Open();
  auto run = NewRun();
  const uint32_t loss = Intern(*run, Name("loss"));
  Offer(run, UINT64_MAX, {Number(loss, 1)});
  Offer(run, uint64_t{1} << 63, {Number(loss, 1)});
  Offer(run, (uint64_t{1} << 63) - 1, {Number(loss, 1)});
  Flush();
  EXPECT_EQ(DropsFor(sink_->Counters(), "step_too_large"), 2u);
  EXPECT_EQ(sink_->Counters().written, 1u);
}

TEST_F(TensorBoardTest, WithoutAnyoneAskingValuesReachTheFile) {
  Open();
  auto run = NewRun();
  Offer(run, 1, {Number(Intern(*run, Name("loss")), 1)});
  EXPECT_TRUE(Eventually([&] { return sink_->Counters().written == 1; }));
}

TEST_F(TensorBoardTest, FactsThatComeLaterAreShown) {
  SKIP_WITHOUT_PYTHON();
  Open();
  ProducerInfo info = Producer();
  info.facts.clear();
  auto run = std::make_shared<ikkuna::Run>(info);
  const uint32_t loss = Intern(*run, Name("loss"));
  Offer(run, 1, {Number(loss, 1)});
  Flush();
  info.facts = {{"lr", "0.5"}};
  run->SetInfo(info);
  Offer(run, 2, {Number(loss, 1)});
  Offer(run, 3, {Number(loss, 1)});
  Flush();
  auto read = ReadBack(options_.logdir);
  ASSERT_TRUE(read.has_value());
  const json& facts = (*read)["fashion/0/default"]["texts"]["run/facts"];
  ASSERT_EQ(facts.size(), 1u);
  EXPECT_EQ(facts[0][0], 2);
}

}  // namespace
}  // namespace ikkuna::sinks
