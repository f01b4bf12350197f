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

}  // namespace ikkuna
