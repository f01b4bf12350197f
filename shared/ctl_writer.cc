// CtlWriter: the daemon's side of CTL.
#include <cstring>
#include <string>

#include "shared/base/round_up.h"
#include "shared/ctl.h"

namespace ikkuna::shm {

namespace {

constexpr size_t kBitsetWords = kModuleBitsetBytes / sizeof(uint64_t);

CtlHeader PlanHeader(uint64_t session_id) {
  CtlHeader header{};
  header.magic = kCtlMagic;
  header.abi_major = kAbiMajor;
  header.abi_minor = kAbiMinor;
  header.header_bytes = sizeof(CtlHeader);
  header.feature_bits = kFeatureArena | kFeatureCommands | kFeatureLateBytes;
  header.session_id = session_id;
  header.state_offset = RoundUp(sizeof(CtlHeader), kCacheLine);
  header.demand_offset = header.state_offset + sizeof(CtlState);
  header.commands_offset = header.demand_offset + kMaxDemandEntries * sizeof(DemandEntry);
  header.bitsets_offset = header.commands_offset + kCommandSlots * sizeof(Command);
  header.total_bytes = header.bitsets_offset + kMaxDemandEntries * kModuleBitsetBytes;
  return header;
}

// Word by word with release, so that whoever sees a new word sees the odd generation stored before it.
void StoreWords(void* to, const void* from, size_t bytes) {
  auto* words = static_cast<uint64_t*>(to);
  for (size_t i = 0; i < bytes / sizeof(uint64_t); ++i) {
    uint64_t word;
    std::memcpy(&word, static_cast<const unsigned char*>(from) + i * sizeof(word), sizeof(word));
    StoreRelease(words[i], word);  // pairs with CtlView::CopyDemand
  }
}

}  // namespace

Result<std::unique_ptr<CtlWriter>> CtlWriter::Create(uint64_t session_id, const Heads& heads, uint32_t budget_ppm) {
  CtlHeader header = PlanHeader(session_id);
  auto segment = Segment::Create("ikkuna-ctl", header.total_bytes);
  if (!segment) return segment.error();
  std::unique_ptr<CtlWriter> writer(new CtlWriter);
  writer->segment_ = std::move(segment).value();
  // All but the bitsets, which get their memory when a demand names modules.
  if (writer->segment_.Back(0, header.bitsets_offset / 4096 * 4096) == 0) {
    return Error{ErrorCode::kResourceExhausted, "not enough memory for the control segment of a session"};
  }
  std::memcpy(writer->segment_.data(), &header, sizeof(header));
  CtlState& state = writer->state();
  StoreRelaxed(state.ring_head, heads.ring_head);
  StoreRelaxed(state.arena_head, heads.arena_head);
  StoreRelaxed(state.late_head, heads.late_head.value_or(0));
  StoreRelaxed(state.budget_ppm, budget_ppm);
  StoreRelease(reinterpret_cast<CtlHeader*>(writer->segment_.data())->ready, 1);  // pairs with CtlView::Open
  return writer;
}

CtlState& CtlWriter::state() {
  constexpr uint64_t kOffset = RoundUp(sizeof(CtlHeader), kCacheLine);
  return *reinterpret_cast<CtlState*>(segment_.data() + kOffset);
}

int CtlWriter::fd() const { return segment_.fd(); }

void CtlWriter::WriteBitset(size_t index, const DemandItem& item) {
  const CtlHeader header = PlanHeader(0);
  auto* bitset = reinterpret_cast<uint64_t*>(segment_.data() + header.bitsets_offset + index * kModuleBitsetBytes);
  const size_t words = item.all_modules ? 0 : item.modules.size();
  if (words > 0) StoreWords(bitset, item.modules.data(), words * sizeof(uint64_t));
  for (size_t i = words; i < bitset_words_[index]; ++i) StoreRelease(bitset[i], 0);
  bitset_words_[index] = words;
}

Status CtlWriter::SetDemand(const std::vector<DemandItem>& items, uint64_t registry_seen) {
  if (items.size() > kMaxDemandEntries) {
    return Error{ErrorCode::kResourceExhausted, "demand of " + std::to_string(items.size()) + " entries: at most " +
                                                    std::to_string(kMaxDemandEntries) + "; remove subscriptions"};
  }
  for (const DemandItem& item : items) {
    const bool root_ok = item.root == kAnyRoot || (item.root >= 1 && item.root <= kMaxRoots);
    const bool level_ok = item.level == Level::kSummary || item.level == Level::kTensor;
    if (item.period == 0 || !root_ok || item.tag >= kMaxTags || !level_ok || item.modules.size() > kBitsetWords) {
      return Error{ErrorCode::kInvalidArgument, "demand with a period, root, tag, level or module outside the limits"};
    }
  }
  CtlState& state = this->state();
  const CtlHeader header = PlanHeader(0);
  const uint64_t generation = LoadRelaxed(state.demand_generation);  // own word
  StoreRelease(state.demand_generation, generation + 1);
  for (size_t i = 0; i < items.size(); ++i) {
    DemandEntry entry{};
    entry.kinds = items[i].kinds;
    entry.period = items[i].period;
    entry.root = items[i].root;
    entry.tag = items[i].tag;
    entry.level = static_cast<uint8_t>(items[i].level);
    entry.all_modules = items[i].all_modules ? 1 : 0;
    entry.moments_left_out = kAllMoments & ~items[i].moments;
    StoreWords(segment_.data() + header.demand_offset + i * sizeof(DemandEntry), &entry, sizeof(entry));
    WriteBitset(i, items[i]);
  }
  StoreRelease(state.demand_count, static_cast<uint32_t>(items.size()));
  StoreRelease(state.registry_seen, registry_seen);
  StoreRelease(state.demand_generation, generation + 2);
  return {};
}

void CtlWriter::SetHeads(const Heads& heads) {
  if (heads.late_head) StoreRelease(state().late_head, *heads.late_head);  // all pair with CtlView::heads
  StoreRelease(state().arena_head, heads.arena_head);
  StoreRelease(state().ring_head, heads.ring_head);
}

void CtlWriter::SetPoolHeads(uint32_t pool_id, const PoolHeads& heads) {
  if (pool_id < 1 || pool_id > kMaxRoots) return;
  StoreRelease(state().event_head[pool_id - 1], heads.event_head);  // both pair with CtlView::pool_heads
  StoreRelease(state().pool_head[pool_id - 1], heads.pool_head);
}

// Information only: nothing else is ordered by these three.
void CtlWriter::SetCommitted(uint64_t seq) { StoreRelaxed(state().committed_seq, seq); }
void CtlWriter::Beat(uint64_t monotonic_ns) { StoreRelaxed(state().heartbeat_ns, monotonic_ns); }
void CtlWriter::SetBudget(uint32_t budget_ppm) { StoreRelaxed(state().budget_ppm, budget_ppm); }

Result<uint64_t> CtlWriter::Push(const Command& command, uint64_t command_done) {
  std::lock_guard hold(mutex_);
  if (!pushed_) command_tail_ = command_done;  // a session before this one pushed the ones up to there
  if (command_done > command_tail_) {
    return Error{ErrorCode::kCorrupt, "the producer says it has done " + std::to_string(command_done) +
                                          " commands of " + std::to_string(command_tail_)};
  }
  if (command_tail_ - command_done >= kCommandSlots) {
    return Error{ErrorCode::kResourceExhausted, "the producer has " + std::to_string(kCommandSlots) +
                                                    " commands waiting; it takes them at the end of a step"};
  }
  Command* slot =
      reinterpret_cast<Command*>(segment_.data() + PlanHeader(0).commands_offset) + command_tail_ % kCommandSlots;
  Command body = command;
  body.seq = 0;
  // The words behind seq first; seq last, with release (pairs with CtlView::NextCommand).
  StoreWords(reinterpret_cast<unsigned char*>(slot) + sizeof(uint64_t),
             reinterpret_cast<const unsigned char*>(&body) + sizeof(uint64_t), sizeof(Command) - sizeof(uint64_t));
  pushed_ = true;
  ++command_tail_;
  StoreRelease(slot->seq, command_tail_);
  return command_tail_;
}

}  // namespace ikkuna::shm
