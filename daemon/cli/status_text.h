// The status of the daemon and of a producer in words; `status` and `top` show it.
//
// Thread rule: functions without state.
#pragma once

#include <string>

#include "daemon/cli/commands.h"

namespace ikkuna::cli {

std::string DaemonText(const Terminal& terminal, const v1::GetStatusResponse& status, const std::string& address);
std::string ProducerText(const Terminal& terminal, const v1::Producer& producer);
// "attempted = handled + dropped + lost in daemon + killed + in flight", in numbers.
std::string AccountingText(const v1::Accounting& accounting);

}  // namespace ikkuna::cli
