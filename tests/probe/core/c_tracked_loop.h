// A training loop over a model of two parameters, and a front end for it that knows the C interface alone: it says what
// it sees and takes what it is told to. The loop keeps the truth by hand, and Check() compares what was published bit
// for bit.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "shared/passes.h"
#include "tests/probe/core/c_fixture.h"

namespace ikkuna {

using Floats = std::vector<float>;
struct Pair {  // of weight and bias
  Floats weight, bias;
  bool operator==(const Pair&) const = default;
};

struct TrackedTruth {
  Pair weights, gradients, updates;
  bool has_gradients = true, has_updates = false;
  std::vector<double> losses;
  std::vector<float> layer_gradients;
  uint16_t flags = 0;
};

// One model with what is told of it and what of its steps is true.
class Net {
 public:
  Net(ikkuna_session* session, const std::string& name, uint32_t flags = 0)
      : session_(session), root(ikkuna_root_tracked(session, name.c_str(), flags)) {
    fc = ikkuna_module(session, root, "fc", "Linear", 0);
    const int64_t weights[] = {4}, one[] = {1};
    weight_id = ikkuna_param(session, root, fc, "weight", IKKUNA_F32, 1, weights, IKKUNA_TRAINABLE);
    bias_id = ikkuna_param(session, root, fc, "bias", IKKUNA_F32, 1, one, IKKUNA_TRAINABLE | IKKUNA_BIAS);
  }
  // --- What the trainer does beside its forward and backward passes.
  void ZeroGrad() {
    std::lock_guard lock(mutex);
    gradients = {Floats(4), Floats(1)};
    has_gradients = false;
    cleared = true;
  }
  // The truth: before the write, before what the next pass sees.
  void Stepped(uint16_t flags = 0) {
    std::lock_guard lock(mutex);
    Push(flags, has_gradients);
  }
  void Skipped() {
    std::lock_guard lock(mutex);
    Push(kFlagStepSkipped, false);
  }
  void Push(uint16_t flags, bool with_gradients) {
    steps.push_back({values,
                     gradients,
                     {},
                     with_gradients,
                     false,
                     std::exchange(losses, {}),
                     std::exchange(layer_gradients, {}),
                     flags});
    open = true;
  }
  void CloseUpdate() {
    std::lock_guard lock(mutex);
    if (!std::exchange(open, false)) return;
    TrackedTruth& last = steps.back();
    last.has_updates = true;
    last.updates = values;
    for (size_t i = 0; i < 4; ++i) last.updates.weight[i] -= last.weights.weight[i];
    last.updates.bias[0] -= last.weights.bias[0];
  }
  uint32_t Seen() {
    const uint32_t look = ikkuna_look(session_, root);
    std::lock_guard lock(mutex);
    uint32_t seen = 0;
    if ((look & IKKUNA_LOOK_GRADIENTS) != 0 && cleared) seen |= IKKUNA_SEEN_CLEARED;
    if ((look & IKKUNA_LOOK_WEIGHTS) != 0 && !(values == at_backward)) seen |= IKKUNA_SEEN_MOVED;
    return seen;
  }

 private:
  ikkuna_session* const session_;

 public:
  const uint16_t root;
  uint32_t fc, weight_id, bias_id;
  std::mutex mutex;  // of the trainer's own data
  Pair values{{.5f, -.25f, .125f, 1}, {.1f}};
  Pair gradients{Floats(4), Floats(1)};
  Pair at_backward;
  bool has_gradients = false, cleared = false, open = false;
  std::map<uint64_t, Pair> kept;  // by step, for its update
  std::vector<double> losses;     // that backward reached since the last step
  std::vector<float> layer_gradients;
  std::vector<TrackedTruth> steps;
};

// A forward pass: its loss, and the handle for as long as its graph stands.
struct Graph {
  Net* net = nullptr;
  std::array<float, 4> input{};
  double loss = 0;
  ikkuna_pass* pass = nullptr;
  bool counted = false;
  Graph() = default;
  Graph(Graph&& other) noexcept { *this = std::move(other); }
  Graph& operator=(Graph&& other) noexcept {
    std::swap(net, other.net);
    std::swap(input, other.input);
    std::swap(loss, other.loss);
    std::swap(pass, other.pass);
    std::swap(counted, other.counted);
    return *this;
  }
  ~Graph() { ikkuna_pass_end(pass); }
};

// A thread of the trainer with its front end.
class Trainer {
 public:
  // `may_drop`: threads are in each other's way, or faster than what reads them.
  explicit Trainer(ikkuna_session* session, bool may_drop = false)
      : thread_(ikkuna_thread_begin(session)), least_(may_drop ? 0 : 1) {}
  ~Trainer() { ikkuna_thread_end(thread_); }
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;
  ikkuna_thread* thread() { return thread_; }

