// The unary calls: a request checked, the Monitor asked, the answer converted. One overload a call.
//
// Thread rule: any thread; they may wait for the store.
#pragma once

#include <grpcpp/support/status.h>

#include "daemon/monitor.h"
#include "ikkuna/v1/monitor.pb.h"

namespace ikkuna::service {

// Longest text of a request: a few hundred subscribers in written form.
constexpr size_t kMaxTextBytes = 64 * 1024;
// Largest message in either direction: a million samples.
constexpr int kMaxMessageBytes = 64 * 1024 * 1024;
constexpr uint32_t kMaxSeriesPerAnswer = 100'000;
constexpr uint32_t kDefaultSeriesPerAnswer = 10'000;
constexpr uint32_t kMaxEventsPerAnswer = 10'000;
constexpr uint32_t kDefaultEventsPerAnswer = 1'000;

grpc::Status Answer(Monitor& monitor, const v1::GetStatusRequest& request, v1::GetStatusResponse* response);
grpc::Status Answer(Monitor& monitor, const v1::ListRunsRequest& request, v1::ListRunsResponse* response);
grpc::Status Answer(Monitor& monitor, const v1::ListModulesRequest& request, v1::ListModulesResponse* response);
grpc::Status Answer(Monitor& monitor, const v1::ListMetricsRequest& request, v1::ListMetricsResponse* response);
grpc::Status Answer(Monitor& monitor, const v1::ListSeriesRequest& request, v1::ListSeriesResponse* response);
grpc::Status Answer(Monitor& monitor, const v1::ReadSeriesRequest& request, v1::ReadSeriesResponse* response);
grpc::Status Answer(Monitor& monitor, const v1::ListSubscribersRequest& request, v1::ListSubscribersResponse* response);
grpc::Status Answer(Monitor& monitor, const v1::AddSubscribersRequest& request, v1::AddSubscribersResponse* response);
grpc::Status Answer(Monitor& monitor, const v1::RemoveSubscribersRequest& request,
                    v1::RemoveSubscribersResponse* response);
grpc::Status Answer(Monitor& monitor, const v1::ListEventsRequest& request, v1::ListEventsResponse* response);
grpc::Status Answer(Monitor& monitor, const v1::FreezeRequest& request, v1::FreezeResponse* response);
grpc::Status Answer(Monitor& monitor, const v1::UnfreezeRequest& request, v1::UnfreezeResponse* response);
grpc::Status Answer(Monitor& monitor, const v1::StopRequest& request, v1::StopResponse* response);

// The watcher that a request asks for.
Result<std::unique_ptr<Watcher>> StartWatch(Monitor& monitor, const v1::WatchRequest& request);

}  // namespace ikkuna::service
