// Calls that look at recorded runs and change them, over the real store.
#include <gmock/gmock.h>

#include "tests/daemon/service/core_fixture.h"

namespace ikkuna::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class RecordedRunsTest : public CoreTest {
 protected:
  std::string Found(const std::string& text) {
    v1::ListRunsRequest request;
    request.set_run(text);
    v1::ListRunsResponse response;
    grpc::Status status = Call(&v1::Monitor::Stub::ListRuns, request, &response);
    if (!status.ok()) return status.error_message();
    std::string ids;
    for (const v1::Run& run : response.runs()) {
      ids += run.key().run_id() + "/" + std::to_string(run.key().attempt()) + "/" + std::to_string(run.key().rank()) +
             " ";
    }
    return ids;
  }
  struct Exported {
    std::vector<v1::ExportedFile> files;
    std::vector<std::string> bytes;
  };
  grpc::Status Export(const v1::ExportRunRequest& request, Exported* exported) {
    grpc::ClientContext context;
    SetWatchdog(&context);
    auto reader = stub_->ExportRun(&context, request);
    v1::ExportRunResponse part;
    while (reader->Read(&part)) {
      EXPECT_LT(part.ByteSizeLong(), 1u << 20);
      if (part.has_file()) {
        exported->files.push_back(part.file());
        exported->bytes.emplace_back();
      } else if (!exported->bytes.empty()) {
        exported->bytes.back() += part.data();
      }
    }
    return reader->Finish();
  }
  grpc::Status Import(const std::string& bytes, v1::ImportRunResponse* response, bool whole = true) {
    constexpr size_t chunk = 300'000;
    grpc::ClientContext context;
    SetWatchdog(&context);
    auto writer = stub_->ImportRun(&context, response);
    v1::ImportRunRequest request;
    for (size_t offset = 0; offset < bytes.size(); offset += chunk) {
      request.set_data(bytes.substr(offset, chunk));
      if (!writer->Write(request)) break;
    }
    request.clear_data();
    request.set_last(whole);
    writer->Write(request);
    writer->WritesDone();
    return writer->Finish();
  }
};

