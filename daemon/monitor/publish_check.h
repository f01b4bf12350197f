// What can be said of a PublishRequest without a look at any run.
//
// Thread rule: none, no state.
#pragma once

#include <optional>
#include <string>

#include "daemon/model/series.h"
#include "daemon/monitor/answer.h"
#include "daemon/monitor/series_monitor.h"

namespace ikkuna {

// UTF-8 of at most 255 bytes.
bool IsName(const std::string& text);
// A field of the request makes no sense.
Failure Bad(const std::string& field, std::string text);
// The series that a value belongs to.
SeriesName NameOf(const PublishedStep& step, const PublishedValue& value);
// Names, sizes, steps, and that of each series there is one type and unit, and of anything but texts one value a step.
std::optional<Failure> CheckValues(const PublishRequest& request);

}  // namespace ikkuna
