// RegistryIndex: the names behind the ids of one producer's records.
//
// Owner: the Graph, on its one thread. References stay valid while the object lives; a later entry of the same id
// supersedes the earlier, which renames what stood there.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "shared/codes.h"
#include "shared/pub.h"

namespace ikkuna::graph {

class RegistryIndex {
 public:
  struct Module {
    uint16_t root = 0;
    std::string name;
    std::string type;
    bool operator==(const Module&) const = default;
  };

  struct Change {
    bool added = false;    // there is a name that was not there
    bool renamed = false;  // an id means something else now: what was derived from its name is void
  };
  Change Add(const std::vector<shm::RegistryEntry>& entries);

  // Null: unknown.
  const std::string* Root(uint16_t id) const;
  const Module* FindModule(uint32_t id) const;
  // Of a module. One rank's part of a larger one is called by what it is of that, "weight[4:8,:]", or "weight[part]" where
  // the two do not fit: its numbers must not stand under the name of the whole.
  const std::string* Param(uint32_t id) const;
  const std::string* Logged(uint32_t id) const;  // of a scalar, text or parameter group
  const std::string* Tag(uint16_t id) const;
  std::optional<uint16_t> TagId(const std::string& name) const;

  uint16_t next_tag() const { return static_cast<uint16_t>(tags_.rbegin()->first + 1); }  // that gets a name
  const std::map<uint16_t, std::string>& roots() const { return roots_; }
  const std::unordered_map<uint32_t, Module>& modules() const { return modules_; }

 private:
  struct Part {
    std::string name;            // without its place in the whole
    std::vector<int64_t> sizes;  // its own
    std::vector<int64_t> whole;  // empty: it is that itself
    std::vector<int64_t> offsets;
  };
  static std::string Shown(const Part& part);

  std::map<uint16_t, std::string> roots_;
  std::map<uint16_t, std::string> tags_{{kTagDefault, "default"}, {kTagTest, "test"}, {kTagNoGrad, "no_grad"}};
  std::unordered_map<uint32_t, Module> modules_;
  std::unordered_map<uint32_t, std::string> params_;  // as shown
  std::unordered_map<uint32_t, Part> parts_;          // what that is made of
  std::unordered_map<uint32_t, std::string> logged_;
};

}  // namespace ikkuna::graph
