// Array: a tensor of the host as any front end hands it over, with strides and a scale, and what is made of it:
// statistics, a copy without gaps, a message.
//
// Thread rule: none, no state; what an Array points to is read during the call only. Nothing here allocates or throws,
// but for the texts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "probe/core/demand.h"
#include "probe/core/session.h"
#include "shared/codes.h"
#include "shared/stats/tensor_stats.h"

namespace ikkuna::probe {

struct Array {
  const void* data = nullptr;  // of the first element; may be null when there is none
  DType dtype = DType::kInvalid;
  int ndim = 0;
  const int64_t* sizes = nullptr;
  const int64_t* strides = nullptr;  // in elements, may be 0 or negative; null: row-major without gaps
  double scale = 1;  // what each element counts times: from 2^-100 to 2^100, of either sign; of floats only
};

constexpr int kMaxArrayDims = 64;

// Why it cannot be read, in a sentence that says what to do; empty: it can. All that follows needs one that can.
std::string WhyUnreadable(const Array& array);
// Why no difference of the two can be taken, each of which can be read.
std::string WhyNoDifference(const Array& now, const Array& before);

uint64_t ElementsOf(const Array& array);
// The type of a copy. A scaled half is a float: a loss scale lifts gradients out of what halves can hold.
DType CopiedAs(const Array& array);
inline uint64_t CopiedBytes(const Array& array) { return ElementsOf(array) * DTypeBytes(CopiedAs(array)); }

// Of all elements, in whatever order they lie. `moments`: as StatsPass takes them.
TensorStats StatsOf(const Array& array, uint64_t moments);
// Of now - before, elementwise in the arithmetic of their type (shared/stats/stats_pass.h).
TensorStats StatsOfDifference(const Array& now, const Array& before, uint64_t moments);

// CopiedBytes(array), row-major.
void CopyDense(const Array& array, unsigned char* to);
// Integers wrap; of bool it is whether the two differ.
void CopyDenseDifference(const Array& now, const Array& before, unsigned char* to);

// Publishes it as it is wanted; a tensor that does not fit into the arena as its statistics. False: dropped, and counted.
bool PublishArray(Session& session, const MessageHeader& header, const Want& want, const Array& array);
bool PublishDifference(Session& session, const MessageHeader& header, const Want& want, const Array& now,
                       const Array& before);

}  // namespace ikkuna::probe
