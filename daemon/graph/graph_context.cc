#include "daemon/graph/graph_context.h"

#include <utility>

#include "daemon/graph/subscriber_set.h"
#include "shared/base/clock.h"

namespace ikkuna::graph {

void GraphContext::Fail(SubscriberEntry& entry, const std::string& what, uint64_t step) {
  Count(MissReason::kThrew, 1, &entry);
  if (!parts.subscribers->SwitchOff(entry)) return;  // somebody said so already
  Say(Severity::kError, "subscriber_failed",
      entry.subscription.text + " (subscriber " + std::to_string(entry.id) + ") failed at step " +
          std::to_string(step) + ": " + what +
          "; it is switched off for every run, the others go on. Subscribe it again to try once more",
      step);
}

void GraphContext::Say(Severity severity, const std::string& kind, std::string text, uint64_t step) {
  Event event;
  event.unix_ns = static_cast<int64_t>(UnixNs());
  event.severity = severity;
  event.run = run->key();
  event.kind = kind;
  event.text = std::move(text);
  event.step = step;
  events.push_back(std::move(event));
}

}  // namespace ikkuna::graph
