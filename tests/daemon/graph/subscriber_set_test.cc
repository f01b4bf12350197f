#include "daemon/graph/subscriber_set.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "daemon/graph/subscriber_entry.h"
#include "daemon/graph/subscription.h"

namespace ikkuna::graph {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

// An id, a written form or a topic, by its looks.
SubscriberChoice Choice(const std::string& what) {
  SubscriberChoice choice;
  choice.text = what;
  const bool digits = !what.empty() && what.find_first_not_of("0123456789") == std::string::npos;
  choice.by = digits                                ? SubscriberChoice::By::kId
              : what.find('(') != std::string::npos ? SubscriberChoice::By::kText
                                                    : SubscriberChoice::By::kTopic;
  if (digits) choice.id = std::stoull(what);
  return choice;
}

class Set : public testing::Test {
 protected:
  std::vector<SubscriberInfo> Add(const std::string& text, Source source = Source::kClient) {
    auto added = set.Add(text, source);
    EXPECT_TRUE(added.ok()) << (added.ok() ? "" : added.error().text);
    return added.ok() ? std::move(added->subscribers) : std::vector<SubscriberInfo>{};
  }
  std::string Complete(const std::string& text) {
    SubscriberSet fresh;
    const auto added = fresh.Add(text, Source::kClient);
    return added.ok() ? added->subscribers[0].text : added.error().text;
  }
  std::string Topic(const std::string& text) {
    SubscriberSet fresh;
    const auto added = fresh.Add(text, Source::kClient);
    return added.ok() ? added->subscribers.back().topics.at(0) : added.error().text;
  }
  // The message; the set is unchanged afterwards.
  std::string Refused(const std::string& text, ErrorCode code = ErrorCode::kInvalidArgument,
                      Source source = Source::kClient) {
    const uint64_t version = set.version();
    const std::vector<std::string> before = Texts();
    const auto added = set.Add(text, source);
    EXPECT_FALSE(added.ok()) << text;
    EXPECT_EQ(set.version(), version);
    EXPECT_EQ(Texts(), before);
    if (added.ok()) return "";
    EXPECT_EQ(added.error().code, code) << added.error().text;
    return added.error().text;
  }
  std::vector<std::string> Texts() const {
    std::vector<std::string> texts;
    for (const SubscriberInfo& info : set.List()) texts.push_back(info.text);
    return texts;
  }
  std::vector<uint64_t> Removed(const std::string& what) {
    const auto removed = set.Remove(Choice(what));
    EXPECT_TRUE(removed.ok()) << (removed.ok() ? "" : removed.error().text);
    std::vector<uint64_t> ids;
    if (removed.ok()) {
      for (const SubscriberInfo& info : removed->removed) ids.push_back(info.id);
    }
    return ids;
  }

