// What a hostile daemon can do to a trainer: its CTL segment is edited at will between and before the looks that the
// probe takes at it. PUB stays the probe's own, and so does what it does there: places, counts, order.
#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "probe/core/demand.h"
#include "shared/ctl.h"
#include "shared/pub.h"
#include "tests/fuzz/fuzz_input.h"

namespace ikkuna::fuzz {
namespace {

constexpr uint32_t kSlots = 8;
constexpr uint64_t kArenaBytes = 4096;
constexpr size_t kBitsetsUsed = 4;  // of demand entries: what is put back before each input
constexpr size_t kModules = 200;

// A CTL segment that begins as an honest daemon left it: two demands, one of them for some modules, two commands.
class EvilDaemon {
 public:
  EvilDaemon() {
    auto made = shm::CtlWriter::Create(7, {0, 0}, 10'000);
    FUZZ_CHECK(made.ok());
    shm::DemandItem all{KindBit(Kind::kLoss) | KindBit(Kind::kBatchStarted),
                        1,
                        kAnyRoot,
                        kTagDefault,
                        Level::kTensor,
                        true,
                        kAllMoments,
                        {}};
    shm::DemandItem some{KindBit(Kind::kWeights), 10, 1, kTagDefault, Level::kSummary, false, kAllMoments, {6}};
    FUZZ_CHECK((*made)->SetDemand({all, some}, 3).ok());
    for (uint32_t type : {1u, 3u}) {
      shm::Command command{};
      command.type = type;
      FUZZ_CHECK((*made)->Push(command, 0).ok());
    }
    const off_t bytes = ::lseek((*made)->fd(), 0, SEEK_END);
    FUZZ_CHECK(bytes > 0);
    image_.resize(static_cast<size_t>(bytes));
    FUZZ_CHECK(::pread((*made)->fd(), image_.data(), image_.size(), 0) == bytes);
    std::memcpy(&header_, image_.data(), sizeof header_);
    // One of our own with the same bytes: the daemon's cannot be mapped for writing a second time.
    auto own = shm::Segment::Create("evil-ctl", image_.size());
    FUZZ_CHECK(own.ok());
    segment_ = std::move(own).value();
    std::memcpy(segment_.data(), image_.data(), image_.size());
  }

  void Reset() {
    last_command_ = 2;
    for (const auto& [offset, bytes] : Regions()) std::memcpy(segment_.data() + offset, image_.data() + offset, bytes);
  }
  UniqueFd fd() const { return UniqueFd(::fcntl(segment_.fd(), F_DUPFD_CLOEXEC, 0)); }
  shm::CtlState& state() { return *reinterpret_cast<shm::CtlState*>(segment_.data() + header_.state_offset); }

  void PokeBytes(FuzzInput& input) {
    const auto regions = Regions();
    const auto [offset, bytes] = regions[input.Choice(regions.size())];
    const uint64_t at = input.U16() % bytes;
    input.Fill(segment_.data() + offset + at, std::min<uint64_t>(input.U8() % 64 + 1, bytes - at));
  }
  void PokeWord(FuzzInput& input) {
    auto& header = *reinterpret_cast<shm::CtlHeader*>(segment_.data());
    shm::CtlState& now = state();
    const std::array<uint64_t*, 11> words{&now.ring_head,         &now.arena_head,        &now.demand_generation,
                                          &now.registry_seen,     &now.pool_head[0],      &now.event_head[15],
                                          &header.total_bytes,    &header.state_offset,   &header.demand_offset,
                                          &header.bitsets_offset, &header.commands_offset};
    uint64_t* word = words[input.Choice(words.size())];
    *word = input.Near(*word);
  }
  // As an honest daemon that frees all there is.
  void Free(shm::PubWriter& writer) {
    state().ring_head = writer.status().reserved;
    state().arena_head = writer.status().arena_tail;
  }
  void WriteDemand(FuzzInput& input) {
    const size_t index = input.Choice(kBitsetsUsed);
    shm::DemandEntry entry{};
    entry.kinds = input.U64();
    entry.period = static_cast<uint32_t>(input.Near(1));
    entry.root = static_cast<uint16_t>(input.Near(1));
    entry.tag = static_cast<uint16_t>(input.Choice(4));
    entry.level = static_cast<uint8_t>(input.Choice(4));
    entry.all_modules = static_cast<uint8_t>(input.Choice(3));
    std::memcpy(segment_.data() + header_.demand_offset + index * sizeof entry, &entry, sizeof entry);
    state().demand_count = static_cast<uint32_t>(input.Near(index + 1));
    state().demand_generation += 2;
  }
  void WriteCommand(FuzzInput& input) {
    shm::Command command{};
    command.seq = input.Near(last_command_ + 1);
    command.type = static_cast<uint32_t>(input.Choice(8));
    command.module = static_cast<uint32_t>(input.Near(0));
    command.param = static_cast<uint32_t>(input.Near(0));
    command.root = static_cast<uint16_t>(input.Near(0));
    command.argument = input.U64();
    last_command_ = command.seq;
    std::memcpy(segment_.data() + header_.commands_offset + (command.seq - 1) % shm::kCommandSlots * sizeof command,
                &command, sizeof command);
  }

 private:
  std::array<std::pair<uint64_t, uint64_t>, 5> Regions() const {
    return {{{0, sizeof(shm::CtlHeader)},
             {header_.state_offset, sizeof(shm::CtlState)},
             {header_.demand_offset, kMaxDemandEntries * sizeof(shm::DemandEntry)},
             {header_.bitsets_offset, kBitsetsUsed * shm::kModuleBitsetBytes},
             {header_.commands_offset, shm::kCommandSlots * sizeof(shm::Command)}}};
  }

  shm::CtlHeader header_{};
  std::vector<unsigned char> image_;
  shm::Segment segment_;
  uint64_t last_command_ = 2;
};

class Trainer {
 public:
  Trainer() {
    auto made = shm::PubWriter::Create({.ring_slots = kSlots, .arena_bytes = kArenaBytes, .registry_bytes = 4096});
    FUZZ_CHECK(made.ok());
    writer_ = std::move(made).value();
    FUZZ_CHECK(writer_->BackArena(kArenaBytes) == kArenaBytes);
  }
  shm::PubWriter& writer() { return *writer_; }

