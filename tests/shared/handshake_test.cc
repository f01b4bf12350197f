// The meeting: directory, lock, socket, the three messages, and peers that break the rules.
#include "shared/handshake.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "shared/tlv.h"
#include "tests/shared/transport_pair.h"

namespace ikkuna::shm {
namespace {

// A directory of our own that ends with the test.
struct ScratchDirectory {
  std::string path;
  ScratchDirectory() {
    char name[] = "/tmp/ikkuna-test-XXXXXX";
    if (mkdtemp(name) != nullptr) path = name;
  }
  ~ScratchDirectory() {
    if (!path.empty()) std::filesystem::remove_all(path);
  }
};

struct SocketPair {
  UniqueFd a;
  UniqueFd b;
  SocketPair() {
    int fds[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
    a.reset(fds[0]);
    b.reset(fds[1]);
  }
};

size_t OpenFds() {
  size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++count;
  return count;
}

UniqueFd SomeFd() { return UniqueFd(memfd_create("some", MFD_CLOEXEC)); }

void SendRaw(int socket_fd, const std::string& bytes, const std::vector<int>& fds) {
  iovec data{const_cast<char*>(bytes.data()), bytes.size()};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  std::vector<unsigned char> control(CMSG_SPACE(fds.size() * sizeof(int)));
  if (!fds.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    std::memcpy(CMSG_DATA(header), fds.data(), fds.size() * sizeof(int));
  }
  ASSERT_GE(sendmsg(socket_fd, &message, MSG_NOSIGNAL), 0) << std::strerror(errno);
}

Hello SomeHello() {
  Hello hello;
  for (size_t i = 0; i < hello.uuid.size(); ++i) hello.uuid[i] = static_cast<unsigned char>(i);
  hello.run_id = "run-1";
  hello.run_id_made_up = true;
  hello.run = "fashion";
  hello.attempt = 2;
  hello.rank = 3;
  hello.world_size = 8;
  hello.feature_bits = kFeatureArena | kFeatureLateBytes;
  hello.heads = {77, 4096, 128};
  return hello;
}

// ---- Messages

TEST(Handshake, HelloArrivesWithItsDescriptor) {
  SocketPair pair;
  UniqueFd pub = SomeFd();
  ASSERT_TRUE(SendHello(pair.a.get(), SomeHello(), pub.get()).ok());
  auto received = ReceiveHello(pair.b.get());
  ASSERT_TRUE(received.ok()) << received.error().text;
  const Hello& hello = received->hello;
  EXPECT_EQ(hello.uuid, SomeHello().uuid);
  EXPECT_EQ(hello.run_id, "run-1");
  EXPECT_TRUE(hello.run_id_made_up);
  EXPECT_EQ(hello.run, "fashion");
  EXPECT_EQ(hello.attempt, 2u);
  EXPECT_EQ(hello.rank, 3u);
  EXPECT_EQ(hello.world_size, 8u);
  EXPECT_EQ(hello.feature_bits, uint64_t{kFeatureArena | kFeatureLateBytes});
  EXPECT_EQ(hello.heads, (Heads{77, 4096, 128}));
  struct stat sent {};
  struct stat got {};
  ASSERT_EQ(fstat(pub.get(), &sent), 0);
  ASSERT_EQ(fstat(received->pub_fd.get(), &got), 0);
  EXPECT_EQ(sent.st_ino, got.st_ino);
  EXPECT_NE(fcntl(received->pub_fd.get(), F_GETFD) & FD_CLOEXEC, 0);
}

TEST(Handshake, AnswersArrive) {
  SocketPair pair;
  UniqueFd ctl = SomeFd();
  ASSERT_TRUE(SendWelcome(pair.a.get(), {9, kFeatureCommands, "0.1.0"}, ctl.get()).ok());
  ASSERT_TRUE(SendReject(pair.a.get(), {"64 producers are here already"}).ok());
  auto first = ReceiveAnswer(pair.b.get());
  ASSERT_TRUE(first.ok()) << first.error().text;
  ASSERT_TRUE(std::holds_alternative<ReceivedWelcome>(*first));
  const auto& welcome = std::get<ReceivedWelcome>(*first);
  EXPECT_EQ(welcome.welcome.session_id, 9u);
  EXPECT_EQ(welcome.welcome.feature_bits, uint64_t{kFeatureCommands});
  EXPECT_EQ(welcome.welcome.daemon_version, "0.1.0");
  EXPECT_TRUE(welcome.ctl_fd.valid());
  auto second = ReceiveAnswer(pair.b.get());
  ASSERT_TRUE(second.ok()) << second.error().text;
  ASSERT_TRUE(std::holds_alternative<Reject>(*second));
  EXPECT_EQ(std::get<Reject>(*second).reason, "64 producers are here already");
}

TEST(Handshake, TextsAreCleanedAndCut) {
  SocketPair pair;
  UniqueFd pub = SomeFd();
  Hello hello = SomeHello();
  hello.run = std::string(300, 'r');
  hello.run_id = "a\xff";
  ASSERT_TRUE(SendHello(pair.a.get(), hello, pub.get()).ok());
  ASSERT_TRUE(SendReject(pair.b.get(), {std::string(5000, 'x')}).ok());
  auto received = ReceiveHello(pair.b.get());
  ASSERT_TRUE(received.ok()) << received.error().text;
  EXPECT_EQ(received->hello.run.size(), kMaxNameBytes);
  EXPECT_EQ(received->hello.run.substr(0, 239), std::string(238, 'r') + "~");
  // Two runs whose names are alike as far as they can be written are two.
  EXPECT_EQ(received->hello.run_id.substr(0, 3), "a?~");
  EXPECT_EQ(received->hello.run_id.size(), 19u);
  auto answer = ReceiveAnswer(pair.a.get());
  ASSERT_TRUE(answer.ok());
  EXPECT_EQ(std::get<Reject>(*answer).reason.size(), kMaxReasonBytes);
}

// A process that has no descriptor left gets no word of what was sent to it; the peer broke no rule.
TEST(Handshake, ADescriptorThatFindsNoRoomIsOurOwnLimit) {
  SocketPair pair;
  UniqueFd pub = SomeFd();
  ASSERT_TRUE(SendHello(pair.a.get(), SomeHello(), pub.get()).ok());
  rlimit limit{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  const rlimit none{0, limit.rlim_max};  // those that are open stay
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  auto received = ReceiveHello(pair.b.get());
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  ASSERT_FALSE(received.ok());
  EXPECT_EQ(received.error().code, ErrorCode::kResourceExhausted);
  EXPECT_NE(received.error().text.find("ulimit -n"), std::string::npos) << received.error().text;
}

TEST(Handshake, NothingYetAndNeverAgainAreTold) {
  SocketPair pair;
  EXPECT_EQ(ReceiveHello(pair.b.get()).error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(ReceiveAnswer(pair.a.get()).error().code, ErrorCode::kUnavailable);
  pair.a.reset();
  EXPECT_EQ(ReceiveHello(pair.b.get()).error().code, ErrorCode::kFailedPrecondition);
  EXPECT_FALSE(SendReject(pair.b.get(), {"too late"}).ok()) << "and no SIGPIPE";
}

TEST(Handshake, FieldOfALaterVersionIsSkipped) {
  SocketPair pair;
  TlvWriter writer(MessageType::kReject);
  writer.Put(static_cast<Tag>(4000), "new", 3);
  writer.PutText(Tag::kReason, "no");
  SendRaw(pair.a.get(), writer.bytes(), {});
  auto answer = ReceiveAnswer(pair.b.get());
  ASSERT_TRUE(answer.ok()) << answer.error().text;
  EXPECT_EQ(std::get<Reject>(*answer).reason, "no");
}

// ---- Peers that break the rules

std::string HelloBytes() {
  SocketPair pair;
  UniqueFd pub = SomeFd();
  EXPECT_TRUE(SendHello(pair.a.get(), SomeHello(), pub.get()).ok());
  std::string bytes(kMaxMessageBytes, '\0');
  const ssize_t size = recv(pair.b.get(), bytes.data(), bytes.size(), 0);
  bytes.resize(size > 0 ? static_cast<size_t>(size) : 0);
  return bytes;
}

void ExpectHelloRefused(const std::string& bytes, size_t fd_count, const char* what) {
  SocketPair pair;
  UniqueFd fd = SomeFd();
  const size_t before = OpenFds();
  SendRaw(pair.a.get(), bytes, std::vector<int>(fd_count, fd.get()));
  auto received = ReceiveHello(pair.b.get());
  ASSERT_FALSE(received.ok()) << what;
  EXPECT_EQ(received.error().code, ErrorCode::kCorrupt) << what << ": " << received.error().text;
  EXPECT_EQ(OpenFds(), before) << what << ": a descriptor of the peer stayed open";
}

TEST(Malicious_Handshake, DescriptorsAreCounted) {
  const std::string good = HelloBytes();
  ExpectHelloRefused(good, 0, "none");
  ExpectHelloRefused(good, 2, "two");
  ExpectHelloRefused(good, 16, "as many as fit");
  ExpectHelloRefused(good, 17, "one more than fits");
  ExpectHelloRefused(good, 253, "all the kernel takes");
  ExpectHelloRefused("x", 253, "all, with rubbish");
}

TEST(Malicious_Handshake, EveryTruncationIsRefused) {
  const std::string good = HelloBytes();
  for (size_t size = 1; size < good.size(); ++size) ExpectHelloRefused(good.substr(0, size), 1, "cut short");
}

TEST(Malicious_Handshake, FormIsChecked) {
  const std::string good = HelloBytes();
  const std::pair<const char*, std::function<void(std::string&)>> lies[] = {
      {"magic", [](std::string& m) { m[0] ^= 1; }},
      {"version", [](std::string& m) { m[4] = 2; }},
      {"type 0", [](std::string& m) { m[6] = 0; }},
      {"a WELCOME", [](std::string& m) { m[6] = 2; }},
      {"tag 0", [](std::string& m) { m[8] = 0; }},
      {"length beyond the end", [](std::string& m) { m[10] = m[11] = '\xff'; }},
      {"uuid of another length", [](std::string& m) { m[10] = 15; }},
      {"field twice", [](std::string& m) { m += m.substr(8, 20); }},
      {"trailing bytes", [](std::string& m) { m += "xy"; }},
      {"longer than any may be", [](std::string& m) { m.resize(kMaxMessageBytes + 4); }},
      {"empty header", [](std::string& m) { m.resize(7); }},
  };
  for (const auto& [what, lie] : lies) {
    std::string bytes = good;
    lie(bytes);
    ExpectHelloRefused(bytes, 1, what);
  }
}

TEST(Malicious_Handshake, NamesAreUtf8AndBounded) {
  for (const std::string& name : {std::string("a\xff"), std::string(kMaxNameBytes + 1, 'n')}) {
    TlvWriter writer(MessageType::kHello);
    const Hello hello = SomeHello();
    writer.Put(Tag::kUuid, hello.uuid.data(), hello.uuid.size());
    writer.PutText(Tag::kRunId, name);
    writer.PutText(Tag::kRun, "run");
    for (const Tag tag : {Tag::kAttempt, Tag::kRank, Tag::kWorldSize}) writer.PutNumber(tag, uint32_t{1});
    for (const Tag tag : {Tag::kFeatureBits, Tag::kRingHead, Tag::kArenaHead}) writer.PutNumber(tag, uint64_t{1});
    ExpectHelloRefused(writer.bytes(), 1, "name");
  }
}

TEST(Malicious_Handshake, AnswersAreChecked) {
  const auto expect_refused = [](const std::string& bytes, size_t fd_count, const char* what) {
    SocketPair pair;
    UniqueFd fd = SomeFd();
    const size_t before = OpenFds();
    SendRaw(pair.a.get(), bytes, std::vector<int>(fd_count, fd.get()));
    auto answer = ReceiveAnswer(pair.b.get());
    ASSERT_FALSE(answer.ok()) << what;
    EXPECT_EQ(answer.error().code, ErrorCode::kCorrupt) << what;
    EXPECT_EQ(OpenFds(), before) << what;
  };
  TlvWriter welcome(MessageType::kWelcome);
  welcome.PutNumber(Tag::kSessionId, uint64_t{1});
  expect_refused(welcome.bytes(), 1, "fields missing");
  welcome.PutNumber(Tag::kFeatureBits, uint64_t{1});
  welcome.PutText(Tag::kDaemonVersion, "1");
  expect_refused(welcome.bytes(), 0, "no CTL");
  expect_refused(welcome.bytes(), 2, "two CTLs");
  TlvWriter reject(MessageType::kReject);
  expect_refused(reject.bytes(), 0, "no reason");
  reject.PutText(Tag::kReason, "r");
  expect_refused(reject.bytes(), 1, "a descriptor with a refusal");
  expect_refused(HelloBytes(), 1, "a HELLO");
}

// A flood of messages is read one at a time, each bounded; the sender is the one that has to wait.
TEST(Malicious_Handshake, FloodingFillsTheSendersQueueOnly) {
  SocketPair pair;
  const size_t before = OpenFds();
  UniqueFd fd = SomeFd();
  size_t sent = 0;
  while (sent < 100000 && SendHello(pair.a.get(), SomeHello(), fd.get()).ok()) ++sent;
  EXPECT_LT(sent, 100000u);
  for (size_t i = 0; i < sent; ++i) EXPECT_TRUE(ReceiveHello(pair.b.get()).ok());
  EXPECT_EQ(ReceiveHello(pair.b.get()).error().code, ErrorCode::kUnavailable);
  fd.reset();
  EXPECT_EQ(OpenFds(), before);
}

TEST(Malicious_Handshake, RandomBytesAreSurvived) {
  unsigned seed = 1;
  const std::string good = HelloBytes();
  for (int round = 0; round < 3000; ++round) {
    std::string bytes = good;
    for (int i = rand_r(&seed) % 4 + 1; i > 0; --i) {
      bytes[static_cast<size_t>(rand_r(&seed)) % bytes.size()] = static_cast<char>(rand_r(&seed));
    }
    auto parsed = TlvReader::Parse(bytes);  // refused or not: what is returned lies inside the message
    if (!parsed) continue;
    for (uint16_t tag = 1; tag < kTagCount; ++tag) {
      const auto text = parsed->Text(static_cast<Tag>(tag), kMaxNameBytes);
      EXPECT_LE(text.value_or("").size(), kMaxNameBytes);
    }
  }
}

// ---- Directory, lock, socket

TEST(Directory, DefaultFollowsTheEnvironment) {
  const char* chosen = std::getenv("IKKUNA_DIR");
  const std::string kept = chosen != nullptr ? chosen : "";
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  const std::string kept_runtime = runtime != nullptr ? runtime : "";
  setenv("IKKUNA_DIR", "/a/b", 1);
  EXPECT_EQ(DefaultDirectory(), "/a/b");
  unsetenv("IKKUNA_DIR");
  setenv("XDG_RUNTIME_DIR", "/run/user/1", 1);
  EXPECT_EQ(DefaultDirectory(), "/run/user/1/ikkuna");
  unsetenv("XDG_RUNTIME_DIR");
  EXPECT_EQ(DefaultDirectory(), "/tmp/ikkuna-" + std::to_string(geteuid()));
  if (chosen != nullptr) setenv("IKKUNA_DIR", kept.c_str(), 1);
  if (runtime != nullptr) setenv("XDG_RUNTIME_DIR", kept_runtime.c_str(), 1);
}

mode_t ModeOf(const std::string& path) {
  struct stat found {};
  EXPECT_EQ(stat(path.c_str(), &found), 0) << path;
  return found.st_mode & 07777;
}

TEST(Directory, IsMadeForUsOrForOthersToPassThrough) {
  ScratchDirectory scratch;
  ASSERT_TRUE(PrepareDirectory(scratch.path + "/own", false).ok());
  EXPECT_EQ(ModeOf(scratch.path + "/own"), 0700u);
  EXPECT_TRUE(PrepareDirectory(scratch.path + "/own", false).ok()) << "again";
  ASSERT_TRUE(PrepareDirectory(scratch.path + "/own", true).ok());
  EXPECT_EQ(ModeOf(scratch.path + "/own"), 0711u);
  ASSERT_TRUE(PrepareDirectory(scratch.path + "/open", true).ok());
  EXPECT_EQ(ModeOf(scratch.path + "/open"), 0711u);
}

TEST(Directory, LinksFilesAndWritableByOthersAreRefused) {
  ScratchDirectory scratch;
  ASSERT_EQ(symlink("/tmp", (scratch.path + "/link").c_str()), 0);
  EXPECT_FALSE(PrepareDirectory(scratch.path + "/link", false).ok());
  std::ofstream(scratch.path + "/file") << "x";
  EXPECT_FALSE(PrepareDirectory(scratch.path + "/file", false).ok());
  ASSERT_EQ(mkdir((scratch.path + "/shared").c_str(), 0700), 0);
  ASSERT_EQ(chmod((scratch.path + "/shared").c_str(), 0777), 0);
  const auto refused = PrepareDirectory(scratch.path + "/shared", false);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kPermissionDenied);
  const auto missing = PrepareDirectory(scratch.path + "/none/such", false);
  ASSERT_FALSE(missing.ok());
  EXPECT_NE(missing.error().text.find("/none/such"), std::string::npos) << missing.error().text;
}

TEST(Lock, SecondIsRefusedWithTheHolderUntilTheFirstEnds) {
  ScratchDirectory scratch;
  {
    auto first = DirectoryLock::Take(scratch.path);
    ASSERT_TRUE(first.ok()) << first.error().text;
    auto second = DirectoryLock::Take(scratch.path);
    ASSERT_FALSE(second.ok());
    EXPECT_EQ(second.error().code, ErrorCode::kAlreadyExists);
    EXPECT_NE(second.error().text.find("process " + std::to_string(getpid()) + " (running)"), std::string::npos)
        << second.error().text;
  }
  EXPECT_TRUE(DirectoryLock::Take(scratch.path).ok());
}

TEST(Lock, NamesAStoppedHolder) {
  ScratchDirectory scratch;
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    auto lock = DirectoryLock::Take(scratch.path);
    if (!lock) _exit(1);
    raise(SIGSTOP);
    _exit(0);
  }
  int state = 0;
  ASSERT_EQ(waitpid(child, &state, WUNTRACED), child);
  ASSERT_TRUE(WIFSTOPPED(state));
  auto refused = DirectoryLock::Take(scratch.path);
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.error().text.find("process " + std::to_string(child) + " (stopped)"), std::string::npos)
      << refused.error().text;
  kill(child, SIGKILL);
  ASSERT_EQ(waitpid(child, &state, 0), child);
  EXPECT_TRUE(DirectoryLock::Take(scratch.path).ok()) << "a dead holder holds nothing";
}

TEST(Meeting, ProducerFindsTheDaemonAndTheKernelKnowsIt) {
  ScratchDirectory scratch;
  EXPECT_EQ(ConnectToDaemon(scratch.path).error().code, ErrorCode::kUnavailable);
  auto listener = ListenForProducers(scratch.path, false);
  ASSERT_TRUE(listener.ok()) << listener.error().text;
  EXPECT_EQ(ModeOf(ProbeSocketPath(scratch.path)), 0600u);
  auto producer = ConnectToDaemon(scratch.path);
  ASSERT_TRUE(producer.ok()) << producer.error().text;
  UniqueFd accepted(accept4(listener->get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  ASSERT_TRUE(accepted.valid());
  auto peer = ReadPeerCredentials(accepted.get());
  ASSERT_TRUE(peer.ok()) << peer.error().text;
  EXPECT_EQ(peer->pid, getpid());
  EXPECT_EQ(peer->uid, getuid());
  EXPECT_EQ(peer->gid, getgid());
  auto made = PubWriter::Create({.ring_slots = 8, .arena_bytes = 0, .registry_bytes = 4096});
  ASSERT_TRUE(made.ok());
  ASSERT_TRUE(SendHello(producer->get(), SomeHello(), (*made)->fd()).ok());
  auto hello = ReceiveHello(accepted.get());
  ASSERT_TRUE(hello.ok()) << hello.error().text;
  EXPECT_TRUE(PubView::Open(std::move(hello->pub_fd)).ok());
}

TEST(Meeting, StaleSocketIsReplacedAndADeadDaemonIsUnavailable) {
  ScratchDirectory scratch;
  ASSERT_TRUE(ListenForProducers(scratch.path, false).ok());  // ends at once: the name stays
  EXPECT_EQ(ConnectToDaemon(scratch.path).error().code, ErrorCode::kUnavailable);
  auto listener = ListenForProducers(scratch.path, true);
  ASSERT_TRUE(listener.ok()) << listener.error().text;
  EXPECT_EQ(ModeOf(ProbeSocketPath(scratch.path)), 0666u);
  EXPECT_TRUE(ConnectToDaemon(scratch.path).ok());
}

TEST(Meeting, AFileInTheWayIsLeftAlone) {
  ScratchDirectory scratch;
  std::ofstream(ProbeSocketPath(scratch.path)) << "precious";
  EXPECT_EQ(ListenForProducers(scratch.path, false).error().code, ErrorCode::kAlreadyExists);
  EXPECT_TRUE(std::filesystem::exists(ProbeSocketPath(scratch.path)));
}

TEST(Meeting, LongPathsAreRefusedByName) {
  const std::string directory = "/tmp/" + std::string(120, 'd');
  const auto refused = ConnectToDaemon(directory);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kInvalidArgument);
  EXPECT_NE(refused.error().text.find(directory), std::string::npos);
}

// A daemon that hangs does not make its producers hang: when its queue is full, connecting fails at once.
TEST(Meeting, FullQueueIsUnavailable) {
  ScratchDirectory scratch;
  auto listener = ListenForProducers(scratch.path, false);
  ASSERT_TRUE(listener.ok());
  std::vector<UniqueFd> producers;
  for (int i = 0; i < 1000; ++i) {
    auto producer = ConnectToDaemon(scratch.path);
    if (!producer) {
      EXPECT_EQ(producer.error().code, ErrorCode::kUnavailable);
      EXPECT_GE(producers.size(), kMaxProducers);
      return;
    }
    producers.push_back(std::move(producer).value());
  }
  FAIL() << "the queue has no end";
}

// A data-loader worker keeps its parent's socket open: only the pidfd tells that the trainer died.
TEST(Meeting, PidfdTellsADeathThatTheSocketHides) {
  ScratchDirectory scratch;
  auto listener = ListenForProducers(scratch.path, false);
  ASSERT_TRUE(listener.ok());
  int pipe_fds[2];
  ASSERT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
  UniqueFd read_end(pipe_fds[0]);
  UniqueFd write_end(pipe_fds[1]);
  const pid_t trainer = fork();
  ASSERT_GE(trainer, 0);
  if (trainer == 0) {
    write_end.reset();
    auto producer = ConnectToDaemon(scratch.path);
    if (!producer.ok()) _exit(1);
    fork();  // both wait until the test closes its end
    char byte;
    _exit(read(read_end.get(), &byte, 1) == 0 ? 0 : 2);
  }
  read_end.reset();
  UniqueFd accepted;
  for (int i = 0; i < 10000 && !accepted; ++i) {
    accepted.reset(accept4(listener->get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!accepted) usleep(1000);
  }
  ASSERT_TRUE(accepted.valid());
  auto peer = ReadPeerCredentials(accepted.get());
  ASSERT_TRUE(peer.ok());
  EXPECT_EQ(peer->pid, trainer);
  const std::string children = "/proc/" + std::to_string(trainer) + "/task/" + std::to_string(trainer) + "/children";
  for (int i = 0; i < 10000; ++i) {  // until the worker is there
    std::ifstream file(children);
    if (pid_t worker = 0; file >> worker) break;
    usleep(1000);
  }
  kill(trainer, SIGKILL);
  if (peer->pidfd.valid()) {
    pollfd death{peer->pidfd.get(), POLLIN, 0};
    EXPECT_EQ(poll(&death, 1, 60000), 1) << "before the reap";
  }
  EXPECT_EQ(ReceiveHello(accepted.get()).error().code, ErrorCode::kUnavailable) << "the worker still holds it";
  int state = 0;
  ASSERT_EQ(waitpid(trainer, &state, 0), trainer);
  write_end.reset();  // ends the worker
  pollfd hangup{accepted.get(), 0, 0};
  EXPECT_EQ(poll(&hangup, 1, 60000), 1);
}

}  // namespace
}  // namespace ikkuna::shm
