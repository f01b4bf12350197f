#include "daemon/monitor/why.h"

#include <gmock/gmock.h>

#include <algorithm>

#include "daemon/graph/subscriber_set.h"

namespace ikkuna {
namespace {

class WhyTest : public testing::Test {
 public:
  WhyTest() {
    input_.status.state = RunState::kRunning;
    input_.status.info.run_key = {"job-1", 0, 0};
    input_.status.roots.emplace_back();
    input_.status.roots[0].name = "model";
    input_.status.roots[0].steps_observed = 5;
    AddModule("fc1", true);
    AddModule("fc2", true);
    AddModule("fc10", false);
  }

  void AddModule(const std::string& name, bool trainable) {
    ModuleInfo module;
    module.root = "model";
    module.name = name;
    module.type = "Linear";
    for (const char* name_of : {"weight", "bias"}) {
      ModuleInfo::Param param;
      param.name = name_of;
      param.bias = param.name == "bias";
      param.trainable = trainable;
      module.params.push_back(std::move(param));
    }
    input_.modules.push_back(std::move(module));
  }
  void Subscribe(const std::string& text) {
    ASSERT_TRUE(set_.Add(text, SubscriberSource::kFlag).ok()) << text;
    input_.asked = AskedOf(set_.Snapshot(), input_.status.info);
  }
  void Keep(const std::string& topic, const std::string& module, uint64_t count = 1,
            const Timeline& timeline = {"model", "default"}) {
    auto series = std::make_shared<Series>();
    series->name.timeline = timeline;
    series->name.topic = topic;
    series->name.module = module;
    SeriesInfo info;
    info.series = series;
    info.count = count;
    input_.series.push_back(std::move(info));
  }
  // "reason module kind", in order.
  std::vector<std::string> Lines(const std::string& module = {}, const std::string& kind = {}) {
    std::vector<std::string> lines;
    for (const WhyLine& line : ExplainMissing(input_, module, kind)) {
      EXPECT_FALSE(line.text.empty());
      lines.push_back(std::string(WhyReasonName(line.reason)) + " " + line.module + " " + line.kind);
    }
    return lines;
  }

