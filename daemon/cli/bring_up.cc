#include "daemon/cli/bring_up.h"

#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <utility>

#include "shared/base/unique_fd.h"
#include "shared/base/usage.h"
#include "shared/daemon_note.h"
#include "shared/handshake.h"
#include "shared/places.h"

namespace ikkuna::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kLockTimeout = std::chrono::seconds(120);  // for those before us, each of which may wait as long as we
constexpr auto kStartTimeout = std::chrono::seconds(60);
constexpr int kPauseMs = 20;
constexpr size_t kLogLines = 10;

// A pause; false: one of the signals in `stop` came.
bool Pause(const sigset_t* stop) {
  const timespec pause{0, kPauseMs * 1'000'000};
  if (stop == nullptr) {
    ::nanosleep(&pause, nullptr);
    return true;
  }
  const int number = ::sigtimedwait(stop, nullptr, &pause);
  return number <= 0 || number == SIGCHLD;
}

constexpr const char* kInterrupted = "ended by a signal before there was a daemon";

Error Interrupted() { return Error{ErrorCode::kFailedPrecondition, kInterrupted}; }

bool IsOurs(const std::string& directory) {
  struct stat found {};
  return ::stat(directory.c_str(), &found) != 0 || found.st_uid == ::geteuid();
}

Result<shm::UpLock> TakeUpLock(const std::string& directory, const sigset_t* stop) {
  const auto until = Clock::now() + kLockTimeout;
  while (true) {
    auto tried = shm::UpLock::Try(directory);
    if (!tried) return tried.error();
    if (tried->has_value()) return std::move(**tried);
    if (Clock::now() > until) {
      return Error{ErrorCode::kUnavailable, "another 'ikkuna up' or 'ikkuna down' has worked in '" + directory +
                                                "' for two minutes; end it, or set IKKUNA_DIR"};
    }
    if (!Pause(stop)) return Interrupted();
  }
}

// The daemon beside this program, else that of the PATH.
std::string FindDaemon() {
  std::error_code error;
  std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  std::filesystem::path beside = self.parent_path() / "ikkuna-daemon";
  if (!error && ::access(beside.c_str(), X_OK) == 0) return beside.string();
  return "ikkuna-daemon";
}

off_t SizeOf(const std::string& path) {
  struct stat found {};
  return ::stat(path.c_str(), &found) == 0 ? found.st_size : 0;
}

struct Start {
  ChildProcess child;
  std::string log_file;
  off_t log_begin = 0;  // what is ahead of it was written by others
};

Result<Start> StartDaemon(const UpOptions& options, const std::string& data_directory) {
  const std::string host_directory = HostDirectory(data_directory);
  if (auto made = MakePrivateDirectories(host_directory); !made) {
    return Error{made.error().code, made.error().text + "; pass --data-dir or set IKKUNA_DATA"};
  }
  ChildOptions child;
  child.log_file = DaemonLog(host_directory);
  if (SizeOf(child.log_file) > kDaemonLogBytesMax) std::rename(child.log_file.c_str(), (child.log_file + ".1").c_str());
  const off_t log_begin = SizeOf(child.log_file);
  child.command = {options.program.empty() ? FindDaemon() : options.program, "--data-dir", data_directory, "--linger",
                   CLI::detail::to_string(options.linger_seconds)};
  child.command.insert(child.command.end(), options.daemon_args.begin(), options.daemon_args.end());
  child.detached = true;
  auto started = ChildProcess::Start(child);
  if (!started) return started.error();
  return Start{std::move(*started), child.log_file, log_begin};
}

std::string ReadProcess(pid_t pid, const char* name) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/" + name);
  return {std::istreambuf_iterator<char>(file), {}};
}

// What follows its name in /proc/<pid>/stat, which begins with a letter for its state; empty: there is no such process.
std::string StatOf(pid_t pid) {
  const std::string stat = ReadProcess(pid, "stat");
  const size_t name_end = stat.rfind(')');  // the name may hold any character
  return name_end == std::string::npos || name_end + 2 >= stat.size() ? std::string() : stat.substr(name_end + 2);
}

// Whether it was stopped (SIGSTOP, a debugger): it takes connections then, and nobody answers.
bool IsStopped(pid_t pid) {
  const std::string stat = StatOf(pid);
  return !stat.empty() && (stat[0] == 'T' || stat[0] == 't');
}