TEST_F(RecordedRunsTest, ARunIsFoundByIdByNameAndAsLatest) {
  BeginRun("old", 0, 0, "fashion");
  BeginRun("mid", 0, 0, "other");
  BeginRun("mid", 1, 0, "other");
  BeginRun("new", 0, 0, "fashion");
  BeginRun("new", 0, 1, "fashion");
  BeginRun(kDaemonRunId);
  StartServer();
  EXPECT_EQ(Found("old"), "old/0/0 ");
  EXPECT_THAT(Found("fashion"), HasSubstr("new/0/0"));
  EXPECT_THAT(Found("latest"), ::testing::AllOf(HasSubstr("new/0/0"), HasSubstr("new/0/1")));
  EXPECT_EQ(Found("other"), "mid/1/0 mid/0/0 ");
  // The daemon's own is meant only by its name.
  EXPECT_THAT(Found(""), ::testing::Not(HasSubstr(kDaemonRunId)));
  EXPECT_EQ(Found(kDaemonRunId), std::string(kDaemonRunId) + "/0/0 ");
  EXPECT_THAT(Found("nothing"), HasSubstr("nothing"));
  v1::ListRunsRequest request;
  request.set_run("nothing");
  v1::ListRunsResponse response;
  const grpc::Status status = Call(&v1::Monitor::Stub::ListRuns, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(DetailOf(status).reason(), v1::ERROR_REASON_NO_SUCH_RUN);
  EXPECT_EQ(DetailOf(status).subject(), "nothing");
}

TEST_F(RecordedRunsTest, PagesGoThroughAllRunsAndSeriesOnce) {
  for (int i = 0; i < 25; ++i) {
    const RunPtr run = BeginRun("run-" + std::to_string(i));
    for (int k = 0; k < 3; ++k) Offer(run, 1, {{Intern(run, "t" + std::to_string(k)), 0, 1}});
  }
  Flush();
  StartServer();
  std::vector<std::string> runs;
  v1::ListRunsRequest request;
  request.set_limit(7);
  v1::ListRunsResponse response;
  do {
    ASSERT_TRUE(Call(&v1::Monitor::Stub::ListRuns, request, &response).ok());
    EXPECT_LE(response.runs_size(), 7);
    for (const v1::Run& run : response.runs()) runs.push_back(run.key().run_id());
    request.set_page(response.next_page());
  } while (!request.page().empty() && runs.size() < 100);
  ASSERT_EQ(runs.size(), 25u);
  for (int i = 0; i < 25; ++i) EXPECT_EQ(runs[static_cast<size_t>(i)], "run-" + std::to_string(24 - i));
  std::vector<std::string> series;
  v1::ListSeriesRequest list;
  list.set_limit(8);
  v1::ListSeriesResponse listed;
  do {
    ASSERT_TRUE(Call(&v1::Monitor::Stub::ListSeries, list, &listed).ok());
    for (const v1::SeriesSummary& one : listed.series()) {
      series.push_back(one.series().key().run().run_id() + one.series().key().topic());
    }
    list.set_page(listed.next_page());
  } while (!list.page().empty() && series.size() < 200);
  ASSERT_EQ(series.size(), 75u);
  EXPECT_EQ(series[0], "run-24t0");
  EXPECT_EQ(series[74], "run-0t2");
  request.set_page("no page");
  const grpc::Status status = Call(&v1::Monitor::Stub::ListRuns, request, &response);
  EXPECT_EQ(DetailOf(status).reason(), v1::ERROR_REASON_BAD_FIELD);
  EXPECT_EQ(DetailOf(status).subject(), "page");
}

TEST_F(RecordedRunsTest, ARunIsTaggedAndFoundByItsTagAndDeletedOnceItHasEnded) {
  const RunPtr run = BeginRun("r");
  Offer(run, 1, {{Intern(run, "loss"), 0, 1}});
  StartServer();
  v1::TagRunRequest tag;
  tag.set_run("latest");
  tag.add_add("best");
  tag.add_add("paper");
  v1::TagRunResponse tagged;
  grpc::Status status = Call(&v1::Monitor::Stub::TagRun, tag, &tagged);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(tagged.run_id(), "r");
  EXPECT_THAT(tagged.tags(), ElementsAre("best", "paper"));
  tag.clear_add();
  tag.add_remove("paper");
  ASSERT_TRUE(Call(&v1::Monitor::Stub::TagRun, tag, &tagged).ok());
  EXPECT_THAT(tagged.tags(), ElementsAre("best"));
  tag.add_add("with blank");
  status = Call(&v1::Monitor::Stub::TagRun, tag, &tagged);
  EXPECT_EQ(DetailOf(status).reason(), v1::ERROR_REASON_BAD_FIELD);
  v1::ListRunsRequest list;
  list.add_tags("best");
  v1::ListRunsResponse listed;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::ListRuns, list, &listed).ok());
  EXPECT_EQ(listed.runs_size(), 1);
  list.add_tags("paper");
  ASSERT_TRUE(Call(&v1::Monitor::Stub::ListRuns, list, &listed).ok());
  EXPECT_EQ(listed.runs_size(), 0);

  v1::DeleteRunRequest remove;
  v1::DeleteRunResponse removed;
  remove.set_run("latest");
  EXPECT_FALSE(Call(&v1::Monitor::Stub::DeleteRun, remove, &removed).ok());
  remove.set_run("r");
  status = Call(&v1::Monitor::Stub::DeleteRun, remove, &removed);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(DetailOf(status).reason(), v1::ERROR_REASON_RUN_OPEN);
  EndRun(run);
  status = Call(&v1::Monitor::Stub::DeleteRun, remove, &removed);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(removed.runs_size(), 1);
  EXPECT_EQ(removed.runs(0).run_id(), "r");
  EXPECT_GT(removed.bytes(), 0u);
  EXPECT_THAT(Found("r"), HasSubstr("no run has been recorded yet"));
}