  WhyInput input_;
  graph::SubscriberSet set_;
};
using List = std::vector<std::string>;

TEST_F(WhyTest, EveryCauseOfWhatCameToNothingIsNamedWithWhatHelps) {
  input_.status.missing = {{"withheld", 1}, {"repeated", 2}, {"no_step", 3}, {"unready", 4}, {"crowded", 5}};
  const std::vector<std::vector<std::string>> named = {
      {"withheld, since a part", "see what was dropped", "a call of the module is missing", "was under way when"},
      {"a step of the same number was closed before", "attach it with a start step", "a run of its own",
       "a tag of its own"},
      {"skipped that batch", "needs nothing done", "see what was dropped", "passes_overflow",
       "began before the daemon"},
      {"never came", "--unready-s", "daemon ended"},
      {"too many waited", "too many steps ahead"}};
  size_t seen = 0;
  for (const WhyLine& line : ExplainMissing(input_, {}, {})) {
    if (line.count < 1 || line.count > 5) continue;
    ++seen;
    for (const std::string& text : named[line.count - 1]) {
      EXPECT_NE(line.text.find(text), std::string::npos) << line.text;
    }
  }
  EXPECT_EQ(seen, 5u);
}

TEST_F(WhyTest, WhatIsThereIsNotExplained) {
  Subscribe("mean(weights)");
  for (const char* module : {"fc1", "fc2", "fc10"}) Keep("weights_mean", module);
  EXPECT_EQ(Lines("", "weights"), List());
  EXPECT_EQ(Lines("fc1", "weights"), List());
}

TEST_F(WhyTest, AStepThatTheTrainerEndedWithinIsTold) {
  input_.status.roots[0].steps_due = 6;
  Subscribe("mean(weights)");
  for (const char* module : {"fc1", "fc2", "fc10"}) Keep("weights_mean", module);
  EXPECT_EQ(Lines("", "weights"), List()) << "it may be under way";
  input_.status.state = RunState::kDied;
  EXPECT_EQ(Lines("", "weights"), List{"lost  "});
  const WhyLine line = ExplainMissing(input_, "", "weights").front();
  EXPECT_EQ(line.count, 1u);
  EXPECT_NE(line.text.find("1 step of the 6 of 'model'"), std::string::npos) << line.text;
}

TEST_F(WhyTest, NotAsked) {
  Subscribe("mean(weights, module=fc1)");
  Keep("weights_mean", "fc1");
  EXPECT_EQ(Lines("", "activations"), List{"not_asked  activations"});
  EXPECT_EQ(Lines("", "weights"), (List{"not_asked fc2 weights", "not_asked fc10 weights"}));
  EXPECT_EQ(Lines("fc2", "weights"), List{"not_asked fc2 weights"});
  // Without a question about it, one line tells of all that nobody reads.
  EXPECT_EQ(Lines(), List{"not_asked  "});
}

TEST_F(WhyTest, ASubscriberOfAnotherRunAsksNothingOfThisOne) {
  Subscribe("mean(weights, run=other)");
  EXPECT_EQ(Lines("", "weights"), List{"not_asked  weights"});
}

TEST_F(WhyTest, Thinned) {
  Subscribe("mean(weights)");
  for (const char* module : {"fc1", "fc2", "fc10"}) Keep("weights_mean", module);
  input_.status.budget = 0.01;
  input_.status.period_factor_summary = 4;
  input_.status.period_factor_tensor = 8;  // nobody asks for whole tensors
  EXPECT_EQ(Lines("", "weights"), List{"thinned  "});
  EXPECT_NE(ExplainMissing(input_, "", "weights")[0].text.find("one in 4"), std::string::npos);
  EXPECT_NE(ExplainMissing(input_, "", "weights")[0].text.find("1.00 %"), std::string::npos);
  input_.status.period_factor_summary = 1;
  EXPECT_EQ(Lines("", "weights"), List());
}

TEST_F(WhyTest, DroppedLostAndUnseen) {
  input_.status.drops = {{"ring_full", 0}, {"arena_full", 7}, {"something_new", 1}};
  input_.status.lost_in_daemon = 3;
  input_.status.steps_total = 100;
  input_.status.steps_while_connected = 60;
  const std::vector<WhyLine> lines = ExplainMissing(input_, "fc1", "weights");
  ASSERT_GE(lines.size(), 4u);
  EXPECT_EQ(lines[0].reason, WhyReason::kNoDaemon);
  EXPECT_EQ(lines[0].count, 40u);
  EXPECT_EQ(lines[1].reason, WhyReason::kDropped);
  EXPECT_EQ(lines[1].count, 7u);
  EXPECT_NE(lines[1].text.find("IKKUNA_ARENA_MB"), std::string::npos);
  EXPECT_EQ(lines[2].reason, WhyReason::kDropped);
  EXPECT_EQ(lines[3].reason, WhyReason::kLost);
}

// What the store did not keep may have come: nothing is said of the trainer then.
TEST_F(WhyTest, WhatTheStoreDidNotKeepIsNoFaultOfTheTrainer) {
  Subscribe("loss");
  Subscribe("mean(weight_gradients)");
  Keep("weight_gradients_mean", "fc1");
  EXPECT_EQ(Lines("fc2", "weight_gradients"), List{"no_gradient fc2 weight_gradients"});
  EXPECT_EQ(Lines("", "loss"), List{"never_called  loss"});
  input_.unrecorded = {{"paused", 12}, {"repeated", 0}};
  EXPECT_EQ(Lines("fc2", "weight_gradients"), (List{"unrecorded  ", "unrecorded fc2 weight_gradients"}));
  EXPECT_EQ(Lines("", "loss"), (List{"unrecorded  ", "unrecorded  loss"}));
  const auto lines = ExplainMissing(input_, "", "loss");
  EXPECT_EQ(lines[0].count, 12u);
  EXPECT_NE(lines[0].text.find("paused"), std::string::npos) << lines[0].text;
  // A frozen module has none, whatever the store does; what came twice is there.
  EXPECT_EQ(Lines("fc10", "weight_gradients").back(), "no_gradient fc10 weight_gradients");
  input_.unrecorded = {{"repeated", 3}};
  EXPECT_EQ(Lines("", "loss"), (List{"unrecorded  ", "never_called  loss"}));
  // While it is paused, of a run that goes on.
  input_.unrecorded = {};
  input_.paused = true;
  EXPECT_EQ(Lines("", "loss"), (List{"unrecorded  ", "unrecorded  loss"}));
}

TEST_F(WhyTest, WhatTheStoreThinnedIsSaid) {
  Subscribe("mean(weights)");
  for (const char* module : {"fc1", "fc2", "fc10"}) Keep("weights_mean", module);
  input_.series[1].thinned = 500;
  EXPECT_EQ(Lines("", "weights"), List{"coarsened  "});
  EXPECT_EQ(Lines("fc2", "weights"), List{"coarsened  "});
  EXPECT_EQ(Lines("fc1", "weights"), List());
  EXPECT_EQ(Lines("fc2", "biases"), (List{"not_asked  biases"}));
  EXPECT_EQ(ExplainMissing(input_, "", "weights")[0].count, 500u);
}

TEST_F(WhyTest, EveryReasonOfTheGraphIsNamedForTheRunAndForTheSubscriber) {
  for (size_t i = 0; i < kMissReasonCount; ++i) {
    const auto reason = static_cast<MissReason>(i);
    input_ = {};
    Subscribe("mean(weights)");
    input_.status.missing = {{std::string(MissReasonName(reason)), 11}};
    input_.asked.back().missing[i] = 5;
    const std::vector<WhyLine> lines = ExplainMissing(input_, "", "weights");
    ASSERT_GE(lines.size(), 2u) << i;
    EXPECT_EQ(WhyReasonName(lines[0].reason), MissReasonName(reason));
    EXPECT_EQ(lines[0].count, 11u);
    EXPECT_EQ(WhyReasonName(lines[1].reason), MissReasonName(reason));
    EXPECT_EQ(lines[1].count, 5u);
    EXPECT_EQ(lines[1].subscriber, input_.asked.back().text);
    EXPECT_EQ(lines[0].text.find("were missing"), std::string::npos) << "a sentence for it is lacking";
    // A single one is told as one.
    input_.status.missing[0].count = input_.asked.back().missing[i] = 1;
    for (const WhyLine& line : ExplainMissing(input_, "", "weights")) {
      if (line.count != 1) continue;
      EXPECT_THAT(line.text, testing::ContainsRegex("1 [a-z]+[^s] (of all subscribers )?was "));
      EXPECT_THAT(line.text, testing::Not(testing::ContainsRegex(" the[yi]r? ")));
    }
  }
}

TEST_F(WhyTest, NoGradient) {
  Subscribe("mean(weight_gradients)");
  Keep("weight_gradients_mean", "fc1");
  EXPECT_EQ(Lines("", "weight_gradients"),
            (List{"no_gradient fc2 weight_gradients", "no_gradient fc10 weight_gradients"}));
  const std::vector<WhyLine> frozen = ExplainMissing(input_, "fc10", "weight_gradients");
  ASSERT_EQ(frozen.size(), 1u);
  EXPECT_NE(frozen[0].text.find("frozen"), std::string::npos);
  EXPECT_EQ(ExplainMissing(input_, "fc2", "weight_gradients")[0].text.find("frozen"), std::string::npos);
}

TEST_F(WhyTest, NeverCalled) {
  Subscribe("mean(activations); loss");
  Keep("activations_mean", "fc1");
  EXPECT_EQ(Lines("", "activations"), (List{"never_called fc2 activations", "never_called fc10 activations"}));
  EXPECT_EQ(Lines("", "loss"), List{"never_called  loss"});
  Keep("loss", "");
  EXPECT_EQ(Lines("", "loss"), List());
}

TEST_F(WhyTest, AKindOfWhichNoModuleHasAnyIsNamedWithWhatHelps) {
  Subscribe("mean(weights); norm(exp_avg); mean(raw_weight_gradients); mean(activations); mean(buffers)");
  for (const char* module : {"fc1", "fc2", "fc10"}) Keep("weights_mean", module);
  EXPECT_EQ(Lines("", "weights"), List());
  EXPECT_EQ(Lines("", "activations"), List{"never_called  activations"});
  EXPECT_EQ(Lines("fc1", "activations"), List{"never_called  activations"});
  EXPECT_EQ(Lines("", "buffers"), List{"never_called  buffers"});
  EXPECT_NE(ExplainMissing(input_, "", "buffers")[0].text.find("no module of this run has"), std::string::npos);
  // That of a frozen module has a reason of its own as well.
  EXPECT_EQ(Lines("", "exp_avg"), (List{"never_called  exp_avg", "no_gradient fc10 exp_avg"}));
  EXPECT_NE(ExplainMissing(input_, "", "exp_avg")[0].text.find("plain SGD"), std::string::npos);
  EXPECT_NE(ExplainMissing(input_, "", "raw_weight_gradients")[0].text.find("clipped"), std::string::npos);
  // Who dropped some did not fail to publish them.
  EXPECT_EQ(ExplainMissing(input_, "", "activations")[0].text.find("dropped"), std::string::npos);
  input_.status.drops = {{"arena_full", 7}};
  EXPECT_EQ(Lines("", "activations"), (List{"dropped  ", "never_called  activations"}));
  EXPECT_NE(ExplainMissing(input_, "", "activations")[1].text.find("among what was dropped"), std::string::npos);
  // Of a run that is over as well.
  input_.status.drops = {};
  input_.status.kinds_asked = KindBit(Kind::kWeights) | KindBit(Kind::kActivations);
  input_.status.state = RunState::kFinished;
  EXPECT_EQ(Lines("", "activations"), List{"never_called  activations"});
}

TEST_F(WhyTest, WhoNamesNoModuleOfTheRunIsTold) {
  Subscribe("mean(weights, module=encoder.*)");
  EXPECT_EQ(Lines("", "weights")[0], "not_asked  weights");
  const std::vector<WhyLine> lines = ExplainMissing(input_, "", "");
  EXPECT_TRUE(std::any_of(lines.begin(), lines.end(), [](const WhyLine& line) {
    return line.text.find("name no module of this run") != std::string::npos;
  }));
}

TEST_F(WhyTest, ATagThatNothingBearsIsNamed) {
  Subscribe("mean(weights); mean(weights, tag=test)");
  for (const char* module : {"fc1", "fc2", "fc10"}) Keep("weights_mean", module);
  const std::vector<WhyLine> lines = ExplainMissing(input_, "", "weights");
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0].reason, WhyReason::kNeverCalled);
  EXPECT_NE(lines[0].text.find("the tag 'test'"), std::string::npos) << lines[0].text;
  EXPECT_EQ(lines[0].subscriber, input_.asked.back().text);
  Keep("weights_mean", "fc1", 1, {"model", "test"});
  EXPECT_EQ(Lines("", "weights"), (List{"never_called fc2 weights", "never_called fc10 weights"}));
  for (const char* module : {"fc2", "fc10"}) Keep("weights_mean", module, 1, {"model", "test"});
  EXPECT_EQ(Lines("", "weights"), List());
}