  Graph Forward(Net& net, uint32_t seen = 0) {
    net.CloseUpdate();
    Graph graph;
    graph.net = &net;
    graph.pass = ikkuna_on_pass(thread_, net.root, seen | net.Seen());
    Take(net);
    std::lock_guard lock(net.mutex);
    float sum = net.values.bias[0];
    for (size_t i = 0; i < 4; ++i) {
      graph.input[i] = static_cast<float>(1 + (turn_ * 7 + static_cast<int>(i) * 3) % 5) * .25f;
      sum += net.values.weight[i] * graph.input[i];
    }
    ++turn_;
    graph.loss = .5 * static_cast<double>(sum) * static_cast<double>(sum);
    if (ikkuna_pass_wanted(graph.pass, IKKUNA_ACTIVATIONS, net.fc) != IKKUNA_NOTHING) {
      const ikkuna_array array = CArray(&sum, one_);
      EXPECT_EQ(ikkuna_pass_array(graph.pass, IKKUNA_ACTIVATIONS, net.fc, 0, 0, 0, &array), 1);
    }
    ikkuna_pass_scalar(graph.pass, IKKUNA_LOSS, 0, graph.loss);
    return graph;
  }
  // `counts`: the step is made of it, as far as the loop knows.
  void Backward(std::vector<Graph*> graphs, bool counts = true) {
    const int64_t task = NextTask();
    for (Graph* graph : graphs) Reach(*graph, task, counts);
    Accumulate(graphs, task);
    EndBackward(graphs, task);
  }
  void Reach(Graph& graph, int64_t task, bool counts = true) {
    const float gradient = static_cast<float>(graph.loss);
    ikkuna_pass* const walk = ikkuna_on_reached(thread_, graph.pass, task);
    EXPECT_EQ(walk, ikkuna_on_reached(thread_, graph.pass, task)) << "the same for each call of one task";
    const ikkuna_array array = CArray(&gradient, one_);
    if (walk != nullptr) {
      EXPECT_GE(ikkuna_pass_array(walk, IKKUNA_LAYER_GRADIENTS, graph.net->fc, 0, 0, 0, &array), least_);
    }
    std::lock_guard lock(graph.net->mutex);
    if (counts && !std::exchange(graph.counted, true)) {
      graph.net->losses.push_back(graph.loss);
      graph.net->layer_gradients.push_back(gradient);
    }
  }
  void Accumulate(const std::vector<Graph*>& graphs, int64_t task) {
    for (Graph* graph : graphs) {
      Net& net = *graph->net;
      EXPECT_GE(ikkuna_on_gradient(thread_, net.root, task, net.Seen()), 0);
      Take(net);
      std::lock_guard lock(net.mutex);
      for (size_t i = 0; i < 4; ++i) net.gradients.weight[i] += static_cast<float>(graph->loss) * graph->input[i];
      net.gradients.bias[0] += static_cast<float>(graph->loss);
      net.has_gradients = true;
      net.cleared = false;
    }
  }
  void EndBackward(const std::vector<Graph*>& graphs, int64_t task) {
    EXPECT_EQ(ikkuna_on_backward_end(thread_, task), 0);
    for (Graph* graph : graphs) {
      std::lock_guard lock(graph->net->mutex);
      graph->net->at_backward = graph->net->values;
    }
  }
  // What the optimizer does: it is seen, taken from, and done.
  void Write(Net& net, int write = IKKUNA_WRITE_ARITHMETIC, float rate = .1f) {
    const uint32_t seen = net.has_gradients ? IKKUNA_SEEN_GRADIENT : 0;
    ikkuna_on_write(thread_, net.root, write, net.weight_id, seen);
    Take(net);
    Move(net.values.weight, net.gradients.weight, rate);
    ikkuna_on_write(thread_, net.root, write, net.bias_id, seen);
    Take(net);
    Move(net.values.bias, net.gradients.bias, rate);
  }
  void WriteUnseen(Net& net) {
    Move(net.values.weight, net.gradients.weight, .1f);
    Move(net.values.bias, net.gradients.bias, .1f);
  }
  void Boundary(Net& net) {
    EXPECT_GE(ikkuna_on_boundary(thread_, net.root), 0);
    Take(net);
  }
  void BeginEvaluation(Net& net) {
    net.CloseUpdate();
    EXPECT_GE(ikkuna_on_evaluation(thread_, net.root), 0);
    Take(net);
  }
  static int64_t NextTask() {
    static std::atomic<int64_t> task{0};
    return ++task;
  }

