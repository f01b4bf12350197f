// CtlView: the probe's side of CTL. The daemon is believed no more than a stranger: copies are checked before use, and
// what fails the check is as if it were not there.
#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <utility>

#include "shared/ctl.h"

namespace ikkuna::shm {

namespace {

constexpr uint32_t kMaxHeaderBytes = 4096;  // bounds what later minor versions may add
constexpr uint64_t kMaxCtlBytes = 64 << 20;

Error CorruptCtl(const char* what) {
  return Error{ErrorCode::kCorrupt, std::string("the daemon's control segment has ") + what};
}

Status CheckHeader(const CtlHeader& header, uint64_t mapped_bytes) {
  if (header.magic != kCtlMagic) return CorruptCtl("not the magic of CTL");
  if (header.abi_major != kAbiMajor)
    return CorruptCtl("another major version; use a probe and a daemon of one release");
  if (header.ready != 1) return CorruptCtl("a header that is not ready");
  if (header.header_bytes < sizeof(CtlHeader) || header.header_bytes > kMaxHeaderBytes)
    return CorruptCtl("a wrong header size");
  if (header.total_bytes > mapped_bytes) return CorruptCtl("fewer bytes than it says");
  std::array<std::pair<uint64_t, uint64_t>, 5> regions{{{0, header.header_bytes},
                                                        {header.state_offset, sizeof(CtlState)},
                                                        {header.demand_offset, kMaxDemandEntries * sizeof(DemandEntry)},
                                                        {header.bitsets_offset, kMaxDemandEntries * kModuleBitsetBytes},
                                                        {header.commands_offset, kCommandSlots * sizeof(Command)}}};
  std::sort(regions.begin(), regions.end());
  uint64_t end = 0;
  for (const auto& [offset, bytes] : regions) {
    if (offset % kCacheLine != 0 || offset < end) return CorruptCtl("regions that overlap or are misaligned");
    if (bytes > header.total_bytes || offset > header.total_bytes - bytes) return CorruptCtl("a region outside itself");
    end = offset + bytes;
  }
  return {};
}

// Acquire on each word: later loads, of the generation above all, stay behind them.
void LoadWords(void* to, const void* from_untrusted, size_t bytes) {
  const auto* words = static_cast<const uint64_t*>(from_untrusted);
  for (size_t i = 0; i < bytes / sizeof(uint64_t); ++i) {
    const uint64_t word = LoadAcquire(words[i]);  // pairs with StoreWords in CtlWriter
    std::memcpy(static_cast<unsigned char*>(to) + i * sizeof(word), &word, sizeof(word));
  }
}

uint64_t KnownKinds() {
  uint64_t known = 0;
  for (uint8_t code = 0; code < 64; ++code) {
    if (IsKnownKind(code)) known |= uint64_t{1} << code;
  }
  return known;
}

bool IsValidRoot(uint16_t root) { return root == kAnyRoot || (root >= 1 && root <= kMaxRoots); }

}  // namespace

Result<std::unique_ptr<CtlView>> CtlView::Open(UniqueFd fd) {
  auto segment = Segment::MapUntrusted(std::move(fd), sizeof(CtlHeader) + sizeof(CtlState), kMaxCtlBytes);
  if (!segment) return segment.error();
  std::unique_ptr<CtlView> view(new CtlView);
  view->segment_ = std::move(segment).value();
  view->segment_.DontFork();
  view->segment_.CloseFd();
  const auto* shared = reinterpret_cast<const CtlHeader*>(view->segment_.data());
  const uint32_t ready = LoadAcquire(shared->ready);  // pairs with CtlWriter::Create
  std::memcpy(&view->header_, shared, sizeof(CtlHeader));
  std::atomic_signal_fence(std::memory_order_seq_cst);  // the copy is what is checked and used
  view->header_.ready = ready;
  if (auto checked = CheckHeader(view->header_, view->segment_.bytes()); !checked) return checked.error();
  return view;
}

const CtlState& CtlView::state() const {
  return *reinterpret_cast<const CtlState*>(segment_.data() + header_.state_offset);
}

uint64_t CtlView::session_id() const { return header_.session_id; }

Heads CtlView::heads() const {
  if (!in_owner()) return {};
  Heads heads{LoadAcquire(state().ring_head), LoadAcquire(state().arena_head), {}};  // pair with CtlWriter::SetHeads
  if ((header_.feature_bits & kFeatureLateBytes) != 0) heads.late_head = LoadAcquire(state().late_head);
  return heads;
}

PoolHeads CtlView::pool_heads(uint32_t pool_id) const {
  if (!in_owner() || pool_id < 1 || pool_id > kMaxRoots) return {};
  // Pair with CtlWriter::SetPoolHeads.
  return {LoadAcquire(state().pool_head[pool_id - 1]), LoadAcquire(state().event_head[pool_id - 1])};
}

uint64_t CtlView::demand_generation() const { return in_owner() ? LoadAcquire(state().demand_generation) : 0; }

// Written under the demand's generation: whoever needs the two to fit reads it between two equal generations.
uint64_t CtlView::registry_seen() const { return in_owner() ? LoadAcquire(state().registry_seen) : 0; }

// Information only: relaxed, nothing else is ordered by these.
uint32_t CtlView::budget_ppm() const { return in_owner() ? LoadRelaxed(state().budget_ppm) : 0; }
uint64_t CtlView::heartbeat_ns() const { return in_owner() ? LoadRelaxed(state().heartbeat_ns) : 0; }

std::optional<std::vector<DemandItem>> CtlView::CopyDemand(size_t module_count) const try {
  if (!in_owner()) return std::nullopt;
  const uint64_t generation = LoadAcquire(state().demand_generation);  // pairs with CtlWriter::SetDemand
  if (generation % 2 != 0) return std::nullopt;
  const uint32_t count = LoadAcquire(state().demand_count);
  if (count > kMaxDemandEntries) return std::nullopt;
  std::vector<DemandItem> items;
  items.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    auto item = CopyItem(i, module_count);
    if (!item) return std::nullopt;
    items.push_back(std::move(*item));
  }
  if (LoadRelaxed(state().demand_generation) != generation) return std::nullopt;  // ordered by the acquires before it
  return items;
} catch (const std::bad_alloc&) {
  return std::nullopt;
}

