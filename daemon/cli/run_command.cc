// ikkuna run: a job, and a daemon that watches it (`ikkuna up`).
#include <unistd.h>

#include <csignal>
#include <iostream>
#include <memory>
#include <optional>
#include <utility>

#include "daemon/cli/bring_up.h"
#include "daemon/cli/child_process.h"
#include "daemon/cli/commands.h"
#include "shared/daemon_note.h"

namespace ikkuna::cli {
namespace {

constexpr int kExitNotFound = 127;  // as a shell says it
constexpr int kExitNotExecutable = 126;

struct RunOptions {
  std::vector<std::string> job;
  UpOptions up;
};

const int kForwarded[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};

// Waits for the job and hands on to it the signals that were sent to us. What the terminal sends, it sends to the job
// too.
int Supervise(ChildProcess* job, const sigset_t& ours) {
  while (!job->HasEnded()) {
    siginfo_t info{};
    int number = ::sigwaitinfo(&ours, &info);
    if (number > 0 && number != SIGCHLD && info.si_code != SI_KERNEL) job->Signal(number);
  }
  return *job->exit_code();
}

Result<int> RunJob(Context& context, const RunOptions& options) {
  if (!context.connection.address.empty()) {
    return Error{
        ErrorCode::kInvalidArgument,
        "run meets its job in the directory of the sockets; set IKKUNA_DIR for another one and leave --address out"};
  }
  sigset_t ours, before;
  sigemptyset(&ours);
  sigaddset(&ours, SIGCHLD);
  for (int number : kForwarded) {
    // Blocked, it would be queued and taken even where it is ignored (nohup); the job and the daemon ignore it as well.
    struct sigaction now;
    if (::sigaction(number, nullptr, &now) == 0 && now.sa_handler == SIG_IGN) continue;
    sigaddset(&ours, number);
  }
  // A parent may have left it ignored, and then no child can be waited for.
  std::signal(SIGCHLD, SIG_DFL);
  ::sigprocmask(SIG_BLOCK, &ours, &before);
  Result<Served> served = BringUp(OptionsOf(options.up, context), &ours);
  std::optional<shm::DaemonUse> use;
  if (served) {
    // The trainer may take an hour before it comes. Of somebody else's daemon it cannot be had, nor needs to be.
    if (Result<shm::DaemonUse> held = shm::DaemonUse::Hold(served->directory)) use = *std::move(held);
  } else if (WasInterrupted(served.error())) {
    return served.error();
  } else {
    // No training is lost for want of a daemon.
    std::cerr << "ikkuna: the job runs, and nothing of it is recorded: " << served.error().text << "\n";
  }
  ChildOptions child;
  child.command = options.job;
  child.signal_mask = before;
  int exit_code = 0;
  {
    Result<ChildProcess> job = ChildProcess::Start(child);
    if (!job) {
      std::cerr << "ikkuna: " << job.error().text << "\n";
      exit_code = job.error().code == ErrorCode::kNotFound ? kExitNotFound : kExitNotExecutable;
    } else {
      exit_code = Supervise(&*job, ours);
    }
  }
  if (!served) {
    std::cerr << "ikkuna: nothing of this job was recorded, since no daemon could be started, see above\n";
    return exit_code;
  }
  std::optional<ChildProcess>& daemon = served->started;
  if (daemon && daemon->HasEnded()) {
    std::cerr << "ikkuna: ikkuna-daemon ended before the job did, with code " << *daemon->exit_code()
              << "; its log is '" << served->log_file << "'\n";
  } else if (daemon) {
    std::cerr << "ikkuna: what was recorded is in '" << served->data_directory
              << "'; 'ikkuna runs' and 'ikkuna plot' show it, 'ikkuna down' ends the daemon now\n";
    daemon->LetGo();
  }
  return exit_code;
}

}  // namespace

void AddRunCommand(CLI::App& app, Context& context) {
  auto options = std::make_shared<RunOptions>();
  CLI::App* command = app.add_subcommand("run", "Runs a trainer with a daemon beside it, started if none runs");
  command->add_option("JOB", options->job, "The trainer and its arguments, after --")->required();
  AddUpOptions(command, &options->up);
  command->footer(
      "The exit code is that of the job, 128 + N if signal N ended it, 127 if it is not found. Signals are handed "
      "on. Where no daemon can be started the job runs all the same, unrecorded, and that is said. The daemon stays "
      "for a while, to be asked; see --linger.\n\n"
      "Examples:\n  ikkuna run -- ./train --epochs 3\n  ikkuna run --data-dir runs/7 -- python3 launch.py\n"
      "  ikkuna run --daemon-arg=--budget=off -- ./train");
  command->callback(
      [&context, options] { context.chosen = [&context, options] { return RunJob(context, *options); }; });
}

}  // namespace ikkuna::cli