  // As Session::ReadAnswer.
  void Connect(UniqueFd fd) {
    Disconnect();
    auto view = shm::CtlView::Open(std::move(fd));
    if (!view || !writer_->AcceptHeads((*view)->heads())) return;
    ctl_ = std::shared_ptr<const shm::CtlView>(std::move(view).value());
    writer_->SetHeadSource(ctl_);
  }
  void Disconnect() {
    writer_->SetHeadSource(nullptr);
    ctl_.reset();
  }

  void Publish(uint64_t bytes) {
    const shm::Heads before = writer_->heads();
    auto reservation = writer_->Reserve(Space::kHostArena, bytes);
    if (reservation) {
      const unsigned char* base = writer_->segment().data();
      const uint64_t arena = writer_->header().arena_offset;
      if (bytes > 0) {
        const auto at = static_cast<uint64_t>(reservation.payload() - base);
        FUZZ_CHECK(at >= arena && at + bytes <= arena + kArenaBytes && at % shm::kPayloadAlign == 0);
        std::memset(reservation.payload(), 0x5a, bytes);
      }
      FUZZ_CHECK(reservation.record().seq <= reservation.position());
      reservation.Commit();
    }
    const shm::Heads after = writer_->heads();
    const shm::PubStatus& status = writer_->status();
    FUZZ_CHECK(before.ring_head <= after.ring_head && after.ring_head <= status.reserved);
    FUZZ_CHECK(before.arena_head <= after.arena_head && after.arena_head <= status.arena_tail);
    FUZZ_CHECK(status.reserved - after.ring_head <= kSlots);
    uint64_t dropped = 0;
    for (const uint64_t reason : status.dropped) dropped += reason;
    FUZZ_CHECK(status.attempted == dropped + status.reserved);
  }

  void LookAtDemand(uint64_t step) {
    if (!ctl_) return;
    auto items = ctl_->CopyDemand(kModules);
    if (!items) return;
    FUZZ_CHECK(items->size() <= kMaxDemandEntries);
    for (const shm::DemandItem& item : *items) {
      FUZZ_CHECK(item.period >= 1 && item.tag < kMaxTags && (item.root <= kMaxRoots || item.root == kAnyRoot));
      FUZZ_CHECK(item.all_modules || item.modules.size() == kModules / 64 + 1);
    }
    const auto table = std::make_shared<const probe::DemandTable>(std::move(*items));
    static_cast<void>(table->NeedsArena());
    static_cast<void>(table->WatchesEvaluation(1));
    for (const uint32_t shift : {0u, 40u}) {
      const probe::StepDemand due(table, 1, kTagDefault, step, {shift, shift, shift}, step % 2 == 0);
      for (uint8_t kind = 1; kind < 64; ++kind) {
        if (!IsKnownKind(kind)) continue;
        for (const uint32_t module : {0u, 1u, 199u, 65'535u})
          static_cast<void>(due.Wanted(static_cast<Kind>(kind), module));
      }
    }
  }

  // As Session::TakeCommands.
  void LookAtCommands() {
    if (!ctl_) return;
    for (size_t i = 0; i < shm::kCommandSlots; ++i) {
      const auto command = ctl_->NextCommand(done_);
      if (!command) break;
      FUZZ_CHECK(command->module < kMaxModules && command->param <= kMaxParams && command->type != 0);
      ++done_;
    }
    for (uint32_t pool = 0; pool <= kMaxRoots + 1; ++pool) static_cast<void>(ctl_->pool_heads(pool));
    static_cast<void>(ctl_->budget_ppm() + ctl_->heartbeat_ns() + ctl_->registry_seen());
  }

 private:
  std::unique_ptr<shm::PubWriter> writer_;
  std::shared_ptr<const shm::CtlView> ctl_;
  uint64_t done_ = 0;
};

}  // namespace
}  // namespace ikkuna::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace ikkuna::fuzz;
  static EvilDaemon daemon;
  daemon.Reset();
  Trainer trainer;
  FuzzInput input(data, size);
  bool met = false;
  while (!input.empty()) {
    const size_t step = input.Choice(12);
    // Until the first look at it the edits are made before WELCOME.
    if (step >= 6 && !std::exchange(met, true)) trainer.Connect(daemon.fd());
    switch (step) {
      case 0:
      case 1:
        daemon.PokeBytes(input);
        break;
      case 2:
        daemon.PokeWord(input);
        break;
      case 3:
        daemon.WriteDemand(input);
        break;
      case 4:
        daemon.WriteCommand(input);
        break;
      case 5:
        daemon.Free(trainer.writer());
        break;
      case 6:
      case 7:
        trainer.Publish(0);
        break;
      case 8:
        trainer.Publish(input.U16() % (kArenaBytes + 64));
        break;
      case 9:
        trainer.LookAtDemand(input.U8());
        break;
      case 10:
        trainer.LookAtCommands();
        break;
      default:
        trainer.Disconnect();
        met = false;
        break;
    }
  }
  return 0;
}
