// Values as they are handed on: CSV, JSON, or a table for a person; written as they come, so that nobody holds them
// all.
//
// Owner: the command that reads. Thread rule: one thread.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "daemon/cli/samples.h"
#include "daemon/cli/terminal.h"

namespace ikkuna::cli {

enum class SampleFormat { kTable, kCsv, kJson };

class SampleWriter {
 public:
  // `print` takes the text, piece by piece.
  static std::unique_ptr<SampleWriter> Make(SampleFormat format, const Terminal& terminal,
                                            std::function<void(const std::string&)> print);
  virtual ~SampleWriter() = default;
  // What tells the lines of a table apart beside their series.
  virtual void NameLines(bool /*runs*/, bool /*ranks*/) {}
  virtual void Begin() {}
  // Parts of one series come one after another.
  virtual void Add(const RunLine& line, const v1::Columns& columns) = 0;
  virtual void End() {}
};

std::string CsvField(const std::string& text);

}  // namespace ikkuna::cli