  SubscriberSet set;
};

TEST_F(Set, TheWrittenFormIsMadeComplete) {
  EXPECT_EQ(Complete("loss"), "loss(tag=default, subsample=1)");
  EXPECT_EQ(Complete("mean( weights )"), "mean(weights, tag=default, subsample=1)");
  EXPECT_EQ(Complete("norm(layer_gradients, as=head, module=features.*, subsample=010, order=2.0)"),
            "norm(layer_gradients, order=2, tag=default, subsample=10, module=features.*, as=head)");
  EXPECT_EQ(Complete("test_accuracy"), "test_accuracy(top=1, tag=test, subsample=1)");
  EXPECT_EQ(Complete("mean(activations, tag=\"a,b\", root=model?)"),
            "mean(activations, tag=\"a,b\", subsample=1, root=model?)");
  EXPECT_EQ(Complete("non_finite"),
            "non_finite(loss, weights, activations, layer_gradients, weight_gradients, tag=default, subsample=1)");
  // Complete is complete: it is its own complete form.
  for (const std::string& text : DefaultSubscribers()) {
    if (text.find("message_mean") == 0) continue;
    EXPECT_EQ(Complete(Complete(text)), Complete(text)) << text;
  }
}

TEST_F(Set, Topics) {
  EXPECT_EQ(Topic("mean(weight_gradients)"), "weight_gradients_mean");
  EXPECT_EQ(Topic("norm(weights)"), "weights_norm2");
  EXPECT_EQ(Topic("norm(weights, order=inf)"), "weights_norm_inf");
  EXPECT_EQ(Topic("norm(weights, order=2.5)"), "weights_norm2p5");
  EXPECT_EQ(Topic("ratio(weight_updates, weights)"), "weight_updates_weights_ratio");
  EXPECT_EQ(Topic("mean(weights); message_mean(weights_mean)"), "weights_mean_message_mean");
  EXPECT_EQ(Topic("norm(weights, as=head)"), "weights_norm2@head");
  EXPECT_EQ(Topic("norm(weights, as=head); message_mean(weights_norm2@head)"), "weights_norm2_message_mean@head");
  EXPECT_EQ(Topic("norm(weights, as=head); message_mean(weights_norm2@head, as=x)"), "weights_norm2_message_mean@x");
  EXPECT_EQ(Topic("loss(tag=val)"), "loss");
}

TEST_F(Set, UnknownNamesAreNamedListedAndCorrected) {
  EXPECT_THAT(Refused("meen(weights)"),
              StartsWith("there is no metric 'meen'; did you mean 'mean'? There are: abs_max,"));
  EXPECT_THAT(Refused("nonsense(weights)"), StartsWith("there is no metric 'nonsense'. There are: "));
  EXPECT_THAT(Refused("mean(wieghts)"),
              StartsWith("mean: there is no kind or topic 'wieghts'; did you mean 'weights'? Kinds: input_data, "));
  EXPECT_THAT(Refused("mean(nothing)"), HasSubstr(" No topics are published."));
  EXPECT_THAT(Refused("mean(Nothing!)"), StartsWith("mean: there is no kind or topic 'Nothing!'."));
  Add("norm(weights)");
  EXPECT_EQ(Refused("message_mean(weights_norm)"),
            "message_mean: there is no topic 'weights_norm'; did you mean 'weights_norm2'? Topics: weights_norm2");
  EXPECT_EQ(Refused("message_mean(weights)"), "message_mean: there is no topic 'weights'. Topics: weights_norm2");
  EXPECT_EQ(Refused("norm(weights, ordr=2)"),
            "norm has no option 'ordr'; did you mean 'order'? There are: order, tag, subsample, module, root, run, as");
}

TEST_F(Set, BadInputsAndOptions) {
  EXPECT_EQ(Refused("mean()"), "mean takes 1 between its parentheses, not 0");
  EXPECT_EQ(Refused("mean(weights, activations)"), "mean takes 1 between its parentheses, not 2");
  EXPECT_EQ(Refused("ratio(weights)"), "ratio takes 2 between its parentheses, not 1");
  EXPECT_EQ(Refused("ratio(weights, weights)"), "ratio names 'weights' twice");
  EXPECT_EQ(Refused("loss(weights)"), "loss takes no kinds, not 1");
  EXPECT_EQ(Refused("message_mean()"), "message_mean takes 1 topic between its parentheses, not 0");
  EXPECT_EQ(Refused("mean(text)"), "mean: text carries no numbers");
  EXPECT_EQ(Refused("mean(batch_started)"), "mean: batch_started carries no numbers");
  EXPECT_EQ(Refused("norm(weights, order=x)"), "order='x' of norm is not a number: give 0, inf, or 0.01 to 1000");
  EXPECT_EQ(Refused("mean(weights, subsample=0)"), "subsample='0' is not a whole number above zero");
  EXPECT_EQ(Refused("mean(weights, subsample=-1)"), "subsample='-1' is not a whole number above zero");
  EXPECT_EQ(Refused("mean(weights, subsample=5000000000)"), "subsample='5000000000' is not a whole number above zero");
  EXPECT_EQ(Refused("mean(weights, as=Head)"), "as='Head': give a name of a-z, 0-9 and _");
  EXPECT_EQ(Refused("mean(weights, tag=" + std::string(256, 'x') + ")"), "tag= is longer than any name there is");
  EXPECT_THAT(Refused("mean(weights, as=" + std::string(250, 'x') + ")"), HasSubstr("is too long"));
  EXPECT_THAT(Refused("mean(weights"), HasSubstr("the closing ')' is missing"));
}

TEST_F(Set, AllOrNothing) {
  EXPECT_THAT(Refused("mean(weights); bad()"), HasSubstr("'bad'"));
  EXPECT_THAT(Refused("mean(weights); max(weights); message_mean(weights_min)"), HasSubstr("'weights_min'"));
  EXPECT_TRUE(set.List().empty());
}

TEST_F(Set, IdenticalSubscriptionsShareOne) {
  const auto first = Add("norm(weights)", Source::kConfig);
  const auto second = Add("norm(weights, order=2.0, tag=default); norm( weights )");
  ASSERT_EQ(second.size(), 2u);
  EXPECT_EQ(second[0].id, first[0].id);
  EXPECT_EQ(second[1].id, first[0].id);
  EXPECT_EQ(set.List().size(), 1u);
  EXPECT_EQ(set.List()[0].source, Source::kConfig);
}

TEST_F(Set, TwoDifferentOnesOfOneTopicAreAnError) {
  Add("norm(weights)");
  EXPECT_EQ(
      Refused("norm(weights, subsample=10)", ErrorCode::kAlreadyExists),
      "the topic weights_norm2 is published by norm(weights, order=2, tag=default, subsample=1) already (subscriber "
      "1); unsubscribe that, or give this one a name with as=");
  EXPECT_THAT(Refused("max(weights); max(weights, module=fc1)", ErrorCode::kAlreadyExists), HasSubstr("weights_max"));
  Refused("norm(weights, root=model)", ErrorCode::kAlreadyExists);
  // Another name, another tag and another root are other series.
  Add("norm(weights, subsample=10, as=slow)");
  Add("norm(weights, tag=test)");
  Add("max(weights, root=model); max(weights, root=model1)");
}

TEST_F(Set, AnExplicitOneReplacesADefault) {
  Add("norm(weights, subsample=10); message_mean(weights_norm2); mean(activations)", Source::kDefault);
  const auto added = Add("norm(weights)");
  EXPECT_THAT(Texts(), ElementsAre("message_mean(weights_norm2, tag=default, subsample=1)",
                                   "mean(activations, tag=default, subsample=1)",
                                   "norm(weights, order=2, tag=default, subsample=1)"));
  EXPECT_EQ(added[0].source, Source::kClient);
  // A default that comes later gives way.
  EXPECT_EQ(Add("norm(weights, subsample=10)", Source::kDefault)[0].id, added[0].id);
  EXPECT_EQ(set.List().size(), 3u);
  // Under another tag it stays.
  Add("mean(activations, tag=test)");
  EXPECT_EQ(set.List().size(), 4u);
  // One that was asked for as it is, is no default any more.
  Add("mean(activations)");
  Refused("mean(activations, subsample=2)", ErrorCode::kAlreadyExists);
}

TEST_F(Set, AReplacedDefaultIsBackWhenWhatReplacedItGoes) {
  Add("loss; norm(weights, subsample=10); message_mean(weights_norm2); mean(activations)", Source::kDefault);
  const auto before = Texts();
  const std::string was = Complete("norm(weights, subsample=10)");
  const auto taken = set.Snapshot();
  const auto added = set.Add("norm(weights); mean(activations, module=fc1)", Source::kClient);
  ASSERT_TRUE(added.ok());
  ASSERT_EQ(added->replaced.size(), 2u);
  EXPECT_EQ(added->replaced[0].text, was);
  EXPECT_EQ(added->replaced[0].id, 2u);

  const auto removed = set.Remove(Choice("weights_norm2"));
  ASSERT_TRUE(removed.ok());
  // What takes the topic stays: it never went without.
  ASSERT_EQ(removed->removed.size(), 1u);
  EXPECT_EQ(removed->removed[0].text, Complete("norm(weights)"));
  ASSERT_EQ(removed->restored.size(), 1u);
  EXPECT_EQ(removed->restored[0].text, was);
  EXPECT_EQ(removed->restored[0].id, 2u);
  EXPECT_EQ(removed->restored[0].source, Source::kDefault);
  // Steps that were open when it was replaced go on without it.
  for (const auto& entry : taken) EXPECT_EQ(entry->removed, entry->id == 2u || entry->id == 4u);
  for (const auto& entry : set.Snapshot()) EXPECT_FALSE(entry->removed);
  Removed("mean(activations, module=fc1)");
  EXPECT_THAT(Texts(), testing::UnorderedElementsAreArray(before));
  // A default that was unsubscribed by itself stays away.
  Removed("2");
  Add("norm(weights)");
  Removed("weights_norm2");
  EXPECT_THAT(Texts(), ElementsAre(Complete("loss"), Complete("mean(activations)")));
}

TEST_F(Set, AReplacedDefaultWaitsForAllThatStandInItsPlace) {
  Add("max(weights)", Source::kDefault);
  Add("max(weights, root=model); max(weights, root=model1)");
  EXPECT_TRUE(set.Remove(Choice("2"))->restored.empty());
  EXPECT_EQ(set.Remove(Choice("3"))->restored.size(), 1u);
}

TEST_F(Set, AReplacedDefaultWaitsForWhatItTakes) {
  Add("mean(weights); message_mean(weights_mean)", Source::kDefault);
  Add("message_mean(weights_mean, subsample=5)");
  EXPECT_THAT(Removed("1"), ElementsAre(1, 3));
  EXPECT_TRUE(set.List().empty());
  Add("mean(weights)");
  EXPECT_THAT(Texts(), ElementsAre(Complete("mean(weights)"), "message_mean(weights_mean, tag=default, subsample=1)"));
}

TEST_F(Set, ADefaultThatWasAskedForTooIsADefaultAgain) {
  Add("loss", Source::kDefault);
  EXPECT_EQ(Add("loss")[0].source, Source::kClient);
  const auto removed = set.Remove(Choice("loss"));
  ASSERT_TRUE(removed.ok());
  ASSERT_EQ(removed->restored.size(), 1u);
  EXPECT_EQ(removed->restored[0].source, Source::kDefault);
  EXPECT_EQ(removed->restored[0].id, removed->removed[0].id);
  EXPECT_EQ(set.List().size(), 1u);
  EXPECT_TRUE(set.Remove(Choice("loss"))->restored.empty());
  EXPECT_TRUE(set.List().empty());
}

TEST_F(Set, OneTextDoesNotAskForTwoOfATopic) {
  Add("norm(weights, subsample=10)", Source::kDefault);
  Refused("norm(weights, subsample=10); norm(weights)", ErrorCode::kAlreadyExists);
  EXPECT_EQ(set.List()[0].source, Source::kDefault);
}

TEST_F(Set, TopicsBelongToTheirTag) {
  Add("mean(weights)");
  EXPECT_EQ(
      Refused("message_mean(weights_mean, tag=test)"),
      "message_mean(weights_mean, tag=test, subsample=1): weights_mean is not published under tag 'test'; give tag= "
      "the topic's own");
  Add("text; non_finite");
  EXPECT_THAT(Refused("message_mean(non_finite)"), HasSubstr("there is no topic 'non_finite'"));
}

TEST_F(Set, RemovesByIdWrittenFormAndTopic) {
  Add("loss; loss(tag=test); mean(weights); max(weights); min(weights); sum(weights)");
  EXPECT_THAT(Removed("3"), ElementsAre(3));
  EXPECT_THAT(Removed("max(weights)"), ElementsAre(4));
  EXPECT_THAT(Removed("min(weights, tag=default, subsample=1)"), ElementsAre(5));
  EXPECT_THAT(Removed("weights_sum"), ElementsAre(6));
  EXPECT_THAT(Removed("loss()"), ElementsAre(1));  // the written form; under tag test there is another
  EXPECT_THAT(Removed("loss"), ElementsAre(2));    // the topic
  const auto none = set.Remove(Choice("loss"));
  ASSERT_FALSE(none.ok());
  EXPECT_EQ(none.error().code, ErrorCode::kNotFound);
  EXPECT_EQ(none.error().text, "there are no subscribers");
}

TEST_F(Set, RemovingAnUnknownOneSaysWhatIsMeantAndWhereTheyAre) {
  Add("mean(weights)");
  for (const char* what : {"7", "weights_maen", "max(weights)", "", "mean(", "mean(weights, subsample=3)"}) {
    const auto removed = set.Remove(Choice(what));
    ASSERT_FALSE(removed.ok()) << what;
    EXPECT_EQ(removed.error().code, ErrorCode::kNotFound);
    EXPECT_THAT(removed.error().text, HasSubstr("one of the 1 that 'ikkuna subscribers' lists"));
  }
  EXPECT_THAT(set.Remove(Choice("weights_maen")).error().text, HasSubstr("did you mean 'weights_mean'?"));
  EXPECT_EQ(set.List().size(), 1u);
}

TEST_F(Set, WhoTakesARemovedTopicGoesWithIt) {
  Add("mean(weights); message_mean(weights_mean); mean(weights_mean_message_mean); loss");
  EXPECT_THAT(Removed("1"), ElementsAre(1, 2, 3));
  EXPECT_EQ(Texts(), std::vector<std::string>{"loss(tag=default, subsample=1)"});
}

TEST_F(Set, RemovingTheSameTwiceInOneTextIsOnce) {
  Add("mean(weights)");
  EXPECT_THAT(Removed("mean(weights); mean(weights)"), ElementsAre(1));
}

TEST_F(Set, WhatClientsSubscribedHasOwners) {
  Add("loss", Source::kConfig);
  const auto by = [&](const std::string& text, const std::string& owner) {
    const auto added = set.Add(text, Source::kClient, owner);
    EXPECT_TRUE(added.ok());
  };
  by("mean(weights); loss", "uid:1");
  by("mean(weights)", "uid:2");
  by("max(weights, run=a|b)", "uid:2");
  EXPECT_THAT(set.List()[1].owners, ElementsAre("uid:1", "uid:2"));
  EXPECT_EQ(set.List()[2].run, "a|b");
  const std::vector<SavedSubscription> saved = set.Export();
  EXPECT_EQ(saved, (std::vector<SavedSubscription>{{1, Complete("loss"), "uid:1"},
                                                   {2, Complete("mean(weights)"), "uid:1"},
                                                   {2, Complete("mean(weights)"), "uid:2"},
                                                   {3, Complete("max(weights, run=a|b)"), "uid:2"}}));
  // Put back after a restart it is the same.
  SubscriberSet later;
  ASSERT_TRUE(later.Add("loss", Source::kConfig).ok());
  EXPECT_TRUE(later.Restore(saved).empty());
  EXPECT_EQ(later.Export(), saved);
  EXPECT_EQ(later.List().size(), 3u);

  // One may remove what is theirs.
  const auto refused = set.Remove(Choice("weights_max"), "uid:1");
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kPermissionDenied);
  EXPECT_THAT(refused.error().text, HasSubstr("(subscriber 3) was not subscribed by uid:1 but by uid:2;"));
  const auto kept = set.Remove(Choice("weights_mean"), "uid:1");
  ASSERT_TRUE(kept.ok());
  EXPECT_TRUE(kept->removed.empty());
  ASSERT_EQ(kept->kept.size(), 1u);
  EXPECT_THAT(kept->kept[0].owners, ElementsAre("uid:2"));
  EXPECT_THAT(set.Remove(Choice("loss"), "uid:2").error().text, HasSubstr("but by uid:1;"));
  EXPECT_EQ(set.Remove(Choice("loss"), "uid:1")->kept.size(), 1u);  // the configuration wants it
  EXPECT_THAT(set.Remove(Choice("loss"), "uid:1").error().text, HasSubstr("but by the daemon's operator;"));
  EXPECT_EQ(set.Remove(Choice("weights_mean"), "uid:2")->removed.size(), 1u);
  // Who may control removes anything.
  EXPECT_EQ(set.Remove(Choice("weights_max"))->removed.size(), 1u);
  EXPECT_EQ(set.Remove(Choice("loss"))->removed.size(), 1u);
  EXPECT_TRUE(set.Export().empty());
}

