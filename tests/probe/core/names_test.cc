// Names that run out, that are too long, that are said again: each limit is said once, and nothing is renamed.
#include "probe/core/names.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "tests/shared/transport_pair.h"

namespace ikkuna::probe {
namespace {

using ::testing::HasSubstr;

struct Registered {
  explicit Registered(uint64_t registry_bytes = shm::kDefaultRegistryBytes)
      : pair({.ring_slots = 8, .arena_bytes = 0, .registry_bytes = registry_bytes}), names(*pair.writer, notices) {}
  void Read() {
    auto read = pair.view->ReadRegistry();
    ASSERT_TRUE(read.ok()) << read.error().text;
    entries.insert(entries.end(), read->begin(), read->end());
  }
  std::vector<std::string> Of(shm::EntryType type) {
    Read();
    std::vector<std::string> found;
    for (const auto& entry : entries) {
      if (entry.type == type) found.push_back(type == shm::EntryType::kNote ? entry.second : entry.name);
    }
    return found;
  }
  size_t NotesWith(const std::string& text) {
    size_t count = 0;
    for (const std::string& note : Of(shm::EntryType::kNote)) count += note.find(text) != std::string::npos ? 1 : 0;
    return count;
  }

  shm::TransportPair pair;
  Notices notices;
  Names names;
  std::vector<shm::RegistryEntry> entries;
};

TEST(Names, TheSeventeenthModelIsSaidAndHasNoId) {
  Registered registered;
  for (int i = 1; i <= 16; ++i) EXPECT_EQ(registered.names.AddRoot("model" + std::to_string(i)), i);
  EXPECT_EQ(registered.names.AddRoot("one more"), 0);
  EXPECT_EQ(registered.names.AddRoot("and one more"), 0);
  EXPECT_EQ(registered.NotesWith("model 'one more' and what comes behind it are not captured"), 1u);
  EXPECT_EQ(registered.NotesWith("not captured"), 1u) << "once";
}

TEST(Names, ModulesRunOut) {
  Registered registered;
  uint32_t last = 0;
  for (uint32_t i = 1; i < kMaxModules; ++i) last = registered.names.AddModule(1, "m" + std::to_string(i), "Linear", 0);
  EXPECT_EQ(last, kMaxModules - 1);
  EXPECT_EQ(registered.names.AddModule(1, "beyond", "Linear", 0), 0u);
  EXPECT_EQ(registered.names.AddModule(1, "beyond too", "Linear", 0), 0u);
  EXPECT_EQ(registered.names.modules(), kMaxModules - 1);
  EXPECT_EQ(registered.NotesWith("module 'beyond' and what comes behind it are not captured: one process has room for "
                                 "65,535 modules"),
            1u);
}

TEST(Names, ParametersRunOut) {
  Registered registered;
  const int64_t sizes[] = {3};
  const TensorShape shape{DType::kF32, 1, sizes};
  uint32_t last = 0;
  for (uint32_t i = 1; i <= kMaxParams; ++i) last = registered.names.AddParam(1, 1 + i % 60'000, "weight", shape, 0);
  EXPECT_EQ(last, kMaxParams);
  EXPECT_EQ(registered.names.AddParam(1, 1, "beyond", shape, 0), 0u);
  EXPECT_EQ(registered.NotesWith("262,144 parameters"), 1u);
}

// Today's step of the one and yesterday's test set may not become one series.
TEST(Names, ATagBeyondTheLastIsNoOtherTag) {
  Registered registered;
  std::set<uint16_t> ids{kTagDefault, kTagTest, kTagNoGrad};
  for (int i = 0; i < 253; ++i) {
    const uint16_t id = registered.names.TagId("set" + std::to_string(i));
    EXPECT_LT(id, kMaxTags);
    EXPECT_TRUE(ids.insert(id).second) << i;
  }
  EXPECT_EQ(registered.names.TagId("one more"), kNoTag);
  EXPECT_EQ(registered.names.TagId("set7"), registered.names.TagId("set7"));
  EXPECT_NE(registered.names.TagId("set7"), kNoTag) << "what has an id keeps it";
  EXPECT_EQ(registered.names.TagId("test"), kTagTest);
  EXPECT_EQ(registered.NotesWith("passes tagged 'one more'"), 1u);
}

TEST(Names, LoggedNamesRunOut) {
  Registered registered;
  for (uint32_t i = 0; i < kMaxModules; ++i) ASSERT_EQ(registered.names.NameId("n" + std::to_string(i)), i + 1);
  EXPECT_EQ(registered.names.NameId("beyond"), 0u);
  EXPECT_EQ(registered.names.NameId("n5"), 6u);
  EXPECT_EQ(registered.NotesWith("values logged as 'beyond'"), 1u);
}

TEST(Names, AFullRegistryIsSaidInItself) {
  Registered registered(64 << 10);
  const std::string type(200, 't');
  uint32_t id = 1;
  while (id != 0) id = registered.names.AddModule(1, "some.module", type, 0);
  EXPECT_EQ(registered.names.NameId("loss"), 0u);
  EXPECT_EQ(registered.names.TagId("dev"), kNoTag);
  EXPECT_EQ(registered.NotesWith("the registry of names is full"), 1u);
  EXPECT_GT(registered.pair.view->ReadStatus().status.registry_rejected, 2u);
}

TEST(Names, NamesAlikeFor255BytesAreTwoAndSaid) {
  Registered registered;
  const std::string stem(255, 'a');
  registered.names.AddModule(1, stem + ".first", "Linear", 0);
  registered.names.AddModule(1, stem + ".second", "Linear", 0);
  const auto names = registered.Of(shm::EntryType::kModule);
  ASSERT_EQ(names.size(), 2u);
  EXPECT_NE(names[0], names[1]);
  EXPECT_EQ(registered.NotesWith("longer than 255 bytes"), 2u);
  EXPECT_NE(registered.names.NameId(stem + "1"), registered.names.NameId(stem + "2"));
  EXPECT_NE(registered.names.TagId(stem + "1"), registered.names.TagId(stem + "2"));
}

TEST(Names, TheLastNoteSaysThatItIs) {
  Registered registered;
  for (size_t i = 0; i < Names::kMaxNotes + 50; ++i) registered.names.AddNote("note " + std::to_string(i));
  const auto notes = registered.Of(shm::EntryType::kNote);
  ASSERT_EQ(notes.size(), Names::kMaxNotes + 1);
  EXPECT_THAT(notes.back(), HasSubstr("more notes than 1000"));
  registered.names.AddNote("note 1");
  EXPECT_EQ(registered.Of(shm::EntryType::kNote).size(), Names::kMaxNotes + 1);
}

TEST(Names, FactsBeyondTheLastAreSaid) {
  Registered registered;
  for (size_t i = 0; i < Names::kMaxFactEntries + 5; ++i) registered.names.AddFact("lr", std::to_string(i));
  EXPECT_EQ(registered.Of(shm::EntryType::kFact).size(), Names::kMaxFactEntries);
  EXPECT_EQ(registered.NotesWith("the fact 'lr'"), 1u);
}

}  // namespace
}  // namespace ikkuna::probe
