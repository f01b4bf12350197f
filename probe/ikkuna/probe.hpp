// ikkuna::Probe: watches LibTorch models while they train, from two lines in the trainer.
//
//   ikkuna::Probe probe({.run = "fashion"});
//   probe.Attach(model);
//   probe.Attach(optimizer);
//   for (...) { /* unchanged */ }
//
// The probe listens to LibTorch's dispatcher: neither the model nor the loop changes. What is watched is chosen by the
// clients of ikkuna-daemon while the job runs; what nobody asked for costs next to nothing. No call of the probe waits for
// the daemon, throws, or aborts; without a daemon, or with IKKUNA=off in the environment, training goes on as without it.
//
// One probe a process; a second one does nothing and says so. Destroy it before the models that were attached by reference
// (declare it after them). Methods may be called from any training thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>
#include <torch/optim/optimizer.h>

#define IKKUNA_EXPORT __attribute__((visibility("default")))

namespace torch::jit {
struct Module;
}

namespace ikkuna {

struct ProbeOptions {
  std::string run = {};    // display name; empty: the program's name
  std::string run_id = {}; // empty: IKKUNA_RUN_ID, TORCHELASTIC_RUN_ID, the job and step of Slurm, else a new UUID
  int64_t attempt = -1;    // restart count of the scheduler; -1: TORCHELASTIC_RESTART_COUNT + SLURM_RESTART_COUNT, else
                           // the daemon numbers the lives of a run
  int64_t rank = -1;       // -1: RANK, SLURM_PROCID, else 0
  int64_t world_size = -1; // -1: WORLD_SIZE, SLURM_NTASKS, else 1
  bool resume = false;     // this run goes on with the attempt before: both are drawn as one line
  uint64_t start_step = 0; // of a resumed run: global_step counts from here; above 0 says the same as `resume`
  uint32_t start_epoch = 0;
  bool allow_control = false;  // clients may freeze layers and ask to stop
  double budget = 0.01;        // share of the step time the probe may take; 0: as the daemon says. The daemon's --budget
                               // counts where it is lower, and its `off` lifts this one, too.
  uint64_t arena_mb = 0;       // room for whole tensors under way, MiB; 0: IKKUNA_ARENA_MB, else 256
  std::string directory = {};  // of the daemon's sockets; empty: IKKUNA_DIR, else the default
  bool quiet = false;          // do not print the line that says what is captured
};

struct AttachOptions {
  std::string name = {};   // of the root; empty: model, model1, ...
  int depth = -1;          // publish modules down to this depth (1: children of the root); -1: all
  std::string filter = {}; // publish modules whose dotted path matches this shell pattern; empty: all
  bool manual_steps = false; // only Step() ends a step: for LBFGS, SAM and loops that write weights on the way
};

// A message as an in-process subscriber sees it; valid only within the callback.
struct ProbeMessage {
  std::string kind;        // weights, activations, ... as on the wire
  std::string root;
  std::string module;
  std::string param;
  std::string tag;
  uint64_t global_step = 0;
  uint32_t train_step = 0;
  uint32_t epoch = 0;
  uint32_t pass = 0;       // of the root, from 1; 0: belongs to the step as a whole
  uint16_t call = 0;       // of the module within the pass
  uint16_t flags = 0;
  at::Tensor tensor;       // undefined for scalars, texts and markers
  double scalar = 0;
  std::string text;
  std::vector<uint32_t> passes;  // batch_finished: those that the step is made of; passes_named: some of them
};

class IKKUNA_EXPORT Probe {
 public:
  explicit Probe(ProbeOptions options = {});
  ~Probe();
  Probe(const Probe&) = delete;
  Probe& operator=(const Probe&) = delete;

  // Models. By reference the caller keeps the model alive longer than the probe (one that a shared pointer owns is kept);
  // by pointer or holder the probe does.
  void Attach(torch::nn::Module& model, const AttachOptions& options = {});
  void Attach(std::shared_ptr<torch::nn::Module> model, const AttachOptions& options = {});
  template <typename Contained>
  void Attach(const torch::nn::ModuleHolder<Contained>& holder, const AttachOptions& options = {}) {
    Attach(std::shared_ptr<torch::nn::Module>(holder.ptr()), options);
  }
  // A model attached again is renewed, not watched twice: what was replaced or registered since is found then, too.
  // A scripted model is not watched, which is said: its operators do not tell which module runs them.
  void Attach(const torch::jit::Module& model, const AttachOptions& options = {});
  // Parameter groups, learning rates, moments. The optimizer stays the trainer's: it may be destroyed, moved or replaced
  // at any time, and is not read any more then; attach the one that goes on. One whose options are of a class of its own
  // (not SGDOptions, AdamOptions, ... of LibTorch) is read only if it is attached by a shared pointer, which is not kept.
  void Attach(torch::optim::Optimizer& optimizer);
  void Attach(std::shared_ptr<torch::optim::Optimizer> optimizer);

  // For what cannot be seen from outside.
  void Step();                        // ends the step of every root; from the first call on nothing else does
  void Step(torch::nn::Module& root); // of one root
  void Epoch(uint32_t epoch);         // epoch `epoch` begins; train_step counts from 0 again
  void Loss(const at::Tensor& loss);  // a custom loss, on any thread, before optimizer.step(); replaces what was recognised
  void Samples(uint64_t count);       // so many training samples more go into this step; before optimizer.step()
  // Evaluations from now on carry it (one a data set), on this thread and on those that have said none; empty: test and
  // no_grad again.
  void Tag(const std::string& name);

  // What the trainer logs by name, on the current step. Text is cut at 124 bytes.
  void Log(const std::string& name, double value);
  void Log(const std::string& name, const std::string& text);
  void Log(const std::string& name, const char* text) { Log(name, std::string(text)); }
  // A fact of the run, shown with it.
  void Hyperparameter(const std::string& name, const std::string& value);
  void Hyperparameter(const std::string& name, const char* value) { Hyperparameter(name, std::string(value)); }
  void Hyperparameter(const std::string& name, double value);

  // True once a client asked the run to stop (needs allow_control).
  bool StopRequested() const;

  // Raw messages in this process, on a training thread, at each step that is a multiple of `period`: tensors on the one
  // that they come from, markers and numbers of an evaluation that several threads run in their order, on one of them.
  // What a thread leaves at its very end the next that comes tells. An exception of the callback is caught and removes it.
  void Subscribe(const std::vector<std::string>& kinds, std::function<void(const ProbeMessage&)> callback,
                 uint32_t period = 1, const std::string& tag = "default");

  // Ends open steps and stops watching; the destructor does the same. Training goes on unwatched.
  void Detach();

  // False when this probe does nothing: IKKUNA=off, a second probe, or an internal error (which it has printed).
  bool active() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ikkuna