TEST_F(Set, OneThatThrewAndIsAskedForAgainStaysThatOfWhoHadIt) {
  ASSERT_TRUE(set.Add("loss", Source::kConfig).ok());
  ASSERT_TRUE(set.Add("loss; max(weights)", Source::kClient, "uid:1").ok());
  for (const auto& entry : set.Snapshot()) ASSERT_TRUE(set.SwitchOff(*entry));
  ASSERT_TRUE(set.Add("loss; max(weights)", Source::kClient, "uid:2").ok());
  const std::vector<SubscriberInfo> all = set.List();
  ASSERT_EQ(all.size(), 2u);
  for (const SubscriberInfo& one : all) {
    EXPECT_FALSE(one.off);
    EXPECT_THAT(one.owners, ElementsAre("uid:1", "uid:2"));
  }
  EXPECT_EQ(all[0].source, Source::kConfig) << "the configuration has it still";
  EXPECT_EQ(all[1].source, Source::kClient);
  EXPECT_EQ(set.Remove(Choice("weights_max"), "uid:2")->kept.size(), 1u);
}

TEST_F(Set, WhatIsPutBackKeepsItsNumberWhereThatIsFreeAndNoOtherEverGetsIt) {
  const std::vector<SavedSubscription> saved{{2, "mean(weights)", "uid:1"},
                                             {7, "max(weights)", "uid:1"},
                                             {7, "max(weights)", "uid:2"},
                                             {40, "no_such_metric", "uid:2"},
                                             {UINT64_MAX, "min(weights)", ""}};
  Add("loss; learning_rate", Source::kFlag);  // 1 and 2 are the operator's now
  const auto failed = set.Restore(saved);
  ASSERT_EQ(failed.size(), 1u);
  EXPECT_EQ(failed[0].saved, saved[3]);
  EXPECT_THAT(failed[0].why, HasSubstr("no_such_metric"));
  std::vector<std::pair<std::string, uint64_t>> ids;
  for (const SubscriberInfo& info : set.List()) ids.emplace_back(info.topics[0], info.id);
  EXPECT_THAT(ids, ElementsAre(std::pair("loss", 1), std::pair("learning_rate", 2), std::pair("weights_mean", 41),
                               std::pair("weights_max", 7), std::pair("weights_min", 42)));
  EXPECT_THAT(set.List()[3].owners, ElementsAre("uid:1", "uid:2"));
  EXPECT_EQ(set.List()[4].source, Source::kClient);
  EXPECT_EQ(set.Add("std(weights)", Source::kClient, "uid:1")->subscribers[0].id, 43u);
  EXPECT_TRUE(set.Restore({}).empty());
}

