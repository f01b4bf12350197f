// Between the plain types of daemon/monitor.h and the messages of proto/ikkuna/v1. The only place that turns an Error
// into a grpc::Status.
//
// Thread rule: functions without state.
#pragma once

#include <grpcpp/support/status.h>

#include "daemon/monitor.h"
#include "ikkuna/v1/monitor.pb.h"
#include "shared/base/result.h"

namespace ikkuna::service {

grpc::Status ToGrpc(const Error& error);

void Convert(const RunKey& from, v1::RunKey* to);
void Convert(const Series& from, v1::Series* to);
void Convert(const Sample& from, v1::Sample* to);
void Convert(const Event& from, v1::Event* to);
void Convert(const ProducerStatus& from, v1::Producer* to);
void Convert(const DaemonStatus& from, v1::GetStatusResponse* to);
void Convert(const RunInfo& from, v1::Run* to);
void Convert(const ModuleInfo& from, v1::Module* to);
void Convert(const MetricInfo& from, v1::Metric* to);
void Convert(const SeriesInfo& from, v1::SeriesSummary* to);
void Convert(const SubscriberInfo& from, v1::Subscriber* to);

// But for the run, which has to be looked up.
SeriesFilter ToFilter(const v1::SeriesFilter& from);

}  // namespace ikkuna::service
