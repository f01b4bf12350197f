// Which run a request names.
//
// Thread rule: functions without state.
#pragma once

#include "daemon/monitor/run_monitor.h"

namespace ikkuna::service {

// Of a request with the fields run, attempt and rank.
template <typename Request>
RunChoice ToRunChoice(const Request& request) {
  RunChoice choice;
  choice.run = request.run();
  if (request.has_attempt()) choice.attempt = request.attempt();
  if (request.has_rank()) choice.rank = request.rank();
  return choice;
}

}  // namespace ikkuna::service
