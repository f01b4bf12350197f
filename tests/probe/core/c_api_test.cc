// The C interface against a daemon's side held by hand: what is asked arrives, what is not asked costs no record.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "probe/ikkuna/probe.h"
#include "shared/ctl.h"
#include "shared/handshake.h"
#include "shared/pub.h"
#include "shared/stats/derive.h"

namespace ikkuna {
namespace {

using namespace std::chrono_literals;

// Accepts one producer, gives it a demand, and reads what it publishes.
class DaemonByHand {
 public:
  DaemonByHand() {
    char path[] = "/tmp/ikkuna-c-api-XXXXXX";
    directory_ = ::mkdtemp(path);
    EXPECT_TRUE(shm::PrepareDirectory(directory_, false).ok());
    auto listener = shm::ListenForProducers(directory_, false);
    EXPECT_TRUE(listener.ok());
    listener_ = std::move(listener).value();
  }
  ~DaemonByHand() { std::filesystem::remove_all(directory_); }
  const std::string& directory() const { return directory_; }

  void Accept(const std::vector<shm::DemandItem>& demand, uint32_t budget_ppm = 0) {
    for (int i = 0; i < 5000 && !socket_; ++i) {
      socket_ = UniqueFd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (!socket_) std::this_thread::sleep_for(1ms);
    }
    ASSERT_TRUE(socket_.valid());
    for (int i = 0; i < 5000 && !view_; ++i) {
      auto hello = shm::ReceiveHello(socket_.get());
      if (!hello) {
        ASSERT_EQ(hello.error().code, ErrorCode::kUnavailable) << hello.error().text;
        std::this_thread::sleep_for(1ms);
        continue;
      }
      hello_ = hello->hello;
      auto view = shm::PubView::Open(std::move(hello->pub_fd));
      ASSERT_TRUE(view.ok()) << view.error().text;
      view_ = std::move(view).value();
    }
    ASSERT_TRUE(view_);
    ASSERT_TRUE(view_->StartAt(hello_.heads).ok());
    auto ctl = shm::CtlWriter::Create(7, hello_.heads, budget_ppm);
    ASSERT_TRUE(ctl.ok());
    ctl_ = std::move(ctl).value();
    ReadRegistry();
    ASSERT_TRUE(ctl_->SetDemand(demand, 1u << 20).ok());
    ASSERT_TRUE(
        shm::SendWelcome(socket_.get(), {.session_id = 7, .feature_bits = 0, .daemon_version = "test"}, ctl_->fd())
            .ok());
  }
  void ReadRegistry() {
    auto entries = view_->ReadRegistry();
    ASSERT_TRUE(entries.ok()) << entries.error().text;
    for (auto& entry : *entries) registry_.push_back(entry);
  }
  // Everything published, with host payloads copied out.
  struct Got {
    shm::Record record;
    std::vector<unsigned char> payload;
  };
  std::vector<Got> Drain() {
    std::vector<Got> all;
    for (;;) {
      auto next = view_->Next();
      EXPECT_TRUE(next.ok()) << (next.ok() ? "" : next.error().text);
      if (!next.ok() || !next->has_value()) break;
      const shm::Message& message = **next;
      Got got{message.record, {}};
      if (message.payload != nullptr) got.payload.assign(message.payload, message.payload + message.payload_bytes);
      all.push_back(std::move(got));
    }
    ctl_->SetHeads({view_->ring_position(), view_->arena_position()});
    ReadRegistry();
    return all;
  }
  void Demand(const std::vector<shm::DemandItem>& demand) { ASSERT_TRUE(ctl_->SetDemand(demand, 1u << 20).ok()); }
  void Hang() { socket_.reset(); }
  shm::CtlWriter& ctl() { return *ctl_; }
  shm::PubView& view() { return *view_; }
  const std::vector<shm::RegistryEntry>& registry() const { return registry_; }

