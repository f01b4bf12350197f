#include "daemon/graph/registry_index.h"

#include <string>
#include <utility>

namespace ikkuna::graph {

namespace {

template <typename Map, typename Value>
void Put(Map& map, typename Map::key_type id, Value value, RegistryIndex::Change& change) {
  const auto [at, fresh] = map.try_emplace(id, value);
  change.added |= fresh;
  if (fresh || at->second == value) return;
  at->second = std::move(value);
  change.renamed = true;
}

template <typename Map>
const typename Map::mapped_type* Look(const Map& map, typename Map::key_type id) {
  const auto at = map.find(id);
  return at == map.end() ? nullptr : &at->second;
}

}  // namespace

RegistryIndex::Change RegistryIndex::Add(const std::vector<shm::RegistryEntry>& entries) {
  Change change;
  for (const shm::RegistryEntry& entry : entries) {
    switch (entry.type) {
      case shm::EntryType::kRoot:
        Put(roots_, static_cast<uint16_t>(entry.id), entry.name, change);
        break;
      case shm::EntryType::kTag:
        Put(tags_, static_cast<uint16_t>(entry.id), entry.name, change);
        break;
      case shm::EntryType::kModule:
        Put(modules_, entry.id, Module{entry.root, entry.name, entry.second}, change);
        break;
      case shm::EntryType::kParam: {
        Part& part = parts_[entry.id];
        part.name = entry.name;
        part.sizes = entry.sizes;
        Put(params_, entry.id, Shown(part), change);
        break;
      }
      case shm::EntryType::kShard: {
        const auto part = parts_.find(entry.id);
        if (part == parts_.end()) break;
        part->second.whole = entry.sizes;
        part->second.offsets = entry.offsets;
        Put(params_, entry.id, Shown(part->second), change);
        break;
      }
      case shm::EntryType::kName:
        Put(logged_, entry.id, entry.name, change);
        break;
      default:
        break;  // facts, notes and payload spaces are others' business
    }
  }
  return change;
}

std::string RegistryIndex::Shown(const Part& part) {
  if (part.whole.empty()) return part.name;
  std::string place;
  bool fits = part.sizes.size() == part.whole.size();
  for (size_t i = 0; fits && i < part.sizes.size(); ++i) {
    const int64_t begin = part.offsets[i], size = part.sizes[i];
    fits = size <= part.whole[i] - begin;
    if (!fits) break;
    if (i > 0) place += ",";
    place += begin == 0 && size == part.whole[i] ? ":" : std::to_string(begin) + ":" + std::to_string(begin + size);
  }
  return part.name + "[" + (fits ? place : "part") + "]";
}

const std::string* RegistryIndex::Root(uint16_t id) const { return Look(roots_, id); }
const std::string* RegistryIndex::Tag(uint16_t id) const { return Look(tags_, id); }
const RegistryIndex::Module* RegistryIndex::FindModule(uint32_t id) const { return Look(modules_, id); }
const std::string* RegistryIndex::Param(uint32_t id) const { return Look(params_, id); }
const std::string* RegistryIndex::Logged(uint32_t id) const { return Look(logged_, id); }

std::optional<uint16_t> RegistryIndex::TagId(const std::string& name) const {
  for (const auto& [id, known] : tags_) {
    if (known == name) return id;
  }
  return std::nullopt;
}

}  // namespace ikkuna::graph
