// Event files are read back with TensorBoard's own reader, by read_event_files.py.
#include "daemon/sinks/tensorboard.h"

#include <gmock/gmock.h>
#include <sys/mount.h>

#include <array>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "build_paths.h"
#include "daemon/sinks/tensorboard_file.h"
#include "daemon/sinks/tensorboard_names.h"
#include "tests/daemon/sinks/sinks_fixture.h"

namespace ikkuna::sinks {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// The interpreter of tests/run.sh, or the one that IKKUNA_TEST_PYTHON names.
std::string Python() {
  if (const char* named = std::getenv("IKKUNA_TEST_PYTHON")) return named;
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  const std::string base = cache && *cache ? cache : std::string(home ? home : "") + "/.cache";
  return base + "/ikkuna/venv-tests/bin/python";
}

std::optional<json> ReadBack(const std::string& logdir) {
  // Sanitizers are not for the interpreter's libraries.
  const std::string command = "env -u LD_PRELOAD '" + Python() + "' '" + IKKUNA_SOURCE_DIR +
                              "/tests/daemon/sinks/read_event_files.py' '" + logdir + "'";
  FILE* pipe = popen(command.c_str(), "r");
  if (!pipe) return std::nullopt;
  std::string text;
  std::array<char, 4096> buffer;
  for (size_t count; (count = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) text.append(buffer.data(), count);
  EXPECT_EQ(pclose(pipe), 0) << text;
  json answer = json::parse(text, nullptr, false);
  if (answer.is_discarded()) return std::nullopt;
  return answer;
}

#define SKIP_WITHOUT_PYTHON()                                                                              \
  if (!std::filesystem::exists(Python())) {                                                                \
    GTEST_SKIP() << "SKIP: no " << Python() << " with TensorBoard: run tests/run.sh once to have it made"; \
  }

class TensorBoardTest : public ::testing::Test {
 protected:
  void Open() {
    options_.logdir = dir_.path() + "/tb";
    auto tensorboard = TensorBoard::Open(options_, catalogue_);
    ASSERT_TRUE(tensorboard.ok()) << tensorboard.error().text;
    tensorboard_ = *std::move(tensorboard);
  }
  uint64_t Intern(const SeriesKey& key) { return catalogue_.Intern(key, "", ""); }
  void ExpectIdentity() {
    const SinkCounters counters = tensorboard_->counters();
    EXPECT_EQ(counters.offered, counters.written + counters.dropped);
    EXPECT_EQ(counters.queued, 0u);
  }

  TempDir dir_;
  SeriesCatalogue catalogue_;
  TensorBoardOptions options_;
  std::unique_ptr<TensorBoard> tensorboard_;
};

TEST(TensorBoardFile, ChecksumsOfKnownBytes) {
  // crc32c("123456789") is e3069283; the mask is the format's.
  constexpr uint32_t kSum = 0xe3069283;
  EXPECT_EQ(MaskedCrc32c("123456789"), ((kSum >> 15) | (kSum << 17)) + 0xa282ead8);
  EXPECT_EQ(FrameRecord("abc").size(), 8u + 4 + 3 + 4);
  EXPECT_EQ(FrameRecord("abc").substr(0, 8), std::string("\3\0\0\0\0\0\0\0", 8));
}

TEST(TensorBoardNames, CurvesNeverMeet) {
  auto name = [](const char* root, const char* module, const char* param, const char* topic) {
    return CurveName({kRun, "default", root, module, param, topic});
  };
  EXPECT_EQ(name("model", "features.0", "weight", "weights_norm2"), "weights_norm2/features.0.weight");
  EXPECT_EQ(name("model", "features.0", "", "activations_mean"), "activations_mean/features.0");
  EXPECT_EQ(name("model", "", "", "loss"), "loss");
  EXPECT_EQ(name("model", "", "lr", "scalar"), "scalar/lr");
  EXPECT_EQ(name("model1", "features.0", "weight", "weights_norm2"), "weights_norm2/model1/features.0.weight");
  EXPECT_EQ(name("model1", "", "", "loss"), "loss/model1");
  EXPECT_EQ(name("model", "a/b", "", "x"), "x/a_b");
}

TEST(TensorBoardNames, FoldersStayInside) {
  EXPECT_EQ(FolderName("fashion mnist/1"), "fashion_mnist_1");
  EXPECT_EQ(FolderName(".."), "_..");
  EXPECT_EQ(FolderName("../../etc"), "_.._.._etc");
  EXPECT_EQ(FolderName(""), "_");
  EXPECT_EQ(FolderName("größe"), "größe");
  EXPECT_LE(FolderName(std::string(1'000, 'x')).size(), 201u);
}

TEST_F(TensorBoardTest, TensorBoardReadsWhatWasWritten) {
  SKIP_WITHOUT_PYTHON();
  options_.configuration = "[daemon]\nsubscribe = \"norm\"";
  Open();
  const uint64_t loss = Intern(Key("loss", "", ""));
  const uint64_t norm = Intern(Key("weights_norm2", "features.0"));
  const uint64_t other_root = Intern({kRun, "default", "model1", "features.0", "weight", "weights_norm2"});
  const uint64_t test = Intern({kRun, "test", "model", "", "", "loss"});
  const uint64_t note = Intern({kRun, "default", "model", "", "note", "text"});
  const RunKey restarted{"run-1", 2, 1};
  const uint64_t later = Intern(Key("loss", "", "", restarted));
  for (uint64_t step = 0; step < 1'500; ++step) {
    tensorboard_->Offer(BatchOf(
        {At(loss, step, 1.0 / double(step + 1)), At(norm, step, double(step)), At(other_root, step, -double(step))}));
  }
  tensorboard_->Offer(BatchOf({At(loss, 1'500, NAN), At(loss, 1'501, INFINITY), At(loss, 1'502, -1e300)}));
  auto batch = BatchOf({At(test, 1'500, 0.25)});
  batch->texts = {{note, 3, 1'700'000'000'000'000'000, "hello | world"}};
  tensorboard_->Offer(batch);
  tensorboard_->Offer(BatchOf({At(later, 0, 7)}, 0, Producer(8, restarted)));
  tensorboard_->Flush();

  auto read = ReadBack(options_.logdir);
  ASSERT_TRUE(read.has_value());
  std::vector<std::string> folders;
  for (const auto& item : read->items()) folders.push_back(item.key());
  EXPECT_THAT(folders, ElementsAre("fashion-attempt2/1/default", "fashion/0/default", "fashion/0/test"));
  const json& scalars = (*read)["fashion/0/default"]["scalars"];
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
  const json& texts = (*read)["fashion/0/default"]["texts"];
  EXPECT_EQ(texts["text/note"][0][0], 3);
  EXPECT_EQ(texts["text/note"][0][1], "hello | world");
  EXPECT_THAT(texts["run/facts"][0][1].get<std::string>(),
              HasSubstr("| command | ikkuna-train --model fc \\| tee log |"));
  EXPECT_THAT(texts["run/configuration"][0][1].get<std::string>(), HasSubstr("    subscribe = \"norm\""));
  EXPECT_EQ(tensorboard_->counters().written, 3 * 1'500u + 3 + 2 + 1);
  ExpectIdentity();
}

TEST_F(TensorBoardTest, ARestartGoesOnInANewFileAndLeavesATornOneAlone) {
  SKIP_WITHOUT_PYTHON();
  Open();
  const uint64_t loss = Intern(Key("loss", "", ""));
  tensorboard_->Offer(BatchOf({At(loss, 1, 1)}));
  tensorboard_.reset();
  const std::string folder = options_.logdir + "/fashion/0/default";
  std::filesystem::path first;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) first = entry.path();
  const auto size = std::filesystem::file_size(first);
  Open();
  tensorboard_->Offer(BatchOf({At(loss, 2, 2)}));
  // Another run of the same name is not mixed in.
  const RunKey namesake{"run-9", 0, 0};
  tensorboard_->Offer(BatchOf({At(Intern(Key("loss", "", "", namesake)), 1, 9)}, 0, Producer(9, namesake)));
  tensorboard_.reset();
  EXPECT_EQ(std::filesystem::file_size(first), size);
  auto read = ReadBack(options_.logdir);
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(read->size(), 2u);
  EXPECT_EQ((*read)["fashion/0/default"]["scalars"]["loss"].size(), 2u);
  EXPECT_EQ((*read)["fashion-2/0/default"]["scalars"]["loss"][0][2], "9.0");
}

TEST_F(TensorBoardTest, AStepBackIsDroppedAndCounted) {
  Open();
  const uint64_t loss = Intern(Key("loss", "", ""));
  tensorboard_->Offer(BatchOf({At(loss, 5, 1), At(loss, 4, 1), At(loss, 5, 2), At(99, 1, 1)}));
  tensorboard_->Flush();
  EXPECT_EQ(tensorboard_->counters().written, 2u);
  EXPECT_EQ(tensorboard_->counters().dropped, 2u);
  ExpectIdentity();
}

TEST_F(TensorBoardTest, MoreFoldersThanFilesMayBeOpen) {
  Open();
  constexpr size_t kRuns = TensorBoard::kFilesOpenMax + 20;
  for (int round = 0; round < 2; ++round) {
    for (uint32_t rank = 0; rank < kRuns; ++rank) {
      const RunKey run{"run-1", 0, rank};
      tensorboard_->Offer(BatchOf({At(Intern(Key("loss", "", "", run)), uint64_t(round), 1)}, 0, Producer(1, run)));
    }
  }
  tensorboard_->Flush();
  EXPECT_EQ(tensorboard_->counters().written, 2 * kRuns);
  size_t open_files = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code code;
    const auto target = std::filesystem::read_symlink(entry.path(), code);
    if (target.string().find("tfevents") != std::string::npos) ++open_files;
  }
  EXPECT_LE(open_files, TensorBoard::kFilesOpenMax);
  size_t files = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(options_.logdir)) {
    if (entry.path().string().find("tfevents") != std::string::npos) ++files;
  }
  EXPECT_EQ(files, kRuns);
  ExpectIdentity();
}

TEST_F(TensorBoardTest, WithoutAnyoneAskingSamplesReachTheFile) {
  Open();
  tensorboard_->Offer(BatchOf({At(Intern(Key("loss", "", "")), 1, 1)}));
  EXPECT_TRUE(Eventually([&] { return tensorboard_->counters().written == 1; }));
}

TEST_F(TensorBoardTest, AfterCloseOffersCountAsDropped) {
  Open();
  const uint64_t loss = Intern(Key("loss", "", ""));
  tensorboard_->Offer(BatchOf({At(loss, 1, 1)}));
  tensorboard_->Close();
  tensorboard_->Offer(BatchOf({At(loss, 2, 1)}));
  tensorboard_->Flush();
  EXPECT_EQ(tensorboard_->counters().written, 1u);
  EXPECT_EQ(tensorboard_->counters().dropped, 1u);
}

TEST_F(TensorBoardTest, AFolderThatCannotBeMadeIsNamed) {
  std::ofstream(dir_.path() + "/file") << "text";
  options_.logdir = dir_.path() + "/file/tb";
  auto tensorboard = TensorBoard::Open(options_, catalogue_);
  ASSERT_FALSE(tensorboard.ok());
  EXPECT_THAT(tensorboard.error().text, HasSubstr(options_.logdir));
  EXPECT_THAT(tensorboard.error().text, HasSubstr("pass --tensorboard-dir"));
}

TEST_F(TensorBoardTest, AFullDiskCostsSamplesAndNoRecordIsTorn) {
  SKIP_WITHOUT_PYTHON();
  const std::string mount_point = dir_.path() + "/tb";
  std::filesystem::create_directories(mount_point);
  if (mount("tmpfs", mount_point.c_str(), "tmpfs", 0, "size=256k") != 0) {
    GTEST_SKIP() << "SKIP: no right to mount a small file system here";
  }
  Open();
  const uint64_t loss = Intern(Key("loss", "", ""));
  uint64_t step = 0;
  for (int round = 0; round < 40; ++round) {
    std::vector<Sample> samples;
    for (int i = 0; i < 1'000; ++i) samples.push_back(At(loss, step++, 1));
    tensorboard_->Offer(BatchOf(samples));
    tensorboard_->Flush();
  }
  const SinkCounters counters = tensorboard_->counters();
  EXPECT_GT(counters.dropped, 0u);
  EXPECT_GT(counters.written, 0u);
  ExpectIdentity();
  auto read = ReadBack(options_.logdir);
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ((*read)["fashion/0/default"]["scalars"]["loss"].size(), counters.written);
  tensorboard_.reset();
  umount2(mount_point.c_str(), MNT_DETACH);
}

}  // namespace
}  // namespace ikkuna::sinks
