// A daemon at a limit of its own: who cannot be served is told which, and is served when there is room again.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <string>

#include "tests/daemon/ingest/ingest_fixture.h"
#include "tests/probe/core/child.h"

namespace ikkuna::ingest {
namespace {

TEST_F(IngestTest, ADaemonWithoutDescriptorsSaysSoToTheTrainer) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "the sanitizer of undefined behaviour needs descriptors of its own";
#endif
  const std::string directory = temp_.sub("dir");
  Child trainer([&] {  // before there are threads
    Child::WaitForByte();
    TestProducer producer(directory);
    producer.Register();
    while (!producer.Connect() && producer.reject().find("descriptor") == std::string::npos) ::usleep(10'000);
    const std::string said = producer.reject() + "\n";
    static_cast<void>(!::write(2, said.data(), said.size()));
    Child::WaitForLetGo();
    return producer.Connect() ? 0 : 1;
  });
  auto core = MakeCore();
  const int next = ::dup(0);  // the least that is free: it is for the connection, and there is none for the segment
  ASSERT_GE(next, 0);
  ::close(next);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit few{static_cast<rlim_t>(next) + 1, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
  trainer.SendByte();
  const bool said = trainer.Says("(ulimit -n)\n");
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_TRUE(said) << trainer.said();
  EXPECT_EQ(trainer.End(), 0) << "with room it is served";
  EXPECT_TRUE(Eventually([&] { return !core->Events("connection_refused").empty(); }));
}

// For want of memory a look at what has ended may fail; the door stays open.
TEST_F(IngestTest, ALookThatFailsClosesNoDoor) {
  store_->FailToLook(2);
  auto core = MakeCore();
  ASSERT_TRUE(Eventually([&] { return !store_->fails_to_look(); }));
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  EXPECT_TRUE(producer.Connect()) << producer.reject();
  ASSERT_TRUE(Eventually([&] { return !core->Events("door_failed").empty(); }));
  EXPECT_NE(core->Events("door_failed")[0].text.find("bad_alloc"), std::string::npos);
}

}  // namespace
}  // namespace ikkuna::ingest
