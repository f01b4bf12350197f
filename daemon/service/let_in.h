// LetIn: whether the caller of a stream is still let in, asked again now and then: tokens, users and certificates may be
// taken back while it lasts.
//
// Thread rule: one thread at a time, while the call is not finished.
#pragma once

#include <grpcpp/support/status.h>

#include <chrono>
#include <functional>
#include <utility>

namespace ikkuna::service {

class LetIn {
 public:
  static constexpr std::chrono::milliseconds kEvery{1000};

  explicit LetIn(std::function<grpc::Status()> ask) : ask_(std::move(ask)) {}

  // OK, or how the stream ends.
  grpc::Status Ask() {
    const auto now = std::chrono::steady_clock::now();
    if (now - asked_ < kEvery) return grpc::Status::OK;
    asked_ = now;
    return ask_();
  }

 private:
  const std::function<grpc::Status()> ask_;
  std::chrono::steady_clock::time_point asked_ = std::chrono::steady_clock::now();
};

}  // namespace ikkuna::service
