#include "daemon/cli/layer_table.h"

#include <algorithm>
#include <functional>
#include <map>
#include <set>
#include <tuple>

#include "daemon/cli/samples.h"

namespace ikkuna::cli {
namespace {

// In the order in which a step makes them.
constexpr const char* kKinds[] = {"activations",      "layer_gradients", "weights",
                                  "weight_gradients", "biases",          "bias_gradients"};

struct Topic {
  size_t kind;
  std::string statistic;
};

// "weights_norm2" is norm2 of weights. Longer names first: weight_gradients is no statistic of weights, but
// layer_gradients_mean must not be found under anything shorter either.
std::optional<Topic> Parse(const std::string& topic) {
  for (size_t kind = 0; kind < std::size(kKinds); ++kind) {
    std::string prefix = std::string(kKinds[kind]) + "_";
    if (topic.rfind(prefix, 0) != 0) continue;
    std::string statistic = topic.substr(prefix.size());
    bool norm = statistic.rfind("norm", 0) == 0 && statistic.find('@') == std::string::npos;
    if (statistic == "mean" || statistic == "std" || norm) return Topic{kind, statistic};
  }
  return std::nullopt;
}

int StatisticRank(const std::string& statistic) { return statistic == "mean" ? 0 : statistic == "std" ? 1 : 2; }

using ColumnKey = std::tuple<size_t, int, std::string>;
using RowKey = std::tuple<std::string, std::string>;  // root, module

}  // namespace

LayerTable MakeLayerTable(const std::vector<v1::SeriesSummary>& series, const std::vector<v1::Module>& modules,
                          const LastFlags& flags) {
  std::set<ColumnKey> columns;
  std::map<RowKey, std::map<std::string, std::map<ColumnKey, LayerRow::Cell>>> cells;  // row, param, column
  std::map<RowKey, std::string> types;
  std::vector<RowKey> order;
  LayerTable table;
  for (const v1::Module& module : modules) order.emplace_back(module.root(), module.name());
  for (const v1::SeriesSummary& summary : series) {
    const v1::SeriesKey& key = summary.series().key();
    std::optional<Topic> topic = Parse(key.topic());
    if (!topic || key.module().empty() || !summary.has_last()) continue;
    ColumnKey column{topic->kind, StatisticRank(topic->statistic), topic->statistic};
    RowKey row{key.root(), key.module()};
    columns.insert(column);
    const auto flagged = flags.find(summary.series().id());
    cells[row][key.param()][column] = {summary.last_step(), summary.last(),
                                       flagged == flags.end() ? 0 : flagged->second};
    types[row] = summary.series().module_type();
    order.push_back(row);
    table.last_step = std::max(table.last_step, summary.last_step());
  }
  for (const auto& [kind, rank, statistic] : columns) table.columns.push_back({kKinds[kind], statistic});
  auto add_row = [&](const RowKey& key, const std::string& param, const std::vector<std::string>& params) {
    LayerRow row{std::get<0>(key), std::get<1>(key), types[key], param, {}};
    for (const ColumnKey& column : columns) {
      std::optional<LayerRow::Cell> cell;
      for (const std::string& one : params) {
        auto found = cells[key][one].find(column);
        if (found != cells[key][one].end()) cell = found->second;
      }
      row.cells.push_back(cell);
    }
    table.rows.push_back(std::move(row));
  };
  std::set<RowKey> done;
  for (const RowKey& key : order) {
    if (cells.find(key) == cells.end() || !done.insert(key).second) continue;
    std::vector<std::string> weights;  // "bias" has columns of its own: it does not need a row
    for (const auto& [param, unused] : cells[key]) {
      if (!param.empty() && param != "bias") weights.push_back(param);
    }
    if (weights.size() <= 1) {
      std::vector<std::string> all = {"", "bias"};
      all.insert(all.end(), weights.begin(), weights.end());
      add_row(key, weights.empty() ? "" : weights.front(), all);
    } else {
      add_row(key, "", {"", "bias"});
      for (const std::string& param : weights) add_row(key, param, {param});
    }
  }
  return table;
}

std::string LayerTableText(const LayerTable& table, const Terminal& terminal, size_t rows_max) {
  std::vector<TextTable::Column> columns = {{"module"}, {"type"}};
  for (const LayerTable::Column& column : table.columns) columns.push_back({column.statistic, true, column.kind});
  TextTable text(columns);
  std::string above;
  for (const LayerRow& row : table.rows) {
    std::string name = row.root.empty() || row.root == "model" ? row.module : row.root + ": " + row.module;
    bool again = name == above;
    above = name;
    // The second and later parameters of a module stand below its name.
    std::vector<std::string> cells = {PlainText(again ? "  ." + row.param : name), again ? "" : PlainText(row.type)};
    for (const std::optional<LayerRow::Cell>& cell : row.cells) cells.push_back(cell ? ShortNumber(cell->value) : "");
    text.Add(std::move(cells));
  }
  FlagNotes notes;
  for (const LayerRow& row : table.rows) {
    for (const std::optional<LayerRow::Cell>& cell : row.cells) notes.Add(cell ? cell->flags : 0);
  }
  return text.Text(terminal, rows_max) + notes.Text();
}

Json LayerTableJson(const LayerTable& table) {
  Json rows = Json::array();
  for (const LayerRow& row : table.rows) {
    Json json = {{"root", row.root}, {"module", row.module}, {"type", row.type}, {"param", row.param}};
    for (size_t i = 0; i < row.cells.size(); ++i) {
      if (!row.cells[i]) continue;
      json[table.columns[i].kind][table.columns[i].statistic] = {{"step", row.cells[i]->step},
                                                                 {"value", ToJson(row.cells[i]->value)},
                                                                 {"flags", FlagWords(row.cells[i]->flags)}};
    }
    rows.push_back(std::move(json));
  }
  return rows;
}

namespace {

// A summary has no flags: the last steps are read, each by itself. Where series end at more steps than that, those that
// ended earliest are shown without.
constexpr size_t kStepsReadMax = 16;

Result<LastFlags> ReadLastFlags(Client& client, const v1::Run& run, const SeriesChoice& choice,
                                const std::vector<v1::SeriesSummary>& series) {
  std::map<uint64_t, std::set<uint32_t>, std::greater<>> last;  // ids by step
  for (const v1::SeriesSummary& summary : series) {
    const v1::SeriesKey& key = summary.series().key();
    if (!Parse(key.topic()) || key.module().empty() || !summary.has_last()) continue;
    last[summary.last_step()].insert(summary.series().id());
  }
  RunLine line;
  line.run = run;
  line.attempts = {run.key().attempt()};
  SampleQuery query;
  query.series = choice;
  query.types = {v1::VALUE_TYPE_NUMBER};
  LastFlags flags;
  size_t steps_read = 0;
  for (const auto& [step, ids] : last) {
    if (++steps_read > kStepsReadMax) break;
    query.steps.from = query.steps.to = step;
    Status read = ReadSamples(client, line, query, [&](const v1::Columns& columns) -> Result<bool> {
      if (!ids.contains(columns.series().id())) return true;
      for (const uint32_t of_one : columns.flags()) {
        if (of_one != 0) flags[columns.series().id()] |= of_one;
      }
      return true;
    });
    if (!read) return read.error();
  }
  return flags;
}

}  // namespace

Result<LayerTable> ReadLayerTable(Client& client, const v1::Run& run, const SeriesChoice& choice) {
  Result<std::vector<v1::SeriesSummary>> series = client.ListSeries(FilterOf(run, choice, ""));
  if (!series) return series.error();
  v1::ListModulesRequest request;
  request.set_run(run.key().run_id());
  request.set_attempt(run.key().attempt());
  request.set_rank(run.key().rank());
  Result<std::vector<v1::Module>> modules = client.ListModules(request);
  if (!modules) return modules.error();
  Result<LastFlags> flags = ReadLastFlags(client, run, choice, *series);
  if (!flags) return flags.error();
  return MakeLayerTable(*series, *modules, *flags);
}

}  // namespace ikkuna::cli
