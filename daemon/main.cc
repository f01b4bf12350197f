// ikkuna-daemon: reads the configuration, starts the Daemon, waits for a signal, stops it.
//
// Signals are blocked before the first thread exists, so that only this thread takes them, with sigtimedwait(): no
// handler runs anywhere. SIGTERM, SIGINT and SIGHUP end the daemon in order; while it ends, a second one ends it at
// once. One that was ignored when the program began, such as SIGHUP under nohup, goes on being ignored.
#include <signal.h>
#include <spdlog/spdlog.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <exception>

#include "daemon/config.h"
#include "daemon/daemon.h"
#include "daemon/log.h"

namespace {

sigset_t EndSignals() {
  sigset_t set;
  sigemptyset(&set);
  for (int signal : {SIGTERM, SIGINT, SIGHUP}) {
    // A signal that is blocked is queued even where it is ignored, and sigtimedwait() takes it.
    struct sigaction now;
    if (sigaction(signal, nullptr, &now) == 0 && now.sa_handler == SIG_IGN) continue;
    sigaddset(&set, signal);
  }
  return set;
}

// The signal that ends us, or 0: idle for long enough.
int WaitForEnd(ikkuna::Daemon& daemon, const ikkuna::Config& config, const sigset_t& signals) {
  const timespec look{0, 250'000'000};
  while (true) {
    const int signal = sigtimedwait(&signals, nullptr, &look);
    if (signal > 0) return signal;
    if (config.exit_when_idle > 0 && daemon.IdleFor(config.exit_when_idle)) return 0;
  }
}

int Serve(const ikkuna::Config& config) {
  const sigset_t signals = EndSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  const ikkuna::Log log(config.log_level);

  auto started = ikkuna::Daemon::Start(config, IKKUNA_VERSION);
  if (!started) {
    spdlog::error("{}", started.error().text);
    return ikkuna::kExitFailed;
  }
  ikkuna::Daemon& daemon = **started;
  for (const std::string& note : daemon.server().notes()) spdlog::warn("{}", note);
  spdlog::info("ikkuna-daemon {} (pid {}): trainers and clients in {}{}; runs in {}; {}", IKKUNA_VERSION, ::getpid(),
               daemon.directory(),
               daemon.server().tcp_port() > 0 ? ", TCP port " + std::to_string(daemon.server().tcp_port()) : "",
               config.data_dir,
               config.tensorboard ? "TensorBoard files in " + config.TensorBoardDir() : "no TensorBoard files");
  const int signal = WaitForEnd(daemon, config, signals);
  if (signal > 0) {
    spdlog::info("{} received, ending", sigabbrev_np(signal) == nullptr ? "signal" : sigabbrev_np(signal));
  } else {
    spdlog::info("the last trainer has left and nobody asks, ending");
  }
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
  if (auto kept = daemon.Stop(); !kept) {
    spdlog::error("ended, and not everything that was read is kept: {}", kept.error().text);
    return ikkuna::kExitNotKept;
  }
  spdlog::info("ended, everything that was read is kept");
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
    if (invocation.check_config) {
      std::fputs("the configuration is right\n", stdout);
      return 0;
    }
    return Serve(invocation.config);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "ikkuna-daemon: %s\n", error.what());
    return ikkuna::kExitFailed;
  }
}
