#include "daemon/model/status.h"

#include <algorithm>

namespace ikkuna {

double CoverageOf(const ProducerStatus& status) {
  if (status.steps_total == 0) return 0;
  return static_cast<double>(status.steps_while_connected) / static_cast<double>(status.steps_total);
}

void CatchUp(ProducerStatus& status, const Progress& progress) {
  if (IsOpen(status.state)) {
    status.lost_in_daemon = progress.lost_in_daemon;
    status.killed = progress.killed;
    status.handled = progress.done_seq - progress.lost_in_daemon;
  }
  if (progress.steps_total > status.steps_total || progress.steps_connected > status.steps_while_connected) {
    status.steps_total = std::max(status.steps_total, progress.steps_total);
    status.steps_while_connected =
        std::min(std::max(status.steps_while_connected, progress.steps_connected), status.steps_total);
    status.coverage = CoverageOf(status);
  }
  const uint64_t accounted = status.handled + status.dropped_total + status.lost_in_daemon + status.killed;
  status.attempted = std::max(status.attempted, accounted);
  status.in_flight = status.attempted - accounted;
}

}  // namespace ikkuna
