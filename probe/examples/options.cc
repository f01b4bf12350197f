#include "probe/examples/options.h"

#include <charconv>
#include <iostream>
#include <sstream>
#include <system_error>

#include <CLI/CLI.hpp>

#include "shared/base/usage.h"

namespace trainer {
namespace {

void AddTrainingOptions(CLI::App& app, Options& o) {
  app.add_option("--epochs", o.epochs, "Passes over the training images")
      ->check(ikkuna::NumberAbove(0, false))
      ->capture_default_str();
  app.add_option("--max-steps", o.max_steps, "End after this many optimizer steps; 0: no limit")
      ->check(ikkuna::NumberAbove(0, true))
      ->capture_default_str();
  app.add_option("--batch-size", o.batch_size, "Images of a micro-batch (default 128, for tiny 16)")
      ->check(ikkuna::NumberAbove(0, false));
  app.add_option("--accumulate", o.accumulate, "Micro-batches whose gradients are added up for one step")
      ->check(ikkuna::NumberAbove(0, false))
      ->capture_default_str();
  app.add_option("--optimizer", o.optimizer, "sgd or adam")
      ->check(CLI::IsMember({"sgd", "adam"}))
      ->capture_default_str();
  app.add_option("--lr", o.lr, "Learning rate (default 0.05 for sgd, with tiny 0.005; 0.001 for adam)")
      ->check(ikkuna::NumberAbove(0, false));
  app.add_option("--momentum", o.momentum, "Momentum of sgd")->check(CLI::Range(0.0, 1.0))->capture_default_str();
  app.add_option("--clip", o.clip, "Clip the gradients to this norm; 0: do not")
      ->check(ikkuna::NumberAbove(0, true))
      ->capture_default_str();
  app.add_option("--freeze", o.freeze, "Do not train parameters whose name begins so; may be repeated");
  app.add_option("--dtype", o.dtype, "float, double, half or bfloat16")
      ->check(CLI::IsMember({"float", "double", "half", "bfloat16"}))
      ->capture_default_str();
  app.add_option("--seed", o.seed, "Of the weights, the dropout and the order of the images")->capture_default_str();
  app.add_option("--threads", o.threads, "Threads of LibTorch; 0: its own choice")
      ->check(ikkuna::NumberAbove(0, true))
      ->capture_default_str();
}

void AddTestOptions(CLI::App& app, Options& o) {
  app.add_option("--losses", o.losses, "Write every step's loss to this file, as a hexadecimal float a line")
      ->group("Tests");
  app.add_option("--dump-dir", o.dump_dir, "Write the tensors of the first steps into this folder, as .npy")
      ->group("Tests");
  app.add_option("--dump-steps", o.dump_steps, "How many steps --dump-dir writes")
      ->check(ikkuna::NumberAbove(0, false))
      ->capture_default_str()
      ->group("Tests");
}

// "1%" or "off", as the daemon's --budget.
double ParseBudget(const std::string& text) {
  if (text == "off") return 0;
  double percent = 0;
  const char* end = text.data() + text.size();
  const auto [rest, status] = std::from_chars(text.data(), end, percent);
  if (status != std::errc() || std::string(rest, end) != "%" || !(percent > 0 && percent <= 100)) {
    throw CLI::ValidationError("--budget", "'" + text + "' is neither a share such as 1% or 0.5% nor off");
  }
  return percent / 100;
}

}  // namespace

bool ParseOptions(int argc, char** argv, Options* options, int* exit_code) {
  Options& o = *options;
  CLI::App app(
      "Trains a network on Fashion-MNIST with LibTorch, watched by Ikkuna.\n"
      "The lines that use the probe end in `// ikkuna`: see probe/examples/train.cc.\n\n"
      "  ikkuna-train --model alexnet-mini --optimizer adam --epochs 1\n"
      "  ikkuna-train --model tiny --epochs 1000      # thousands of steps a second, to watch for long",
      "ikkuna-train");
  std::string budget = "1%";
  bool no_probe = false;
  app.add_option("--model", o.model, "fc, alexnet-mini, resnet-small or tiny")
      ->check(CLI::IsMember({"fc", "alexnet-mini", "resnet-small", "tiny"}))
      ->capture_default_str();
  app.add_option("--data-dir", o.data_dir, "Folder of the four gzipped Fashion-MNIST files")->capture_default_str();
  app.add_option("--test-images", o.test_images, "Images of the test pass after each epoch; 0: no test pass")
      ->check(ikkuna::NumberAbove(0, true))
      ->capture_default_str();
  AddTrainingOptions(app, o);
  app.add_option("--run", o.run, "Name of the run (default: the model's)");
  app.add_option("--budget", budget,
                 "Share of the step time the probe may take, such as 0.5%; off gives all that is asked of it")
      ->capture_default_str();
  app.add_flag("--allow-control", o.allow_control, "Let clients of the daemon freeze layers and stop the run");
  app.add_flag("--no-probe", no_probe, "Train without the probe");
  app.add_option("--log-every", o.log_every, "Steps between two progress lines")
      ->check(ikkuna::NumberAbove(0, false))
      ->capture_default_str();
  AddTestOptions(app, o);
  try {
    app.parse(argc, argv);
    o.budget = ParseBudget(budget);
  } catch (const CLI::ParseError& error) {
    *exit_code = error.get_exit_code() == 0 ? app.exit(error) : 2;  // --help is no error
    if (*exit_code != 0) {
      std::cerr << "ikkuna-train: " << ikkuna::UsageError(app, error)
                << "\n'ikkuna-train --help' shows what it takes.\n";
    }
    return false;
  }
  o.probe = !no_probe;
  if (o.batch_size == 0) o.batch_size = o.model == "tiny" ? 16 : 128;
  if (o.lr == 0) o.lr = o.optimizer == "adam" ? 0.001 : o.model == "tiny" ? 0.005 : 0.05;
  if (o.run.empty()) o.run = o.model;
  return true;
}

std::vector<std::pair<std::string, std::string>> Hyperparameters(const Options& o) {
  const auto number = [](auto value) {
    std::ostringstream text;
    text << value;
    return text.str();
  };
  std::vector<std::pair<std::string, std::string>> facts = {{"model", o.model},
                                                            {"optimizer", o.optimizer},
                                                            {"lr", number(o.lr)},
                                                            {"batch_size", number(o.batch_size)},
                                                            {"accumulate", number(o.accumulate)},
                                                            {"epochs", number(o.epochs)},
                                                            {"dtype", o.dtype},
                                                            {"seed", number(o.seed)}};
  if (o.optimizer == "sgd") facts.emplace_back("momentum", number(o.momentum));
  if (o.clip > 0) facts.emplace_back("clip", number(o.clip));
  return facts;
}

}  // namespace trainer
