#include "daemon/cli/call_error.h"

namespace ikkuna::cli {
namespace {

ErrorCode CodeOf(grpc::StatusCode code) {
  switch (code) {
    case grpc::StatusCode::INVALID_ARGUMENT:
    case grpc::StatusCode::OUT_OF_RANGE:
      return ErrorCode::kInvalidArgument;
    case grpc::StatusCode::NOT_FOUND:
      return ErrorCode::kNotFound;
    case grpc::StatusCode::ALREADY_EXISTS:
      return ErrorCode::kAlreadyExists;
    case grpc::StatusCode::FAILED_PRECONDITION:
      return ErrorCode::kFailedPrecondition;
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      return ErrorCode::kResourceExhausted;
    case grpc::StatusCode::UNAUTHENTICATED:
    case grpc::StatusCode::PERMISSION_DENIED:
      return ErrorCode::kPermissionDenied;
    case grpc::StatusCode::DEADLINE_EXCEEDED:
    case grpc::StatusCode::UNAVAILABLE:
      return ErrorCode::kUnavailable;
    case grpc::StatusCode::DATA_LOSS:
      return ErrorCode::kCorrupt;
    default:
      return ErrorCode::kSystem;
  }
}

}  // namespace

v1::ErrorDetail DetailOf(const grpc::Status& status) {
  v1::StatusDetails details;
  v1::ErrorDetail detail;
  if (!details.ParseFromString(status.error_details())) return detail;
  for (const google::protobuf::Any& any : details.details()) {
    if (any.UnpackTo(&detail)) return detail;
  }
  return {};
}

Error CallError(const grpc::Status& status, const std::string& address) {
  std::string text = status.error_message();
  const v1::ErrorDetail detail = DetailOf(status);
  // The hint says what to do or what there is; a text that says so already is not made longer.
  if (!detail.hint().empty() && text.find(detail.hint()) == std::string::npos) text += "; " + detail.hint();
  switch (status.error_code()) {
    case grpc::StatusCode::UNAUTHENTICATED:
      if (text.find("--token-file") == std::string::npos) text += "; pass --token-file";
      break;
    case grpc::StatusCode::UNIMPLEMENTED:
      text = "what answers at " + address + " is no ikkuna-daemon of this version";
      break;
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      text = "the daemon at " + address + " did not answer in time";
      break;
    case grpc::StatusCode::UNAVAILABLE:
      text = "the daemon at " + address + " has gone: " + text;
      break;
    default:
      break;
  }
  return {CodeOf(status.error_code()), text};
}

}  // namespace ikkuna::cli
