#include "daemon/service/answers.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "daemon/service/convert.h"
#include "daemon/service/run_names.h"

namespace ikkuna::service {
namespace {

grpc::Status Invalid(std::string text) { return {grpc::StatusCode::INVALID_ARGUMENT, std::move(text)}; }

// Ok, or what is wrong with a text of the client's.
grpc::Status CheckText(const char* field, const std::string& text, bool may_be_empty) {
  if (text.empty() && !may_be_empty) return Invalid(std::string(field) + " is empty");
  if (text.size() > kMaxTextBytes) {
    return Invalid(std::string(field) + " has " + std::to_string(text.size()) + " bytes; at most " +
                   std::to_string(kMaxTextBytes) + " are taken");
  }
  return grpc::Status::OK;
}

Status CheckFilter(const v1::SeriesFilter& filter) {
  const std::pair<const char*, const std::string*> fields[] = {
      {"filter.run", &filter.run()},       {"filter.tag", &filter.tag()},     {"filter.root", &filter.root()},
      {"filter.module", &filter.module()}, {"filter.param", &filter.param()}, {"filter.topic", &filter.topic()}};
  for (const auto& [name, text] : fields) {
    if (grpc::Status checked = CheckText(name, *text, true); !checked.ok()) {
      return Error{ErrorCode::kInvalidArgument, checked.error_message()};
    }
  }
  return {};
}

template <typename Request>
std::optional<uint32_t> AttemptOf(const Request& request) {
  return request.has_attempt() ? std::optional(request.attempt()) : std::nullopt;
}
template <typename Request>
std::optional<uint32_t> RankOf(const Request& request) {
  return request.has_rank() ? std::optional(request.rank()) : std::nullopt;
}

void ConvertAll(const std::vector<SubscriberInfo>& from, google::protobuf::RepeatedPtrField<v1::Subscriber>* to) {
  for (const SubscriberInfo& subscriber : from) Convert(subscriber, to->Add());
}

// Applies a command to every rank that is meant. Those that still run, if any does: the others can only refuse. When
// some ranks took it and others refused, the error says both.
template <typename Request, typename Response, typename Command>
grpc::Status AnswerControl(Monitor& monitor, const Request& request, Response* response, Command command) {
  Result<std::vector<RunInfo>> ranks = FindRanks(monitor, request.run(), AttemptOf(request), RankOf(request));
  if (!ranks) return ToGrpc(ranks.error());
  auto runs = [](const RunInfo& run) { return run.state == "running"; };
  if (std::any_of(ranks->begin(), ranks->end(), runs))
    std::erase_if(*ranks, [&](const RunInfo& run) { return !runs(run); });
  std::optional<Error> refused;
  for (const RunInfo& run : *ranks) {
    std::string prefix = ranks->size() > 1 ? "rank " + std::to_string(run.key.rank) + ": " : "";
    Result<ControlAnswer> answer = command(run.key);
    if (answer) {
      response->add_texts(prefix + answer->text);
    } else if (!refused) {
      refused = Error{answer.error().code, prefix + answer.error().text};
    } else {
      refused->text += "; " + prefix + answer.error().text;
    }
  }
  if (!refused) return grpc::Status::OK;
  for (const std::string& text : response->texts()) refused->text += "; done for " + text;
  return ToGrpc(*refused);
}

template <typename Request, typename Response>
grpc::Status AnswerFreeze(Monitor& monitor, const Request& request, Response* response, bool freeze) {
  if (grpc::Status checked = CheckText("module", request.module(), false); !checked.ok()) return checked;
  return AnswerControl(monitor, request, response,
                       [&](const RunKey& run) { return monitor.Freeze(run, request.module(), freeze); });
}

}  // namespace

grpc::Status Answer(Monitor& monitor, const v1::GetStatusRequest&, v1::GetStatusResponse* response) {
  Convert(monitor.GetStatus(), response);
  return grpc::Status::OK;
}

grpc::Status Answer(Monitor& monitor, const v1::ListRunsRequest& request, v1::ListRunsResponse* response) {
  Result<std::vector<RunInfo>> runs = request.run().empty() ? monitor.ListRuns() : FindRun(monitor, request.run());
  if (!runs) return ToGrpc(runs.error());
  if (request.run().empty()) {
    std::erase_if(*runs, [](const RunInfo& run) { return IsDaemonRun(run.key); });
    SortRuns(&*runs);
  }
  for (const RunInfo& run : *runs) Convert(run, response->add_runs());
  return grpc::Status::OK;
}

grpc::Status Answer(Monitor& monitor, const v1::ListModulesRequest& request, v1::ListModulesResponse* response) {
  Result<std::vector<RunInfo>> ranks = FindRanks(monitor, request.run(), AttemptOf(request), RankOf(request));
  if (!ranks) return ToGrpc(ranks.error());
  const RunKey& key = ranks->front().key;
  Result<std::vector<ModuleInfo>> modules = monitor.ListModules(key);
  if (!modules) return ToGrpc(modules.error());
  Convert(key, response->mutable_run());
  for (const ModuleInfo& module : *modules) Convert(module, response->add_modules());
  return grpc::Status::OK;
}

grpc::Status Answer(Monitor& monitor, const v1::ListMetricsRequest&, v1::ListMetricsResponse* response) {
  std::vector<MetricInfo> metrics = monitor.ListMetrics();
  std::sort(metrics.begin(), metrics.end(), [](const MetricInfo& a, const MetricInfo& b) { return a.name < b.name; });
  for (const MetricInfo& metric : metrics) Convert(metric, response->add_metrics());
  return grpc::Status::OK;
}

grpc::Status Answer(Monitor& monitor, const v1::ListSeriesRequest& request, v1::ListSeriesResponse* response) {
  if (request.limit() > kMaxSeriesPerAnswer) {
    return Invalid("limit is " + std::to_string(request.limit()) + "; at most " + std::to_string(kMaxSeriesPerAnswer) +
                   " series fit one answer, ask for the next ones with after_id");
  }
  if (Status checked = CheckFilter(request.filter()); !checked) return ToGrpc(checked.error());
  SeriesFilter filter = ToFilter(request.filter());
  if (!request.filter().run().empty()) {
    Result<std::vector<RunInfo>> run = FindRun(monitor, request.filter().run());
    if (!run) return ToGrpc(run.error());
    filter.run_id = run->front().key.run_id;
  }
  Result<std::vector<SeriesInfo>> found = monitor.ListSeries(filter);
  if (!found) return ToGrpc(found.error());
  std::erase_if(*found, [&](const SeriesInfo& info) { return info.series.id <= request.after_id(); });
  std::sort(found->begin(), found->end(),
            [](const SeriesInfo& a, const SeriesInfo& b) { return a.series.id < b.series.id; });
  size_t limit = request.limit() == 0 ? kDefaultSeriesPerAnswer : request.limit();
  response->set_more(found->size() > limit);
  for (size_t i = 0; i < std::min(limit, found->size()); ++i) Convert((*found)[i], response->add_series());
  return grpc::Status::OK;
}

grpc::Status Answer(Monitor& monitor, const v1::ReadSeriesRequest& request, v1::ReadSeriesResponse* response) {
  if (request.series_id() == 0) return Invalid("series_id is missing; ListSeries gives the ids");
  if (request.max_points() == 1) return Invalid("max_points is 1; pass 2 or more, or 0 for every sample");
  ReadQuery query;
  query.series_id = request.series_id();
  if (request.has_step_min()) query.step_min = request.step_min();
  if (request.has_step_max()) query.step_max = request.step_max();
  if (query.step_min && query.step_max && *query.step_min > *query.step_max) {
    return Invalid("step_min " + std::to_string(*query.step_min) + " is greater than step_max " +
                   std::to_string(*query.step_max));
  }
  query.max_points = request.max_points();
  Result<ReadAnswer> answer = monitor.Read(query);
  if (!answer) return ToGrpc(answer.error());
  Convert(answer->series, response->mutable_series());
  response->mutable_samples()->Reserve(static_cast<int>(answer->samples.size()));
  for (const Sample& sample : answer->samples) Convert(sample, response->add_samples());
  response->set_reduced(answer->reduced);
  if (response->ByteSizeLong() > static_cast<size_t>(kMaxMessageBytes)) {
    std::string text = std::to_string(answer->samples.size()) +
                       " samples are more than one answer holds; pass max_points, "
                       "or read a part with step_min and step_max";
    response->Clear();
    return {grpc::StatusCode::RESOURCE_EXHAUSTED, text};
  }
  return grpc::Status::OK;
}

grpc::Status Answer(Monitor& monitor, const v1::ListSubscribersRequest&, v1::ListSubscribersResponse* response) {
  std::vector<SubscriberInfo> subscribers = monitor.ListSubscribers();
  std::sort(subscribers.begin(), subscribers.end(),
            [](const SubscriberInfo& a, const SubscriberInfo& b) { return a.id < b.id; });
  ConvertAll(subscribers, response->mutable_subscribers());
  return grpc::Status::OK;
}

grpc::Status Answer(Monitor& monitor, const v1::AddSubscribersRequest& request, v1::AddSubscribersResponse* response) {
  if (grpc::Status checked = CheckText("text", request.text(), false); !checked.ok()) return checked;
  Result<SubscribeAnswer> answer = monitor.Subscribe(request.text());
  if (!answer) return ToGrpc(answer.error());
  ConvertAll(answer->subscribers, response->mutable_subscribers());
  ConvertAll(answer->replaced, response->mutable_replaced());
  for (const std::string& warning : answer->warnings) response->add_warnings(warning);
  return grpc::Status::OK;
}

grpc::Status Answer(Monitor& monitor, const v1::RemoveSubscribersRequest& request,
                    v1::RemoveSubscribersResponse* response) {
  if (grpc::Status checked = CheckText("what", request.what(), false); !checked.ok()) return checked;
  Result<UnsubscribeAnswer> answer = monitor.Unsubscribe(request.what());
  if (!answer) return ToGrpc(answer.error());
  ConvertAll(answer->removed, response->mutable_subscribers());
  ConvertAll(answer->restored, response->mutable_restored());
  return grpc::Status::OK;
}

grpc::Status Answer(Monitor& monitor, const v1::ListEventsRequest& request, v1::ListEventsResponse* response) {
  if (request.limit() > kMaxEventsPerAnswer) {
    return Invalid("limit is " + std::to_string(request.limit()) + "; at most " + std::to_string(kMaxEventsPerAnswer) +
                   " events fit one answer, ask for the next ones with after_id");
  }
  EventQuery query;
  if (!request.run().empty()) {
    Result<std::vector<RunInfo>> run = FindRun(monitor, request.run());
    if (!run) return ToGrpc(run.error());
    query.run_id = run->front().key.run_id;
  }
  query.after_id = request.after_id();
  query.limit = request.limit() == 0 ? kDefaultEventsPerAnswer : request.limit();
  Result<std::vector<Event>> events = monitor.ListEvents(query);
  if (!events) return ToGrpc(events.error());
  for (const Event& event : *events) Convert(event, response->add_events());
  return grpc::Status::OK;
}

grpc::Status Answer(Monitor& monitor, const v1::FreezeRequest& request, v1::FreezeResponse* response) {
  return AnswerFreeze(monitor, request, response, true);
}

grpc::Status Answer(Monitor& monitor, const v1::UnfreezeRequest& request, v1::UnfreezeResponse* response) {
  return AnswerFreeze(monitor, request, response, false);
}

grpc::Status Answer(Monitor& monitor, const v1::StopRequest& request, v1::StopResponse* response) {
  return AnswerControl(monitor, request, response, [&](const RunKey& run) { return monitor.Stop(run); });
}

Result<std::unique_ptr<Watcher>> StartWatch(Monitor& monitor, const v1::WatchRequest& request) {
  if (Status checked = CheckFilter(request.filter()); !checked) return checked.error();
  SeriesFilter filter = ToFilter(request.filter());
  // A run that is named may be yet to come; `latest` must be there.
  filter.run_id = request.filter().run();
  if (filter.run_id == "latest") {
    Result<std::vector<RunInfo>> run = FindRun(monitor, filter.run_id);
    if (!run) return run.error();
    filter.run_id = run->front().key.run_id;
  }
  return monitor.Watch(filter);
}

}  // namespace ikkuna::service