TEST_F(Set, WhatIsPutBackMayTakeWhatStandsBehindIt) {
  const auto failed = set.Restore({{3, "message_mean(weights_norm2_message_mean@y, as=z)", "uid:1"},
                                   {2, "message_mean(weights_norm2@x, as=y)", "uid:1"},
                                   {1, "norm(weights, as=x)", "uid:1"},
                                   {9, "message_mean(weights_mean)", "uid:1"}});
  ASSERT_EQ(failed.size(), 1u) << failed[0].why;
  EXPECT_EQ(failed[0].saved.id, 9u);
  EXPECT_EQ(set.List().size(), 3u);
  // And once more, in the order that it has now.
  SubscriberSet later;
  EXPECT_TRUE(later.Restore(set.Export()).empty());
  EXPECT_EQ(later.Export(), set.Export());
}

TEST_F(Set, OneOwnerOfADefaultLeavesItADefault) {
  Add("loss", Source::kDefault);
  ASSERT_TRUE(set.Add("loss", Source::kClient, "uid:1").ok());
  const auto removed = set.Remove(Choice("loss"), "uid:1");
  ASSERT_TRUE(removed.ok());
  EXPECT_EQ(removed->restored.size(), 1u);
  EXPECT_EQ(set.List().at(0).source, Source::kDefault);
  EXPECT_TRUE(set.Export().empty());
}

