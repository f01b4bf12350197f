// Messages that the C interface announces before their bytes are there.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <thread>

#include "probe/core/c_handle.h"
#include "probe/core/session.h"
#include "shared/stats/derive.h"
#include "shared/stats/stats_pass.h"
#include "tests/probe/core/c_fixture.h"

namespace ikkuna {
namespace {

constexpr uint64_t kFeatures = shm::kFeatureArena | shm::kFeatureCommands | shm::kFeatureLateBytes;

class LateBytes : public CInterface {
 protected:
  void Start(Level level, uint64_t features = kFeatures, uint64_t late_kb = 4) {
    ikkuna_options options = OptionsFor(daemon_);
    options.quiet = 1;
    options.budget = -1;
    options.late_kb = late_kb;
    session_ = ikkuna_open(&options);
    root_ = ikkuna_root(session_, "net");
    fc_ = ikkuna_module(session_, root_, "fc", "Linear", 0);
    weight_ = ikkuna_param(session_, root_, fc_, "weight", IKKUNA_F32, 1, sizes_.data(), IKKUNA_TRAINABLE);
    daemon_.Accept({Ask(KindBit(Kind::kWeights) | KindBit(Kind::kLoss), level)}, 0, features);
    step_.emplace(session_, root_, 0);
  }
  void TearDown() override {
    step_.reset();
    ikkuna_close(session_);
    CInterface::TearDown();
  }
  ikkuna_late* Announce() {
    const ikkuna_array form = CArray(nullptr, sizes_);
    return ikkuna_step_late(step_->step(), IKKUNA_WEIGHTS, fc_, weight_, 0, &form);
  }
  // What was published; what comes late is looked at with Ready().
  std::vector<shm::Message> Read() {
    std::vector<shm::Message> all;
    for (;;) {
      auto next = daemon_.view().Next();
      EXPECT_TRUE(next.ok()) << (next.ok() ? "" : next.error().text);
      if (!next.ok() || !next->has_value()) return all;
      all.push_back(**next);
    }
  }
  bool Ready(shm::Message& message) {
    auto ready = daemon_.view().ReadLate(message);
    EXPECT_TRUE(ready.ok()) << (ready.ok() ? "" : ready.error().text);
    return ready.ok() && *ready;
  }
  // The daemon is through with all it has read.
  void Release() {
    daemon_.ctl().SetHeads(
        {daemon_.view().ring_position(), daemon_.view().arena_position(), daemon_.view().late_position()});
  }
  std::string error() const { return ikkuna_error(session_); }

