#include "daemon/service/worker_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>

namespace ikkuna::service {
namespace {

TEST(WorkerPoolTest, RunsEverythingThatWasPostedBeforeStop) {
  std::atomic<int> done{0};
  WorkerPool pool(3);
  for (int i = 0; i < 500; ++i) ASSERT_TRUE(pool.Post([&] { ++done; }));
  pool.Stop();
  EXPECT_EQ(done, 500);
  EXPECT_FALSE(pool.Post([&] { ++done; }));
  pool.Stop();
  EXPECT_EQ(done, 500);
}

TEST(WorkerPoolTest, RefusesWhatItCannotKeep) {
  std::promise<void> started, let_go;
  std::future<void> gate = let_go.get_future();
  std::atomic<size_t> done{0};
  WorkerPool pool(1);
  ASSERT_TRUE(pool.Post([&] {
    started.set_value();
    gate.wait();
  }));
  started.get_future().wait();
  for (size_t i = 0; i < WorkerPool::kMaxWaiting; ++i) ASSERT_TRUE(pool.Post([&] { ++done; }));
  EXPECT_FALSE(pool.Post([&] { ++done; }));
  let_go.set_value();
  pool.Stop();
  EXPECT_EQ(done, WorkerPool::kMaxWaiting);
}

}  // namespace
}  // namespace ikkuna::service
