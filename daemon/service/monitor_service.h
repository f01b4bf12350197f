// MonitorService: the gRPC service over a Monitor: who asks, on which thread it is answered, and that it ends.
//
// There may be several over one Monitor and one OpenCalls, each with its own way to know who asks. Owner: Server, which
// stops OpenCalls before the gRPC server and destroys the service after. Thread rule: gRPC calls from its threads.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include "daemon/monitor/monitor.h"
#include "daemon/service/calls/calls.h"
#include "daemon/service/let_in.h"
#include "daemon/service/open_calls.h"
#include "daemon/service/roles.h"
#include "ikkuna/v1/monitor.grpc.pb.h"

namespace ikkuna::service {

// Watch works on bytes: what is encoded once goes to all watchers.
class MonitorService final : public v1::Monitor::WithRawCallbackMethod_Watch<v1::Monitor::CallbackService> {
 public:
  // All outlive it.
  MonitorService(ikkuna::Monitor& monitor, const Callers& callers, OpenCalls& calls)
      : monitor_(monitor), callers_(callers), calls_(calls) {}

#define IKKUNA_OVERRIDE(NAME, LANE)                                                                                  \
  grpc::ServerUnaryReactor* NAME(grpc::CallbackServerContext* context, const v1::NAME##Request* request,             \
                                 v1::NAME##Response* response) override {                                            \
    return Unary(Lane::LANE, context, request, response);                                                            \
  }
  IKKUNA_UNARY_CALLS(IKKUNA_OVERRIDE)
#undef IKKUNA_OVERRIDE

#define IKKUNA_OVERRIDE(NAME, LANE)                                                               \
  grpc::ServerWriteReactor<v1::NAME##Response>* NAME(grpc::CallbackServerContext* context,        \
                                                     const v1::NAME##Request* request) override { \
    return Stream<v1::NAME##Response>(Lane::LANE, context, request);                              \
  }
  IKKUNA_STREAM_CALLS(IKKUNA_OVERRIDE)
#undef IKKUNA_OVERRIDE

  grpc::ServerReadReactor<v1::ImportRunRequest>* ImportRun(grpc::CallbackServerContext* context,
                                                           v1::ImportRunResponse* response) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* Watch(grpc::CallbackServerContext* context,
                                                    const grpc::ByteBuffer* request) override;

 private:
  // For streams that last.
  LetIn Asker(const grpc::CallbackServerContext* context) const;
  // Both answer on a worker. The messages live until gRPC is through with the call.
  template <typename Request, typename Response>
  grpc::ServerUnaryReactor* Unary(Lane lane, grpc::CallbackServerContext* context, const Request* request,
                                  Response* response);
  template <typename Response, typename Request>
  grpc::ServerWriteReactor<Response>* Stream(Lane lane, grpc::CallbackServerContext* context, const Request* request);

  ikkuna::Monitor& monitor_;
  const Callers& callers_;
  OpenCalls& calls_;
};

}  // namespace ikkuna::service
