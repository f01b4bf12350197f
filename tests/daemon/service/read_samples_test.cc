// ReadSamples: every value of every type, whatever its size, in messages below 1 MiB; and slow or vanishing readers.
#include <gmock/gmock.h>

#include <atomic>
#include <cmath>
#include <condition_variable>
#include <limits>
#include <map>
#include <thread>

#include "daemon/service/convert_values.h"
#include "tests/daemon/service/core_fixture.h"

namespace ikkuna::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const RunKey kRun{"r", 0, 1};

// The parts of a series put together again.
struct Whole {
  std::vector<uint64_t> steps;
  std::vector<double> numbers;
  std::vector<v1::Value> values;
  std::vector<uint32_t> flags;
};
std::map<uint32_t, Whole> Join(const std::vector<v1::ReadSamplesResponse>& answers) {
  std::map<uint32_t, Whole> all;
  std::set<std::string> runs;
  uint32_t last = 0;
  for (const v1::ReadSamplesResponse& answer : answers) {
    for (const v1::Run& run : answer.runs()) EXPECT_TRUE(runs.insert(run.key().SerializeAsString()).second);
    for (const v1::Columns& columns : answer.columns()) {
      EXPECT_EQ(runs.count(columns.series().key().run().SerializeAsString()), 1u);
      const uint32_t id = columns.series().id();
      if (id != last) {
        EXPECT_EQ(all.count(id), 0u) << "parts of one series come one after another";
      }
      last = id;
      const int n = columns.steps_size();
      EXPECT_GT(n, 0);
      EXPECT_EQ(columns.epochs_size(), n);
      EXPECT_EQ(columns.unix_ns_size(), n);
      EXPECT_EQ(columns.samples_seen_size(), n);
      EXPECT_EQ(columns.flags_size(), n);
      EXPECT_EQ(columns.numbers_size() + columns.values_size(), n);
      for (int i = 0; i < n; ++i) {
        EXPECT_EQ(columns.samples_seen(i), columns.steps(i) * 128);
        EXPECT_EQ(columns.unix_ns(i), 1'700'000'000'000'000'000 + static_cast<int64_t>(columns.steps(i)) * 1'000'000);
        EXPECT_EQ(columns.epochs(i), columns.steps(i) / 100);
      }
      Whole& whole = all[id];
      whole.steps.insert(whole.steps.end(), columns.steps().begin(), columns.steps().end());
      whole.numbers.insert(whole.numbers.end(), columns.numbers().begin(), columns.numbers().end());
      whole.values.insert(whole.values.end(), columns.values().begin(), columns.values().end());
      whole.flags.insert(whole.flags.end(), columns.flags().begin(), columns.flags().end());
    }
  }
  return all;
}

class ReadTest : public ServiceTest {};

TEST_F(ReadTest, TheRequestReachesTheMonitor) {
  StartServer();
  v1::ReadSamplesRequest request;
  request.mutable_filter()->set_run("n");
  request.mutable_filter()->set_topic("loss|acc*");
  request.set_step_min(2);
  request.set_step_max(3);
  request.set_max_points(100);
  request.set_merge_attempts(true);
  request.add_types(v1::VALUE_TYPE_NUMBER);
  request.add_types(v1::VALUE_TYPE_TENSOR);
  std::vector<v1::ReadSamplesResponse> answers;
  ASSERT_TRUE(Read(request, &answers).ok());
  ReadOptions seen = monitor_.last_read();
  EXPECT_EQ(seen.query.filter.run + seen.query.filter.topic, "nloss|acc*");
  EXPECT_EQ(seen.query.step_min, 2u);
  EXPECT_EQ(seen.query.step_max, 3u);
  EXPECT_EQ(seen.query.max_points, 100u);
  EXPECT_TRUE(seen.merge_attempts);
  EXPECT_THAT(seen.query.types, ElementsAre(ValueType::kNumber, ValueType::kTensor));
  // No series is an answer too, which says where a watch begins.
  ASSERT_EQ(answers.size(), 1u);
  EXPECT_FALSE(answers[0].cursor().empty());
  EXPECT_EQ(answers[0].columns_size(), 0);
  ASSERT_TRUE(Read({}, &answers).ok());
  seen = monitor_.last_read();
  EXPECT_FALSE(seen.query.step_min.has_value());
  EXPECT_FALSE(seen.query.step_max.has_value());
  EXPECT_FALSE(seen.merge_attempts);
  EXPECT_TRUE(seen.query.types.empty());
}

