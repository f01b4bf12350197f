#include "daemon/monitor/core_monitor.h"

#include <utility>

namespace ikkuna {

CoreMonitor::CoreMonitor(CoreParts parts)
    : parts_(std::move(parts)),
      publisher_(parts_),
      status_(parts_),
      runs_(parts_),
      series_(parts_, &publisher_),
      subscribers_(parts_, publisher_),
      events_(parts_),
      control_(parts_),
      monitor_{status_, runs_, series_, subscribers_, events_, control_, activity_} {}

}  // namespace ikkuna
