// How runs, tags and series are called in TensorBoard; see tensorboard.h for the rules.
//
// Thread rule: free functions without state; CurveNames by one thread at a time.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

#include "daemon/model/series.h"
#include "shared/base/result.h"

namespace ikkuna::sinks {

// A name as one folder: letters, digits, '.', '_', '-' and non-ASCII stay, the rest becomes '_', as does a dot in
// front. Cut to a length that leaves room for what is appended.
std::string FolderName(std::string_view name);

// "{topic}/{module}.{param}" and its shorter and longer forms. Not injective: see CurveNames.
std::string CurveName(const SeriesName& name);

// Another text for each text, without control characters.
std::string OneLine(std::string_view text);

// Gives each series of one folder a curve of its own, the same over restarts: a file of the folder says who has which.
class CurveNames {
 public:
  explicit CurveNames(const std::string& directory) : path_(directory + "/.ikkuna-curves") {}

  // What an earlier daemon gave. A file that is missing or torn is no error: what it does not say is given anew.
  void Load();
  const std::string& Name(const SeriesName& series);
  // Writes down what was given since. Call it before the events that bear the names: a name that an event bears is then
  // taken for good.
  Status Save();

 private:
  const std::string path_;
  bool torn_ = false;                                // the file's last line has no end
  std::unordered_map<uint64_t, std::string> names_;  // by digest of the series
  std::unordered_set<std::string> taken_;
  std::string unsaved_;  // lines
};

}  // namespace ikkuna::sinks
