// The publishing half of Session: records, scalars, texts, markers, the step boundary and the back channel.
#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "probe/core/session.h"

namespace ikkuna::probe {

namespace {

void FillShape(shm::Record& record, const TensorShape& shape) {
  record.dtype = static_cast<uint8_t>(shape.dtype);
  record.layout = static_cast<uint8_t>(Layout::kRowMajor);
  record.ndim = static_cast<uint8_t>(std::min<int>(shape.ndim, kMaxDims));
  for (int i = 0; i < shape.ndim; ++i) {
    if (static_cast<size_t>(i) < kMaxDims) {
      record.sizes[i] = shape.sizes[i];
    } else {
      record.sizes[kMaxDims - 1] *= shape.sizes[i];
      record.flags |= kFlagFlattened;
    }
  }
}

}  // namespace

void Session::FillRecord(shm::Record& record, const MessageHeader& header, RecordType type, Space space,
                         const TensorShape* shape) {
  record.time_ns = MonotonicNs();
  record.global_step = header.step;
  record.module = header.module;
  record.param = header.param;
  record.epoch = header.epoch;
  record.train_step = header.train_step;
  record.pass = header.pass;
  record.call = header.call;
  record.root = static_cast<uint8_t>(header.root);
  record.tag = static_cast<uint8_t>(header.tag);
  record.type = static_cast<uint8_t>(type);
  record.kind = static_cast<uint8_t>(header.kind);
  record.dtype = 0;
  record.ndim = 0;
  record.space = static_cast<uint8_t>(space);
  record.layout = 0;
  record.flags = header.flags;
  std::memset(record.sizes, 0, sizeof record.sizes);
  if (shape != nullptr) FillShape(record, *shape);
}

// Relaxed: whoever publishes the step's end has waited for the threads that publish for it, or their drops are of no
// step that anybody sees.
bool Session::NoteDrop(const MessageHeader& header) noexcept {
  if (header.dropped_kinds != nullptr) header.dropped_kinds->fetch_or(KindBit(header.kind), std::memory_order_relaxed);
  return false;
}

// A record that names nothing would end the session: the daemon takes it for a lie.
bool Session::IsNamed(const MessageHeader& header) {
  if (header.root == 0 || header.tag >= kMaxTags) return false;
  if (IsDataKind(header.kind)) return header.module != 0;
  const bool logged = header.kind == Kind::kScalar || header.kind == Kind::kText || header.kind == Kind::kLearningRate;
  return !logged || header.param != 0;
}

bool Session::DropUnnamed(const MessageHeader& header) noexcept {
  pub_->CountDrop(DropReason::kUnnamed);
  return NoteDrop(header);
}

void Session::CountFailed(const MessageHeader& header) noexcept {
  pub_->CountDrop(DropReason::kFailed);
  NoteDrop(header);
}

void Session::NoteOversize(Kind kind, uint64_t bytes) {
  if (!takes(shm::kFeatureArena)) return;  // said when the session began
  if ((oversize_kinds_.fetch_or(KindBit(kind), std::memory_order_relaxed) & KindBit(kind)) != 0) return;
  AddNote("whole tensors of " + std::string(KindName(kind)) + " (" + std::to_string(bytes >> 20) +
          " MiB) do not fit into the arena of " + std::to_string(pub_->arena_extent() >> 20) +
          " MiB: their statistics are taken instead; raise IKKUNA_ARENA_MB for the rest");
}

bool Session::PublishSummary(const MessageHeader& header, const TensorShape& shape, const TensorStats& stats) {
  if (!IsNamed(header)) return DropUnnamed(header);
  auto reservation = pub_->Reserve(Space::kInline, 0);
  if (!reservation) return NoteDrop(header);
  FillRecord(reservation.record(), header, RecordType::kSummary, Space::kInline, &shape);
  reservation.record().stats = stats;
  reservation.Commit();
  return true;
}

bool Session::PublishScalar(const MessageHeader& header, double value) {
  if (!IsNamed(header)) return DropUnnamed(header);
  auto reservation = pub_->Reserve(Space::kInline, 0);
  if (!reservation) return NoteDrop(header);
  FillRecord(reservation.record(), header, RecordType::kScalar, Space::kInline, nullptr);
  std::memset(reservation.record().raw, 0, shm::kUnionBytes);
  reservation.record().scalar = value;
  reservation.Commit();
  return true;
}

bool Session::PublishText(const MessageHeader& header, std::string_view text) {
  if (!IsNamed(header)) return DropUnnamed(header);
  auto reservation = pub_->Reserve(Space::kInline, 0);
  if (!reservation) return NoteDrop(header);
  FillRecord(reservation.record(), header, RecordType::kText, Space::kInline, nullptr);
  size_t length = std::min(text.size(), shm::kMaxTextBytes);
  // Cut before a UTF-8 character, never within one.
  if (length < text.size()) {
    while (length > 0 && (static_cast<unsigned char>(text[length]) & 0xc0) == 0x80) --length;
    reservation.record().flags |= kFlagTruncated;
  }
  std::memset(reservation.record().raw, 0, shm::kUnionBytes);
  reservation.record().text.length = static_cast<uint32_t>(length);
  std::memcpy(reservation.record().text.bytes, text.data(), length);
  reservation.Commit();
  return true;
}

bool Session::PublishMarker(const MessageHeader& header, uint64_t samples, const StepPasses& passes) {
  shm::MarkerInfo marker{};
  marker.passes = passes.named_before;
  bool published = true;
  for (const uint32_t pass : passes.named) {
    if (pass == 0) continue;
    if (!shm::NamePass(marker, pass)) {
      // Those behind it are not named yet: it says nothing of which are open.
      MessageHeader part = header;
      part.kind = Kind::kPassesNamed;
      published &= PublishMarkerRecord(part, marker);
      const uint32_t named = marker.passes;
      marker = {};
      marker.passes = named;
      shm::NamePass(marker, pass);
    }
    ++marker.passes;
  }
  marker.samples = std::min(samples, kMaxStep);  // more would break the format
  marker.lowest_open = passes.lowest_open;
  // Last of all: what was dropped on the way here counts.
  if (header.kind == Kind::kBatchFinished && header.dropped_kinds != nullptr) {
    marker.dropped_kinds = header.dropped_kinds->load(std::memory_order_relaxed);
    marker.flags = shm::kMarkerKindsKnown;  // NoteDrop is told of each
  }
  return PublishMarkerRecord(header, marker) && published;
}

bool Session::PublishMarkerRecord(const MessageHeader& header, const shm::MarkerInfo& marker) {
  if (!IsNamed(header)) return DropUnnamed(header);
  auto reservation = pub_->Reserve(Space::kInline, 0);
  if (!reservation) return NoteDrop(header);
  FillRecord(reservation.record(), header, RecordType::kMarker, Space::kInline, nullptr);
  reservation.record().marker = marker;
  reservation.Commit();
  return true;
}

PeriodShifts Session::StepFinished(uint64_t step_ns, const StepCost& cost, uint64_t due_kinds, bool rare) {
  pace_.StepFinished();
  // A process that was held up inside one of our calls was not held up by us: the time of a step is bounded, too.
  const uint64_t total_ns = std::min(cost.total_ns, step_ns);
  const uint64_t tensor_ns = rare ? 0 : std::min(total_ns, cost.tensor_ns);
  const uint64_t scalar_ns = rare ? 0 : std::min(total_ns - tensor_ns, cost.scalar_ns);
  const uint64_t awake_ns = total_ns - tensor_ns - scalar_ns;
  // Of a step of which nothing is due it is on nobody's account, and so is what comes too rarely to be thinned.
  const bool scalars = StepDemand::AnyScalars(due_kinds), others = !StepDemand::OnlyScalars(due_kinds);
  using Awake = Budget::Awake;
  const Awake awake = rare || due_kinds == 0 ? Awake::kNobody
                      : !others              ? Awake::kScalars
                      : scalars              ? Awake::kBoth
                                             : Awake::kStatistics;
  shm::PubStatus& status = pub_->status();
  shm::AddRelaxed(status.probe_ns, total_ns);
  shm::AddRelaxed(status.fixed_ns, awake == Awake::kNobody ? awake_ns : 0);
  shm::AddRelaxed(status.step_ns, step_ns);
  shm::AddRelaxed(status.steps_timed, 1);
  const PeriodShifts shifts = budget_.StepFinished(step_ns, {tensor_ns, 0, scalar_ns}, awake_ns, awake);
  shm::StoreRelaxed(status.shift_tensor, shifts.tensor);
  shm::StoreRelaxed(status.shift_summary, shifts.summary);
  shm::StoreRelaxed(status.shift_scalar, shifts.scalar);
  return shifts;
}

void Session::SetFinished() {
  if (!active()) return;
  shm::StoreRelease(pub_->status().state, static_cast<uint32_t>(shm::ProducerState::kFinished));
}

// What nobody would act on is taken all the same, or it would hold up those behind it, and said.
bool Session::MayDo(const shm::Command& command) {
  switch (static_cast<shm::CommandType>(command.type)) {
    case shm::CommandType::kPrepare:
      return false;  // nothing but to be taken
    case shm::CommandType::kStop:
      if (options_.control != shm::Control::kNone) return true;
      break;
    case shm::CommandType::kFreeze:
    case shm::CommandType::kUnfreeze:
      if (options_.control == shm::Control::kAll) return true;
      break;
    case shm::CommandType::kEvaluate:
    case shm::CommandType::kCapture:
      if (options_.takes_all_commands) return true;
      break;
    default:
      AddNote("the daemon sent a command (" + std::to_string(command.type) + ") that this probe does not know");
      return false;
  }
  AddNote("the daemon sent a command (" + std::to_string(command.type) + ") that this trainer does not take");
  return false;
}

// The caller holds session_mutex_.
bool Session::TakeCommands(const shm::CtlView& ctl, bool prepares) {
  if (!takes(shm::kFeatureCommands)) return false;
  uint64_t done = shm::LoadRelaxed(pub_->status().command_done);
  for (size_t i = 0; i < shm::kCommandSlots; ++i) {
    const auto command = ctl.NextCommand(done);
    if (!command) return false;
    const bool prepare = command->type == static_cast<uint32_t>(shm::CommandType::kPrepare);
    if (prepare && options_.prepared && !prepares) return true;
    if (MayDo(*command)) {
      std::lock_guard hold(commands_mutex_);
      if (commands_.size() >= kMaxCommands) return false;
      commands_.push_back(*command);
      commands_next_.store(std::min(commands_next_.load(std::memory_order_relaxed), command->argument),
                           std::memory_order_release);
    }
    shm::StoreRelease(pub_->status().command_done, ++done);
    prepares = false;  // it was of one
  }
  return false;
}

// The caller holds commands_mutex_.
void Session::SetCommandsNext() {
  uint64_t next = UINT64_MAX;
  for (const shm::Command& command : commands_) next = std::min(next, command.argument);
  commands_next_.store(next, std::memory_order_release);
}

// A rank that stands in a long step acknowledges all the same.
void Session::TakeCommandsOnService() {
  const auto take = [this](bool prepares) {
    std::lock_guard lock(session_mutex_);
    return ctl_ && TakeCommands(*ctl_, prepares);
  };
  while (take(false) && options_.prepared()) {
    if (!take(true)) return;
  }
}

void Session::HandleCommands(uint16_t root, std::optional<uint64_t> step,
                             const std::function<void(const shm::Command&)>& handle) {
  if (const shm::CtlView* ctl = live_ctl_.load(std::memory_order_acquire)) {
    std::unique_lock lock(session_mutex_, std::try_to_lock);
    if (lock && ctl == ctl_.get()) TakeCommands(*ctl, false);
  }
  const uint64_t next = commands_next_.load(std::memory_order_acquire);
  if (next == UINT64_MAX || (next != 0 && (!step || *step < next - 1))) return;
  // This may wait for another thread to put a command in or take one out. A command that is due here must not be missed
  // for that: the other ranks act on it now.
  std::vector<shm::Command> due;
  {
    std::lock_guard hold(commands_mutex_);
    for (auto command = commands_.begin(); command != commands_.end();) {
      const uint64_t at = command->argument;  // its step plus 1; 0: as soon as can be
      const bool stepped = at != 0;
      if (stepped && (!step || (command->root != root && command->root != kAnyRoot) || *step < at - 1)) {
        ++command;
        continue;
      }
      if (stepped && *step > at - 1) {
        shm::StoreRelease(pub_->status().command_late, command->seq);
      } else {
        due.push_back(*command);
      }
      command = commands_.erase(command);
    }
    SetCommandsNext();
  }
  for (const shm::Command& command : due) handle(command);
}

}  // namespace ikkuna::probe
