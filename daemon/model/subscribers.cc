#include "daemon/model/subscribers.h"

namespace ikkuna {

std::string_view SubscriberSourceName(SubscriberSource source) {
  switch (source) {
    case SubscriberSource::kDefault:
      return "default";
    case SubscriberSource::kConfig:
      return "config";
    case SubscriberSource::kFlag:
      return "flag";
    case SubscriberSource::kClient:
      return "client";
  }
  return "invalid";
}

std::string Describe(const SubscriberChoice& which) {
  switch (which.by) {
    case SubscriberChoice::By::kId:
      return "subscriber " + std::to_string(which.id);
    case SubscriberChoice::By::kText:
      return "subscriber written '" + which.text + "'";
    case SubscriberChoice::By::kTopic:
      return "topic '" + which.text + "'";
  }
  return "subscriber";
}

}  // namespace ikkuna
