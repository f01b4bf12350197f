#include "daemon/service/monitor_service.h"

#include <grpcpp/impl/codegen/proto_utils.h>

#include <memory>
#include <string>
#include <utility>

#include "daemon/service/answer_stream.h"
#include "daemon/service/calls/import_run.h"
#include "daemon/service/calls/watch.h"
#include "daemon/service/message_size.h"
#include "daemon/service/watch_reactor.h"

namespace ikkuna::service {
namespace {

// A call that was refused before it had a reactor of its own.
template <typename Reactor>
class Refused final : public Reactor {
 public:
  explicit Refused(const grpc::Status& status) { this->Finish(status); }
  void OnDone() override { delete this; }
};

}  // namespace

LetIn MonitorService::Asker(const grpc::CallbackServerContext* context) const {
  return LetIn([this, context]() -> grpc::Status {
    Result<Caller> caller = callers_.Who(*context);
    return caller ? grpc::Status::OK : Unauthenticated(caller.error());
  });
}

template <typename Request, typename Response>
grpc::ServerUnaryReactor* MonitorService::Unary(Lane lane, grpc::CallbackServerContext* context,
                                                const Request* request, Response* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  Result<Caller> caller = callers_.Who(*context);
  if (!caller) {
    reactor->Finish(Unauthenticated(caller.error()));
    return reactor;
  }
  monitor_.activity.Begin();
  const bool taken = calls_.Post(lane, [this, context, reactor, request, response, caller = *std::move(caller)] {
    grpc::Status status(grpc::StatusCode::CANCELLED, "the client has gone");
    if (!context->IsCancelled()) {
      status = ToGrpc(Guarded<Outcome>([&]() -> Outcome {
        Outcome failed = Handle(Call{monitor_, caller}, *request, response);
        if (failed || response->ByteSizeLong() < kAnswerBytesMax) return failed;
        return TooLong(response->ByteSizeLong());
      }));
    }
    monitor_.activity.End();
    reactor->Finish(status);
  });
  if (!taken) {
    monitor_.activity.End();
    reactor->Finish(ToGrpc(Overloaded()));
  }
  return reactor;
}

template <typename Response, typename Request>
grpc::ServerWriteReactor<Response>* MonitorService::Stream(Lane lane, grpc::CallbackServerContext* context,
                                                           const Request* request) {
  Result<Caller> caller = callers_.Who(*context);
  if (!caller) return new Refused<grpc::ServerWriteReactor<Response>>(Unauthenticated(caller.error()));
  monitor_.activity.Begin();
  return AnswerStream<Response>::Begin(
      calls_, lane, Asker(context),
      [this, request, caller = *std::move(caller)] { return Handle(Call{monitor_, caller}, *request); },
      [this] { monitor_.activity.End(); });
}

grpc::ServerReadReactor<v1::ImportRunRequest>* MonitorService::ImportRun(grpc::CallbackServerContext* context,
                                                                         v1::ImportRunResponse* response) {
  Result<Caller> caller = callers_.Who(*context);
  if (!caller) return new Refused<grpc::ServerReadReactor<v1::ImportRunRequest>>(Unauthenticated(caller.error()));
  monitor_.activity.Begin();
  return BeginImport(calls_, Call{monitor_, *std::move(caller)}, context, response,
                     [this] { monitor_.activity.End(); });
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* MonitorService::Watch(grpc::CallbackServerContext* context,
                                                                  const grpc::ByteBuffer* request) {
  Result<Caller> caller = callers_.Who(*context);
  if (!caller) return new Refused<grpc::ServerWriteReactor<grpc::ByteBuffer>>(Unauthenticated(caller.error()));
  monitor_.activity.Begin();
  std::shared_ptr<WatchReactor> reactor = WatchReactor::Create(calls_, Asker(context), [this](WatchReactor* gone) {
    calls_.Forget(gone);
    monitor_.activity.End();
  });
  if (!calls_.Add(reactor)) {
    reactor->End(Stopping());
    return reactor.get();
  }
  v1::WatchRequest message;
  grpc::ByteBuffer bytes = *request;
  if (const grpc::Status parsed = grpc::SerializationTraits<v1::WatchRequest>::Deserialize(&bytes, &message);
      !parsed.ok()) {
    reactor->End(BadField("", "the request is no WatchRequest"));
    return reactor.get();
  }
  // A reactor lives until OnDone, which follows its end: the raw pointer stays good for gRPC.
  const bool taken =
      calls_.Post(Lane::kFiles, [this, reactor, message = std::move(message), caller = *std::move(caller)] {
        Outcome failed = Guarded<Outcome>([&]() -> Outcome {
          Answer<WatchBegun> begun = Handle(Call{monitor_, caller}, message);
          if (!begun) return begun.failure();
          reactor->Begin(std::move(begun->answer), begun->parts);
          return {};
        });
        if (failed) reactor->End(*failed);
      });
  if (!taken) reactor->End(Overloaded());
  return reactor.get();
}

}  // namespace ikkuna::service