TEST_F(Set, OneOfADifferentRunIsNoOtherOfItsTopic) {
  Add("max(weights, run=a); max(weights, run=b)");
  EXPECT_THAT(Refused("max(weights)", ErrorCode::kAlreadyExists), HasSubstr("weights_max"));
  EXPECT_THAT(Refused("max(weights, run=a*)", ErrorCode::kAlreadyExists), HasSubstr("weights_max"));
}

TEST_F(Set, HasAMaximum) {
  std::string text;
  for (size_t i = 0; i < SubscriberSet::kMaxSubscribers; ++i) text += "mean(weights, as=n" + std::to_string(i) + ");";
  Add(text);
  EXPECT_THAT(Refused("loss", ErrorCode::kResourceExhausted), HasSubstr("1024 subscribers"));
}

TEST_F(Set, ListsMetrics) {
  const auto metrics = set.Metrics();
  const auto norm = std::find_if(metrics.begin(), metrics.end(), [](const auto& m) { return m.name == "norm"; });
  ASSERT_NE(norm, metrics.end());
  ASSERT_EQ(norm->outputs.size(), 1u);
  EXPECT_EQ(norm->outputs[0].topic, "{kind}_norm{order}");
  EXPECT_EQ(norm->outputs[0].type, ValueType::kNumber);
  EXPECT_EQ(norm->cost, metrics::Cost::kCheap);
  EXPECT_EQ(norm->runs, metrics::Runs::kInline);
  EXPECT_EQ(norm->scope, metrics::Scope::kSeries);
  ASSERT_EQ(norm->parameters.size(), 1u);
  EXPECT_EQ(norm->parameters[0].name, "order");
  EXPECT_EQ(norm->parameters[0].default_value, "2");
  EXPECT_FALSE(norm->help.empty());
}