TEST_F(RecordedRunsTest, AFileThatIsExportedCanBeImportedAgain) {
  const RunPtr run = BeginRun("r");
  StartServer();
  std::vector<Sample> samples;
  for (int i = 0; i < 200; ++i) samples.push_back({Intern(run, "t" + std::to_string(i)), 0, 0});
  for (uint64_t step = 0; step < 500; ++step) {
    for (size_t i = 0; i < samples.size(); ++i) samples[i].value = std::sqrt(static_cast<double>(step * 211 + i));
    Offer(run, step, samples);
  }
  EndRun(run);
  v1::ExportRunRequest request;
  request.set_run("r");
  Exported exported;
  grpc::Status status = Export(request, &exported);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(exported.files.size(), 1u);
  EXPECT_EQ(exported.files[0].run().run_id(), "r");
  EXPECT_EQ(exported.files[0].bytes(), exported.bytes[0].size());
  EXPECT_GT(exported.bytes[0].size(), 512u * 1024) << "more than one message";
  // What is there already is refused.
  v1::ImportRunResponse imported;
  status = Import(exported.bytes[0], &imported);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ALREADY_EXISTS) << status.error_message();
  EXPECT_EQ(DetailOf(status).reason(), v1::ERROR_REASON_EXISTS);
  std::vector<v1::ReadSamplesResponse> before;
  ASSERT_TRUE(Read({}, &before).ok());
  v1::DeleteRunRequest remove;
  remove.set_run("r");
  v1::DeleteRunResponse removed;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::DeleteRun, remove, &removed).ok());
  status = Import(exported.bytes[0], &imported);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(imported.run().key().run_id(), "r");
  EXPECT_EQ(imported.run().values(), 100'000u);
  std::vector<v1::ReadSamplesResponse> after;
  ASSERT_TRUE(Read({}, &after).ok());
  size_t values = 0;
  for (const auto& answer : after) {
    for (const auto& columns : answer.columns()) values += static_cast<size_t>(columns.numbers_size());
  }
  EXPECT_EQ(values, 100'000u);
  ASSERT_EQ(after.size(), before.size());
  EXPECT_EQ(after[0].columns(0).SerializeAsString(), before[0].columns(0).SerializeAsString());
}

TEST_F(RecordedRunsTest, WhatIsNoFileOfARunIsRefusedAndLeavesNoTrace) {
  StartServer();
  v1::ImportRunResponse response;
  for (const std::string& bytes : {std::string(), std::string("no file"), std::string(3'000'000, 'x')}) {
    const grpc::Status status = Import(bytes, &response);
    EXPECT_FALSE(status.ok());
    EXPECT_EQ(DetailOf(status).reason(), v1::ERROR_REASON_BAD_FILE) << status.error_message();
  }
  size_t left = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(dir_.path() + "/staging")) ++left;
  EXPECT_EQ(left, 0u);
  v1::ListRunsResponse runs;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::ListRuns, {}, &runs).ok());
  EXPECT_EQ(runs.runs_size(), 0);
}

// However much of it came, and even all: nobody but the client knows where it ends.
TEST_F(RecordedRunsTest, AnImportThatIsCutOffIsNotTaken) {
  const RunPtr run = BeginRun("r");
  Offer(run, 1, {{Intern(run, "loss"), 0, 1}});
  EndRun(run);
  StartServer();
  Exported exported;
  ASSERT_TRUE(Export({}, &exported).ok());
  v1::DeleteRunRequest remove;
  remove.set_run("r");
  v1::DeleteRunResponse removed;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::DeleteRun, remove, &removed).ok());
  v1::ImportRunResponse response;
  const grpc::Status status = Import(exported.bytes[0], &response, false);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << status.error_message();
  EXPECT_EQ(DetailOf(status).reason(), v1::ERROR_REASON_BAD_FILE);
  EXPECT_TRUE(std::filesystem::is_empty(dir_.path() + "/staging"));
  EXPECT_TRUE(Import(exported.bytes[0], &response).ok());
}

TEST_F(RecordedRunsTest, AnImportThatItsClientCancelsLeavesNoTrace) {
  const RunPtr run = BeginRun("r");
  Offer(run, 1, {{Intern(run, "loss"), 0, 1}});
  EndRun(run);
  StartServer();
  v1::ExportRunRequest request;
  Exported exported;
  ASSERT_TRUE(Export(request, &exported).ok());
  v1::DeleteRunRequest remove;
  remove.set_run("r");
  v1::DeleteRunResponse removed;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::DeleteRun, remove, &removed).ok());
  {
    grpc::ClientContext context;
    SetWatchdog(&context);
    v1::ImportRunResponse response;
    auto writer = stub_->ImportRun(&context, &response);
    v1::ImportRunRequest part;
    part.set_data(exported.bytes[0]);
    ASSERT_TRUE(writer->Write(part));
    context.TryCancel();
    EXPECT_EQ(writer->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  // The server may learn of the call, or of its end, after the client is through with it.
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  for (int i = 0; i < 6000 && !std::filesystem::is_empty(dir_.path() + "/staging"); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_TRUE(std::filesystem::is_empty(dir_.path() + "/staging"));
  v1::ListRunsResponse runs;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::ListRuns, {}, &runs).ok());
  EXPECT_EQ(runs.runs_size(), 0);
}

