// TensorBoardFolders: gives each run and each tag a folder of its own, also after a restart, and among runs and tags
// whose names are, as paths, the same.
//
// Owner and thread rule: the TensorBoard sink's thread alone. A folder's marker says whose it is; folder and marker
// appear at once (a rename), so that two daemons that share a log folder never take one folder for two runs.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "daemon/model/run.h"
#include "shared/base/result.h"

namespace ikkuna::sinks {

inline constexpr char kRunMarker[] = ".ikkuna-run";
inline constexpr char kTagMarker[] = ".ikkuna-tag";

// Makes the folder and those above it that are missing, for their owner alone.
Status MakeFolders(const std::string& path);

class TensorBoardFolders {
 public:
  explicit TensorBoardFolders(std::string logdir) : logdir_(std::move(logdir)) {}

  // Of all ranks of the run, and of all attempts of one line.
  Result<std::string> OfRun(const ProducerInfo& info);
  // {run}/{rank}; it may be missing.
  static std::string OfRank(const std::string& run_folder, uint32_t rank);
  Result<std::string> OfTag(const std::string& rank_folder, std::string_view tag);
  // Tags that have a folder there.
  static std::vector<std::string> TagFolders(const std::string& rank_folder);
  // Somebody took folders away: what is known of them is looked up again.
  void Forget() { known_.clear(); }

 private:
  using Life = std::pair<std::string, uint32_t>;  // run_id, attempt
  // The folder whose marker names the last of these attempts that any names; empty: none does.
  std::string Search(const std::string& run_id, uint32_t first, uint32_t last) const;

  const std::string logdir_;
  std::map<Life, std::string> known_;
};

}  // namespace ikkuna::sinks
