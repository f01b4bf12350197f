// Tracked steps through the C interface: takes and handles, what a front end leaves out or forgets, and what is
// refused.
#include <thread>

#include "probe/core/c_handle.h"
#include "tests/probe/core/c_tracked_loop.h"
#include "tests/probe/core/child.h"

namespace ikkuna {
namespace {

class Seen : public CInterface {
 protected:
  void Start(uint64_t kinds, uint32_t period = 1) {
    ikkuna_options options = OptionsFor(daemon_);
    options.budget = -1;
    options.quiet = 1;
    options.start_step = 100;
    session_ = ikkuna_open(&options);
    net_ = std::make_unique<Net>(session_, "net");
    shm::DemandItem item = Ask(kinds, Level::kTensor);
    item.period = period;
    daemon_.Accept({item});
    thread_ = ikkuna_thread_begin(session_);
  }
  void TearDown() override {
    ikkuna_thread_end(thread_);
    ikkuna_close(session_);
    CInterface::TearDown();
  }
  // One step that is written; what it is to take stays untaken.
  int StepUntaken() {
    ikkuna_pass* pass = ikkuna_on_pass(thread_, net_->root, 0);
    const int64_t task = Trainer::NextTask();
    ikkuna_on_reached(thread_, pass, task);
    ikkuna_on_gradient(thread_, net_->root, task, 0);
    ikkuna_on_backward_end(thread_, task);
    const int takes =
        ikkuna_on_write(thread_, net_->root, IKKUNA_WRITE_ARITHMETIC, net_->weight_id, IKKUNA_SEEN_GRADIENT);
    ikkuna_pass_end(pass);
    return takes;
  }
  ikkuna_take Next() {
    ikkuna_take take{};
    take.size = sizeof take;
    EXPECT_EQ(ikkuna_next_take(thread_, &take), 1);
    return take;
  }
  void Publish(const ikkuna_take& take, int kind) {
    const std::vector<int64_t> sizes{4};
    const ikkuna_array array = CArray(net_->values.weight.data(), sizes);
    EXPECT_EQ(ikkuna_step_array(take.step, kind, net_->fc, net_->weight_id, take.flags, &array), 1);
  }
  std::vector<shm::Record> Ends() {
    std::vector<shm::Record> ends;
    for (const auto& message : daemon_.Drain()) {
      if (message.record.kind == static_cast<uint8_t>(Kind::kBatchFinished)) ends.push_back(message.record);
    }
    return ends;
  }
  std::string Notes() {
    daemon_.ReadRegistry();
    std::string notes;
    for (const auto& entry : daemon_.registry()) {
      if (entry.type == shm::EntryType::kNote) notes += entry.second + "\n";
    }
    return notes;
  }
  std::string error() const { return ikkuna_error(session_); }

