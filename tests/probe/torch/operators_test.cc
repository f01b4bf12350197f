// Operators of other libraries: kernels that write parameters and gradients in memory, of which LibTorch knows no more
// than their schemas.
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <atomic>
#include <memory>

#include "probe/torch/operator_callback.h"
#include "probe/torch/operator_table.h"
#include "shared/codes.h"
#include "tests/probe/torch/capture_fixture.h"
#include "tests/probe/torch/scenario.h"

namespace ikkuna::scenario {
namespace {

// No operator runs within, and no version changes.
void Step(Tensor momentum, Tensor parameter, const Tensor& gradient, double lr) {
  auto* const m = static_cast<float*>(momentum.data_ptr());
  auto* const p = static_cast<float*>(parameter.data_ptr());
  const auto* const g = static_cast<const float*>(gradient.const_data_ptr());
  for (int64_t i = 0; i < parameter.numel(); ++i) p[i] -= static_cast<float>(lr) * (m[i] = .5f * m[i] + g[i]);
}
void StepAll(at::TensorList momenta, at::TensorList parameters, at::TensorList gradients, double lr) {
  for (size_t i = 0; i < parameters.size(); ++i) Step(momenta[i], parameters[i], gradients[i], lr);
}
void Scale(Tensor tensor, double by) {
  auto* const values = static_cast<float*>(tensor.data_ptr());
  for (int64_t i = 0; i < tensor.numel(); ++i) values[i] *= static_cast<float>(by);
}
void ScaleAll(at::TensorList tensors, double by) {
  for (const Tensor& tensor : tensors) Scale(tensor, by);
}
void ScaleLists(const std::vector<std::vector<Tensor>>& lists, double by) {
  for (const auto& list : lists) ScaleAll(list, by);
}

TORCH_LIBRARY_FRAGMENT(ikkuna_tests, library) {
  library.def("step(Tensor(a!) momentum, Tensor(b!) parameter, Tensor gradient, float lr) -> ()", &Step);
  library.def("step_all(Tensor(a!)[] momenta, Tensor(b!)[] parameters, Tensor[] gradients, float lr) -> ()", &StepAll);
  library.def("scale(Tensor(a!) tensor, float by) -> ()", &Scale);
}
// Collectives do not say what they write.
TORCH_LIBRARY_FRAGMENT(c10d, library) {
  library.def("ikkuna_tests_allreduce_(Tensor[] tensors, float by) -> ()", &ScaleAll);
  library.def("ikkuna_tests_allgather_(Tensor[][] tensors, float by) -> ()", &ScaleLists);
}
// These do.
TORCH_LIBRARY_FRAGMENT(_c10d_functional, library) {
  library.def("ikkuna_tests_broadcast_(Tensor(a!) tensor, float by) -> ()", &Scale);
}

template <typename... Arguments>
void Call(const char* name, void (*kernel)(Arguments...), std::type_identity_t<Arguments>... arguments) {
  static_cast<void>(kernel);  // whose signature it is
  at::NoGradGuard no_grad;
  c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<void(Arguments...)>().call(arguments...);
}

class Operators : public ::testing::TestWithParam<uint32_t> {
 protected:
  void SetUp() override { torch::manual_seed(3); }
  static void Backward(Mlp& model) {
    model.zero_grad();
    F::cross_entropy(model.forward(torch::randn({4, 8})), torch::randint(10, {4})).backward();
  }
  static std::vector<Tensor> Gradients(const Mlp& model) {
    std::vector<Tensor> gradients;
    for (const Tensor& p : model.parameters()) gradients.push_back(p.grad());
    return gradients;
  }
  static void ExpectFlags(Scenario& s, uint64_t steps, uint32_t period, bool outside) {
    for (uint64_t step = 0; step < steps; step += period) {
      EXPECT_EQ((s.FlagsOf("model", step) & kFlagWeightsChangedOutside) != 0, outside) << step;
    }
  }
};
INSTANTIATE_TEST_SUITE_P(Periods, Operators, ::testing::Values(1u, 3u));

// An optimizer from elsewhere: what it writes first is a state of its own.
TEST_P(Operators, AnOptimizerOfAnotherLibraryEndsTheStep) {
  for (const bool at_once : {false, true}) {
    SCOPED_TRACE(at_once ? "all at once" : "one by one");
    Scenario s(GetParam());
    Mlp model;
    s.Attach(model);
    std::vector<Tensor> momenta;
    for (const Tensor& p : model.parameters()) momenta.push_back(torch::zeros_like(p));
    for (int step = 0; step < 12; ++step) {
      s.Forward(model);
      Backward(model);
      s.Step(model);
      const std::vector<Tensor> parameters = model.parameters(), gradients = Gradients(model);
      if (at_once) Call("ikkuna_tests::step_all", &StepAll, momenta, parameters, gradients, .1);
      for (size_t i = 0; i < parameters.size() && !at_once; ++i) {
        Call("ikkuna_tests::step", &Step, momenta[i], parameters[i], gradients[i], .1);
      }
    }
    s.Check();
    ExpectFlags(s, 12, GetParam(), false);
  }
}

// A library that the trainer loads when the model is attached already, and lets go before the next one comes.
TEST_P(Operators, AnOptimizerOfALibraryThatIsLoadedLaterEndsTheStep) {
  Scenario s(GetParam());
  Mlp model;
  s.Attach(model);
  for (int step = 0; step < 12; ++step) {
    s.Forward(model);
    Backward(model);
    torch::Library late(torch::Library::FRAGMENT, "ikkuna_tests_late", std::nullopt, __FILE__, __LINE__);
    late.def("step(Tensor(a!) momentum, Tensor(b!) parameter, Tensor gradient, float lr) -> ()", &Step);
    s.Step(model);
    for (const Tensor& p : model.parameters()) {
      Call("ikkuna_tests_late::step", &Step, torch::zeros_like(p), p, p.grad(), .1);
    }
  }
  s.Check();
  ExpectFlags(s, 12, GetParam(), false);
}

TEST_P(Operators, WhatWritesBesideAnOptimizerIsAnotherHand) {
  Scenario s(GetParam());
  s.MayFlag(kFlagWeightsChangedOutside);
  Mlp model;
  s.Attach(model);
  torch::optim::SGD optimizer(model.parameters(), .1);
  for (int step = 0; step < 12; ++step) {
    s.Forward(model);
    Backward(model);
    s.Step(model);
    optimizer.step();
    for (const Tensor& p : model.parameters()) Call("ikkuna_tests::scale", &Scale, p, .5);
  }
  s.Check();
  ExpectFlags(s, 12, GetParam(), true);
}

enum class Collective { kList, kListOfLists, kFunctional };
void Communicate(Collective collective, const std::vector<Tensor>& tensors) {
  if (collective == Collective::kList) Call("c10d::ikkuna_tests_allreduce_", &ScaleAll, tensors, .5);
  if (collective == Collective::kListOfLists) Call("c10d::ikkuna_tests_allgather_", &ScaleLists, {tensors}, .5);
  for (size_t i = 0; i < tensors.size() && collective == Collective::kFunctional; ++i) {
    Call("_c10d_functional::ikkuna_tests_broadcast_", &Scale, tensors[i], .5);
  }
}

// Whether it comes before the optimizer or after, it is neither an optimizer nor goes unseen: from the first step on.
TEST_P(Operators, ACollectiveThatWritesParametersIsAnotherHand) {
  for (const Collective collective : {Collective::kList, Collective::kListOfLists, Collective::kFunctional}) {
    for (const bool before : {false, true}) {
      SCOPED_TRACE(std::to_string(static_cast<int>(collective)) + (before ? " before" : " after"));
      Scenario s(GetParam());
      s.MayFlag(kFlagWeightsChangedOutside);
      Mlp model;
      s.Attach(model);
      torch::optim::SGD optimizer(model.parameters(), .1);
      for (int step = 0; step < 12; ++step) {
        s.Forward(model);
        Backward(model);
        const Tensors weights = ParametersOf(model, false);
        if (before) Communicate(collective, model.parameters());
        s.StepWith(model, weights);
        optimizer.step();
        if (!before) Communicate(collective, model.parameters());
      }
      s.Check();
      ExpectFlags(s, 12, GetParam(), true);
    }
  }
}

// Gradients that are averaged before the optimizer takes them are the step's.
TEST_P(Operators, ACollectiveThatAveragesGradientsFlagsNothing) {
  for (const Collective collective : {Collective::kList, Collective::kListOfLists, Collective::kFunctional}) {
    SCOPED_TRACE(static_cast<int>(collective));
    Scenario s(GetParam());
    Mlp model;
    s.Attach(model);
    torch::optim::SGD optimizer(model.parameters(), .1);
    for (int step = 0; step < 12; ++step) {
      s.Forward(model);
      Backward(model);
      Communicate(collective, Gradients(model));
      s.Step(model);
      optimizer.step();
    }
    s.Check();
    ExpectFlags(s, 12, GetParam(), false);
  }
}

// A library that is unloaded takes the names of its operators with it: at their addresses others' may lie then.
TEST(OperatorNames, OfALibraryThatIsUnloadedAreForgotten) {
  auto library =
      std::make_unique<torch::Library>(torch::Library::FRAGMENT, "ikkuna_tests_gone", std::nullopt, __FILE__, __LINE__);
  library->def("scale(Tensor(a!) tensor, float by) -> ()", &Scale);
  torch_probe::OperatorTable table;
  const auto handle = c10::Dispatcher::singleton().findSchemaOrThrow("ikkuna_tests_gone::scale", "");
  const char* const name = handle.schema().name().c_str();
  const char* const other =
      c10::Dispatcher::singleton().findSchemaOrThrow("ikkuna_tests::scale", "").schema().name().c_str();
  EXPECT_NE(table.Find(name), nullptr);
  library.reset();
  EXPECT_EQ(table.Find(name), nullptr);
  EXPECT_NE(table.Find(other), nullptr);
}

// The session has switched itself off: operators are not heard any more, whoever needs them.
std::atomic<int> heard{0};
TEST(OperatorCallbacks, AreSilentWhenTheyAreSilenced) {
  torch_probe::OperatorCallback callback;
  callback.Register(
      [](const at::RecordFunction&) {
        ++heard;
        return std::unique_ptr<at::ObserverContext>();
      },
      [](const at::RecordFunction&, at::ObserverContext*) {});
  const auto hears = [] {
    const int before = heard.load();
    torch::ones({2}).add(1);
    return heard.load() != before;
  };
  EXPECT_FALSE(hears());
  callback.Need(+1);
  EXPECT_TRUE(hears());
  callback.Silence();
  EXPECT_FALSE(hears());
  callback.Need(+1);
  EXPECT_FALSE(hears());
  callback.Unregister();
}

// What an operator gives costs as much again as what it is given: it is there where it was asked for, and not else.
TEST(OperatorCallbacks, HaveTheResultsOfTheOperatorsThatTheyAskAbout) {
  torch_probe::OperatorCallback callback;
  static std::vector<size_t> results;
  static bool asks = false;
  results.clear();
  callback.Register(
      [](const at::RecordFunction& function) {
        if (asks) torch_probe::AskForResults(function);
        return std::unique_ptr<at::ObserverContext>();
      },
      [](const at::RecordFunction& function, at::ObserverContext*) { results.push_back(function.outputs().size()); });
  const torch::Tensor x = torch::ones({2});
  callback.Need(+1);
  static_cast<void>(x.view({1, 2}));
  asks = true;
  static_cast<void>(x.view({1, 2}));
  asks = false;
  static_cast<void>(x.view({1, 2}));
  callback.Unregister();
  EXPECT_EQ(results, (std::vector<size_t>{0, 1, 0}));
}

}  // namespace
}  // namespace ikkuna::scenario

