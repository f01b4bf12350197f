// A job that publishes through the C interface alone, shaped by its arguments:
//   c_job [--steps N] [--us MICROSECONDS] [--run NAME] [--loss BASE] [--start STEP] [--epoch-steps N] [--folds N]
//         [--begin-after FILE] [--wait-for FILE] [--rows N] [--resume 1] [--until-stop 1]
// The loss of step s is BASE + s; module fc1 publishes its weight, of N x 784 elements, each of which is BASE. --start
// says that the run goes on at that step; --epoch-steps begins to count anew after so many; --folds opens one session
// after another;
// --resume says only that it goes on, and lets its first step speak for itself;
// --begin-after makes the first step only when the file is there;
// --wait-for ends the job only when the file is there; --until-stop lets clients stop it, and says after which step
// they did.
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "probe/ikkuna/probe.h"

namespace {

struct Arguments {
  uint64_t steps = 50;
  unsigned us = 1000;
  std::string run = "job";
  double loss = 1;
  uint64_t start = 0;
  uint64_t epoch_steps = 0;
  int folds = 1;
  std::string begin_after, wait_for;
  int64_t rows = 10;
  bool resume = false;
  bool until_stop = false;
};

Arguments Parse(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    const char* value = argv[i + 1];
    if (name == "--steps") arguments.steps = std::strtoull(value, nullptr, 10);
    if (name == "--us") arguments.us = static_cast<unsigned>(std::strtoul(value, nullptr, 10));
    if (name == "--run") arguments.run = value;
    if (name == "--loss") arguments.loss = std::strtod(value, nullptr);
    if (name == "--start") arguments.start = std::strtoull(value, nullptr, 10);
    if (name == "--epoch-steps") arguments.epoch_steps = std::strtoull(value, nullptr, 10);
    if (name == "--folds") arguments.folds = std::atoi(value);
    if (name == "--begin-after") arguments.begin_after = value;
    if (name == "--wait-for") arguments.wait_for = value;
    if (name == "--resume") arguments.resume = std::atoi(value) != 0;
    if (name == "--until-stop") arguments.until_stop = std::atoi(value) != 0;
    if (name == "--rows") arguments.rows = std::strtoll(value, nullptr, 10);
  }
  return arguments;
}

void WaitFor(const std::string& file) {
  while (!file.empty() && ::access(file.c_str(), F_OK) != 0) ::usleep(10'000);
}

void Train(const Arguments& arguments) {
  ikkuna_options options{};
  options.size = sizeof options;
  options.run = arguments.run.c_str();
  options.budget = -1;
  options.resume = arguments.resume;
  options.allow_control = arguments.until_stop;
  if (!arguments.resume) options.start_step = arguments.start;
  ikkuna_session* session = ikkuna_open(&options);
  const uint16_t root = ikkuna_root(session, "model");
  const uint32_t module = ikkuna_module(session, root, "fc1", "Linear", 0);
  const int64_t sizes[] = {arguments.rows, 784};
  const uint32_t weight = ikkuna_param(session, root, module, "weight", IKKUNA_F32, 2, sizes, IKKUNA_TRAINABLE);
  const std::vector<float> data(static_cast<size_t>(arguments.rows) * 784, static_cast<float>(arguments.loss));
  ikkuna_array array{};
  array.size = sizeof array;
  array.data = data.data();
  array.dtype = IKKUNA_F32;
  array.ndim = 2;
  array.sizes = sizes;
  WaitFor(arguments.begin_after);
  for (uint64_t i = arguments.start; i < arguments.start + arguments.steps; ++i) {
    const uint64_t step = arguments.epoch_steps == 0 ? i : i % arguments.epoch_steps;
    const uint64_t epoch = arguments.epoch_steps == 0 ? 0 : i / arguments.epoch_steps;
    ikkuna_step* open = ikkuna_step_begin(session, root, IKKUNA_TAG_DEFAULT, step, static_cast<uint32_t>(epoch));
    ikkuna_pass* pass = ikkuna_pass_begin(open);
    ikkuna_pass_scalar(pass, IKKUNA_LOSS, 0, arguments.loss + static_cast<double>(i));
    ikkuna_pass_end(pass);
    ikkuna_step_array(open, IKKUNA_WEIGHTS, module, weight, 0, &array);
    ikkuna_step_end(open, 0);
    if (arguments.until_stop && ikkuna_stop_requested(session) != 0) {
      std::printf("stopped after step %llu\n", static_cast<unsigned long long>(step));
      break;
    }
    if (arguments.us != 0) ::usleep(arguments.us);
  }
  WaitFor(arguments.wait_for);
  ikkuna_close(session);
}

}  // namespace

int main(int argc, char** argv) {
  const Arguments arguments = Parse(argc, argv);
  for (int fold = 0; fold < arguments.folds; ++fold) Train(arguments);
  std::puts("trained");
  return 0;
}
