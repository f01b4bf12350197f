#include <algorithm>
#include <vector>

#include "daemon/service/calls/calls.h"
#include "daemon/service/convert_subscribers.h"

namespace ikkuna::service {

Outcome Handle(const Call& call, const v1::ListMetricsRequest&, v1::ListMetricsResponse* response) {
  std::vector<MetricInfo> metrics = call.monitor.subscribers.ListMetrics();
  std::sort(metrics.begin(), metrics.end(), [](const MetricInfo& a, const MetricInfo& b) { return a.name < b.name; });
  for (const MetricInfo& metric : metrics) Convert(metric, response->add_metrics());
  return {};
}

}  // namespace ikkuna::service
