#include "daemon/monitor/answer.h"

namespace ikkuna {
namespace {

Reason Likely(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return Reason::kBadField;
    case ErrorCode::kNotFound:
      return Reason::kNoSuchObject;
    case ErrorCode::kAlreadyExists:
      return Reason::kExists;
    case ErrorCode::kResourceExhausted:
      return Reason::kLimit;
    case ErrorCode::kCorrupt:
    case ErrorCode::kSystem:
      return Reason::kStore;
    case ErrorCode::kPermissionDenied:
    case ErrorCode::kFailedPrecondition:
    case ErrorCode::kUnavailable:
      return Reason::kUnspecified;
  }
  return Reason::kUnspecified;
}

}  // namespace

Failure::Failure(const Error& error) : Failure(error.code, error.text, Likely(error.code)) {}

}  // namespace ikkuna
