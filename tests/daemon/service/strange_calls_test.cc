// Calls that no client of ours makes: methods and services that are not there, bytes that are no request. Each is
// refused, and the next good call is answered.
#include <sys/stat.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/daemon/service/raw_call.h"
#include "tests/daemon/service/service_fixture.h"

namespace ikkuna::test {
namespace {

constexpr int kTimes = 100;
const std::string kStrangeToken = "0123456789abcdef0123456789abcdef";
const std::string kGarbage = "\xff\xff\xff";

class StrangeCallsTest : public ServiceTest {
 protected:
  void SetUp() override {
    service::ServerOptions options;
    options.listen = "127.0.0.1:0";
    options.token_file = dir_.Write("token", "control " + kStrangeToken + "\n");
    ASSERT_EQ(::chmod(options.token_file.c_str(), 0600), 0);
    StartServer(options);
  }
  std::shared_ptr<grpc::Channel> Tcp() const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(server_->tcp_port()),
                                     grpc::InsecureChannelCredentials(), arguments);
  }

  // Both doors, one connection each, which goes on after each refusal.
  struct Way {
    const char* name;
    std::shared_ptr<grpc::Channel> channel;
    std::string authorization;
  };
  std::vector<Way> Ways() const { return {{"Unix", NewChannel(), ""}, {"TCP", Tcp(), "Bearer " + kStrangeToken}}; }

  static void ExpectRefused(const Way& way, const std::string& method, const std::string& bytes,
                            grpc::StatusCode code) {
    for (int i = 0; i < kTimes; ++i) {
      const grpc::Status status = RawCall(way.channel, method, way.authorization, bytes);
      ASSERT_EQ(status.error_code(), code)
          << way.name << " " << method << ", call " << i << ": " << status.error_message();
    }
  }
  static void ExpectAnswered(const Way& way) {
    const grpc::Status status = RawCall(way.channel, "/ikkuna.v1.Monitor/ListRuns", way.authorization);
    EXPECT_TRUE(status.ok()) << way.name << ": " << status.error_message();
  }
};

TEST_F(StrangeCallsTest, AMethodThatIsNotThere) {
  for (const Way& way : Ways()) {
    for (const std::string& bytes : {std::string(), kGarbage}) {
      ExpectRefused(way, "/ikkuna.v1.Monitor/Nope", bytes, grpc::StatusCode::UNIMPLEMENTED);
    }
    ExpectAnswered(way);
  }
}

TEST_F(StrangeCallsTest, AServiceThatIsNotThere) {
  for (const Way& way : Ways()) {
    for (const char* method : {"/foo/Bar", "/", "/ikkuna.v1.Monitor", "/ikkuna.v1.Monitor/", "nothing"}) {
      ExpectRefused(way, method, "", grpc::StatusCode::UNIMPLEMENTED);
    }
    ExpectAnswered(way);
  }
}

TEST_F(StrangeCallsTest, BytesThatAreNoRequest) {
  for (const Way& way : Ways()) {
    // gRPC reads the request, and has one word for what it cannot read and for what is not there.
    for (const char* method : {"ListRuns", "GetStatus", "ReadSamples"}) {
      ExpectRefused(way, std::string("/ikkuna.v1.Monitor/") + method, kGarbage, grpc::StatusCode::UNIMPLEMENTED);
    }
    // Read by us.
    ExpectRefused(way, "/ikkuna.v1.Monitor/Watch", kGarbage, grpc::StatusCode::INVALID_ARGUMENT);
    ExpectAnswered(way);
  }
}

// As a TCP client without a token: refused before anybody looks for the method.
TEST_F(StrangeCallsTest, AMethodThatIsNotThereWithoutAToken) {
  const Way way{"TCP", Tcp(), ""};
  ExpectRefused(way, "/ikkuna.v1.Monitor/Nope", "", grpc::StatusCode::UNAUTHENTICATED);
  ExpectAnswered({"TCP", Tcp(), "Bearer " + kStrangeToken});
}

TEST_F(StrangeCallsTest, ManyAtOnceAndGoodOnesBetween) {
  std::vector<std::thread> clients;
  for (const Way& way : Ways()) {
    for (const char* method : {"/ikkuna.v1.Monitor/Nope", "/foo/Bar"}) {
      clients.emplace_back([way, method] { ExpectRefused(way, method, kGarbage, grpc::StatusCode::UNIMPLEMENTED); });
    }
    clients.emplace_back([way] {
      for (int i = 0; i < kTimes; ++i) ExpectAnswered(way);
    });
  }
  for (std::thread& client : clients) client.join();
  for (const Way& way : Ways()) ExpectAnswered(way);
}

// The service ends while nobody waits for an answer to such calls any more.
TEST_F(StrangeCallsTest, TheEndAfterThem) {
  for (const Way& way : Ways()) ExpectRefused(way, "/foo/Bar", "", grpc::StatusCode::UNIMPLEMENTED);
  server_->Stop();
  EXPECT_EQ(RawCall(NewChannel(), "/foo/Bar").error_code(), grpc::StatusCode::UNAVAILABLE);
}

}  // namespace
}  // namespace ikkuna::test
