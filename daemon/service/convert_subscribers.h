// Metrics and subscribers as messages.
//
// Thread rule: functions without state.
#pragma once

#include <vector>

#include "daemon/model/subscribers.h"
#include "ikkuna/v1/subscribers.pb.h"

namespace ikkuna::service {

void Convert(const MetricInfo& from, v1::Metric* to);
void Convert(const SubscriberInfo& from, v1::Subscriber* to);
void Convert(const std::vector<SubscriberInfo>& from, google::protobuf::RepeatedPtrField<v1::Subscriber>* to);

}  // namespace ikkuna::service
