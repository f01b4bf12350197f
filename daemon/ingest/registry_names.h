// RegistryNames: what one producer's registry says, gathered for status, module lists and commands.
//
// Owner: ProducerSession, which guards it with a mutex: the ingest thread adds, any thread reads.
// Bounded by the format's limits on ids; texts without an id of that kind (facts, notes) by the maxima here.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "daemon/model/status.h"
#include "shared/base/result.h"
#include "shared/pub.h"

namespace ikkuna::ingest {

class RegistryNames {
 public:
  static constexpr size_t kFactsMax = 1'000;  // a command line and hyperparameters; beyond it they are left out
  static constexpr size_t kNotesMax = 1'000;  // one for each odd layer of a large model

  // What entries say beyond the names they add: for a person to be told. Of a parameter that changed to and fro,
  // nothing.
  struct News {
    std::vector<std::string> frozen;  // parameters that trained before these entries, as module.param
    std::vector<std::string> thawed;
    std::vector<std::string> notes;
  };
  News Add(const std::vector<shm::RegistryEntry>& entries);

  // By root id; a root without an entry has no name here.
  const std::map<uint16_t, std::string>& roots() const { return roots_; }
  // Ascending by id of the registry, "key" first; later values of a key supersede.
  std::vector<std::pair<std::string, std::string>> Facts() const;
  std::vector<std::string> Notes() const;
  uint64_t arena_extent() const { return arena_extent_; }
  std::vector<ModuleInfo> Modules() const;

  // A module that a command can act on.
  struct Target {
    uint32_t module = 0;
    uint16_t root = 0;
    std::string name;
  };
  // Modules that own parameters (not only buffers) and whose name matches the shell pattern. kNotFound says what there
  // is.
  Result<std::vector<Target>> FindTargets(const std::string& pattern) const;

  // Counts entries that can change what Modules() or Facts() return.
  uint64_t modules_version() const { return modules_version_; }
  uint64_t facts_version() const { return facts_version_; }

 private:
  std::string NameOf(uint32_t param) const;

  struct Module {
    uint16_t root = 0;
    std::string name;
    std::string type;
    bool functional = false;
    std::map<uint64_t, uint32_t> params;  // by the order of their registration
  };
  // Where a parameter stands. A producer may move all of them as often as its registry holds entries.
  struct Place {
    uint32_t module = 0;
    uint64_t order = 0;
  };
  std::map<uint16_t, std::string> roots_;
  std::map<uint32_t, Module> modules_;
  std::map<uint32_t, ModuleInfo::Param> params_;
  std::map<uint32_t, Place> param_places_;
  uint64_t params_placed_ = 0;
  std::map<uint32_t, std::pair<std::string, std::string>> facts_;
  std::map<uint32_t, std::string> notes_;
  uint64_t arena_extent_ = 0;
  uint64_t modules_version_ = 0;
  uint64_t facts_version_ = 0;
};

}  // namespace ikkuna::ingest
