// Steps that are found from what a front end sees, through the C interface: training loops by hand, each at periods at
// which every step is taken, or some, against the truth of the loop.
#include <barrier>
#include <functional>
#include <thread>

#include "tests/probe/core/c_tracked_loop.h"

namespace ikkuna {
namespace {

constexpr uint64_t kKinds = KindBit(Kind::kWeights) | KindBit(Kind::kBiases) | KindBit(Kind::kWeightGradients) |
                            KindBit(Kind::kBiasGradients) | KindBit(Kind::kWeightUpdates) |
                            KindBit(Kind::kBiasUpdates) | KindBit(Kind::kActivations) | KindBit(Kind::kLayerGradients) |
                            KindBit(Kind::kLoss);

class TrackedLoop : public CInterface {
 protected:
  void Start(uint32_t period, uint64_t kinds = kKinds) {
    ikkuna_options options = OptionsFor(daemon_);
    options.budget = -1;
    options.quiet = 1;
    session_ = ikkuna_open(&options);
    first_ = std::make_unique<Net>(session_, "first", flags_);
    second_ = std::make_unique<Net>(session_, "second", flags_);
    shm::DemandItem item = Ask(kinds, Level::kTensor);
    item.period = period;
    daemon_.Accept({item});
    main_ = std::make_unique<Trainer>(session_);
    period_ = period;
  }
  void TearDown() override {
    main_.reset();
    ikkuna_close(session_);
    CInterface::TearDown();
  }
  // What a step is seen to be made of.
  struct Got {
    TrackedTruth truth;
    uint16_t flags = 0;
    uint64_t dropped = 0;
    bool finished = false, lacks = false;
    int begun = 0;
  };
  void Read() {
    for (const auto& message : daemon_.Drain()) {
      const shm::Record& record = message.record;
      const auto kind = static_cast<Kind>(record.kind);
      if (record.tag != kTagDefault) continue;
      Floats floats(message.payload.size() / sizeof(float));
      std::memcpy(floats.data(), message.payload.data(), message.payload.size());
      Got& step = got_[record.root][record.global_step];
      TrackedTruth& truth = step.truth;
      auto& pass = passes_[record.root][record.pass];
      step.begun += kind == Kind::kBatchStarted;
      switch (kind) {
        case Kind::kPassStarted:
          pass.started = true;
          break;
        case Kind::kLoss:
          pass.losses.push_back(record.scalar);
          break;
        case Kind::kLayerGradients:
          pass.layer_gradients.push_back(floats.at(0));
          break;
        case Kind::kWeights:
          truth.weights.weight = floats;
          break;
        case Kind::kBiases:
          truth.weights.bias = floats;
          break;
        case Kind::kWeightGradients:
          truth.gradients.weight = floats;
          break;
        case Kind::kBiasGradients:
          truth.gradients.bias = floats;
          break;
        case Kind::kWeightUpdates:
          truth.updates.weight = floats;
          break;
        case Kind::kBiasUpdates:
          truth.updates.bias = floats;
          break;
        default:
          break;
      }
      if (kind != Kind::kBatchFinished && kind != Kind::kPassesNamed) continue;
      for (uint32_t i = 0; i < shm::kPassesInMarker; ++i) {
        if ((record.marker.named[i / 64] >> (i % 64) & 1) == 0) continue;
        auto& named = passes_[record.root][record.marker.first_pass + i];
        EXPECT_FALSE(std::exchange(named.named, true)) << "pass " << record.marker.first_pass + i << " is named twice";
        step.lacks |= !named.started;
        truth.losses.insert(truth.losses.end(), named.losses.begin(), named.losses.end());
        truth.layer_gradients.insert(truth.layer_gradients.end(), named.layer_gradients.begin(),
                                     named.layer_gradients.end());
      }
      EXPECT_FALSE(step.finished) << "step " << record.global_step << " ended twice";
      step.finished |= kind == Kind::kBatchFinished;
      step.flags = record.flags;
      step.dropped = record.marker.dropped_kinds;
    }
  }
  void Check(Net& net, uint16_t may_flag = 0, bool layers = true) {
    Read();
    ASSERT_GT(net.steps.size(), 8u);
    size_t compared = 0, lacking = 0;
    for (uint64_t number = 0; number < net.steps.size(); ++number) {
      SCOPED_TRACE("step " + std::to_string(number) + " of root " + std::to_string(net.root));
      const auto found = got_[net.root].find(number);
      if (number % period_ != 0) {
        EXPECT_EQ(found, got_[net.root].end()) << "nobody asked for it";
        continue;
      }
      TrackedTruth truth = net.steps[number];
      const bool last = number + 1 == net.steps.size();
      if (last && (!truth.has_updates || (truth.flags & (kFlagStepSkipped | kFlagStepInferred)) != 0)) continue;
      ASSERT_NE(found, got_[net.root].end());
      Got& got = found->second;
      EXPECT_TRUE(got.finished);
      EXPECT_EQ(got.dropped, 0u);
      EXPECT_EQ(got.truth.weights, truth.weights);
      EXPECT_EQ(got.truth.gradients, truth.has_gradients ? truth.gradients : Pair{});
      EXPECT_EQ(got.truth.updates, truth.updates);
      EXPECT_EQ(got.flags & ~may_flag, truth.flags & ~may_flag);
      lacking += got.lacks;
      if (got.lacks) continue;
      for (auto* values : {&truth.losses, &got.truth.losses}) std::sort(values->begin(), values->end());
      for (auto* values : {&truth.layer_gradients, &got.truth.layer_gradients})
        std::sort(values->begin(), values->end());
      EXPECT_EQ(got.truth.losses, truth.losses);
      if (layers) {
        EXPECT_EQ(got.truth.layer_gradients, truth.layer_gradients);
      }
      ++compared;
    }
    EXPECT_GT(compared, 0u);
    EXPECT_TRUE(period_ != 1 || lacking == 0) << lacking << " steps lack a pass";
    for (const auto& [number, got] : got_[net.root]) {
      if (got.finished) {
        EXPECT_LT(number, net.steps.size()) << "a step that was never made";
      }
    }
  }
  // The last update: what ends with the loop.
  void Finish(Net& net) { main_->BeginEvaluation(net); }

