// Watch streams: order, back-pressure, the ways in which they end.
#include <gmock/gmock.h>
#include <unistd.h>

#include <thread>

#include "daemon/service/monitor_service.h"
#include "daemon/service/watch_reactor.h"
#include "tests/daemon/service/service_fixture.h"

namespace ikkuna::test {
namespace {

using ::testing::HasSubstr;

const RunKey kRun{"r", 0, 0};

class WatchTest : public ServiceTest {
 protected:
  struct Stream {
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReader<v1::WatchResponse>> reader;
  };
  std::unique_ptr<Stream> Open(const v1::WatchRequest& request = {}) {
    auto stream = std::make_unique<Stream>();
    SetWatchdog(&stream->context);
    stream->reader = stub_->Watch(&stream->context, request);
    return stream;
  }
  // Waits until the monitor has no watcher left.
  bool AllWatchersGone() {
    for (int i = 0; i < 6000 && monitor_.watches_alive() > 0; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    return monitor_.watches_alive() == 0;
  }
};

TEST_F(WatchTest, SamplesComeAfterTheirSeriesAndWithTheEvents) {
  StartServer();
  auto stream = Open();
  stream->reader->WaitForInitialMetadata();
  auto queue = monitor_.watch(0);
  ASSERT_TRUE(queue);
  queue->Push({MakeSeries(1, kRun, "fc", "weight", "t").series}, {MakeSample(1, 5, 2.5)},
              {{3, 10, Severity::kWarning, kRun, "loss_spike", "The loss rose.", 5}});
  bool announced = false;
  int samples = 0, events = 0;
  v1::WatchResponse response;
  while (samples < 1 || events < 1) {
    ASSERT_TRUE(stream->reader->Read(&response));
    for (const v1::Series& series : response.new_series()) announced = announced || series.key().module() == "fc";
    for (const v1::Sample& sample : response.samples()) {
      EXPECT_TRUE(announced);
      EXPECT_EQ(sample.value(), 2.5);
      ++samples;
    }
    for (const v1::Event& event : response.events()) {
      EXPECT_EQ(event.severity(), v1::SEVERITY_WARNING);
      ++events;
    }
  }
  stream->context.TryCancel();
  while (stream->reader->Read(&response)) {
  }
  EXPECT_EQ(stream->reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(AllWatchersGone());
}

TEST_F(WatchTest, EveryPushArrivesInOrder) {
  monitor_.watch_queue_max = 1'000'000;
  StartServer();
  auto stream = Open();
  auto queue = monitor_.watch(0);
  ASSERT_TRUE(queue);
  constexpr uint64_t kSteps = 50'000;
  std::thread pusher([&] {
    queue->Push({MakeSeries(1, kRun, "", "", "loss").series}, {});
    for (uint64_t step = 0; step < kSteps; ++step) queue->Push({}, {MakeSample(1, step, 0)});
  });
  uint64_t next = 0;
  v1::WatchResponse response;
  while (next < kSteps && stream->reader->Read(&response)) {
    EXPECT_LE(response.samples_size(), static_cast<int>(service::WatchReactor::kMaxSamples));
    for (const v1::Sample& sample : response.samples()) {
      ASSERT_EQ(sample.step(), next);
      ++next;
    }
    EXPECT_EQ(response.dropped(), 0u);
  }
  pusher.join();
  EXPECT_EQ(next, kSteps);
}

TEST_F(WatchTest, ASlowReaderLosesTheOldestAndIsToldHowMany) {
  monitor_.watch_queue_max = 5000;
  StartServer();
  auto stream = Open();
  auto queue = monitor_.watch(0);
  ASSERT_TRUE(queue);
  queue->Push({MakeSeries(1, kRun, "", "", "loss").series}, {});
  // Far more than the windows of a connection hold while nobody reads.
  constexpr uint64_t kSteps = 2'000'000;
  for (uint64_t step = 0; step < kSteps; step += 1000) {
    std::vector<Sample> samples;
    for (uint64_t k = 0; k < 1000; ++k) samples.push_back(MakeSample(1, step + k, 0));
    queue->Push({}, samples);
  }
  uint64_t received = 0, dropped = 0, last = 0;
  v1::WatchResponse response;
  while (received + dropped < kSteps && stream->reader->Read(&response)) {
    for (const v1::Sample& sample : response.samples()) {
      EXPECT_GE(sample.step(), last);
      last = sample.step();
    }
    received += static_cast<uint64_t>(response.samples_size());
    dropped = response.dropped();
  }
  EXPECT_EQ(received + dropped, kSteps);
  EXPECT_GT(dropped, 0u);
  EXPECT_EQ(last, kSteps - 1);
}

TEST_F(WatchTest, ManyNewSeriesAreSplitOverMessages) {
  StartServer();
  auto stream = Open();
  auto queue = monitor_.watch(0);
  ASSERT_TRUE(queue);
  constexpr uint64_t kCount = 3 * service::WatchReactor::kMaxNewSeries + 1;
  std::vector<Series> many;
  for (uint64_t id = 1; id <= kCount; ++id) many.push_back(MakeSeries(id, kRun, "m", "weight", "t").series);
  queue->Push(many, {MakeSample(kCount, 1, 1)});
  uint64_t announced = 0;
  v1::WatchResponse response;
  bool got_sample = false;
  while (!got_sample && stream->reader->Read(&response)) {
    EXPECT_LE(response.new_series_size(), static_cast<int>(service::WatchReactor::kMaxNewSeries));
    announced += static_cast<uint64_t>(response.new_series_size());
    if (response.samples_size() > 0) {
      EXPECT_EQ(announced, kCount);
      got_sample = true;
    }
  }
  EXPECT_TRUE(got_sample);
}

TEST_F(WatchTest, TheFilterIsResolvedOnlyForLatest) {
  monitor_.runs = {MakeRun("id-1", "fashion", 0, 0, 1)};
  StartServer();
  v1::WatchRequest request;
  request.mutable_filter()->set_run("latest");
  request.mutable_filter()->set_topic("loss");
  auto latest = Open(request);
  ASSERT_TRUE(monitor_.watch(0));
  EXPECT_EQ(monitor_.last_filter().run_id, "id-1");
  EXPECT_EQ(monitor_.last_filter().topic, "loss");
  request.mutable_filter()->set_run("yet-to-come");
  auto later = Open(request);
  ASSERT_TRUE(monitor_.watch(1));
  EXPECT_EQ(monitor_.last_filter().run_id, "yet-to-come");
}

TEST_F(WatchTest, AWatchThatCannotBeginSaysWhy) {
  StartServer();
  v1::WatchRequest request;
  request.mutable_filter()->set_run("latest");
  v1::WatchResponse response;
  auto stream = Open(request);
  EXPECT_FALSE(stream->reader->Read(&response));
  grpc::Status status = stream->reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(status.error_message(), "no run has been recorded yet");
  monitor_.failure = Error{ErrorCode::kResourceExhausted, "too many watchers"};
  stream = Open();
  EXPECT_FALSE(stream->reader->Read(&response));
  EXPECT_EQ(stream->reader->Finish().error_message(), "too many watchers");
}

TEST_F(WatchTest, MoreWatchesThanTheMaximumAreRefused) {
  StartServer();
  std::vector<std::unique_ptr<Stream>> streams;
  for (size_t i = 0; i < service::MonitorService::kMaxWatches; ++i) {
    streams.push_back(Open());
    ASSERT_TRUE(monitor_.watch(i));
  }
  v1::WatchResponse response;
  auto extra = Open();
  EXPECT_FALSE(extra->reader->Read(&response));
  grpc::Status status = extra->reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("64 watches are open"));
  for (auto& stream : streams) stream->context.TryCancel();
  ASSERT_TRUE(AllWatchersGone());
  auto again = Open();
  EXPECT_TRUE(monitor_.watch(service::MonitorService::kMaxWatches));
}

TEST_F(WatchTest, StopEndsIdleStreamsWithAReason) {
  StartServer();
  auto stream = Open();
  ASSERT_TRUE(monitor_.watch(0));
  stream->reader->WaitForInitialMetadata();
  std::thread stopper([&] { server_->Stop(); });
  v1::WatchResponse response;
  while (stream->reader->Read(&response)) {
  }
  grpc::Status status = stream->reader->Finish();
  stopper.join();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(status.error_message(), "ikkuna-daemon is stopping");
  EXPECT_EQ(monitor_.watches_alive(), 0u);
}

TEST_F(WatchTest, StopFirstSendsWhatWaits) {
  constexpr uint64_t kSteps = 100'000;  // many messages, and more than the window of a connection
  monitor_.watch_queue_max = kSteps;
  service::ServerOptions options;
  options.stop_grace = std::chrono::minutes(1);
  options.stop_linger = std::chrono::seconds(2);
  StartServer(options);
  auto stream = Open();
  auto queue = monitor_.watch(0);
  ASSERT_TRUE(queue);
  stream->reader->WaitForInitialMetadata();
  std::vector<Sample> samples;
  for (uint64_t step = 0; step < kSteps; ++step) samples.push_back(MakeSample(1, step, 0));
  queue->Push({MakeSeries(1, kRun, "", "", "loss").series}, samples);
  std::thread stopper([&] { server_->Stop(); });
  // Nobody reads before the streams have been told to end, which comes right after the socket's end.
  for (int i = 0; i < 6000 && ::access(server_->socket_path().c_str(), F_OK) == 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  uint64_t received = 0;
  v1::WatchResponse response;
  while (stream->reader->Read(&response)) received += static_cast<uint64_t>(response.samples_size());
  grpc::Status status = stream->reader->Finish();
  stopper.join();
  EXPECT_EQ(received, kSteps);
  EXPECT_EQ(response.dropped(), 0u);
  EXPECT_EQ(status.error_message(), "ikkuna-daemon is stopping");
}

TEST_F(WatchTest, StopReturnsAlthoughAReaderHangsWithAFullWindow) {
  monitor_.watch_queue_max = 1'000'000;
  StartServer();
  auto hung = Open();
  auto queue = monitor_.watch(0);
  ASSERT_TRUE(queue);
  hung->reader->WaitForInitialMetadata();
  std::vector<Sample> samples;
  for (uint64_t step = 0; step < 900'000; ++step) samples.push_back(MakeSample(1, step, 0));
  queue->Push({}, samples);
  // The window is full when the queue no longer shrinks.
  size_t before = 0;
  do {
    before = queue->waiting();
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
  } while (queue->waiting() != before);
  ASSERT_GT(before, 0u);
  server_->Stop();
  EXPECT_EQ(monitor_.watches_alive(), 0u);
  v1::WatchResponse response;
  while (hung->reader->Read(&response)) {
  }
  EXPECT_FALSE(hung->reader->Finish().ok());
}

TEST_F(WatchTest, AClientThatDiesFreesItsWatcher) {
  StartServer();
  {
    auto channel = grpc::CreateCustomChannel("unix:" + server_->socket_path(), grpc::InsecureChannelCredentials(), [] {
      grpc::ChannelArguments arguments;
      arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
      return arguments;
    }());
    auto stub = v1::Monitor::NewStub(channel);
    grpc::ClientContext context;
    SetWatchdog(&context);
    auto reader = stub->Watch(&context, v1::WatchRequest());
    ASSERT_TRUE(monitor_.watch(0));
  }
  EXPECT_TRUE(AllWatchersGone());
}

}  // namespace
}  // namespace ikkuna::test
