// Peers that connect and do not behave: nobody else is hurt.
#include <netinet/in.h>
#include <poll.h>
#include <sys/resource.h>

#include <atomic>
#include <thread>
#include <vector>

#include "tests/daemon/service/doors_fixture.h"

namespace ikkuna::test {
namespace {

using ::testing::StartsWith;

const std::string kPeersToken = "Bearer 0123456789abcdef0123456789abcdef";

class PeersTest : public DoorsTest {
 protected:
  service::ServerOptions Options() {
    service::ServerOptions options = UnixOptions();
    options.listen = "127.0.0.1:0";
    options.token_file = Write("tokens", "read " + kPeersToken.substr(7) + "\n");
    return options;
  }
  service::ServerOptions TlsOptions() {
    service::ServerOptions options = Options();
    const CertificateAndKey own = servers_.Sign({.common_name = "localhost", .of_localhost = true});
    options.tls_cert_file = Write("cert.pem", own.certificate);
    options.tls_key_file = Write("key.pem", own.key);
    return options;
  }
  UniqueFd ConnectTcp() const {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(static_cast<uint16_t>(doors_->tcp_port()));
    UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    return fd;
  }
  // True once the other side has closed; false after two minutes.
  static bool IsClosed(int fd) {
    char bytes[4096];
    for (int i = 0; i < 1200; ++i) {
      const ssize_t got = ::recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
      if (got == 0 || (got < 0 && errno != EAGAIN)) return true;
      if (got < 0) {
        pollfd wait{fd, POLLIN, 0};
        ::poll(&wait, 1, 100);
      }
    }
    return false;
  }
  void ExpectWell() {
    EXPECT_THAT(Ask(UnixChannel(), "", true), StartsWith("uid:"));
    EXPECT_EQ(Ask(PlainTcp(), kPeersToken, true), "token read");
  }

  TestAuthority servers_{"servers"};
};

TEST_F(PeersTest, WhoSaysNothingIsLetGo) {
  service::ServerOptions options = Options();
  options.handshake_timeout = std::chrono::milliseconds(1000);
  ASSERT_EQ(Refusal(options), "");
  std::vector<UniqueFd> silent;
  for (int i = 0; i < 50; ++i) {
    silent.push_back(ConnectTcp());
    silent.push_back(ConnectUnix());
  }
  ExpectWell();
  for (const UniqueFd& fd : silent) EXPECT_TRUE(IsClosed(fd.get()));
  ExpectWell();
}

TEST_F(PeersTest, HalfAHandshakeIsLetGo) {
  service::ServerOptions options = TlsOptions();
  options.handshake_timeout = std::chrono::milliseconds(1000);
  ASSERT_EQ(Refusal(options), "");
  std::vector<UniqueFd> half;
  // The head of a TLS record that announces 512 bytes of a ClientHello, and a few of them.
  const std::string hello("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 half of it", 22);
  for (int i = 0; i < 50; ++i) {
    half.push_back(ConnectTcp());
    ASSERT_GT(::send(half.back().get(), hello.data(), hello.size(), MSG_NOSIGNAL), 0);
  }
  EXPECT_EQ(Ask(TcpChannel(Tls(servers_.certificate())), kPeersToken, true), "token read");
  for (const UniqueFd& fd : half) EXPECT_TRUE(IsClosed(fd.get()));
  EXPECT_EQ(Ask(TcpChannel(Tls(servers_.certificate())), kPeersToken, true), "token read");
}

TEST_F(PeersTest, GarbageIsLetGo) {
  ASSERT_EQ(Refusal(Options()), "");
  std::vector<UniqueFd> peers;
  for (int i = 0; i < 40; ++i) {
    peers.push_back(i % 2 == 0 ? ConnectTcp() : ConnectUnix());
    std::string garbage(static_cast<size_t>(1 + 997 * i), static_cast<char>(i * 37));
    if (i % 5 == 0) garbage = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    // A right beginning, then a frame of a type and length that nobody takes.
    if (i % 5 == 1) garbage = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + std::string(9000, '\xff');
    ::send(peers.back().get(), garbage.data(), garbage.size(), MSG_NOSIGNAL);
    if (i % 3 == 0) peers.back().reset();
  }
  ExpectWell();
}

TEST_F(PeersTest, AThousandConnectionsLeaveRoomForOthers) {
  rlimit files{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &files), 0);
  const rlimit before = files;
  // This process holds both ends: the daemon's share is a quarter of what it has.
  files.rlim_cur = std::min<rlim_t>(files.rlim_max, 4096);
  if (files.rlim_cur < 4096) GTEST_SKIP() << "SKIP: needs 4096 descriptors";
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &files), 0);
  service::ServerOptions options = Options();
  options.handshake_timeout = std::chrono::minutes(10);  // none is let go while the rest connects
  ASSERT_EQ(Refusal(options), "");
  std::vector<UniqueFd> peers;
  for (int i = 0; i < 1100; ++i) peers.push_back(ConnectTcp());
  // No more of TCP, and all the same of the Unix socket.
  EXPECT_THAT(Ask(PlainTcp(), kPeersToken), StartsWith("UNAVAILABLE"));
  EXPECT_GE(doors_->refused().too_many, 76u);
  EXPECT_THAT(Ask(UnixChannel()), StartsWith("uid:"));
  peers.clear();
  // They have left: there is room again, once gRPC has seen it.
  std::string answer;
  for (int i = 0; i < 600 && answer != "token read"; ++i) {
    answer = Ask(PlainTcp(), kPeersToken);
    if (answer != "token read") std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  EXPECT_EQ(answer, "token read");
  doors_.reset();
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
}

