// What a run's file says of its producer: identity, counters, modules; and the values that are no numbers.
#include <algorithm>
#include <cstdlib>
#include <map>

#include "daemon/sinks/run_file.h"

namespace ikkuna::sinks {
namespace {

constexpr size_t kOtherBytesMax = 256 << 20;

class Meta {
 public:
  static Result<Meta> Load(Database& db) {
    Meta meta;
    Status read = db.Each("SELECT name, value FROM meta WHERE name != 'totals'", [&](Statement& row) {
      meta.values_[row.Text(0)] = row.Text(1);
      return true;
    });
    if (!read) return read.error();
    return meta;
  }
  std::string Get(const std::string& name) const {
    const auto found = values_.find(name);
    return found == values_.end() ? "" : found->second;
  }
  bool Has(const std::string& name) const { return values_.count(name) > 0; }
  uint64_t Unsigned(const std::string& name) const { return std::strtoull(Get(name).c_str(), nullptr, 10); }
  int64_t Int(const std::string& name) const { return std::strtoll(Get(name).c_str(), nullptr, 10); }
  double Number(const std::string& name) const { return std::strtod(Get(name).c_str(), nullptr); }

 private:
  std::map<std::string, std::string> values_;
};

// Whose file it is, signed: values are never shown under another run's name.
std::string IdentitySum(const ProducerInfo& info) {
  ByteWriter out;
  for (const unsigned char byte : info.uuid) out.Put(byte);
  out.PutText(info.run_key.run_id);
  out.Put(info.run_key.attempt);
  out.Put(info.run_key.rank);
  out.PutText(info.run);
  out.Put(info.start_unix_ns);
  return std::to_string(ChecksumOf(out.bytes(), 0));
}

std::string NumberText(double value) {
  char text[40];
  std::snprintf(text, sizeof(text), "%.17g", value);
  return text;
}

Status SaveCounts(Database& db, std::string_view kind, const std::vector<Count>& counts) {
  for (const Count& count : counts) {
    Status saved = db.Run("INSERT OR REPLACE INTO count VALUES (?1, ?2, ?3)", kind, std::string_view(count.reason),
                          count.count);
    if (!saved) return saved;
  }
  return {};
}

std::string SizesText(const std::vector<int64_t>& sizes) {
  std::string text;
  for (int64_t size : sizes) text += (text.empty() ? "" : ",") + std::to_string(size);
  return text;
}

std::vector<int64_t> ParseSizes(const std::string& text) {
  std::vector<int64_t> sizes;
  const char* at = text.c_str();
  while (*at != '\0') {
    char* end = nullptr;
    sizes.push_back(std::strtoll(at, &end, 10));
    if (end == at) break;
    at = *end == ',' ? end + 1 : end;
  }
  return sizes;
}

// What stands in `meta` of a producer.
std::vector<std::pair<const char*, std::string>> TextsOf(const ProducerStatus& status) {
  const ProducerInfo& info = status.info;
  return {
      {"uuid", UuidText(info.uuid)},
      {"run_id", info.run_key.run_id},
      {"attempt", std::to_string(info.run_key.attempt)},
      {"rank", std::to_string(info.run_key.rank)},
      {"run", info.run},
      {"world_size", std::to_string(info.world_size)},
      {"master_address", info.job.address},
      {"master_port", info.job.port},
      {"pid", std::to_string(info.pid)},
      {"uid", std::to_string(info.uid)},
      {"start_unix_ns", std::to_string(info.start_unix_ns)},
      {"start_step", std::to_string(info.start_step)},
      {"unnamed", info.unnamed ? "1" : "0"},
      {"restarts", std::to_string(info.restarts)},
      {"identity_sum", IdentitySum(info)},
      {"state", std::string(RunStateName(status.state))},
      {"attempted", std::to_string(status.attempted)},
      {"handled", std::to_string(status.handled)},
      {"dropped_total", std::to_string(status.dropped_total)},
      {"lost_in_daemon", std::to_string(status.lost_in_daemon)},
      {"killed", std::to_string(status.killed)},
      {"steps_total", std::to_string(status.steps_total)},
      {"steps_while_connected", std::to_string(status.steps_while_connected)},
      {"kinds_asked", std::to_string(status.kinds_asked)},
      {"period_factor_tensor", std::to_string(status.period_factor_tensor)},
      {"period_factor_summary", std::to_string(status.period_factor_summary)},
      {"period_factor_scalar", std::to_string(status.period_factor_scalar)},
      {"coverage", NumberText(status.coverage)},
      {"probe_cost", NumberText(status.probe_cost)},
      {"budget", NumberText(status.budget)},
  };
}

}  // namespace

Result<RunHead> RunFile::LoadHead() {
  Result<Meta> loaded = Meta::Load(database_);
  if (!loaded) return loaded.error();
  const Meta& meta = *loaded;
  RunHead head;
  ProducerStatus& producer = head.producer;
  ProducerInfo& info = producer.info;
  const std::optional<Uuid> uuid = ParseUuid(meta.Get("uuid"));
  const std::optional<RunState> state = ParseRunState(meta.Get("state"));
  if (!meta.Has("run_id")) {
    // Its daemon ended between making it and writing into it.
    Result<int64_t> rows = database_.QueryInt("SELECT (SELECT count(*) FROM log) + (SELECT count(*) FROM segment)");
    if (rows && *rows == 0) return Error{ErrorCode::kNotFound, "nothing was recorded in it"};
  }
  if (!uuid || !state || !meta.Has("run_id")) return Error{ErrorCode::kCorrupt, "it does not say which run it is of"};
  info.uuid = *uuid;
  info.run_key = {meta.Get("run_id"), static_cast<uint32_t>(meta.Unsigned("attempt")),
                  static_cast<uint32_t>(meta.Unsigned("rank"))};
  info.run = meta.Get("run");
  info.world_size = static_cast<uint32_t>(meta.Unsigned("world_size"));
  info.job = {meta.Get("master_address"), meta.Get("master_port")};
  info.pid = static_cast<int32_t>(meta.Int("pid"));
  info.uid = static_cast<uint32_t>(meta.Unsigned("uid"));
  info.start_unix_ns = meta.Int("start_unix_ns");
  if (meta.Has("continues")) info.continues = static_cast<uint32_t>(meta.Unsigned("continues"));
  info.line = static_cast<uint32_t>(meta.Unsigned("line"));
  info.start_step = meta.Unsigned("start_step");
  info.unnamed = meta.Has("unnamed") && meta.Unsigned("unnamed") != 0;
  if (meta.Has("restarts")) info.restarts = meta.Int("restarts");
  if (meta.Get("identity_sum") != IdentitySum(info)) {
    return Error{ErrorCode::kCorrupt, "what it says of the run it is of is broken"};
  }
  producer.state = *state;
  producer.attempted = meta.Unsigned("attempted");
  producer.handled = meta.Unsigned("handled");
  producer.dropped_total = meta.Unsigned("dropped_total");
  producer.lost_in_daemon = meta.Unsigned("lost_in_daemon");
  producer.killed = meta.Unsigned("killed");
  producer.steps_total = meta.Unsigned("steps_total");
  producer.steps_while_connected = meta.Unsigned("steps_while_connected");
  producer.kinds_asked = meta.Unsigned("kinds_asked");
  const auto factor = [&](const char* name) { return static_cast<uint32_t>(std::max<uint64_t>(meta.Unsigned(name), 1)); };
  producer.period_factor_tensor = factor("period_factor_tensor");
  producer.period_factor_summary = factor("period_factor_summary");
  producer.period_factor_scalar = factor("period_factor_scalar");
  producer.coverage = meta.Number("coverage");
  producer.probe_cost = meta.Number("probe_cost");
  producer.budget = meta.Number("budget");
  head.host = meta.Get("host");

  Status read = database_.Each("SELECT name, value FROM fact ORDER BY position", [&](Statement& row) {
    info.facts.emplace_back(row.Text(0), row.Text(1));
    return true;
  });
  if (read) {
    read = database_.Each("SELECT kind, reason, count FROM count", [&](Statement& row) {
      const std::string kind = row.Text(0);
      if (kind == "store") {
        head.unrecorded[row.Text(1)] = row.Unsigned(2);
      } else {
        (kind == "drop" ? producer.drops : producer.missing).push_back({row.Text(1), row.Unsigned(2)});
      }
      return true;
    });
  }
  if (read) {
    read = database_.Each("SELECT text FROM note ORDER BY position", [&](Statement& row) {
      producer.notes.push_back(row.Text(0));
      return true;
    });
  }
  if (read) {
    read = database_.Each(
        "SELECT name, phase, step, epoch, samples_seen, steps_due, steps_observed FROM root", [&](Statement& row) {
          RootStatusInfo root;
          root.name = row.Text(0);
          root.phase = row.Int(1) >= 1 && row.Int(1) <= 3 ? static_cast<RootPhase>(row.Int(1)) : RootPhase::kIdle;
          root.step = row.Unsigned(2);
          root.epoch = static_cast<uint32_t>(row.Int(3));
          root.samples_seen = row.Unsigned(4);
          root.steps_due = row.Unsigned(5);
          root.steps_observed = row.Unsigned(6);
          producer.roots.push_back(std::move(root));
          return true;
        });
  }
  if (read) {
    read = database_.Each("SELECT name FROM tag", [&](Statement& row) {
      head.tags.push_back(row.Text(0));
      return true;
    });
  }
  if (read) {
    read = database_.Each("SELECT count(*), coalesce(min(id), 0), coalesce(max(id), 0) FROM event", [&](Statement& row) {
      head.events = row.Unsigned(0);
      head.event_first = row.Unsigned(1);
      head.event_last = row.Unsigned(2);
      return false;
    });
  }
  if (read) {
    read = database_.Each("SELECT count(*) FROM series", [&](Statement& row) {
      head.series = row.Unsigned(0);
      return false;
    });
  }
  if (read) read = LoadTotals(&head.totals);
  if (!read) return read.error();
  CatchUp(producer, head.totals.progress);
  return head;
}

Status RunFile::SaveProducer(const ProducerStatus& status, const std::string& host, const ProducerStatus* before) {
  const ProducerInfo& info = status.info;
  constexpr char kSet[] = "INSERT OR REPLACE INTO meta VALUES (?1, ?2)";
  const auto values = TextsOf(status);
  const auto had = before ? TextsOf(*before) : decltype(TextsOf(status)){};
  for (size_t i = 0; i < values.size(); ++i) {
    const auto& [name, value] = values[i];
    if (before && had[i].second == value) continue;
    if (Status saved = database_.Run(kSet, std::string_view(name), std::string_view(value)); !saved) return saved;
  }
  Status saved;
  if (!before) saved = database_.Run(kSet, std::string_view("host"), std::string_view(host));
  if (saved && info.continues && (!before || before->info.continues != info.continues)) {
    saved = database_.Run(kSet, std::string_view("continues"), int64_t{*info.continues});
    if (saved) saved = database_.Run(kSet, std::string_view("line"), int64_t{info.line});
  }
  if (!before || before->info.facts != info.facts) {
    if (saved) saved = database_.Run("DELETE FROM fact");
    for (const auto& [name, value] : info.facts) {
      if (!saved) break;
      saved = database_.Run("INSERT INTO fact (name, value) VALUES (?1, ?2)", std::string_view(name),
                            std::string_view(value));
    }
  }
  if (!before || before->drops != status.drops || before->missing != status.missing) {
    if (saved) saved = database_.Run("DELETE FROM count WHERE kind != 'store'");
    if (saved) saved = SaveCounts(database_, "drop", status.drops);
    if (saved) saved = SaveCounts(database_, "missing", status.missing);
  }
  if (!before || before->notes != status.notes) {
    if (saved) saved = database_.Run("DELETE FROM note");
    for (const std::string& note : status.notes) {
      if (saved) saved = database_.Run("INSERT INTO note (text) VALUES (?1)", std::string_view(note));
    }
  }
  if (before && before->roots == status.roots) return saved;
  if (saved) saved = database_.Run("DELETE FROM root");
  for (const RootStatusInfo& root : status.roots) {
    if (!saved) break;
    saved = database_.Run("INSERT OR REPLACE INTO root VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                          std::string_view(root.name), static_cast<int64_t>(root.phase), root.step,
                          int64_t{root.epoch}, root.samples_seen, root.steps_due, root.steps_observed);
  }
  return saved;
}

Status RunFile::SaveTags(const std::vector<std::string>& tags) {
  Status saved = database_.Run("DELETE FROM tag");
  for (const std::string& tag : tags) {
    if (saved) saved = database_.Run("INSERT OR REPLACE INTO tag VALUES (?1)", std::string_view(tag));
  }
  return saved;
}

Status RunFile::SaveUnrecorded(const std::map<std::string, uint64_t>& counts) {
  std::vector<Count> list;
  for (const auto& [reason, count] : counts) list.push_back({reason, count});
  return SaveCounts(database_, "store", list);
}

Status RunFile::SaveModules(const std::vector<ModuleInfo>& modules) {
  Status saved = database_.Run("DELETE FROM module");
  if (saved) saved = database_.Run("DELETE FROM param");
  for (size_t m = 0; m < modules.size() && saved; ++m) {
    const ModuleInfo& module = modules[m];
    saved = database_.Run("INSERT INTO module VALUES (?1, ?2, ?3, ?4, ?5)", static_cast<int64_t>(m),
                          std::string_view(module.root), std::string_view(module.name), std::string_view(module.type),
                          int64_t{module.functional});
    for (size_t p = 0; p < module.params.size() && saved; ++p) {
      const ModuleInfo::Param& param = module.params[p];
      saved = database_.Run("INSERT INTO param VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)", static_cast<int64_t>(m),
                            static_cast<int64_t>(p), std::string_view(param.name), std::string_view(param.dtype),
                            std::string_view(SizesText(param.sizes)), int64_t{param.bias}, int64_t{param.trainable},
                            int64_t{param.buffer});
    }
  }
  return saved;
}

Result<std::vector<ModuleInfo>> RunFile::LoadModules() {
  std::vector<ModuleInfo> modules;
  Status read =
      database_.Each("SELECT root, name, type, functional FROM module ORDER BY position", [&](Statement& row) {
        modules.push_back({row.Text(0), row.Text(1), row.Text(2), row.Int(3) != 0, {}});
        return true;
      });
  if (!read) return read.error();
  read = database_.Each(
      "SELECT module, name, dtype, sizes, bias, trainable, buffer FROM param ORDER BY module, position",
      [&](Statement& row) {
        if (row.Unsigned(0) >= modules.size()) return true;
        modules[row.Unsigned(0)].params.push_back({row.Text(1), row.Text(2), ParseSizes(row.Text(3)), row.Int(4) != 0,
                                                   row.Int(5) != 0, row.Int(6) != 0});
        return true;
      });
  if (!read) return read.error();
  return modules;
}

Result<uint64_t> RunFile::TrimEvents(size_t most) {
  Status done = database_.Run(
      "DELETE FROM event WHERE id <= coalesce((SELECT id FROM event ORDER BY id DESC LIMIT 1 OFFSET ?1), -1) "
      "AND kind != ?2",
      static_cast<int64_t>(most), std::string(kPublished));
  if (!done) return done.error();
  return static_cast<uint64_t>(sqlite3_changes(database_.handle()));
}

Status RunFile::TrimOthers(uint64_t bytes, uint64_t* removed, std::map<uint32_t, uint64_t>* gone) {
  uint64_t last = 0;
  Status read = database_.Each(
      "SELECT id, series, length(CAST(value AS BLOB)) FROM value WHERE id < (SELECT max(id) FROM value) ORDER BY id "
      "LIMIT 4096",
      [&](Statement& row) {
        last = row.Unsigned(0);
        *removed += row.Unsigned(2) + kOtherRowBytes;
        ++(*gone)[static_cast<uint32_t>(row.Unsigned(1))];
        return *removed < bytes;
      });
  if (!read) return read;
  return database_.Run("DELETE FROM value WHERE id <= ?1", last);
}

Status RunFile::LoadFirstStep(uint32_t series, uint64_t* step) {
  bool found = false;
  auto take = [&](Statement& row) {
    *step = row.Unsigned(0);
    found = true;
    return false;
  };
  Status read = database_.Each("SELECT step FROM value WHERE series = ?1 AND step >= 0 ORDER BY step LIMIT 1", take,
                               static_cast<int64_t>(series));
  if (!read || found) return read;
  return database_.Each("SELECT step FROM value WHERE series = ?1 ORDER BY step LIMIT 1", take,
                        static_cast<int64_t>(series));
}

Status RunFile::LoadEvents(const EventQuery& query, size_t most, std::vector<Event>* events) {
  RunKey key;
  Status read = database_.Each("SELECT name, value FROM meta WHERE name IN ('run_id', 'attempt', 'rank')",
                               [&](Statement& row) {
                                 const std::string name = row.Text(0), value = row.Text(1);
                                 if (name == "run_id") {
                                   key.run_id = value;
                                 } else {
                                   (name == "rank" ? key.rank : key.attempt) =
                                       static_cast<uint32_t>(std::strtoull(value.c_str(), nullptr, 10));
                                 }
                                 return true;
                               });
  if (!read) return read;
  bool good = true;
  auto take = [&](Statement& row) {
    Event event;
    event.id = row.Unsigned(0);
    event.unix_ns = row.Int(1);
    const int64_t severity = row.Int(2);
    event.severity = severity >= 1 && severity <= 3 ? static_cast<Severity>(severity) : Severity::kInfo;
    event.run = key;
    event.kind = row.Text(3);
    event.text = row.Text(4);
    event.step = row.Unsigned(5);
    if (row.Unsigned(6) != SumOf(event)) {
      good = false;
    } else {
      events->push_back(std::move(event));
    }
    return true;
  };
  const auto limit = static_cast<int64_t>(most);
  const auto before = static_cast<ptrdiff_t>(events->size());
  if (query.last) {
    read = database_.Each(
        "SELECT id, unix_ns, severity, kind, text, step, sum FROM event WHERE id > ?1 AND (?3 = '' OR kind = ?3) "
        "ORDER BY id DESC LIMIT ?2",
        take, query.after_id, limit, query.kind);
    std::reverse(events->begin() + before, events->end());
  } else {
    read = database_.Each(
        "SELECT id, unix_ns, severity, kind, text, step, sum FROM event WHERE id > ?1 AND (?3 = '' OR kind = ?3) "
        "ORDER BY id LIMIT ?2",
        take, query.after_id, limit, query.kind);
  }
  if (read && !good) return Error{ErrorCode::kCorrupt, "an event is broken"};
  return read;
}

std::string EncodeOther(const Value& value) {
  ByteWriter out;
  if (const auto* histogram = std::get_if<Histogram>(&value)) {
    for (double number : {histogram->min, histogram->max, histogram->sum, histogram->sum_squares}) out.Put(number);
    for (uint64_t number :
         {histogram->n, histogram->nans, histogram->positive_infinities, histogram->negative_infinities}) {
      out.PutVarint(number);
    }
    out.PutVarint(histogram->counts.size());
    for (uint64_t count : histogram->counts) out.PutVarint(count);
  } else if (const auto* tensor = std::get_if<TensorValue>(&value)) {
    out.Put(static_cast<uint8_t>(tensor->form));
    out.PutVarint(tensor->sizes.size());
    for (int64_t size : tensor->sizes) out.Put(size);
    out.PutVarint(tensor->values.size());
    PlaneCoder coder;
    coder.Encode<float>(tensor->values, out);
  }
  return Pack(out.bytes());
}

bool DecodeOther(ValueType type, std::string_view bytes, Value* value) {
  if (type == ValueType::kText) {
    *value = Text{std::string(bytes)};
    return true;
  }
  std::string unpacked;
  if (!Unpack(bytes, kOtherBytesMax, &unpacked)) return false;
  ByteReader in(unpacked);
  if (type == ValueType::kHistogram) {
    Histogram histogram;
    for (double* number : {&histogram.min, &histogram.max, &histogram.sum, &histogram.sum_squares}) {
      *number = in.Get<double>();
    }
    for (uint64_t* number :
         {&histogram.n, &histogram.nans, &histogram.positive_infinities, &histogram.negative_infinities}) {
      *number = in.GetVarint();
    }
    const uint64_t bins = in.GetVarint();
    if (!in.ok() || bins > in.left()) return false;
    for (uint64_t i = 0; i < bins; ++i) histogram.counts.push_back(in.GetVarint());
    *value = std::move(histogram);
    return in.ok();
  }
  if (type != ValueType::kTensor) return false;
  TensorValue tensor;
  const auto form = in.Get<uint8_t>();
  if (form < 1 || form > 2) return false;
  tensor.form = static_cast<TensorValue::Form>(form);
  for (uint64_t n = in.GetVarint(); n > 0 && in.ok(); --n) tensor.sizes.push_back(in.Get<int64_t>());
  const uint64_t elements = in.GetVarint();
  if (!in.ok() || elements > TensorValue::kMaxElements) return false;
  tensor.values.resize(elements);
  PlaneCoder coder;
  if (!coder.Decode<float>(in, tensor.values)) return false;
  *value = std::move(tensor);
  return true;
}

}  // namespace ikkuna::sinks
