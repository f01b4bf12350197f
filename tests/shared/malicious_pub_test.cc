// A producer that lies: whatever it writes, the daemon's side answers kCorrupt or reads what is there, and stays
// inside.
#include <gtest/gtest.h>

#include <sys/mman.h>

#include <functional>
#include <limits>
#include <string>

#include "shared/registry.h"
#include "tests/shared/transport_pair.h"

namespace ikkuna::shm {
namespace {

// ---- Files

Result<std::unique_ptr<PubView>> OpenMemfd(unsigned flags, size_t bytes, int seals) {
  UniqueFd fd(memfd_create("liar", flags));
  EXPECT_TRUE(fd.valid());
  EXPECT_EQ(ftruncate(fd.get(), static_cast<off_t>(bytes)), 0);
  if (seals != 0) {
    EXPECT_EQ(fcntl(fd.get(), F_ADD_SEALS, seals), 0);
  }
  return PubView::Open(std::move(fd));
}

void ExpectCorrupt(const Result<std::unique_ptr<PubView>>& opened, const char* what) {
  ASSERT_FALSE(opened.ok()) << what;
  EXPECT_EQ(opened.error().code, ErrorCode::kCorrupt) << what << ": " << opened.error().text;
}

TEST(Malicious_File, IsRefused) {
  ExpectCorrupt(PubView::Open(UniqueFd()), "no file");
  ExpectCorrupt(PubView::Open(UniqueFd(open("/dev/zero", O_RDWR | O_CLOEXEC))), "device");
  ExpectCorrupt(PubView::Open(UniqueFd(open("/proc/self/exe", O_RDONLY | O_CLOEXEC))), "file on disk");
  ExpectCorrupt(PubView::Open(UniqueFd(open("/", O_RDONLY | O_CLOEXEC))), "directory");
  int pipe_fds[2];
  ASSERT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
  UniqueFd write_end(pipe_fds[1]);
  ExpectCorrupt(PubView::Open(UniqueFd(pipe_fds[0])), "pipe");
  ExpectCorrupt(OpenMemfd(MFD_CLOEXEC | MFD_ALLOW_SEALING, 65536, 0), "unsealed");
  ExpectCorrupt(OpenMemfd(MFD_CLOEXEC | MFD_ALLOW_SEALING, 65536, F_SEAL_GROW), "can shrink");
  ExpectCorrupt(OpenMemfd(MFD_CLOEXEC | MFD_ALLOW_SEALING, 65536, F_SEAL_SHRINK), "can grow");
  ExpectCorrupt(OpenMemfd(MFD_CLOEXEC | MFD_ALLOW_SEALING, 0, F_SEAL_SHRINK | F_SEAL_GROW), "empty");
  ExpectCorrupt(OpenMemfd(MFD_CLOEXEC | MFD_ALLOW_SEALING, 100, F_SEAL_SHRINK | F_SEAL_GROW), "shorter than a header");
  ExpectCorrupt(OpenMemfd(MFD_CLOEXEC | MFD_ALLOW_SEALING, 1ull << 42, F_SEAL_SHRINK | F_SEAL_GROW), "4 TiB");
  ExpectCorrupt(OpenMemfd(MFD_CLOEXEC | MFD_ALLOW_SEALING, 65536, F_SEAL_SHRINK | F_SEAL_GROW), "all zeros");
}

TEST(Malicious_File, HugePagesAreRefused) {
  UniqueFd fd(memfd_create("huge", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB));
  if (!fd) GTEST_SKIP() << "this kernel makes no memory files of huge pages";
  ASSERT_EQ(ftruncate(fd.get(), 2 << 20), 0);
  ASSERT_EQ(fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
  ExpectCorrupt(PubView::Open(std::move(fd)), "a page of it may not be there: SIGBUS");
}

// ---- Header

TEST(Malicious_Header, EachFieldIsChecked) {
  using Lie = std::function<void(PubHeader&)>;
  const std::pair<const char*, Lie> lies[] = {
      {"magic", [](PubHeader& h) { h.magic ^= 1; }},
      {"major", [](PubHeader& h) { h.abi_major = kAbiMajor + 1; }},
      {"not ready", [](PubHeader& h) { h.ready = 0; }},
      {"header small", [](PubHeader& h) { h.header_bytes = 8; }},
      {"header huge", [](PubHeader& h) { h.header_bytes = 1 << 20; }},
      {"total beyond file", [](PubHeader& h) { h.total_bytes += 4096; }},
      {"total 0", [](PubHeader& h) { h.total_bytes = 0; }},
      {"total max", [](PubHeader& h) { h.total_bytes = ~uint64_t{0}; }},
      {"record small", [](PubHeader& h) { h.record_bytes = 128; }},
      {"record odd", [](PubHeader& h) { h.record_bytes = 257; }},
      {"record huge", [](PubHeader& h) { h.record_bytes = 0x80000000u; }},
      {"stats small", [](PubHeader& h) { h.stats_bytes = 64; }},
      {"stats beyond record", [](PubHeader& h) { h.stats_bytes = 192; }},
      {"slots 0", [](PubHeader& h) { h.ring_slots = 0; }},
      {"slots no power of two", [](PubHeader& h) { h.ring_slots = 7; }},
      {"slots huge", [](PubHeader& h) { h.ring_slots = 0x80000000u; }},
      {"status small", [](PubHeader& h) { h.status_bytes = 64; }},
      {"status huge", [](PubHeader& h) { h.status_bytes = ~uint64_t{0}; }},
      {"status on header", [](PubHeader& h) { h.status_offset = 64; }},
      {"status misaligned", [](PubHeader& h) { h.status_offset += 8; }},
      {"status at the end of all", [](PubHeader& h) { h.status_offset = ~uint64_t{63}; }},
      {"registry on status", [](PubHeader& h) { h.registry_offset = h.status_offset; }},
      {"registry over ring", [](PubHeader& h) { h.registry_bytes += 64; }},
      {"registry huge", [](PubHeader& h) { h.registry_bytes = kMaxRegistryBytes + 1; }},
      {"registry wraps", [](PubHeader& h) { h.registry_offset = ~uint64_t{0} - 63; }},
      {"ring outside", [](PubHeader& h) { h.ring_offset = h.total_bytes; }},
      {"ring over arena", [](PubHeader& h) { h.ring_slots = 32; }},
      {"arena outside", [](PubHeader& h) { h.arena_offset += 64; }},
      {"arena huge", [](PubHeader& h) { h.arena_bytes = ~uint64_t{0}; }},
      {"arena on ring", [](PubHeader& h) { h.arena_offset = h.ring_offset; }},
  };
  for (const auto& [what, lie] : lies) {
    auto writer = PubWriter::Create({.ring_slots = 16, .arena_bytes = 4096, .registry_bytes = 4096});
    ASSERT_TRUE(writer.ok());
    lie(*reinterpret_cast<PubHeader*>((*writer)->segment().data()));
    ExpectCorrupt(PubView::Open(Duplicate((*writer)->fd())), what);
  }
}

TEST(Malicious_Header, ChangesAfterOpeningChangeNothing) {
  TransportPair pair;
  ASSERT_TRUE(pair.ok());
  ASSERT_TRUE(PublishScalar(*pair.writer, 5));
  std::memset(pair.writer->segment().data(), 0xff, sizeof(PubHeader));
  EXPECT_EQ(MustRead(*pair.view).record.scalar, 5);
}

// A later minor version: longer header, status and records. This version reads what it knows of them.
TEST(Header, LaterMinorVersionIsRead) {
  constexpr size_t kStride = 320;
  auto segment = Segment::Create("later", 65536);
  ASSERT_TRUE(segment.ok());
  PubHeader header{};
  header.magic = kPubMagic;
  header.abi_major = kAbiMajor;
  header.abi_minor = 9;
  header.header_bytes = 192;
  header.total_bytes = 65536;
  header.record_bytes = kStride;
  header.stats_bytes = 192;
  header.ring_slots = 4;
  header.status_offset = 192;
  header.status_bytes = 2048;
  header.registry_offset = 4096;
  header.registry_bytes = 4096;
  header.ring_offset = 8192;
  header.arena_offset = 16384;
  header.arena_bytes = 4096;
  header.ready = 1;
  std::memcpy(segment->data(), &header, sizeof(header));
  auto& status = *reinterpret_cast<PubStatus*>(segment->data() + header.status_offset);
  status.reserved = 3;
  for (uint64_t i = 0; i < 3; ++i) {
    auto& record = *reinterpret_cast<Record*>(segment->data() + header.ring_offset + i * kStride);
    FillScalar(record, static_cast<double>(i));
    record.seq = i + 1;
  }
  auto view = PubView::Open(Duplicate(segment->fd()));
  ASSERT_TRUE(view.ok()) << view.error().text;
  for (int i = 0; i < 3; ++i) EXPECT_EQ(MustRead(**view).record.scalar, i);
}

// ---- Positions

void ExpectNextCorrupt(PubView& view, const char* what) {
  auto next = view.Next();
  ASSERT_FALSE(next.ok()) << what;
  EXPECT_EQ(next.error().code, ErrorCode::kCorrupt) << what;
}

TEST(Malicious_Positions, TailsAreChecked) {
  using Lie = std::function<void(TransportPair&)>;
  const std::pair<const char*, Lie> lies[] = {
      {"tail backwards", [](TransportPair& p) { StoreRelease(p.shared_status().reserved, 1); }},
      {"tail to 0", [](TransportPair& p) { StoreRelease(p.shared_status().reserved, 0); }},
      {"tail beyond the ring", [](TransportPair& p) { StoreRelease(p.shared_status().reserved, 2 + 9); }},
      {"tail at the end", [](TransportPair& p) { StoreRelease(p.shared_status().reserved, ~uint64_t{0}); }},
      {"arena tail backwards", [](TransportPair& p) { StoreRelease(p.shared_status().arena_tail, 64); }},
      {"committed, never reserved", [](TransportPair& p) { StoreRelease(p.slot(2).seq, 3); }},
  };
  for (const auto& [what, lie] : lies) {
    TransportPair pair;
    ASSERT_TRUE(pair.ok());
    for (int i = 0; i < 2; ++i) {
      ASSERT_TRUE(PublishBytes(*pair.writer, 64, 1));
      MustRead(*pair.view);
    }
    EXPECT_TRUE(ReadsNothing(*pair.view));
    lie(pair);
    ExpectNextCorrupt(*pair.view, what);
    EXPECT_LE(pair.view->pending(), 8u) << what;
    pair.view->SkipHole();
    EXPECT_LE(pair.view->ring_position(), 10u) << what;
  }
}

TEST(Malicious_Positions, SequencesFromNowhereAreNotRead) {
  TransportPair pair;
  ASSERT_TRUE(pair.ok());
  auto reservation = pair.writer->Reserve(Space::kInline, 0);
  FillScalar(reservation.record(), 1);
  for (const uint64_t seq : {uint64_t{2}, uint64_t{9}, ~uint64_t{0}}) {
    StoreRelease(pair.slot(0).seq, seq);
    EXPECT_TRUE(ReadsNothing(*pair.view)) << seq;
  }
  reservation.Commit();
  MustRead(*pair.view);
}

TEST(Malicious_Positions, StartIsWhereADaemonCanHaveStood) {
  TransportPair pair;
  ASSERT_TRUE(pair.ok());
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(PublishBytes(*pair.writer, 64, 1));
  for (int i = 0; i < 8; ++i) MustRead(*pair.view);
  pair.FreeAll();
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(PublishBytes(*pair.writer, 64, 1));
  auto view = PubView::Open(Duplicate(pair.writer->fd()));
  ASSERT_TRUE(view.ok());
  const Heads refused[] = {{0, 0}, {3, 0}, {13, 0}, {~uint64_t{0}, 0}, {12, 12 * 64 + 64}, {12, ~uint64_t{0}}};
  for (const Heads& heads : refused) {
    EXPECT_FALSE((*view)->StartAt(heads).ok()) << heads.ring_head << " " << heads.arena_head;
  }
  EXPECT_TRUE((*view)->StartAt({8, 8 * 64}).ok());
  EXPECT_TRUE((*view)->StartAt({12, 12 * 64}).ok());
}

// ---- Records

using RecordLie = std::pair<const char*, std::function<void(Record&)>>;

void ExpectEachRefused(const std::vector<RecordLie>& lies, const std::function<bool(PubWriter&)>& publish) {
  {
    TransportPair pair;
    ASSERT_TRUE(pair.ok());
    ASSERT_TRUE(publish(*pair.writer));
    MustRead(*pair.view);  // true as it stands: it is the lie that is refused below
  }
  for (const auto& [what, lie] : lies) {
    TransportPair pair;
    ASSERT_TRUE(pair.ok());
    ASSERT_TRUE(publish(*pair.writer));
    lie(pair.slot(0));
    ExpectNextCorrupt(*pair.view, what);
    ExpectNextCorrupt(*pair.view, what);
    EXPECT_EQ(pair.view->ring_position(), 0u) << what;
  }
}

const std::vector<RecordLie>& LiesOfAll() {
  static const std::vector<RecordLie> lies = {
      {"type 0", [](Record& r) { r.type = 0; }},
      {"a void with a content", [](Record& r) { r.type = 6; }},
      {"type 7", [](Record& r) { r.type = 7; }},
      {"kind 0", [](Record& r) { r.kind = 0; }},
      {"kind 14", [](Record& r) { r.kind = 14; }},
      {"kind 2, of a marker", [](Record& r) { r.kind = 2; }},
      {"kind 255", [](Record& r) { r.kind = 255; }},
      {"space 0", [](Record& r) { r.space = 0; }},
      {"space 4", [](Record& r) { r.space = 4; }},
      {"unknown flag", [](Record& r) { r.flags = 1 << 7; }},
      {"root", [](Record& r) { r.root = kMaxRoots + 1; }},
      {"module", [](Record& r) { r.module = kMaxModules; }},
      {"param", [](Record& r) { r.param = kMaxParams + 1; }},
      {"layout", [](Record& r) { r.layout = 2; }},
      {"dtype", [](Record& r) { r.dtype = 11; }},
      {"ndim", [](Record& r) { r.ndim = 9; }},
      {"ndim 255", [](Record& r) { r.ndim = 255; }},
      {"size behind ndim", [](Record& r) { r.sizes[7] = 1; }},
  };
  return lies;
}

TEST(Malicious_Record, Scalar) {
  std::vector<RecordLie> lies = LiesOfAll();
  lies.insert(lies.end(), {
                              {"module of a META kind", [](Record& r) { r.module = 1; }},
                              {"dtype of a scalar", [](Record& r) { r.dtype = 1; }},
                              {"ndim of a scalar", [](Record& r) { r.ndim = 1; }},
                              {"scalar in the arena", [](Record& r) { r.space = 2; }},
                              {"text too long",
                               [](Record& r) {
                                 r.type = static_cast<uint8_t>(RecordType::kText);
                                 r.text.length = kMaxTextBytes + 1;
                               }},
                              {"text of 4 GiB",
                               [](Record& r) {
                                 r.type = static_cast<uint8_t>(RecordType::kText);
                                 r.text.length = ~0u;
                               }},
                          });
  ExpectEachRefused(lies, [](PubWriter& writer) { return PublishScalar(writer, 1); });
}

TEST(Malicious_Record, Tensor) {
  std::vector<RecordLie> lies = LiesOfAll();
  lies.insert(lies.end(),
              {
                  {"no module", [](Record& r) { r.module = 0; }},
                  {"dtype 0", [](Record& r) { r.dtype = 0; }},
                  {"layout 0", [](Record& r) { r.layout = 0; }},
                  {"inline", [](Record& r) { r.space = 1; }},
                  {"negative size", [](Record& r) { r.sizes[0] = -100; }},
                  {"most negative size", [](Record& r) { r.sizes[0] = std::numeric_limits<int64_t>::min(); }},
                  {"more bytes than elements", [](Record& r) { r.sizes[0] = 99; }},
                  {"fewer bytes than elements", [](Record& r) { r.sizes[0] = 101; }},
                  {"other element size", [](Record& r) { r.dtype = static_cast<uint8_t>(DType::kF32); }},
                  {"product overflows to the right number",
                   [](Record& r) {
                     r.ndim = 2;
                     r.sizes[0] = int64_t{1} << 62;
                     r.sizes[1] = 4;
                     r.payload.bytes = 0;
                   }},
                  {"bytes overflow",
                   [](Record& r) {
                     r.dtype = static_cast<uint8_t>(DType::kF64);
                     r.sizes[0] = int64_t{1} << 61;
                     r.payload.bytes = 0;
                   }},
                  {"larger than the arena", [](Record& r) { r.sizes[0] = 4160, r.payload.bytes = 4160; }},
                  {"as large as memory",
                   [](Record& r) {
                     r.sizes[0] = std::numeric_limits<int64_t>::max();
                     r.payload.bytes = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
                   }},
                  {"leaves the arena", [](Record& r) { r.payload.position = 4032; }},
                  {"beyond the tail", [](Record& r) { r.payload.position = 128; }},
                  {"far beyond the tail", [](Record& r) { r.payload.position = uint64_t{4096} << 20; }},
                  {"at the end of positions", [](Record& r) { r.payload.position = ~uint64_t{63}; }},
                  {"misaligned", [](Record& r) { r.payload.position = 8; }},
                  {"device of a host payload", [](Record& r) { r.payload.device = 1; }},
                  {"event of a host payload", [](Record& r) { r.payload.event = 1; }},
                  {"pool 0", [](Record& r) { r.space = 3, r.payload.device = 0; }},
                  {"pool 17", [](Record& r) { r.space = 3, r.payload.device = kMaxRoots + 1; }},
              });
  ExpectEachRefused(lies, [](PubWriter& writer) { return PublishBytes(writer, 100, 1); });
}

TEST(Malicious_Record, PayloadBelowWhatWasReadIsRefused) {
  TransportPair pair;
  ASSERT_TRUE(pair.ok());
  ASSERT_TRUE(PublishBytes(*pair.writer, 64, 1));
  ASSERT_TRUE(PublishBytes(*pair.writer, 64, 2));
  pair.slot(1).payload.position = 0;
  MustRead(*pair.view);
  ExpectNextCorrupt(*pair.view, "bytes that were given back may hold anything");
}

TEST(Malicious_Record, Summary) {
  const auto publish = [](PubWriter& writer) {
    auto reservation = writer.Reserve(Space::kInline, 0);
    if (!reservation) return false;
    FillTensor(reservation.record(), 4);
    reservation.record().type = static_cast<uint8_t>(RecordType::kSummary);
    reservation.record().space = static_cast<uint8_t>(Space::kInline);
    TensorStats stats;
    stats.n = stats.finite_n = stats.zeros = 4;
    reservation.record().stats = stats;
    reservation.Commit();
    return true;
  };
  std::vector<RecordLie> lies = LiesOfAll();
  lies.insert(lies.end(),
              {
                  {"in the arena", [](Record& r) { r.space = 2; }},
                  {"of fewer elements", [](Record& r) { r.sizes[0] = 3; }},
                  {"of more elements", [](Record& r) { r.sizes[0] = 5; }},
                  {"more finite than elements", [](Record& r) { r.stats.finite_n = 5; }},
                  {"bounds the wrong way round", [](Record& r) { r.stats.min = 1, r.stats.max = -1; }},
                  {"shift NaN", [](Record& r) { r.stats.shift = std::numeric_limits<double>::quiet_NaN(); }},
              });
  ExpectEachRefused(lies, publish);
}

TEST(Malicious_Record, TextThatIsNoUtf8IsShownWithQuestionMarks) {
  TransportPair pair;
  ASSERT_TRUE(pair.ok());
  auto reservation = pair.writer->Reserve(Space::kInline, 0);
  FillScalar(reservation.record(), 0);
  reservation.record().type = static_cast<uint8_t>(RecordType::kText);
  reservation.record().kind = static_cast<uint8_t>(Kind::kText);
  reservation.record().text.length = 4;
  std::memcpy(reservation.record().text.bytes, "a\xff\xc3z", 4);
  reservation.Commit();
  const Message message = MustRead(*pair.view);
  EXPECT_EQ(std::string(message.record.text.bytes, message.record.text.length), "a??z");
}

TEST(Malicious_Status, LiesAreOnlyNumbers) {
  TransportPair pair;
  ASSERT_TRUE(pair.ok());
  const StatusSnapshot before = pair.view->ReadStatus();
  std::memset(&pair.shared_status(), 0xff, sizeof(PubStatus));
  const StatusSnapshot after = pair.view->ReadStatus();
  EXPECT_EQ(after.status.clock_monotonic_ns, before.status.clock_monotonic_ns) << "odd generation: the pair before";
  EXPECT_LE(pair.view->pending(), 8u);
}

}  // namespace
}  // namespace ikkuna::shm
