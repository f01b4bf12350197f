// Reading values of runs as they are streamed, and what a value looks like in text.
//
// Thread rule: functions without state.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "daemon/cli/choice.h"
#include "daemon/cli/json.h"
#include "metrics/value.h"

namespace ikkuna::cli {

struct SampleQuery {
  SeriesChoice series = {};
  std::string topic = {};  // pattern
  StepChoice steps = {};
  uint32_t points = 0;                    // most of each series of numbers; 0: all
  std::vector<v1::ValueType> types = {};  // empty: all
};

// Gives `each` the parts of each series in turn, until it returns false. Only one part is in memory.
Status ReadSamples(Client& client, const RunLine& line, const SampleQuery& query,
                   const std::function<Result<bool>(const v1::Columns&)>& each);

// Values that a part has.
size_t SizeOf(const v1::Columns& columns);
// Of a column that the daemon left out: 0.
template <typename Field>
auto At(const Field& column, size_t i) {
  return i < static_cast<size_t>(column.size()) ? column.Get(static_cast<int>(i)) : typename Field::value_type{};
}

// "step_skipped|truncated" of a sum of SampleFlag.
std::string FlagsText(uint32_t flags, const char* separator);

// The same as an array.
Json FlagWords(uint32_t flags);

// What is said below values that are shown without their flags.
class FlagNotes {
 public:
  void Add(const v1::Columns& columns);
  void Add(uint32_t flags);  // of one value
  // A line each; empty: there is nothing to say.
  std::string Text() const;

 private:
  uint64_t values_ = 0;                   // with flags other than thinned
  std::map<uint32_t, uint64_t> by_flag_;  // of these
  bool thinned_ = false;
};

// Of any value, for a machine: the number with every digit, the text, a histogram or a tensor as JSON.
std::string ExactValue(const v1::Columns& columns, size_t i);
// For a person, in one line, escaped.
std::string ShortValue(const v1::Value& value);

}  // namespace ikkuna::cli
