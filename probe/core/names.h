// Names: what the probe has registered of roots, modules, parameters, tags, logged values, facts and notes, and the ids
// it gave them. A limit that is reached is said once, on stderr and in a note, and what has no id stays without a
// number: nothing is booked under the name of another.
//
// Owner: the session. Thread rule: any thread, one mutex, which is held for no system call: the registry's pages come
// without it. In a forked child everything is refused.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "probe/core/notices.h"
#include "shared/pub.h"

namespace ikkuna::probe {

// Of a tag that found no room: nothing is ever asked of it.
constexpr uint16_t kNoTag = 0xffff;

struct TensorShape {
  DType dtype = DType::kInvalid;
  int ndim = 0;  // may exceed kMaxDims: trailing dimensions are then multiplied into the last, flagged
  const int64_t* sizes = nullptr;
};

class Names {
 public:
  Names(shm::PubWriter& pub, Notices& notices) : pub_(pub), notices_(notices) {}

  // Each returns an id, 0 (kNoTag for a tag) when there is no room for one more.
  uint16_t AddRoot(const std::string& name);
  uint32_t AddModule(uint16_t root, const std::string& path, const std::string& type, uint32_t flags);
  // Says anew what is known of a module that has an id.
  void RenewModule(uint32_t id, uint16_t root, const std::string& path, const std::string& type, uint32_t flags);
  uint32_t AddParam(uint16_t root, uint32_t module, const std::string& name, const TensorShape& shape, uint32_t flags);
  // Says anew what is known of a parameter that has an id.
  void RenewParam(uint32_t id, uint16_t root, uint32_t module, const std::string& name, const TensorShape& shape,
                  uint32_t flags);
  // Says that the parameter is one rank's part of a larger one, of these sizes, and where it begins in each dimension; none:
  // it is whole.
  void AddShard(uint32_t param, const std::vector<int64_t>& sizes, const std::vector<int64_t>& offsets);
  uint16_t TagId(const std::string& name);
  std::string TagName(uint16_t id);          // empty: of no tag
  uint32_t NameId(const std::string& name);  // of a scalar, text or parameter group
  // A fact of the run; a later one of the same key takes its place.
  void AddFact(const std::string& key, const std::string& value);
  void AddNote(const std::string& text);  // once per text
  void NoteIfRenamed(const std::string& name);  // where the daemon will show it otherwise

  uint64_t modules() const { return modules_.load(std::memory_order_relaxed); }  // ids given
  uint64_t entries() const { return entries_.load(); }                           // published

  // One that is said anew at every step must not take the room of names.
  static constexpr size_t kMaxFactEntries = 10'000;
  // A model of a thousand odd layers; the registry is for names first.
  static constexpr size_t kMaxNotes = 1000;
  // Names that are written otherwise than they are given, each with a note.
  static constexpr uint32_t kMaxRenamedNotes = 8;

 private:
  enum class Limit : uint32_t { kRoots, kModules, kParams, kTags, kNames, kFacts, kRegistry };
  using Appended = shm::PubWriter::Appended;

  // Runs `body` under the mutex; where it finds the registry without pages, again when they are there. True: it is done.
  template <typename Body>
  bool Register(Body&& body);
  Appended Append(const shm::RegistryEntry& entry);  // the caller holds mutex_
  // Says once that there is no room for `what`. `full`: the ids have run out, else the registry has.
  void SayLimit(bool full, Limit limit, const std::string& what);

  shm::PubWriter& pub_;
  Notices& notices_;

  std::atomic<uint64_t> modules_{0};
  std::atomic<uint64_t> entries_{0};
  std::atomic<uint32_t> limits_said_{0};  // set of Limit
  std::atomic<uint32_t> renamed_notes_{0};

  std::mutex mutex_;
  // Guarded by mutex_.
  std::unordered_map<std::string, uint32_t> names_;
  std::unordered_map<std::string, uint16_t> tags_;
  std::unordered_set<std::string> notes_;
  std::unordered_map<std::string, std::pair<uint32_t, std::string>> facts_;  // key -> id and value
  size_t fact_entries_ = 0;
  uint32_t next_module_ = 1;
  uint32_t next_param_ = 1;
  uint16_t next_root_ = 1;
};

}  // namespace ikkuna::probe
