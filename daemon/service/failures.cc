#include "daemon/service/failures.h"

#include "daemon/service/convert_names.h"
#include "daemon/service/worker_pool.h"
#include "ikkuna/v1/errors.pb.h"

namespace ikkuna::service {
namespace {

grpc::StatusCode CodeOf(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return grpc::StatusCode::INVALID_ARGUMENT;
    case ErrorCode::kNotFound:
      return grpc::StatusCode::NOT_FOUND;
    case ErrorCode::kAlreadyExists:
      return grpc::StatusCode::ALREADY_EXISTS;
    case ErrorCode::kFailedPrecondition:
      return grpc::StatusCode::FAILED_PRECONDITION;
    case ErrorCode::kResourceExhausted:
      return grpc::StatusCode::RESOURCE_EXHAUSTED;
    case ErrorCode::kPermissionDenied:
      return grpc::StatusCode::PERMISSION_DENIED;
    case ErrorCode::kUnavailable:
      return grpc::StatusCode::UNAVAILABLE;
    case ErrorCode::kCorrupt:
      return grpc::StatusCode::DATA_LOSS;
    case ErrorCode::kSystem:
      return grpc::StatusCode::INTERNAL;
  }
  return grpc::StatusCode::UNKNOWN;
}

// The numbers are those of the file: see daemon/monitor/answer.h.
v1::ErrorReason ReasonOf(Reason reason) {
  static_assert(static_cast<int>(Reason::kStore) == v1::ERROR_REASON_STORE);
  static_assert(static_cast<int>(Reason::kLimit) == v1::ERROR_REASON_LIMIT);
  static_assert(v1::ErrorReason_MAX == v1::ERROR_REASON_STORE, "a reason without a Reason");
  return static_cast<v1::ErrorReason>(reason);
}

// Metadata that is longer than 8 KiB in all is refused on its way.
constexpr size_t kMetadataTextBytesMax = 2048;
constexpr size_t kMetadataSubjectBytesMax = 256;

grpc::Status WithDetail(grpc::StatusCode code, const Failure& failure) {
  const std::string text = Shown(failure.text, kMetadataTextBytesMax);
  v1::ErrorDetail detail;
  detail.set_reason(ReasonOf(failure.reason));
  detail.set_subject(Shown(failure.subject, kMetadataSubjectBytesMax));
  detail.set_hint(Shown(failure.hint, kMetadataTextBytesMax));
  v1::StatusDetails details;
  details.set_code(static_cast<int>(code));
  details.set_message(text);
  details.add_details()->PackFrom(detail);
  return {code, text, details.SerializeAsString()};
}

}  // namespace

grpc::Status ToGrpc(const Failure& failure) { return WithDetail(CodeOf(failure.code), failure); }
grpc::Status Unauthenticated(const Error& error) {
  return WithDetail(grpc::StatusCode::UNAUTHENTICATED, Failure(error.code, error.text, Reason::kRole));
}

Failure BadField(std::string field, std::string text) {
  return {ErrorCode::kInvalidArgument, std::move(text), Reason::kBadField, std::move(field)};
}
Failure Stopping() { return {ErrorCode::kUnavailable, "ikkuna-daemon is stopping", Reason::kStopping}; }
Failure Overloaded() {
  return {ErrorCode::kResourceExhausted, "too many calls wait already; try again",
          Reason::kLimit, "calls"};
}
Failure ClientGone() { return {ErrorCode::kUnavailable, "the client has gone"}; }
Failure TooLong(size_t bytes) {
  return {ErrorCode::kResourceExhausted,
          "the answer has " + std::to_string(bytes) + " bytes, more than a message holds; ask for less", Reason::kLimit,
          "bytes"};
}
Failure OutOfMemory() {
  return {ErrorCode::kResourceExhausted, "the answer does not fit the daemon's memory; ask for less", Reason::kLimit,
          "memory"};
}
Failure Unexpected(const std::string& what) {
  return {ErrorCode::kSystem, "the daemon failed to answer: " + what};
}

}  // namespace ikkuna::service
