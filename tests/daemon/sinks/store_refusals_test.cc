// A file that cannot be written, moved or read at the moment is not given up, and it is said.
#include <fcntl.h>
#include <sqlite3.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <future>
#include <thread>

#include "tests/daemon/sinks/store_faults_fixture.h"

namespace ikkuna::sinks {
namespace {

class StoreRefusalsTest : public StoreFaultsTest {
 protected:
  static auto Shortly() { return std::chrono::steady_clock::now() + std::chrono::seconds(5); }

  // Ends the process where it hangs: nothing else ends the store's thread.
  void CloseWatched() {
    std::promise<void> closed;
    std::thread watch([done = closed.get_future()] {
      if (done.wait_for(std::chrono::seconds(60)) == std::future_status::ready) return;
      std::fputs("Close hangs\n", stderr);
      std::_Exit(1);
    });
    store_->Close();
    closed.set_value();
    watch.join();
  }
};

TEST_F(StoreRefusalsTest, ARunThatGoesOnWhileTheDiskIsFullKeepsItsSeriesAndItsFile) {
  SmallDisk disk(dir_.path() + "/data", 6);
  if (!disk.mounted()) GTEST_SKIP() << "NOT TESTED: no file system can be mounted here";
  OpenStore();
  Begin({"live", 0, 0});
  const uint32_t a = Series("a"), b = Series("b");
  for (uint64_t step = 0; step < 100; ++step) {
    Put(a, step, ValueOf("a", step));
    Put(b, step, ValueOf("b", step));
  }
  Flush();
  Reopen();
  const std::string ballast = dir_.path() + "/data/ballast";
  Spill(ballast, std::string(8 << 20, 'b'));
  Begin({"live", 0, 0});
  ASSERT_GE(Said("store_failing"), 1u);
  // In another order, and not all of them.
  const uint32_t c = Series("c");
  EXPECT_EQ(Series("b"), b);
  Put(c, 7, 1);
  Put(b, 100, ValueOf("b", 100));
  EXPECT_EQ(ReadOne("a").steps.size(), 100u);
  EXPECT_EQ(ReadOne("b").steps.size(), 101u);
  fs::remove(ballast);
  ASSERT_TRUE(Eventually([&] { return store_->CountersOf({"live", 0, 0})->written == 2; }));
  EXPECT_EQ(Said("run_file_broken"), 0u) << TextOf("run_file_broken");
  EXPECT_FALSE(fs::exists(file({"live", 0, 0}) + ".broken-1"));
  Reopen();
  EXPECT_EQ(ReadOne("c").numbers, std::vector<double>{1});
  const SeriesColumns read = ReadOne("b");
  ASSERT_EQ(read.steps.size(), 101u);
  for (uint64_t step = 0; step <= 100; ++step) EXPECT_EQ(read.numbers[step], ValueOf("b", step));
  EXPECT_EQ(ReadOne("a").steps.size(), 100u);
  store_.reset();
}

}  // namespace
}  // namespace ikkuna::sinks