  struct PassGot {
    bool started = false, named = false;
    std::vector<double> losses;
    std::vector<float> layer_gradients;
  };
  DaemonByHand daemon_;
  ikkuna_session* session_ = nullptr;
  std::unique_ptr<Net> first_, second_;
  std::unique_ptr<Trainer> main_;
  uint32_t flags_ = 0;
  uint32_t period_ = 1;
  std::map<uint16_t, std::map<uint64_t, Got>> got_;
  std::map<uint16_t, std::map<uint32_t, PassGot>> passes_;
};

class TrackedLoops : public TrackedLoop, public ::testing::WithParamInterface<uint32_t> {
 protected:
  void Start() { TrackedLoop::Start(GetParam()); }
  // A loop over the first model: what `round` does 25 times, behind its gradients that are cleared.
  void Rounds(const std::function<void(int)>& round) {
    Start();
    for (int i = 0; i < 25; ++i) {
      first_->ZeroGrad();
      round(i);
    }
    Finish(*first_);
    Check(*first_);
  }
};
INSTANTIATE_TEST_SUITE_P(Periods, TrackedLoops, ::testing::Values(1u, 3u, 7u));

TEST_P(TrackedLoops, Plain) {
  Rounds([&](int) {
    Graph graph = main_->Forward(*first_);
    main_->Backward({&graph});
    first_->Stepped();
    main_->Write(*first_);
  });
}

TEST_P(TrackedLoops, Accumulation) {
  Rounds([&](int) {
    for (int micro = 0; micro < 3; ++micro) {
      Graph graph = main_->Forward(*first_);
      main_->Backward({&graph});
    }
    first_->Stepped();
    main_->Write(*first_, IKKUNA_WRITE_ARITHMETIC, .02f);
  });
}

TEST_P(TrackedLoops, AScalerThatSkips) {
  Start();
  for (int i = 0; i < 28; ++i) {
    first_->ZeroGrad();
    Graph graph = main_->Forward(*first_);
    main_->Backward({&graph});
    if (i % 4 == 3) {
      first_->Skipped();
      continue;
    }
    first_->Stepped();
    main_->Write(*first_);
  }
  Finish(*first_);
  Check(*first_);
}

TEST_P(TrackedLoops, TwoModelsInTurn) {
  Start();
  for (int i = 0; i < 25; ++i) {
    for (Net* net : {first_.get(), second_.get()}) {
      net->ZeroGrad();
      Graph graph = main_->Forward(*net);
      main_->Backward({&graph});
      net->Stepped();
      main_->Write(*net);
    }
  }
  Finish(*first_);
  Finish(*second_);
  Check(*first_);
  Check(*second_);
}

TEST_P(TrackedLoops, TwoModelsInOneBackwardPass) {
  Rounds([&](int) {
    second_->ZeroGrad();
    Graph one = main_->Forward(*first_), other = main_->Forward(*second_);
    main_->Backward({&one, &other});
    for (Net* net : {first_.get(), second_.get()}) {
      net->Stepped();
      main_->Write(*net);
    }
  });
  Finish(*second_);
  Check(*second_);
}

TEST_P(TrackedLoops, AnEvaluationBetween) {
  Rounds([&](int i) {
    Graph graph = main_->Forward(*first_);
    main_->Backward({&graph});
    first_->Stepped();
    main_->Write(*first_);
    if (i % 5 != 4) return;
    main_->BeginEvaluation(*first_);
    ikkuna_step* test =
        ikkuna_step_begin(session_, first_->root, IKKUNA_TAG_TEST, ikkuna_next_step(session_, first_->root), 0);
    ASSERT_NE(test, nullptr);
    ikkuna_pass* pass = ikkuna_pass_begin(test);
    ikkuna_pass_end(pass);
    ikkuna_step_end(test, 0);
  });
}

// Forward and backward on a worker, the write on the main thread.
TEST_P(TrackedLoops, TwoThreads) {
  Start();
  Trainer worker(session_);
  for (int i = 0; i < 25; ++i) {
    first_->ZeroGrad();
    std::thread([&] {
      Graph graph = worker.Forward(*first_);
      worker.Backward({&graph});
    }).join();
    first_->Stepped();
    main_->Write(*first_);
  }
  Finish(*first_);
  Check(*first_);
}

// An optimizer with a closure evaluates three times, moves in between, and says where its step ends.
TEST_P(TrackedLoops, AClosure) {
  flags_ = IKKUNA_SAYS_BOUNDARIES;
  Start();
  for (int i = 0; i < 25; ++i) {
    const Pair before = first_->values;
    for (int evaluation = 0; evaluation < 3; ++evaluation) {
      first_->ZeroGrad();
      Graph graph = main_->Forward(*first_);
      main_->Backward({&graph}, evaluation == 0);  // what passes bring is the first evaluation's
      main_->Write(*first_, IKKUNA_WRITE_ARITHMETIC, .01f);
    }
    first_->Stepped();
    first_->steps.back().weights = before;
    first_->CloseUpdate();
    main_->Boundary(*first_);
  }
  Check(*first_);
}

TEST_P(TrackedLoops, ARetainedGraph) {
  Rounds([&](int) {
    Graph graph = main_->Forward(*first_);
    main_->Backward({&graph});
    main_->Backward({&graph});  // the last walk before the write counts
    first_->Stepped();
    main_->Write(*first_);
  });
}

TEST_P(TrackedLoops, StepsThatTheTrainerSays) {
  flags_ = IKKUNA_SAYS_BOUNDARIES;
  Rounds([&](int) {
    const Pair before = first_->values;
    Graph graph = main_->Forward(*first_);
    main_->Backward({&graph});
    main_->WriteUnseen(*first_);
    first_->Stepped();
    first_->steps.back().weights = before;
    main_->Boundary(*first_);
  });
}

// The write goes past the front end: a step ends with the first gradient of the next, as inferred.
TEST_P(TrackedLoops, AWriteThatIsNotSeen) {
  Rounds([&](int) {
    Graph graph = main_->Forward(*first_);
    main_->Backward({&graph});
    first_->Push(kFlagStepInferred, false);
    main_->WriteUnseen(*first_);
  });
}

// A pass that no backward reaches (a loss that was not finite) is of no step.
TEST_P(TrackedLoops, APassThatIsDropped) {
  Rounds([&](int i) {
    if (i % 3 == 1) {
      const Graph left = main_->Forward(*first_);
    }
    Graph graph = main_->Forward(*first_);
    main_->Backward({&graph});
    first_->Stepped();
    main_->Write(*first_);
  });
}

// Weights that another hand moves behind the optimizer's write are part of the update, which says so.
TEST_P(TrackedLoops, ASecondHand) {
  Rounds([&](int) {
    Graph graph = main_->Forward(*first_);
    main_->Backward({&graph});
    first_->Stepped(kFlagWeightsChangedOutside);
    main_->Write(*first_);
    main_->Write(*first_, IKKUNA_WRITE_OTHER, .01f);
  });
}

// Another round of arithmetic behind the optimizer's is a second hand, too: an average that is swapped in by lerp.
TEST_P(TrackedLoops, ASecondRoundOfWrites) {
  Rounds([&](int) {
    Graph graph = main_->Forward(*first_);
    main_->Backward({&graph});
    first_->Stepped(kFlagWeightsChangedOutside);
    main_->Write(*first_);
    main_->Write(*first_, IKKUNA_WRITE_ARITHMETIC, .01f);
  });
}

// Two threads that each train the model for themselves, in turn where the loop has to be repeatable.
TEST_P(TrackedLoops, Hogwild) {
  Start();
  Trainer others[2] = {Trainer(session_), Trainer(session_)};
  for (int i = 0; i < 25; ++i) {
    // Both backward passes stand when the first is written.
    std::array<Graph, 2> graphs;
    first_->ZeroGrad();
    for (size_t t = 0; t < 2; ++t) graphs[t] = others[t].Forward(*first_);
    for (size_t t = 0; t < 2; ++t) others[t].Backward({&graphs[t]});
    for (size_t t = 0; t < 2; ++t) others[t].Write(*first_);
  }
  main_->BeginEvaluation(*first_);
  Read();
  // Each write is a step, whoever made it, from when it is known how they write.
  const uint64_t steps = ikkuna_next_step(session_, first_->root);
  EXPECT_GE(steps, 48u);
  EXPECT_LE(steps, 50u);
  size_t finished = 0;
  for (const auto& [number, got] : got_[first_->root]) finished += got.finished;
  EXPECT_GE(finished + 3, (steps + period_ - 1) / period_);
}

// What a thread with a lane of its own leaves open goes on in the lane of all: one step, begun once.
TEST_F(TrackedLoop, AThreadThatEndsLeavesItsStepToTheOthers) {
  Start(1);
  auto other = std::make_unique<Trainer>(session_);
  for (int i = 0; i < 10; ++i) {
    first_->ZeroGrad();
    Graph mine = main_->Forward(*first_), others = other->Forward(*first_);
    main_->Backward({&mine});
    other->Backward({&others});
    main_->Write(*first_);
    other->Write(*first_);
  }
  const uint64_t number = ikkuna_next_step(session_, first_->root);
  Graph left = other->Forward(*first_);
  other->Backward({&left});
  other.reset();
  main_->Write(*first_);
  EXPECT_EQ(ikkuna_next_step(session_, first_->root), number + 1);
  ikkuna_on_end(main_->thread(), first_->root);
  main_->Take(*first_);
  Read();
  const Got& got = got_[first_->root][number];
  EXPECT_TRUE(got.finished);
  EXPECT_FALSE(got.lacks);
  EXPECT_EQ(got.truth.losses, std::vector<double>{left.loss});
  EXPECT_EQ(got.begun, 1);
  EXPECT_FALSE(got.truth.weights.weight.empty());
}

// The same with threads that really run at once: nothing is torn, and every write is a step.
TEST_F(TrackedLoop, HogwildAtOnce) {
  Start(1, KindBit(Kind::kLoss) | KindBit(Kind::kWeightGradients) | KindBit(Kind::kLayerGradients));
  constexpr int kThreads = 4, kSteps = 200;
  std::barrier together(kThreads);
  std::vector<std::thread> threads;
  std::mutex writes;
  std::atomic<int> running{kThreads};
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      Trainer own(session_, true);
      together.arrive_and_wait();
      for (int i = 0; i < kSteps; ++i) {
        Graph graph = own.Forward(*first_);
        own.Backward({&graph});
        std::lock_guard lock(writes);
        ikkuna_on_write(own.thread(), first_->root, IKKUNA_WRITE_ARITHMETIC, first_->weight_id, IKKUNA_SEEN_GRADIENT);
        own.Take(*first_);
      }
      --running;
    });
  }
  while (running > 0) Read();
  for (std::thread& thread : threads) thread.join();
  main_->BeginEvaluation(*first_);
  Read();
  const uint64_t steps = ikkuna_next_step(session_, first_->root);
  // Until it is known that they write for themselves a write may be taken for another's.
  EXPECT_GT(steps, kThreads * kSteps * 8 / 10);
  EXPECT_LE(steps, kThreads * kSteps + kThreads);
  // Each number that was begun has ended, but what is open still, a step of each thread at most; what ended is whole.
  size_t open = 0, whole = 0, dropped = 0;
  for (const auto& [number, got] : got_[first_->root]) {
    EXPECT_LE(got.begun, 1) << number;
    open += !got.finished;
    if (!got.finished) continue;
    if (got.dropped != 0) {
      ++dropped;
      continue;
    }
    EXPECT_EQ(got.begun, 1) << number;
    whole += !got.lacks && got.truth.losses.size() == 1 && got.truth.layer_gradients.size() == 1 &&
             got.truth.layer_gradients[0] == static_cast<float>(got.truth.losses[0]);
  }
  EXPECT_LE(open, static_cast<size_t>(kThreads));
  EXPECT_GT(whole, steps / 2);
  EXPECT_GT(whole + dropped, steps * 8 / 10) << "of one pass each, with what backward made of that very pass";
}