TEST_F(Set, TheDefaultSetIsWhole) {
  for (const std::string& text : DefaultSubscribers()) Add(text, Source::kDefault);
  EXPECT_EQ(set.List().size(), DefaultSubscribers().size());
  for (const SubscriberInfo& info : set.List()) EXPECT_EQ(info.source, Source::kDefault);
}

TEST_F(Set, IsUsedFromManyThreads) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([this, t] {
      const std::string name = "t" + std::to_string(t);
      for (int i = 0; i < 100; ++i) {
        EXPECT_TRUE(set.Add("mean(weights, as=" + name + ")", Source::kClient).ok());
        EXPECT_FALSE(set.Snapshot().empty());
        EXPECT_FALSE(set.List().empty());
        EXPECT_TRUE(set.Remove(Choice("weights_mean@" + name)).ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(set.List().empty());
  EXPECT_EQ(set.version(), 1u + 4 * 200);
}

TEST(TopologicalOrder, TakersComeAfterPublishersElseTheOrderStays) {
  const auto order =
      TopologicalOrder({{"a", {"ta"}, {"tb", "tc"}}, {"b", {"tb"}, {}}, {"c", {"tc"}, {"tb"}}, {"d", {"td"}, {}}});
  ASSERT_TRUE(order.ok());
  EXPECT_THAT(order.value(), ElementsAre(1, 2, 3, 0));
}

TEST(TopologicalOrder, ACycleIsNamed) {
  const auto order = TopologicalOrder({{"a", {"ta"}, {"tb"}}, {"b", {"tb"}, {"ta"}}, {"c", {"tc"}, {}}});
  ASSERT_FALSE(order.ok());
  EXPECT_EQ(order.error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(order.error().text, "these wait for each other's topics for ever: a, b");
  EXPECT_FALSE(TopologicalOrder({{"self", {"t"}, {"t"}}}).ok());
}

}  // namespace
}  // namespace ikkuna::graph
