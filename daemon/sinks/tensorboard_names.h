// Where a series goes below the TensorBoard log folder, and how it is called there; see tensorboard.h for the rules.
//
// Thread rule: free functions; RunFolders by one thread at a time.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "daemon/sample.h"
#include "shared/base/result.h"

namespace ikkuna::sinks {

// A name as one folder: letters, digits, '.', '_', '-' and non-ASCII stay, the rest becomes '_', as does a dot in
// front.
std::string FolderName(std::string_view name);

// "{topic}/{module}.{param}" and its shorter and longer forms.
std::string CurveName(const SeriesKey& key);

// Gives each run a folder of its own, also after a restart and among runs of one name.
class RunFolders {
 public:
  explicit RunFolders(std::string logdir) : logdir_(std::move(logdir)) {}

  // The folder of the run (all its ranks), made when missing. `run` is its display name, may be empty.
  Result<std::string> Find(const RunKey& key, std::string_view run);

 private:
  const std::string logdir_;
  std::map<std::pair<std::string, uint32_t>, std::string> known_;  // by run_id and attempt
};

}  // namespace ikkuna::sinks
