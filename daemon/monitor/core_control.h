// CoreControl: what trainers are asked to do, through ingest.
//
// Owner: CoreMonitor. Thread rule: as ControlMonitor.
#pragma once

#include <functional>

#include "daemon/monitor/control_monitor.h"
#include "daemon/monitor/core_parts.h"

namespace ikkuna {

class CoreControl : public ControlMonitor {
 public:
  explicit CoreControl(const CoreParts& parts) : parts_(parts) {}
  Answer<std::string> Freeze(const Caller& caller, const ControlChoice& choice, const std::string& modules) override;
  Answer<std::string> Unfreeze(const Caller& caller, const ControlChoice& choice, const std::string& modules) override;
  Answer<std::string> Stop(const Caller& caller, const ControlChoice& choice) override;

 private:
  using Act = std::function<Result<std::string>(const ingest::Caller&, const ingest::ControlTarget&)>;
  Answer<std::string> Do(const Caller& caller, const ControlChoice& choice, const std::string& modules, const Act& act);

  const CoreParts& parts_;
};

}  // namespace ikkuna