TEST_F(ReadTest, RequestsThatMakeNoSenseAreRefused) {
  StartServer();
  std::vector<v1::ReadSamplesResponse> answers;
  const auto refusal = [&](const v1::ReadSamplesRequest& request, const std::string& field) {
    const grpc::Status status = Read(request, &answers);
    EXPECT_EQ(DetailOf(status).reason(), v1::ERROR_REASON_BAD_FIELD);
    EXPECT_EQ(DetailOf(status).subject(), field);
    return status.error_message();
  };
  v1::ReadSamplesRequest request;
  request.set_max_points(3);
  EXPECT_EQ(refusal(request, "max_points"), "max_points is 3; pass 4 or more, or 0 for every sample");
  request.Clear();
  request.set_step_min(2);
  request.set_step_max(1);
  EXPECT_EQ(refusal(request, "step_min"), "step_min 2 is greater than step_max 1");
  request.Clear();
  request.add_types(v1::VALUE_TYPE_UNSPECIFIED);
  EXPECT_THAT(refusal(request, "types"), HasSubstr("no type"));
  request.Clear();
  request.mutable_filter()->set_topic(std::string(70'000, 'x'));
  EXPECT_THAT(refusal(request, "filter.topic"), HasSubstr("70000 bytes"));
  EXPECT_TRUE(answers.empty());
}

TEST_F(ReadTest, NumbersArriveAsTheyAre) {
  const SeriesInfo info = MakeSeries(7, kRun, "m", "", "t");
  const double infinity = std::numeric_limits<double>::infinity();
  SeriesColumns columns = MakeColumns(info, 1, {0.1, -infinity, 1e300, std::nan("")});
  columns.flags = {0, 1, 0xffff, 64};
  columns.reduced = true;
  columns.thinned = true;
  monitor_.columns = {columns};
  StartServer();
  std::vector<v1::ReadSamplesResponse> answers;
  ASSERT_TRUE(Read({}, &answers).ok());
  ASSERT_EQ(answers.size(), 1u);
  ASSERT_EQ(answers[0].columns_size(), 1);
  const v1::Columns& out = answers[0].columns(0);
  EXPECT_EQ(out.series().ShortDebugString(),
            "id: 7 key { run { run_id: \"r\" rank: 1 } tag: \"default\" root: \"model\" module: \"m\" topic: \"t\" } "
            "type: VALUE_TYPE_NUMBER");
  EXPECT_THAT(out.steps(), ElementsAre(1, 2, 3, 4));
  EXPECT_EQ(out.numbers(1), -infinity);
  EXPECT_EQ(out.numbers(2), 1e300);
  EXPECT_TRUE(std::isnan(out.numbers(3)));
  EXPECT_THAT(out.flags(), ElementsAre(0, 1, 127 | v1::SAMPLE_FLAG_RANKS_MISSING | v1::SAMPLE_FLAG_THINNED, 64));
  EXPECT_TRUE(out.reduced());
  EXPECT_TRUE(out.thinned());
  EXPECT_EQ(answers[0].runs(0).name(), "fashion");
}

TEST_F(ReadTest, AMillionNumbersWithTheLargestStampsComeInSmallMessages) {
  const SeriesInfo info = MakeSeries(7, kRun, "m", "", "t");
  constexpr size_t kParts = 64;
  monitor_.make_part = [&](size_t part) -> Result<std::optional<SeriesColumns>> {
    if (part >= kParts) return std::optional<SeriesColumns>();
    SeriesColumns columns =
        MakeColumns(info, part * SeriesReader::kPointsMax, std::vector<double>(SeriesReader::kPointsMax, 0.5));
    for (uint64_t& seen : columns.samples_seen) seen = UINT64_MAX;
    for (uint32_t& epoch : columns.epochs) epoch = UINT32_MAX;
    for (uint64_t& step : columns.steps) step += uint64_t{1} << 63;
    return std::optional(columns);
  };
  StartServer();
  grpc::ClientContext context;
  SetWatchdog(&context);
  auto reader = stub_->ReadSamples(&context, {});
  v1::ReadSamplesResponse answer;
  uint64_t next = uint64_t{1} << 63;
  while (reader->Read(&answer)) {
    EXPECT_LT(answer.ByteSizeLong(), 1u << 20);
    for (const v1::Columns& columns : answer.columns()) {
      for (const uint64_t step : columns.steps()) ASSERT_EQ(step, next++);
    }
  }
  ASSERT_TRUE(reader->Finish().ok());
  EXPECT_EQ(next - (uint64_t{1} << 63), kParts * SeriesReader::kPointsMax);
}

TEST_F(ReadTest, ManyShortSeriesShareAMessage) {
  for (uint32_t id = 1; id <= 10'000; ++id) {
    monitor_.columns.push_back(MakeColumns(MakeSeries(id, kRun, "m" + std::to_string(id), "", "t"), id, {1, 2}));
  }
  StartServer();
  std::vector<v1::ReadSamplesResponse> answers;
  ASSERT_TRUE(Read({}, &answers).ok());
  const auto all = Join(answers);
  EXPECT_EQ(all.size(), 10'000u);
  EXPECT_THAT(all.at(10'000).steps, ElementsAre(10'000, 10'001));
  EXPECT_LT(answers.size(), 10u);
}

TEST_F(ReadTest, LongNamesDoNotMakeLargeMessages) {
  for (uint32_t id = 1; id <= 100; ++id) {
    monitor_.columns.push_back(MakeColumns(MakeSeries(id, kRun, std::string(60'000, 'm'), "", "t"), id, {1, 2}));
  }
  StartServer();
  std::vector<v1::ReadSamplesResponse> answers;
  ASSERT_TRUE(Read({}, &answers).ok());
  EXPECT_EQ(Join(answers).size(), 100u);
}

TEST_F(ReadTest, TextsOfEverySizeArriveAndOneThatIsTooLongIsCutAndSaysSo) {
  std::vector<Value> texts;
  for (size_t i = 0; i < 500; ++i) texts.push_back(Text{std::string(i * 50, static_cast<char>('a' + i % 26))});
  texts.push_back(Text{std::string(service::kTextBytesMax, 'b')});
  texts.push_back(Text{std::string(1 << 20, 'c')});
  texts.push_back(Text{"not UTF-8: \xff"});
  monitor_.columns = {MakeColumns(MakeSeries(3, kRun, "", "", "note", ValueType::kText), 10, {}, texts)};
  StartServer();
  std::vector<v1::ReadSamplesResponse> answers;
  ASSERT_TRUE(Read({}, &answers).ok());
  const Whole whole = Join(answers).at(3);
  ASSERT_EQ(whole.values.size(), texts.size());
  for (size_t i = 0; i < 501; ++i) {
    ASSERT_EQ(whole.values[i].text(), std::get<Text>(texts[i]).text);
    ASSERT_EQ(whole.steps[i], 10 + i);
    ASSERT_EQ(whole.flags[i], 0u);
  }
  EXPECT_EQ(whole.values[501].text().size(), service::kTextBytesMax);
  EXPECT_EQ(whole.flags[501], static_cast<uint32_t>(v1::SAMPLE_FLAG_TRUNCATED));
  EXPECT_EQ(whole.values[502].text(), "not UTF-8: ?");
}

TEST_F(ReadTest, TensorsComeInPiecesAndHistogramsWhole) {
  std::vector<Value> tensors;
  for (const size_t elements :
       {size_t{0}, size_t{1}, service::kTensorPieceElements, service::kTensorPieceElements + 1, size_t{1} << 20}) {
    TensorValue tensor;
    tensor.form = TensorValue::Form::kImage;
    tensor.sizes = {1, static_cast<int64_t>(elements)};
    for (size_t i = 0; i < elements; ++i) tensor.values.push_back(static_cast<float>(i) + 0.5f);
    tensors.push_back(std::move(tensor));
  }
  std::vector<Value> histograms;
  for (size_t i = 0; i < 200; ++i) {
    Histogram histogram;
    histogram.min = 1;
    histogram.max = -1;
    histogram.nans = i;
    histogram.counts.assign(Histogram::kMaxBins, UINT64_MAX);
    histograms.push_back(histogram);
  }
  monitor_.columns = {MakeColumns(MakeSeries(3, kRun, "", "", "t", ValueType::kTensor), 10, {}, tensors),
                      MakeColumns(MakeSeries(4, kRun, "", "", "h", ValueType::kHistogram), 10, {}, histograms)};
  StartServer();
  std::vector<v1::ReadSamplesResponse> answers;
  ASSERT_TRUE(Read({}, &answers).ok());
  const auto all = Join(answers);
  const Whole& whole = all.at(3);
  EXPECT_EQ(whole.values.size(), 1u + 1 + 1 + 2 + 8);
  size_t piece = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const TensorValue& tensor = std::get<TensorValue>(tensors[i]);
    std::vector<float> got;
    do {
      ASSERT_LT(piece, whole.values.size());
      const v1::Tensor& part = whole.values[piece].tensor();
      EXPECT_EQ(whole.steps[piece], 10 + i);
      EXPECT_EQ(part.offset(), got.size());
      EXPECT_EQ(part.form(), v1::TENSOR_FORM_IMAGE);
      EXPECT_THAT(part.sizes(), ElementsAre(1, static_cast<int64_t>(tensor.values.size())));
      got.insert(got.end(), part.values().begin(), part.values().end());
      ++piece;
    } while (got.size() < tensor.values.size());
    ASSERT_EQ(got, tensor.values) << i;
  }
  ASSERT_EQ(all.at(4).values.size(), 200u);
  for (size_t i = 0; i < 200; ++i) {
    ASSERT_EQ(all.at(4).values[i].histogram().nans(), i);
    ASSERT_EQ(all.at(4).values[i].histogram().counts_size(), 4096);
  }
}

TEST_F(ReadTest, AFailureHalfWayEndsTheStreamWithItsReason) {
  const SeriesInfo info = MakeSeries(7, kRun, "m", "", "t");
  monitor_.make_part = [&](size_t part) -> Result<std::optional<SeriesColumns>> {
    if (part == 40) return Error{ErrorCode::kCorrupt, "the file of the run is broken"};
    return std::optional(MakeColumns(info, part * 10'000, std::vector<double>(10'000, 1)));
  };
  StartServer();
  std::vector<v1::ReadSamplesResponse> answers;
  const grpc::Status status = Read({}, &answers);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DATA_LOSS);
  EXPECT_EQ(status.error_message(), "the file of the run is broken");
  EXPECT_EQ(DetailOf(status).reason(), v1::ERROR_REASON_STORE);
  EXPECT_GT(answers.size(), 5u);
  EXPECT_TRUE(answers.back().cursor().empty());
}

TEST_F(ReadTest, WhoReadsSlowlyHoldsNoThreadAndNoMoreThanAWindowOfMemory) {
  const SeriesInfo info = MakeSeries(7, kRun, "m", "", "t");
  std::atomic<size_t> made{0};
  monitor_.make_part = [&](size_t part) -> Result<std::optional<SeriesColumns>> {
    if (part >= 10'000) return std::optional<SeriesColumns>();
    ++made;
    return std::optional(MakeColumns(info, part * 10'000, std::vector<double>(10'000, 1)));
  };
  StartServer();
  // More readers that hang than there are threads.
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::ReadSamplesResponse>>> readers;
  std::vector<std::unique_ptr<v1::Monitor::Stub>> stubs;
  for (int i = 0; i < 8; ++i) {
    stubs.push_back(v1::Monitor::NewStub(NewChannel()));
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    SetWatchdog(contexts.back().get());
    readers.push_back(stubs.back()->ReadSamples(contexts.back().get(), {}));
    readers.back()->WaitForInitialMetadata();
  }
  size_t before = 0;
  do {
    before = made;
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
  } while (made != before);
  EXPECT_LT(made, 8 * 200u);
  // Others are answered meanwhile.
  v1::ListRunsResponse runs;
  EXPECT_TRUE(Call(&v1::Monitor::Stub::ListRuns, v1::ListRunsRequest(), &runs).ok());
  v1::ReadSamplesResponse answer;
  for (size_t i = 0; i < readers.size(); ++i) {
    EXPECT_TRUE(readers[i]->Read(&answer));
    contexts[i]->TryCancel();
    while (readers[i]->Read(&answer)) {
    }
    EXPECT_EQ(readers[i]->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
}

TEST_F(ReadTest, CancellationEndsTheRead) {
  const SeriesInfo info = MakeSeries(7, kRun, "m", "", "t");
  std::atomic<size_t> made{0};
  monitor_.make_part = [&](size_t part) -> Result<std::optional<SeriesColumns>> {
    ++made;
    return std::optional(MakeColumns(info, part * 100, std::vector<double>(100, 1)));  // without an end
  };
  StartServer();
  grpc::ClientContext context;
  SetWatchdog(&context);
  auto reader = stub_->ReadSamples(&context, {});
  v1::ReadSamplesResponse answer;
  ASSERT_TRUE(reader->Read(&answer));
  context.TryCancel();
  while (reader->Read(&answer)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  for (int i = 0; i < 6000 && monitor_.activity().SecondsUnused() == 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  const size_t then = made;
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_EQ(made, then);
}

TEST_F(ReadTest, StopCutsAReaderThatHangs) {
  const SeriesInfo info = MakeSeries(7, kRun, "m", "", "t");
  monitor_.make_part = [&](size_t part) -> Result<std::optional<SeriesColumns>> {
    return std::optional(MakeColumns(info, part * 10'000, std::vector<double>(10'000, 1)));
  };
  service::ServerOptions options;
  options.stop_grace = std::chrono::milliseconds(200);
  StartServer(options);
  grpc::ClientContext context;
  SetWatchdog(&context);
  auto reader = stub_->ReadSamples(&context, {});
  reader->WaitForInitialMetadata();
  server_->Stop();
  v1::ReadSamplesResponse answer;
  while (reader->Read(&answer)) {
  }
  EXPECT_FALSE(reader->Finish().ok());
}

class ReadStoreTest : public CoreTest {};

TEST_F(ReadStoreTest, WhatIsInMemoryAndOnTheDiskIsOneAnswer) {
  const RunPtr run = BeginRun("r");
  StartServer();
  const uint32_t loss = Intern(run, "loss");
  const uint32_t note = Intern(run, "note", ValueType::kText);
  for (uint64_t step = 0; step < 1000; ++step) Offer(run, step, {{loss, 0, static_cast<double>(step)}});
  Flush();
  for (uint64_t step = 1000; step < 2000; ++step) {
    Offer(run, step, {{loss, 0, static_cast<double>(step)}}, {{note, 0, Text{"a"}}, {note, 0, Text{"b"}}});
  }
  std::vector<v1::ReadSamplesResponse> answers;
  ASSERT_TRUE(Read({}, &answers).ok());
  auto all = Join(answers);
  ASSERT_EQ(all.at(loss).steps.size(), 2000u);
  for (uint64_t step = 0; step < 2000; ++step) ASSERT_EQ(all.at(loss).numbers[step], static_cast<double>(step));
  ASSERT_EQ(all.at(note).values.size(), 2000u);
  EXPECT_EQ(all.at(note).values[0].text() + all.at(note).values[1].text(), "ab");

  v1::ReadSamplesRequest request;
  request.set_max_points(100);
  request.add_types(v1::VALUE_TYPE_NUMBER);
  answers.clear();
  ASSERT_TRUE(Read(request, &answers).ok());
  all = Join(answers);
  EXPECT_EQ(all.size(), 1u);
  EXPECT_LE(all.at(loss).steps.size(), 100u);
  EXPECT_TRUE(answers[0].columns(0).reduced());
  request.set_step_min(500);
  request.set_step_max(509);
  answers.clear();
  ASSERT_TRUE(Read(request, &answers).ok());
  EXPECT_THAT(Join(answers).at(loss).numbers, ElementsAre(500, 501, 502, 503, 504, 505, 506, 507, 508, 509));
}

TEST_F(ReadStoreTest, AReaderThatHangsKeepsNobodyFromWritingOrDeleting) {
  const RunPtr run = BeginRun("r");
  const RunPtr other = BeginRun("other");
  StartServer();
  std::vector<Sample> samples;
  for (int i = 0; i < 1000; ++i) samples.push_back({Intern(run, "t" + std::to_string(i)), 0, 1});
  for (uint64_t step = 0; step < 1000; ++step) {
    Offer(run, step, samples);
    if (step % 50 == 0) Flush();
  }
  EndRun(run);
  auto stub = v1::Monitor::NewStub(NewChannel());
  grpc::ClientContext context;
  SetWatchdog(&context);
  v1::ReadSamplesRequest request;
  request.mutable_filter()->set_run("r");
  auto reader = stub->ReadSamples(&context, request);
  reader->WaitForInitialMetadata();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  Offer(other, 1, {{Intern(other, "loss"), 0, 1}});
  Flush();
  v1::DeleteRunRequest remove;
  remove.set_run("r");
  v1::DeleteRunResponse removed;
  const grpc::Status status = Call(&v1::Monitor::Stub::DeleteRun, remove, &removed);
  EXPECT_TRUE(status.ok()) << status.error_message();
  context.TryCancel();
}

}  // namespace
}  // namespace ikkuna::test
