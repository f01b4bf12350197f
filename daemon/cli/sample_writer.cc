#include "daemon/cli/sample_writer.h"

#include <utility>

namespace ikkuna::cli {
namespace {

using PrintText = std::function<void(const std::string&)>;
constexpr size_t kPieceBytes = 1 << 16;

class CsvWriter : public SampleWriter {
 public:
  explicit CsvWriter(PrintText print) : print_(std::move(print)) {}

  void Begin() override {
    print_("run_id,attempt,rank,tag,root,module,param,topic,step,epoch,unix_ns,samples_seen,value,flags,type\n");
  }

  void Add(const RunLine&, const v1::Columns& columns) override {
    const v1::SeriesKey& key = columns.series().key();
    const std::string head = CsvField(key.run().run_id()) + "," + std::to_string(key.run().attempt()) + "," +
                             std::to_string(key.run().rank()) + "," + CsvField(key.tag()) + "," + CsvField(key.root()) +
                             "," + CsvField(key.module()) + "," + CsvField(key.param()) + "," + CsvField(key.topic()) +
                             ",";
    const std::string tail = "," + EnumWord(*v1::ValueType_descriptor(), columns.series().type()) + "\n";
    std::string text;
    for (size_t i = 0; i < SizeOf(columns); ++i) {
      text += head + std::to_string(At(columns.steps(), i)) + "," + std::to_string(At(columns.epochs(), i)) + "," +
              std::to_string(At(columns.unix_ns(), i)) + "," + std::to_string(At(columns.samples_seen(), i)) + "," +
              CsvField(ExactValue(columns, i)) + "," + FlagsText(At(columns.flags(), i), "|") + tail;
      if (text.size() < kPieceBytes) continue;
      print_(text);
      text.clear();
    }
    print_(text);
  }

 private:
  const PrintText print_;
};

// One array of series, each with its samples: the brackets are written by hand, since all of it is never in memory.
class JsonWriter : public SampleWriter {
 public:
  explicit JsonWriter(PrintText print) : print_(std::move(print)) {}

  void Add(const RunLine&, const v1::Columns& columns) override {
    const std::string series = columns.series().SerializeAsString();
    if (!open_ || series != series_) {
      Close();
      print_(any_ ? ",\n" : "[");
      series_ = series;
      open_ = any_ = true;
      first_ = true;
      reduced_ = thinned_ = false;
      std::string head = JsonLine(ToJson(columns.series()));
      head.resize(head.size() - 2);  // "}\n"
      print_(head + ",\"samples\":[");
    }
    reduced_ = reduced_ || columns.reduced();
    thinned_ = thinned_ || columns.thinned();
    std::string text;
    for (size_t i = 0; i < SizeOf(columns); ++i) {
      text += std::string(first_ ? "\n" : ",\n") + "{\"step\":" + std::to_string(At(columns.steps(), i)) +
              ",\"epoch\":" + std::to_string(At(columns.epochs(), i)) +
              ",\"unix_ns\":" + std::to_string(At(columns.unix_ns(), i)) +
              ",\"samples_seen\":" + std::to_string(At(columns.samples_seen(), i)) + ",\"value\":" + Text(columns, i) +
              ",\"flags\":" + FlagWords(At(columns.flags(), i)).dump() + "}";
      first_ = false;
      if (text.size() < kPieceBytes) continue;
      print_(text);
      text.clear();
    }
    print_(text);
  }

  void End() override {
    Close();
    print_(any_ ? "]\n" : "[]\n");
  }

 private:
  static std::string Text(const v1::Columns& columns, size_t i) {
    if (columns.numbers_size() > 0) return ToJson(At(columns.numbers(), i)).dump();
    if (i >= static_cast<size_t>(columns.values_size())) return "null";
    const v1::Value& value = columns.values(static_cast<int>(i));
    const Json json = value.has_histogram() ? ToJson(value.histogram())
                      : value.has_tensor()  ? ToJson(value.tensor())
                      : value.has_text()    ? Json(value.text())
                                            : ToJson(value.number());
    return json.dump(-1, ' ', false, Json::error_handler_t::replace);
  }

  void Close() {
    if (!open_) return;
    print_(std::string("],\"reduced\":") + (reduced_ ? "true" : "false") +
           ",\"thinned\":" + (thinned_ ? "true" : "false") + "}");
    open_ = false;
  }

  const PrintText print_;
  std::string series_;
  bool open_ = false, any_ = false, first_ = true;
  bool reduced_ = false, thinned_ = false;
};

class TableWriter : public SampleWriter {
 public:
  TableWriter(const Terminal& terminal, PrintText print) : terminal_(terminal), print_(std::move(print)) {}

  void NameLines(bool runs, bool ranks) override {
    runs_ = runs;
    ranks_ = ranks;
  }

  void Add(const RunLine& line, const v1::Columns& columns) override {
    const v1::Series& series = columns.series();
    // A later attempt that goes on with the line goes on with its table.
    std::string name = SeriesName(series.key());
    if (runs_) name = PlainText(RunName(line.run)) + ": " + name;
    if (ranks_) name += " (" + RankText(series.key().run().rank()) + ")";
    if (!series.unit().empty()) name += " (" + PlainText(series.unit()) + ")";
    // Not by what it is called: a parameter b.c of module a reads like c of a.b.
    v1::SeriesKey key = series.key();
    key.clear_run();
    const std::string identity = line.run.key().SerializeAsString() + key.SerializeAsString() + series.unit();
    const bool again = identity == identity_;
    if (!again) {
      print_((identity_.empty() ? "" : "\n") + Paint(terminal_, Colour::kBold, name) + "\n");
      widths_.clear();
    }
    identity_ = identity;
    TextTable table(
        {{"step", true}, {"epoch", true}, {"time"}, {"value", series.type() == v1::VALUE_TYPE_NUMBER}, {"flags"}});
    for (size_t i = 0; i < SizeOf(columns); ++i) {
      const std::string value = columns.numbers_size() > 0 ? ExactNumber(At(columns.numbers(), i))
                                : i < static_cast<size_t>(columns.values_size())
                                    ? ShortValue(columns.values(static_cast<int>(i)))
                                    : "";
      table.Add({std::to_string(At(columns.steps(), i)), std::to_string(At(columns.epochs(), i)),
                 LocalTime(At(columns.unix_ns(), i)), value, FlagsText(At(columns.flags(), i), " ")});
    }
    print_(table.Part(terminal_, &widths_, !again));
    reduced_ = reduced_ || columns.reduced();
    thinned_ = thinned_ || columns.thinned();
  }

  void End() override {
    if (reduced_) print_("Reduced to the first, the last, the least and the greatest value of each part (--points).\n");
    if (thinned_) print_("Some of these steps were thinned away to keep to the store's maximum.\n");
  }

 private:
  const Terminal terminal_;
  const PrintText print_;
  bool runs_ = false, ranks_ = false;
  bool reduced_ = false, thinned_ = false;
  std::string identity_;
  std::vector<size_t> widths_;
};

}  // namespace

std::unique_ptr<SampleWriter> SampleWriter::Make(SampleFormat format, const Terminal& terminal, PrintText print) {
  switch (format) {
    case SampleFormat::kCsv:
      return std::make_unique<CsvWriter>(std::move(print));
    case SampleFormat::kJson:
      return std::make_unique<JsonWriter>(std::move(print));
    case SampleFormat::kTable:
      break;
  }
  return std::make_unique<TableWriter>(terminal, std::move(print));
}

std::string CsvField(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + "\"";
}

}  // namespace ikkuna::cli
