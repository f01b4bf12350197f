// The golden segment: PUB as this version writes it, byte for byte, and what is in it as JSON for readers in any
// language.
//
// tests/conformance/golden/pub_v2.{bin,json}. A change of either is a change of the format. To rewrite them on purpose:
// IKKUNA_REWRITE_GOLDEN=1 shared_tests --gtest_filter='Golden.*'
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>

#include <nlohmann/json.hpp>

#include "build_paths.h"
#include "shared/passes.h"
#include "tests/shared/leave_open.h"
#include "tests/shared/transport_pair.h"

namespace ikkuna::shm {
namespace {

using Json = nlohmann::ordered_json;

const std::string kGolden = std::string(IKKUNA_SOURCE_DIR) + "/tests/conformance/golden/pub_v2";

// JSON has no word for these.
Json Number(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  return value;
}

// Writes a segment and, beside it, what it wrote.
class Golden {
 public:
  Golden() {
    auto made = PubWriter::Create({.ring_slots = 16, .arena_bytes = 8192, .registry_bytes = 4096, .late_bytes = 4096});
    EXPECT_TRUE(made.ok()) << made.error().text;
    writer_ = std::move(made).value();
    EXPECT_EQ(writer_->BackArena(4096), 4096u);
    WriteRegistry();
    WriteRing();
    WriteHeaderAndStatus();
  }

  std::string bytes() const {
    return std::string(reinterpret_cast<const char*>(writer_->segment().data()), writer_->segment().bytes());
  }
  std::string json() const { return expected_.dump(1) + "\n"; }

 private:
  void Append(const RegistryEntry& entry) {
    ASSERT_TRUE(writer_->Append(entry));
    expected_["registry"].push_back({{"type", static_cast<int>(entry.type)},
                                     {"root", entry.root},
                                     {"id", entry.id},
                                     {"parent", entry.parent},
                                     {"value", entry.value},
                                     {"flags", entry.flags},
                                     {"dtype", static_cast<int>(entry.dtype)},
                                     {"sizes", entry.sizes},
                                     {"offsets", entry.offsets},
                                     {"name", entry.name},
                                     {"second", entry.second}});
  }

  void WriteRegistry() {
    // BackArena wrote the first entry.
    expected_["registry"].push_back({{"type", 8},
                                     {"root", 0},
                                     {"id", 1},
                                     {"parent", 0},
                                     {"value", 4096},
                                     {"flags", 0},
                                     {"dtype", 0},
                                     {"sizes", Json::array()},
                                     {"offsets", Json::array()},
                                     {"name", ""},
                                     {"second", ""}});
    Append(Entry(EntryType::kRoot, 1, "model", ""));
    Append(Entry(EntryType::kModule, 1, "features.0", "Linear"));
    RegistryEntry functional = Entry(EntryType::kModule, 2, "relu_0", "relu");
    functional.flags = kEntryFunctional;
    Append(functional);
    RegistryEntry param = Entry(EntryType::kParam, 1, "weight", "");
    param.parent = 1;
    param.value = 6;
    param.flags = kEntryTrainable;
    param.dtype = DType::kF32;
    param.sizes = {2, 3};
    Append(param);
    RegistryEntry shard = Entry(EntryType::kShard, 1, "", "");
    shard.sizes = {8, 3};
    shard.offsets = {4, 0};
    Append(shard);
    Append(Entry(EntryType::kTag, 3, "übung", ""));
    Append(Entry(EntryType::kName, 1, "lr", ""));
    Append(Entry(EntryType::kFact, 1, "command", "train --lr 0.1"));
    Append(Entry(EntryType::kNote, 1, "", "layer 'x': a compiled region runs no operators"));
    RegistryEntry pool = Entry(EntryType::kDevicePool, 1, "GPU-0", "handle");
    pool.value = 2 << 20;
    Append(pool);
    RegistryEntry event = Entry(EntryType::kDeviceEvent, 1, "", "event");
    event.parent = 1;
    Append(event);
    param.flags = 0;  // supersedes: the parameter is frozen
    Append(param);
  }

  static RegistryEntry Entry(EntryType type, uint32_t id, const char* name, const char* second) {
    RegistryEntry entry;
    entry.type = type;
    entry.root = type == EntryType::kRoot || type == EntryType::kModule || type == EntryType::kParam ? 1 : 0;
    entry.id = id;
    entry.name = name;
    entry.second = second;
    return entry;
  }

