// InProcess: the gRPC service over a Monitor for callers of this very process: no socket, no port, nobody else.
//
// Owner: whoever asks, which keeps the Monitor alive longer. Thread rule: made and destroyed on one thread; the channel
// is for any.
#pragma once

#include <grpcpp/channel.h>

#include <memory>

#include "daemon/monitor/monitor.h"
#include "shared/base/result.h"

namespace ikkuna::service {

class InProcess {
 public:
  static Result<std::unique_ptr<InProcess>> Start(Monitor& monitor);
  ~InProcess();
  InProcess(const InProcess&) = delete;
  InProcess& operator=(const InProcess&) = delete;

  // Calls through it are those of our own user.
  std::shared_ptr<grpc::Channel> channel() const;

 private:
  struct Impl;
  explicit InProcess(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

}  // namespace ikkuna::service
