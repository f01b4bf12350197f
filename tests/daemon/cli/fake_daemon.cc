#include "tests/daemon/cli/fake_daemon.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <optional>

#include "shared/daemon_note.h"
#include "shared/handshake.h"

namespace ikkuna::test {
namespace {

std::string Variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

void SleepMs(const std::string& text) {
  if (!text.empty()) std::this_thread::sleep_for(std::chrono::milliseconds(std::stoi(text)));
}

[[noreturn]] void Serve(const std::string& directory) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGUSR1);
  ::sigprocmask(SIG_BLOCK, &signals, nullptr);
  auto lock = shm::DirectoryLock::Take(directory);
  if (!lock) ::_exit(1);
  std::ofstream(directory + "/starts", std::ios::app) << ::getpid() << "\n";
  shm::DaemonNote note{::getpid(), shm::DaemonState::kStarting, Variable("IKKUNA_TEST_FAKE_DATA"), ""};
  static_cast<void>(shm::WriteDaemonNote(*lock, note));
  SleepMs(Variable("IKKUNA_TEST_FAKE_DELAY_MS"));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strcpy(address.sun_path, (directory + "/grpc.sock").c_str());
  ::unlink(address.sun_path);
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 || ::listen(fd, 16) != 0) ::_exit(9);
  auto door = shm::ListenForProducers(directory, false);
  if (!door) ::_exit(9);
  note.state = shm::DaemonState::kServing;
  static_cast<void>(shm::WriteDaemonNote(*lock, note));
  int number = 0;
  ::sigwait(&signals, &number);
  std::optional<shm::UpLock> up_lock;
  if (number == SIGUSR1) {
    auto tried = shm::UpLock::Try(directory);
    if (!tried || !*tried) ::_exit(9);
    up_lock = std::move(*tried);
  }
  ::unlink(shm::ProbeSocketPath(directory).c_str());
  door->reset();
  std::ofstream(directory + "/ending") << "yes";
  SleepMs(Variable("IKKUNA_TEST_FAKE_SLOW_END_MS"));
  ::unlink(address.sun_path);
  note.text = Variable("IKKUNA_TEST_FAKE_NOT_KEPT");
  note.state = note.text.empty() ? shm::DaemonState::kEnded : shm::DaemonState::kNotKept;
  static_cast<void>(shm::WriteDaemonNote(*lock, note));
  std::ofstream(directory + "/ended") << "yes";
  ::_exit(note.text.empty() ? 0 : 3);
}

// Runs before the main() of the tests when the variable asks for it.
bool BecomeDaemon() {
  const std::string directory = Variable("IKKUNA_TEST_FAKE_DAEMON");
  if (!directory.empty()) Serve(directory);
  return false;
}
const bool kNeverTrue = BecomeDaemon();

}  // namespace
}  // namespace ikkuna::test
