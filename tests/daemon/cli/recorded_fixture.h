// Two runs with some series, as most tests of commands want them.
#pragma once

#include <limits>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/daemon/cli/cli_fixture.h"

namespace ikkuna::test {

using nlohmann::json;

class RecordedTest : public CliTest {
 protected:
  static constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
  const v1::RunKey kRun = MakeKey("id-1");

  void SetUp() override {
    scripted_.runs = {MakeRun(MakeKey("id-0"), "older", 1'000'000'000, v1::PRODUCER_STATE_FINISHED),
                      MakeRun(kRun, "fashion", 1'700'000'000'000'000'000)};
    scripted_.runs[1].set_last_step(1234);
    scripted_.runs[1].set_series(3);
    scripted_.runs[1].set_values(4567);
    scripted_.runs[1].set_bytes(2048);
    scripted_.series = {{MakeSeries(1, kRun, "", "", "loss"), Values(0.125)},
                        {MakeSeries(2, kRun, "fc1", "weight", "weights_mean"), Values(0.25)},
                        {MakeSeries(3, kRun, "fc1", "weight", "weights_std"), Values(0.375)},
                        {MakeSeries(4, kRun, "fc1", "weight", "weights_norm2"), Values(0.5)},
                        {MakeSeries(5, kRun, "fc1", "", "activations_mean"), Values(0.625)},
                        {MakeSeries(6, kRun, "fc0", "", "activations_mean"), Values(0.75)},
                        {MakeSeries(1, MakeKey("id-0"), "", "", "loss"), Values(0.875)}};
    scripted_.series[0].series.set_unit("nats");
    for (const char* name : {"fc0", "fc1"}) {
      v1::Module& module = scripted_.modules.emplace_back();
      module.set_root("model");
      module.set_name(name);
      module.set_type("Linear");
    }
    AddParameter("weight", {10, 784}, false);
    AddParameter("mean", {}, true);
    StartDaemon();
  }

  std::vector<KeptValue> Values(double last) const { return {Kept(0, 2.5), Kept(10, kNaN), Kept(20, last, 16)}; }

  void AddParameter(const std::string& name, const std::vector<int64_t>& sizes, bool buffer) {
    v1::Parameter* parameter = scripted_.modules[1].add_parameters();
    parameter->set_name(name);
    parameter->set_dtype("f32");
    parameter->mutable_sizes()->Assign(sizes.begin(), sizes.end());
    parameter->set_trainable(true);
    parameter->set_buffer(buffer);
  }

  // Another life or rank of the run, with its own loss.
  void AddLoss(const v1::RunKey& key, std::vector<KeptValue> values, std::optional<uint32_t> continues = {},
               uint64_t start_step = 0) {
    v1::Run run = MakeRun(key, "fashion", 1'700'000'000'000'000'000 + key.attempt() * 1'000'000'000 + key.rank());
    if (continues) {
      run.set_continues(*continues);
      run.set_line(*continues);
      for (const v1::Run& before : scripted_.runs) {
        const bool is_it = before.key().run_id() == key.run_id() && before.key().attempt() == *continues;
        if (is_it && before.has_line()) run.set_line(before.line());
      }
    }
    run.set_start_step(start_step);
    scripted_.runs.push_back(run);
    scripted_.series.push_back({MakeSeries(1, key, "", "", "loss"), std::move(values)});
  }
};

}  // namespace ikkuna::test
