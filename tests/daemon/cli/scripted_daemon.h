// A daemon that answers what a test wrote down, over the real interface: it selects as the interface says, and notes
// what it was asked.
//
// Owner: a test. Thread rule: fields before Start, or while no call runs; log and requests from any thread.
#pragma once

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "daemon/service/keep_grpc.h"
#include "daemon/model/names.h"
#include "ikkuna/v1/monitor.grpc.pb.h"

namespace ikkuna::test {

inline v1::RunKey MakeKey(const std::string& run_id, uint32_t attempt = 0, uint32_t rank = 0) {
  v1::RunKey key;
  key.set_run_id(run_id);
  key.set_attempt(attempt);
  key.set_rank(rank);
  return key;
}

inline v1::Run MakeRun(const v1::RunKey& key, const std::string& name, int64_t start_unix_ns,
                       v1::ProducerState state = v1::PRODUCER_STATE_RUNNING) {
  v1::Run run;
  *run.mutable_key() = key;
  run.set_name(name);
  run.set_start_unix_ns(start_unix_ns);
  run.set_state(state);
  return run;
}

inline v1::Series MakeSeries(uint32_t id, const v1::RunKey& run, const std::string& module, const std::string& param,
                             const std::string& topic, v1::ValueType type = v1::VALUE_TYPE_NUMBER) {
  v1::Series series;
  series.set_id(id);
  v1::SeriesKey* key = series.mutable_key();
  *key->mutable_run() = run;
  key->set_tag("default");
  key->set_root("model");
  key->set_module(module);
  key->set_param(param);
  key->set_topic(topic);
  series.set_type(type);
  if (!module.empty()) series.set_module_type("Linear");
  return series;
}

// One value of a series, as the daemon keeps it.
struct KeptValue {
  uint64_t step = 0;
  v1::Value value;
  uint32_t flags = 0;
  uint32_t epoch = 0;
  uint64_t samples_seen = 0;
};
inline KeptValue Kept(uint64_t step, double number, uint32_t flags = 0) {
  KeptValue kept{step, {}, flags, 0, 0};
  kept.value.set_number(number);
  return kept;
}
inline KeptValue KeptText(uint64_t step, const std::string& text) {
  KeptValue kept{step, {}, 0, 0, 0};
  kept.value.set_text(text);
  return kept;
}

struct KeptSeries {
  v1::Series series;
  std::vector<KeptValue> values;
  uint64_t thinned = 0;
};

inline int64_t UnixNsOf(uint64_t step) { return 1'700'000'000'000'000'000 + static_cast<int64_t>(step) * 1'000'000; }

inline grpc::Status Refusal(grpc::StatusCode code, const std::string& text, v1::ErrorReason reason,
                            const std::string& subject = "", const std::string& hint = "") {
  v1::ErrorDetail detail;
  detail.set_reason(reason);
  detail.set_subject(subject);
  detail.set_hint(hint);
  v1::StatusDetails details;
  details.set_code(static_cast<int>(code));
  details.set_message(text);
  details.add_details()->PackFrom(detail);
  return {code, text, details.SerializeAsString()};
}

class ScriptedDaemon final : public v1::Monitor::Service {
 public:
  v1::GetStatusResponse status;
  std::vector<v1::Run> runs;  // as recorded; answers are the one that started last first
  std::vector<KeptSeries> series;
  std::vector<v1::Module> modules;
  std::vector<v1::Event> events;
  std::vector<std::string> unread_events;
  v1::ListMetricsResponse metrics;
  std::vector<v1::Subscriber> subscribers, replaced, kept;
  std::vector<std::string> warnings;
  v1::WhyResponse why;
  std::vector<std::pair<v1::ExportedFile, std::string>> files;
  grpc::Status failure;       // not OK: what every call is answered
  uint32_t page_size = 1000;  // of every list
  size_t part_size = 1000;    // values of one answer
  bool reduced = false;
  std::atomic<int> store_full{0};  // so many calls of Publish find no room
  std::string token;  // not empty: clients must bring it

  // `address`: "unix:/path" or "localhost:0".
  void Start(const std::string& address, std::shared_ptr<grpc::ServerCredentials> credentials = nullptr) {
    service::KeepGrpc();
    grpc::ServerBuilder builder;
    builder.AddListeningPort(address, credentials ? credentials : grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    ASSERT_TRUE(server_);
  }
  void End() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    pushed_.notify_all();
    if (server_) server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(5));
  }
  ~ScriptedDaemon() override { End(); }
  int port() const { return port_; }

