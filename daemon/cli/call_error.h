// What a call that failed says: the daemon's text, what its details add, and what to do about it.
//
// Thread rule: functions without state.
#pragma once

#include <grpcpp/grpcpp.h>

#include <string>

#include "ikkuna/v1/monitor.pb.h"
#include "shared/base/result.h"

namespace ikkuna::cli {

// The detail for programs that a status carries; ERROR_REASON_UNSPECIFIED where it has none.
v1::ErrorDetail DetailOf(const grpc::Status& status);

// `address` is where the daemon was asked.
Error CallError(const grpc::Status& status, const std::string& address);

}  // namespace ikkuna::cli
