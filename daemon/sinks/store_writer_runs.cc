// The part of StoreWriter that keeps runs, producers and modules.
#include <charconv>

#include "daemon/sinks/store_writer.h"
#include "shared/base/clock.h"

namespace ikkuna::sinks {
namespace {

std::string SizesText(const std::vector<int64_t>& sizes) {
  std::string text;
  for (int64_t size : sizes) text += (text.empty() ? "" : ",") + std::to_string(size);
  return text;
}

std::string NotesText(const std::vector<std::string>& notes) {
  std::string text;
  for (const std::string& note : notes) {
    // One line each; a line break inside would make two notes of one.
    std::string line = note;
    std::replace(line.begin(), line.end(), '\n', ' ');
    text += line + "\n";
  }
  return text;
}

}  // namespace

std::string DropsText(const std::vector<DropCount>& drops) {
  std::string text;
  for (const DropCount& drop : drops) {
    if (!text.empty()) text += ',';
    text += drop.reason + '=' + std::to_string(drop.count);
  }
  return text;
}

std::vector<DropCount> DropsOf(const std::string& text) {
  std::vector<DropCount> drops;
  for (size_t begin = 0; begin < text.size();) {
    size_t end = std::min(text.find(',', begin), text.size());
    size_t equals = text.find('=', begin);
    if (equals < end) {
      DropCount drop{.reason = text.substr(begin, equals - begin)};
      std::from_chars(text.data() + equals + 1, text.data() + end, drop.count);
      drops.push_back(std::move(drop));
    }
    begin = end + 1;
  }
  return drops;
}

Result<int64_t> StoreWriter::EnsureRun(const RunKey& key) {
  if (auto known = runs_.find(key); known != runs_.end()) return known->second;
  auto bind = [&key](Statement& statement) {
    statement.Bind(1, key.run_id).Bind(2, uint64_t{key.attempt}).Bind(3, uint64_t{key.rank});
  };
  bind(find_run_);
  const int code = find_run_.Step();
  int64_t row = code == SQLITE_ROW ? find_run_.Int(0) : 0;
  find_run_.Reset();
  if (code == SQLITE_DONE) {
    bind(insert_run_);
    if (Status status = Run(insert_run_); !status) return status.error();
    row = sqlite3_last_insert_rowid(db_.handle());
  } else if (code != SQLITE_ROW) {
    return LastError();
  }
  runs_[key] = row;
  return row;
}

Status StoreWriter::WriteRun(const RunUpsert& upsert) {
  const ProducerInfo& producer = upsert.producer;
  Result<int64_t> run = EnsureRun(producer.run_key);
  if (!run) return run.error();
  upsert_run_.Bind(1, *run).Bind(2, producer.run).Bind(3, uint64_t{producer.world_size}).Bind(4, upsert.state);
  upsert_run_.Bind(5, producer.start_unix_ns);
  if (Status status = Run(upsert_run_); !status) return status;
  delete_facts_.Bind(1, *run);
  if (Status status = Run(delete_facts_); !status) return status;
  uint64_t position = 0;
  for (const auto& [name, value] : producer.facts) {
    insert_fact_.Bind(1, *run).Bind(2, position++).Bind(3, name).Bind(4, value);
    if (Status status = Run(insert_fact_); !status) return status;
  }
  upsert_producer_.BindBlob(1, producer.uuid.data(), producer.uuid.size()).Bind(2, *run);
  upsert_producer_.Bind(3, int64_t{producer.pid}).Bind(4, uint64_t{producer.uid}).Bind(5, producer.start_unix_ns);
  upsert_producer_.Bind(6, upsert.state);
  return Run(upsert_producer_);
}

Status StoreWriter::WriteProducer(const ProducerStatus& status) {
  Result<int64_t> run = EnsureRun(status.info.run_key);
  if (!run) return run.error();
  save_producer_.BindBlob(1, status.info.uuid.data(), status.info.uuid.size()).Bind(2, status.state);
  save_producer_.Bind(3, status.attempted).Bind(4, status.handled).Bind(5, status.lost_in_daemon);
  save_producer_.Bind(6, status.killed).Bind(7, status.dropped_total).Bind(8, DropsText(status.drops));
  save_producer_.Bind(9, status.steps_total).Bind(10, status.steps_while_connected).Bind(11, status.coverage);
  save_producer_.Bind(12, status.incomplete_bundles).Bind(13, status.probe_cost).Bind(14, NotesText(status.notes));
  if (Status saved = Run(save_producer_); !saved) return saved;
  if (sqlite3_changes(db_.handle()) == 0) {
    if (Status made = WriteRun({status.info, status.state}); !made) return made;
    if (Status saved = Run(save_producer_); !saved) return saved;  // its values are still bound
  }
  if (Status saved = WriteRoots(status); !saved) return saved;
  save_run_state_.Bind(1, *run).Bind(2, status.state).Bind(3, UnixNs());
  return Run(save_run_state_);
}

Status StoreWriter::WriteRoots(const ProducerStatus& status) {
  const Uuid& uuid = status.info.uuid;
  delete_roots_.BindBlob(1, uuid.data(), uuid.size());
  if (Status done = Run(delete_roots_); !done) return done;
  uint64_t position = 0;
  for (const RootStatusInfo& root : status.roots) {
    insert_root_.BindBlob(1, uuid.data(), uuid.size()).Bind(2, position++).Bind(3, root.name).Bind(4, root.phase);
    insert_root_.Bind(5, root.step).Bind(6, uint64_t{root.epoch}).Bind(7, root.samples_seen);
    insert_root_.Bind(8, root.steps_due).Bind(9, root.steps_observed);
    if (Status done = Run(insert_root_); !done) return done;
  }
  return {};
}

Status StoreWriter::WriteModules(const RunModules& modules) {
  Result<int64_t> run = EnsureRun(modules.run);
  if (!run) return run.error();
  delete_modules_.Bind(1, *run);
  if (Status status = Run(delete_modules_); !status) return status;
  delete_params_.Bind(1, *run);
  if (Status status = Run(delete_params_); !status) return status;
  uint64_t module_position = 0;
  for (const ModuleInfo& module : modules.modules) {
    insert_module_.Bind(1, *run).Bind(2, module_position).Bind(3, module.root).Bind(4, module.name);
    insert_module_.Bind(5, module.type).Bind(6, uint64_t{module.functional});
    if (Status status = Run(insert_module_); !status) return status;
    uint64_t position = 0;
    for (const ModuleInfo::Param& param : module.params) {
      insert_param_.Bind(1, *run).Bind(2, module_position).Bind(3, position++).Bind(4, param.name);
      insert_param_.Bind(5, param.dtype).Bind(6, SizesText(param.sizes)).Bind(7, uint64_t{param.bias});
      insert_param_.Bind(8, uint64_t{param.trainable}).Bind(9, uint64_t{param.buffer});
      if (Status status = Run(insert_param_); !status) return status;
    }
    ++module_position;
  }
  return {};
}

}  // namespace ikkuna::sinks
