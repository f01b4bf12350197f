// The layer table: modules down, kinds across, mean, std and norms of the latest values.
//
// Thread rule: functions without state.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "daemon/cli/commands.h"
#include "daemon/cli/json.h"

namespace ikkuna::cli {

struct LayerRow {
  struct Cell {
    uint64_t step = 0;
    double value = 0;
    uint32_t flags = 0;  // sum of SampleFlag
  };
  std::string root, module, type, param;
  // (kind, statistic) -> last value, in the order of LayerTable::columns; empty: none.
  std::vector<std::optional<Cell>> cells;
};

struct LayerTable {
  struct Column {
    std::string kind;       // activations, layer_gradients, weights, weight_gradients, ...
    std::string statistic;  // mean, std, norm2, ...
  };
  std::vector<Column> columns;
  std::vector<LayerRow> rows;
  uint64_t last_step = 0;
};

// Flags of the last values that have any, by id of the series.
using LastFlags = std::map<uint32_t, uint32_t>;

// From the series of one run and phase. Rows in the order of `modules`; what is not among them comes last. A module
// with several parameters has a row for each.
LayerTable MakeLayerTable(const std::vector<v1::SeriesSummary>& series, const std::vector<v1::Module>& modules,
                          const LastFlags& flags = {});

// With what its values' flags say, below.
std::string LayerTableText(const LayerTable& table, const Terminal& terminal, size_t rows_max);
Json LayerTableJson(const LayerTable& table);

// Asks the daemon for all of it.
Result<LayerTable> ReadLayerTable(Client& client, const v1::Run& run, const SeriesChoice& choice);

}  // namespace ikkuna::cli
