// ikkuna run: a daemon for the time of one job.
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <optional>
#include <utility>

#include "daemon/cli/child_process.h"
#include "daemon/cli/commands.h"
#include "shared/handshake.h"

namespace ikkuna::cli {
namespace {

constexpr auto kStartTimeout = std::chrono::seconds(30);
constexpr auto kStartAgain = std::chrono::milliseconds(250);  // while another daemon has the directory
constexpr auto kEndGrace = std::chrono::seconds(30);          // for a daemon to write what it has
constexpr int kExitNotFound = 127;                            // as a shell says it
constexpr int kExitNotExecutable = 126;
constexpr size_t kLogLines = 10;

struct Options {
  std::vector<std::string> job;
  std::string daemon;
  std::string data_dir = "ikkuna-data";
  std::vector<std::string> daemon_args;
};

// Whether a trainer would find a daemon now: it asks where the trainer will. The socket of clients says nothing of
// that, it opens before and closes long after. And gRPC starts threads, while this command forks.
bool DaemonListens() { return shm::ConnectToDaemon(shm::DefaultDirectory()).ok(); }

// Whether the lock of the directory names a process that lives and is not ours: a daemon that is starting or ending
// does not listen. A number that another process has by now does no harm: the next start of a daemon then shows that
// the lock is free.
bool AnotherServes(const ChildProcess& ours) {
  pid_t holder = 0;
  return std::ifstream(shm::DefaultDirectory() + "/lock") >> holder && holder > 0 && holder != ours.pid() &&
         (::kill(holder, 0) == 0 || errno == EPERM);
}

// The daemon beside this program, else that of the PATH.
std::string FindDaemon() {
  std::error_code error;
  std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  std::filesystem::path beside = self.parent_path() / "ikkuna-daemon";
  if (!error && ::access(beside.c_str(), X_OK) == 0) return beside.string();
  return "ikkuna-daemon";
}

std::string LogTail(const std::string& path) {
  std::ifstream file(path);
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) {
    lines.push_back(line);
    if (lines.size() > kLogLines) lines.erase(lines.begin());
  }
  std::string text;
  for (const std::string& line : lines) text += "\n  " + line;
  return text;
}

const int kForwarded[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};

Result<ChildProcess> StartDaemon(const Options& options, const std::string& log_file, const sigset_t& mask) {
  std::error_code error;
  std::filesystem::create_directories(options.data_dir, error);
  if (error)
    return Error{ErrorCode::kSystem,
                 "cannot create '" + options.data_dir + "': " + error.message() + "; pass --data-dir"};
  ChildOptions child;
  child.command = {options.daemon.empty() ? FindDaemon() : options.daemon, "--data-dir", options.data_dir};
  child.command.insert(child.command.end(), options.daemon_args.begin(), options.daemon_args.end());
  child.log_file = log_file;
  child.own_session = true;
  child.ends_with_us = true;
  child.signal_mask = mask;
  return ChildProcess::Start(child);
}

// A daemon that takes trainers: the one that is there (nullopt), else one that is started. One that has the directory
// but does not listen is about to, or about to end: either is waited for.
Result<std::optional<ChildProcess>> MeetDaemon(const Options& options, const sigset_t& mask, const sigset_t& ours) {
  const std::string log_file = options.data_dir + "/daemon.log";
  std::optional<ChildProcess> daemon;
  auto now = std::chrono::steady_clock::now();
  const auto until = now + kStartTimeout;
  auto start_at = now;
  while (!DaemonListens()) {
    now = std::chrono::steady_clock::now();
    if (daemon && daemon->HasEnded()) {
      if (!AnotherServes(*daemon) || now > until) {
        return Error{ErrorCode::kFailedPrecondition, "ikkuna-daemon ended at its start with code " +
                                                         std::to_string(*daemon->exit_code()) + "; its log '" +
                                                         log_file + "' ends so:" + LogTail(log_file)};
      }
      if (now >= start_at) daemon.reset();
    }
    if (!daemon) {
      Result<ChildProcess> started = StartDaemon(options, log_file, mask);
      if (!started) return started.error();
      daemon.emplace(std::move(*started));
      start_at = now + kStartAgain;
    }
    if (now > until) {
      return Error{ErrorCode::kUnavailable, "ikkuna-daemon did not answer within 30 s; its log is '" + log_file + "'"};
    }
    timespec pause{0, 20'000'000};
    siginfo_t info{};
    int number = ::sigtimedwait(&ours, &info, &pause);
    // Asked to end before the job began: there is nothing to forward to.
    if (number > 0 && number != SIGCHLD)
      return Error{ErrorCode::kFailedPrecondition, "ended by a signal before the job was started"};
  }
  // It gives way to the one that listens, if it has not yet.
  if (daemon && (daemon->HasEnded() || AnotherServes(*daemon))) {
    daemon->End(kEndGrace);
    daemon.reset();
  }
  return daemon;
}

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

Result<int> RunJob(Context& context, const Options& options) {
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
  Result<std::optional<ChildProcess>> met = MeetDaemon(options, before, ours);
  if (!met) return met.error();
  std::optional<ChildProcess>& daemon = *met;
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
  if (daemon) {
    if (daemon->HasEnded()) {
      std::cerr << "ikkuna: ikkuna-daemon ended before the job did, with code " << *daemon->exit_code()
                << "; its log is '" << options.data_dir << "/daemon.log'\n";
    }
    const bool at_work = !daemon->HasEnded();
    daemon->End(kEndGrace);
    if (at_work && *daemon->exit_code() != 0) {
      std::cerr << "ikkuna: ikkuna-daemon ended with code " << *daemon->exit_code() << "; its log '" << options.data_dir
                << "/daemon.log' ends so:" << LogTail(options.data_dir + "/daemon.log") << "\n";
    }
    std::cerr << "ikkuna: what was recorded is in '" << options.data_dir
              << "'; to look at it: ikkuna-daemon --data-dir '" << options.data_dir << "'\n";
  }
  return exit_code;
}

}  // namespace

void AddRunCommand(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("run", "Runs a trainer with a daemon beside it, started if none runs and ended after it");
  command->add_option("JOB", options->job, "The trainer and its arguments, after --")->required();
  command
      ->add_option("--daemon", options->daemon,
                   "The daemon's program; default: the one beside this, else that of the PATH")
      ->type_name("FILE");
  command->add_option("--data-dir", options->data_dir, "Where a daemon that is started keeps its store and its log")
      ->type_name("DIR")
      ->capture_default_str();
  command->add_option("--daemon-arg", options->daemon_args, "Another argument for it; may be repeated")
      ->allow_extra_args(false)  // one value each time, else it takes the job
      ->type_name("ARG")
      ->expected(1)
      ->take_all();
  command->footer(
      "The exit code is that of the job, 128 + N if signal N ended it, 127 if it is not found. Signals are handed "
      "on.\n\n"
      "Examples:\n  ikkuna run -- ./train --epochs 3\n  ikkuna run --data-dir runs/7 -- python3 launch.py\n"
      "  ikkuna run --daemon-arg=--budget=off -- ./train");
  command->callback(
      [&context, options] { context.chosen = [&context, options] { return RunJob(context, *options); }; });
}

}  // namespace ikkuna::cli
