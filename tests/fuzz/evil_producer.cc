#include "tests/fuzz/evil_producer.h"

#include <fcntl.h>

#include <array>

#include "shared/passes.h"
#include "shared/registry.h"
#include "shared/stats/stats_pass.h"

namespace ikkuna::fuzz {

namespace {

constexpr uint32_t kSlots = 32;
constexpr uint64_t kArenaBytes = 8192;
constexpr uint64_t kLateBytes = 4096;
constexpr uint64_t kRegistryBytes = 8192;
constexpr size_t kPokeBytesMax = 64;

shm::RegistryEntry Entry(shm::EntryType type, uint32_t id, const std::string& name) {
  shm::RegistryEntry entry;
  entry.type = type;
  entry.id = id;
  entry.name = name;
  if (type == shm::EntryType::kRoot || type == shm::EntryType::kModule || type == shm::EntryType::kParam) {
    entry.root = 1;
  }
  return entry;
}

// Two layers, so that a message has somewhere else to claim to be from.
void Register(shm::PubWriter& writer) {
  FUZZ_CHECK(writer.Append(Entry(shm::EntryType::kRoot, 1, "model")));
  for (uint32_t id = 1; id <= 2; ++id) {
    auto module = Entry(shm::EntryType::kModule, id, id == 1 ? "features.0" : "fc");
    module.second = "Linear";
    FUZZ_CHECK(writer.Append(module));
    auto param = Entry(shm::EntryType::kParam, id, "weight");
    param.parent = id;
    param.value = 4;
    param.dtype = DType::kF32;
    param.sizes = {2, 2};
    param.flags = shm::kEntryTrainable;
    FUZZ_CHECK(writer.Append(param));
  }
  FUZZ_CHECK(writer.Append(Entry(shm::EntryType::kName, 1, "lr")));
  auto fact = Entry(shm::EntryType::kFact, 1, "command");
  fact.second = "train --lr 0.1";
  FUZZ_CHECK(writer.Append(fact));
}

void FillMarker(shm::Record& record, Kind kind, uint64_t step) {
  const uint64_t seq = record.seq, dropped = record.dropped_total;
  const shm::PayloadRef placed = record.payload;
  record = shm::Record{};
  record.seq = seq;
  record.dropped_total = dropped;
  record.payload = placed;
  record.time_ns = 1000 + step;
  record.global_step = step;
  record.train_step = static_cast<uint32_t>(step);
  record.root = 1;
  record.type = static_cast<uint8_t>(RecordType::kMarker);
  record.kind = static_cast<uint8_t>(kind);
  record.space = static_cast<uint8_t>(Space::kInline);
}

void FillTensor(shm::Record& record, Kind kind, RecordType type) {
  record.type = static_cast<uint8_t>(type);
  record.kind = static_cast<uint8_t>(kind);
  record.module = record.param = 1;
  record.dtype = static_cast<uint8_t>(DType::kF32);
  record.layout = static_cast<uint8_t>(Layout::kRowMajor);
  record.ndim = 2;
  record.sizes[0] = record.sizes[1] = 2;
}

// Gradients that a device sums up: of step 0 they are there.
void PublishLate(shm::PubWriter& writer, uint64_t step) {
  const float gradients[4] = {1, 0, 2, 0};
  auto reservation = writer.Reserve(Space::kHostLate, sizeof(TensorStats));
  FUZZ_CHECK(reservation);
  shm::Record& record = reservation.record();
  FillMarker(record, Kind::kBatchStarted, step);
  FillTensor(record, Kind::kWeightGradients, RecordType::kSummary);
  record.space = static_cast<uint8_t>(Space::kHostLate);
  const shm::LateSpan span = reservation.TakeLate();
  if (step == 0) {
    const TensorStats stats = ComputeStats(gradients, DType::kF32, 4);
    std::memcpy(span.data(), &stats, sizeof stats);
    span.SetReady();
  }
  reservation.Commit();
}

void PublishStep(shm::PubWriter& writer, uint64_t step) {
  const float weights[4] = {1, -2, 0, 3};
  const uint32_t pass = static_cast<uint32_t>(step) + 1;
  for (int message = 0; message < 6; ++message) {
    auto reservation = writer.Reserve(Space::kHostArena, message == 3 ? sizeof weights : 0);
    FUZZ_CHECK(reservation);
    shm::Record& record = reservation.record();
    FillMarker(record, message == 0 ? Kind::kBatchStarted : Kind::kBatchFinished, step);
    if (message == 1) {
      record.kind = static_cast<uint8_t>(Kind::kPassStarted);
      record.pass = pass;
    } else if (message == 2) {
      FillTensor(record, Kind::kWeights, RecordType::kSummary);
      record.stats = ComputeStats(weights, DType::kF32, 4);
    } else if (message == 3) {
      FillTensor(record, Kind::kActivations, RecordType::kTensor);
      record.pass = pass;
      record.param = 0;
      record.space = static_cast<uint8_t>(Space::kHostArena);
      std::memcpy(reservation.payload(), weights, sizeof weights);
    } else if (message == 4) {
      record.type = static_cast<uint8_t>(RecordType::kScalar);
      record.kind = static_cast<uint8_t>(Kind::kLoss);
      record.pass = pass;
      record.scalar = 0.5;
    } else if (message == 5) {
      FUZZ_CHECK(shm::NamePass(record.marker, pass));
      record.marker.passes = 1;
      record.marker.lowest_open = pass + 1;
    }
    reservation.Commit();
    if (message == 4) PublishLate(writer, step);
  }
}

}  // namespace

EvilProducer::EvilProducer() {
  auto made = shm::PubWriter::Create(
      {.ring_slots = kSlots, .arena_bytes = kArenaBytes, .registry_bytes = kRegistryBytes, .late_bytes = kLateBytes});
  FUZZ_CHECK(made.ok());
  writer_ = std::move(made).value();
  FUZZ_CHECK(writer_->BackArena(kArenaBytes) == kArenaBytes);
  Register(*writer_);
  for (uint64_t step = 0; step < 2; ++step) PublishStep(*writer_, step);
  FUZZ_CHECK(writer_->header().late_bytes == kLateBytes);
  header_ = writer_->header();
  FUZZ_CHECK(writer_->segment().Back(0, header_.total_bytes) == header_.total_bytes);
  image_.assign(data(), data() + header_.total_bytes);
}

void EvilProducer::Reset() { std::memcpy(data(), image_.data(), image_.size()); }

UniqueFd EvilProducer::fd() const { return UniqueFd(::fcntl(writer_->fd(), F_DUPFD_CLOEXEC, 0)); }

shm::PubStatus& EvilProducer::status() { return *reinterpret_cast<shm::PubStatus*>(data() + header_.status_offset); }

void EvilProducer::PokeBytes(FuzzInput& input) {
  const std::array<std::pair<uint64_t, uint64_t>, 7> regions{
      {{0, sizeof(shm::PubHeader)},
       {header_.status_offset, sizeof(shm::PubStatus)},
       {header_.registry_offset, header_.registry_bytes},
       {header_.ring_offset, uint64_t{kSlots} * shm::kRecordBytes},
       {header_.arena_offset, header_.arena_bytes},
       {header_.late_offset, header_.late_bytes},
       {0, header_.total_bytes}}};
  const auto [offset, bytes] = regions[input.Choice(regions.size())];
  const uint64_t at = input.U16() % bytes;
  const size_t length = std::min<uint64_t>(input.U8() % kPokeBytesMax + 1, bytes - at);
  input.Fill(data() + offset + at, length);
}

// Words that lengths, positions and counts hang on, with a value near the true one.
void EvilProducer::PokeWord(FuzzInput& input) {
  auto& header = *reinterpret_cast<shm::PubHeader*>(data());
  shm::PubStatus& now = status();
  const std::array<uint64_t*, 19> words{
      &now.reserved,           &now.arena_tail,          &now.registry_count,   &now.registry_used_bytes,
      &now.attempted,          &now.dropped[0],          &now.clock_generation, &now.command_done,
      &now.roots[0].step,      &now.roots[0].start_step, &header.total_bytes,   &header.status_offset,
      &header.registry_offset, &header.registry_bytes,   &header.ring_offset,   &header.arena_bytes,
      &now.late_tail,          &header.late_offset,      &header.late_bytes};
  uint64_t* word = words[input.Choice(words.size())];
  *word = input.Near(*word);
}

void EvilProducer::AppendEntry(FuzzInput& input) {
  shm::RegistryEntry entry;
  entry.type = static_cast<shm::EntryType>(1 + input.Choice(11));
  entry.root = static_cast<uint16_t>(input.Choice(3));
  entry.id = static_cast<uint32_t>(input.Near(1) & 0xffff);
  entry.parent = static_cast<uint32_t>(input.Choice(4));
  entry.value = input.Near(4096);
  entry.flags = input.U8();
  const auto name = input.Bytes(input.Choice(24));
  entry.name.assign(name.begin(), name.end());
  entry.second.assign(name.rbegin(), name.rend());
  entry.sizes.assign(input.Choice(3), 2);
  if (entry.type == shm::EntryType::kShard) {
    entry.second.clear();
    entry.offsets.assign(entry.sizes.size(), static_cast<int64_t>(input.Near(0)));
  }
  std::vector<unsigned char> bytes = shm::EncodeEntry(entry);
  if (bytes.empty()) bytes.resize(sizeof(shm::EntryHeader));  // ids that an encoder refuses: written by hand below
  if (const uint8_t patched = input.U8(); patched % 4 == 3) {
    const size_t at = input.Choice(sizeof(shm::EntryHeader));
    input.Fill(bytes.data() + at, std::min<size_t>(4, bytes.size() - at));
  }
  shm::PubStatus& now = status();
  const uint64_t used = now.registry_used_bytes;
  if (used > header_.registry_bytes || bytes.size() > header_.registry_bytes - used) return;
  std::memcpy(data() + header_.registry_offset + used, bytes.data(), bytes.size());
  now.registry_used_bytes = used + bytes.size();
  ++now.registry_count;
}

void EvilProducer::Shape(FuzzInput& input, shm::Record& record) {
  record.module = static_cast<uint32_t>(input.Choice(4));
  record.param = static_cast<uint32_t>(input.Choice(4));
  record.dtype = static_cast<uint8_t>(input.Choice(12));
  record.layout = static_cast<uint8_t>(Layout::kRowMajor);
  record.ndim = static_cast<uint8_t>(input.Choice(4));
  for (int i = 0; i < record.ndim && i < 8; ++i) record.sizes[i] = static_cast<int64_t>(input.Choice(10));
}

// Where an honest producer would place it, or near that.
void EvilProducer::PlacePayload(FuzzInput& input, shm::Record& record) {
  uint64_t bytes = DTypeBytes(static_cast<DType>(record.dtype));
  for (int i = 0; i < record.ndim && i < 8; ++i) bytes *= static_cast<uint64_t>(record.sizes[i]);
  const uint64_t rounded = (bytes + shm::kPayloadAlign - 1) / shm::kPayloadAlign * shm::kPayloadAlign;
  shm::PubStatus& now = status();
  uint64_t position = now.arena_tail;
  const uint64_t rest = kArenaBytes - position % kArenaBytes;
  const uint8_t lie = input.U8();
  if (lie % 8 == 3 && rest >= 256) {
    position += rest - 64 * (1 + input.Choice(4));  // where only a small one would fit
  } else if (rest < rounded) {
    position += rest;
  }
  now.arena_tail = position + rounded;
  record.space = static_cast<uint8_t>(Space::kHostArena);
  record.payload = {position, bytes, 0, 0};
  if (lie == 1) record.payload.position = input.Near(position);
  if (lie == 2) record.payload.bytes = input.Near(bytes);
  const auto content = input.Bytes(lie >= 128 ? std::min<uint64_t>(bytes, 64) : 0);
  const uint64_t at = position % kArenaBytes;
  if (!content.empty() && at + content.size() <= kArenaBytes) {
    std::memcpy(data() + header_.arena_offset + at, content.data(), content.size());
  }
}

// The same of late bytes.
void EvilProducer::PlaceLate(FuzzInput& input, shm::Record& record, uint64_t bytes) {
  const uint64_t span = shm::LateSpanBytes(bytes);
  shm::PubStatus& now = status();
  const uint64_t rest = kLateBytes - now.late_tail % kLateBytes;
  const uint64_t position = now.late_tail + (rest < span ? rest : 0);
  now.late_tail = position + span;
  record.space = static_cast<uint8_t>(Space::kHostLate);
  record.payload = {position, bytes, 0, 0};
  const uint8_t lie = input.U8();
  if (lie == 1) record.payload.position = input.Near(position);
  if (lie == 2) record.payload.bytes = input.Near(bytes);
  const uint64_t at = position % kLateBytes;
  if (lie >= 8 || at + span > kLateBytes) return;  // else nothing: the word of a lap before
  std::memset(data() + header_.late_offset + at, 0, sizeof(shm::LateSpanHeader));
}

void EvilProducer::FillLate(FuzzInput& input) {
  shm::Record record{};
  std::memcpy(&record, data() + header_.ring_offset + input.Choice(kSlots) * size_t{shm::kRecordBytes}, sizeof record);
  if (record.space != static_cast<uint8_t>(Space::kHostLate)) return;
  const uint64_t at = record.payload.position % kLateBytes;
  if (at > kLateBytes - sizeof(shm::LateSpanHeader)) return;
  unsigned char* span = data() + header_.late_offset + at;
  const uint64_t left = kLateBytes - at - sizeof(shm::LateSpanHeader);
  unsigned char* bytes = span + sizeof(shm::LateSpanHeader);
  const uint8_t what = input.U8();
  if (what % 4 == 1) {
    input.Fill(bytes, std::min<uint64_t>(left, 16));
  } else if (what % 4 == 2) {
    const uint64_t number = input.Near(kLateBytes);  // where the place of the span would be
    if (left >= sizeof number) std::memcpy(bytes, &number, sizeof number);
  } else if (left >= sizeof(TensorStats)) {
    std::array<float, 4> values{};
    input.Fill(values.data(), input.Choice(sizeof values));
    const TensorStats stats = ComputeStats(values.data(), DType::kF32, values.size());
    std::memcpy(bytes, &stats, sizeof stats);
  }
  const uint64_t word = what >= 192 ? input.Near(record.seq) : record.seq;
  if (at % sizeof word == 0) std::memcpy(span, &word, sizeof word);
}

void EvilProducer::PublishRecord(FuzzInput& input) {
  shm::PubStatus& now = status();
  const uint64_t position = now.reserved;
  ++now.attempted;
  now.reserved = position + 1;
  auto& slot =
      *reinterpret_cast<shm::Record*>(data() + header_.ring_offset + position % kSlots * uint64_t{shm::kRecordBytes});
  shm::Record record{};
  FillMarker(record, static_cast<Kind>(input.Choice(30)), input.Choice(6));
  record.pass = static_cast<uint32_t>(input.Choice(5));
  record.root = static_cast<uint8_t>(1 + input.Choice(8) / 7);
  record.tag = static_cast<uint8_t>(input.Choice(8) / 6);
  record.call = static_cast<uint16_t>(input.Choice(3));
  record.type = static_cast<uint8_t>(input.Choice(7));
  switch (static_cast<RecordType>(record.type)) {
    case RecordType::kTensor:
      Shape(input, record);
      PlacePayload(input, record);
      if (input.Choice(4) == 2) PlaceLate(input, record, record.payload.bytes);
      break;
    case RecordType::kVoid:
      record.kind = 0;
      if (input.Choice(2) == 1) PlaceLate(input, record, 1 + input.U8());
      break;
    case RecordType::kSummary: {
      Shape(input, record);
      std::array<float, 64> values{};
      input.Fill(values.data(), input.Choice(32));
      uint64_t elements = 1;
      for (int i = 0; i < record.ndim && i < 8; ++i) elements *= static_cast<uint64_t>(record.sizes[i]);
      record.stats = ComputeStats(values.data(), DType::kF32, std::min<uint64_t>(elements, values.size()));
      if (input.Choice(4) != 0) break;
      std::memset(record.raw, 0, sizeof record.raw);
      PlaceLate(input, record, sizeof(TensorStats));
      break;
    }
    case RecordType::kMarker:
      // Names of passes, most of them as they should be.
      for (uint32_t pass = 1; pass <= 4; ++pass) {
        if (input.Choice(2) != 0) shm::NamePass(record.marker, pass);
      }
      record.marker.passes = shm::CountNamed(record.marker) + static_cast<uint32_t>(input.Choice(8) / 7);
      record.marker.lowest_open = static_cast<uint32_t>(input.Choice(6));
      if (record.kind != static_cast<uint8_t>(Kind::kPassStarted)) record.pass = 0;
      break;
    case RecordType::kText:
      record.param = static_cast<uint32_t>(input.Choice(3));
      record.text.length = static_cast<uint32_t>(input.U8());
      input.Fill(record.text.bytes, 16);
      break;
    default:
      record.param = static_cast<uint32_t>(input.Choice(3));
      record.scalar = static_cast<double>(input.Number<float>());
      if (record.type == static_cast<uint8_t>(RecordType::kScalar) && input.Choice(4) == 2) {
        PlaceLate(input, record, sizeof(double));
      }
      break;
  }
  if (input.Choice(4) == 3) {
    const size_t at = input.U8() % shm::kRecordBytes;
    input.Fill(reinterpret_cast<unsigned char*>(&record) + at, std::min<size_t>(8, shm::kRecordBytes - at));
  }
  record.seq = position + 1;
  std::memcpy(&slot, &record, sizeof record);
}

void EvilProducer::LeaveHole(FuzzInput& input) {
  status().reserved += 1 + input.Choice(3);
  ++status().attempted;
}

}  // namespace ikkuna::fuzz
