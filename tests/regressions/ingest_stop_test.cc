// A trainer that ended while its session was at work and just before the daemon stopped was left as "disconnected": no
// `run_ended`, what lay behind a hole of a killed one was thrown away, and the next daemon noted every one as died.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "daemon/ingest/producer_session.h"
#include "tests/daemon/ingest/test_core.h"
#include "tests/daemon/ingest/test_producer.h"

namespace ikkuna::ingest {
namespace {

// What happens on the ingest thread in the middle of a turn, between its look at the peer and its end. The functions
// run one a look at the ring, in order; nullptr: nothing (more).
using Moments = std::vector<std::function<void()>>;

class MomentSource final : public PayloadSource {
 public:
  explicit MomentSource(std::atomic<Moments*>& plot) : plot_(plot) {}
  Space space() const override { return Space::kHostArena; }
  Status AddEntry(const shm::RegistryEntry&) override { return {}; }
  bool Ready(const shm::Message&) override { return true; }
  Result<PayloadView> Resolve(const shm::Message& message) override {
    return PayloadView{message.payload, message.payload_bytes};
  }
  void Release(const shm::Message&) override {}
  void PublishHeads(shm::CtlWriter&) override {
    Moments* plot = plot_.load();
    if (plot != nullptr && next_ < plot->size()) (*plot)[next_++]();
  }

 private:
  std::atomic<Moments*>& plot_;
  size_t next_ = 0;
};

class StopTest : public testing::Test {
 protected:
  std::unique_ptr<TestCore> MakeCore() {
    return std::make_unique<TestCore>(temp_.sub("dir"), store_, AcceptorOptions{}, [this] {
      std::vector<std::unique_ptr<PayloadSource>> sources;
      sources.push_back(std::make_unique<MomentSource>(plot_));
      return sources;
    });
  }
  static std::shared_ptr<ProducerSession> TheLive(TestCore& core, const std::string& run_id) {
    const auto sessions = core.ingest().FindLive(run_id, 0);
    EXPECT_EQ(sessions.size(), 1u);
    return sessions.empty() ? nullptr : sessions[0];
  }
  // Lets the plot happen; returns when the session is over.
  void Play(Moments plot, ProducerSession& session) {
    plot_.store(&plot);
    session.Join();
    plot_.store(nullptr);
  }
  static void ExpectFinished(TestCore& core, const Uuid& uuid, uint64_t steps) {
    const auto status = core.StatusOf(uuid);
    EXPECT_EQ(status.state, RunState::kFinished);
    EXPECT_EQ(status.handled, steps * TestProducer::kRecordsPerStep);
    ExpectBalanced(status);
    EXPECT_EQ(core.Events("run_ended").size(), 1u);
  }

  TempDirectory temp_;
  std::shared_ptr<MemoryStore> store_ = std::make_shared<MemoryStore>();
  std::atomic<Moments*> plot_{nullptr};
};

TEST_F(StopTest, ATrainerThatFinishedBeforeTheDaemonStoppedHasFinished) {
  auto core = MakeCore();
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  const Uuid uuid = producer.hello().uuid;
  auto session = TheLive(*core, producer.hello().run_id);
  ASSERT_TRUE(session);
  Play({[&] {
         producer.Step(0, 1);
         producer.Finish();
         session->RequestEnd(false);
       }},
       *session);
  ExpectFinished(*core, uuid, 1);
  session.reset();
  core->Stop();
  core = MakeCore();
  EXPECT_EQ(core->StatusOf(uuid).state, RunState::kFinished);
}

TEST_F(StopTest, ATrainerThatFinishesDuringTheLastDrainHasFinished) {
  auto core = MakeCore();
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  auto session = TheLive(*core, producer.hello().run_id);
  ASSERT_TRUE(session);
  Play({[&] { session->RequestEnd(false); },
        [&] {
          producer.Step(0, 1);
          producer.Finish();
        }},
       *session);
  ExpectFinished(*core, producer.hello().uuid, 1);
}

// It comes back on another socket, and there it cannot be served: then nobody is connected.
TEST_F(StopTest, ATrainerWhoseReturnFailsIsDisconnected) {
  auto core = MakeCore();
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  auto session = TheLive(*core, producer.hello().run_id);
  ASSERT_TRUE(session);
  Play({[&] {
         producer.Disconnect();
         session->RequestEnd(true);
       }},
       *session);
  EXPECT_EQ(core->StatusOf(producer.hello().uuid).state, RunState::kDisconnected);
  auto socket = shm::ConnectToDaemon(temp_.sub("dir"));
  ASSERT_TRUE(socket.ok());
  producer.hello().heads = {1000, 0};  // beyond what it has published
  ASSERT_TRUE(shm::SendHello(socket->get(), producer.hello(), producer.pub().fd()).ok());
  pollfd fd{socket->get(), POLLIN, 0};
  ASSERT_EQ(::poll(&fd, 1, 30'000), 1);
  auto answer = shm::ReceiveAnswer(socket->get());
  ASSERT_TRUE(answer.ok());
  ASSERT_TRUE(std::holds_alternative<shm::Reject>(*answer));
  EXPECT_EQ(core->StatusOf(producer.hello().uuid).state, RunState::kDisconnected);
}

TEST_F(StopTest, OfATrainerKilledBeforeTheDaemonStoppedTheHolesArePassedOver) {
  HangingTrainer child(temp_.sub("dir"), 1);
  auto core = MakeCore();
  const Uuid uuid = child.Publish();
  auto session = TheLive(*core, core->StatusOf(uuid).info.run_key.run_id);
  ASSERT_TRUE(session);
  Play({[&] {
         siginfo_t info{};
         EXPECT_EQ(::kill(child.pid(), SIGKILL), 0);
         EXPECT_EQ(::waitid(P_PID, static_cast<id_t>(child.pid()), &info, WEXITED | WNOWAIT), 0);
         session->RequestEnd(false);
       }},
       *session);
  child.Wait();
  const auto status = core->StatusOf(uuid);
  EXPECT_EQ(status.state, RunState::kDied);
  EXPECT_EQ(status.killed, 1u);
  EXPECT_EQ(status.lost_in_daemon, 0u);
  EXPECT_EQ(status.handled, 2 * TestProducer::kRecordsPerStep);
  ExpectBalanced(status);
  EXPECT_EQ(core->Events("run_ended").size(), 1u);
}

// Whoever saw the state of an ended run asked for its event, and it was not there yet.
class EndWitness final : public MemoryStore {
 public:
  void Offer(std::shared_ptr<const Batch> batch) override {
    for (const Event& event : batch->events) {
      if (event.kind == "run_ended") state_then = session.load()->status().state;
    }
    MemoryStore::Offer(std::move(batch));
  }
  std::atomic<ProducerSession*> session{nullptr};
  RunState state_then = RunState::kFinished;
};

TEST_F(StopTest, TheEventOfAnEndComesBeforeItsState) {
  const auto store = std::make_shared<EndWitness>();
  EndWitness& witness = *store;
  TestCore core(temp_.sub("dir"), store);
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  auto session = TheLive(core, producer.hello().run_id);
  ASSERT_TRUE(session);
  witness.session.store(session.get());
  producer.Finish();
  ASSERT_TRUE(Eventually([&] { return session->ended(); }));
  EXPECT_EQ(session->status().state, RunState::kFinished);
  EXPECT_TRUE(witness.state_then == RunState::kRunning || witness.state_then == RunState::kDisconnected);
}

}  // namespace
}  // namespace ikkuna::ingest
