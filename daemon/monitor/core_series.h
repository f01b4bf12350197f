// CoreSeries: values of runs: from the store, from the hub of watchers, from clients.
//
// Owner: CoreMonitor. Thread rule: as SeriesMonitor.
#pragma once

#include <memory>
#include <optional>

#include "daemon/monitor/core_parts.h"
#include "daemon/monitor/publisher.h"
#include "daemon/monitor/series_monitor.h"

namespace ikkuna {

class CoreSeries : public SeriesMonitor {
 public:
  // Without a publisher whoever derives from it answers Publish.
  CoreSeries(const CoreParts& parts, Publisher* publisher) : parts_(parts), publisher_(publisher) {}
  Answer<SeriesPage> ListSeries(const SeriesQuery& query) override;
  Answer<ReadAnswer> ReadSamples(const ReadOptions& options) override;
  Answer<WatchAnswer> Watch(const SeriesFilter& filter, const std::optional<WatchCursor>& cursor) override;
  Answer<PublishAnswer> Publish(const Caller& caller, const PublishRequest& request) override;

 private:
  // With the run_id of the run that the filter names.
  Answer<SeriesFilter> Resolved(const SeriesFilter& filter) const;

  const CoreParts& parts_;
  Publisher* const publisher_;
};

}  // namespace ikkuna
