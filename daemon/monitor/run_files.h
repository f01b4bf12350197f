// Files of runs on their way out and in: through the staging folder, where each is ours alone and leaves no trace.
//
// Owner: the call. Thread rule: one thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "daemon/monitor/core_parts.h"
#include "daemon/monitor/run_monitor.h"
#include "shared/base/unique_fd.h"

namespace ikkuna {

class StagedRunFiles : public RunFiles {
 public:
  StagedRunFiles(const CoreParts& parts, std::vector<RunKey> runs);
  Answer<std::optional<File>> NextFile() override;
  Answer<std::string> Read(size_t bytes_max) override;

 private:
  const CoreParts& parts_;
  const std::vector<RunKey> runs_;
  size_t next_ = 0;
  UniqueFd file_;  // unlinked
};

class StagedRunImport : public RunImport {
 public:
  // A named maximum: what a store holds by default.
  static constexpr uint64_t kBytesMax = uint64_t{16} << 30;
  static constexpr uint64_t kRoomAskedFor = uint64_t{8} << 20;  // at a time

  static Result<std::unique_ptr<StagedRunImport>> Begin(const CoreParts& parts);
  ~StagedRunImport() override;
  Status Write(const std::string& bytes) override;
  Answer<RunInfo> Finish() override;

 private:
  StagedRunImport(const CoreParts& parts, std::string path, UniqueFd file);

  const CoreParts& parts_;
  const std::string path_;
  UniqueFd file_;
  uint64_t bytes_ = 0;
  uint64_t room_ = 0;  // bytes that there was room for, when it was last asked
};

// What an earlier daemon left in the staging folder when it was killed.
void ClearStaging(const std::string& folder);

}  // namespace ikkuna