  const std::vector<int64_t> sizes_{4};
  const float values_[4] = {1, 2, 3, 6};
  DaemonByHand daemon_;
  ikkuna_session* session_ = nullptr;
  uint16_t root_ = 0;
  uint32_t fc_ = 0, weight_ = 0;
  std::optional<CStep> step_;
};

class LateLevels : public LateBytes, public ::testing::WithParamInterface<Level> {};
INSTANTIATE_TEST_SUITE_P(Levels, LateLevels, ::testing::Values(Level::kSummary, Level::kTensor));

TEST_P(LateLevels, AreWhatIsWantedFilledLaterByAnyThread) {
  const Level level = GetParam();
  Start(level);
  ikkuna_late* first = Announce();
  ikkuna_late* second = Announce();  // several are open
  ASSERT_TRUE(first != nullptr && second != nullptr) << error();
  const ikkuna_array one = CArray(nullptr, {}, IKKUNA_F64);
  ikkuna_late* loss = ikkuna_pass_late(step_->pass(), IKKUNA_LOSS, 0, 0, 0, 0, &one);
  ASSERT_NE(loss, nullptr) << error();
  auto messages = Read();
  ASSERT_EQ(messages.size(), 5u) << "they are published at once, behind the markers of step and pass";
  for (size_t i = 2; i < 5; ++i) EXPECT_FALSE(Ready(messages[i]));
  const ikkuna_array array = CArray(values_, sizes_);
  std::thread([&] { EXPECT_EQ(ikkuna_late_fill(second, &array), 1); }).join();
  EXPECT_TRUE(Ready(messages[3]));
  EXPECT_FALSE(Ready(messages[2])) << "each for itself";
  EXPECT_EQ(ikkuna_late_fill(first, &array), 1);
  const double value = NAN;
  const ikkuna_array number = CArray(&value, {}, IKKUNA_F64);
  EXPECT_EQ(ikkuna_late_fill(loss, &number), 1);
  ASSERT_TRUE(Ready(messages[2]) && Ready(messages[4]));
  EXPECT_TRUE(std::isnan(messages[4].record.scalar));
  if (level == Level::kTensor) {
    ASSERT_EQ(messages[2].payload_bytes, sizeof values_);
    EXPECT_EQ(std::memcmp(messages[2].payload, values_, sizeof values_), 0);
  } else {
    EXPECT_EQ(messages[2].record.stats.n, 4u);
    EXPECT_EQ(messages[2].record.stats.max, 6);
  }
}

// A kernel's way: the place, and the word that it stores.
TEST_F(LateBytes, AreFilledByWhoeverHasThePlace) {
  Start(Level::kTensor);
  ikkuna_late* late = Announce();
  ASSERT_NE(late, nullptr) << error();
  auto messages = Read();
  ikkuna_place place{};
  EXPECT_EQ(ikkuna_late_place(late, &place), -1);
  EXPECT_NE(error().find("sizeof(ikkuna_place)"), std::string::npos) << error();
  place.size = sizeof place;
  ASSERT_EQ(ikkuna_late_place(late, &place), 1);
  EXPECT_EQ(place.content, IKKUNA_TENSOR);
  ASSERT_EQ(place.bytes, sizeof values_);
  EXPECT_EQ(ikkuna_late_end(late, 7), -1);
  EXPECT_EQ(ikkuna_late_end(late, IKKUNA_LATE_COMES), 1);
  std::memcpy(place.data, values_, sizeof values_);
  EXPECT_FALSE(Ready(messages.back()));
  __atomic_store_n(place.ready, place.seq, __ATOMIC_RELEASE);
  EXPECT_TRUE(Ready(messages.back()));
}

TEST_F(LateBytes, ThatAreOtherThanAnnouncedAreRefusedAndMayStillCome) {
  Start(Level::kSummary);
  ikkuna_late* late = Announce();
  ASSERT_NE(late, nullptr) << error();
  const std::vector<int64_t> square{2, 2};
  const ikkuna_array other = CArray(values_, square), none = CArray(nullptr, sizes_);
  EXPECT_EQ(ikkuna_late_fill(late, &other), -1);
  EXPECT_NE(error().find("weights at step 0: its data type, its sizes"), std::string::npos) << error();
  EXPECT_EQ(ikkuna_late_fill(late, &none), -1);
  EXPECT_NE(error().find("no data"), std::string::npos) << error();
  EXPECT_EQ(ikkuna_late_fill(late, nullptr), -1);
  auto messages = Read();
  EXPECT_FALSE(Ready(messages.back()));
  const ikkuna_array right = CArray(values_, sizes_);
  EXPECT_EQ(ikkuna_late_fill(late, &right), 1);
  EXPECT_TRUE(Ready(messages.back()));
}

// What will never come is never ready, and its room is used again when the daemon is through with it; what may still
// come keeps its room, whatever the daemon says.
TEST_F(LateBytes, ThatNeverComeGiveTheirRoomBack) {
  Start(Level::kTensor);
  std::vector<ikkuna_late*> open;
  while (ikkuna_late* late = Announce()) open.push_back(late);
  EXPECT_EQ(open.size(), 32u) << "4 KiB of 128 bytes each";
  EXPECT_EQ(daemon_.view().ReadStatus().status.dropped[static_cast<size_t>(DropReason::kArenaFull)], 1u);
  auto messages = Read();
  Release();
  EXPECT_EQ(Announce(), nullptr) << "they may be written still";
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(ikkuna_late_end(open[i], IKKUNA_LATE_NEVER), 1);
  for (shm::Message& message : messages) {
    EXPECT_FALSE(shm::IsLate(message) && Ready(message));
  }
  for (size_t i = 0; i < 3; ++i) {
    ikkuna_late* again = Announce();
    ASSERT_NE(again, nullptr) << i;
    ikkuna_late_end(again, IKKUNA_LATE_READY);
  }
  EXPECT_EQ(Announce(), nullptr);
  for (size_t i = 3; i < open.size(); ++i) ikkuna_late_end(open[i], IKKUNA_LATE_READY);
  step_->End();
  const auto end = Read().back();
  EXPECT_EQ(end.record.marker.dropped_kinds, KindBit(Kind::kWeights)) << "what found no room the step lacks";
}

TEST_F(LateBytes, NeedRoomAndADaemonThatTakesThem) {
  Start(Level::kSummary, shm::kFeatureArena | shm::kFeatureCommands);
  EXPECT_EQ(ikkuna_late_room(session_), 0u);
  EXPECT_EQ(Announce(), nullptr);
  EXPECT_NE(error().find("late_kb"), std::string::npos) << error();
  EXPECT_EQ(ikkuna_late_room(nullptr), 0u);
}

TEST_F(LateBytes, OutliveTheirSessionWithoutHarm) {
  Start(Level::kSummary);
  ikkuna_late* first = Announce();
  ikkuna_late* second = Announce();
  ASSERT_TRUE(first != nullptr && second != nullptr);
  step_.reset();
  ikkuna_close(std::exchange(session_, nullptr));
  const ikkuna_array array = CArray(values_, sizes_);
  EXPECT_EQ(ikkuna_late_fill(first, &array), 0);
  EXPECT_EQ(ikkuna_late_end(second, IKKUNA_LATE_READY), 0);
}

// What a front end throws while it starts the work leaves a void record, which is counted; the next goes on behind it.
TEST(LateSession, AnExceptionLeavesAVoidRecord) {
  DaemonByHand daemon;
  probe::SessionOptions options;
  options.directory = daemon.directory();
  options.arena_mb = 1;
  options.late_bytes = 4096;
  const auto session = probe::Session::Open(options);
  ASSERT_NE(session, nullptr);
  daemon.Accept({}, 0, kFeatures);
  std::atomic<uint64_t> dropped{0};
  probe::MessageHeader header;
  header.kind = Kind::kLoss;
  header.root = session->AddRoot("net");
  header.dropped_kinds = &dropped;
  for (const bool taken : {false, true}) {
    const auto launch = [&](shm::Reservation& reservation) {
      if (taken) reservation.TakeLate().SetReady();
      throw std::runtime_error("no kernel");
    };
    EXPECT_THROW(session->PublishLate(header, RecordType::kScalar, nullptr, 8, launch), std::runtime_error);
  }
  EXPECT_EQ(dropped.load(), KindBit(Kind::kLoss));
  shm::LateSpan span;
  EXPECT_TRUE(session->PublishLate(header, RecordType::kScalar, nullptr, 8,
                                   [&](shm::Reservation& reservation) { span = reservation.TakeLate(); }));
  const double value = 3;
  std::memcpy(span.data(), &value, sizeof value);
  span.SetReady();
  for (int i = 0; i < 2; ++i) {
    auto next = daemon.view().Next();
    ASSERT_TRUE(next.ok() && next->has_value());
    EXPECT_EQ((*next)->record.type, static_cast<uint8_t>(RecordType::kVoid));
  }
  auto next = daemon.view().Next();
  ASSERT_TRUE(next.ok() && next->has_value());
  auto ready = daemon.view().ReadLate(**next);
  ASSERT_TRUE(ready.ok() && *ready);
  EXPECT_EQ((*next)->record.scalar, 3);
}

// A daemon that reads them would take the producer for broken.
TEST_F(LateBytes, StatisticsThatNoTensorHasAreGivenUpAndCounted) {
  Start(Level::kSummary);
  const double large[] = {1e308, -1e308, 1, 2};
  ikkuna_array form = CArray(nullptr, sizes_, IKKUNA_F64);
  form.scale = 1024;
  ikkuna_late* late = ikkuna_step_late(step_->step(), IKKUNA_WEIGHTS, fc_, weight_, 0, &form);
  ASSERT_NE(late, nullptr) << error();
  auto messages = Read();
  form.data = large;
  EXPECT_EQ(ikkuna_late_fill(late, &form), 0);
  EXPECT_FALSE(Ready(messages.back()));
  EXPECT_EQ(daemon_.view().ReadStatus().status.dropped[static_cast<size_t>(DropReason::kFailed)], 1u);
}

// The pass over the elements is the dear part of it, on whichever thread.
TEST_F(LateBytes, FillingIsOnTheAccountOfTheRoot) {
  Start(Level::kTensor);
  ikkuna_late* late = Announce();
  ASSERT_NE(late, nullptr) << error();
  const auto& spent = session_->state->roots[root_ - 1u].spent;
  const uint64_t total = spent.total_ns.load(), tensors = spent.tensor_ns.load();
  const ikkuna_array array = CArray(values_, sizes_);
  EXPECT_EQ(ikkuna_late_fill(late, &array), 1);
  EXPECT_GT(spent.total_ns.load(), total);
  EXPECT_GT(spent.tensor_ns.load(), tensors);
}

// Programs that were built with another version of the header.
TEST_F(LateBytes, APlaceMayHaveMoreOrFewerFieldsThanTheLibraryKnows) {
  Start(Level::kTensor);
  ikkuna_late* late = Announce();
  ASSERT_NE(late, nullptr) << error();
  struct {
    ikkuna_place place;
    uint64_t later;
  } longer{{}, 77};
  longer.place.size = sizeof longer;
  ASSERT_EQ(ikkuna_late_place(late, &longer.place), 1);
  EXPECT_EQ(longer.place.size, sizeof longer);
  EXPECT_EQ(longer.place.bytes, sizeof values_);
  EXPECT_EQ(longer.later, 77u);
  ikkuna_place shorter{};
  shorter.size = offsetof(ikkuna_place, content) + sizeof shorter.content;  // of version 2, without what fills it up
  EXPECT_EQ(ikkuna_late_place(late, &shorter), 1);
  EXPECT_EQ(shorter.content, IKKUNA_TENSOR);
  ikkuna_late_end(late, IKKUNA_LATE_NEVER);
}

// A loss scale lifts gradients out of what halves can hold: they go as floats, announced or not.
TEST_F(LateBytes, AScaledHalfGoesAsAFloat) {
  Start(Level::kTensor);
  const uint16_t halves[4] = {0x3c00, 0x4000, 0x4200, 0x4600};  // 1, 2, 3, 6
  ikkuna_array form = CArray(nullptr, sizes_, IKKUNA_F16);
  form.scale = .5;
  ikkuna_late* late = ikkuna_step_late(step_->step(), IKKUNA_WEIGHTS, fc_, weight_, 0, &form);
  ASSERT_NE(late, nullptr) << error();
  auto messages = Read();
  form.data = halves;
  ikkuna_array unscaled = form;
  unscaled.scale = 1;
  EXPECT_EQ(ikkuna_late_fill(late, &unscaled), -1) << "it is not what was announced";
  EXPECT_EQ(ikkuna_late_fill(late, &form), 1);
  ASSERT_TRUE(Ready(messages.back()));
  const float expected[4] = {.5, 1, 1.5, 3};
  ASSERT_EQ(messages.back().payload_bytes, sizeof expected);
  EXPECT_EQ(std::memcmp(messages.back().payload, expected, sizeof expected), 0);
}

}  // namespace
}  // namespace ikkuna
