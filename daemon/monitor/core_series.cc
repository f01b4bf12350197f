#include "daemon/monitor/core_series.h"

#include <algorithm>
#include <utility>

#include "daemon/monitor/overtaken.h"
#include "daemon/monitor/run_names.h"

namespace ikkuna {
namespace {

constexpr uint32_t kSeriesPageMax = 10'000;  // series of one answer, whoever asks for more: some 5 MB

}  // namespace

Answer<SeriesFilter> CoreSeries::Resolved(const SeriesFilter& filter) const {
  SeriesFilter resolved = filter;
  if (filter.run.empty()) return resolved;
  Answer<std::vector<RunInfo>> runs = FindRun(*parts_.recorded, filter.run);
  if (!runs) return runs.failure();
  resolved.run = runs->front().info.run_key.run_id;
  resolved.run_is_id = true;
  return resolved;
}

Answer<SeriesPage> CoreSeries::ListSeries(const SeriesQuery& query) {
  Answer<SeriesFilter> filter = Resolved(query.filter);
  if (!filter) return filter.failure();
  SeriesQuery resolved = query;
  resolved.filter = *std::move(filter);
  resolved.limit = std::clamp<uint32_t>(query.limit, 1, kSeriesPageMax);
  return parts_.recorded->ListSeries(resolved);
}

Answer<ReadAnswer> CoreSeries::ReadSamples(const ReadOptions& options) {
  Answer<SeriesFilter> filter = Resolved(options.query.filter);
  if (!filter) return filter.failure();
  ReadQuery query = options.query;
  query.filter = *std::move(filter);
  ReadAnswer answer;
  // Before the read: what comes while it goes on is told twice rather than never.
  if (parts_.watch_hub != nullptr) answer.cursor = parts_.watch_hub->Cursor();
  if (options.merge_attempts) {
    Result<std::vector<RunInfo>> runs = parts_.recorded->FindRuns(query.filter.run);
    if (!runs) return runs.error();
    query.cut_from = OvertakenFrom(*runs);
    query.oldest_first = true;  // a line from its first step on
  }
  Result<std::unique_ptr<SeriesReader>> reader = parts_.recorded->Read(query);
  if (!reader) return reader.error();
  answer.reader = *std::move(reader);
  return answer;
}

Answer<WatchAnswer> CoreSeries::Watch(const SeriesFilter& filter, const std::optional<WatchCursor>& cursor) {
  Answer<SeriesFilter> resolved = Resolved(filter);
  const bool to_come = !resolved && resolved.failure().reason == Reason::kNoSuchRun && filter.run != kLatestRun;
  if (to_come) resolved = filter;
  if (!resolved) return resolved.failure();
  Result<std::unique_ptr<Watcher>> watcher = parts_.watch_hub->Watch(*resolved, cursor);
  if (watcher) return WatchAnswer{*std::move(watcher), parts_.watch_hub->Cursor().daemon};
  const bool bad_cursor = watcher.error().code == ErrorCode::kFailedPrecondition;
  Failure failure(watcher.error());
  if (bad_cursor) failure.reason = Reason::kBadCursor;
  if (watcher.error().code == ErrorCode::kResourceExhausted) failure.subject = "watches";
  return failure;
}

Answer<PublishAnswer> CoreSeries::Publish(const Caller& caller, const PublishRequest& request) {
  return publisher_->Publish(caller, request);
}

}  // namespace ikkuna