// Where both have begun a step, that of the thread that ends becomes one with the others': its number is not one that
// began and never ended.
TEST_F(TrackedLoop, OfTwoStepsThatBecomeOneBothEnd) {
  Start(1);
  auto other = std::make_unique<Trainer>(session_);
  for (int i = 0; i < 10; ++i) {
    first_->ZeroGrad();
    Graph mine = main_->Forward(*first_), others = other->Forward(*first_);
    main_->Backward({&mine});
    other->Backward({&others});
    main_->Write(*first_);
    other->Write(*first_);
  }
  Trainer third(session_);
  Graph of_all = third.Forward(*first_);
  Graph left = other->Forward(*first_);
  other->Backward({&left});
  other.reset();
  third.Backward({&of_all});
  third.Write(*first_);
  main_->Forward(*first_);
  ikkuna_on_end(main_->thread(), first_->root);
  main_->Take(*first_);
  Read();
  const uint64_t next = ikkuna_next_step(session_, first_->root);
  size_t lost = 0;
  for (const auto& [number, got] : got_[first_->root]) {
    if (number + 1 == next) continue;  // is open
    EXPECT_TRUE(got.finished || got.begun == 0) << number;
    lost += got.finished && (got.dropped & KindBit(Kind::kWeightGradients)) != 0;
  }
  EXPECT_EQ(lost, 1u);
}

}  // namespace
}  // namespace ikkuna