// The same name in another model, or under another tag, is another module's, or another's values.
TEST_F(WhyTest, OfEachModelAndTag) {
  Subscribe("mean(activations)");
  Subscribe("mean(activations, tag=test)");
  for (const char* module : {"fc1", "fc2", "fc10"}) Keep("activations_mean", module, 1, {"model", "test"});
  EXPECT_EQ(Lines("", "activations"), List{"never_called  activations"});
  EXPECT_NE(ExplainMissing(input_, "", "activations")[0].text.find("under the tag 'default'"), std::string::npos);
  for (const char* module : {"fc1", "fc2"}) Keep("activations_mean", module);
  EXPECT_EQ(Lines("", "activations"), List{"never_called fc10 activations"});
  AddModule("fc1", true);
  input_.modules.back().root = "critic";
  const std::vector<WhyLine> lines = ExplainMissing(input_, "fc1", "activations");
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0].text.find("'fc1' of 'critic' had no activations, while"), 0u) << lines[0].text;
  EXPECT_EQ(lines[1].text.find("'fc1' of 'critic' had no activations under the tag 'test', while"), 0u) << lines[1].text;
}

TEST_F(WhyTest, AClientsOwnTopicIsMadeOfNothingOfTheTrainers) {
  Subscribe("mean(biases)");
  Keep("biases_note", "fc1");
  EXPECT_EQ(Lines("fc1", "biases"), List());
  input_.topics_of_clients = {"biases_note"};
  EXPECT_EQ(Lines("fc1", "biases"), List{"never_called  biases"});
}

