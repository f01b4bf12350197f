// How calls fail: requests that make no sense, failures of each kind, what throws, what waits.
#include <gmock/gmock.h>

#include <condition_variable>
#include <mutex>
#include <thread>

#include "daemon/service/request_checks.h"
#include "tests/daemon/service/service_fixture.h"

namespace ikkuna::test {
namespace {

using ::testing::HasSubstr;

class FailuresTest : public ServiceTest {};

class BadFieldTest : public ServiceTest {
 protected:
  // The text of the refusal, of this field.
  template <typename Request, typename Response>
  std::string Refusal(grpc::Status (v1::Monitor::Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                      const Request& request, const std::string& field) {
    Response response;
    const grpc::Status status = Call(method, request, &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << field;
    const v1::ErrorDetail detail = DetailOf(status);
    EXPECT_EQ(detail.reason(), v1::ERROR_REASON_BAD_FIELD) << field;
    EXPECT_EQ(detail.subject(), field);
    return status.error_message();
  }
};

TEST_F(BadFieldTest, RequestsThatMakeNoSenseAreRefusedBeforeTheMonitorIsAsked) {
  // Whoever is asked nevertheless says something else.
  monitor_.failure = Failure(ErrorCode::kSystem, "it was asked");
  StartServer();
  using Stub = v1::Monitor::Stub;
  v1::ListSeriesRequest series;
  series.set_limit(2001);
  EXPECT_THAT(Refusal(&Stub::ListSeries, series, "limit"), HasSubstr("at most 2000 series"));
  series.set_limit(1);
  series.mutable_filter()->set_module(std::string(service::kRequestTextBytesMax + 1, 'x'));
  EXPECT_EQ(Refusal(&Stub::ListSeries, series, "filter.module"),
            "filter.module has 65537 bytes; at most 65536 are taken");
  v1::ListRunsRequest runs;
  runs.set_limit(1001);
  EXPECT_THAT(Refusal(&Stub::ListRuns, runs, "limit"), HasSubstr("at most 1000 runs"));
  runs.set_limit(0);
  runs.add_states(v1::PRODUCER_STATE_UNSPECIFIED);
  EXPECT_THAT(Refusal(&Stub::ListRuns, runs, "states"), HasSubstr("no state"));
  v1::ListModulesRequest modules;
  modules.set_limit(1001);
  EXPECT_THAT(Refusal(&Stub::ListModules, modules, "limit"), HasSubstr("at most 1000 modules"));
  v1::ListEventsRequest events;
  events.set_limit(1001);
  EXPECT_THAT(Refusal(&Stub::ListEvents, events, "limit"), HasSubstr("at most 1000 events"));
  events.set_limit(0);
  events.set_last(0);
  EXPECT_THAT(Refusal(&Stub::ListEvents, events, "last"), HasSubstr("last is 0"));
  events.set_last(1001);
  EXPECT_THAT(Refusal(&Stub::ListEvents, events, "last"), HasSubstr("last is 1001"));
  EXPECT_EQ(Refusal(&Stub::DeleteRun, v1::DeleteRunRequest(), "run"), "run is empty");
  v1::TagRunRequest tag;
  EXPECT_EQ(Refusal(&Stub::TagRun, tag, "run"), "run is empty");
  tag.set_run("r");
  EXPECT_THAT(Refusal(&Stub::TagRun, tag, "add"), HasSubstr("nothing to do"));
  tag.add_remove("");
  EXPECT_EQ(Refusal(&Stub::TagRun, tag, "remove"), "remove is empty");
  EXPECT_EQ(Refusal(&Stub::AddSubscribers, v1::AddSubscribersRequest(), "text"), "text is empty");
  EXPECT_THAT(Refusal(&Stub::RemoveSubscribers, v1::RemoveSubscribersRequest(), "id"), HasSubstr("which subscribers"));
  EXPECT_EQ(Refusal(&Stub::Freeze, v1::FreezeRequest(), "module"), "module is empty");
  EXPECT_EQ(Refusal(&Stub::Unfreeze, v1::UnfreezeRequest(), "module"), "module is empty");
  v1::StopRequest stop;
  for (uint32_t rank = 0; rank < 5000; ++rank) stop.add_ranks(rank);
  EXPECT_THAT(Refusal(&Stub::Stop, stop, "ranks"), HasSubstr("5000 entries"));
  v1::PublishRequest publish;
  EXPECT_THAT(Refusal(&Stub::Publish, publish, "run"), HasSubstr("neither run"));
  publish.set_run("r");
  publish.set_end(true);
  EXPECT_THAT(Refusal(&Stub::Publish, publish, "end"), HasSubstr("own_run"));
  publish.set_own_run("mine");
  publish.set_rank(1);
  EXPECT_THAT(Refusal(&Stub::Publish, publish, "rank"), HasSubstr("own_run"));
  publish.clear_rank();
  v1::PublishedValue* value = publish.add_steps()->add_values();
  EXPECT_THAT(Refusal(&Stub::Publish, publish, "steps.values.value"), HasSubstr("neither a number"));
  value->mutable_value()->mutable_tensor();
  EXPECT_THAT(Refusal(&Stub::Publish, publish, "steps.values.value.tensor.form"), HasSubstr("form"));
  value->mutable_value()->mutable_tensor()->set_form(v1::TENSOR_FORM_MATRIX);
  value->mutable_value()->mutable_tensor()->set_offset(4);
  EXPECT_THAT(Refusal(&Stub::Publish, publish, "steps.values.value.tensor.offset"), HasSubstr("one piece"));
}

struct Mapping {
  ErrorCode code;
  grpc::StatusCode expected;
};

TEST_F(FailuresTest, EveryErrorArrivesWithItsCodeTextAndReason) {
  StartServer();
  const Mapping mappings[] = {{ErrorCode::kInvalidArgument, grpc::StatusCode::INVALID_ARGUMENT},
                              {ErrorCode::kNotFound, grpc::StatusCode::NOT_FOUND},
                              {ErrorCode::kAlreadyExists, grpc::StatusCode::ALREADY_EXISTS},
                              {ErrorCode::kFailedPrecondition, grpc::StatusCode::FAILED_PRECONDITION},
                              {ErrorCode::kResourceExhausted, grpc::StatusCode::RESOURCE_EXHAUSTED},
                              {ErrorCode::kPermissionDenied, grpc::StatusCode::PERMISSION_DENIED},
                              {ErrorCode::kUnavailable, grpc::StatusCode::UNAVAILABLE},
                              {ErrorCode::kCorrupt, grpc::StatusCode::DATA_LOSS},
                              {ErrorCode::kSystem, grpc::StatusCode::INTERNAL}};
  for (const Mapping& mapping : mappings) {
    monitor_.failure = Failure(mapping.code, "what was tried", Reason::kRunOpen, "the run", "wait");
    v1::ListRunsResponse response;
    grpc::Status status = Call(&v1::Monitor::Stub::ListRuns, v1::ListRunsRequest(), &response);
    EXPECT_EQ(status.error_code(), mapping.expected) << ErrorCodeName(mapping.code);
    EXPECT_EQ(status.error_message(), "what was tried");
    EXPECT_EQ(DetailOf(status).ShortDebugString(),
              "reason: ERROR_REASON_RUN_OPEN subject: \"the run\" hint: \"wait\"");
  }
  for (int reason = 0; reason <= static_cast<int>(Reason::kStore); ++reason) {
    monitor_.failure = Failure(ErrorCode::kNotFound, "x", static_cast<Reason>(reason));
    v1::ListRunsResponse response;
    const grpc::Status status = Call(&v1::Monitor::Stub::ListRuns, v1::ListRunsRequest(), &response);
    EXPECT_EQ(static_cast<int>(DetailOf(status).reason()), reason);
  }
}

TEST_F(FailuresTest, AFailureWithALongTextOrNoUtf8StillArrives) {
  monitor_.failure =
      Failure(ErrorCode::kNotFound, std::string(1 << 20, 'x'), Reason::kNoSuchRun, "\xff", std::string(1 << 20, 'y'));
  StartServer();
  v1::ListRunsResponse response;
  const grpc::Status status = Call(&v1::Monitor::Stub::ListRuns, v1::ListRunsRequest(), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_THAT(status.error_message(), HasSubstr("xxxx"));
  EXPECT_EQ(DetailOf(status).subject(), "?");
}

TEST_F(FailuresTest, WhatThrowsBecomesAnAnswer) {
  StartServer();
  std::vector<v1::ReadSamplesResponse> answers;
  monitor_.before_read = [] { throw std::runtime_error("disk on fire"); };
  grpc::Status status = Read({}, &answers);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(status.error_message(), "the daemon failed to answer: disk on fire");
  monitor_.before_read = [] { throw std::bad_alloc(); };
  status = Read({}, &answers);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(DetailOf(status).reason(), v1::ERROR_REASON_LIMIT);
  monitor_.before_read = [] { throw 7; };
  EXPECT_EQ(Read({}, &answers).error_code(), grpc::StatusCode::INTERNAL);
  // In the middle of a stream, too.
  monitor_.before_read = nullptr;
  monitor_.make_part = [](size_t) -> Result<std::optional<SeriesColumns>> { throw std::runtime_error("half way"); };
  EXPECT_EQ(Read({}, &answers).error_message(), "the daemon failed to answer: half way");
  v1::GetStatusResponse response;
  EXPECT_TRUE(Call(&v1::Monitor::Stub::GetStatus, v1::GetStatusRequest(), &response).ok());
}

TEST_F(FailuresTest, AStatusIsAnsweredWhileEveryQueryWaitsForTheDisk) {
  std::mutex mutex;
  std::condition_variable changed;
  bool let_go = false;
  monitor_.before_read = [&] {
    std::unique_lock lock(mutex);
    changed.wait_for(lock, std::chrono::minutes(1), [&] { return let_go; });
  };
  StartServer();
  std::vector<std::thread> readers;
  for (int i = 0; i < 8; ++i) {
    readers.emplace_back([&] {
      std::vector<v1::ReadSamplesResponse> answers;
      EXPECT_TRUE(Read({}, &answers).ok());
    });
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  v1::GetStatusResponse status;
  EXPECT_TRUE(Call(&v1::Monitor::Stub::GetStatus, v1::GetStatusRequest(), &status).ok());
  v1::StopResponse stopped;
  EXPECT_TRUE(Call(&v1::Monitor::Stub::Stop, v1::StopRequest(), &stopped).ok());
  {
    std::lock_guard lock(mutex);
    EXPECT_FALSE(let_go);
    let_go = true;
  }
  changed.notify_all();
  for (std::thread& reader : readers) reader.join();
}

TEST_F(FailuresTest, EveryCallIsActivityUntilItsEnd) {
  StartServer();
  v1::GetStatusResponse status;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::GetStatus, v1::GetStatusRequest(), &status).ok());
  std::vector<v1::ReadSamplesResponse> answers;
  ASSERT_TRUE(Read({}, &answers).ok());
  EXPECT_EQ(monitor_.activity().calls(), 2u);
  server_->Stop();
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_GT(monitor_.activity().SecondsUnused(), 0);
}

}  // namespace
}  // namespace ikkuna::test