  const std::vector<int64_t> sizes_{4};
  DaemonByHand daemon_;
  ikkuna_session* session_ = nullptr;
  ikkuna_thread* thread_ = nullptr;
  std::unique_ptr<Net> net_;
  std::vector<ikkuna_step*> forgotten_;
};

TEST_F(Seen, WhereNothingIsDueNothingIsToBeTaken) {
  Start(KindBit(Kind::kWeights) | KindBit(Kind::kWeightUpdates), 1000);
  for (int i = 0; i < 50; ++i) EXPECT_EQ(StepUntaken(), 0);
  EXPECT_EQ(ikkuna_next_step(session_, net_->root), 150u) << "they count from start_step";
  EXPECT_EQ(daemon_.Drain().size(), 0u);
  EXPECT_EQ(ikkuna_look(session_, net_->root) & (IKKUNA_LOOK_GRADIENTS | IKKUNA_LOOK_WRITES), 0u);
  EXPECT_EQ(ikkuna_look(session_, net_->root) & IKKUNA_LOOK_AWAKE, 0u);
}

// The marker goes with whichever comes last: the end of the step, or of its handles, in any order.
TEST_F(Seen, AStepEndsBehindItsLastHandle) {
  Start(KindBit(Kind::kWeights) | KindBit(Kind::kWeightGradients) | KindBit(Kind::kWeightUpdates));
  // The first steps take their weights as they begin, until it is known how the loop writes.
  ASSERT_EQ(StepUntaken(), 1);
  const ikkuna_take gradients = Next();
  EXPECT_EQ(gradients.number, 100u);
  EXPECT_EQ(gradients.take, static_cast<uint32_t>(IKKUNA_TAKE_GRADIENTS));
  ikkuna_take none{};
  none.size = sizeof none;
  EXPECT_EQ(ikkuna_next_take(thread_, &none), 0);
  ikkuna_pass* pass = ikkuna_on_pass(thread_, net_->root, 0);
  const ikkuna_take update = Next();
  EXPECT_EQ(update.number, 100u);
  EXPECT_EQ(update.take, static_cast<uint32_t>(IKKUNA_TAKE_UPDATES));
  Publish(update, IKKUNA_WEIGHT_UPDATES);
  EXPECT_EQ(ikkuna_step_end(update.step, IKKUNA_FLAG_GRAD_MODIFIED), 1);
  EXPECT_EQ(Ends().size(), 0u) << "its gradients are on their way still";
  Publish(gradients, IKKUNA_WEIGHT_GRADIENTS);
  EXPECT_EQ(ikkuna_step_end(gradients.step, 0), 1);
  const auto ends = Ends();
  ASSERT_EQ(ends.size(), 1u);
  EXPECT_EQ(ends[0].global_step, 100u);
  EXPECT_EQ(ends[0].flags, kFlagGradModified);
  ikkuna_pass_end(pass);
}

TEST_F(Seen, WhatIsNotTakenInTimeTheStepLacks) {
  Start(KindBit(Kind::kWeights) | KindBit(Kind::kWeightGradients) | KindBit(Kind::kBuffers));
  ASSERT_EQ(StepUntaken(), 1);
  ASSERT_EQ(StepUntaken(), 2) << "weights and gradients, from the second step on";
  ASSERT_EQ(StepUntaken(), 2);
  const auto ends = Ends();
  ASSERT_EQ(ends.size(), 2u);
  for (const shm::Record& end : ends) {
    EXPECT_EQ(end.marker.dropped_kinds,
              KindBit(Kind::kWeights) | KindBit(Kind::kWeightGradients) | KindBit(Kind::kBuffers));
  }
}

TEST_F(Seen, WhatCannotBeTakenIsSaid) {
  Start(KindBit(Kind::kWeightGradients));
  ASSERT_EQ(StepUntaken(), 1);
  const ikkuna_take take = Next();
  ikkuna_step_lacks(take.step, IKKUNA_WEIGHT_GRADIENTS);
  ikkuna_step_lacks(take.step, -1);
  ikkuna_step_lacks(nullptr, IKKUNA_WEIGHTS);
  ikkuna_step_end(take.step, 0);
  ikkuna_on_evaluation(thread_, net_->root);
  const auto ends = Ends();
  ASSERT_EQ(ends.size(), 1u);
  EXPECT_EQ(ends[0].marker.dropped_kinds, KindBit(Kind::kWeightGradients));
}

// What is logged between steps is of the one that comes, and makes it due.
TEST_F(Seen, WhatIsLoggedIsOfTheStepOfNow) {
  Start(KindBit(Kind::kScalar));
  StepUntaken();
  ikkuna_step* coming = ikkuna_step_now(thread_, net_->root);
  ASSERT_NE(coming, nullptr);
  EXPECT_EQ(ikkuna_log(coming, "score", 3), 1);
  ikkuna_samples(coming, 32);
  EXPECT_EQ(ikkuna_step_end(coming, 0), 1);
  EXPECT_EQ(ikkuna_on_epoch(thread_, net_->root, 4), 0);
  StepUntaken();
  ikkuna_on_evaluation(thread_, net_->root);
  uint64_t logged = 0;
  std::vector<shm::Record> ends;
  for (const auto& message : daemon_.Drain()) {
    if (message.record.kind == static_cast<uint8_t>(Kind::kScalar)) logged = message.record.global_step;
    if (message.record.kind == static_cast<uint8_t>(Kind::kBatchFinished)) ends.push_back(message.record);
  }
  EXPECT_EQ(logged, 101u);
  ASSERT_FALSE(ends.empty());
  EXPECT_EQ(ends.back().global_step, 101u);
  EXPECT_EQ(ends.back().marker.samples, 32u);
  StepUntaken();
  EXPECT_EQ(daemon_.view().ReadStatus().status.roots[0].epoch, 4u);
}

TEST_F(Seen, RefusalsSayWhatToDo) {
  Start(KindBit(Kind::kWeights));
  const uint16_t given = ikkuna_root(session_, "given");
  const auto expect = [&](bool refused, const char* says) {
    EXPECT_TRUE(refused) << says;
    EXPECT_NE(error().find(says), std::string::npos) << error();
  };
  expect(ikkuna_step_begin(session_, net_->root, IKKUNA_TAG_DEFAULT, 0, 0) == nullptr, "ikkuna_on_pass()");
  expect(ikkuna_root(session_, "net") == 0, "found from what is seen: choose another name");
  expect(ikkuna_root_tracked(session_, "given", 0) == 0, "are given: choose another name");
  expect(ikkuna_root_tracked(session_, "more", 64) == 0, "no such flags");
  expect(ikkuna_on_pass(thread_, given, 0) == nullptr, "ikkuna_root_tracked()");
  expect(ikkuna_on_gradient(thread_, 9, 1, 0) == -1, "ikkuna_root_tracked()");
  expect(ikkuna_on_write(thread_, net_->root, 0, 0, 0) == -1, "IKKUNA_WRITE_");
  expect(ikkuna_on_write(thread_, net_->root, IKKUNA_WRITE_ASSIGN, 1u << 31, 0) == -1, "below 2^31");
  expect(ikkuna_step_now(thread_, given) == nullptr, "ikkuna_root_tracked()");
  expect(ikkuna_on_evaluation_reached(thread_, given, 1) == -1, "no such root");
  EXPECT_EQ(ikkuna_root_tracked(session_, "net", 0), net_->root);
  StepUntaken();
  ikkuna_take small{};
  small.size = 8;
  expect(ikkuna_next_take(thread_, &small) == -1, "sizeof(ikkuna_take)");
  ikkuna_step* now = ikkuna_step_now(thread_, net_->root);
  expect(ikkuna_pass_begin(now) == nullptr, "ikkuna_on_pass()");
  expect(ikkuna_step_end(now, 1u << 9) == -1, "no such flags");
  // NULL is taken, and nothing comes of it.
  EXPECT_EQ(ikkuna_on_pass(nullptr, net_->root, 0), nullptr);
  EXPECT_EQ(ikkuna_on_reached(thread_, nullptr, 1), nullptr);
  EXPECT_EQ(ikkuna_on_write(nullptr, net_->root, 0, 0, 0) | ikkuna_on_gradient(nullptr, 1, 1, 0) |
                ikkuna_on_backward_end(nullptr, 1) | ikkuna_on_boundary(nullptr, 1) | ikkuna_next_take(nullptr, &small),
            0);
  EXPECT_EQ(ikkuna_thread_begin(nullptr), nullptr);
  ikkuna_thread_end(nullptr);
  EXPECT_EQ(ikkuna_look(nullptr, 1), 0u);
}

// Whatever the front end holds when the session closes does nothing from then on.
TEST_F(Seen, HandlesOutliveTheSession) {
  Start(KindBit(Kind::kWeights) | KindBit(Kind::kWeightGradients) | KindBit(Kind::kWeightUpdates) |
        KindBit(Kind::kLayerGradients));
  StepUntaken();
  const ikkuna_take held = Next();
  ikkuna_pass* pass = ikkuna_on_pass(thread_, net_->root, 0);
  ikkuna_pass* walk = ikkuna_on_reached(thread_, pass, 1);
  ASSERT_NE(walk, nullptr);
  ikkuna_step* now = ikkuna_step_now(thread_, net_->root);
  ikkuna_close(session_);
  const auto ends = Ends();
  ASSERT_EQ(ends.size(), 1u) << "the step that was open is not told to have ended";
  EXPECT_NE(ends[0].marker.dropped_kinds & KindBit(Kind::kWeightGradients), 0u) << "a handle of its was held";
  const float value = 1;
  const ikkuna_array array = CArray(&value, {});
  EXPECT_EQ(ikkuna_pass_array(walk, IKKUNA_LAYER_GRADIENTS, net_->fc, 0, 0, 0, &array), 0);
  EXPECT_EQ(ikkuna_step_array(held.step, IKKUNA_WEIGHTS, net_->fc, net_->weight_id, 0, &array), 0);
  EXPECT_EQ(ikkuna_step_end(held.step, 0) | ikkuna_step_end(now, 0), 0);
  EXPECT_EQ(ikkuna_on_write(thread_, net_->root, IKKUNA_WRITE_ARITHMETIC, 1, IKKUNA_SEEN_GRADIENT), 0);
  EXPECT_EQ(ikkuna_pass_end(pass), 0);
  session_ = nullptr;
}

// A rank's part of a parameter is told apart from a copy of it.
TEST_F(Seen, AShardIsSaidOnceAndTakenBack) {
  Start(KindBit(Kind::kWeights));
  const int64_t whole[] = {16}, begins[] = {8}, small[] = {3}, outside[] = {13};
  const auto shards = [&] {
    daemon_.ReadRegistry();
    std::vector<shm::RegistryEntry> found;
    for (const auto& entry : daemon_.registry()) {
      if (entry.type == shm::EntryType::kShard) found.push_back(entry);
    }
    return found;
  };
  EXPECT_EQ(ikkuna_shard(session_, net_->weight_id, 1, whole, begins), 1);
  EXPECT_EQ(ikkuna_shard(session_, net_->weight_id, 1, whole, begins), 1);
  ASSERT_EQ(shards().size(), 1u);
  EXPECT_EQ(shards()[0].id, net_->weight_id);
  EXPECT_EQ(shards()[0].sizes, std::vector<int64_t>{16});
  EXPECT_EQ(shards()[0].offsets, std::vector<int64_t>{8});
  EXPECT_EQ(ikkuna_shard(session_, 99, 1, whole, begins), -1);
  EXPECT_NE(error().find("ikkuna_param()"), std::string::npos) << error();
  for (const auto& [sizes, offsets] : {std::pair{small, begins}, std::pair{whole, outside}}) {
    EXPECT_EQ(ikkuna_shard(session_, net_->weight_id, 1, sizes, offsets), -1);
    EXPECT_NE(error().find("shard of 'weight': dimension 0 reaches out"), std::string::npos) << error();
  }
  EXPECT_EQ(ikkuna_shard(session_, net_->weight_id, 2, whole, begins), -1);
  EXPECT_NE(error().find("0 says that it is whole"), std::string::npos) << error();
  EXPECT_EQ(ikkuna_shard(session_, net_->weight_id, 0, nullptr, nullptr), 1);
  ASSERT_EQ(shards().size(), 2u);
  EXPECT_TRUE(shards()[1].sizes.empty());
}

TEST_F(Seen, AnArrayOnADeviceIsRefused) {
  Start(KindBit(Kind::kWeights));
  ikkuna_pass* pass = ikkuna_on_pass(thread_, net_->root, 0);
  const ikkuna_take take = Next();
  ikkuna_array array = CArray(net_->values.weight.data(), sizes_);
  array.device_type = 2;  // CUDA
  EXPECT_EQ(ikkuna_step_array(take.step, IKKUNA_WEIGHTS, net_->fc, net_->weight_id, 0, &array), -1);
  EXPECT_NE(error().find("copy it to host memory"), std::string::npos) << error();
  array.device_type = IKKUNA_HOST;
  EXPECT_EQ(ikkuna_step_array(take.step, IKKUNA_WEIGHTS, net_->fc, net_->weight_id, 0, &array), 1);
  ikkuna_step_spent(take.step, 100);
  ikkuna_step_end(take.step, 0);
  ikkuna_pass_end(pass);
}

TEST_F(Seen, TheEndOfTheTrainingTakesTheLastUpdate) {
  Start(KindBit(Kind::kWeightUpdates));
  ikkuna_pass* pass = ikkuna_on_pass(thread_, net_->root, 0);
  const ikkuna_take weights = Next();  // to be kept
  EXPECT_EQ(weights.take, static_cast<uint32_t>(IKKUNA_TAKE_WEIGHTS));
  EXPECT_EQ(ikkuna_step_wanted(weights.step, IKKUNA_WEIGHTS, net_->fc), IKKUNA_NOTHING);
  ikkuna_step_end(weights.step, 0);
  ikkuna_on_reached(thread_, pass, 1);
  ikkuna_on_gradient(thread_, net_->root, 1, 0);
  ikkuna_on_backward_end(thread_, 1);
  ikkuna_on_write(thread_, net_->root, IKKUNA_WRITE_ARITHMETIC, net_->weight_id, IKKUNA_SEEN_GRADIENT);
  ikkuna_pass_end(pass);
  EXPECT_EQ(ikkuna_on_end(thread_, net_->root), 1);
  const ikkuna_take take = Next();
  EXPECT_EQ(take.take, static_cast<uint32_t>(IKKUNA_TAKE_UPDATES));
  Publish(take, IKKUNA_WEIGHT_UPDATES);
  ikkuna_step_end(take.step, 0);
  const auto ends = Ends();
  ASSERT_EQ(ends.size(), 1u);
  EXPECT_EQ(ends[0].marker.dropped_kinds, 0u);
}

// A graph that is walked twice gives its layer gradients twice: those of the last walk before the write count.
TEST_F(Seen, TheLastWalkCounts) {
  Start(KindBit(Kind::kLayerGradients));
  ikkuna_pass* pass = ikkuna_on_pass(thread_, net_->root, 0);
  ikkuna_pass* walks[2];
  for (int i = 0; i < 2; ++i) {
    walks[i] = ikkuna_on_reached(thread_, pass, 10 + i);
    ASSERT_NE(walks[i], nullptr);
    const float value = static_cast<float>(i);
    const ikkuna_array array = CArray(&value, {});
    EXPECT_EQ(ikkuna_pass_array(walks[i], IKKUNA_LAYER_GRADIENTS, net_->fc, 0, 0, 0, &array), 1);
    ikkuna_on_gradient(thread_, net_->root, 10 + i, 0);
    ikkuna_on_backward_end(thread_, 10 + i);
  }
  EXPECT_NE(walks[0], walks[1]);
  EXPECT_EQ(ikkuna_pass_end(walks[0]), 0) << "it goes with its pass";
  ikkuna_on_write(thread_, net_->root, IKKUNA_WRITE_ARITHMETIC, net_->weight_id, IKKUNA_SEEN_GRADIENT);
  EXPECT_EQ(ikkuna_on_reached(thread_, pass, 12), nullptr) << "its step has ended";
  ikkuna_pass_end(pass);
  ikkuna_on_evaluation(thread_, net_->root);
  std::vector<uint32_t> of_gradients, named;
  for (const auto& message : daemon_.Drain()) {
    if (message.record.kind == static_cast<uint8_t>(Kind::kLayerGradients)) of_gradients.push_back(message.record.pass);
    if (message.record.kind != static_cast<uint8_t>(Kind::kBatchFinished)) continue;
    for (uint32_t i = 0; i < 64; ++i) {
      if ((message.record.marker.named[0] >> i & 1) != 0) named.push_back(message.record.marker.first_pass + i);
    }
  }
  ASSERT_EQ(of_gradients.size(), 2u);
  EXPECT_EQ(std::count(named.begin(), named.end(), of_gradients[0]), 0);
  EXPECT_EQ(std::count(named.begin(), named.end(), of_gradients[1]), 1);
}

// Frameworks number their backward passes anew at each step, or not at all.
TEST_F(Seen, ABackwardPassMayHaveTheNumberOfOneThatIsOver) {
  Start(KindBit(Kind::kWeightGradients) | KindBit(Kind::kLayerGradients));
  for (uint64_t i = 0; i < 6; ++i) {
    ikkuna_pass* pass = ikkuna_on_pass(thread_, net_->root, 0);
    for (int micro = 0; micro < 2; ++micro) {
      ikkuna_pass* walk = ikkuna_on_reached(thread_, pass, 0);
      EXPECT_NE(walk, nullptr);
      EXPECT_EQ(ikkuna_on_reached(thread_, pass, 0), walk);
      EXPECT_EQ(ikkuna_on_gradient(thread_, net_->root, 0, 0), 0);
      EXPECT_EQ(ikkuna_on_backward_end(thread_, 0), 0);
    }
    EXPECT_EQ(ikkuna_on_write(thread_, net_->root, IKKUNA_WRITE_ARITHMETIC, net_->weight_id, IKKUNA_SEEN_GRADIENT), 1);
    const ikkuna_take take = Next();
    EXPECT_EQ(take.number, 100 + i);
    Publish(take, IKKUNA_WEIGHT_GRADIENTS);
    ikkuna_step_end(take.step, 0);
    ikkuna_pass_end(pass);
  }
  EXPECT_EQ(ikkuna_next_step(session_, net_->root), 106u);
  // Gradients that were cleared between two of one number: the first was a step of its own, that was skipped.
  ikkuna_pass* pass = ikkuna_on_pass(thread_, net_->root, 0);
  for (const uint32_t seen : {0, 0 | IKKUNA_SEEN_CLEARED}) {
    ikkuna_on_reached(thread_, pass, 0);
    ikkuna_on_gradient(thread_, net_->root, 0, seen);
    ikkuna_on_backward_end(thread_, 0);
  }
  EXPECT_EQ(ikkuna_next_step(session_, net_->root), 108u);
  ikkuna_pass_end(pass);
}

TEST_F(Seen, ABackwardPassOfANegativeNumberIsRefused) {
  Start(KindBit(Kind::kLayerGradients));
  ikkuna_pass* pass = ikkuna_on_pass(thread_, net_->root, 0);
  EXPECT_EQ(ikkuna_on_reached(thread_, pass, -1), nullptr);
  EXPECT_NE(error().find("not below 0"), std::string::npos) << error();
  EXPECT_EQ(ikkuna_on_evaluation_reached(thread_, net_->root, -1), -1);
  EXPECT_EQ(ikkuna_on_gradient(thread_, net_->root, -1, 0), -1);
  EXPECT_EQ(ikkuna_on_gradients_used(thread_, net_->root, -1), -1);
  EXPECT_EQ(ikkuna_on_backward_end(thread_, -1), -1);
  ikkuna_pass_end(pass);
}

// Another thread's forward pass comes between the writes of an optimizer: what is taken then is half of an update.
TEST_F(Seen, AnUpdateThatIsTakenAmidTheWritesOfAnotherThreadIsFlagged) {
  Start(KindBit(Kind::kWeightUpdates));
  const auto take_all = [&](ikkuna_thread* thread) {
    ikkuna_take take{};
    take.size = sizeof take;
    while (ikkuna_next_take(thread, &take) == 1) ikkuna_step_end(take.step, 0);
  };
  ikkuna_pass* pass = ikkuna_on_pass(thread_, net_->root, 0);
  take_all(thread_);
  ikkuna_on_reached(thread_, pass, 1);
  ikkuna_on_gradient(thread_, net_->root, 1, 0);
  ikkuna_on_backward_end(thread_, 1);
  ikkuna_on_write(thread_, net_->root, IKKUNA_WRITE_ARITHMETIC, net_->weight_id, IKKUNA_SEEN_GRADIENT);
  take_all(thread_);
  ikkuna_thread* other = ikkuna_thread_begin(session_);
  ikkuna_pass* early = ikkuna_on_pass(other, net_->root, 0);
  take_all(other);
  const auto ends = Ends();
  ASSERT_EQ(ends.size(), 1u);
  EXPECT_EQ(ends[0].flags, kFlagWeightsChangedOutside);
  ikkuna_pass_end(early);
  ikkuna_pass_end(pass);
  ikkuna_thread_end(other);
}

TEST_F(Seen, EpochMarkersBearTheEpochTheyAreOf) {
  Start(KindBit(Kind::kEpochStarted) | KindBit(Kind::kEpochFinished));
  StepUntaken();
  ikkuna_on_epoch(thread_, net_->root, 1);  // before a step begins
  ikkuna_pass* pass = ikkuna_on_pass(thread_, net_->root, 0);
  ikkuna_on_epoch(thread_, net_->root, 2);  // amid one
  ikkuna_pass_end(pass);
  std::vector<std::pair<Kind, uint32_t>> markers;
  for (const auto& message : daemon_.Drain()) {
    const auto kind = static_cast<Kind>(message.record.kind);
    if (kind == Kind::kEpochFinished || kind == Kind::kEpochStarted) markers.emplace_back(kind, message.record.epoch);
  }
  const std::vector<std::pair<Kind, uint32_t>> expected{
      {Kind::kEpochFinished, 0}, {Kind::kEpochStarted, 1}, {Kind::kEpochFinished, 1}, {Kind::kEpochStarted, 2}};
  EXPECT_EQ(markers, expected);
}

// A handle that is never ended holds back its step for a while, and what else waits behind it no longer.
TEST_F(Seen, AStepWhoseHandleIsForgottenEndsWithoutIt) {
  Start(KindBit(Kind::kWeightGradients));
  ASSERT_EQ(StepUntaken(), 1);
  const ikkuna_take held = Next();
  for (int i = 0; i < 80; ++i) {
    ASSERT_EQ(StepUntaken(), 1);
    const ikkuna_take kept = Next();
    Publish(kept, IKKUNA_WEIGHT_GRADIENTS);
    if (i != 79) forgotten_.push_back(kept.step);
    if (i == 79) ikkuna_step_end(kept.step, 0);
  }
  const auto ends = Ends();
  ASSERT_GE(ends.size(), 10u);
  EXPECT_EQ(ends[0].global_step, 100u);
  EXPECT_EQ(ends[0].marker.dropped_kinds, KindBit(Kind::kWeightGradients));
  EXPECT_NE(Notes().find("was not ended for 64 steps"), std::string::npos) << Notes();
  const ikkuna_array array = CArray(net_->values.weight.data(), sizes_);
  EXPECT_EQ(ikkuna_step_array(held.step, IKKUNA_WEIGHT_GRADIENTS, net_->fc, net_->weight_id, 0, &array), -1);
  EXPECT_NE(error().find("step 100 has ended without this handle"), std::string::npos) << error();
  EXPECT_EQ(ikkuna_step_end(held.step, 0), 1);
  for (ikkuna_step* step : forgotten_) ikkuna_step_end(step, 0);
  EXPECT_EQ(Ends().size() + ends.size(), 80u) << "each once; the last waits for its update";
}

// A graph that is kept for the whole run, and walked in each step.
TEST_F(Seen, AKeptPassMakesNothingGrow) {
  Start(KindBit(Kind::kLayerGradients) | KindBit(Kind::kLoss));
  ikkuna_pass* const open = ikkuna_on_pass(thread_, net_->root, 0);  // no backward ever reaches it
  ikkuna_pass* const kept = ikkuna_on_pass(thread_, net_->root, 0);
  ikkuna_on_reached(thread_, kept, 0);
  ikkuna_on_gradient(thread_, net_->root, 0, 0);
  ikkuna_on_backward_end(thread_, 0);
  ikkuna_on_write(thread_, net_->root, IKKUNA_WRITE_ARITHMETIC, net_->weight_id, IKKUNA_SEEN_GRADIENT);
  for (int i = 0; i < 2000; ++i) {
    ikkuna_pass_end(ikkuna_on_pass(thread_, net_->root, 0));  // no backward reaches it
    StepUntaken();
    const int64_t task = Trainer::NextTask();
    ikkuna_on_reached(thread_, kept, task);
    ikkuna_on_backward_end(thread_, task);
  }
  EXPECT_LT(session_->state->roots[net_->root - 1u].recorded.size(), 600u);
  EXPECT_LT(kept->body->walks.size(), 10u);
  EXPECT_LE(session_->state->tasks.size(), 256u);
  ikkuna_pass_end(kept);
  ikkuna_pass_end(open);
}

// A DataLoader's worker, forked while another thread of the trainer was within a call.
TEST_F(Seen, InAForkedChildNoCallWaitsForAThreadThatIsNotThere) {
  Start(KindBit(Kind::kWeightGradients));
  StepUntaken();
  std::unique_lock held(session_->state->roots[net_->root - 1u].mutex);
  Child child([&] {
    if (ikkuna_next_step(session_, net_->root) != 0) return 1;
    ikkuna_on_write(thread_, net_->root, IKKUNA_WRITE_ARITHMETIC, net_->weight_id, IKKUNA_SEEN_GRADIENT);
    ikkuna_on_gradient(thread_, net_->root, 7, 0);
    ikkuna_thread_end(thread_);
    ikkuna_close(session_);
    return 0;
  });
  EXPECT_EQ(child.End(), 0);
  held.unlock();
}

// Programs that were built with another version of the header.
TEST_F(Seen, ATakeMayHaveMoreFieldsThanTheLibraryKnows) {
  Start(KindBit(Kind::kWeightGradients));
  ASSERT_EQ(StepUntaken(), 1);
  struct {
    ikkuna_take take;
    uint64_t later;
  } longer{{}, 77};
  longer.take.size = sizeof longer;
  ASSERT_EQ(ikkuna_next_take(thread_, &longer.take), 1);
  EXPECT_EQ(longer.take.size, sizeof longer);
  EXPECT_EQ(longer.take.number, 100u);
  EXPECT_EQ(longer.later, 77u);
  ikkuna_step_end(longer.take.step, 0);
}

TEST_F(Seen, RatesComeAtTheEndOfAStepAndMomentsBehindItsWrite) {
  Start(KindBit(Kind::kLearningRate) | KindBit(Kind::kExpAvg));
  ASSERT_EQ(StepUntaken(), 1);
  const ikkuna_take rates = Next();
  EXPECT_EQ(rates.take, static_cast<uint32_t>(IKKUNA_TAKE_RATES));
  EXPECT_EQ(ikkuna_rate(rates.step, "all", .125), 1);
  ikkuna_step_end(rates.step, 0);
  ikkuna_pass* pass = ikkuna_on_pass(thread_, net_->root, 0);
  const ikkuna_take moments = Next();
  EXPECT_EQ(moments.take, static_cast<uint32_t>(IKKUNA_TAKE_MOMENTS));
  EXPECT_EQ(moments.number, 100u);
  Publish(moments, IKKUNA_EXP_AVG);
  ikkuna_step_end(moments.step, 0);
  ikkuna_pass_end(pass);
  std::vector<double> told;
  size_t averages = 0;
  for (const auto& message : daemon_.Drain()) {
    const auto kind = static_cast<Kind>(message.record.kind);
    if (kind == Kind::kLearningRate) told.push_back(message.record.scalar);
    averages += kind == Kind::kExpAvg;
    if (kind == Kind::kBatchFinished) {
      EXPECT_EQ(message.record.marker.dropped_kinds, 0u);
    }
  }
  EXPECT_EQ(told, std::vector<double>{.125});
  EXPECT_EQ(averages, 1u);
}

// An optimizer within backward: the gradients of the step are gone when it ends, and the weights have moved.
TEST_F(Seen, GradientsThatBackwardUsedEndAStep) {
  Start(KindBit(Kind::kWeights));
  for (uint64_t i = 0; i < 4; ++i) {
    ikkuna_pass* pass = ikkuna_on_pass(thread_, net_->root, 0);
    ikkuna_on_reached(thread_, pass, 3);
    ikkuna_on_gradient(thread_, net_->root, 3, 0);
    ikkuna_on_backward_end(thread_, 3);
    EXPECT_GE(ikkuna_on_gradients_used(thread_, net_->root, 3), 0);
    ikkuna_pass_end(pass);
    EXPECT_EQ(ikkuna_next_step(session_, net_->root), 101 + i);
  }
  EXPECT_EQ(ikkuna_on_gradients_used(thread_, net_->root, 4), 0) << "no backward pass of this number was";
  ikkuna_on_end(thread_, net_->root);
  const auto ends = Ends();
  ASSERT_EQ(ends.size(), 4u);
  for (const shm::Record& end : ends) EXPECT_EQ(end.flags, kFlagStepInferred);
}

// A loop that puts its gradients where they belong by itself is known by its passes and writes.
TEST_F(Seen, WithoutGradientsByHooksNewOnesAreLookedFor) {
  Start(KindBit(Kind::kWeights));
  EXPECT_NE(ikkuna_look(session_, net_->root) & IKKUNA_LOOK_WRITES, 0u);
  for (int i = 0; i < 12; ++i) {
    ikkuna_pass* pass = ikkuna_on_pass(thread_, net_->root, 0);
    ikkuna_on_reached(thread_, pass, i);
    ikkuna_on_backward_end(thread_, i);
    for (const uint32_t param : {net_->weight_id, net_->bias_id}) {
      ikkuna_on_write(thread_, net_->root, IKKUNA_WRITE_ARITHMETIC, param,
                      IKKUNA_SEEN_GRADIENT | IKKUNA_SEEN_NEW_GRADIENT);
    }
    ikkuna_pass_end(pass);
  }
  const uint64_t next = ikkuna_next_step(session_, net_->root);
  EXPECT_GE(next, 109u) << "one a round, from the third on";
  EXPECT_LE(next, 112u);
  StepUntaken();
  EXPECT_EQ(ikkuna_look(session_, net_->root) & IKKUNA_LOOK_WRITES, 0u);
}

// Fine-tuning with the model in evaluation mode: what was evaluated is trained on.
TEST_F(Seen, APassInEvaluationModeTrains) {
  Start(KindBit(Kind::kWeights) | KindBit(Kind::kLoss));
  for (int i = 0; i < 6; ++i) {
    ikkuna_pass* pass = ikkuna_on_pass(thread_, net_->root, IKKUNA_SEEN_EVALUATING);
    EXPECT_GE(ikkuna_pass_scalar(pass, IKKUNA_LOSS, 0, i), 0);
    ikkuna_on_reached(thread_, pass, i);
    ikkuna_on_gradient(thread_, net_->root, i, 0);
    ikkuna_on_backward_end(thread_, i);
    ikkuna_on_write(thread_, net_->root, IKKUNA_WRITE_ARITHMETIC, net_->weight_id, IKKUNA_SEEN_GRADIENT);
    ikkuna_pass_end(pass);
  }
  EXPECT_EQ(ikkuna_next_step(session_, net_->root), 106u);
}

}  // namespace
}  // namespace ikkuna
