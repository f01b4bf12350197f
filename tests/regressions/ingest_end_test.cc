// A producer that showed a ring tail far ahead at the moment its session ended, and went on publishing, was drained for
// ever: the daemon could not stop, and a producer that came back held up everyone at the door.
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <utility>
#include <vector>

#include "daemon/ingest/producer_session.h"
#include "tests/daemon/ingest/test_core.h"
#include "tests/daemon/ingest/test_producer.h"

namespace ikkuna::ingest {
namespace {

struct Plot {
  TestProducer& liar;
  ProducerSession& session;
};

// Runs on the ingest thread at the moments that the lie needs; a real liar needs luck and many tries.
class Accomplice final : public PayloadSource {
 public:
  static constexpr uint64_t kRecordsMax = 100'000;  // then it gives up, so that the test ends either way

  explicit Accomplice(std::atomic<Plot*>& plot) : plot_(plot) {}
  Space space() const override { return Space::kHostArena; }
  bool Ready(const shm::Message&) override { return true; }
  Result<PayloadView> Resolve(const shm::Message& message) override {
    return PayloadView{message.payload, message.payload_bytes};
  }
  void Release(const shm::Message&) override {}
  // After each look at the ring one record more; at the first the end is asked for, and the tail is a lie.
  void PublishHeads(shm::CtlWriter&) override {
    Plot* plot = plot_.load();
    if (plot == nullptr || published_ >= kRecordsMax) return;
    plot->liar.Scalar(Kind::kLoss, 0, 1);
    if (published_++ != 0) return;
    plot->liar.AddFact("lie", "yes");
    shm::PubStatus& status = plot->liar.pub().status();
    truth_ = shm::LoadAcquire(status.reserved);
    shm::StoreRelease(status.reserved, truth_ + 1'000'000'000);
    plot->session.RequestEnd(false);
  }
  // The tail was believed, and before it is looked at again it is true.
  Status AddEntry(const shm::RegistryEntry&) override {
    if (truth_ != 0) shm::StoreRelease(plot_.load()->liar.pub().status().reserved, std::exchange(truth_, 0));
    return {};
  }

 private:
  std::atomic<Plot*>& plot_;
  uint64_t published_ = 0;
  uint64_t truth_ = 0;
};

TEST(Malicious_End, ATailThatIsShownForAMomentHoldsNobody) {
  TempDirectory temp;
  std::atomic<Plot*> plot{nullptr};
  TestCore core(temp.sub("dir"), std::make_shared<MemoryStore>(), {}, [&] {
    std::vector<std::unique_ptr<PayloadSource>> sources;
    sources.push_back(std::make_unique<Accomplice>(plot));
    return sources;
  });
  TestProducer producer(temp.sub("dir"));
  producer.Register();
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  producer.Step(0, 1);
  const auto sessions = core.ingest().FindLive(producer.hello().run_id, 0);
  ASSERT_EQ(sessions.size(), 1u);
  const auto& session = sessions[0];
  ASSERT_TRUE(Eventually([&] { return session->status().handled == TestProducer::kRecordsPerStep; }));
  Plot lie{producer, *session};
  plot.store(&lie);
  session->Join();
  plot.store(nullptr);
  EXPECT_LE(session->status().handled, TestProducer::kRecordsPerStep + TestProducer::SmallSizes().ring_slots);
}

}  // namespace
}  // namespace ikkuna::ingest
