// Recorded runs read without a daemon: a data directory, a file that was copied away, files that a daemon has open or
// left when it died.
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "daemon/sinks/store.h"
#include "tests/daemon/cli/cli_fixture.h"
#include "tests/daemon/sinks/sinks_fixture.h"

namespace ikkuna::test {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;
namespace fs = std::filesystem;

class OfflineTest : public CliTest {
 protected:
  void SetUp() override {
    data_ = dir_.path() + "/data";
    Record();
  }

  void Open() {
    sinks::StoreOptions options;
    options.data_dir = data_;
    options.host = "here";
    options.free_bytes_min = 0;
    auto store = sinks::Store::Open(options);
    ASSERT_TRUE(store.ok()) << store.error().text;
    store_ = *std::move(store);
  }
  std::shared_ptr<ikkuna::Run> Begin(const RunKey& key, const std::string& name, unsigned char uuid) {
    ProducerInfo producer = sinks::Producer(key, uuid);
    producer.run = name;
    producer.start_unix_ns += uuid * 1'000'000'000ll;
    auto run = store_->Begin(producer);
    EXPECT_TRUE(run.ok()) << run.error().text;
    return *run;
  }
  void End(const std::shared_ptr<ikkuna::Run>& run) {
    ProducerStatus status;
    status.info = *run->info();
    status.state = RunState::kFinished;
    status.attempted = 110;
    status.handled = 100;
    status.dropped_total = 10;
    status.drops = {{"arena_full", 10}};
    store_->SaveProducer(status);
  }
  void Flush() { ASSERT_TRUE(store_->Flush(std::chrono::steady_clock::now() + std::chrono::seconds(60)).ok()); }
  // Two runs that have ended.
  void Record() {
    Open();
    auto older = Begin({"id-0", 0, 0}, "older", 1);
    for (uint64_t step = 0; step < 3; ++step) {
      store_->Offer(sinks::BatchOf(older, step, {{sinks::Intern(*older, sinks::Name("loss")), 0, 9.0}}));
    }
    End(older);
    auto run = Begin({"id-1", 0, 0}, "fashion", 2);
    const uint32_t loss = sinks::Intern(*run, sinks::Name("loss"));
    const uint32_t mean = sinks::Intern(*run, sinks::Name("weights_mean", "fc1", "weight"));
    const uint32_t text = sinks::Intern(*run, sinks::Name("note"), ValueType::kText);
    const uint32_t histogram =
        sinks::Intern(*run, sinks::Name("weights_histogram", "fc1", "weight"), ValueType::kHistogram);
    for (uint64_t step = 0; step < 500; ++step) {
      const double value = step == 100 ? std::numeric_limits<double>::quiet_NaN() : 0.5 + static_cast<double>(step);
      auto batch = std::make_shared<Batch>(*sinks::BatchOf(run, step, {{loss, 0, value}, {mean, 0, 0.25}}));
      if (step == 7) batch->others.push_back({text, 0, Text{"warmed up"}});
      if (step % 100 == 0) batch->others.push_back({histogram, 0, Histogram{-1, 1, 6, 0, 2, 0, 0, 0, {1, 2, 3}}});
      if (step == 9) batch->events.push_back(sinks::EventOf("non_finite", {"id-1", 0, 0}));
      store_->Offer(batch);
    }
    ModuleInfo module;
    module.root = "model";
    module.name = "fc1";
    module.type = "Linear";
    module.params.push_back({"weight", "f32", {10, 784}});
    store_->SaveModules({"id-1", 0, 0}, {module});
    End(run);
    Flush();
    store_.reset();
  }
  std::string file(const std::string& run_id) const { return data_ + "/runs/here/" + run_id + ".a0.r0.run"; }

