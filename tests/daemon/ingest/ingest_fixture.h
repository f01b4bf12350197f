// IngestTest: a core over a store that outlives it, as files do.
#pragma once

#include <gtest/gtest.h>

#include <memory>

#include "tests/daemon/ingest/test_core.h"
#include "tests/daemon/ingest/test_producer.h"

namespace ikkuna::ingest {

class IngestTest : public testing::Test {
 protected:
  std::unique_ptr<TestCore> MakeCore(AcceptorOptions options = {}) {
    return std::make_unique<TestCore>(temp_.sub("dir"), store_, options);
  }
  static bool AllHandled(TestCore& core, TestProducer& producer) {
    return Eventually([&] {
      const auto status = core.StatusOf(producer.hello().uuid);
      return status.attempted == shm::LoadAcquire(producer.pub().status().attempted) && status.in_flight == 0;
    });
  }
  static bool Reaches(TestCore& core, TestProducer& producer, RunState state) {
    return Eventually([&] { return core.StatusOf(producer.hello().uuid).state == state; });
  }
  // `first` comes and finishes; `second`, registered and not connected yet, says that it goes on with it.
  static bool LetGoOn(TestCore& core, TestProducer& first, TestProducer& second) {
    second.hello().run_id = first.hello().run_id;
    second.hello().resume = true;
    if (!first.Connect()) return false;
    first.Finish();
    if (!Reaches(core, first, RunState::kFinished)) return false;
    second.Register();
    return true;
  }
  // A producer comes and makes so many steps, of which all records are handled.
  static void Trains(TestCore& core, TestProducer& producer, uint64_t steps) {
    producer.Register();
    ASSERT_TRUE(producer.Connect()) << producer.reject();
    for (uint64_t step = 0; step < steps; ++step) producer.Step(step, 1);
    ASSERT_TRUE(AllHandled(core, producer));
  }
  // A trainer that has ended, of whose step the results are held back.
  static void LeavesAStepToCompute(TestCore& core, TestProducer& producer) {
    core.knobs().later.store(true);
    core.knobs().hold.store(true);
    producer.Register();
    ASSERT_TRUE(producer.Connect()) << producer.reject();
    producer.Step(0, 1);
    ASSERT_TRUE(AllHandled(core, producer));
    producer.Finish();
  }
  TempDirectory temp_;
  std::shared_ptr<MemoryStore> store_ = std::make_shared<MemoryStore>();
};

}  // namespace ikkuna::ingest
