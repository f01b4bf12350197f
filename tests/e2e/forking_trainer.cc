// A trainer that makes worker processes in the middle of training, by fork() of libc and by the bare system call, of
// which no handler of pthread_atfork() hears. A worker goes on with the training it was born in: every call of the
// probe must do nothing there and harm nobody.
//
//   --losses FILE   loss of each step
//   --children FILE one line for each worker that ended: how it was made, and its exit status
//   --steps N
//   --stay FILE     at half time one worker, made by the system call, stays; its process id is written here; the
//   trainer
//                   then trains on until it is killed
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <filesystem>
#include <memory>

#include <torch/torch.h>

#include "probe/ikkuna/probe.hpp"
#include "tests/e2e/small_training.h"

namespace {

using namespace small_training;

constexpr int kForkEvery = 40;
constexpr unsigned kWorkerWatchdogS = 60;

enum WorkerStatus { kInert = 0, kActive = 10, kThrew = 11, kHoldsDescriptors = 12 };

// Those of shared memory and sockets: a worker that keeps them keeps the daemon's session alive.
bool HoldsDescriptors() {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd", ignored)) {
    const std::string target = std::filesystem::read_symlink(entry.path(), ignored).string();
    if (target.find("memfd:ikkuna") != std::string::npos || target.starts_with("socket:")) return true;
  }
  return false;
}

struct Trainer {
  Mlp model;
  torch::optim::SGD optimizer{model.parameters(), torch::optim::SGDOptions(.05).momentum(.9)};
  Batches batches{16};
  std::unique_ptr<ikkuna::Probe> probe;

  torch::Tensor Pass(int64_t step) {
    const size_t batch = static_cast<size_t>(step) % batches.size();
    return torch::nn::functional::cross_entropy(model.forward(batches.x[batch]), batches.y[batch]);
  }
};

// `whole`: forks of libc run pthread_atfork's handlers, so LibTorch knows that its backward cannot run here.
[[noreturn]] void BeWorker(Trainer& trainer, int64_t step, bool by_libc, bool destroys) {
  ::alarm(kWorkerWatchdogS);
  int status = kInert;
  try {
    if (trainer.probe->active()) status = kActive;
    for (int i = 0; i < 3; ++i) {
      const torch::Tensor loss = trainer.Pass(step + i);
      if (!by_libc) loss.backward();
      trainer.optimizer.step();
      trainer.probe->Log("worker", i);
      trainer.probe->Loss(loss.detach());
      trainer.probe->Step();
    }
    trainer.probe->Epoch(99);
    trainer.probe->Tag("worker");
    trainer.probe->Hyperparameter("worker", "yes");
    Mlp another;
    trainer.probe->Attach(another);
    trainer.probe->Attach(trainer.optimizer);
    if (trainer.probe->active() || trainer.probe->StopRequested()) status = kActive;
    trainer.probe->Detach();
    if (by_libc && HoldsDescriptors()) status = kHoldsDescriptors;
    if (destroys) trainer.probe.reset();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "worker: %s\n", error.what());
    status = kThrew;
  }
  if (destroys && status == kInert) std::exit(0);  // destructors of static and of thread-local objects run as well
  ::_exit(status);
}

pid_t Clone() { return static_cast<pid_t>(::syscall(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, nullptr)); }

void MakeWorker(Trainer& trainer, int64_t step, bool by_libc, bool destroys, Lines& children) {
  const pid_t pid = by_libc ? ::fork() : Clone();
  if (pid == 0) BeWorker(trainer, step, by_libc, destroys);
  int status = -1;
  if (pid > 0) ::waitpid(pid, &status, 0);
  const int result = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  children.Write("%s %s %d\n", by_libc ? "fork" : "clone", destroys ? "exit" : "_exit", result);
}

[[noreturn]] void StayAsWorker() {
  ::alarm(kWorkerWatchdogS);
  for (;;) ::pause();
}

}  // namespace

int main(int argc, char** argv) {
  const Arguments arguments(argc, argv);
  const int64_t steps = arguments.Number("--steps", 400);
  const std::string stay = arguments.Text("--stay");
  torch::manual_seed(5);
  at::set_num_threads(1);
  Trainer trainer;
  Lines losses(arguments.Text("--losses")), children(arguments.Text("--children", "/dev/null"));
  trainer.probe = std::make_unique<ikkuna::Probe>(ikkuna::ProbeOptions{.run = "forking", .budget = 0});
  trainer.probe->Attach(trainer.model);
  trainer.probe->Attach(trainer.optimizer);
  for (int64_t step = 0; step < steps || !stay.empty(); ++step) {
    trainer.optimizer.zero_grad();
    const torch::Tensor loss = trainer.Pass(step);
    // Between forward and backward, between backward and step, after the step: a worker is born in any state.
    const int64_t turn = step / kForkEvery, moment = turn % 3;
    const bool now = stay.empty() && step % kForkEvery == kForkEvery - 1, by_libc = turn % 2 == 0,
               destroys = turn % 4 < 2;
    if (now && moment == 0) MakeWorker(trainer, step, by_libc, destroys, children);
    loss.backward();
    if (now && moment == 1) MakeWorker(trainer, step, by_libc, destroys, children);
    trainer.optimizer.step();
    losses.Write("%a\n", loss.item<double>());
    if (now && moment == 2) MakeWorker(trainer, step, by_libc, destroys, children);
    if (!stay.empty() && step == steps / 2) {
      const pid_t pid = Clone();
      if (pid == 0) StayAsWorker();
      Lines(stay).Write("%d\n", pid);
    }
  }
}
