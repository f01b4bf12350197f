// Failures on their way out: the only place that turns one into a grpc::Status.
//
// Thread rule: functions without state.
#pragma once

#include <grpcpp/support/status.h>

#include <exception>
#include <new>
#include <optional>
#include <string>
#include <utility>

#include "daemon/monitor/answer.h"

namespace ikkuna::service {

// What came of a call: nothing, which is well, or why it failed.
using Outcome = std::optional<Failure>;

// With the ErrorDetail that programs read.
grpc::Status ToGrpc(const Failure& failure);
// Who asks is not known, so that what they may do is never asked: UNAUTHENTICATED, whatever the failure's code.
grpc::Status Unauthenticated(const Error& error);
inline grpc::Status ToGrpc(const Outcome& outcome) { return outcome ? ToGrpc(*outcome) : grpc::Status::OK; }

Failure BadField(std::string field, std::string text);
Failure Stopping();
Failure Overloaded();
Failure ClientGone();  // it cannot read this
Failure TooLong(size_t bytes);  // an answer that no message holds
Failure OutOfMemory();
Failure Unexpected(const std::string& what);  // something threw

// Does the work; what a library throws (out of memory, the store's) becomes a Failure, by way of `T(Failure)`.
template <typename T, typename Work>
T Guarded(Work&& work) {
  try {
    return work();
  } catch (const std::bad_alloc&) {
    return T(OutOfMemory());
  } catch (const std::exception& error) {
    return T(Unexpected(error.what()));
  } catch (...) {
    return T(Unexpected("an exception of no known type"));
  }
}

}  // namespace ikkuna::service
