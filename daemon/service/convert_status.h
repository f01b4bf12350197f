// State of the daemon as a message.
//
// Thread rule: functions without state.
#pragma once

#include "daemon/model/status.h"
#include "daemon/monitor/caller.h"
#include "daemon/monitor/status_monitor.h"
#include "ikkuna/v1/status.pb.h"

namespace ikkuna::service {

void Convert(const ProducerStatus& from, v1::Producer* to);
void Convert(const DaemonStatus& from, v1::GetStatusResponse* to);
v1::Role ToProto(Role role);

}  // namespace ikkuna::service
