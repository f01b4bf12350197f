#include "probe/core/names.h"

#include <algorithm>

#include "shared/base/utf8.h"

namespace ikkuna::probe {

namespace {

constexpr size_t kShownBytes = 80;  // of a name in a sentence
constexpr uint32_t kTagsWithoutEntry = 3;

std::string Shown(const std::string& name) {
  const std::string clean = CleanUtf8(name, kShownBytes);
  return "'" + clean + (name.size() > kShownBytes ? "...'" : "'");
}

shm::RegistryEntry ParamEntry(uint32_t id, uint16_t root, uint32_t module, const std::string& name,
                              const TensorShape& shape, uint32_t flags) {
  shm::RegistryEntry entry;
  entry.type = shm::EntryType::kParam;
  entry.root = root;
  entry.id = id;
  entry.parent = module;
  entry.flags = flags;
  entry.dtype = shape.dtype;
  entry.name = name;
  entry.value = 1;
  for (int i = 0; i < shape.ndim; ++i) {
    entry.value *= static_cast<uint64_t>(shape.sizes[i]);
    if (static_cast<size_t>(i) < kMaxDims) {
      entry.sizes.push_back(shape.sizes[i]);
    } else {
      entry.sizes.back() *= shape.sizes[i];
    }
  }
  return entry;
}

}  // namespace

template <typename Body>
bool Names::Register(Body&& body) {
  if (!pub_.in_owner()) return false;
  for (;;) {
    Appended appended;
    {
      std::lock_guard lock(mutex_);
      appended = body();
    }
    if (appended != Appended::kUnbacked) return appended == Appended::kDone;
    if (pub_.BackRegistry()) continue;
    shm::AddRelaxed(pub_.status().registry_rejected, 1);  // no memory is as good as no room
    return false;
  }
}

Names::Appended Names::Append(const shm::RegistryEntry& entry) {
  const Appended appended = pub_.TryAppend(entry);
  if (appended == Appended::kDone) entries_.fetch_add(1);
  return appended;
}

void Names::SayLimit(bool full, Limit limit, const std::string& what) {
  if (!pub_.in_owner()) return;
  static constexpr const char* kRoom[] = {"16 models",   "65,535 modules",       "262,144 parameters",
                                          "253 tags",    "65,536 logged names",  "10,000 facts"};
  if (!full) limit = Limit::kRegistry;
  const uint32_t bit = 1u << static_cast<uint32_t>(limit);
  if ((limits_said_.fetch_or(bit) & bit) != 0) return;
  const std::string text = what + " and what comes behind it are not captured: " +
                           (full ? std::string("one process has room for ") + kRoom[static_cast<size_t>(limit)]
                                 : "the registry of names is full");
  notices_.Say(text);
  AddNote(text);
}

void Names::NoteIfRenamed(const std::string& name) {
  if (name.size() <= kMaxNameBytes && IsValidUtf8(name)) return;
  if (renamed_notes_.fetch_add(1) >= kMaxRenamedNotes) return;
  const std::string written = WireName(name, kMaxNameBytes);
  AddNote("the name " + Shown(name) + " is longer than 255 bytes or no UTF-8 and stands as '..." +
          written.substr(written.size() - 17) + "', after a hash of the whole");
}

uint16_t Names::AddRoot(const std::string& name) {
  uint16_t id = 0;
  bool full = false;
  const bool done = Register([&] {
    full = next_root_ > kMaxRoots;
    if (full) return Appended::kRefused;
    shm::RegistryEntry entry;
    entry.type = shm::EntryType::kRoot;
    entry.root = next_root_;
    entry.id = next_root_;
    entry.name = name;
    const Appended appended = Append(entry);
    if (appended == Appended::kDone) id = next_root_++;
    return appended;
  });
  if (!done) SayLimit(full, Limit::kRoots, "model " + Shown(name));
  NoteIfRenamed(name);
  return id;
}

namespace {

shm::RegistryEntry ModuleEntry(uint32_t id, uint16_t root, const std::string& path, const std::string& type,
                               uint32_t flags) {
  shm::RegistryEntry entry;
  entry.type = shm::EntryType::kModule;
  entry.root = root;
  entry.id = id;
  entry.flags = flags;
  entry.name = path;
  entry.second = type;
  return entry;
}

}  // namespace

void Names::RenewModule(uint32_t id, uint16_t root, const std::string& path, const std::string& type, uint32_t flags) {
  if (id == 0) return;
  if (!Register([&] { return Append(ModuleEntry(id, root, path, type, flags)); })) {
    SayLimit(false, Limit::kModules, "what changed of module " + Shown(path));
  }
}

uint32_t Names::AddModule(uint16_t root, const std::string& path, const std::string& type, uint32_t flags) {
  uint32_t id = 0;
  bool full = false;
  const bool done = Register([&] {
    full = next_module_ >= kMaxModules;
    if (full) return Appended::kRefused;
    const Appended appended = Append(ModuleEntry(next_module_, root, path, type, flags));
    if (appended != Appended::kDone) return appended;
    id = next_module_++;
    modules_.store(id, std::memory_order_relaxed);
    return appended;
  });
  if (!done) SayLimit(full, Limit::kModules, "module " + Shown(path));
  NoteIfRenamed(path);
  return id;
}

uint32_t Names::AddParam(uint16_t root, uint32_t module, const std::string& name, const TensorShape& shape,
                         uint32_t flags) {
  uint32_t id = 0;
  bool full = false;
  const bool done = Register([&] {
    full = next_param_ > kMaxParams;
    if (full) return Appended::kRefused;
    const Appended appended = Append(ParamEntry(next_param_, root, module, name, shape, flags));
    if (appended == Appended::kDone) id = next_param_++;
    return appended;
  });
  if (!done) SayLimit(full, Limit::kParams, "parameter " + Shown(name));
  NoteIfRenamed(name);
  return id;
}

void Names::RenewParam(uint32_t id, uint16_t root, uint32_t module, const std::string& name, const TensorShape& shape,
                       uint32_t flags) {
  if (id == 0) return;
  if (!Register([&] { return Append(ParamEntry(id, root, module, name, shape, flags)); })) {
    SayLimit(false, Limit::kParams, "what changed of parameter " + Shown(name));
  }
}

void Names::AddShard(uint32_t param, const std::vector<int64_t>& sizes, const std::vector<int64_t>& offsets) {
  shm::RegistryEntry entry;
  entry.type = shm::EntryType::kShard;
  entry.id = param;
  entry.sizes = sizes;
  entry.offsets = offsets;
  if (!Register([&] { return Append(entry); })) SayLimit(false, Limit::kParams, "what part of the whole a parameter is");
}

std::string Names::TagName(uint16_t id) {
  if (id == kTagDefault) return "default";
  if (id == kTagTest) return "test";
  if (id == kTagNoGrad) return "no_grad";
  std::lock_guard lock(mutex_);
  const auto found = std::find_if(tags_.begin(), tags_.end(), [&](const auto& tag) { return tag.second == id; });
  return found == tags_.end() ? std::string() : found->first;
}

uint16_t Names::TagId(const std::string& name) {
  if (name.empty() || name == "default") return kTagDefault;
  if (name == "test") return kTagTest;
  if (name == "no_grad") return kTagNoGrad;
  uint16_t id = kNoTag;
  bool full = false;
  const bool done = Register([&] {
    if (auto found = tags_.find(name); found != tags_.end()) {
      id = found->second;
      return Appended::kDone;
    }
    shm::RegistryEntry entry;
    entry.type = shm::EntryType::kTag;
    entry.id = static_cast<uint32_t>(kTagsWithoutEntry + tags_.size());
    entry.name = name;
    full = entry.id >= kMaxTags;
    if (full) return Appended::kRefused;
    const Appended appended = Append(entry);
    if (appended == Appended::kDone) id = tags_[name] = static_cast<uint16_t>(entry.id);
    return appended;
  });
  if (!done) SayLimit(full, Limit::kTags, "passes tagged " + Shown(name));
  NoteIfRenamed(name);
  return id;
}

uint32_t Names::NameId(const std::string& name) {
  uint32_t id = 0;
  bool full = false;
  bool known = false;
  const bool done = Register([&] {
    if (auto found = names_.find(name); found != names_.end()) {
      id = found->second;
      known = true;
      return Appended::kDone;
    }
    full = names_.size() >= kMaxModules;
    if (full) return Appended::kRefused;
    shm::RegistryEntry entry;
    entry.type = shm::EntryType::kName;
    entry.id = static_cast<uint32_t>(names_.size() + 1);
    entry.name = name;
    const Appended appended = Append(entry);
    if (appended == Appended::kDone) id = names_[name] = entry.id;
    return appended;
  });
  if (!done) SayLimit(full, Limit::kNames, "values logged as " + Shown(name));
  if (!known) NoteIfRenamed(name);
  return id;
}

void Names::AddFact(const std::string& key, const std::string& value) {
  bool full = false;
  const bool done = Register([&] {
    const auto known = facts_.find(key);
    if (known != facts_.end() && known->second.second == value) return Appended::kDone;
    full = fact_entries_ >= kMaxFactEntries;
    if (full) return Appended::kRefused;
    shm::RegistryEntry entry;
    entry.type = shm::EntryType::kFact;
    entry.id = known != facts_.end() ? known->second.first : static_cast<uint32_t>(facts_.size() + 1);
    entry.name = key;
    entry.second = value;
    const Appended appended = Append(entry);
    if (appended != Appended::kDone) return appended;
    facts_[key] = {entry.id, value};
    ++fact_entries_;
    return appended;
  });
  if (!done) SayLimit(full, Limit::kFacts, "the fact " + Shown(key));
}

void Names::AddNote(const std::string& text) {
  static_cast<void>(Register([&] {
    if (notes_.size() > kMaxNotes || notes_.count(text) != 0) return Appended::kDone;
    shm::RegistryEntry entry;
    entry.type = shm::EntryType::kNote;
    entry.id = static_cast<uint32_t>(notes_.size() + 1);
    // The last one says that it is.
    entry.second = notes_.size() == kMaxNotes ? "there are more notes than " + std::to_string(kMaxNotes) +
                                                    ": no further one is kept, and not all that is not captured is named"
                                              : text;
    const Appended appended = Append(entry);
    if (appended != Appended::kUnbacked) notes_.insert(text);
    return appended;
  }));
}

}  // namespace ikkuna::probe
