// WatchEncoding: a WatchUpdate as pieces of WatchResponses, made once for all watchers of a filter.
//
// A message is pieces one after another: protocol buffers merge what stands twice, and append what is repeated. So each
// watcher picks the pieces of the parts that it carries, whatever others do, and nobody encodes again.
//
// Immutable. Thread rule: any thread.
#pragma once

#include <grpcpp/support/slice.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "daemon/model/watch.h"
#include "ikkuna/v1/series.pb.h"

namespace ikkuna::service {

// Bits 1 << WatchPart.
using WatchParts = uint32_t;
constexpr WatchParts kAllParts = (1u << v1::WATCH_PART_NUMBERS) | (1u << v1::WATCH_PART_TEXTS) |
                                 (1u << v1::WATCH_PART_HISTOGRAMS) | (1u << v1::WATCH_PART_TENSORS) |
                                 (1u << v1::WATCH_PART_EVENTS);

struct WatchPiece {
  WatchParts part = 0;  // one bit
  grpc::Slice bytes;    // at most kMessageBytesMax
};

struct WatchEncoding {
  grpc::Slice run;                 // empty: the daemon's events
  std::vector<WatchPiece> pieces;  // in order
};

WatchEncoding Encode(const WatchUpdate& update);

// A response as a slice.
grpc::Slice ToSlice(const v1::WatchResponse& response);

}  // namespace ikkuna::service
