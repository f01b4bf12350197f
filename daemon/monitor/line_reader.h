// LineReader: a read of many series, without the types that were not asked for and, for attempts that continue each
// other, without what a later one overtook.
//
// Owner: whoever reads. Thread rule: one thread at a time.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "daemon/model/query.h"
#include "daemon/model/status.h"

namespace ikkuna {

// From which step on an attempt was overtaken by one that continues it; attempts that were not are left out. Where one
// goes back further than the one that it continues began, that one has nothing left of its own.
std::map<RunKey, uint64_t> OvertakenFrom(const std::vector<RunInfo>& runs);

class LineReader : public SeriesReader {
 public:
  LineReader(std::unique_ptr<SeriesReader> parts, std::vector<ValueType> types,
             std::map<RunKey, uint64_t> overtaken_from);
  Result<std::optional<SeriesColumns>> Next() override;

 private:
  const std::unique_ptr<SeriesReader> parts_;
  const std::vector<ValueType> types_;  // empty: all
  const std::map<RunKey, uint64_t> overtaken_from_;
};

}  // namespace ikkuna