  // Publishes what waits. Of several models only this one's: the loop goes on with it.
  void Take(Net& net) {
    ikkuna_take take{};
    take.size = sizeof take;
    while (ikkuna_next_take(thread_, &take) == 1) {
      EXPECT_EQ(take.root, net.root);
      std::lock_guard lock(net.mutex);
      const auto both = [&](int weights, int biases, const Pair& pair) {
        const ikkuna_array weight = CArray(pair.weight.data(), four_), bias = CArray(pair.bias.data(), one_);
        EXPECT_GE(ikkuna_step_array(take.step, weights, net.fc, net.weight_id, take.flags, &weight), 0);
        EXPECT_GE(ikkuna_step_array(take.step, biases, net.fc, net.bias_id, take.flags, &bias), 0);
      };
      if ((take.take & IKKUNA_TAKE_WEIGHTS) != 0) {
        both(IKKUNA_WEIGHTS, IKKUNA_BIASES, net.values);
        net.kept[take.number] = net.values;
      }
      if ((take.take & IKKUNA_TAKE_GRADIENTS) != 0 && net.has_gradients) {
        both(IKKUNA_WEIGHT_GRADIENTS, IKKUNA_BIAS_GRADIENTS, net.gradients);
      }
      if ((take.take & IKKUNA_TAKE_UPDATES) != 0) {
        const auto kept = net.kept.extract(take.number);
        ASSERT_FALSE(kept.empty()) << "an update of step " << take.number << " without its weights";
        const Pair& before = kept.mapped();
        const ikkuna_array now[] = {CArray(net.values.weight.data(), four_), CArray(net.values.bias.data(), one_)};
        const ikkuna_array old[] = {CArray(before.weight.data(), four_), CArray(before.bias.data(), one_)};
        EXPECT_EQ(ikkuna_step_difference(take.step, IKKUNA_WEIGHT_UPDATES, net.fc, net.weight_id, take.flags, &now[0],
                                         &old[0]),
                  1);
        EXPECT_EQ(
            ikkuna_step_difference(take.step, IKKUNA_BIAS_UPDATES, net.fc, net.bias_id, take.flags, &now[1], &old[1]),
            1);
      }
      EXPECT_EQ(ikkuna_step_end(take.step, 0), 1);
    }
  }

 private:
  static void Move(Floats& value, const Floats& gradient, float rate) {
    for (size_t i = 0; i < value.size(); ++i) value[i] -= rate * gradient[i];
  }
  ikkuna_thread* const thread_;
  const int least_;  // that a call answers which publishes what is wanted
  const std::vector<int64_t> one_{1}, four_{4};
  int turn_ = 0;
};

}  // namespace ikkuna
