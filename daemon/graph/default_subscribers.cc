#include "daemon/graph/subscriber_set.h"

namespace ikkuna::graph {

const std::vector<std::string>& DefaultSubscribers() {
  // Scalars every step, statistics every 10th, the update ratio every 100th.
  static const std::vector<std::string> kDefaults{
      "loss",
      "loss(tag=test)",
      "train_accuracy",
      "test_accuracy",
      "learning_rate",
      "scalar",
      "text",
      "non_finite(loss)",
      "non_finite(weights, activations, layer_gradients, weight_gradients, subsample=10, as=tensors)",
      "norm(weights, subsample=10)",
      "norm(weight_gradients, subsample=10)",
      "message_mean(weights_norm2, subsample=10)",
      "message_mean(weight_gradients_norm2, subsample=10)",
      "ratio(weight_updates, weights, subsample=100)",
      "mean(weights, subsample=10)",
      "std(weights, subsample=10)",
      "mean(weight_gradients, subsample=10)",
      "std(weight_gradients, subsample=10)",
      "mean(layer_gradients, subsample=10)",
      "std(layer_gradients, subsample=10)",
      "mean(activations, subsample=10)",
      "std(activations, subsample=10)",
      "zero_fraction(activations, subsample=10)",
  };
  return kDefaults;
}

}  // namespace ikkuna::graph
