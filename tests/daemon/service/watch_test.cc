// Watch streams over the real hub: order, back-pressure, the ways in which they begin and end.
#include <gmock/gmock.h>
#include <unistd.h>

#include <thread>

#include "daemon/service/message_size.h"
#include "daemon/service/watch_reactor.h"
#include "tests/daemon/service/core_fixture.h"

namespace ikkuna::test {
namespace {

using ::testing::HasSubstr;

class WatchTest : public CoreTest {
 protected:
  struct Stream {
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReader<v1::WatchResponse>> reader;
    bool Read(v1::WatchResponse* response) {
      const bool read = reader->Read(response);
      if (read) {
        EXPECT_LT(response->ByteSizeLong(), 1u << 20);
      }
      return read;
    }
  };
  // Returns once the watch is set up, or has failed.
  std::unique_ptr<Stream> Open(const v1::WatchRequest& request = {}) {
    auto stream = std::make_unique<Stream>();
    SetWatchdog(&stream->context);
    stream->reader = stub_->Watch(&stream->context, request);
    stream->reader->WaitForInitialMetadata();
    return stream;
  }
  bool AllWatchersGone() {
    for (int i = 0; i < 6000 && hub_->watchers() > 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    return hub_->watchers() == 0;
  }
};

TEST_F(WatchTest, ValuesOfEachTypeComeAfterTheirSeriesAndRunAndWithTheEvents) {
  const RunPtr run = BeginRun("r", 1, 2);
  StartServer();
  auto stream = Open();
  const uint32_t loss = Intern(run, "loss");
  const uint32_t note = Intern(run, "note", ValueType::kText);
  const uint32_t shape = Intern(run, "shape", ValueType::kHistogram);
  const uint32_t matrix = Intern(run, "confusion", ValueType::kTensor);
  Histogram histogram;
  histogram.max = 1;
  histogram.n = 3;
  histogram.counts = {1, 2};
  TensorValue tensor;
  tensor.sizes = {1, 2};
  tensor.values = {0.5, 0.25};
  Event event;
  event.severity = Severity::kWarning;
  event.run = run->key();
  event.kind = "loss_spike";
  event.text = "The loss rose.";
  event.step = 5;
  Offer(run, 5, {{loss, 2, 2.5}}, {{note, 64, Text{"a"}}, {note, 0, Text{"b"}}, {shape, 0, histogram},
                                   {matrix, 0, tensor}}, {event});
  std::map<uint32_t, v1::Series> announced;
  bool run_told = false;
  std::vector<std::string> texts;
  int numbers = 0, histograms = 0, tensors = 0, events = 0;
  v1::WatchResponse response;
  while (numbers + histograms + tensors + events < 4 || texts.size() < 2) {
    ASSERT_TRUE(stream->Read(&response));
    for (const v1::Run& told : response.runs()) {
      run_told = true;
      EXPECT_EQ(told.key().ShortDebugString(), "run_id: \"r\" attempt: 1 rank: 2");
      EXPECT_EQ(told.facts_size(), 0);
    }
    for (const v1::Series& series : response.new_series()) announced[series.id()] = series;
    for (const v1::StepValues& step : response.steps()) {
      EXPECT_TRUE(run_told);
      EXPECT_EQ(step.run().ShortDebugString(), "run_id: \"r\" attempt: 1 rank: 2");
      EXPECT_EQ(step.step(), 5u);
      EXPECT_EQ(step.samples_seen(), 640u);
      EXPECT_EQ(step.unix_ns(), 1'700'000'000'005'000'000);
      for (int i = 0; i < step.series_size(); ++i) {
        EXPECT_EQ(announced[step.series(i)].key().topic(), "loss");
        EXPECT_EQ(announced[step.series(i)].type(), v1::VALUE_TYPE_NUMBER);
        EXPECT_EQ(step.numbers(i), 2.5);
        EXPECT_EQ(step.number_flags(i), static_cast<uint32_t>(v1::SAMPLE_FLAG_GRAD_MODIFIED));
        ++numbers;
      }
      for (int i = 0; i < step.value_series_size(); ++i) {
        const v1::Value& value = step.values(i);
        if (value.has_text()) {
          texts.push_back(value.text());
          EXPECT_EQ(announced[step.value_series(i)].key().topic(), "note");
          EXPECT_EQ(step.value_flags(i), value.text() == "a" ? 64u : 0u);
        } else if (value.has_histogram()) {
          EXPECT_EQ(value.histogram().n(), 3u);
          EXPECT_THAT(value.histogram().counts(), ::testing::ElementsAre(1, 2));
          ++histograms;
        } else {
          EXPECT_EQ(value.tensor().form(), v1::TENSOR_FORM_MATRIX);
          EXPECT_THAT(value.tensor().values(), ::testing::ElementsAre(0.5f, 0.25f));
          ++tensors;
        }
      }
    }
    for (const v1::Event& told : response.events()) {
      EXPECT_EQ(told.severity(), v1::SEVERITY_WARNING);
      EXPECT_EQ(told.kind(), "loss_spike");
      ++events;
    }
  }
  EXPECT_THAT(texts, ::testing::ElementsAre("a", "b"));
  EXPECT_EQ(numbers, 1);
  EXPECT_EQ(announced.size(), 4u);
  stream->context.TryCancel();
  while (stream->Read(&response)) {
  }
  EXPECT_EQ(stream->reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(AllWatchersGone());
}

TEST_F(WatchTest, OnlyThePartsThatWereAskedForAreCarried) {
  const RunPtr run = BeginRun("r");
  StartServer();
  v1::WatchRequest request;
  request.add_parts(v1::WATCH_PART_TEXTS);
  request.add_parts(v1::WATCH_PART_EVENTS);
  auto some = Open(request);
  auto all = Open();
  const uint32_t loss = Intern(run, "loss");
  const uint32_t note = Intern(run, "note", ValueType::kText);
  for (uint64_t step = 0; step < 10; ++step) Offer(run, step, {{loss, 0, 1}}, {{note, 0, Text{std::to_string(step)}}});
  v1::WatchResponse response;
  for (uint64_t next = 0; next < 10;) {
    ASSERT_TRUE(some->Read(&response));
    for (const v1::Series& series : response.new_series()) EXPECT_EQ(series.key().topic(), "note");
    for (const v1::StepValues& step : response.steps()) {
      EXPECT_EQ(step.numbers_size(), 0);
      for (const v1::Value& value : step.values()) EXPECT_EQ(value.text(), std::to_string(next++));
    }
  }
  for (int numbers = 0; numbers < 10;) {
    ASSERT_TRUE(all->Read(&response));
    for (const v1::StepValues& step : response.steps()) numbers += step.numbers_size();
  }
}

TEST_F(WatchTest, EveryStepArrivesInOrder) {
  const RunPtr run = BeginRun("r");
  StartServer();
  auto stream = Open();
  const uint32_t loss = Intern(run, "loss");
  constexpr uint64_t kSteps = 20'000;
  std::thread pusher([&] {
    for (uint64_t step = 0; step < kSteps; ++step) Offer(run, step, {{loss, 0, 0.5}});
  });
  uint64_t next = 0;
  v1::WatchResponse response;
  while (next < kSteps && stream->Read(&response)) {
    for (const v1::StepValues& step : response.steps()) {
      ASSERT_EQ(step.step(), next);
      ++next;
    }
    EXPECT_FALSE(response.has_dropped());
  }
  pusher.join();
  EXPECT_EQ(next, kSteps);
}

TEST_F(WatchTest, ASlowReaderLosesTheOldestAndIsToldHowMany) {
  watch_options_.waiting_bytes_max = 4 << 20;
  const RunPtr run = BeginRun("r");
  StartServer();
  auto stream = Open();
  std::vector<Sample> samples;
  for (int i = 0; i < 1000; ++i) samples.push_back({Intern(run, "t" + std::to_string(i)), 0, 1});
  // Far more than the windows of a connection hold while nobody reads.
  constexpr uint64_t kSteps = 2000;
  const auto soon = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  for (uint64_t step = 0; step < kSteps; ++step) {
    auto batch = std::make_shared<Batch>();
    batch->run = run;
    batch->stamp.timeline = 1;
    batch->stamp.step = step;
    batch->samples = samples;
    hub_->Offer(batch);
    if (step % 100 == 0) {
      ASSERT_TRUE(hub_->Flush(soon).ok());
    }
  }
  uint64_t received = 0, dropped = 0, last = 0;
  v1::WatchResponse response;
  while (received + dropped < kSteps * 1000 && stream->Read(&response)) {
    for (const v1::StepValues& step : response.steps()) {
      EXPECT_GE(step.step(), last);
      last = step.step();
      received += static_cast<uint64_t>(step.numbers_size());
    }
    if (response.has_dropped()) dropped = response.dropped();
  }
  EXPECT_EQ(received + dropped, kSteps * 1000);
  EXPECT_GT(dropped, 0u);
  EXPECT_EQ(last, kSteps - 1);
}

TEST_F(WatchTest, ManyNewSeriesAreSplitOverMessages) {
  const RunPtr run = BeginRun("r");
  StartServer();
  auto stream = Open();
  constexpr uint32_t kCount = 20'000;
  std::vector<Sample> samples;
  for (uint32_t i = 0; i < kCount; ++i) {
    samples.push_back({Intern(run, "t" + std::to_string(i), ValueType::kNumber, std::string(200, 'm')), 0, 1});
  }
  Offer(run, 1, samples);
  uint32_t announced = 0;
  v1::WatchResponse response;
  bool got_value = false;
  while (!got_value && stream->Read(&response)) {
    announced += static_cast<uint32_t>(response.new_series_size());
    for (const v1::StepValues& step : response.steps()) {
      EXPECT_EQ(announced, kCount);
      got_value = got_value || step.numbers_size() > 0;
    }
  }
  EXPECT_TRUE(got_value);
}

TEST_F(WatchTest, AStepLargerThanAMessageComesInSeveral) {
  const RunPtr run = BeginRun("r");
  StartServer();
  auto stream = Open();
  std::vector<Sample> samples;
  for (int i = 0; i < 100'000; ++i) samples.push_back({Intern(run, "t" + std::to_string(i)), 64, i + 0.5});
  TensorValue tensor;
  tensor.sizes = {1000, 1000};
  tensor.values.resize(1'000'000);
  for (size_t i = 0; i < tensor.values.size(); ++i) tensor.values[i] = static_cast<float>(i);
  const uint32_t matrix = Intern(run, "matrix", ValueType::kTensor);
  Offer(run, 3, samples, {{matrix, 0, tensor}});
  std::vector<double> numbers;
  std::vector<float> elements;
  v1::WatchResponse response;
  while ((numbers.size() < samples.size() || elements.size() < tensor.values.size()) && stream->Read(&response)) {
    for (const v1::StepValues& step : response.steps()) {
      EXPECT_EQ(step.number_flags_size(), step.numbers_size());
      numbers.insert(numbers.end(), step.numbers().begin(), step.numbers().end());
      for (const v1::Value& value : step.values()) {
        EXPECT_EQ(value.tensor().offset(), elements.size());
        EXPECT_THAT(value.tensor().sizes(), ::testing::ElementsAre(1000, 1000));
        elements.insert(elements.end(), value.tensor().values().begin(), value.tensor().values().end());
      }
    }
  }
  ASSERT_EQ(numbers.size(), samples.size());
  for (size_t i = 0; i < numbers.size(); ++i) ASSERT_EQ(numbers[i], static_cast<double>(i) + 0.5);
  EXPECT_EQ(elements, tensor.values);
}

TEST_F(WatchTest, AWatchBeginsWhereAReadEnded) {
  const RunPtr run = BeginRun("r");
  StartServer();
  const uint32_t loss = Intern(run, "loss");
  for (uint64_t step = 0; step < 100; ++step) Offer(run, step, {{loss, 0, 1}});
  std::vector<v1::ReadSamplesResponse> answers;
  ASSERT_TRUE(Read({}, &answers).ok());
  ASSERT_FALSE(answers.empty());
  const std::string cursor = answers.back().cursor();
  ASSERT_FALSE(cursor.empty());
  std::set<uint64_t> steps;
  for (const auto& answer : answers) {
    for (const v1::Columns& columns : answer.columns()) steps.insert(columns.steps().begin(), columns.steps().end());
  }
  EXPECT_EQ(steps.size(), 100u);
  for (uint64_t step = 100; step < 200; ++step) Offer(run, step, {{loss, 0, 1}});
  Flush();
  v1::WatchRequest request;
  request.set_cursor(cursor);
  auto stream = Open(request);
  v1::WatchResponse response;
  std::string later;
  while (steps.size() < 200 && stream->Read(&response)) {
    for (const v1::StepValues& step : response.steps()) {
      EXPECT_GE(step.step(), 100u);
      steps.insert(step.step());
    }
    if (!response.cursor().empty()) later = response.cursor();
  }
  EXPECT_EQ(steps.size(), 200u);
  // The cursor of a watch goes on where it was.
  ASSERT_FALSE(later.empty());
  Offer(run, 200, {{loss, 0, 1}});
  request.set_cursor(later);
  auto again = Open(request);
  uint64_t first = 0;
  while (first == 0 && again->Read(&response)) {
    if (response.steps_size() > 0) first = response.steps(0).step();
  }
  EXPECT_EQ(first, 200u);
}

TEST_F(WatchTest, ACursorOfAnotherDaemonOrNoneAtAllIsRefused) {
  StartServer();
  for (const char* cursor : {"0123456789abcdef0123456789abcdef:7", "nonsense", ":", "0123456789abcdef0123456789abcdef:",
                             "0123456789abcdef0123456789abcdef:-1"}) {
    v1::WatchRequest request;
    request.set_cursor(cursor);
    auto stream = Open(request);
    v1::WatchResponse response;
    EXPECT_FALSE(stream->Read(&response));
    const grpc::Status status = stream->reader->Finish();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION) << cursor;
    EXPECT_EQ(DetailOf(status).reason(), v1::ERROR_REASON_BAD_CURSOR) << cursor;
  }
}

TEST_F(WatchTest, TheFilterChoosesRunsAndSeries) {
  const RunPtr one = BeginRun("one");
  const RunPtr two = BeginRun("two");
  StartServer();
  v1::WatchRequest request;
  request.mutable_filter()->set_run("latest");
  request.mutable_filter()->set_topic("loss|acc*");
  auto stream = Open(request);
  for (const RunPtr& run : {one, two}) {
    Offer(run, 1, {{Intern(run, "other"), 0, 1}, {Intern(run, "loss"), 0, 2}, {Intern(run, "accuracy"), 0, 3}});
  }
  v1::WatchResponse response;
  std::vector<double> numbers;
  while (numbers.size() < 2 && stream->Read(&response)) {
    for (const v1::StepValues& step : response.steps()) {
      EXPECT_EQ(step.run().run_id(), "two");
      numbers.insert(numbers.end(), step.numbers().begin(), step.numbers().end());
    }
  }
  EXPECT_THAT(numbers, ::testing::ElementsAre(2, 3));
}

TEST_F(WatchTest, AWatchThatCannotBeginSaysWhy) {
  StartServer();
  v1::WatchRequest request;
  request.mutable_filter()->set_run("latest");
  v1::WatchResponse response;
  auto stream = Open(request);
  EXPECT_FALSE(stream->Read(&response));
  grpc::Status status = stream->reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(DetailOf(status).reason(), v1::ERROR_REASON_NO_SUCH_RUN);
  EXPECT_THAT(status.error_message(), HasSubstr("no run has been recorded yet"));
  request.Clear();
  request.add_parts(static_cast<v1::WatchPart>(17));
  stream = Open(request);
  EXPECT_FALSE(stream->Read(&response));
  status = stream->reader->Finish();
  EXPECT_EQ(DetailOf(status).reason(), v1::ERROR_REASON_BAD_FIELD);
  EXPECT_EQ(DetailOf(status).subject(), "parts");
}

TEST_F(WatchTest, MoreWatchesThanTheMaximumAreRefused) {
  StartServer();
  std::vector<std::shared_ptr<grpc::Channel>> channels;
  std::vector<std::unique_ptr<v1::Monitor::Stub>> stubs;
  std::vector<std::unique_ptr<Stream>> streams;
  for (size_t i = 0; i < sinks::WatchHub::kWatchersMax; ++i) {
    if (i % 64 == 0) {
      channels.push_back(NewChannel());
      stubs.push_back(v1::Monitor::NewStub(channels.back()));
    }
    streams.push_back(std::make_unique<Stream>());
    SetWatchdog(&streams.back()->context);
    streams.back()->reader = stubs.back()->Watch(&streams.back()->context, {});
  }
  for (auto& stream : streams) stream->reader->WaitForInitialMetadata();
  EXPECT_EQ(hub_->watchers(), 256u);
  v1::GetStatusResponse daemon;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::GetStatus, {}, &daemon).ok());
  EXPECT_EQ(daemon.watches(), 256u);
  v1::WatchResponse response;
  auto extra = Open();
  EXPECT_FALSE(extra->Read(&response));
  grpc::Status status = extra->reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(DetailOf(status).reason(), v1::ERROR_REASON_LIMIT);
  EXPECT_THAT(status.error_message(), HasSubstr("256"));
  // All of them get what comes.
  const RunPtr run = BeginRun("r");
  Offer(run, 7, {{Intern(run, "loss"), 0, 2.5}});
  for (auto& stream : streams) {
    double number = 0;
    while (number == 0 && stream->Read(&response)) {
      if (response.steps_size() > 0) number = response.steps(0).numbers(0);
    }
    EXPECT_EQ(number, 2.5);
  }
  for (auto& stream : streams) stream->context.TryCancel();
  ASSERT_TRUE(AllWatchersGone());
  auto again = Open();
  EXPECT_EQ(hub_->watchers(), 1u);
}

TEST_F(WatchTest, StopEndsIdleStreamsWithAReason) {
  service::ServerOptions options;
  options.stop_grace = std::chrono::minutes(1);  // else a server that is slow to end them cuts them off
  StartServer(options);
  auto stream = Open();
  std::thread stopper([&] { server_->Stop(); });
  v1::WatchResponse response;
  while (stream->Read(&response)) {
  }
  grpc::Status status = stream->reader->Finish();
  stopper.join();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(status.error_message(), "ikkuna-daemon is stopping");
  EXPECT_EQ(DetailOf(status).reason(), v1::ERROR_REASON_STOPPING);
  EXPECT_EQ(hub_->watchers(), 0u);
}

TEST_F(WatchTest, AHubThatClosesEndsItsStreamsAfterWhatWaits) {
  const RunPtr run = BeginRun("r");
  StartServer();
  auto stream = Open();
  Offer(run, 7, {{Intern(run, "loss"), 0, 2.5}});
  Flush();
  hub_->Close();
  v1::WatchResponse response;
  int numbers = 0;
  while (stream->Read(&response)) {
    for (const v1::StepValues& step : response.steps()) numbers += step.numbers_size();
  }
  EXPECT_EQ(numbers, 1);
  EXPECT_EQ(stream->reader->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(WatchTest, StopFirstSendsWhatWaits) {
  constexpr uint64_t kSteps = 2'000;  // many messages, and more than the window of a connection
  const RunPtr run = BeginRun("r");
  service::ServerOptions options;
  options.stop_grace = std::chrono::minutes(1);
  options.stop_linger = std::chrono::seconds(2);
  StartServer(options);
  auto stream = Open();
  std::vector<Sample> samples;
  for (int i = 0; i < 500; ++i) samples.push_back({Intern(run, "t" + std::to_string(i)), 0, 1});
  for (uint64_t step = 0; step < kSteps; ++step) Offer(run, step, samples);
  Flush();
  std::thread stopper([&] { server_->Stop(); });
  // Nobody reads before the streams have been told to end, which comes right after the socket's end.
  const std::string path = dir_.path() + "/grpc.sock";
  for (int i = 0; i < 6000 && ::access(path.c_str(), F_OK) == 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  uint64_t received = 0;
  v1::WatchResponse response;
  while (stream->Read(&response)) {
    EXPECT_FALSE(response.has_dropped());
    for (const v1::StepValues& step : response.steps()) received += static_cast<uint64_t>(step.numbers_size());
  }
  grpc::Status status = stream->reader->Finish();
  stopper.join();
  EXPECT_EQ(received, kSteps * 500);
  EXPECT_EQ(status.error_message(), "ikkuna-daemon is stopping");
}

TEST_F(WatchTest, StopReturnsAlthoughAReaderHangsWithAFullWindow) {
  const RunPtr run = BeginRun("r");
  StartServer();
  auto hung = Open();
  std::vector<Sample> samples;
  for (int i = 0; i < 500; ++i) samples.push_back({Intern(run, "t" + std::to_string(i)), 0, 1});
  for (uint64_t step = 0; step < 4'000; ++step) Offer(run, step, samples);
  Flush();
  // The window is full when no more is taken.
  uint64_t before = 0, now = 0;
  do {
    before = now;
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    now = hub_->Counters().written;
  } while (now != before);
  ASSERT_GT(hub_->Counters().waiting, 0u);
  server_->Stop();
  EXPECT_EQ(hub_->watchers(), 0u);
  v1::WatchResponse response;
  while (hung->Read(&response)) {
  }
  EXPECT_FALSE(hung->reader->Finish().ok());
}

TEST_F(WatchTest, AClientThatDiesFreesItsWatcher) {
  StartServer();
  {
    auto stub = v1::Monitor::NewStub(NewChannel());
    grpc::ClientContext context;
    SetWatchdog(&context);
    auto reader = stub->Watch(&context, v1::WatchRequest());
    reader->WaitForInitialMetadata();
    EXPECT_EQ(hub_->watchers(), 1u);
  }
  EXPECT_TRUE(AllWatchersGone());
}

TEST_F(WatchTest, AnOpenWatchIsActivity) {
  StartServer();
  EXPECT_EQ(core_->activity().calls(), 0u);
  auto stream = Open();
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ(core_->activity().SecondsUnused(), 0);
  stream->context.TryCancel();
  ASSERT_TRUE(AllWatchersGone());
  for (int i = 0; i < 6000 && core_->activity().SecondsUnused() == 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_GT(core_->activity().SecondsUnused(), 0);
}

}  // namespace
}  // namespace ikkuna::test
