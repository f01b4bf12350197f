#include "daemon/ingest/registry_names.h"

#include <algorithm>
#include <string_view>

#include "daemon/model/names.h"
#include "shared/base/suggestion.h"

namespace ikkuna::ingest {

RegistryNames::News RegistryNames::Add(const std::vector<shm::RegistryEntry>& entries) {
  News news;
  std::map<uint32_t, bool> trained;  // parameters that were known before, and whether they trained
  for (const auto& entry : entries) {
    switch (entry.type) {
      case shm::EntryType::kRoot:
        roots_[static_cast<uint16_t>(entry.id)] = entry.name;
        ++modules_version_;
        break;
      case shm::EntryType::kModule: {
        Module& module = modules_[entry.id];
        module.root = entry.root;
        module.name = entry.name;
        module.type = entry.second;
        module.functional = (entry.flags & shm::kEntryFunctional) != 0;
        ++modules_version_;
        break;
      }
      case shm::EntryType::kParam: {
        const auto [known, unknown] = params_.try_emplace(entry.id);
        ModuleInfo::Param& param = known->second;
        if (!unknown) trained.try_emplace(entry.id, param.trainable);
        param.name = entry.name;
        param.dtype = std::string(DTypeName(entry.dtype));
        param.sizes = entry.sizes;
        param.bias = (entry.flags & shm::kEntryBias) != 0;
        param.buffer = (entry.flags & shm::kEntryBuffer) != 0;
        param.trainable = (entry.flags & shm::kEntryTrainable) != 0;
        auto [at, fresh] = param_places_.try_emplace(entry.id);
        Place& place = at->second;
        if (fresh || place.module != entry.parent) {
          if (!fresh) modules_[place.module].params.erase(place.order);
          place = {entry.parent, params_placed_++};
          modules_[place.module].params.emplace(place.order, entry.id);
        }
        ++modules_version_;
        break;
      }
      case shm::EntryType::kFact:
        if (facts_.size() < kFactsMax || facts_.count(entry.id) != 0) {
          facts_[entry.id] = {entry.name, entry.second};
          ++facts_version_;
        }
        break;
      case shm::EntryType::kNote:
        if (notes_.size() < kNotesMax || notes_.count(entry.id) != 0) {
          notes_[entry.id] = entry.second.empty() ? entry.name : entry.second;
          news.notes.push_back(notes_[entry.id]);
        }
        break;
      case shm::EntryType::kArenaExtent:
        arena_extent_ = entry.value;
        break;
      default:
        break;  // tags, names and shards are the graph's, pools and events the payload source's
    }
  }
  for (const auto& [id, before] : trained) {
    if (before != params_.at(id).trainable) (before ? news.frozen : news.thawed).push_back(NameOf(id));
  }
  return news;
}

std::string RegistryNames::NameOf(uint32_t param) const {
  const auto module = modules_.find(param_places_.at(param).module);
  const std::string& name = params_.at(param).name;
  return module == modules_.end() || module->second.name.empty() ? name : module->second.name + "." + name;
}

std::vector<std::pair<std::string, std::string>> RegistryNames::Facts() const {
  std::vector<std::pair<std::string, std::string>> facts;
  std::map<std::string_view, size_t> places;  // a thousand facts are compared with none of the others
  for (const auto& [id, fact] : facts_) {
    const auto [place, fresh] = places.try_emplace(fact.first, facts.size());
    if (fresh) {
      facts.push_back(fact);
    } else {
      facts[place->second].second = fact.second;
    }
  }
  return facts;
}

std::vector<std::string> RegistryNames::Notes() const {
  std::vector<std::string> notes;
  for (const auto& [id, note] : notes_) notes.push_back(note);
  return notes;
}

std::vector<ModuleInfo> RegistryNames::Modules() const {
  std::vector<ModuleInfo> modules;
  for (const auto& [id, module] : modules_) {
    if (module.name.empty() && module.type.empty()) continue;  // a parameter named a module that never came
    ModuleInfo info;
    if (auto root = roots_.find(module.root); root != roots_.end()) info.root = root->second;
    info.name = module.name;
    info.type = module.type;
    info.functional = module.functional;
    for (const auto& [order, param] : module.params) info.params.push_back(params_.at(param));
    modules.push_back(std::move(info));
  }
  return modules;
}

Result<std::vector<RegistryNames::Target>> RegistryNames::FindTargets(const std::string& pattern) const {
  std::vector<Target> targets;
  std::vector<std::string> owners;
  for (const auto& [id, module] : modules_) {
    const bool owns = std::any_of(module.params.begin(), module.params.end(),
                                  [&](const auto& placed) { return !params_.at(placed.second).buffer; });
    if (!owns) continue;
    owners.push_back(module.name);
    if (MatchesPatterns(pattern, module.name)) targets.push_back({id, module.root, module.name});
  }
  if (targets.empty()) {
    if (owners.empty()) return Error{ErrorCode::kNotFound, "this run has no module with parameters yet"};
    constexpr size_t kNamed = 8;
    return Error{ErrorCode::kNotFound, "no module with parameters matches '" + pattern + "'" +
                                           Suggestion(pattern, owners) + " There are " + Listed(owners, kNamed)};
  }
  return targets;
}

}  // namespace ikkuna::ingest
