// The command line of ikkuna-train.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace trainer {

struct Options {
  std::string model = "fc";  // fc, alexnet-mini, resnet-small, tiny
  std::string data_dir = "/usr/share/datasets/fashion-mnist";
  int64_t test_images = 10000;  // of each test pass; 0: no test pass

  int64_t epochs = 3;
  int64_t max_steps = 0;   // 0: until the epochs are over
  int64_t batch_size = 0;  // images of one micro-batch; 0: 128, for tiny 16
  int64_t accumulate = 1;  // micro-batches of a step
  uint64_t seed = 1;
  int threads = 0;              // 0: as many as LibTorch takes by itself
  std::string dtype = "float";  // float, double, half, bfloat16

  std::string optimizer = "sgd";    // sgd, adam
  double lr = 0;                    // 0: 0.05 for sgd, with tiny 0.005; 0.001 for adam
  double momentum = 0.9;            // of sgd
  double clip = 0;                  // norm that gradients are clipped to; 0: not clipped
  std::vector<std::string> freeze;  // parameters whose name begins with one of these are not trained

  bool probe = true;
  std::string run;  // empty: the model's name
  bool allow_control = false;
  double budget = 0.01;  // share of the step time the probe may take; 0: everything asked for is delivered

  int64_t log_every = 100;  // steps between two progress lines
  std::string losses;       // file for every step's loss, as hexadecimal floats; empty: none
  std::string dump_dir;     // folder for the tensors of the first steps; empty: none
  int64_t dump_steps = 3;
};

// Parses the command line. False: help or an error has been printed and the program ends with `*exit_code`.
bool ParseOptions(int argc, char** argv, Options* options, int* exit_code);

// What the numbers of a run depend on, by name.
std::vector<std::pair<std::string, std::string>> Hyperparameters(const Options& options);

}  // namespace trainer
