// MonitorService: the gRPC service over a Monitor. Calls run on worker threads; watches are reactors of their own.
//
// Owner: Server, which stops it before the gRPC server and destroys it after. Thread rule: gRPC calls from its threads.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "daemon/monitor.h"
#include "daemon/service/watch_reactor.h"
#include "daemon/service/worker_pool.h"
#include "ikkuna/v1/monitor.grpc.pb.h"

namespace ikkuna::service {

class MonitorService final : public v1::Monitor::CallbackService {
 public:
  // Streams at one time: a person, a page and a few programs for each of 8 ranks.
  static constexpr size_t kMaxWatches = 64;

  explicit MonitorService(ikkuna::Monitor& monitor);

  // Ends every stream once its client has been sent all that waits, and every new one at once. True when there were
  // some and all are through before `until`.
  bool EndWatches(std::chrono::steady_clock::time_point until);
  // Joins the workers; after gRPC's shutdown.
  void StopWorkers();

  grpc::ServerUnaryReactor* GetStatus(grpc::CallbackServerContext* context, const v1::GetStatusRequest* request,
                                      v1::GetStatusResponse* response) override {
    return Post(context, request, response);
  }
  grpc::ServerUnaryReactor* ListRuns(grpc::CallbackServerContext* context, const v1::ListRunsRequest* request,
                                     v1::ListRunsResponse* response) override {
    return Post(context, request, response);
  }
  grpc::ServerUnaryReactor* ListModules(grpc::CallbackServerContext* context, const v1::ListModulesRequest* request,
                                        v1::ListModulesResponse* response) override {
    return Post(context, request, response);
  }
  grpc::ServerUnaryReactor* ListMetrics(grpc::CallbackServerContext* context, const v1::ListMetricsRequest* request,
                                        v1::ListMetricsResponse* response) override {
    return Post(context, request, response);
  }
  grpc::ServerUnaryReactor* ListSeries(grpc::CallbackServerContext* context, const v1::ListSeriesRequest* request,
                                       v1::ListSeriesResponse* response) override {
    return Post(context, request, response);
  }
  grpc::ServerUnaryReactor* ReadSeries(grpc::CallbackServerContext* context, const v1::ReadSeriesRequest* request,
                                       v1::ReadSeriesResponse* response) override {
    return Post(context, request, response);
  }
  grpc::ServerWriteReactor<v1::WatchResponse>* Watch(grpc::CallbackServerContext* context,
                                                     const v1::WatchRequest* request) override;
  grpc::ServerUnaryReactor* ListSubscribers(grpc::CallbackServerContext* context,
                                            const v1::ListSubscribersRequest* request,
                                            v1::ListSubscribersResponse* response) override {
    return Post(context, request, response);
  }
  grpc::ServerUnaryReactor* AddSubscribers(grpc::CallbackServerContext* context,
                                           const v1::AddSubscribersRequest* request,
                                           v1::AddSubscribersResponse* response) override {
    return Post(context, request, response);
  }
  grpc::ServerUnaryReactor* RemoveSubscribers(grpc::CallbackServerContext* context,
                                              const v1::RemoveSubscribersRequest* request,
                                              v1::RemoveSubscribersResponse* response) override {
    return Post(context, request, response);
  }
  grpc::ServerUnaryReactor* ListEvents(grpc::CallbackServerContext* context, const v1::ListEventsRequest* request,
                                       v1::ListEventsResponse* response) override {
    return Post(context, request, response);
  }
  grpc::ServerUnaryReactor* Freeze(grpc::CallbackServerContext* context, const v1::FreezeRequest* request,
                                   v1::FreezeResponse* response) override {
    return Post(context, request, response);
  }
  grpc::ServerUnaryReactor* Unfreeze(grpc::CallbackServerContext* context, const v1::UnfreezeRequest* request,
                                     v1::UnfreezeResponse* response) override {
    return Post(context, request, response);
  }
  grpc::ServerUnaryReactor* Stop(grpc::CallbackServerContext* context, const v1::StopRequest* request,
                                 v1::StopResponse* response) override {
    return Post(context, request, response);
  }

 private:
  // Answers on a worker thread. The messages live until the reactor is finished.
  template <typename Request, typename Response>
  grpc::ServerUnaryReactor* Post(grpc::CallbackServerContext* context, const Request* request, Response* response);
  void Forget(WatchReactor* reactor);

  ikkuna::Monitor& monitor_;
  WorkerPool calls_;
  WorkerPool pumps_;  // watches: never behind a slow query

  std::mutex mutex_;
  // Guarded by mutex_.
  std::unordered_map<WatchReactor*, std::weak_ptr<WatchReactor>> watches_;
  bool ending_ = false;
  std::condition_variable none_left_;
};

}  // namespace ikkuna::service