std::optional<DemandItem> CtlView::CopyItem(size_t index, size_t module_count) const {
  DemandEntry entry;
  LoadWords(&entry, segment_.data() + header_.demand_offset + index * sizeof(DemandEntry), sizeof(entry));
  const bool level_ok =
      entry.level == static_cast<uint8_t>(Level::kSummary) || entry.level == static_cast<uint8_t>(Level::kTensor);
  if (entry.period == 0 || !IsValidRoot(entry.root) || entry.tag >= kMaxTags || !level_ok || entry.all_modules > 1) {
    return std::nullopt;
  }
  static const uint64_t known_kinds = KnownKinds();
  DemandItem item;
  item.kinds = entry.kinds & known_kinds;
  item.period = entry.period;
  item.root = entry.root;
  item.tag = entry.tag;
  item.level = static_cast<Level>(entry.level);
  item.all_modules = entry.all_modules == 1;
  item.moments = kAllMoments & ~entry.moments_left_out;
  if (!item.all_modules) {
    item.modules.resize(std::min(module_count, kMaxModules - 1) / 64 + 1);  // ids 1 to module_count
    LoadWords(item.modules.data(), segment_.data() + header_.bitsets_offset + index * kModuleBitsetBytes,
              item.modules.size() * sizeof(uint64_t));
  }
  return item;
}

std::optional<Command> CtlView::NextCommand(uint64_t done) const {
  if (!in_owner()) return std::nullopt;
  const unsigned char* slot = segment_.data() + header_.commands_offset + done % kCommandSlots * sizeof(Command);
  const auto* shared = reinterpret_cast<const Command*>(slot);
  if (LoadAcquire(shared->seq) != done + 1) return std::nullopt;  // pairs with CtlWriter::Push
  Command command;
  LoadWords(&command, slot, sizeof(command));
  command.seq = done + 1;
  const bool type_ok = command.type != 0;  // one of a later minor version is taken, too, or it would hold up the rest
  const bool root_ok = command.root <= kMaxRoots || command.root == kAnyRoot;
  if (!type_ok || !root_ok || command.module >= kMaxModules || command.param > kMaxParams) return std::nullopt;
  return command;
}

}  // namespace ikkuna::shm
