// What the daemon keeps of itself over restarts: written and read back, and every way in which a file can be wrong.
#include "daemon/kept_state.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "daemon/kept_file.h"
#include "tests/daemon/ingest/test_producer.h"

namespace ikkuna {
namespace {

using ingest::TempDirectory;

class KeptStateTest : public testing::Test {
 protected:
  KeptStateTest() { std::filesystem::create_directory(folder_); }
  TellEvent Tell() {
    return [this](Event event) { events_.push_back(std::move(event)); };
  }
  std::string Path(const std::string& name) const { return folder_ + "/" + name; }
  static std::string TextOf(const std::string& path) {
    std::ifstream file(path);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
  }
  std::vector<std::string> Kinds() const {
    std::vector<std::string> kinds;
    for (const Event& event : events_) kinds.push_back(event.kind);
    return kinds;
  }
  // A set with the operator's subscriber.
  static void AddOperators(graph::SubscriberSet& set) {
    EXPECT_TRUE(set.Add("mean(weights)", SubscriberSource::kFlag).ok());
  }

  TempDirectory temp_;
  const std::string folder_ = temp_.sub("host");
  std::vector<Event> events_;
};

TEST_F(KeptStateTest, SubscriptionsComeBackWithTheirOwners) {
  graph::SubscriberSet before;
  AddOperators(before);
  KeptSubscriptions kept(folder_, before, Tell());
  kept.Restore();
  EXPECT_TRUE(before.Add("norm(weights, order=1, module=\"a|b\")", SubscriberSource::kClient, "uid:7").ok() ||
              before.Add("norm(weights, order=1, module=a|b)", SubscriberSource::kClient, "uid:7").ok());
  ASSERT_TRUE(before.Add("max(weights)", SubscriberSource::kClient, "certificate:a \"b\" \\ c\n\x01").ok());
  ASSERT_TRUE(before.Add("max(weights)", SubscriberSource::kClient, "uid:7").ok());
  kept.Save();

  graph::SubscriberSet after;
  AddOperators(after);
  KeptSubscriptions again(folder_, after, Tell());
  again.Restore();
  EXPECT_EQ(after.Export(), before.Export());
  EXPECT_EQ(after.List().size(), 3u);
  EXPECT_TRUE(events_.empty()) << Kinds()[0];
}

TEST_F(KeptStateTest, NothingIsThereAtTheFirstStart) {
  graph::SubscriberSet set;
  KeptSubscriptions(folder_, set, Tell()).Restore();
  EXPECT_TRUE(KeptCounters(folder_, Tell()).Load().empty());
  EXPECT_TRUE(events_.empty());
}

TEST_F(KeptStateTest, WhatCannotBePutBackIsNamedTheRestComes) {
  std::ofstream(Path("subscriptions.toml"))
      << "[[subscription]]\ntext = 'gone_metric(weights)'\nowner = 'uid:7'\n"
         "[[subscription]]\ntext = 'max(weights)'\nowner = 'uid:8'\nid = 20\n"
         "[[subscription]]\nowner = 'uid:9'\n"
         "[[subscription]]\ntext = 5\n";
  graph::SubscriberSet set;
  AddOperators(set);
  KeptSubscriptions kept(folder_, set, Tell());
  kept.Restore();
  EXPECT_EQ(Kinds(), std::vector<std::string>{"subscription_not_restored"});
  EXPECT_NE(events_[0].text.find("gone_metric(weights)"), std::string::npos) << events_[0].text;
  EXPECT_NE(events_[0].text.find("uid:7"), std::string::npos) << events_[0].text;
  const auto saved = set.Export();
  ASSERT_EQ(saved.size(), 1u);
  EXPECT_EQ(saved[0].owner, "uid:8");
  EXPECT_EQ(saved[0].id, 20u);
}

// Whatever stands in it, the daemon starts, and the file is still there for whoever wants to know.
TEST_F(KeptStateTest, ABrokenFileIsMovedAside) {
  const std::vector<std::string> kBroken = {"[[subscription]\n", std::string("\0\xff\x01", 3), "x = ",
                                            "subscription = \"" + std::string(100'000, 'x')};
  for (const std::string& text : kBroken) {
    for (const std::string name : {"subscriptions.toml", "counters.toml"}) {
      events_.clear();
      std::ofstream(Path(name), std::ios::binary) << text;
      graph::SubscriberSet set;
      if (name == "subscriptions.toml") {
        KeptSubscriptions(folder_, set, Tell()).Restore();
      } else {
        EXPECT_TRUE(KeptCounters(folder_, Tell()).Load().empty());
      }
      EXPECT_EQ(Kinds(), std::vector<std::string>{"kept_file_broken"}) << text;
      EXPECT_FALSE(std::filesystem::exists(Path(name)));
      EXPECT_EQ(TextOf(Path(name) + ".broken"), text);
    }
  }
  // What is no list of ours is nothing, not a fault.
  events_.clear();
  std::ofstream(Path("subscriptions.toml")) << "subscription = 3\n";
  std::ofstream(Path("counters.toml")) << "sink = [1, 'x', { name = 'store', written = -5, dropped = { disk = 2 } }]\n";
  graph::SubscriberSet set;
  KeptSubscriptions(folder_, set, Tell()).Restore();
  const auto counters = KeptCounters(folder_, Tell()).Load();
  ASSERT_EQ(counters.size(), 1u);
  EXPECT_EQ(counters[0].written, 0u);
  EXPECT_EQ(counters[0].dropped, 2u);
  EXPECT_EQ(counters[0].offered, 2u);
  EXPECT_TRUE(events_.empty());
}

TEST_F(KeptStateTest, CountersComeBack) {
  SinkCounters store;
  store.name = "store";
  store.offered = 60;
  store.written = 50;
  store.dropped = 10;
  store.events_dropped = 3;
  store.failures = 1;
  store.drops = {{"disk", 9}, {"a \"reason\"", 1}};
  SinkCounters log;
  log.name = "log";
  KeptCounters(folder_, Tell()).Save({store, log});
  const auto loaded = KeptCounters(folder_, Tell()).Load();
  ASSERT_EQ(loaded.size(), 2u);
  EXPECT_EQ(loaded[0].name, "store");
  EXPECT_EQ(loaded[0].offered, 60u);
  EXPECT_EQ(loaded[0].written, 50u);
  EXPECT_EQ(loaded[0].dropped, 10u);
  EXPECT_EQ(loaded[0].events_dropped, 3u);
  EXPECT_EQ(loaded[0].failures, 1u);
  EXPECT_EQ(loaded[0].drops.size(), 2u);
  EXPECT_EQ(loaded[1].name, "log");
  EXPECT_TRUE(events_.empty());
}

TEST_F(KeptStateTest, AFolderThatCannotBeWrittenIsSaidOnce) {
  graph::SubscriberSet set;
  AddOperators(set);
  KeptSubscriptions kept(temp_.sub("absent"), set, Tell());
  kept.Save();
  ASSERT_TRUE(set.Add("max(weights)", SubscriberSource::kClient, "uid:7").ok());
  kept.Save();
  EXPECT_EQ(Kinds(), std::vector<std::string>{"kept_file_not_written"});
  EXPECT_NE(events_[0].text.find("absent"), std::string::npos) << events_[0].text;
}

// A write that fails in between leaves the old file as it was.
TEST_F(KeptStateTest, AFileIsReplacedAsAWholeOrNotAtAll) {
  const std::string path = Path("file");
  ASSERT_TRUE(WriteKeptFile(path, "old").ok());
  std::filesystem::create_directory(path + ".new");  // in the way of the fresh one
  EXPECT_FALSE(WriteKeptFile(path, "new").ok());
  EXPECT_EQ(TextOf(path), "old");
  std::filesystem::remove(path + ".new");
  ASSERT_TRUE(WriteKeptFile(path, "new").ok());
  EXPECT_EQ(TextOf(path), "new");
  EXPECT_FALSE(std::filesystem::exists(path + ".new"));
  struct stat found {};
  ASSERT_EQ(::stat(path.c_str(), &found), 0);
  EXPECT_EQ(found.st_mode & 07777, 0600u);
}

}  // namespace
}  // namespace ikkuna
