// What the tests of broken disks and files share: two runs at rest, one of which breaks; a look at all that is left.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sqlite3.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <mutex>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "tests/daemon/sinks/store_fixture.h"

namespace ikkuna::sinks {

namespace fs = std::filesystem;

inline double ValueOf(const std::string& series, uint64_t step) {
  return std::cos(double(std::hash<std::string>{}(series) % 1000 + step) * 12.9898) * 43758.5453;
}

inline std::string Slurp(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
inline void Spill(const std::string& path, const std::string& bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out << bytes;
}

// A file system of its own, small; where none can be mounted the test is skipped.
class SmallDisk {
 public:
  SmallDisk(std::string path, int megabytes) : path_(std::move(path)) {
    fs::create_directories(path_);
    mounted_ = ::mount("none", path_.c_str(), "tmpfs", 0, ("size=" + std::to_string(megabytes) + "m").c_str()) == 0;
  }
  ~SmallDisk() {
    if (mounted_) ::umount2(path_.c_str(), MNT_DETACH);
  }
  bool mounted() const { return mounted_; }
  bool Remount(bool read_only) {
    return ::mount("none", path_.c_str(), nullptr, MS_REMOUNT | (read_only ? MS_RDONLY : 0), nullptr) == 0;
  }

 private:
  std::string path_;
  bool mounted_ = false;
};

// Another program that has a database locked, for as long as this lives. It is no copy of this process, in which a thread
// of the store may hold a lock of SQLite's; it waits for who is reading the file just then; it ends with this process.
class Locker {
 public:
  explicit Locker(const std::string& path) {
    static const char* const kProgram = R"(
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
database.execute("BEGIN EXCLUSIVE")
print("y", end="", flush=True)
sys.stdin.read()
)";
    int ready[2], held[2];
    EXPECT_EQ(::pipe2(ready, O_CLOEXEC) | ::pipe2(held, O_CLOEXEC), 0);
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_adddup2(&actions, held[0], 0);
    ::posix_spawn_file_actions_adddup2(&actions, ready[1], 1);
    const char* const argv[] = {"python3", "-c", kProgram, path.c_str(), nullptr};
    EXPECT_EQ(::posix_spawnp(&child_, argv[0], &actions, nullptr, const_cast<char* const*>(argv), environ), 0);
    ::posix_spawn_file_actions_destroy(&actions);
    ::close(held[0]);
    ::close(ready[1]);
    char byte = 0;
    EXPECT_EQ(::read(ready[0], &byte, 1), 1) << "nobody could lock " << path;
    EXPECT_EQ(byte, 'y');
    ::close(ready[0]);
    release_ = held[1];
  }
  Locker(const Locker&) = delete;
  Locker& operator=(const Locker&) = delete;
  ~Locker() {
    ::close(release_);
    if (child_ > 0) ::waitpid(child_, nullptr, 0);
  }

 private:
  pid_t child_ = -1;
  int release_ = -1;
};

class StoreFaultsTest : public HeardStoreTest {
 protected:
  std::string folder() const { return dir_.path() + "/data/runs/here"; }

  // Numbers in several segments and in the tail, texts, an event.
  void Fill(const RunKey& key, unsigned char uuid, uint64_t steps) {
    Begin(key, uuid);
    std::vector<uint32_t> ids;
    for (int i = 0; i < 40; ++i) ids.push_back(Series("s" + std::to_string(i)));
    const uint32_t t = Series("t", ValueType::kText);
    for (uint64_t step = 0; step < steps; ++step) {
      std::vector<Sample> samples;
      for (size_t i = 0; i < ids.size(); ++i) samples.push_back({ids[i], 0, ValueOf("s" + std::to_string(i), step)});
      std::vector<OtherValue> others;
      if (step % 10 == 0) others.push_back({t, 0, Text{"text of step " + std::to_string(step)}});
      auto batch = BatchOf(run_, step, std::move(samples), std::move(others));
      if (step % 100 == 0) batch->events.push_back(EventOf("e" + std::to_string(step), key));
      store_->Offer(batch);
    }
    Flush();
  }
  // What can be read is what was written, under its name; how much that was.
  uint64_t ReadIsRight(Recorded& recorded, const std::string& run, bool* failed) {
    ReadQuery query;
    query.filter.run = run;
    uint64_t read = 0;
    auto reader = recorded.Read(query);
    if (!reader.ok()) {
      *failed = true;
      return 0;
    }
    for (;;) {
      auto part = (*reader)->Next();
      if (!part.ok()) {
        *failed = true;
        return read;
      }
      if (!*part) return read;
      const SeriesColumns& columns = **part;
      const std::string& topic = columns.series->name.topic;
      EXPECT_EQ(columns.run->run_key.run_id, run);
      for (size_t i = 0; i < columns.steps.size(); ++i) {
        ++read;
        if (topic == "t") {
          EXPECT_EQ(std::get<Text>(columns.others[i]).text, "text of step " + std::to_string(columns.steps[i]));
        } else {
          EXPECT_EQ(columns.numbers[i], ValueOf(topic, columns.steps[i])) << topic << " " << columns.steps[i];
        }
        EXPECT_EQ(columns.epochs[i], columns.steps[i] / 100);
        EXPECT_EQ(columns.unix_ns[i], kStartNs + static_cast<int64_t>(columns.steps[i]) * 1'000'000);
      }
    }
  }
  static constexpr uint64_t kSteps = 700;
  static constexpr uint64_t kValues = kSteps * 40 + kSteps / 10;

  // Two runs at rest; gives the bytes of the first's file, and closes the store.
  std::string TwoRuns() {
    OpenStore();
    Fill({"bad", 0, 0}, 7, kSteps);
    EndRun(RunState::kFinished, {"bad", 0, 0});
    Fill({"good", 0, 0}, 7, kSteps);
    EndRun(RunState::kFinished, {"good", 0, 0});
    run_.reset();
    store_.reset();
    return Slurp(file({"bad", 0, 0}));
  }
  // The store over the broken file: everything is asked, the good run is whole, nothing is wrong. How much of the bad one
  // is there.
  uint64_t LookAtAll(bool* said) {
    {
      std::lock_guard lock(said_mutex_);
      said_.clear();
    }
    OpenStore();
    bool good_failed = false, bad_failed = false;
    EXPECT_EQ(ReadIsRight(*store_, "good", &good_failed), kValues);
    EXPECT_FALSE(good_failed);
    const uint64_t read = ReadIsRight(*store_, "bad", &bad_failed);
    // Asked for together, the good one is there as well.
    uint64_t together = 0;
    if (auto reader = store_->Read({}); reader.ok()) {
      for (;;) {
        auto part = (*reader)->Next();
        if (!part.ok() || !*part) break;
        if ((*part)->run->run_key.run_id == "good") together += (*part)->steps.size();
      }
    }
    EXPECT_EQ(together, kValues);
    EXPECT_TRUE(store_->ListRuns().ok());
    EXPECT_TRUE(store_->ListSeries({}).ok());
    EventQuery events;
    events.limit = 10'000;
    EXPECT_TRUE(store_->ListEvents(events).ok());
    (void)store_->ListModules({"bad", 0, 0});
    *said = Said("run_unreadable") + Said("run_file_broken") > 0;
    if (bad_failed) { EXPECT_TRUE(*said); }
    store_.reset();
    return read;
  }
};

}  // namespace ikkuna::sinks
