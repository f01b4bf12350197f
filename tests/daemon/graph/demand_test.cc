// What the subscribers ask of a producer.
#include "tests/daemon/graph/site.h"

namespace ikkuna::graph {
namespace {

using shm::DemandItem;

constexpr uint64_t kMarkers = KindBit(Kind::kBatchStarted) | KindBit(Kind::kBatchFinished);

DemandItem Item(uint64_t kinds, Level level, uint32_t period = 1, uint16_t tag = kTagDefault,
                uint16_t root = kAnyRoot) {
  DemandItem item;
  item.kinds = kinds | kMarkers;
  item.level = level;
  item.moments = level == Level::kSummary ? kCheapMoments : kAllMoments;
  item.period = period;
  item.tag = tag;
  item.root = root;
  return item;
}
DemandItem Filtered(DemandItem item, std::vector<uint64_t> modules) {
  item.all_modules = false;
  item.modules = std::move(modules);
  return item;
}
// Of the site's modules, 1 to 3, these, and those that are named next.
std::vector<uint64_t> AndToCome(uint64_t modules, uint32_t next = 4) {
  std::vector<uint64_t> words(next / 64 + 2, 0);
  words[0] |= modules;
  words[next / 64] |= ~uint64_t{0} << (next % 64);
  words[next / 64 + 1] = next % 64 == 0 ? 0 : ~(~uint64_t{0} << (next % 64));
  return words;
}
std::vector<DemandItem> DemandOf(const std::vector<std::string>& texts) { return Site(texts).graph->Demand(); }

constexpr uint64_t kW = KindBit(Kind::kWeights), kA = KindBit(Kind::kActivations), kL = KindBit(Kind::kLoss);
constexpr uint64_t kG = KindBit(Kind::kLayerGradients);

TEST(Demand, NothingSubscribedAsksForNothing) { EXPECT_TRUE(DemandOf({}).empty()); }

TEST(Demand, KindsOfOnePeriodAreOneEntry) {
  EXPECT_EQ(DemandOf({"mean(weights)", "std(weights)", "loss", "ratio(activations, weights)", "norm(activations)"}),
            std::vector<DemandItem>{Item(kW | kA | kL, Level::kSummary)});
}

DemandItem Dear(DemandItem item) {
  item.moments = kAllMoments;
  return item;
}

TEST(Demand, OnlyKindsWhoseHigherMomentsAreAskedPayForThem) {
  EXPECT_EQ(DemandOf({"mean(weights)", "norm(activations)", "loss", "kurtosis(weights)"}),
            (std::vector<DemandItem>{Item(kA | kL, Level::kSummary), Dear(Item(kW, Level::kSummary))}));
  EXPECT_EQ(DemandOf({"skewness(weights, subsample=10)", "mean(weights)"}),
            (std::vector<DemandItem>{Item(kW, Level::kSummary), Dear(Item(kW, Level::kSummary, 10))}));
  // Who has the tensor has all of them.
  EXPECT_EQ(DemandOf({"kurtosis(weights)", "norm(weights, order=3)"}),
            std::vector<DemandItem>{Item(kW, Level::kTensor)});
}

TEST(Demand, OtherOrdersAskForTensorsOfTheirKindAlone) {
  EXPECT_EQ(DemandOf({"mean(weights)", "mean(activations)", "norm(weights, order=3)"}),
            (std::vector<DemandItem>{Item(kA, Level::kSummary), Item(kW, Level::kTensor)}));
}

TEST(Demand, AccuracyNeedsTensors) {
  EXPECT_EQ(DemandOf({"train_accuracy", "test_accuracy"}),
            (std::vector<DemandItem>{
                Item(KindBit(Kind::kNetworkOutput) | KindBit(Kind::kInputLabels), Level::kTensor, 1, kTagDefault),
                Item(KindBit(Kind::kNetworkOutput) | KindBit(Kind::kInputLabels), Level::kTensor, 1, kTagTest)}));
}

TEST(Demand, PeriodsThatAnotherEntryServesAreLeftOut) {
  EXPECT_EQ(DemandOf({"mean(weights)", "max(weights, subsample=10)", "mean(activations, subsample=10)",
                      "std(activations, subsample=15)"}),
            (std::vector<DemandItem>{Item(kW, Level::kSummary), Item(kA, Level::kSummary, 10),
                                     Item(kA, Level::kSummary, 15)}));
}

TEST(Demand, StatisticsStayWhenTensorsComeAtOtherSteps) {
  EXPECT_EQ(DemandOf({"mean(weights, subsample=10)", "norm(weights, order=3)"}),
            (std::vector<DemandItem>{Item(kW, Level::kTensor, 1), Item(kW, Level::kSummary, 10)}));
}

TEST(Demand, TagsAreApartAndUnknownOnesMayBeAnyThatIsNamedNext) {
  Site site({"loss", "loss(tag=test)", "loss(tag=val)"});
  std::vector<DemandItem> asked{Item(kL, Level::kSummary), Item(kL, Level::kSummary, 1, 1)};
  for (const uint16_t tag : {3, 4, 5, 6}) asked.push_back(Item(kL, Level::kSummary, 1, tag));
  EXPECT_EQ(site.graph->Demand(), asked);
  // Another than was meant.
  site.graph->AddRegistry({Site::Tag(3, "train_eval")});
  EXPECT_TRUE(site.graph->Refresh());
  asked.erase(asked.begin() + 2);
  asked.push_back(Item(kL, Level::kSummary, 1, 7));
  EXPECT_EQ(site.graph->Demand(), asked);
  site.graph->AddRegistry({Site::Tag(7, "val")});
  EXPECT_TRUE(site.graph->Refresh());
  EXPECT_EQ(site.graph->Demand().size(), 3u);
  EXPECT_EQ(site.graph->Demand().back(), Item(kL, Level::kSummary, 1, 7));
  EXPECT_FALSE(site.graph->Refresh());
}

// What came under a name before anybody had read it is kept under it, and what nobody meant is not.
TEST(Demand, WhatIsNamedNextGoesTheWholeWay) {
  Site site({"loss(tag=val)", "mean(weights, module=late)"});
  site.graph->AddRegistry({Site::Tag(3, "val"), Site::Tag(4, "other"), Site::Module(4, 1, "late", "Linear"),
                           Site::Module(5, 1, "later", "Linear"), Site::Param(50, 4, "weight"),
                           Site::Param(51, 5, "weight")});
  for (const uint16_t tag : {3, 4}) {
    const Where where{.tag = tag};
    site.Start(where);
    site.Handle(site.Scalar(Kind::kLoss, where, tag));
    site.Finish(where);
  }
  site.Start({});
  site.Handle(site.Summary(Kind::kWeights, {}, 4, 50, {3}));
  site.Handle(site.Summary(Kind::kWeights, {}, 5, 51, {4}));
  site.Finish({});
  EXPECT_EQ(site.published(), (Published{{"late.weight/weights_mean", {{0, 3}}}, {"val:loss", {{0, 3}}}}));
}

TEST(Demand, RootFiltersNameRoots) {
  EXPECT_EQ(DemandOf({"mean(weights, root=model1)", "mean(activations, root=model*)"}),
            (std::vector<DemandItem>{Item(kA, Level::kSummary, 1, 0, 1), Item(kA | kW, Level::kSummary, 1, 0, 2),
                                     Item(kA | kW, Level::kSummary, 1, 0, 3), Item(kA | kW, Level::kSummary, 1, 0, 4)}));
  EXPECT_EQ(DemandOf({"mean(weights, root=model1)", "max(weights)"}),
            std::vector<DemandItem>{Item(kW, Level::kSummary)});
  EXPECT_EQ(DemandOf({"mean(weights, root=nobody)"}),
            (std::vector<DemandItem>{Item(kW, Level::kSummary, 1, 0, 3), Item(kW, Level::kSummary, 1, 0, 4)}));
}

TEST(Demand, ModuleFiltersAreBitsets) {
  EXPECT_EQ(DemandOf({"mean(weights, module=fc*)", "mean(activations, module=fc2)"}),
            (std::vector<DemandItem>{
                Filtered(Item(kA, Level::kSummary), AndToCome(1u << Site::kFc2)),
                Filtered(Item(kW, Level::kSummary), AndToCome((1u << Site::kFc1) | (1u << Site::kFc2)))}));
  // Who gets all of them needs no filter; META kinds have no module.
  EXPECT_EQ(DemandOf({"mean(weights, module=fc2)", "max(weights)"}),
            std::vector<DemandItem>{Item(kW, Level::kSummary)});
  EXPECT_EQ(DemandOf({"non_finite(loss, weights, module=fc1)"}),
            (std::vector<DemandItem>{Filtered(Item(kW, Level::kSummary), AndToCome(1u << Site::kFc1)),
                                     Item(kL, Level::kSummary)}));
  EXPECT_EQ(DemandOf({"mean(weights, module=nothing)"}),
            std::vector<DemandItem>{Filtered(Item(kW, Level::kSummary), AndToCome(0))});
}

TEST(Demand, ModuleFiltersGrowWithTheRegistry) {
  Site site({"mean(weights, module=late*)"});
  EXPECT_EQ(site.graph->Demand(), std::vector<DemandItem>{Filtered(Item(kW, Level::kSummary), AndToCome(0))});
  EXPECT_FALSE(site.graph->Refresh());
  site.graph->AddRegistry({Site::Module(200, 1, "late.0", "Linear"), Site::Param(50, 200, "weight")});
  EXPECT_TRUE(site.graph->Refresh());
  EXPECT_EQ(site.graph->Demand(),
            std::vector<DemandItem>{Filtered(Item(kW, Level::kSummary), [] {
              std::vector<uint64_t> words = AndToCome(0, 201);
              words[3] |= uint64_t{1} << (200 - 192);
              return words;
            }())});
  // And its records go the whole way.
  site.Start({});
  site.Handle(site.Summary(Kind::kWeights, {}, 200, 50, {3}));
  site.Handle(site.Summary(Kind::kWeights, {}, Site::kFc1, Site::kW1, {3}));
  site.Finish({});
  EXPECT_EQ(site.published(), (Published{{"late.0.weight/weights_mean", {{0, 3}}}}));
}

TEST(Demand, FollowsSubscriptionsWhileRunning) {
  Site site;
  EXPECT_FALSE(site.graph->Refresh());
  site.Subscribe("mean(weights)");
  EXPECT_TRUE(site.graph->Refresh());
  EXPECT_EQ(site.graph->Demand(), std::vector<DemandItem>{Item(kW, Level::kSummary)});
  site.Subscribe("max(weights)");
  EXPECT_FALSE(site.graph->Refresh());  // nothing new is asked
  site.Subscribe("mean(layer_gradients)");
  EXPECT_TRUE(site.graph->Refresh());
  EXPECT_EQ(site.graph->Demand(), std::vector<DemandItem>{Item(kW | kG, Level::kSummary)});
  for (const char* topic : {"weights_mean", "weights_max", "layer_gradients_mean"}) {
    ASSERT_TRUE(site.set.Remove({SubscriberChoice::By::kTopic, 0, topic}).ok());
  }
  EXPECT_TRUE(site.graph->Refresh());
  EXPECT_TRUE(site.graph->Demand().empty());
}

TEST(Demand, AboveTheLimitFiltersAreWidened) {
  Site site;
  std::vector<shm::RegistryEntry> modules;
  for (uint32_t id = 10; id < 410; ++id) modules.push_back(Site::Module(id, 1, "m" + std::to_string(id), "Linear"));
  site.graph->AddRegistry(modules);
  for (uint32_t id = 10; id < 410; ++id) {
    const std::string name = "m" + std::to_string(id);
    site.Subscribe("mean(weights, module=" + name + ", as=" + name + ", subsample=" + std::to_string(id % 2 + 1) + ")");
  }
  site.graph->Refresh();
  EXPECT_EQ(site.graph->Demand(), std::vector<DemandItem>{Item(kW, Level::kSummary)});
}

TEST(Demand, AboveTheLimitPeriodsAreWidened) {
  Site site;
  for (uint32_t period = 1001; period < 1401; period += 2) {
    const std::string text = ", subsample=" + std::to_string(2 * period) + ", as=p" + std::to_string(period) + ")";
    site.Subscribe("mean(weights" + text);
    site.Subscribe("norm(activations, order=3" + text);
  }
  site.graph->Refresh();
  EXPECT_EQ(site.graph->Demand(), (std::vector<DemandItem>{Item(kW, Level::kSummary, 2), Item(kA, Level::kTensor, 2)}));
}

TEST(Demand, OfTheDefaultSetIsFewEntries) {
  Site site;
  for (const std::string& text : DefaultSubscribers()) site.Subscribe(text, Source::kDefault);
  site.graph->Refresh();
  const auto demand = site.graph->Demand();
  EXPECT_EQ(demand.size(), 6u);
  for (const DemandItem& item : demand) {
    EXPECT_EQ(item.kinds & kMarkers, kMarkers);
    EXPECT_TRUE(item.all_modules);
    const uint64_t tensors = KindBit(Kind::kNetworkOutput) | KindBit(Kind::kInputLabels) | kMarkers;
    if (item.level == Level::kTensor) {
      EXPECT_EQ(item.kinds, tensors);  // no weight or activation has to travel
    } else if (item.period == 1) {
      EXPECT_EQ(item.kinds & ~uint64_t{0xffff}, 0u);  // scalars alone every step
    }
  }
}

}  // namespace
}  // namespace ikkuna::graph