// Whether it was killed: its sockets take connections until its memory is given back, and nobody answers.
bool IsDying(pid_t pid) {
  std::istringstream stat(StatOf(pid));
  char state = 'X';
  int64_t ids[5];  // parent, group, session, terminal, its group
  uint64_t flags = 0;
  stat >> state;
  for (int64_t& id : ids) stat >> id;
  stat >> flags;
  constexpr uint64_t kExiting = 4;  // PF_EXITING of the kernel
  if (!stat || state == 'Z' || state == 'X' || (flags & kExiting) != 0) return true;
  // Not told of it yet.
  std::istringstream status(ReadProcess(pid, "status"));
  for (std::string line; std::getline(status, line);) {
    if (!line.starts_with("SigPnd:") && !line.starts_with("ShdPnd:")) continue;
    if ((std::strtoull(line.c_str() + 7, nullptr, 16) & (uint64_t{1} << (SIGKILL - 1))) != 0) return true;
  }
  return false;
}

// One that serves: where it keeps its data, and whether that is where it was asked to.
Result<Served> Meet(const UpOptions& options, const std::string& directory) {
  Served served;
  served.directory = directory;
  if (auto note = shm::ReadDaemonNote(directory)) {
    served.pid = note->pid;
    served.data_directory = note->data_directory;
    if (IsStopped(note->pid)) {
      const std::string pid = std::to_string(note->pid);
      return Error{ErrorCode::kUnavailable, "ikkuna-daemon (process " + pid +
                                                ") is stopped and answers nobody; 'kill -CONT " + pid +
                                                "' lets it go on, 'ikkuna down' ends it"};
    }
  }
  if (options.data_dir.empty() || served.data_directory.empty()) return served;
  auto wanted = DataDirectory(options.data_dir);
  if (!wanted) return wanted.error();
  std::error_code error;
  if (*wanted == served.data_directory || std::filesystem::equivalent(*wanted, served.data_directory, error)) {
    return served;
  }
  return Error{ErrorCode::kFailedPrecondition,
               "cannot keep data in '" + *wanted + "': the daemon that serves '" + directory + "' (process " +
                   std::to_string(served.pid) + ") keeps it in '" + served.data_directory +
                   "'; leave --data-dir out, end that one with 'ikkuna down', or set IKKUNA_DIR to another directory"};
}

Error EndedAtStart(const Start& start) {
  const std::string tail = LogTail(start.log_file, start.log_begin);
  return Error{
      ErrorCode::kFailedPrecondition,
      "ikkuna-daemon ended at its start with code " + std::to_string(start.child.exit_code().value_or(-1)) +
          (tail.empty()
               ? "; its log '" + start.log_file +
                     "' has nothing of it, as where a disk is full: make room on that disk, or pass --data-dir; "
                     "'ikkuna-daemon' by itself says why"
               : "; its log '" + start.log_file + "' ends so:" + tail)};
}

// With the lock of `up`.
Result<Served> MeetOrStart(const UpOptions& options, const std::string& directory, const sigset_t* stop) {
  const auto until = Clock::now() + kStartTimeout;
  std::optional<Start> start;
  while (true) {
    auto connected = shm::ConnectToDaemon(directory);
    const auto holder = shm::ReadDaemonNote(directory);
    if (connected && !(holder && IsDying(holder->pid))) break;
    if (!connected && connected.error().code != ErrorCode::kUnavailable) return connected.error();
    const bool late = Clock::now() > until;
    if (start && start->child.HasEnded()) {
      // It gives way to another that has the directory, which is starting or ending; that one is waited for.
      if (late || !shm::IsServed(directory)) return EndedAtStart(*start);
      start.reset();
    }
    if (!start && !shm::IsServed(directory)) {
      auto data_directory = DataDirectory(options.data_dir);
      if (!data_directory) return data_directory.error();
      auto started = StartDaemon(options, *data_directory);
      if (!started) return started.error();
      start.emplace(std::move(*started));
    }
    if (late) {
      const auto note = shm::ReadDaemonNote(directory);
      return Error{ErrorCode::kUnavailable,
                   "ikkuna-daemon (process " + std::to_string(note ? note->pid : 0) + ") has '" + directory +
                       "', but took no trainer within a minute; it may be stopped, or still writing at its end"};
    }
    if (!Pause(stop)) return Interrupted();
  }
  // What listens may be another, started by hand in the same moment.
  const auto note = shm::ReadDaemonNote(directory);
  const bool is_ours = start && !start->child.HasEnded() && (!note || note->pid == start->child.pid());
  if (start && !is_ours) start.reset();
  auto served = Meet(start ? UpOptions{} : options, directory);
  if (!served || !start) return served;
  served->pid = start->child.pid();
  served->log_file = start->log_file;
  served->started.emplace(std::move(start->child));
  return served;
}

}  // namespace

bool WasInterrupted(const Error& error) { return error.text == kInterrupted; }

