// Runs, series, events and counts as messages.
//
// Thread rule: functions without state.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "daemon/model/batch.h"
#include "daemon/model/filter.h"
#include "daemon/model/query.h"
#include "daemon/model/run.h"
#include "daemon/model/series.h"
#include "daemon/model/status.h"
#include "ikkuna/v1/names.pb.h"
#include "ikkuna/v1/series.pb.h"

namespace ikkuna::service {

// A text as a message may hold it: all are UTF-8 where they came from, and one that is not could not be parsed by the
// client.
std::string Shown(const std::string& text, size_t bytes_max = SIZE_MAX);

void Convert(const RunKey& from, v1::RunKey* to);
void Convert(const Event& from, v1::Event* to);
void Convert(const RunInfo& from, v1::Run* to);
// As a list of series or of values shows it: without what changes while the run goes on, and without its facts.
void ConvertBrief(const ProducerInfo& from, v1::Run* to);
void Convert(const RunKey& run, const Series& from, v1::Series* to);
void Convert(const SeriesInfo& from, v1::SeriesSummary* to);
void ConvertCounts(const std::vector<Count>& from, google::protobuf::RepeatedPtrField<v1::Count>* to);
void ConvertFacts(const std::vector<std::pair<std::string, std::string>>& from,
                  google::protobuf::RepeatedPtrField<v1::Fact>* to);

v1::ProducerState ToProto(RunState state);
std::optional<RunState> FromProto(v1::ProducerState state);
v1::ValueType ToProto(ValueType type);
std::optional<ValueType> FromProto(v1::ValueType type);

SeriesFilter ToFilter(const v1::SeriesFilter& from);

}  // namespace ikkuna::service