  // One message; `fill` writes what its type needs and adds it to `json`.
  template <typename Fill>
  void Publish(uint64_t payload_bytes, Kind kind, Fill fill, bool commit = true, Space space = Space::kHostArena) {
    auto reservation = writer_->Reserve(space, payload_bytes);
    ASSERT_TRUE(reservation);
    Record& record = reservation.record();
    const PayloadRef placed = record.payload;
    const uint64_t number = reservation.position();
    FillScalar(record, 0);
    record.payload = placed;
    record.kind = static_cast<uint8_t>(kind);
    record.time_ns = 1000 + number;
    record.global_step = 10 * number;
    record.module = IsDataKind(kind) ? 1 : 0;
    record.param = 0;
    record.pass = 100 + static_cast<uint32_t>(number);
    record.call = static_cast<uint16_t>(number);
    record.tag = static_cast<uint8_t>(number % 4);
    record.flags = static_cast<uint16_t>(number & kKnownRecordFlags);
    Json json = Json::object();
    fill(reservation, record, json);
    if (!commit) return LeaveOpen(std::move(reservation));
    reservation.Commit();
    Json fields = {{"seq", number + 1},
                   {"time_ns", record.time_ns},
                   {"global_step", record.global_step},
                   {"dropped_total", record.dropped_total},
                   {"module", record.module},
                   {"param", record.param},
                   {"epoch", record.epoch},
                   {"train_step", record.train_step},
                   {"pass", record.pass},
                   {"call", record.call},
                   {"root", record.root},
                   {"tag", record.tag},
                   {"type", record.type},
                   {"kind", std::string(KindName(kind))},
                   {"dtype", record.dtype},
                   {"sizes", std::vector<int64_t>(record.sizes, record.sizes + record.ndim)},
                   {"space", record.space},
                   {"layout", record.layout},
                   {"flags", record.flags}};
    fields.update(json);
    if (number >= kFirstLeft) expected_["records"].push_back(fields);
  }

  static void Shape(Record& record, RecordType type, Space space, DType dtype, std::vector<int64_t> sizes) {
    record.type = static_cast<uint8_t>(type);
    record.space = static_cast<uint8_t>(space);
    record.dtype = static_cast<uint8_t>(dtype);
    record.layout = static_cast<uint8_t>(Layout::kRowMajor);
    record.ndim = static_cast<uint8_t>(sizes.size());
    for (size_t i = 0; i < sizes.size(); ++i) record.sizes[i] = sizes[i];
  }

  void PublishFloats(const std::vector<float>& values, std::vector<int64_t> sizes) {
    Publish(values.size() * sizeof(float), Kind::kActivations,
            [&](const auto& reservation, Record& record, Json& json) {
              Shape(record, RecordType::kTensor, Space::kHostArena, DType::kF32, sizes);
              if (!values.empty()) std::memcpy(reservation.payload(), values.data(), values.size() * sizeof(float));
              json = {{"position", record.payload.position}, {"bytes", record.payload.bytes}, {"values", values}};
            });
  }

  // Bytes that come late: of a record that says so from the beginning, whether they have come or not.
  void PublishLateFloats(const std::vector<float>& values, bool ready) {
    const uint64_t bytes = values.size() * sizeof(float);
    const auto fill = [&](auto& reservation, Record& record, Json& json) {
      Shape(record, RecordType::kTensor, Space::kHostLate, DType::kF32, {static_cast<int64_t>(values.size())});
      const LateSpan span = reservation.TakeLate();
      json = {{"position", record.payload.position}, {"bytes", record.payload.bytes}, {"ready", ready}};
      if (!ready) return;
      std::memcpy(span.data(), values.data(), bytes);
      span.SetReady();
      json["values"] = values;
    };
    Publish(bytes, Kind::kActivations, fill, true, Space::kHostLate);
  }

  void PublishLateSummary(const std::vector<float>& values) {
    const auto fill = [&](auto& reservation, Record& record, Json& json) {
      Shape(record, RecordType::kSummary, Space::kHostLate, DType::kF32, {static_cast<int64_t>(values.size())});
      const LateSpan span = reservation.TakeLate();
      const TensorStats stats = ExactStats(values);
      std::memcpy(span.data(), &stats, sizeof stats);
      span.SetReady();
      json = {{"position", record.payload.position}, {"bytes", record.payload.bytes}, {"ready", true}};
      json["stats"] = Listed(stats);
    };
    Publish(sizeof(TensorStats), Kind::kWeights, fill, true, Space::kHostLate);
  }