 private:
  std::string directory_;
  UniqueFd listener_, socket_;
  shm::Hello hello_;
  std::unique_ptr<shm::PubView> view_;
  std::unique_ptr<shm::CtlWriter> ctl_;
  std::vector<shm::RegistryEntry> registry_;
};

shm::DemandItem Ask(uint64_t kinds, Level level) {
  shm::DemandItem item;
  item.kinds = kinds | KindBit(Kind::kBatchStarted) | KindBit(Kind::kBatchFinished);
  item.level = level;
  return item;
}

ikkuna_options OptionsFor(const DaemonByHand& daemon) {
  ikkuna_options options{};
  options.size = sizeof options;
  options.directory = daemon.directory().c_str();
  return options;
}

class CInterface : public ::testing::Test {
 protected:
  void SetUp() override {
    ::unsetenv("IKKUNA");
    ::setenv("IKKUNA_WAIT_MS", "10000", 1);
    ::setenv("IKKUNA_ARENA_MB", "4", 1);
  }
  void TearDown() override {
    ::unsetenv("IKKUNA_WAIT_MS");
    ::unsetenv("IKKUNA_ARENA_MB");
  }
};

TEST_F(CInterface, SummariesTensorsScalarsAndTexts) {
  DaemonByHand daemon;
  ikkuna_options options = OptionsFor(daemon);
  options.run = "by hand";
  ikkuna_session* session = ikkuna_open(&options);
  ASSERT_NE(session, nullptr);
  const uint16_t root = ikkuna_root(session, "net");
  const uint32_t fc = ikkuna_module(session, root, "fc", "Linear");
  const int64_t sizes[] = {2, 3};
  const uint32_t weight = ikkuna_param(session, root, fc, "weight", IKKUNA_F32, 2, sizes);
  ASSERT_TRUE(root != 0 && fc != 0 && weight != 0);
  daemon.Accept({Ask(KindBit(Kind::kWeights) | KindBit(Kind::kLoss) | KindBit(Kind::kScalar) | KindBit(Kind::kText),
                     Level::kSummary),
                 Ask(KindBit(Kind::kActivations), Level::kTensor)});
  const float values[] = {1, 2, 3, 4, 5, 9};
  ikkuna_begin(session, root, IKKUNA_TAG_DEFAULT, 0, 0);
  EXPECT_EQ(ikkuna_wanted(session, root, IKKUNA_WEIGHTS, fc), IKKUNA_SUMMARY);
  EXPECT_EQ(ikkuna_wanted(session, root, IKKUNA_ACTIVATIONS, fc), IKKUNA_TENSOR);
  EXPECT_EQ(ikkuna_wanted(session, root, IKKUNA_BIASES, fc), IKKUNA_NOTHING);
  ikkuna_tensor(session, root, IKKUNA_WEIGHTS, fc, weight, IKKUNA_F32, 2, sizes, values);
  ikkuna_tensor(session, root, IKKUNA_ACTIVATIONS, fc, 0, IKKUNA_F32, 2, sizes, values);
  ikkuna_tensor(session, root, IKKUNA_ACTIVATIONS, fc, 0, IKKUNA_F32, 2, sizes, values);
  ikkuna_tensor(session, root, IKKUNA_BIASES, fc, 0, IKKUNA_F32, 2, sizes, values);
  ikkuna_loss(session, root, 0.25);
  ikkuna_log(session, root, "temperature", 3.5);
  ikkuna_log_text(session, root, "phase", "warm-up");
  ikkuna_end(session, root);

  const auto got = daemon.Drain();
  ASSERT_EQ(got.size(), 8u);
  EXPECT_EQ(got[0].record.kind, static_cast<uint8_t>(Kind::kBatchStarted));
  EXPECT_EQ(got[1].record.type, static_cast<uint8_t>(RecordType::kSummary));
  EXPECT_EQ(got[1].record.param, weight);
  EXPECT_DOUBLE_EQ(stats::Mean(got[1].record.stats), 4.0);
  EXPECT_DOUBLE_EQ(stats::Norm2(got[1].record.stats), std::sqrt(136.0));
  for (uint16_t call = 0; call < 2; ++call) {
    const auto& tensor = got[2u + call];
    EXPECT_EQ(tensor.record.type, static_cast<uint8_t>(RecordType::kTensor));
    EXPECT_EQ(tensor.record.call, call);
    ASSERT_EQ(tensor.payload.size(), sizeof values);
    EXPECT_EQ(std::memcmp(tensor.payload.data(), values, sizeof values), 0);
  }
  EXPECT_DOUBLE_EQ(got[4].record.scalar, 0.25);
  EXPECT_DOUBLE_EQ(got[5].record.scalar, 3.5);
  EXPECT_EQ(std::string(got[6].record.text.bytes, got[6].record.text.length), "warm-up");
  EXPECT_EQ(got[7].record.kind, static_cast<uint8_t>(Kind::kBatchFinished));
  ikkuna_close(session);
  EXPECT_EQ(daemon.view().ReadStatus().status.state, static_cast<uint32_t>(shm::ProducerState::kFinished));
}

TEST_F(CInterface, AfterTheLastUnsubscribeNotOneRecord) {
  DaemonByHand daemon;
  ikkuna_options options = OptionsFor(daemon);
  ikkuna_session* session = ikkuna_open(&options);
  const uint16_t root = ikkuna_root(session, "net");
  daemon.Accept({Ask(KindBit(Kind::kLoss), Level::kSummary)});
  const auto step = [&](uint64_t number) {
    ikkuna_begin(session, root, IKKUNA_TAG_DEFAULT, number, 0);
    ikkuna_loss(session, root, 1);
    ikkuna_end(session, root);
  };
  step(0);
  EXPECT_EQ(daemon.Drain().size(), 3u);
  daemon.Demand({});
  const uint64_t before = daemon.view().ReadStatus().status.attempted;
  for (uint64_t i = 1; i < 50; ++i) step(i);
  EXPECT_EQ(daemon.Drain().size(), 0u);
  EXPECT_EQ(daemon.view().ReadStatus().status.attempted, before);
  EXPECT_EQ(daemon.view().ReadStatus().status.roots[root - 1].step, 50u) << "steps are counted all the same";
  ikkuna_close(session);
}

TEST_F(CInterface, ItsCostIsCountedAndKeptInTheBudget) {
  DaemonByHand daemon;
  ikkuna_options options = OptionsFor(daemon);
  options.budget = 0.01;
  options.quiet = 1;
  ikkuna_session* session = ikkuna_open(&options);
  const uint16_t root = ikkuna_root(session, "net");
  const uint32_t module = ikkuna_module(session, root, "fc", "Linear");
  daemon.Accept({Ask(KindBit(Kind::kWeights), Level::kSummary)}, 500'000);
  const std::vector<float> data(1 << 18, 1.f);
  const int64_t size = static_cast<int64_t>(data.size());
  // Steps that are little else than our own calls: far above the hundredth that is allowed.
  for (uint64_t step = 0; step < 20'000; ++step) {
    ikkuna_begin(session, root, IKKUNA_TAG_DEFAULT, step, 0);
    ikkuna_tensor(session, root, IKKUNA_WEIGHTS, module, 0, IKKUNA_F32, 1, &size, data.data());
    ikkuna_end(session, root);
    daemon.Drain();
    const shm::PubStatus status = daemon.view().ReadStatus().status;
    ASSERT_LE(status.probe_ns, status.step_ns);
    ASSERT_LE(status.fixed_ns, status.probe_ns);
    ASSERT_EQ(status.steps_timed, step + 1);
    if (status.shift_summary >= 4) break;
  }
  const shm::PubStatus status = daemon.view().ReadStatus().status;
  EXPECT_GE(status.shift_summary, 4u);
  EXPECT_EQ(status.budget_ppm, 10'000u) << "the lower of the trainer's and the daemon's";
  EXPECT_GT(status.roots[root - 1].last_step_ns, 0u);
  ikkuna_close(session);
  EXPECT_EQ(daemon.view().ReadStatus().status.roots[root - 1].phase, static_cast<uint32_t>(shm::Phase::kIdle));
}

TEST_F(CInterface, RootsThatTakeTurnsShareTheTimeThatPasses) {
  DaemonByHand daemon;
  ikkuna_options options = OptionsFor(daemon);
  ikkuna_session* session = ikkuna_open(&options);
  const uint16_t roots[] = {ikkuna_root(session, "generator"), ikkuna_root(session, "critic")};
  daemon.Accept({});
  const auto begin = std::chrono::steady_clock::now();
  for (uint64_t step = 0; step < 10; ++step) {
    for (const uint16_t root : roots) {
      ikkuna_begin(session, root, IKKUNA_TAG_DEFAULT, step, 0);
      std::this_thread::sleep_for(1ms);
      ikkuna_end(session, root);
    }
  }
  const std::chrono::nanoseconds passed = std::chrono::steady_clock::now() - begin;
  const shm::PubStatus status = daemon.view().ReadStatus().status;
  EXPECT_EQ(status.steps_timed, 20u);
  EXPECT_GT(status.step_ns, 0u);
  EXPECT_LE(status.step_ns, static_cast<uint64_t>(passed.count()));
  ikkuna_close(session);
}

TEST_F(CInterface, AnEvaluationIsOnTheAccountOfWhatWasAskedOfIt) {
  DaemonByHand daemon;
  ikkuna_options options = OptionsFor(daemon);
  ikkuna_session* session = ikkuna_open(&options);
  const uint16_t root = ikkuna_root(session, "net");
  const uint32_t module = ikkuna_module(session, root, "fc", "Linear");
  shm::DemandItem of_tests = Ask(KindBit(Kind::kActivations), Level::kSummary);
  of_tests.tag = kTagTest;
  daemon.Accept({of_tests});
  const float value = 1;
  ikkuna_begin(session, root, IKKUNA_TAG_TEST, 0, 0);
  ikkuna_tensor(session, root, IKKUNA_ACTIVATIONS, module, 0, IKKUNA_F32, 0, nullptr, &value);
  ikkuna_end(session, root);
  // Of the training step itself nothing is asked.
  ikkuna_begin(session, root, IKKUNA_TAG_DEFAULT, 0, 0);
  std::this_thread::sleep_for(1ms);
  ikkuna_end(session, root);
  EXPECT_EQ(daemon.Drain().size(), 3u);
  EXPECT_GT(daemon.view().ReadStatus().status.probe_ns, 0u);
  EXPECT_EQ(daemon.view().ReadStatus().status.fixed_ns, 0u);
  // Of one without an evaluation before it the cost is nobody's.
  ikkuna_begin(session, root, IKKUNA_TAG_DEFAULT, 1, 0);
  std::this_thread::sleep_for(1ms);
  ikkuna_end(session, root);
  EXPECT_GT(daemon.view().ReadStatus().status.fixed_ns, 0u);
  ikkuna_close(session);
}

TEST_F(CInterface, StopIsNotHeardWhereControlIsNotAllowed) {
  DaemonByHand daemon;
  ikkuna_options options = OptionsFor(daemon);
  ikkuna_session* session = ikkuna_open(&options);
  const uint16_t root = ikkuna_root(session, "net");
  daemon.Accept({});
  EXPECT_EQ(daemon.view().ReadStatus().status.control, static_cast<uint32_t>(shm::Control::kNone));
  shm::Command stop{};
  stop.type = static_cast<uint32_t>(shm::CommandType::kStop);
  ASSERT_TRUE(daemon.ctl().Push(stop, daemon.view().ReadStatus().status.command_done).ok());
  ikkuna_begin(session, root, IKKUNA_TAG_DEFAULT, 0, 0);
  EXPECT_EQ(daemon.view().ReadStatus().status.command_done, 1u);
  EXPECT_EQ(ikkuna_stop_requested(session), 0);
  ikkuna_close(session);
}

TEST_F(CInterface, StopArrivesAndTheEndOfTheDaemonEmptiesTheDemand) {
  DaemonByHand daemon;
  ikkuna_options options = OptionsFor(daemon);
  options.allow_control = 1;
  ikkuna_session* session = ikkuna_open(&options);
  const uint16_t root = ikkuna_root(session, "net");
  daemon.Accept({Ask(KindBit(Kind::kLoss), Level::kSummary)});
  ikkuna_begin(session, root, IKKUNA_TAG_DEFAULT, 0, 0);
  EXPECT_EQ(ikkuna_stop_requested(session), 0);
  EXPECT_EQ(daemon.view().ReadStatus().status.control, static_cast<uint32_t>(shm::Control::kStopOnly));
  shm::Command stop{};
  stop.type = static_cast<uint32_t>(shm::CommandType::kStop);
  ASSERT_TRUE(daemon.ctl().Push(stop, daemon.view().ReadStatus().status.command_done).ok());
  ikkuna_begin(session, root, IKKUNA_TAG_DEFAULT, 1, 0);
  EXPECT_EQ(ikkuna_stop_requested(session), 1);
  EXPECT_EQ(daemon.view().ReadStatus().status.command_done, 1u);
  daemon.Hang();
  bool empty = false;
  for (uint64_t i = 2; i < 5000 && !empty; ++i) {
    ikkuna_begin(session, root, IKKUNA_TAG_DEFAULT, i, 0);
    empty = ikkuna_wanted(session, root, IKKUNA_INPUT_DATA, 0) == IKKUNA_NOTHING &&
            ikkuna_wanted(session, root, 8 /* loss */, 0) == IKKUNA_NOTHING;
    std::this_thread::sleep_for(1ms);
  }
  EXPECT_TRUE(empty);
  ikkuna_close(session);
}

TEST_F(CInterface, WrongIdsPublishNothing) {
  DaemonByHand daemon;
  ikkuna_options options = OptionsFor(daemon);
  ikkuna_session* session = ikkuna_open(&options);
  const uint16_t root = ikkuna_root(session, "net");
  uint64_t all = 0;
  for (uint8_t kind = 1; kind < 64; ++kind) all |= IsKnownKind(kind) ? KindBit(static_cast<Kind>(kind)) : 0;
  daemon.Accept({Ask(all, Level::kSummary)});
  const float value = 1;
  const auto publish = [&](int kind, uint32_t module, uint32_t param) {
    ikkuna_tensor(session, root, kind, module, param, IKKUNA_F32, 0, nullptr, &value);
  };
  ikkuna_begin(session, root, UINT16_MAX, 0, 0);
  ikkuna_begin(session, root, IKKUNA_TAG_DEFAULT, 0, 0);
  publish(IKKUNA_WEIGHTS, 0, 0);
  publish(IKKUNA_WEIGHTS, UINT32_MAX, 0);
  publish(IKKUNA_WEIGHTS, 1, UINT32_MAX);
  publish(IKKUNA_NETWORK_OUTPUT, 1, 0);
  publish(8 /* loss */, 0, 0);
  publish(1 /* batch_started */, 0, 0);
  ikkuna_end(session, root);
  EXPECT_EQ(daemon.Drain().size(), 2u) << "the two markers";
  // A right one arrives.
  ikkuna_begin(session, root, IKKUNA_TAG_DEFAULT, 1, 0);
  publish(IKKUNA_WEIGHTS, 1, 1);
  publish(IKKUNA_NETWORK_OUTPUT, 0, 0);
  ikkuna_end(session, root);
  EXPECT_EQ(daemon.Drain().size(), 4u);
  ikkuna_close(session);
}

TEST_F(CInterface, OffSecondAndNullDoNothing) {
  ::setenv("IKKUNA_WAIT_MS", "0", 1);
  ::setenv("IKKUNA", "off", 1);
  ikkuna_session* off = ikkuna_open(nullptr);
  ASSERT_NE(off, nullptr);
  EXPECT_EQ(ikkuna_root(off, "net"), 0);
  ikkuna_begin(off, 1, 0, 0, 0);
  EXPECT_EQ(ikkuna_wanted(off, 1, IKKUNA_WEIGHTS, 0), IKKUNA_NOTHING);
  ikkuna_close(off);
  ::unsetenv("IKKUNA");
  ikkuna_session* first = ikkuna_open(nullptr);
  ikkuna_session* second = ikkuna_open(nullptr);
  EXPECT_NE(ikkuna_root(first, "net"), 0);
  EXPECT_EQ(ikkuna_root(second, "net"), 0);
  ikkuna_close(second);
  ikkuna_close(first);
  ikkuna_session* again = ikkuna_open(nullptr);
  EXPECT_NE(ikkuna_root(again, "net"), 0);
  // Nonsense costs nothing.
  const int64_t negative[] = {-1};
  EXPECT_EQ(ikkuna_param(again, 1, 1, "w", IKKUNA_F32, 1, negative), 0u);
  EXPECT_EQ(ikkuna_param(again, 1, 1, "w", 99, 0, nullptr), 0u);
  ikkuna_begin(again, 99, 0, 0, 0);
  ikkuna_tensor(again, 1, 250, 0, 0, IKKUNA_F32, 0, nullptr, nullptr);
  ikkuna_close(again);
  ikkuna_close(nullptr);
}

}  // namespace
}  // namespace ikkuna