  std::vector<std::string> log() const {
    std::lock_guard lock(mutex_);
    return log_;
  }
  v1::ReadSamplesRequest last_read() const {
    std::lock_guard lock(mutex_);
    return last_read_;
  }
  v1::ListEventsRequest last_events() const {
    std::lock_guard lock(mutex_);
    return last_events_;
  }
  size_t events_calls() const {
    std::lock_guard lock(mutex_);
    return events_calls_;
  }
  std::string imported() const {
    std::lock_guard lock(mutex_);
    return imported_;
  }
  std::vector<v1::PublishRequest> published() const {
    std::lock_guard lock(mutex_);
    return published_;
  }
  // What a watch gets next.
  void Push(v1::WatchResponse response) {
    std::lock_guard lock(mutex_);
    watched_.push_back(std::move(response));
    pushed_.notify_all();
  }
  // Waits for a watch to begin; a minute at most.
  bool WaitForWatch(v1::WatchRequest* request = nullptr) {
    std::unique_lock lock(mutex_);
    const bool begun = pushed_.wait_for(lock, std::chrono::minutes(1), [&] { return watches_ > 0; });
    if (request != nullptr) *request = last_watch_;
    return begun;
  }

  using Context = grpc::ServerContext;
  grpc::Status GetStatus(Context* context, const v1::GetStatusRequest*, v1::GetStatusResponse* response) override {
    *response = status;
    return Check(*context);
  }

  grpc::Status ListRuns(Context* context, const v1::ListRunsRequest* request, v1::ListRunsResponse* response) override {
    std::vector<v1::Run> found;
    if (grpc::Status named = FindRuns(request->run(), &found); !named.ok()) return named;
    std::erase_if(found, [&](const v1::Run& run) {
      const auto has = [&](const std::string& tag) {
        return std::count(run.tags().begin(), run.tags().end(), tag) > 0;
      };
      if (!std::all_of(request->tags().begin(), request->tags().end(), has)) return true;
      return request->states_size() > 0 &&
             std::count(request->states().begin(), request->states().end(), run.state()) == 0;
    });
    Page(found, request->page(), response->mutable_runs(), response->mutable_next_page());
    return Check(*context);
  }

  grpc::Status ListModules(Context* context, const v1::ListModulesRequest* request,
                           v1::ListModulesResponse* response) override {
    std::vector<v1::Module> found;
    for (const v1::Module& module : modules) {
      if (MatchesPatterns(request->module(), module.name())) found.push_back(module);
    }
    Page(found, request->page(), response->mutable_modules(), response->mutable_next_page());
    return Check(*context);
  }

  grpc::Status Why(Context* context, const v1::WhyRequest* request, v1::WhyResponse* response) override {
    Note("why " + request->run() + " '" + request->module() + "' '" + request->kind() + "'");
    *response = why;
    return Check(*context);
  }

  grpc::Status DeleteRun(Context* context, const v1::DeleteRunRequest* request,
                         v1::DeleteRunResponse* response) override {
    Note("delete " + request->run() + (request->has_attempt() ? "/" + std::to_string(request->attempt()) : ""));
    std::vector<v1::Run> found;
    if (grpc::Status named = FindRuns(request->run(), &found); !named.ok()) return named;
    for (const v1::Run& run : found) {
      if (request->has_attempt() && run.key().attempt() != request->attempt()) continue;
      *response->add_runs() = run.key();
      response->set_bytes(response->bytes() + run.bytes());
    }
    return Check(*context);
  }

  grpc::Status TagRun(Context* context, const v1::TagRunRequest* request, v1::TagRunResponse* response) override {
    std::string text = "tag " + request->run();
    for (const std::string& tag : request->add()) text += " +" + tag;
    for (const std::string& tag : request->remove()) text += " -" + tag;
    Note(text);
    *response->mutable_tags() = request->add();
    return Check(*context);
  }

