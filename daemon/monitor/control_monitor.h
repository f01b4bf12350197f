// ControlMonitor: what trainers are asked to do.
//
// Thread rule: every method from any thread; they wait for the ranks to acknowledge, some seconds at most.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "daemon/monitor/answer.h"
#include "daemon/monitor/caller.h"

namespace ikkuna {

struct ControlChoice {
  std::string run;                  // a run_id, a display name or `latest`; empty: `latest`
  std::optional<uint32_t> attempt;  // none: the last one
  std::vector<uint32_t> ranks;      // only these; empty: all of the job, at one step
};

class ControlMonitor {
 public:
  virtual ~ControlMonitor() = default;
  // Each says what will happen and when, for a person. `modules`: patterns of module paths, not empty.
  virtual Answer<std::string> Freeze(const Caller& caller, const ControlChoice& choice, const std::string& modules) = 0;
  virtual Answer<std::string> Unfreeze(const Caller& caller, const ControlChoice& choice,
                                       const std::string& modules) = 0;
  virtual Answer<std::string> Stop(const Caller& caller, const ControlChoice& choice) = 0;
};

}  // namespace ikkuna
