// The Unix socket: who gets in, as whom.
#include "daemon/service/unix_listener.h"

#include <sys/wait.h>

#include <thread>

#include "tests/daemon/service/doors_fixture.h"

namespace ikkuna::test {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class UnixDoorsTest : public DoorsTest {
 protected:
  mode_t SocketMode() const {
    struct stat info {};
    return ::stat((folder_ + "/grpc.sock").c_str(), &info) == 0 ? info.st_mode & 0777 : 0;
  }
};

TEST_F(UnixDoorsTest, TheDaemonsOwnUserControlsAndOthersAreKeptOut) {
  ASSERT_EQ(Refusal(UnixOptions()), "");
  EXPECT_EQ(doors_->socket_path(), folder_ + "/grpc.sock");
  EXPECT_EQ(doors_->tcp_port(), 0);
  EXPECT_EQ(SocketMode(), 0600u);
  const std::string own = std::to_string(::geteuid());
  EXPECT_EQ(Ask(UnixChannel()), "uid:" + own + " control uid=" + own);
  // What a client says of itself changes nothing.
  EXPECT_EQ(Ask(UnixChannel(), "Bearer 0123456789abcdef"), "uid:" + own + " control uid=" + own);
  doors_->StopAccepting();
  EXPECT_EQ(SocketMode(), 0u);
}

TEST_F(UnixDoorsTest, EachUserHasTheirOwnRole) {
  if (::geteuid() != 0) GTEST_SKIP() << "SKIP: needs root to become other users";
  service::ServerOptions options = UnixOptions();
  options.allow_users = {{4242, Role::kRead}, {4243, Role::kControl}};
  ASSERT_EQ(Refusal(options), "");
  EXPECT_EQ(SocketMode(), 0666u);
  // Connections of all of them at one time, in turns: none is taken for another.
  std::vector<std::pair<std::string, std::shared_ptr<grpc::Channel>>> channels;
  for (int i = 0; i < 3; ++i) {
    channels.emplace_back("uid:4242 read uid=4242", ChannelAs(4242));
    channels.emplace_back("uid:4243 control uid=4243", ChannelAs(4243));
    channels.emplace_back("uid:0 control uid=0", ChannelAs(0));
  }
  for (int round = 0; round < 5; ++round) {
    for (const auto& [who, channel] : channels) EXPECT_EQ(Ask(channel), who);
  }
  EXPECT_THAT(Ask(ChannelAs(4244)), StartsWith("UNAVAILABLE"));
  EXPECT_EQ(doors_->refused().users, 1u);
}

TEST_F(UnixDoorsTest, ManyUsersInParallelAreNeverTakenForEachOther) {
  if (::geteuid() != 0) GTEST_SKIP() << "SKIP: needs root to become other users";
  service::ServerOptions options = UnixOptions();
  for (uid_t uid = 5000; uid < 5008; ++uid)
    options.allow_users.push_back({uid, uid % 2 ? Role::kControl : Role::kRead});
  ASSERT_EQ(Refusal(options), "");
  std::vector<std::thread> clients;
  for (const service::AllowedUser& user : options.allow_users) {
    clients.emplace_back([&, user] {
      const std::string who = "uid:" + std::to_string(user.uid) + (user.role == Role::kControl ? " control" : " read") +
                              " uid=" + std::to_string(user.uid);
      // Connections that come and go: their descriptors are those of others a moment later.
      for (int i = 0; i < 20; ++i) EXPECT_EQ(Ask(ChannelAs(user.uid)), who);
    });
  }
  for (std::thread& client : clients) client.join();
}

TEST_F(UnixDoorsTest, AProcessOfAnotherUserIsWhoItIs) {
  if (::geteuid() != 0) GTEST_SKIP() << "SKIP: needs root to become another user";
  service::ServerOptions options = UnixOptions();
  options.allow_users = {{4242, Role::kRead}};
  ASSERT_EQ(Refusal(options), "");
  // A whole process, not a thread: it connects under its user and hands the connection to us, who are root.
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
  const std::string path = doors_->socket_path();
  const pid_t child = ::fork();
  if (child == 0) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.data(), path.size());
    if (::setresgid(4242, 4242, 4242) != 0 || ::setresuid(4242, 4242, 4242) != 0) ::_exit(3);
    const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
    if (::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) ::_exit(2);
    char byte = 0;
    iovec part{&byte, 1};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
    ::_exit(::sendmsg(pair[1], &message, 0) == 1 ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  ASSERT_EQ(WEXITSTATUS(status), 0);
  char byte = 0;
  iovec part{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ASSERT_EQ(::recvmsg(pair[0], &message, 0), 1);
  int fd = -1;
  std::memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
  ::close(pair[0]);
  ::close(pair[1]);
  ASSERT_EQ(::fcntl(fd, F_SETFL, O_NONBLOCK), 0);
  EXPECT_EQ(Ask(grpc::CreateInsecureChannelFromFd("daemon", fd)), "uid:4242 read uid=4242");
}

TEST_F(UnixDoorsTest, ASecondDaemonIsRefusedAndASocketLeftBehindIsReplaced) {
  ASSERT_EQ(Refusal(UnixOptions()), "");
  service::Callers callers;
  WhoService who(callers);
  Result<std::unique_ptr<service::Doors>> second =
      service::Doors::Open(UnixOptions(), callers, [&](grpc::ServerBuilder* builder) {
        builder->RegisterService(&who);
        return builder->BuildAndStart();
      });
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code, ErrorCode::kAlreadyExists);
  EXPECT_EQ(second.error().text, "cannot serve on '" + folder_ + "/grpc.sock': another process listens there");
  EXPECT_THAT(Ask(UnixChannel()), StartsWith("uid:"));
  doors_.reset();

  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strcpy(address.sun_path, (folder_ + "/grpc.sock").c_str());
  UniqueFd left(::socket(AF_UNIX, SOCK_STREAM, 0));
  ASSERT_EQ(::bind(left.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  left.reset();
  EXPECT_EQ(Refusal(UnixOptions()), "");
}

TEST_F(UnixDoorsTest, APathThatCannotBeServedSaysSo) {
  service::ServerOptions options;
  options.directory = "/tmp/" + std::string(120, 'x');
  EXPECT_THAT(Refusal(options), HasSubstr("a socket's path has at most 107 bytes"));
  options.directory = folder_ + "/missing";
  EXPECT_THAT(Refusal(options), HasSubstr("No such file or directory"));
}

TEST_F(UnixDoorsTest, AServerWithoutContextsOfItsOwnLetsNobodyIn) {
  ASSERT_EQ(Refusal(UnixOptions()), "");
  WhoService who(callers_);
  grpc::ServerBuilder builder;
  builder.RegisterService(&who);
  auto server = builder.BuildAndStart();
  grpc::ChannelArguments none;
  EXPECT_EQ(Ask(server->InProcessChannel(none)), "UNAUTHENTICATED: the call came through no socket of this daemon");
  server->Shutdown();
}

}  // namespace
}  // namespace ikkuna::test