  static Json Listed(const TensorStats& s) {
    return {s.n,
            s.finite_n,
            Number(s.shift),
            Number(s.sum1),
            Number(s.sum2),
            Number(s.sum3),
            Number(s.sum4),
            Number(s.abs_sum),
            Number(s.square_sum),
            Number(s.min),
            Number(s.max),
            s.zeros,
            s.nans,
            s.positive_infinities,
            s.negative_infinities,
            s.left_out};
  }

  void PublishSummary(const std::vector<float>& values, uint64_t moments = kAllMoments) {
    Publish(0, Kind::kWeightGradients, [&](const auto&, Record& record, Json& json) {
      Shape(record, RecordType::kSummary, Space::kInline, DType::kF32, {static_cast<int64_t>(values.size())});
      record.stats = ExactStats(values);
      if (moments != kAllMoments) record.stats.sum3 = record.stats.sum4 = 0;
      record.stats.left_out = kAllMoments & ~moments;
      json["stats"] = Listed(record.stats);
    });
  }

  // By hand, about 1, so that the bytes do not depend on how a processor sums. Small integers: every sum is exact.
  static TensorStats ExactStats(const std::vector<float>& values) {
    TensorStats s;
    s.shift = 1;
    s.min = std::numeric_limits<double>::infinity();
    s.max = -s.min;
    for (const float value : values) {
      ++s.n;
      if (std::isnan(value)) ++s.nans;
      if (std::isinf(value)) ++(value > 0 ? s.positive_infinities : s.negative_infinities);
      if (!std::isfinite(value)) continue;
      const double x = value;
      ++s.finite_n;
      s.sum1 += x - 1;
      s.sum2 += (x - 1) * (x - 1);
      s.sum3 += (x - 1) * (x - 1) * (x - 1);
      s.sum4 += (x - 1) * (x - 1) * (x - 1) * (x - 1);
      s.abs_sum += std::abs(x);
      s.square_sum += x * x;
      s.min = std::min(s.min, x);
      s.max = std::max(s.max, x);
      if (x == 0) ++s.zeros;
    }
    return s;
  }

  // Positions 0 to 9 are read and overwritten by 16 to 25; 25 stays reserved, as a thread in the middle of it leaves
  // it.
  void WriteRing() {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    const float infinity = std::numeric_limits<float>::infinity();
    for (int i = 0; i < 9; ++i) Publish(0, Kind::kBatchStarted, AsMarker);
    PublishFloats(std::vector<float>(900, 1.0f), {30, 30});  // position 9: 3600 bytes, so that the next but one wraps
    ASSERT_TRUE(writer_->AcceptHeads({10, 3648}));
    // The end of a step of three passes, of which losses and activations were dropped. A pass before them is open.
    Publish(0, Kind::kBatchFinished, [](const auto&, Record& record, Json& json) {
      MarkerInfo marker{};
      marker.samples = 640;
      marker.dropped_kinds = KindBit(Kind::kLoss) | KindBit(Kind::kActivations);
      for (const uint32_t pass : {7u, 8u, 774u}) ASSERT_TRUE(NamePass(marker, pass));
      marker.lowest_open = 5;
      marker.passes = 3;
      AsMarker({}, record, json);
      record.marker = marker;
      json = {{"samples", 640},
              {"dropped_kinds", marker.dropped_kinds},
              {"named", {7, 8, 774}},
              {"lowest_open", 5},
              {"passes", 3}};
    });
    Publish(0, Kind::kPassStarted, [](const auto&, Record& record, Json& json) {
      AsMarker({}, record, json);
      record.pass = UINT32_MAX;
    });
    // Numbers of passes go on from the greatest to 1.
    Publish(0, Kind::kPassesNamed, [](const auto&, Record& record, Json& json) {
      MarkerInfo marker{};
      for (const uint32_t pass : {UINT32_MAX, 1u, 700u}) ASSERT_TRUE(NamePass(marker, pass));
      marker.passes = 3;
      AsMarker({}, record, json);
      record.marker = marker;
      json = {{"named", {UINT32_MAX, 1u, 700u}}, {"lowest_open", 0}, {"passes", 3}};
    });
    Publish(0, Kind::kLearningRate, [](const auto&, Record& record, Json& json) {
      record.param = 1;
      record.scalar = 0.125;
      json["scalar"] = 0.125;
    });
    Publish(0, Kind::kText, [](const auto&, Record& record, Json& json) {
      const std::string text = "grün 🙂";
      record.type = static_cast<uint8_t>(RecordType::kText);
      record.text = InlineText{};
      record.text.length = static_cast<uint32_t>(text.size());
      std::memcpy(record.text.bytes, text.data(), text.size());
      json["text"] = text;
    });
    PublishSummary({1, -2, 0, 3, nan, infinity, -infinity});
    PublishSummary({4, 5}, kCheapMoments);
    EXPECT_FALSE(writer_->Reserve(Space::kHostArena, 4097));  // oversize
    writer_->CountDrop(DropReason::kFailed);
    PublishFloats({1.5f, -2, 0.25f, 4, 5, 6}, {2, 3});       // at 3648, in the rest of the extent
    PublishFloats(std::vector<float>(128, -0.5f), {2, 64});  // 448 - 64 bytes are left: wraps to 4096
    Publish(0, Kind::kWeights, [](const auto&, Record& record, Json& json) {
      Shape(record, RecordType::kTensor, Space::kDevicePool, DType::kBF16, {4, 1, 2});
      record.payload = {1024, 16, 7, 1};
      json = {{"position", 1024}, {"bytes", 16}, {"event", 7}, {"device", 1}};
    });
    PublishVoid(64, Space::kHostArena);
    PublishLateFloats({1, 2, 3}, false);
    PublishLateFloats({4, -5.5f}, true);
    PublishLateSummary({1, 2, -1});
    PublishVoid(100, Space::kHostLate);
    Publish(
        64, Kind::kWeights, [](const auto&, Record&, Json&) {}, false);
  }