TEST_F(WhyTest, NotYet) {
  Subscribe("mean(weights, subsample=50)");
  input_.status.roots[0].steps_observed = 0;
  EXPECT_EQ(Lines("", "weights"), List{"not_yet  weights"});
  EXPECT_NE(ExplainMissing(input_, "", "weights")[0].text.find("50"), std::string::npos);
}

TEST_F(WhyTest, WhatMayNotHaveBeenDueIsNotCalledMissing) {
  Subscribe("mean(weights); mean(activations, subsample=50)");
  for (const char* module : {"fc1", "fc2", "fc10"}) Keep("weights_mean", module);
  EXPECT_EQ(Lines("", "activations"), List{"not_yet  activations"});
  input_.status.roots[0].steps_observed = 50;
  EXPECT_EQ(Lines("", "activations"), List{"never_called  activations"});
}

TEST_F(WhyTest, ARuleLeavesNoSeriesByWhichItCouldBeToldThatNothingCame) {
  Subscribe("mean(weights)");
  for (const char* module : {"fc1", "fc2", "fc10"}) Keep("weights_mean", module);
  Asked rule = input_.asked[0];
  rule.text = "a rule";
  rule.kinds = KindBit(Kind::kActivations);
  rule.topics.clear();
  rule.tag = "test";
  input_.asked.push_back(rule);
  EXPECT_EQ(Lines("", "activations"), List());
  EXPECT_EQ(Lines("", "weights"), List());
}