TEST_F(RecordedRunsTest, AClientsOwnRunIsRecordedWatchedAndRead) {
  StartServer();
  grpc::ClientContext context;
  SetWatchdog(&context);
  auto watch = stub_->Watch(&context, {});
  watch->WaitForInitialMetadata();
  v1::PublishRequest request;
  request.set_own_run("mine");
  for (uint64_t step = 0; step < 10; ++step) {
    v1::PublishedStep* out = request.add_steps();
    out->set_step(step);
    v1::PublishedValue* value = out->add_values();
    value->set_topic("score");
    value->mutable_value()->set_number(0.5);
  }
  request.set_end(true);
  v1::PublishResponse response;
  const grpc::Status status = Call(&v1::Monitor::Stub::Publish, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.values(), 10u);
  EXPECT_EQ(response.run().run_id(), "mine");
  int watched = 0;
  v1::WatchResponse update;
  while (watched < 10 && watch->Read(&update)) {
    for (const v1::StepValues& step : update.steps()) watched += step.numbers_size();
  }
  EXPECT_EQ(watched, 10);
  context.TryCancel();
  v1::ReadSamplesRequest read;
  read.mutable_filter()->set_run("mine");
  std::vector<v1::ReadSamplesResponse> answers;
  ASSERT_TRUE(Read(read, &answers).ok());
  ASSERT_EQ(answers[0].columns_size(), 1);
  EXPECT_EQ(answers[0].columns(0).series().key().topic(), "score");
  EXPECT_EQ(answers[0].columns(0).steps_size(), 10);
}

TEST_F(RecordedRunsTest, EventsOfARunAndOfTheDaemonAreListed) {
  const RunPtr run = BeginRun("r");
  Event event;
  event.id = store_->TakeEventId();
  event.run = run->key();
  event.kind = "note";
  event.text = "It cannot see this.";
  Offer(run, 0, {}, {}, {event});
  Flush();
  StartServer();
  v1::ListEventsRequest request;
  request.set_run("latest");
  v1::ListEventsResponse response;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::ListEvents, request, &response).ok());
  ASSERT_EQ(response.events_size(), 1);
  EXPECT_EQ(response.events(0).kind(), "note");
  EXPECT_EQ(response.events(0).run().run_id(), "r");
  request.set_run("nobody");
  EXPECT_EQ(Call(&v1::Monitor::Stub::ListEvents, request, &response).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(RecordedRunsTest, SubscribersAreOnUntilTheyAreRemoved) {
  StartServer();
  v1::AddSubscribersRequest add;
  add.set_text("norm(weights, order=3)");
  v1::AddSubscribersResponse added;
  grpc::Status status = Call(&v1::Monitor::Stub::AddSubscribers, add, &added);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(added.subscribers_size(), 1);
  EXPECT_THAT(added.subscribers(0).owners(), ElementsAre("uid:" + std::to_string(::geteuid())));
  add.set_text("nonsense(");
  status = Call(&v1::Monitor::Stub::AddSubscribers, add, &added);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  v1::RemoveSubscribersRequest remove;
  remove.set_id(added.subscribers_size() > 0 ? added.subscribers(0).id() : 1);
  v1::RemoveSubscribersResponse removed;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::RemoveSubscribers, remove, &removed).ok());
  EXPECT_EQ(removed.subscribers_size(), 1);
  EXPECT_EQ(Call(&v1::Monitor::Stub::RemoveSubscribers, remove, &removed).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(RecordedRunsTest, ControlOfARunThatIsNotConnectedIsRefused) {
  BeginRun("r");
  StartServer();
  v1::StopRequest stop;
  stop.set_run("r");
  v1::StopResponse stopped;
  const grpc::Status status = Call(&v1::Monitor::Stub::Stop, stop, &stopped);
  EXPECT_EQ(DetailOf(status).reason(), v1::ERROR_REASON_RUN_NOT_LIVE) << status.error_message();
}

}  // namespace
}  // namespace ikkuna::test
