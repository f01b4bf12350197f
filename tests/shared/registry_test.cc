// Registry: what is written comes back; what a liar writes does not come through.
#include "shared/registry.h"

#include <gtest/gtest.h>

#include <functional>
#include <set>
#include <string>

#include "tests/shared/transport_pair.h"

namespace ikkuna::shm {
namespace {

RegistryEntry Param() {
  RegistryEntry entry;
  entry.type = EntryType::kParam;
  entry.root = 1;
  entry.id = 7;
  entry.parent = 3;
  entry.value = 6;
  entry.flags = kEntryBias | kEntryTrainable;
  entry.dtype = DType::kF32;
  entry.sizes = {2, 3};
  entry.name = "features.0.weight";
  entry.second = "second";
  return entry;
}

std::vector<RegistryEntry> MustReadRegistry(PubView& view) {
  auto entries = view.ReadRegistry();
  EXPECT_TRUE(entries.ok()) << entries.error().text;
  return entries.ok() ? std::move(entries).value() : std::vector<RegistryEntry>{};
}

TEST(Registry, EntriesComeBackOnceAndWhole) {
  TransportPair pair({.ring_slots = 8, .arena_bytes = 0, .registry_bytes = 65536});
  ASSERT_TRUE(pair.ok());
  EXPECT_TRUE(MustReadRegistry(*pair.view).empty());
  ASSERT_TRUE(pair.writer->Append(Param()));
  RegistryEntry root;
  root.type = EntryType::kRoot;
  root.id = 1;
  root.name = "model";
  ASSERT_TRUE(pair.writer->Append(root));
  const auto entries = MustReadRegistry(*pair.view);
  ASSERT_EQ(entries.size(), 2u);
  const RegistryEntry expected = Param();
  EXPECT_EQ(entries[0].type, expected.type);
  EXPECT_EQ(entries[0].root, expected.root);
  EXPECT_EQ(entries[0].id, expected.id);
  EXPECT_EQ(entries[0].parent, expected.parent);
  EXPECT_EQ(entries[0].value, expected.value);
  EXPECT_EQ(entries[0].flags, expected.flags);
  EXPECT_EQ(entries[0].dtype, expected.dtype);
  EXPECT_EQ(entries[0].sizes, expected.sizes);
  EXPECT_EQ(entries[0].name, expected.name);
  EXPECT_EQ(entries[0].second, expected.second);
  EXPECT_EQ(entries[1].name, "model");
  EXPECT_TRUE(MustReadRegistry(*pair.view).empty());
  EXPECT_EQ(pair.view->registry_read(), 2u);
}

TEST(Registry, AShardKeepsItsOffsets) {
  RegistryEntry shard;
  shard.type = EntryType::kShard;
  shard.id = 7;
  shard.sizes = {1024, 3};
  shard.offsets = {256, 0};
  const auto bytes = EncodeEntry(shard);
  ASSERT_FALSE(bytes.empty());
  const auto decoded = DecodeEntry(bytes.data(), bytes.size());
  ASSERT_TRUE(decoded.ok()) << decoded.error().text;
  EXPECT_EQ(decoded->entry.sizes, shard.sizes);
  EXPECT_EQ(decoded->entry.offsets, shard.offsets);
  EXPECT_TRUE(decoded->entry.second.empty());
  for (const std::vector<int64_t>& offsets : {std::vector<int64_t>{1}, {-1, 0}, {0, 4}, {0, 0, 0}, {}}) {
    shard.offsets = offsets;
    EXPECT_TRUE(EncodeEntry(shard).empty()) << offsets.size();
  }
  RegistryEntry param = Param();
  param.offsets = {0, 0};
  EXPECT_TRUE(EncodeEntry(param).empty()) << "of no other type";
  // As a liar writes it: an offset beyond the whole, and half of one.
  std::vector<unsigned char> lie = bytes;
  lie[sizeof(EntryHeader) + 2 * sizeof(int64_t) + 3] = 1;
  EXPECT_FALSE(DecodeEntry(lie.data(), lie.size()).ok());
  lie = bytes;
  lie[offsetof(EntryHeader, second_bytes)] -= 1;
  EXPECT_FALSE(DecodeEntry(lie.data(), lie.size()).ok());
}

TEST(Registry, FullIsCountedAndKeepsWhatItHas) {
  TransportPair pair({.ring_slots = 8, .arena_bytes = 0, .registry_bytes = 4096});
  ASSERT_TRUE(pair.ok());
  size_t kept = 0;
  for (int i = 0; i < 100; ++i) kept += pair.writer->Append(Param()) ? 1 : 0;
  EXPECT_GT(kept, 30u);
  EXPECT_LT(kept, 100u);
  EXPECT_EQ(MustReadRegistry(*pair.view).size(), kept);
  EXPECT_EQ(pair.view->ReadStatus().status.registry_rejected, 100 - kept);
}

TEST(Registry, GrowsPastWhatIsBackedAtFirst) {
  TransportPair pair({.ring_slots = 8, .arena_bytes = 0, .registry_bytes = 1 << 20});
  ASSERT_TRUE(pair.ok());
  for (int i = 0; i < 8000; ++i) ASSERT_TRUE(pair.writer->Append(Param())) << i;
  EXPECT_EQ(MustReadRegistry(*pair.view).size(), 8000u);
}

// What does not fit can still be said in the room that is kept for notes.
TEST(Registry, ANoteFitsWhereNoNameDoes) {
  TransportPair pair({.ring_slots = 8, .arena_bytes = 0, .registry_bytes = 64 << 10});
  ASSERT_TRUE(pair.ok());
  while (pair.writer->Append(Param())) {
  }
  RegistryEntry note;
  note.type = EntryType::kNote;
  note.second = "the registry is full";
  EXPECT_TRUE(pair.writer->Append(note));
  EXPECT_EQ(MustReadRegistry(*pair.view).back().second, "the registry is full");
}

// No system call under the lock of the registry: who finds it unbacked is told, and nothing is counted.
TEST(Registry, WhatIsNotBackedIsToldAndBackedAheadOfUse) {
  auto made = PubWriter::Create({.ring_slots = 8, .arena_bytes = 0, .registry_bytes = 1 << 20});
  ASSERT_TRUE(made.ok());
  PubWriter& writer = **made;
  EXPECT_FALSE(writer.RegistryRunsShort());
  auto appended = PubWriter::Appended::kDone;
  uint64_t count = 0;
  uint64_t short_at = 0;
  while (appended == PubWriter::Appended::kDone) {
    if (short_at == 0 && writer.RegistryRunsShort()) short_at = count;
    appended = writer.TryAppend(Param());
    count += appended == PubWriter::Appended::kDone ? 1 : 0;
  }
  EXPECT_EQ(appended, PubWriter::Appended::kUnbacked);
  EXPECT_GT(short_at, 0u) << "it runs short before it ends";
  EXPECT_LT(short_at, count);
  EXPECT_EQ(writer.status().registry_rejected, 0u);
  writer.BackRegistry();
  EXPECT_FALSE(writer.RegistryRunsShort());
  EXPECT_EQ(writer.TryAppend(Param()), PubWriter::Appended::kDone);
}

TEST(Registry, NamesThatCannotBeWrittenAsTheyAreStayTwo) {
  TransportPair pair({.ring_slots = 8, .arena_bytes = 0, .registry_bytes = 65536});
  ASSERT_TRUE(pair.ok());
  const std::string names[] = {std::string(255, 'x'),        std::string(255, 'x') + "a", std::string(255, 'x') + "b",
                               std::string(300, 'x') + "b", "a\xff",                       "a\xfe",
                               "a?"};
  RegistryEntry entry = Param();
  for (const std::string& name : names) {
    entry.name = name;
    ASSERT_TRUE(pair.writer->Append(entry));
  }
  std::set<std::string> read;
  for (const RegistryEntry& got : MustReadRegistry(*pair.view)) {
    EXPECT_LE(got.name.size(), kMaxNameBytes);
    EXPECT_TRUE(read.insert(got.name).second) << got.name;
  }
  EXPECT_EQ(read.count(names[0]), 1u) << "one that fits is itself";
  EXPECT_EQ(read.count("a?"), 1u);
}

TEST(Registry, TextsAreCleanedAndCut) {
  TransportPair pair({.ring_slots = 8, .arena_bytes = 0, .registry_bytes = 65536});
  ASSERT_TRUE(pair.ok());
  RegistryEntry entry = Param();
  entry.name = std::string(254, 'x') + "\xc3\xa4";  // the last character would end at byte 256
  entry.second = "a\xff" + std::string(5000, 'y');
  ASSERT_TRUE(pair.writer->Append(entry));
  const auto entries = MustReadRegistry(*pair.view);
  ASSERT_EQ(entries.size(), 1u);
  EXPECT_EQ(entries[0].name.substr(0, 239), std::string(238, 'x') + "~");
  EXPECT_EQ(entries[0].name.size(), kMaxNameBytes);
  EXPECT_EQ(entries[0].second.size(), kMaxSecondBytes);
  EXPECT_EQ(entries[0].second.substr(0, 3), "a?y");
}

TEST(Registry, WriterRefusesWhatTheReaderWould) {
  TransportPair pair({.ring_slots = 8, .arena_bytes = 0, .registry_bytes = 65536});
  ASSERT_TRUE(pair.ok());
  const std::pair<const char*, std::function<void(RegistryEntry&)>> wrongs[] = {
      {"type", [](RegistryEntry& e) { e.type = EntryType::kInvalid; }},
      {"id 0", [](RegistryEntry& e) { e.id = 0; }},
      {"id", [](RegistryEntry& e) { e.id = kMaxParams + 1; }},
      {"module id", [](RegistryEntry& e) { e.type = EntryType::kModule, e.id = kMaxModules; }},
      {"tag id", [](RegistryEntry& e) { e.type = EntryType::kTag, e.id = kMaxTags; }},
      {"root id", [](RegistryEntry& e) { e.type = EntryType::kRoot, e.id = kMaxRoots + 1; }},
      {"root", [](RegistryEntry& e) { e.root = kMaxRoots + 1; }},
      {"parent", [](RegistryEntry& e) { e.parent = kMaxModules; }},
      {"ndim", [](RegistryEntry& e) { e.sizes.assign(9, 1); }},
      {"size", [](RegistryEntry& e) { e.sizes = {-1}; }},
      {"dtype", [](RegistryEntry& e) { e.dtype = static_cast<DType>(99); }},
  };
  for (const auto& [what, wrong] : wrongs) {
    RegistryEntry entry = Param();
    wrong(entry);
    EXPECT_FALSE(pair.writer->Append(entry)) << what;
  }
  EXPECT_TRUE(MustReadRegistry(*pair.view).empty());
}

TEST(Malicious_Registry, EachFieldOfAnEntryIsChecked) {
  const std::pair<const char*, std::function<void(EntryHeader&, unsigned char*)>> lies[] = {
      {"no length", [](EntryHeader& e, unsigned char*) { e.bytes = 0; }},
      {"shorter than its header", [](EntryHeader& e, unsigned char*) { e.bytes = 32; }},
      {"odd length", [](EntryHeader& e, unsigned char*) { e.bytes += 4; }},
      {"beyond what is published", [](EntryHeader& e, unsigned char*) { e.bytes += 8; }},
      {"4 GiB", [](EntryHeader& e, unsigned char*) { e.bytes = ~7u; }},
      {"type 0", [](EntryHeader& e, unsigned char*) { e.type = 0; }},
      {"root", [](EntryHeader& e, unsigned char*) { e.root = 17; }},
      {"id 0", [](EntryHeader& e, unsigned char*) { e.id = 0; }},
      {"id", [](EntryHeader& e, unsigned char*) { e.id = ~0u; }},
      {"parent", [](EntryHeader& e, unsigned char*) { e.parent = ~0u; }},
      {"dtype", [](EntryHeader& e, unsigned char*) { e.dtype = 77; }},
      {"ndim", [](EntryHeader& e, unsigned char*) { e.ndim = 200; }},
      {"one dimension more", [](EntryHeader& e, unsigned char*) { e.ndim = 3; }},
      {"long name", [](EntryHeader& e, unsigned char*) { e.name_bytes = 256; }},
      {"name over the end", [](EntryHeader& e, unsigned char*) { e.name_bytes = 200; }},
      {"long second", [](EntryHeader& e, unsigned char*) { e.second_bytes = 65535; }},
      {"gap behind the texts", [](EntryHeader& e, unsigned char*) { e.name_bytes = 1; }},
      {"negative size", [](EntryHeader&, unsigned char* rest) { rest[7] = 0x80; }},
      {"name no UTF-8", [](EntryHeader&, unsigned char* rest) { rest[16] = 0xff; }},
  };
  for (const auto& [what, lie] : lies) {
    TransportPair pair({.ring_slots = 8, .arena_bytes = 0, .registry_bytes = 65536});
    ASSERT_TRUE(pair.ok());
    ASSERT_TRUE(pair.writer->Append(Param()));
    unsigned char* entry = pair.writer->segment().data() + pair.writer->header().registry_offset;
    lie(*reinterpret_cast<EntryHeader*>(entry), entry + sizeof(EntryHeader));
    auto read = pair.view->ReadRegistry();
    ASSERT_FALSE(read.ok()) << what;
    EXPECT_EQ(read.error().code, ErrorCode::kCorrupt) << what;
  }
}

TEST(Malicious_Registry, CountsAreChecked) {
  const std::pair<const char*, std::function<void(PubStatus&)>> lies[] = {
      {"more entries than bytes", [](PubStatus& s) { s.registry_count = 3; }},
      {"all entries there can be", [](PubStatus& s) { s.registry_count = ~uint64_t{0}; }},
      {"fewer", [](PubStatus& s) { s.registry_count = 0; }},
      {"bytes beyond the registry", [](PubStatus& s) { s.registry_used_bytes = 65536 + 8, s.registry_count = 2; }},
      {"bytes of all memory", [](PubStatus& s) { s.registry_used_bytes = ~uint64_t{0}, s.registry_count = 2; }},
      {"bytes backwards", [](PubStatus& s) { s.registry_used_bytes = 8, s.registry_count = 2; }},
  };
  for (const auto& [what, lie] : lies) {
    TransportPair pair({.ring_slots = 8, .arena_bytes = 0, .registry_bytes = 65536});
    ASSERT_TRUE(pair.ok());
    ASSERT_TRUE(pair.writer->Append(Param()));
    EXPECT_EQ(MustReadRegistry(*pair.view).size(), 1u);
    lie(pair.shared_status());
    EXPECT_FALSE(pair.view->ReadRegistry().ok()) << what;
  }
}

TEST(Malicious_Registry, ExtentsAreChecked) {
  const std::pair<const char*, uint64_t> lies[] = {{"none", 0},
                                                   {"beyond the arena", 2 << 20},
                                                   {"no whole pages", 4097},
                                                   {"all memory", ~uint64_t{4095}},
                                                   {"never backed", 1 << 20}};
  for (const auto& [what, extent] : lies) {
    auto writer = PubWriter::Create({.ring_slots = 8, .arena_bytes = 1 << 20, .registry_bytes = 4096});
    ASSERT_TRUE(writer.ok());
    RegistryEntry entry;
    entry.type = EntryType::kArenaExtent;
    entry.id = 1;
    entry.value = extent;
    ASSERT_TRUE((*writer)->Append(entry));
    auto view = PubView::Open(Duplicate((*writer)->fd()));
    ASSERT_TRUE(view.ok());
    EXPECT_FALSE((*view)->ReadRegistry().ok()) << what;
  }
}

TEST(Registry, EntryOfALaterMinorVersionIsSkipped) {
  TransportPair pair({.ring_slots = 8, .arena_bytes = 0, .registry_bytes = 65536});
  ASSERT_TRUE(pair.ok());
  ASSERT_TRUE(pair.writer->Append(Param()));
  ASSERT_TRUE(pair.writer->Append(Param()));
  unsigned char* entry = pair.writer->segment().data() + pair.writer->header().registry_offset;
  reinterpret_cast<EntryHeader*>(entry)->type = 99;
  EXPECT_EQ(MustReadRegistry(*pair.view).size(), 1u);
  EXPECT_EQ(pair.view->registry_read(), 2u);
}

}  // namespace
}  // namespace ikkuna::shm
