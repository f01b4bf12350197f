// The status of the daemon and of a producer in words; `status` and `top` show it.
//
// Thread rule: functions without state; ReadHealth asks the daemon.
#pragma once

#include <string>

#include "daemon/cli/commands.h"

namespace ikkuna::cli {

// What the daemon says of itself.
struct Health {
  v1::GetStatusResponse status;
  v1::ListSubscribersResponse subscribers;
};
Result<Health> ReadHealth(Client& client);

std::string DaemonText(const Terminal& terminal, const Health& health, const std::string& address);
std::string ProducerText(const Terminal& terminal, const v1::Producer& producer);
// "attempted = handled + dropped + lost in daemon + killed + in flight", in numbers.
std::string AccountingText(const v1::Accounting& accounting);

}  // namespace ikkuna::cli
