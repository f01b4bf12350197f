// ikkuna run: a daemon for the time of one job.
#include <linux/limits.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>
#include <thread>

#include "daemon/cli/child_process.h"
#include "daemon/cli/commands.h"
#include "shared/base/unique_fd.h"
#include "shared/handshake.h"

namespace ikkuna::cli {
namespace {

constexpr auto kStartTimeout = std::chrono::seconds(30);
constexpr auto kEndGrace = std::chrono::seconds(30);  // for a daemon to write what it has
constexpr int kExitNotFound = 127;                    // as a shell says it
constexpr int kExitNotExecutable = 126;
constexpr size_t kLogLines = 10;

struct Options {
  std::vector<std::string> job;
  std::string daemon;
  std::string data_dir = "ikkuna-data";
  std::vector<std::string> daemon_args;
};

// gRPC starts threads, and this command forks: it only looks whether somebody listens.
bool DaemonListens() {
  std::string path = shm::DefaultDirectory() + "/grpc.sock";
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return false;
  std::memcpy(address.sun_path, path.data(), path.size());
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  return fd &&
         (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 || errno == EAGAIN);
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

Result<ChildProcess> StartDaemon(const Options& options, const sigset_t& mask, const sigset_t& ours) {
  std::error_code error;
  std::filesystem::create_directories(options.data_dir, error);
  if (error)
    return Error{ErrorCode::kSystem,
                 "cannot create '" + options.data_dir + "': " + error.message() + "; pass --data-dir"};
  ChildOptions child;
  child.command = {options.daemon.empty() ? FindDaemon() : options.daemon, "--data-dir", options.data_dir};
  child.command.insert(child.command.end(), options.daemon_args.begin(), options.daemon_args.end());
  child.log_file = options.data_dir + "/daemon.log";
  child.own_session = true;
  child.ends_with_us = true;
  child.signal_mask = mask;
  Result<ChildProcess> daemon = ChildProcess::Start(child);
  if (!daemon) return daemon;
  auto until = std::chrono::steady_clock::now() + kStartTimeout;
  while (!DaemonListens()) {
    if (daemon->HasEnded()) {
      return Error{ErrorCode::kFailedPrecondition, "ikkuna-daemon ended at its start with code " +
                                                       std::to_string(*daemon->exit_code()) + "; its log '" +
                                                       child.log_file + "' ends so:" + LogTail(child.log_file)};
    }
    timespec pause{0, 20'000'000};
    siginfo_t info{};
    int number = ::sigtimedwait(&ours, &info, &pause);
    // Asked to end before the job began: there is nothing to forward to.
    if (number > 0 && number != SIGCHLD)
      return Error{ErrorCode::kFailedPrecondition, "ended by a signal before the job was started"};
    if (std::chrono::steady_clock::now() > until) {
      return Error{ErrorCode::kUnavailable,
                   "ikkuna-daemon did not answer within 30 s; its log is '" + child.log_file + "'"};
    }
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
  std::optional<ChildProcess> daemon;
  if (!DaemonListens()) {
    Result<ChildProcess> started = StartDaemon(options, before, ours);
    if (!started) return started.error();
    daemon.emplace(std::move(*started));
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
  if (daemon) {
    if (daemon->HasEnded()) {
      std::cerr << "ikkuna: ikkuna-daemon ended before the job did, with code " << *daemon->exit_code()
                << "; its log is '" << options.data_dir << "/daemon.log'\n";
    }
    daemon->End(kEndGrace);
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
