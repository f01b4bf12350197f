// Each entry that moved a parameter to another module searched all parameters of the first: a producer with a quarter
// of a million of them kept the lock of its names for minutes, and with it status and the door of the daemon.
#include "daemon/ingest/registry_names.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

namespace ikkuna::ingest {
namespace {

shm::RegistryEntry Module(uint32_t id) {
  shm::RegistryEntry entry;
  entry.type = shm::EntryType::kModule;
  entry.id = id;
  entry.name = "module" + std::to_string(id);
  return entry;
}

shm::RegistryEntry Param(uint32_t id, uint32_t module) {
  shm::RegistryEntry entry;
  entry.type = shm::EntryType::kParam;
  entry.id = id;
  entry.parent = module;
  entry.name = std::to_string(id);
  entry.flags = shm::kEntryTrainable;
  return entry;
}

// As many entries as a registry may hold. That it is quick is ctest's time limit.
TEST(RegistryNames, MovesOfAllParametersAreNoSearch) {
  RegistryNames names;
  names.Add({Module(1), Module(2)});
  std::vector<shm::RegistryEntry> all(kMaxParams);
  for (uint32_t round = 0; round < shm::kMaxRegistryEntries / kMaxParams - 1; ++round) {
    for (uint32_t id = 1; id <= kMaxParams; ++id) all[id - 1] = Param(id, 1 + round % 2);
    // The last first: the search would be a long one.
    if (round % 2 == 1) std::reverse(all.begin(), all.end());
    names.Add(all);
  }
  const auto modules = names.Modules();
  ASSERT_EQ(modules.size(), 2u);
  EXPECT_EQ(modules[0].params.size() + modules[1].params.size(), kMaxParams);
}

TEST(RegistryNames, AMovedParameterIsTheLastOfItsNewModule) {
  RegistryNames names;
  names.Add({Module(1), Module(2), Param(1, 1), Param(2, 1), Param(3, 2), Param(1, 2), Param(2, 1)});
  const auto modules = names.Modules();
  ASSERT_EQ(modules.size(), 2u);
  ASSERT_EQ(modules[0].params.size(), 1u);
  EXPECT_EQ(modules[0].params[0].name, "2");
  ASSERT_EQ(modules[1].params.size(), 2u);
  EXPECT_EQ(modules[1].params[0].name, "3");
  EXPECT_EQ(modules[1].params[1].name, "1");
}

}  // namespace
}  // namespace ikkuna::ingest