namespace ikkuna {
namespace {

class OperatorsOn : public Capture {};

// Each gradient is averaged just before its parameter is written: all were taken when the first was.
TEST_F(OperatorsOn, GradientsThatACollectiveChangesWhileTheLoopWritesAreFlagged) {
  for (const auto collective :
       {scenario::Collective::kList, scenario::Collective::kListOfLists, scenario::Collective::kFunctional}) {
    SCOPED_TRACE(static_cast<int>(collective));
    kept_.clear();
    torch::nn::Sequential net(torch::nn::Linear(8, 6), torch::nn::Linear(6, 3));
    Start({"weight_gradients", "batch_finished"}).Attach(net);
    for (int step = 0; step < 3; ++step) {
      net->zero_grad();
      F::cross_entropy(net->forward(torch::randn({4, 8})), torch::randint(3, {4})).backward();
      torch::NoGradGuard no_grad;
      for (Tensor& p : net->parameters()) {
        scenario::Communicate(collective, {p.grad()});
        p.sub_(p.grad() * .1);
      }
    }
    probe_->Detach();
    ASSERT_EQ(Of("batch_finished").size(), 3u);
    for (const Kept& end : Of("batch_finished")) EXPECT_NE(end.message.flags & kFlagGradModified, 0);
    probe_.reset();
  }
}

}  // namespace
}  // namespace ikkuna
