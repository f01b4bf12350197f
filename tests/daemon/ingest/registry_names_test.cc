// RegistryNames: what a registry says, with entries that supersede, come in any order, or name nothing.
#include "daemon/ingest/registry_names.h"

#include <gtest/gtest.h>

#include <string>

namespace ikkuna::ingest {
namespace {

shm::RegistryEntry Entry(shm::EntryType type, uint32_t id, const std::string& name, const std::string& second = "") {
  shm::RegistryEntry entry;
  entry.type = type;
  entry.id = id;
  entry.name = name;
  entry.second = second;
  return entry;
}

shm::RegistryEntry Param(uint32_t id, uint32_t module, const std::string& name, uint32_t flags = 0) {
  auto entry = Entry(shm::EntryType::kParam, id, name);
  entry.parent = module;
  entry.dtype = DType::kF32;
  entry.sizes = {3};
  entry.flags = flags;
  return entry;
}

class RegistryNamesTest : public testing::Test {
 protected:
  void SetUp() override {
    auto first = Entry(shm::EntryType::kModule, 1, "features.0", "Conv2d");
    auto second = Entry(shm::EntryType::kModule, 2, "features.1", "BatchNorm2d");
    auto relu = Entry(shm::EntryType::kModule, 3, "features.1 > relu", "relu");
    first.root = second.root = relu.root = 1;
    relu.flags = shm::kEntryFunctional;
    names_.Add(
        {Entry(shm::EntryType::kRoot, 1, "model"), first, second, relu, Param(1, 1, "weight", shm::kEntryTrainable),
         Param(2, 1, "bias", shm::kEntryTrainable | shm::kEntryBias), Param(3, 2, "running_mean", shm::kEntryBuffer)});
  }
  RegistryNames names_;
};

TEST_F(RegistryNamesTest, ListsModulesWithTheirParameters) {
  const auto modules = names_.Modules();
  ASSERT_EQ(modules.size(), 3u);
  EXPECT_EQ(modules[0].root, "model");
  EXPECT_EQ(modules[0].name, "features.0");
  ASSERT_EQ(modules[0].params.size(), 2u);
  EXPECT_EQ(modules[0].params[0].dtype, DTypeName(DType::kF32));
  EXPECT_TRUE(modules[0].params[1].bias);
  EXPECT_TRUE(modules[0].params[1].trainable);
  EXPECT_TRUE(modules[1].params[0].buffer);
  EXPECT_TRUE(modules[2].functional);
}

TEST_F(RegistryNamesTest, SaysWhatStopsTrainingAndWhatTrainsAgain) {
  auto news = names_.Add({Param(1, 1, "weight"), Param(2, 1, "bias", shm::kEntryTrainable | shm::kEntryBias),
                          Param(4, 2, "weight", shm::kEntryTrainable), Param(5, 9, "lost", shm::kEntryTrainable)});
  EXPECT_EQ(news.frozen, std::vector<std::string>{"features.0.weight"});
  EXPECT_TRUE(news.thawed.empty()) << "those are new";
  EXPECT_FALSE(names_.Modules()[0].params[0].trainable);
  news = names_.Add({Param(1, 1, "weight", shm::kEntryTrainable), Param(5, 9, "lost"),
                     Entry(shm::EntryType::kNote, 1, "", "freeze refused")});
  EXPECT_EQ(news.thawed, std::vector<std::string>{"features.0.weight"});
  EXPECT_EQ(news.frozen, std::vector<std::string>{"lost"}) << "its module never came";
  EXPECT_EQ(news.notes, std::vector<std::string>{"freeze refused"});
  // What counts is how things are now, not how they came about.
  news = names_.Add({Param(1, 1, "weight"), Param(1, 1, "weight", shm::kEntryTrainable), Param(2, 1, "bias"),
                     Param(2, 1, "bias", shm::kEntryTrainable), Param(2, 1, "bias")});
  EXPECT_EQ(news.frozen, std::vector<std::string>{"features.0.bias"});
  EXPECT_TRUE(news.thawed.empty());
}

TEST_F(RegistryNamesTest, ALaterEntrySupersedes) {
  const uint64_t version = names_.modules_version();
  auto param = Param(1, 1, "weight");
  param.sizes = {3, 4};
  names_.Add({param});
  EXPECT_GT(names_.modules_version(), version);
  ASSERT_EQ(names_.Modules()[0].params.size(), 2u);
  EXPECT_EQ(names_.Modules()[0].params[0].sizes, (std::vector<int64_t>{3, 4}));
  names_.Add({Param(1, 2, "weight")});  // to another module
  EXPECT_EQ(names_.Modules()[0].params.size(), 1u);
  EXPECT_EQ(names_.Modules()[1].params.size(), 2u);
}

TEST_F(RegistryNamesTest, AParameterOfAModuleThatNeverCameIsNotListed) {
  names_.Add({Param(9, 77, "weight")});
  EXPECT_EQ(names_.Modules().size(), 3u);
}

TEST_F(RegistryNamesTest, FactsHaveTheirLastValueAndNotesAreKept) {
  names_.Add({Entry(shm::EntryType::kFact, 1, "lr", "0.1"), Entry(shm::EntryType::kFact, 2, "host", "a"),
              Entry(shm::EntryType::kFact, 3, "lr", "0.2"), Entry(shm::EntryType::kNote, 1, "", "no hooks on x")});
  EXPECT_EQ(names_.Facts(), (std::vector<std::pair<std::string, std::string>>{{"lr", "0.2"}, {"host", "a"}}));
  EXPECT_EQ(names_.Notes(), (std::vector<std::string>{"no hooks on x"}));
}

TEST_F(RegistryNamesTest, Malicious_FactsAndNotesAreBounded) {
  std::vector<shm::RegistryEntry> entries;
  for (uint32_t id = 1; id <= 5000; ++id) {
    entries.push_back(Entry(shm::EntryType::kFact, id, "key" + std::to_string(id), "v"));
    entries.push_back(Entry(shm::EntryType::kNote, id, "", "note"));
  }
  names_.Add(entries);
  EXPECT_EQ(names_.Facts().size(), RegistryNames::kFactsMax);
  EXPECT_EQ(names_.Notes().size(), RegistryNames::kNotesMax);
}

TEST_F(RegistryNamesTest, TargetsAreModulesWithParametersThatMatch) {
  auto all = names_.FindTargets("*");
  ASSERT_TRUE(all.ok());
  ASSERT_EQ(all->size(), 1u) << "neither buffers nor functions can be frozen";
  EXPECT_EQ((*all)[0].module, 1u);
  EXPECT_EQ((*all)[0].root, 1u);
  auto none = names_.FindTargets("classifier.*");
  ASSERT_FALSE(none.ok());
  EXPECT_EQ(none.error().code, ErrorCode::kNotFound);
  EXPECT_NE(none.error().text.find("features.0"), std::string::npos) << none.error().text;
}

}  // namespace
}  // namespace ikkuna::ingest