TEST_F(WhyTest, WhereNotAllSeriesWereLookedAtNoneIsCalledMissing) {
  Subscribe("mean(weights); mean(weights, tag=test)");
  Keep("weights_mean", "fc1");
  EXPECT_GT(Lines().size(), 1u);
  input_.series_cut = true;
  EXPECT_EQ(Lines(), List{"not_looked_at  "});
}

TEST_F(WhyTest, UncapturedGoesToTheModuleThatTheNoteNames) {
  Subscribe("mean(weights)");
  Keep("weights_mean", "fc2");
  Keep("weights_mean", "fc10");
  input_.status.notes = {"weights of fc1 are not captured: a sparse tensor",
                         "this kernel cannot seal against later writers"};
  EXPECT_EQ(Lines("", "weights"), List{"uncaptured fc1 weights"});
  EXPECT_EQ(Lines("fc10", "weights"), List()) << "fc1 is no part of fc10";
  EXPECT_EQ(Lines("fc1", "biases"), List{"not_asked  biases"});
  input_.status.notes = {"more than 16 models were attached; the last ones are not watched"};
  Keep("weights_mean", "fc1");
  EXPECT_EQ(Lines("fc2", "weights"), List{"uncaptured  "});
}

TEST_F(WhyTest, OneThatWasSwitchedOffSaysSo) {
  Subscribe("mean(weights)");
  Keep("weights_mean", "fc1");
  input_.asked.back().off = true;
  const List lines = Lines("", "weights");
  ASSERT_FALSE(lines.empty());
  EXPECT_EQ(lines[0], "threw  ");
}

TEST_F(WhyTest, AnEmptyRunAndOddPatternsAreNoTrouble) {
  input_ = {};
  EXPECT_EQ(Lines("nothing|", "no*such?"), List());
  EXPECT_EQ(Lines(), List{"not_asked  "});
  input_.status.state = RunState::kQuarantined;
  EXPECT_EQ(Lines("", "nothing"), List{"uncaptured  "});
  EXPECT_EQ(WhyReasonName(static_cast<WhyReason>(200)), "invalid");
}

}  // namespace
}  // namespace ikkuna
