// Control: what clients ask of trainers: to freeze and unfreeze modules, to stop.
//
// Commands to several ranks act at one agreed step on all of them. Every rank acknowledges a preparation first; then the
// step is fixed some seconds ahead and told to each; a rank that reads it too late does nothing, and an event `split`
// says so. Where a rank of the run is not here, nothing is asked of any, unless the ranks are named.
// Owner: whoever answers clients; Ingest outlives it. Thread rule: any thread; a call to several ranks waits for their
// acknowledgements, kPrepareMs at most, so it belongs on no thread that serves others.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "daemon/ingest/ingest.h"
#include "daemon/model/run.h"
#include "shared/base/result.h"

namespace ikkuna::ingest {

// Who asks. A user controls their own runs; root, the daemon's own user and whoever has the role `control` control all.
struct Caller {
  std::optional<uid_t> uid;  // as the kernel says; none: a network client
  bool admin = false;        // it has the role `control` by a token or a certificate
};

struct ControlTarget {
  std::string run_id;
  uint32_t attempt = 0;
  std::vector<uint32_t> ranks = {};  // empty: the whole run, every rank of its world size; else those alone
};

class Control {
 public:
  // How long the ranks have to acknowledge a preparation: their service threads look every 50 ms.
  static constexpr int kPrepareMs = 5000;
  // How far ahead the agreed step lies at the pace of training, whether they train now or pause: a rank that is held up
  // for less acts with the others.
  static constexpr double kAheadSeconds = 5;

  explicit Control(Ingest& ingest) : ingest_(ingest) {}

  // Each returns what will happen and when, for a person. kNotFound: no such run or module is connected here;
  // kPermissionDenied: neither the caller's run, or its trainer does not allow it; kFailedPrecondition: a rank is
  // missing, on another host, or did not acknowledge.
  Result<std::string> Freeze(const Caller& caller, const ControlTarget& target, const std::string& modules);
  Result<std::string> Unfreeze(const Caller& caller, const ControlTarget& target, const std::string& modules);
  Result<std::string> Stop(const Caller& caller, const ControlTarget& target);

 private:
  Ingest& ingest_;
};

}  // namespace ikkuna::ingest
