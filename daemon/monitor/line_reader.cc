#include "daemon/monitor/line_reader.h"

#include <algorithm>
#include <utility>

namespace ikkuna {
namespace {

// Keeps the first `count` points.
void Cut(SeriesColumns* columns, size_t count) {
  columns->steps.resize(count);
  columns->epochs.resize(std::min(columns->epochs.size(), count));
  columns->unix_ns.resize(std::min(columns->unix_ns.size(), count));
  columns->samples_seen.resize(std::min(columns->samples_seen.size(), count));
  columns->flags.resize(std::min(columns->flags.size(), count));
  columns->numbers.resize(std::min(columns->numbers.size(), count));
  columns->others.resize(std::min(columns->others.size(), count));
}

}  // namespace

std::map<RunKey, uint64_t> OvertakenFrom(const std::vector<RunInfo>& runs) {
  // A continuation has the greater attempt: seen from the last, each knows already how much is left of itself.
  std::map<RunKey, const ProducerInfo*> all;
  for (const RunInfo& run : runs) all[run.info.run_key] = &run.info;
  std::map<RunKey, uint64_t> overtaken_from;
  for (auto run = all.rbegin(); run != all.rend(); ++run) {
    const ProducerInfo& info = *run->second;
    if (!info.continues || *info.continues >= info.run_key.attempt) continue;
    uint64_t from = info.start_step;
    if (const auto own = overtaken_from.find(info.run_key); own != overtaken_from.end())
      from = std::min(from, own->second);
    RunKey before = info.run_key;
    before.attempt = *info.continues;
    const auto [place, fresh] = overtaken_from.try_emplace(before, from);
    if (!fresh) place->second = std::min(place->second, from);
  }
  return overtaken_from;
}

LineReader::LineReader(std::unique_ptr<SeriesReader> parts, std::vector<ValueType> types,
                       std::map<RunKey, uint64_t> overtaken_from)
    : parts_(std::move(parts)), types_(std::move(types)), overtaken_from_(std::move(overtaken_from)) {}

Result<std::optional<SeriesColumns>> LineReader::Next() {
  while (true) {
    Result<std::optional<SeriesColumns>> part = parts_->Next();
    if (!part || !*part) return part;
    SeriesColumns& columns = **part;
    if (!types_.empty() && std::find(types_.begin(), types_.end(), columns.series->traits.type) == types_.end())
      continue;
    if (const auto from = overtaken_from_.find(columns.run->run_key); from != overtaken_from_.end()) {
      const auto end = std::lower_bound(columns.steps.begin(), columns.steps.end(), from->second);
      Cut(&columns, static_cast<size_t>(end - columns.steps.begin()));
    }
    if (!columns.steps.empty()) return part;
  }
}

}  // namespace ikkuna