  std::vector<std::string> In(const std::string& path, std::vector<std::string> words) const {
    words.insert(words.begin(), {"--data-dir", path});
    return words;
  }
  // Names, sizes, times and modes of all that is there.
  static std::map<std::string, std::string> Listing(const std::string& folder) {
    std::map<std::string, std::string> found;
    for (const auto& entry : fs::recursive_directory_iterator(folder)) {
      found[entry.path().string()] =
          entry.is_directory() ? "folder"
                               : std::to_string(entry.file_size()) + " " +
                                     std::to_string(fs::last_write_time(entry.path()).time_since_epoch().count()) +
                                     " " + std::to_string(static_cast<int>(entry.status().permissions()));
    }
    return found;
  }
  // `ikkuna` as a user who may write nothing there. Root may write anywhere, so it becomes nobody.
  Outcome RunWithoutRights(const std::string& path, const std::vector<std::string>& words) {
    std::string line = ::geteuid() == 0 ? "setpriv --reuid=65534 --regid=65534 --clear-groups " : "";
    line += IKKUNA_BIN_DIR "/ikkuna --data-dir '" + path + "'";
    for (const std::string& word : words) line += " '" + word + "'";
    return RunShell(line);
  }
  void Readable(const std::string& folder) {
    fs::permissions(dir_.path(), fs::perms(0755));
    for (const auto& entry : fs::recursive_directory_iterator(folder)) {
      fs::permissions(entry.path(), fs::perms(entry.is_directory() ? 0555 : 0444));
    }
    fs::permissions(folder, fs::perms(0555));
  }
  void TearDown() override {
    for (const auto& entry : fs::recursive_directory_iterator(dir_.path())) {
      if (entry.is_directory()) fs::permissions(entry.path(), fs::perms(0755));
    }
  }

  std::string data_;
  std::unique_ptr<sinks::Store> store_;
};

TEST_F(OfflineTest, EveryCommandThatLooksAtWhatIsRecordedAnswers) {
  const auto before = Listing(data_);
  EXPECT_THAT(Out(In(data_, {"runs"})), ::testing::AllOf(HasSubstr("fashion"), HasSubstr("older")));
  EXPECT_THAT(Out(In(data_, {"series"})), ::testing::AllOf(HasSubstr("loss"), HasSubstr("weights_mean")));
  EXPECT_THAT(Out(In(data_, {"modules"})), HasSubstr("fc1"));
  EXPECT_THAT(Out(In(data_, {"table"})), HasSubstr("fc1"));
  EXPECT_THAT(Out(In(data_, {"plot", "loss"})), HasSubstr("loss"));
  EXPECT_THAT(Out(In(data_, {"plot", "loss", "--run", "older", "--run", "fashion"})), HasSubstr("older"));
  EXPECT_THAT(Out(In(data_, {"texts"})), HasSubstr("warmed up"));
  EXPECT_THAT(Out(In(data_, {"histogram"})), HasSubstr("weights_histogram"));
  EXPECT_THAT(Out(In(data_, {"events"})), HasSubstr("text of non_finite"));
  EXPECT_THAT(Out(In(data_, {"export", "older"})), HasSubstr("loss"));
  EXPECT_EQ(Listing(data_), before);
}

TEST_F(OfflineTest, ValuesAreThoseThatWereRecorded) {
  const json read = json::parse(Out(In(data_, {"read", "loss", "--run", "fashion", "--json"})));
  ASSERT_EQ(read.size(), 1u) << read;
  const json& values = read[0]["samples"];
  ASSERT_EQ(values.size(), 500u);
  EXPECT_EQ(values[99]["value"], 99.5);
  EXPECT_EQ(values[100]["value"], "NaN");
  EXPECT_EQ(values[499]["value"], 499.5);
}

TEST_F(OfflineTest, WhyTellsWhatTheRunItselfSays) {
  Outcome outcome = Run(In(data_, {"why", "fashion"}));
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("10 messages were dropped (arena_full)"));
  EXPECT_THAT(outcome.out, Not(HasSubstr("no subscriber reads")));
  EXPECT_THAT(outcome.err, HasSubstr("which subscriber missed what is not part of a run"));
}

TEST_F(OfflineTest, ARunsFileAloneIsEnough) {
  const std::string copy = home() + "/copied.run";
  fs::create_directory(home());
  fs::copy_file(file("id-1"), copy);
  fs::remove_all(data_);
  EXPECT_THAT(Out(In(copy, {"runs"})), ::testing::AllOf(HasSubstr("fashion"), Not(HasSubstr("older"))));
  EXPECT_THAT(Out(In(copy, {"read", "loss", "--format", "csv"})), HasSubstr("499.5"));
  EXPECT_THAT(Out(In(home(), {"runs"})), HasSubstr("fashion"));
  EXPECT_EQ(Listing(home()).size(), 1u);
}

