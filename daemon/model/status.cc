#include "daemon/model/status.h"

#include <algorithm>

#include "shared/codes.h"

namespace ikkuna {

double CoverageOf(const ProducerStatus& status) {
  if (status.steps_total == 0) return 0;
  return static_cast<double>(status.steps_while_connected) / static_cast<double>(status.steps_total);
}

void CatchUp(ProducerStatus& status, const Progress& progress) {
  if (IsOpen(status.state)) {
    status.lost_in_daemon = progress.lost_in_daemon;
    status.killed = progress.killed;
    status.handled = progress.handled();
    // The next daemon counts the steps that ended later: no more of them may be in it than the commit speaks of.
    for (RootStatusInfo& root : status.roots) root.steps_observed = 0;
    for (const auto& [name, observed] : progress.steps_observed) {
      auto root = std::find_if(status.roots.begin(), status.roots.end(),
                               [&name = name](const RootStatusInfo& one) { return one.name == name; });
      if (root == status.roots.end()) {
        root = status.roots.emplace(root);
        root->name = name;
      }
      root->steps_observed = observed;
      root->steps_due = std::max(root->steps_due, observed);
    }
    status.missing.clear();
    for (const auto& [reason, count] : progress.missing) status.missing.push_back({reason, count});
  }
  if (progress.steps_total > status.steps_total || progress.steps_connected > status.steps_while_connected) {
    status.steps_total = std::max(status.steps_total, progress.steps_total);
    status.steps_while_connected =
        std::min(std::max(status.steps_while_connected, progress.steps_connected), status.steps_total);
    status.coverage = CoverageOf(status);
    // Of which root the steps are is known where there is one.
    if (status.roots.size() == 1) {
      uint64_t& step = status.roots[0].step;
      step = std::max(step, std::min(status.info.start_step + status.steps_total, kMaxStep));
    }
  }
  const uint64_t accounted = status.handled + status.dropped_total + status.lost_in_daemon + status.killed;
  status.attempted = std::max(status.attempted, accounted);
  status.in_flight = status.attempted - accounted;
}

}  // namespace ikkuna