std::string LogTail(const std::string& path, off_t offset) {
  std::ifstream file(path, std::ios::binary);
  file.seekg(offset);
  std::deque<std::string> lines;
  for (std::string line; std::getline(file, line);) {
    lines.push_back(line);
    if (lines.size() > kLogLines) lines.pop_front();
  }
  std::string text;
  for (const std::string& line : lines) text += "\n  " + line;
  return text;
}

void AddUpOptions(CLI::App* command, UpOptions* options) {
  command
      ->add_option("--daemon", options->program,
                   "The daemon's program; default: the one beside this, else that of the PATH")
      ->type_name("FILE");
  command
      ->add_option("--data-dir", options->data_dir,
                   "Where a daemon that is started keeps runs. Default: $IKKUNA_DATA, else $XDG_DATA_HOME/ikkuna, else "
                   "~/.local/share/ikkuna")
      ->type_name("DIR");
  command
      ->add_option("--linger", options->linger_seconds,
                   "A daemon that is started ends by itself when no trainer came for so long and no client is "
                   "connected; 0: never")
      ->type_name("SECONDS")
      ->capture_default_str()
      ->check(NumberAbove(0, true));
  command->add_option("--daemon-arg", options->daemon_args, "Another argument for it; may be repeated")
      ->allow_extra_args(false)  // one value each time, else it takes what follows
      ->type_name("ARG")
      ->expected(1)
      ->take_all();
}

UpOptions OptionsOf(UpOptions options, const Context& context) {
  if (options.data_dir.empty()) options.data_dir = context.connection.data_dir;
  return options;
}

Result<Served> BringUp(const UpOptions& options, const sigset_t* stop) {
  const std::string directory = shm::DefaultDirectory();
  // Somebody else's daemon lets us in or not; its directory is none of our business.
  auto connected = shm::ConnectToDaemon(directory);
  if (connected ? !IsOurs(directory) : connected.error().code == ErrorCode::kInvalidArgument) {
    if (!connected) return connected.error();
    return Meet(options, directory);
  }
  if (auto prepared = shm::PrepareDirectory(directory, false); !prepared) {
    Error error = prepared.error();
    if (error.text.find("IKKUNA_DIR") == std::string::npos) error.text += "; set IKKUNA_DIR to another directory";
    return error;
  }
  auto lock = TakeUpLock(directory, stop);
  if (!lock) return lock.error();
  auto served = MeetOrStart(options, directory, stop);
  if (served) lock->Want();
  return served;
}

Result<std::string> BringDown(double timeout_seconds) {
  const std::string directory = shm::DefaultDirectory();
  const std::string nobody = "no ikkuna-daemon serves '" + directory + "'";
  const auto until = Clock::now() + std::chrono::duration<double>(timeout_seconds);
  struct stat found {};
  if (::stat(directory.c_str(), &found) != 0 && errno == ENOENT) return nobody;
  auto lock = TakeUpLock(directory, nullptr);
  if (!lock) return lock.error();
  auto note = shm::ReadDaemonNote(directory);
  const UniqueFd process(note ? static_cast<int>(::syscall(SYS_pidfd_open, note->pid, 0)) : -1);
  // Looked at after its process was taken hold of: who holds the lock then is that process, or a child that it left.
  if (!shm::IsServed(directory)) return nobody;
  if (!process) {
    return PosixError("cannot end the daemon of '" + directory + "', process " + std::to_string(note ? note->pid : 0),
                      errno);
  }
  const std::string name = "ikkuna-daemon (process " + std::to_string(note->pid) + ")";
  if (::syscall(SYS_pidfd_send_signal, process.get(), SIGTERM, nullptr, 0) != 0) {
    return PosixError("cannot end " + name, errno);
  }
  ::syscall(SYS_pidfd_send_signal, process.get(), SIGCONT, nullptr, 0);  // a stopped one would not hear it
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now()).count();
  pollfd end{process.get(), POLLIN, 0};
  int ended;
  do {
    ended = ::poll(&end, 1, static_cast<int>(std::clamp<int64_t>(left, 0, INT32_MAX)));
  } while (ended < 0 && errno == EINTR);
  if (ended <= 0) {
    return Error{ErrorCode::kUnavailable, name +
                                              " has been asked to end, and still writes what it has; 'ikkuna down' "
                                              "again waits on"};
  }
  const auto last = shm::ReadDaemonNote(directory);
  if (last && last->pid == note->pid && last->state == shm::DaemonState::kEnded) {
    return name + " has ended, everything that was read is kept in '" + last->data_directory + "'";
  }
  if (last && last->pid == note->pid && last->state == shm::DaemonState::kNotKept) {
    return Error{ErrorCode::kFailedPrecondition,
                 name + " has ended, and not everything that was read is kept: " + last->text};
  }
  return Error{ErrorCode::kFailedPrecondition, name + " has ended, but not in order; what it had committed is kept"};
}

}  // namespace ikkuna::cli