TEST_F(OfflineTest, AFolderThatNobodyMayWriteIsRead) {
  Readable(data_);
  Outcome outcome = RunWithoutRights(data_, {"read", "loss", "--run", "fashion", "--format", "csv"});
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.err, "");
  EXPECT_THAT(outcome.out, HasSubstr("499.5"));
}

// It holds the file for itself: the others are read, and this one is read through it.
TEST_F(OfflineTest, ARunThatADaemonWritesIsLeftToIt) {
  Open();
  auto live = Begin({"id-2", 0, 0}, "live", 3);
  store_->Offer(sinks::BatchOf(live, 1, {{sinks::Intern(*live, sinks::Name("loss")), 0, 1.0}}));
  Flush();
  Outcome outcome = Run(In(data_, {"runs"}));
  EXPECT_EQ(outcome.code, 0);
  EXPECT_THAT(outcome.out, ::testing::AllOf(HasSubstr("fashion"), HasSubstr("older"), Not(HasSubstr("live"))));
  EXPECT_THAT(outcome.err, HasSubstr("id-2.a0.r0.run' is not read: a daemon has it open, read it through that."));
  outcome = Run(In(file("id-2"), {"runs"}));
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("a daemon has it open"));
  // Nor was the daemon disturbed.
  store_->Offer(sinks::BatchOf(live, 2, {{sinks::Intern(*live, sinks::Name("loss")), 0, 2.0}}));
  Flush();
  EXPECT_EQ(store_->Counters().dropped, 0u);
  End(live);
  Flush();
  store_.reset();
  EXPECT_THAT(Out(In(data_, {"runs"})), HasSubstr("live"));
}

// What a daemon that was killed left: the file, and beside it the log with its last commits.
TEST_F(OfflineTest, WhatAKilledDaemonLeftIsReadWithItsLog) {
  Open();
  auto live = Begin({"id-2", 0, 0}, "live", 3);
  const uint32_t loss = sinks::Intern(*live, sinks::Name("loss"));
  for (uint64_t step = 0; step < 40; ++step)
    store_->Offer(sinks::BatchOf(live, step, {{loss, 0, 100.0 + static_cast<double>(step)}}));
  Flush();
  const std::string left = dir_.path() + "/left";
  fs::create_directory(left);
  for (const char* suffix : {"", "-wal"}) {
    ASSERT_TRUE(fs::exists(file("id-2") + suffix));
    fs::copy_file(file("id-2") + suffix, left + "/live.run" + suffix);
  }
  store_.reset();
  const auto before = Listing(left);
  EXPECT_THAT(Out(In(left, {"runs"})), HasSubstr("live"));
  EXPECT_THAT(Out(In(left, {"read", "loss", "--format", "csv"})), HasSubstr("139"));
  EXPECT_EQ(Listing(left), before);
  // Where nothing may be written it is no different.
  Readable(left);
  Outcome outcome = RunWithoutRights(left, {"read", "loss", "--format", "csv"});
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.err, "");
  EXPECT_THAT(outcome.out, HasSubstr("139"));
}

TEST_F(OfflineTest, AFileThatIsNoneCostsItselfAlone) {
  std::ofstream(file("broken")) << std::string(100'000, 'x');
  std::ofstream(file("empty"));
  fs::resize_file(file("id-0"), 5000);
  Outcome outcome = Run(In(data_, {"runs"}));
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("fashion"));
  for (const char* name : {"broken", "id-0"}) {
    EXPECT_THAT(outcome.err, HasSubstr(std::string(name) + ".a0.r0.run' is not read: "));
  }
  EXPECT_EQ(Run(In(file("broken"), {"runs"})).code, 1);
  // Nothing was ever written into it: a daemon was killed just then.
  EXPECT_THAT(outcome.err, Not(HasSubstr("empty.a0.r0.run")));
}

TEST_F(OfflineTest, WhereNothingIsRecordedItIsSaid) {
  fs::create_directory(home());
  EXPECT_THAT(Out(In(home(), {"runs"})), HasSubstr("No run has been recorded yet."));
  Outcome outcome = Run(In(home(), {"read", "loss"}));
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("no run has been recorded yet"));
  outcome = Run(In(home() + "/none", {"runs"}));
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("there is no '" + home() + "/none'"));
}

}  // namespace
}  // namespace ikkuna::test
