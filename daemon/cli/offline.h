// Offline: recorded runs without a daemon, answered by the daemon's own service within this process.
//
// Owner: Client. Thread rule: one thread; what gRPC does inside has its own.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <vector>

#include "shared/base/result.h"

namespace ikkuna::cli {

class Offline {
 public:
  // `path`: a data directory, or the file of one run. Nothing there is changed.
  static Result<std::unique_ptr<Offline>> Open(const std::string& path);
  ~Offline();
  Offline(const Offline&) = delete;
  Offline& operator=(const Offline&) = delete;

  // Where v1::Monitor answers, without a socket.
  std::shared_ptr<grpc::Channel> channel() const;
  // Files that are not part of the answers, one sentence each.
  const std::vector<std::string>& notes() const;

 private:
  struct Impl;
  explicit Offline(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace ikkuna::cli