  // What a publisher leaves that failed in the middle.
  void PublishVoid(uint64_t payload_bytes, Space space) {
    Reservation reservation = writer_->Reserve(space, payload_bytes);
    ASSERT_TRUE(reservation);
    const uint64_t placed = reservation.record().payload.position;
    std::memset(reservation.record().sizes, 0x5a, sizeof reservation.record().sizes);
    std::memset(reservation.payload(), 0, payload_bytes);
    expected_["records"].push_back({{"seq", reservation.position() + 1},
                                    {"dropped_total", reservation.record().dropped_total},
                                    {"type", 6},
                                    {"space", static_cast<int>(space)},
                                    {"position", placed},
                                    {"bytes", payload_bytes}});
  }

  static void AsMarker(const Reservation&, Record& record, Json&) {
    record.type = static_cast<uint8_t>(RecordType::kMarker);
    record.pass = 0;
    record.marker = {};
  }

  // What differs from run to run gets a fixed value.
  void WriteHeaderAndStatus() {
    auto& header = *reinterpret_cast<PubHeader*>(writer_->segment().data());
    for (size_t i = 0; i < sizeof(header.uuid); ++i) header.uuid[i] = static_cast<unsigned char>(i);
    header.start_monotonic_ns = 123456789;
    header.start_unix_ns = 1700000000000000000;
    header.pid = 4242;
    PubStatus& status = writer_->status();
    status.clock_monotonic_ns = 223456789;
    status.clock_unix_ns = 1700000000100000000;
    status.attempt = 1;
    status.command_done = 9;
    status.command_late = 8;
    status.steps_unwatched = 6;
    RootStatus& root = status.roots[0];
    root.phase = static_cast<uint32_t>(Phase::kTrain);
    root.epoch = 3;
    root.step = 40;
    root.samples_seen = 5120;
    root.last_step_ns = 223000000;
    root.steps_due = 7;
    expected_["header"] = {{"abi", {kAbiMajor, kAbiMinor}},         {"uuid", "000102030405060708090a0b0c0d0e0f"},
                           {"feature_bits", header.feature_bits},   {"start_monotonic_ns", header.start_monotonic_ns},
                           {"start_unix_ns", header.start_unix_ns}, {"pid", header.pid},
                           {"ring_slots", header.ring_slots},       {"registry_bytes", header.registry_bytes},
                           {"arena_bytes", header.arena_bytes},     {"late_bytes", header.late_bytes}};
    expected_["status"] = {
        {"clock", {status.clock_monotonic_ns, status.clock_unix_ns}},
        {"state", status.state},
        {"attempt", status.attempt},
        {"commands", {9, 8}},
        {"steps_unwatched", 6},
        {"reserved", 26},
        {"arena_tail", status.arena_tail},
        {"late_tail", status.late_tail},
        {"attempted", 28},
        {"dropped", {{"oversize", 1}, {"failed", 1}}},
        {"root_1", {{"phase", 2}, {"epoch", 3}, {"step", 40}, {"samples_seen", 5120}, {"steps_due", 7}}}};
    expected_["read_from"] = {{"ring_head", kFirstLeft}, {"arena_head", 3648}, {"late_head", 0}};
    expected_["uncommitted"] = 1;
  }

