// What a request has to be before the monitor is asked. Each gives kBadField, or nothing where all is well.
//
// Thread rule: functions without state.
#pragma once

#include <cstdint>
#include <string>

#include "daemon/service/failures.h"
#include "ikkuna/v1/names.pb.h"

namespace ikkuna::service {

// Longest text of a request: a few hundred subscribers in written form.
constexpr size_t kRequestTextBytesMax = 64 * 1024;

Outcome CheckText(const char* field, const std::string& text);
Outcome CheckGiven(const char* field, const std::string& text);  // not empty either
Outcome CheckLimit(uint32_t limit, uint32_t most, const char* of_what);
Outcome CheckFilter(const v1::SeriesFilter& filter);

}  // namespace ikkuna::service
