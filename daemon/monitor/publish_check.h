// What can be said of a PublishRequest without a look at any run.
//
// Thread rule: none, no state.
#pragma once

#include <optional>
#include <string>
#include <utility>

#include "daemon/model/batch.h"
#include "daemon/model/run.h"
#include "daemon/model/series.h"
#include "daemon/monitor/answer.h"
#include "daemon/monitor/caller.h"
#include "daemon/monitor/series_monitor.h"

namespace ikkuna {

// UTF-8 of at most 255 bytes.
bool IsName(const std::string& text);
// A field of the request makes no sense.
Failure Bad(const std::string& field, std::string text);
// The series that a value belongs to.
SeriesName NameOf(const PublishedStep& step, const PublishedValue& value);
// What the event of kind kPublished says by which a topic of a run is its publisher's, and the publisher and topic that
// one says.
std::string PublishedText(const std::string& publisher, const std::string& topic, const RunKey& run);
std::optional<std::pair<std::string, std::string>> ParsePublished(const Event& event);
// The fact by which a run is a client's own.
inline constexpr char kPublisherFact[] = "publisher";
bool IsOwnRunOf(const Caller& caller, const ProducerInfo& info);
// Names, sizes, steps, and that of each series there is one type and unit, and of anything but texts one value a step.
std::optional<Failure> CheckValues(const PublishRequest& request);

}  // namespace ikkuna
