#include "daemon/graph/slots.h"

namespace ikkuna::graph {

namespace {

uint64_t KeyOf(metrics::Subject subject) { return (uint64_t{subject.module} << 32) | subject.param; }

}  // namespace

const Slot* Slots::Find(metrics::Subject subject, const RegistryIndex& registry) {
  if (subject == metrics::Subject{}) return &whole();
  if (const auto known = numbers_.find(KeyOf(subject)); known != numbers_.end()) return &slots_[known->second];
  if (slots_.size() >= kMaxSlots) return nullptr;
  Slot slot;
  slot.number = static_cast<uint32_t>(slots_.size());
  slot.subject = subject;
  if (subject.module != 0) {
    const RegistryIndex::Module* named = registry.FindModule(subject.module);
    if (named == nullptr) return nullptr;
    slot.module_name = named->name;
    slot.module_type = named->type;
  }
  if (subject.param != 0) {
    // Parameters belong to modules; what has none is a name that the trainer logs.
    const std::string* name = subject.module != 0 ? registry.Param(subject.param) : registry.Logged(subject.param);
    if (name == nullptr) return nullptr;
    slot.param_name = *name;
  }
  numbers_.emplace(KeyOf(subject), slot.number);
  slots_.push_back(std::move(slot));
  return &slots_.back();
}

uint32_t Group::Find(metrics::Subject subject, DType dtype, Slots& slots, const RegistryIndex& registry) {
  if (guess_ >= members_.size()) guess_ = 0;
  if (guess_ < members_.size() && members_[guess_].slot->subject == subject) return guess_++;
  const auto known = ordinals_.find(KeyOf(subject));
  if (known != ordinals_.end()) {
    guess_ = known->second + 1;
    return known->second;
  }
  if (IsDataKind(kind_) && subject.module == 0) return kNone;
  const Slot* slot = slots.Find(subject, registry);
  if (slot == nullptr) return kNone;
  const auto ordinal = static_cast<uint32_t>(members_.size());
  // Scalars have no type of their own: they are doubles.
  members_.push_back({slot, dtype == DType::kInvalid || DTypeBytes(dtype) > 4});
  ordinals_.emplace(KeyOf(subject), ordinal);
  guess_ = ordinal + 1;
  return ordinal;
}

}  // namespace ikkuna::graph
