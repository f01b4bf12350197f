// ikkuna-daemon: reads the configuration, starts the Daemon, waits for a signal, stops it.
//
// Signals are blocked before the first thread exists, so that only this thread takes them, with sigtimedwait(): no
// handler runs anywhere. SIGTERM and SIGINT end the daemon in order; while it ends, a second one ends it at once. SIGHUP
// has it read its configuration again. One that was ignored when the program began, such as SIGHUP under nohup, goes on
// being ignored.
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <exception>

#include "daemon/config.h"
#include "daemon/daemon.h"
#include "daemon/log.h"
#include "daemon/service/access.h"
#include "shared/places.h"

namespace {

struct CommandLine {
  int argc = 0;
  char** argv = nullptr;
};

sigset_t SetOf(std::initializer_list<int> signals) {
  sigset_t set;
  sigemptyset(&set);
  for (int signal : signals) {
    // A signal that is blocked is queued even where it is ignored, and sigtimedwait() takes it.
    struct sigaction now;
    if (sigaction(signal, nullptr, &now) == 0 && now.sa_handler == SIG_IGN) continue;
    sigaddset(&set, signal);
  }
  return set;
}

ikkuna::Result<ikkuna::Config> ReadAgain(const CommandLine& line) {
  ikkuna::Invocation invocation = ikkuna::ParseCommandLine(line.argc, line.argv, IKKUNA_VERSION);
  if (!invocation.done) return std::move(invocation.config);
  while (!invocation.text.empty() && invocation.text.back() == '\n') invocation.text.pop_back();
  return ikkuna::Error{ikkuna::ErrorCode::kInvalidArgument, invocation.text};
}

// The signal that ends us, or 0: nobody needs the daemon any more.
int WaitForEnd(ikkuna::Daemon& daemon, const CommandLine& line, const sigset_t& signals) {
  const timespec look{0, 250'000'000};
  while (true) {
    const int signal = sigtimedwait(&signals, nullptr, &look);
    if (signal == SIGHUP) {
      daemon.Reload(ReadAgain(line));
      continue;
    }
    if (signal > 0) return signal;
    if (daemon.LingerIsOver()) return 0;
  }
}

// A connection, a run and a trainer each cost descriptors. The limit that processes begin with is small for the sake of
// select(), which nothing here calls; each part takes its share of what there is.
void RaiseFileLimit() {
  constexpr rlim_t kEnough = 65'536;
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur >= kEnough) return;
  files.rlim_cur = std::min(files.rlim_max, kEnough);
  ::setrlimit(RLIMIT_NOFILE, &files);
}

int Serve(const ikkuna::Config& config, const CommandLine& line) {
  const sigset_t signals = SetOf({SIGTERM, SIGINT, SIGHUP});
  const sigset_t ending = SetOf({SIGTERM, SIGINT});
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  // A file that may not grow any more (ulimit -f) is an error to be told, not the end.
  ::signal(SIGXFSZ, SIG_IGN);
  // What is written of a training is its user's alone.
  ::umask(0077);
  RaiseFileLimit();
  ikkuna::LogFile own;
  if (auto data = ikkuna::DataDirectory(config.data_dir)) {
    own = {ikkuna::DaemonLog(ikkuna::HostDirectory(*data)), ikkuna::kDaemonLogBytesMax};
  }
  const ikkuna::Log log(config.log_level, STDERR_FILENO, std::move(own));

  auto started = ikkuna::Daemon::Start(config, IKKUNA_VERSION);
  if (!started) {
    spdlog::error("{}", started.error().text);
    return ikkuna::kExitFailed;
  }
  ikkuna::Daemon& daemon = **started;
  const ikkuna::Config& effective = daemon.config();
  for (const std::string& note : daemon.server().notes()) spdlog::warn("{}", note);
  spdlog::info("ikkuna-daemon {} (pid {}): trainers and clients in {}{}; runs in {}; {}", IKKUNA_VERSION, ::getpid(),
               daemon.directory(),
               daemon.server().tcp_port() > 0 ? ", TCP port " + std::to_string(daemon.server().tcp_port()) : "",
               effective.data_dir,
               effective.tensorboard ? "TensorBoard files in " + effective.TensorBoardDir() : "no TensorBoard files");
  const int signal = WaitForEnd(daemon, line, signals);
  if (signal > 0) {
    spdlog::info("{} received, ending", sigabbrev_np(signal) == nullptr ? "signal" : sigabbrev_np(signal));
  } else {
    spdlog::info("nobody needs this daemon any more, ending");
  }
  pthread_sigmask(SIG_UNBLOCK, &ending, nullptr);
  if (auto kept = daemon.Stop(); !kept) {
    spdlog::error("ended, and not everything that was read is kept: {}", kept.error().text);
    return ikkuna::kExitNotKept;
  }
  spdlog::info("ended, everything that was read is kept");
  return 0;
}

// Also the files of tokens and certificates: a daemon would not start with what is wrong in them.
int Check(const ikkuna::Config& config) {
  const std::string directory = config.dir.empty() ? "." : config.dir;
  const auto access = ikkuna::service::Access::Read(ikkuna::ServerOptionsOf(config, directory));
  if (!access) {
    std::fprintf(stderr, "ikkuna-daemon: %s\n", access.error().text.c_str());
    return ikkuna::kExitUsage;
  }
  for (const std::string& note : (*access)->notes()) std::fprintf(stderr, "ikkuna-daemon: %s\n", note.c_str());
  std::fputs("the configuration is right\n", stdout);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const ikkuna::Invocation invocation = ikkuna::ParseCommandLine(argc, argv, IKKUNA_VERSION);
    if (invocation.done) {
      std::fputs(invocation.text.c_str(), invocation.exit_code == 0 ? stdout : stderr);
      return invocation.exit_code;
    }
    if (invocation.print_config) {
      std::fputs(ikkuna::PrintConfig(invocation.config).c_str(), stdout);
      return 0;
    }
    if (invocation.check_config) return Check(invocation.config);
    return Serve(invocation.config, {argc, argv});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "ikkuna-daemon: %s\n", error.what());
    return ikkuna::kExitFailed;
  }
}
