// Values as messages, one way for each type, and back.
//
// Thread rule: functions without state.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "daemon/monitor/answer.h"
#include "ikkuna/v1/values.pb.h"
#include "metrics/value.h"

namespace ikkuna::service {

// Elements of one piece of a tensor: half a megabyte.
constexpr size_t kTensorPieceElements = 131'072;
// A longer text is cut, with SAMPLE_FLAG_TRUNCATED, since it could not be in a message that is below 1 MiB.
constexpr size_t kTextBytesMax = 512 * 1024;

// Sums of SampleFlag, whatever else may stand in the bits.
uint32_t ToFlags(uint16_t flags);

// A value as it is sent: in one piece, but for a large tensor. `piece` is filled for one after another: emit() is told
// of each once it is there, with flags that belong to it beside those of the value.
void ConvertPieces(const Value& from, const std::function<v1::Value*()>& piece,
                   const std::function<void(uint32_t flags)>& emit);

Histogram FromProto(const v1::Histogram& from);
// What a client sends. kBadField: no kind is set, a histogram or a tensor that is none.
Answer<Value> FromProto(const v1::Value& from);

}  // namespace ikkuna::service