TEST_F(PeersTest, OneUserTakesNoPlaceOfAnother) {
  if (::geteuid() != 0) GTEST_SKIP() << "SKIP: needs root to become other users";
  service::ServerOptions options = UnixOptions();
  options.allow_users = {{4242, Role::kRead}, {4243, Role::kRead}};
  options.handshake_timeout = std::chrono::minutes(10);  // none is let go while the rest connects
  ASSERT_EQ(Refusal(options), "");
  std::vector<UniqueFd> peers;
  {
    AsUser greedy(4242);
    for (int i = 0; i < 200; ++i) peers.push_back(ConnectUnix());
  }
  EXPECT_THAT(Ask(ChannelAs(4242)), StartsWith("UNAVAILABLE"));
  EXPECT_EQ(Ask(ChannelAs(4243)), "uid:4243 read uid=4243");
  EXPECT_EQ(Ask(UnixChannel()), "uid:0 control uid=0");
  EXPECT_EQ(doors_->refused().too_many, 73u);
}

TEST_F(PeersTest, ManyThatComeAndGoWhileTheRulesAreReadAgain) {
  service::ServerOptions options = Options();
  ASSERT_EQ(Refusal(options), "");
  std::atomic<bool> done{false};
  std::vector<std::thread> threads;
  for (int k = 0; k < 3; ++k) {
    threads.emplace_back([&, k] {
      while (!done) {
        if (k == 0) {
          EXPECT_EQ(Ask(PlainTcp(), kPeersToken), "token read");
        } else if (k == 1) {
          EXPECT_THAT(Ask(UnixChannel()), StartsWith("uid:"));
        } else {
          // Without waiting for their ends, those that gRPC has not looked at yet take the others' places.
          const UniqueFd tcp = ConnectTcp(), unix = ConnectUnix();
          for (const UniqueFd* fd : {&tcp, &unix}) {
            ::shutdown(fd->get(), SHUT_WR);
            EXPECT_TRUE(IsClosed(fd->get()));
          }
        }
      }
    });
  }
  for (int i = 0; i < 100; ++i) {
    Write("tokens", "read " + kPeersToken.substr(7) + "\n# " + std::to_string(i) + "\n");
    EXPECT_EQ(ReloadRefusal(options), "");
  }
  done = true;
  for (std::thread& thread : threads) thread.join();
}

TEST_F(PeersTest, AnEndDoesNotWaitForPeersThatSayNothing) {
  ASSERT_EQ(Refusal(TlsOptions()), "");
  std::vector<UniqueFd> silent;
  for (int i = 0; i < 20; ++i) {
    silent.push_back(ConnectTcp());
    silent.push_back(ConnectUnix());
  }
  auto channel = UnixChannel();
  OpenWatch watch(channel);
  EXPECT_THAT(watch.Next(), StartsWith("uid:"));
  doors_->StopAccepting();
  doors_->Close(std::chrono::system_clock::now());
  EXPECT_EQ(watch.Next(), "ended");
  for (const UniqueFd& fd : silent) EXPECT_TRUE(IsClosed(fd.get()));
}

}  // namespace
}  // namespace ikkuna::test
