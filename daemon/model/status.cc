#include "daemon/model/status.h"

#include <algorithm>

namespace ikkuna {

void CatchUp(ProducerStatus& status, const Progress& progress) {
  if (IsOpen(status.state)) {
    status.lost_in_daemon = progress.lost_in_daemon;
    status.killed = progress.killed;
    status.handled = progress.done_seq - progress.lost_in_daemon;
  }
  const uint64_t accounted = status.handled + status.dropped_total + status.lost_in_daemon + status.killed;
  status.attempted = std::max(status.attempted, accounted);
  status.in_flight = status.attempted - accounted;
}

}  // namespace ikkuna