  grpc::Status ExportRun(Context* context, const v1::ExportRunRequest* request,
                         grpc::ServerWriter<v1::ExportRunResponse>* writer) override {
    Note("export " + request->run());
    for (const auto& [file, bytes] : files) {
      v1::ExportRunResponse response;
      *response.mutable_file() = file;
      writer->Write(response);
      for (size_t at = 0; at < bytes.size(); at += 100'000) {
        response.set_data(bytes.substr(at, 100'000));
        writer->Write(response);
      }
    }
    return Check(*context);
  }

  grpc::Status ImportRun(Context* context, grpc::ServerReader<v1::ImportRunRequest>* reader,
                         v1::ImportRunResponse* response) override {
    v1::ImportRunRequest part;
    std::string bytes;
    bool whole = false;
    while (reader->Read(&part)) {
      bytes += part.data();
      whole = part.last();
    }
    if (!whole) bytes += " cut off";
    {
      std::lock_guard lock(mutex_);
      imported_ = bytes;
    }
    if (!runs.empty()) *response->mutable_run() = runs.back();
    return Check(*context);
  }

  grpc::Status ListSeries(Context* context, const v1::ListSeriesRequest* request,
                          v1::ListSeriesResponse* response) override {
    std::vector<v1::SeriesSummary> found;
    for (const KeptSeries& one : series) {
      if (Matches(request->filter(), one.series)) found.push_back(SummaryOf(one));
    }
    Page(found, request->page(), response->mutable_series(), response->mutable_next_page());
    return Check(*context);
  }

  grpc::Status ReadSamples(Context* context, const v1::ReadSamplesRequest* request,
                           grpc::ServerWriter<v1::ReadSamplesResponse>* writer) override {
    {
      std::lock_guard lock(mutex_);
      last_read_ = *request;
    }
    if (grpc::Status checked = Check(*context); !checked.ok()) return checked;
    std::vector<const KeptSeries*> found;
    for (const KeptSeries& one : series) {
      const bool wanted = request->types_size() == 0 ||
                          std::count(request->types().begin(), request->types().end(), one.series.type()) > 0;
      if (wanted && Matches(request->filter(), one.series)) found.push_back(&one);
    }
    if (request->merge_attempts()) {
      // Attempt by attempt within each line.
      std::stable_sort(found.begin(), found.end(), [](const KeptSeries* a, const KeptSeries* b) {
        return a->series.key().run().attempt() < b->series.key().run().attempt();
      });
    }
    for (const KeptSeries* one : found) {
      const uint64_t overtaken = request->merge_attempts() ? OvertakenFrom(one->series.key().run()) : UINT64_MAX;
      v1::ReadSamplesResponse response;
      v1::Columns* columns = nullptr;
      for (const KeptValue& kept_value : one->values) {
        if (request->has_step_min() && kept_value.step < request->step_min()) continue;
        if (request->has_step_max() && kept_value.step > request->step_max()) continue;
        if (kept_value.step >= overtaken) continue;
        if (columns == nullptr) {
          columns = response.add_columns();
          *columns->mutable_series() = one->series;
          columns->set_reduced(reduced && request->max_points() > 0);
          columns->set_thinned(one->thinned > 0);
        }
        columns->add_steps(kept_value.step);
        columns->add_epochs(kept_value.epoch);
        columns->add_unix_ns(UnixNsOf(kept_value.step));
        columns->add_samples_seen(kept_value.samples_seen);
        columns->add_flags(kept_value.flags);
        if (one->series.type() == v1::VALUE_TYPE_NUMBER)
          columns->add_numbers(kept_value.value.number());
        else
          *columns->add_values() = kept_value.value;
        if (static_cast<size_t>(columns->steps_size()) < part_size) continue;
        if (!writer->Write(response)) return grpc::Status::CANCELLED;
        response.Clear();
        columns = nullptr;
      }
      if (columns != nullptr) writer->Write(response);
    }
    return grpc::Status::OK;
  }

  grpc::Status Watch(Context* context, const v1::WatchRequest* request,
                     grpc::ServerWriter<v1::WatchResponse>* writer) override {
    if (grpc::Status checked = Check(*context); !checked.ok()) return checked;
    writer->SendInitialMetadata();
    std::unique_lock lock(mutex_);
    last_watch_ = *request;
    ++watches_;
    pushed_.notify_all();
    while (!stopping_ && !context->IsCancelled()) {
      while (!watched_.empty()) {
        v1::WatchResponse response = std::move(watched_.front());
        watched_.pop_front();
        lock.unlock();
        const bool written = writer->Write(response);
        lock.lock();
        if (!written) return grpc::Status::CANCELLED;
      }
      pushed_.wait_for(lock, std::chrono::milliseconds(20));
    }
    return {grpc::StatusCode::UNAVAILABLE, "ikkuna-daemon is stopping"};
  }

  grpc::Status Publish(Context* context, const v1::PublishRequest* request, v1::PublishResponse* response) override {
    if (store_full > 0 && store_full-- > 0) {
      return Refusal(grpc::StatusCode::RESOURCE_EXHAUSTED, "no room", v1::ERROR_REASON_STORE);
    }
    std::lock_guard lock(mutex_);
    published_.push_back(*request);
    response->mutable_run()->set_run_id(request->has_own_run() ? request->own_run() : request->run());
    response->set_values(static_cast<uint64_t>(request->steps_size()));
    return Check(*context);
  }

  grpc::Status ListMetrics(Context* context, const v1::ListMetricsRequest*,
                           v1::ListMetricsResponse* response) override {
    *response = metrics;
    return Check(*context);
  }

  grpc::Status ListSubscribers(Context* context, const v1::ListSubscribersRequest* request,
                               v1::ListSubscribersResponse* response) override {
    if (!request->run().empty()) Note("subscribers of " + request->run());
    for (const v1::Subscriber& one : subscribers) *response->add_subscribers() = one;
    return Check(*context);
  }

  grpc::Status AddSubscribers(Context* context, const v1::AddSubscribersRequest* request,
                              v1::AddSubscribersResponse* response) override {
    Note("subscribe " + request->text());
    for (const v1::Subscriber& one : subscribers) *response->add_subscribers() = one;
    for (const v1::Subscriber& one : replaced) *response->add_replaced() = one;
    for (const std::string& warning : warnings) response->add_warnings(warning);
    return Check(*context);
  }

  grpc::Status RemoveSubscribers(Context* context, const v1::RemoveSubscribersRequest* request,
                                 v1::RemoveSubscribersResponse* response) override {
    Note(request->has_id()     ? "unsubscribe id " + std::to_string(request->id())
         : request->has_text() ? "unsubscribe text " + request->text()
                               : "unsubscribe topic " + request->topic());
    for (const v1::Subscriber& one : subscribers) *response->add_subscribers() = one;
    for (const v1::Subscriber& one : replaced) *response->add_restored() = one;
    for (const v1::Subscriber& one : kept) *response->add_kept() = one;
    return Check(*context);
  }

  grpc::Status ListEvents(Context* context, const v1::ListEventsRequest* request,
                          v1::ListEventsResponse* response) override {
    {
      std::lock_guard lock(mutex_);
      last_events_ = *request;
      ++events_calls_;
    }
    std::vector<v1::Run> of_run;
    if (!request->run().empty()) {
      if (grpc::Status named = FindRuns(request->run(), &of_run); !named.ok()) return named;
    }
    std::vector<v1::Event> found;
    for (const v1::Event& event : events) {
      if (event.id() <= request->after_id()) continue;
      if (!of_run.empty() && event.run().run_id() != of_run.front().key().run_id()) continue;
      found.push_back(event);
    }
    size_t begin = 0, end = std::min<size_t>(found.size(), 1000);
    if (request->has_last()) {
      EXPECT_LE(request->last(), 1000u);
      end = found.size();
      begin = end - std::min<size_t>(end, request->last());
    }
    for (size_t i = begin; i < end; ++i) *response->add_events() = found[i];
    response->set_more(end < found.size());
    for (const std::string& one : unread_events) response->add_unread(one);
    return Check(*context);
  }

  grpc::Status Freeze(Context* context, const v1::FreezeRequest* request, v1::FreezeResponse* response) override {
    return Control(*context, "freeze", *request, " " + request->module(), response);
  }
  grpc::Status Unfreeze(Context* context, const v1::UnfreezeRequest* request, v1::UnfreezeResponse* response) override {
    return Control(*context, "unfreeze", *request, " " + request->module(), response);
  }
  grpc::Status Stop(Context* context, const v1::StopRequest* request, v1::StopResponse* response) override {
    return Control(*context, "stop", *request, "", response);
  }

 private:
  grpc::Status Check(const grpc::ServerContext& context) const {
    if (!token.empty()) {
      const auto found = context.client_metadata().find("authorization");
      if (found == context.client_metadata().end()) return {grpc::StatusCode::UNAUTHENTICATED, "no token"};
      if (std::string(found->second.data(), found->second.size()) != "Bearer " + token) {
        return {grpc::StatusCode::UNAUTHENTICATED, "the token is not that of this daemon"};
      }
    }
    return failure;
  }

  void Note(const std::string& text) {
    std::lock_guard lock(mutex_);
    log_.push_back(text);
  }

  template <typename Request, typename Response>
  grpc::Status Control(const grpc::ServerContext& context, const std::string& what, const Request& request,
                       const std::string& module, Response* response) {
    std::string text = what + " " + request.run();
    for (const uint32_t rank : request.ranks()) text += "/" + std::to_string(rank);
    Note(text + module);
    response->set_text("will be done at the next step");
    return Check(context);
  }

  std::vector<v1::Run> NewestFirst() const {
    std::vector<v1::Run> sorted = runs;
    std::stable_sort(sorted.begin(), sorted.end(),
                     [](const v1::Run& a, const v1::Run& b) { return a.start_unix_ns() > b.start_unix_ns(); });
    return sorted;
  }

  grpc::Status FindRuns(const std::string& name, std::vector<v1::Run>* found) const {
    const std::vector<v1::Run> all = NewestFirst();
    if (name == "latest" && all.empty()) {
      return Refusal(grpc::StatusCode::NOT_FOUND, "no run has been recorded yet", v1::ERROR_REASON_NO_SUCH_RUN);
    }
    for (const v1::Run& run : all) {
      const bool latest = name == "latest" && run.key().run_id() == all.front().key().run_id();
      if (name.empty() || latest || run.key().run_id() == name || run.name() == name) found->push_back(run);
    }
    if (name.empty() || !found->empty()) return grpc::Status::OK;
    return Refusal(grpc::StatusCode::NOT_FOUND, "there is no run '" + name + "'", v1::ERROR_REASON_NO_SUCH_RUN, name);
  }

  bool Matches(const v1::SeriesFilter& filter, const v1::Series& one) const {
    const v1::SeriesKey& key = one.key();
    std::vector<v1::Run> named;
    if (!filter.run().empty() && !FindRuns(filter.run(), &named).ok()) return false;
    if (!filter.run().empty() && named.front().key().run_id() != key.run().run_id()) return false;
    if (filter.has_attempt() && filter.attempt() != key.run().attempt()) return false;
    if (filter.has_rank() && filter.rank() != key.run().rank()) return false;
    return MatchesPatterns(filter.tag(), key.tag()) && MatchesPatterns(filter.root(), key.root()) &&
           MatchesPatterns(filter.module(), key.module()) && MatchesPatterns(filter.param(), key.param()) &&
           MatchesPatterns(filter.topic(), key.topic());
  }

  // The step from which on a later attempt has the line.
  uint64_t OvertakenFrom(const v1::RunKey& key) const {
    uint64_t step = UINT64_MAX;
    for (const v1::Run& run : runs) {
      const bool later = run.key().run_id() == key.run_id() && run.key().rank() == key.rank() &&
                         run.key().attempt() > key.attempt() && run.has_line() && run.line() == BeginOfLine(key);
      if (later) step = std::min(step, run.start_step());
    }
    return step;
  }
  uint32_t BeginOfLine(const v1::RunKey& key) const {
    for (const v1::Run& run : runs) {
      if (run.key().run_id() == key.run_id() && run.key().attempt() == key.attempt() && run.has_line()) return run.line();
    }
    return key.attempt();
  }

  static v1::SeriesSummary SummaryOf(const KeptSeries& one) {
    v1::SeriesSummary summary;
    *summary.mutable_series() = one.series;
    summary.set_count(one.values.size());
    summary.set_thinned(one.thinned);
    if (one.values.empty()) return summary;
    summary.set_first_step(one.values.front().step);
    summary.set_last_step(one.values.back().step);
    if (one.series.type() == v1::VALUE_TYPE_NUMBER) summary.set_last(one.values.back().value.number());
    return summary;
  }

  // The page is the index of its first item.
  template <typename Item>
  void Page(const std::vector<Item>& all, const std::string& page, google::protobuf::RepeatedPtrField<Item>* items,
            std::string* next) const {
    const size_t begin = page.empty() ? 0 : std::stoul(page);
    const size_t end = std::min<size_t>(all.size(), begin + page_size);
    for (size_t i = begin; i < end; ++i) *items->Add() = all[i];
    if (end < all.size()) *next = std::to_string(end);
  }

  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;

  mutable std::mutex mutex_;
  std::condition_variable pushed_;
  // Guarded by mutex_.
  std::vector<std::string> log_;
  v1::ReadSamplesRequest last_read_;
  v1::ListEventsRequest last_events_;
  v1::WatchRequest last_watch_;
  size_t events_calls_ = 0;
  std::string imported_;
  std::vector<v1::PublishRequest> published_;
  std::deque<v1::WatchResponse> watched_;
  int watches_ = 0;
  bool stopping_ = false;
};

}  // namespace ikkuna::test
