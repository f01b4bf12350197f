// ImportRun: a file that comes in pieces, each written on a worker before the next is read.
//
// Thread rule: as gRPC's reactors.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <functional>

#include "daemon/service/calls/calls.h"
#include "daemon/service/open_calls.h"

namespace ikkuna::service {

// `response` and `context` live as long as the call; `on_done` is called once, when gRPC is through with it.
grpc::ServerReadReactor<v1::ImportRunRequest>* BeginImport(OpenCalls& calls, const Call& call,
                                                           grpc::CallbackServerContext* context,
                                                           v1::ImportRunResponse* response,
                                                           std::function<void()> on_done);

}  // namespace ikkuna::service
