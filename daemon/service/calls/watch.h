// Watch: a stream that lasts; watch_reactor.h has what follows its beginning.
//
// Thread rule: as the calls of calls.h.
#pragma once

#include "daemon/service/calls/calls.h"
#include "daemon/service/watch_encoding.h"

namespace ikkuna::service {

struct WatchBegun {
  WatchAnswer answer;
  WatchParts parts = kAllParts;
};
Answer<WatchBegun> Handle(const Call& call, const v1::WatchRequest& request);

}  // namespace ikkuna::service
