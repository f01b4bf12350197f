// A caller who is let in no more: their streams end too.
#include <gmock/gmock.h>
#include <sys/stat.h>

#include <thread>

#include "daemon/service/let_in.h"
#include "tests/daemon/service/core_fixture.h"

namespace ikkuna::test {
namespace {

const std::string kOld = "0123456789abcdef0123456789abcdef";
const std::string kNew = "fedcba9876543210fedcba9876543210";

class LetInTest : public CoreTest {
 protected:
  void SetUp() override {
    SetToken(kOld);
    options_.listen = "127.0.0.1:0";
    options_.token_file = dir_.path() + "/tokens";
    StartServer(options_);
    options_.directory = dir_.path();
    stub_ = v1::Monitor::NewStub(
        grpc::CreateChannel("127.0.0.1:" + std::to_string(server_->tcp_port()), grpc::InsecureChannelCredentials()));
    SetWatchdog(&context_);
    context_.AddMetadata("authorization", "Bearer " + kOld);
  }
  void SetToken(const std::string& token) {
    ::chmod(dir_.Write("tokens", token + "\n").c_str(), 0600);
  }
  // Then it is asked again.
  void TakeBack() {
    SetToken(kNew);
    ASSERT_TRUE(server_->Reload(options_).ok());
    std::this_thread::sleep_for(service::LetIn::kEvery + std::chrono::milliseconds(100));
  }

  service::ServerOptions options_;
  grpc::ClientContext context_;
};

TEST_F(LetInTest, AWatchEndsInsteadOfTellingMore) {
  const RunPtr run = BeginRun("r");
  const uint32_t loss = Intern(run, "loss");
  auto watch = stub_->Watch(&context_, {});
  watch->WaitForInitialMetadata();
  Offer(run, 1, {{loss, 0, 1}});
  v1::WatchResponse response;
  ASSERT_TRUE(watch->Read(&response));
  TakeBack();
  Offer(run, 2, {{loss, 0, 2}});
  while (watch->Read(&response)) {
    for (const v1::StepValues& step : response.steps()) EXPECT_LT(step.step(), 2u);
  }
  const grpc::Status status = watch->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAUTHENTICATED) << status.error_message();
  EXPECT_EQ(DetailOf(status).reason(), v1::ERROR_REASON_ROLE);
}

TEST_F(LetInTest, AReadEndsInTheMiddle) {
  const RunPtr run = BeginRun("r");
  std::vector<Sample> samples;
  for (int i = 0; i < 1000; ++i) samples.push_back({Intern(run, "t" + std::to_string(i)), 0, 1});
  for (uint64_t step = 0; step < 1000; ++step) {
    Offer(run, step, samples);
    if (step % 50 == 0) Flush();
  }
  auto reader = stub_->ReadSamples(&context_, {});
  v1::ReadSamplesResponse answer;
  ASSERT_TRUE(reader->Read(&answer));
  TakeBack();
  while (reader->Read(&answer)) {
  }
  EXPECT_TRUE(answer.cursor().empty());
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::UNAUTHENTICATED);
}

}  // namespace
}  // namespace ikkuna::test