  static constexpr uint64_t kFirstLeft = 10;
  std::unique_ptr<PubWriter> writer_;
  Json expected_;
};

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

TEST(Golden, SegmentIsWrittenByteForByte) {
  if (sysconf(_SC_PAGESIZE) != 4096) GTEST_SKIP() << "regions start at pages, and the golden ones have 4096 bytes";
  const Golden golden;
  if (std::getenv("IKKUNA_REWRITE_GOLDEN") != nullptr) {
    std::ofstream(kGolden + ".bin", std::ios::binary) << golden.bytes();
    std::ofstream(kGolden + ".json") << golden.json();
    GTEST_SKIP() << "rewrote " << kGolden << ".bin and .json";
  }
  const std::string expected = ReadFile(kGolden + ".bin");
  const std::string bytes = golden.bytes();
  ASSERT_EQ(bytes.size(), expected.size());
  for (size_t i = 0; i < bytes.size(); ++i) {
    ASSERT_EQ(static_cast<int>(static_cast<unsigned char>(bytes[i])),
              static_cast<int>(static_cast<unsigned char>(expected[i])))
        << "at byte " << i;
  }
  EXPECT_EQ(golden.json(), ReadFile(kGolden + ".json"));
}

// The file as it stands, through our own reader.
TEST(Golden, SegmentIsRead) {
  const std::string bytes = ReadFile(kGolden + ".bin");
  const Json expected = Json::parse(ReadFile(kGolden + ".json"));
  auto segment = Segment::Create("golden", bytes.size());
  ASSERT_TRUE(segment.ok());
  std::memcpy(segment->data(), bytes.data(), bytes.size());
  auto view = PubView::Open(Duplicate(segment->fd()));
  ASSERT_TRUE(view.ok()) << view.error().text;
  auto entries = (*view)->ReadRegistry();
  ASSERT_TRUE(entries.ok()) << entries.error().text;
  ASSERT_EQ(entries->size(), expected["registry"].size());
  for (size_t i = 0; i < entries->size(); ++i) {
    EXPECT_EQ((*entries)[i].name, expected["registry"][i]["name"]);
    EXPECT_EQ((*entries)[i].sizes, expected["registry"][i]["sizes"].get<std::vector<int64_t>>());
    EXPECT_EQ((*entries)[i].offsets, expected["registry"][i]["offsets"].get<std::vector<int64_t>>());
  }
  ASSERT_TRUE((*view)->StartAt({expected["read_from"]["ring_head"], expected["read_from"]["arena_head"]}).ok());
  for (const Json& fields : expected["records"]) {
    Message message = MustRead(**view);
    EXPECT_EQ(message.record.seq, fields["seq"]);
    EXPECT_EQ(message.record.dropped_total, fields["dropped_total"]);
    if (fields.contains("ready")) {
      const auto ready = (*view)->ReadLate(message);
      ASSERT_TRUE(ready.ok()) << ready.error().text;
      EXPECT_EQ(*ready, fields["ready"].get<bool>());
    }
    if (!fields.contains("values")) continue;
    const auto values = fields["values"].get<std::vector<float>>();
    ASSERT_EQ(message.payload_bytes, values.size() * sizeof(float));
    EXPECT_EQ(std::memcmp(message.payload, values.data(), message.payload_bytes), 0);
  }
  EXPECT_TRUE(ReadsNothing(**view));
  EXPECT_EQ((*view)->pending(), expected["uncommitted"].get<uint64_t>());
  EXPECT_EQ((*view)->ReadStatus().status.attempted, expected["status"]["attempted"].get<uint64_t>());
}

}  // namespace
}  // namespace ikkuna::shm
