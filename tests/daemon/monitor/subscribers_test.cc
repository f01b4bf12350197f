// Who may have what computed, and what stays of it over a restart.
#include "tests/daemon/monitor/house.h"

namespace ikkuna {
namespace {

class SubscribersTest : public testing::Test {
 protected:
  SubscriberMonitor& subscribers() { return house_->monitor().subscribers; }
  std::vector<std::string> Topics(const std::string& run = {}) {
    std::vector<std::string> topics;
    const auto list = subscribers().ListSubscribers(run);
    EXPECT_TRUE(list.ok()) << (list ? "" : list.failure().text);
    if (!list) return topics;
    for (const SubscriberInfo& info : *list) topics.push_back(info.topics[0]);
    return topics;
  }
  Reason Refused(const Caller& caller, const std::string& text) {
    const auto answer = subscribers().AddSubscribers(caller, text);
    EXPECT_FALSE(answer.ok()) << text;
    return answer ? Reason::kUnspecified : answer.failure().reason;
  }

  TempDirectory temp_;
  std::unique_ptr<House> house_ = std::make_unique<House>(temp_);
};

TEST_F(SubscribersTest, WhoMayOnlyReadSubscribesForRunsOfTheirOwn) {
  house_->Record({"mine", 0, 0}, "x", 1);
  house_->Record({"theirs", 0, 0}, "x", 2, 1, ::getuid() + 1);
  house_->Record({"shared", 0, 0}, "x", 3);
  house_->Record({"shared", 0, 1}, "x", 3, 1, ::getuid() + 1);
  EXPECT_EQ(Refused(Me(), "max(weights)"), Reason::kRole) << "of every run";
  EXPECT_EQ(Refused(Me(), "max(weights, run=\"\")"), Reason::kBadField) << "no run is no name";
  EXPECT_EQ(Refused(Me(), "max(weights, run=*)"), Reason::kRole);
  EXPECT_EQ(Refused(Me(), "max(weights, run=mine|theirs)"), Reason::kRole);
  EXPECT_EQ(Refused(Me(), "max(weights, run=latest)"), Reason::kRole) << "which it is may change";
  EXPECT_EQ(Refused(Me(), "max(weights, run=theirs)"), Reason::kRole);
  EXPECT_EQ(Refused(Me(), "max(weights, run=shared)"), Reason::kRole);
  EXPECT_EQ(Refused(Me(), "max(weights, run=x)"), Reason::kRole) << "a display name that others have too";
  EXPECT_EQ(Refused(Me(), "max(weights, run=none)"), Reason::kRole);
  EXPECT_EQ(Refused(Me(), "max(weights, run=mine); min(weights)"), Reason::kRole) << "all or nothing";
  EXPECT_EQ(Refused({"token", std::nullopt, Role::kRead}, "max(weights, run=mine)"), Reason::kRole);
  EXPECT_EQ(Refused(Me(), "max(weights, run=mine, run=theirs)"), Reason::kBadField);
  EXPECT_EQ(house_->subscription_changes(), 0);
  const auto mine = subscribers().AddSubscribers(Me(), "max(weights, run=mine)");
  ASSERT_TRUE(mine.ok()) << mine.failure().text;
  EXPECT_EQ(house_->subscription_changes(), 1);
  EXPECT_THAT(mine->subscribers[0].owners, ElementsAre(Me().name));
  EXPECT_TRUE(subscribers().AddSubscribers(Operator(), "min(weights)").ok());
  EXPECT_THAT(Topics(), ElementsAre("loss", "weights_mean", "weights_max", "weights_min"));
  EXPECT_THAT(Topics("mine"), ElementsAre("loss", "weights_mean", "weights_max", "weights_min"));
  EXPECT_THAT(Topics("theirs"), ElementsAre("loss", "weights_mean", "weights_min"));
  EXPECT_EQ(subscribers().ListSubscribers("nobody").failure().reason, Reason::kNoSuchRun);

  // And removes their own, which is told.
  const auto by_id = [&](uint64_t id) { return SubscriberChoice{SubscriberChoice::By::kId, id, ""}; };
  EXPECT_EQ(subscribers().RemoveSubscribers(Me(), by_id(1)).failure().reason, Reason::kRole);
  EXPECT_EQ(subscribers().RemoveSubscribers(Stranger(), by_id(3)).failure().reason, Reason::kRole);
  EXPECT_EQ(subscribers().RemoveSubscribers(Me(), by_id(99)).failure().reason, Reason::kNoSuchObject);
  EXPECT_EQ(subscribers().RemoveSubscribers(Me(), by_id(99)).failure().subject, "99");
  EXPECT_EQ(house_->subscription_changes(), 2);
  EXPECT_TRUE(subscribers().RemoveSubscribers(Me(), by_id(3)).ok());
  EXPECT_TRUE(subscribers().RemoveSubscribers(Operator(), by_id(1)).ok());
  EXPECT_EQ(house_->subscription_changes(), 4);
  EXPECT_THAT(Topics(), ElementsAre("weights_mean", "weights_min"));
}

TEST_F(SubscribersTest, OneThatNamesARunIsComputedForItAlone) {
  auto one = Trainer(temp_, "one");
  auto other = Trainer(temp_, "other");
  ASSERT_TRUE(subscribers().AddSubscribers(Me(), "max(weights, run=one)").ok());
  // Once the graphs know of it: what is asked of a running trainer changes at a step.
  uint64_t step = 0;
  ASSERT_TRUE(Eventually([&] {
    Train(*one, step, step + 1);
    Train(*other, step, step + 1);
    ++step;
    house_->Settled(*one);
    house_->Settled(*other);
    return !house_->Values("one", "weights_max").empty();
  }));
  EXPECT_THAT(house_->Values("other", "weights_max"), IsEmpty());
  EXPECT_EQ(house_->Values("other", "weights_mean").size(), step);
}

TEST_F(SubscribersTest, SurviveARestartWithOwnerRunAndNumber) {
  house_->Record({"mine", 0, 0}, "x", 1);
  ASSERT_TRUE(subscribers().AddSubscribers(Operator(), "std(weights)").ok());
  ASSERT_TRUE(subscribers().AddSubscribers(Me(), "max(weights, run=mine, subsample=5)").ok());
  ASSERT_TRUE(subscribers().RemoveSubscribers(Operator(), {SubscriberChoice::By::kTopic, 0, "weights_std"}).ok());
  ASSERT_TRUE(subscribers().AddSubscribers(Operator(), "max(weights, run=mine, subsample=5)").ok());
  const std::vector<SubscriberInfo> before = *subscribers().ListSubscribers("");
  const std::vector<SavedSubscription> saved = house_->set().Export();
  house_.reset();
  house_ = std::make_unique<House>(temp_);
  EXPECT_THAT(house_->set().Restore(saved), IsEmpty());
  const std::vector<SubscriberInfo> after = *subscribers().ListSubscribers("");
  ASSERT_EQ(after.size(), before.size());
  for (size_t i = 0; i < after.size(); ++i) {
    EXPECT_EQ(after[i].id, before[i].id);
    EXPECT_EQ(after[i].text, before[i].text);
    EXPECT_EQ(after[i].run, before[i].run);
    EXPECT_EQ(after[i].owners, before[i].owners);
    EXPECT_EQ(after[i].source, before[i].source);
  }
  EXPECT_EQ(after[2].id, 4u) << "the number of one that is gone is no other's";
  const auto left = subscribers().RemoveSubscribers(Me(), {SubscriberChoice::By::kId, after[2].id, ""});
  ASSERT_TRUE(left.ok()) << left.failure().text;
  EXPECT_EQ(left->kept.size(), 1u) << "the operator asked for it too";
}

TEST_F(SubscribersTest, WhoLosesOneByAnothersHandIsTold) {
  house_->Record({"mine", 0, 0}, "x", 1);
  const auto told = [&] {
    std::vector<std::string> texts;
    const auto events = house_->monitor().events.ListEvents({});
    EXPECT_TRUE(events.ok());
    for (const Event& event : *events) {
      if (event.kind == "subscription_removed") texts.push_back(event.text);
    }
    return texts;
  };
  const auto remove = [&](const Caller& caller, const std::string& topic) {
    EXPECT_TRUE(subscribers().RemoveSubscribers(caller, {SubscriberChoice::By::kTopic, 0, topic}).ok()) << topic;
  };
  const auto add = [&](const Caller& caller, const std::string& text) {
    const auto added = subscribers().AddSubscribers(caller, text);
    EXPECT_TRUE(added.ok()) << text;
    return added ? added->subscribers[0] : SubscriberInfo{};
  };
  add(Me(), "max(weights, run=mine)");
  remove(Me(), "weights_max");
  add(Operator(), "max(weights, run=mine)");
  remove(Operator(), "weights_max");
  EXPECT_THAT(told(), IsEmpty()) << "by their own hands";
  const SubscriberInfo lost = add(Me(), "max(weights, run=mine)");
  add(Operator(), "max(weights, run=mine)");
  remove(Operator(), "weights_max");
  EXPECT_THAT(told(), ElementsAre(lost.text + " (subscriber " + std::to_string(lost.id) + "), which " + Me().name +
                                  " subscribed, is off since token unsubscribed topic 'weights_max'."));
  remove(Operator(), "loss");
  EXPECT_THAT(told(), ElementsAre(HasSubstr(Me().name), HasSubstr("which the daemon's operator subscribed")));
}

TEST_F(SubscribersTest, WarnOfModulesThatNobodyHas) {
  EXPECT_THAT(subscribers().AddSubscribers(Operator(), "min(weights, module=nothing)")->warnings, IsEmpty())
      << "nobody is connected: nothing can be said";
  auto trainer = Trainer(temp_, "job");
  Train(*trainer, 0, 1);
  house_->Settled(*trainer);
  const auto added = subscribers().AddSubscribers(Operator(), "max(weights, module=fcc); std(weights, module=f*)");
  ASSERT_TRUE(added.ok()) << added.failure().text;
  ASSERT_EQ(added->warnings.size(), 1u);
  EXPECT_THAT(added->warnings[0], HasSubstr("module=fcc matches no module"));
  EXPECT_THAT(added->warnings[0], HasSubstr("fc"));
}

TEST_F(SubscribersTest, ErrorsAreForProgramsToo) {
  const auto subject = [&](const std::string& text) {
    return subscribers().AddSubscribers(Operator(), text).failure().subject;
  };
  EXPECT_EQ(subject("nonsense("), "text");
  EXPECT_EQ(subject("mean(weights, subsample=10)"), "mean(weights, subsample=10)");
  EXPECT_EQ(Refused(Operator(), "nonsense("), Reason::kBadField);
  EXPECT_EQ(Refused(Operator(), "maxx(weights)"), Reason::kBadField);
  EXPECT_EQ(Refused(Operator(), "mean(weights, subsample=10)"), Reason::kTopicTaken);
  std::string many;
  for (size_t i = 0; i < graph::SubscriberSet::kMaxSubscribers; ++i)
    many += "max(weights, as=n" + std::to_string(i) + ");";
  EXPECT_EQ(Refused(Operator(), many), Reason::kLimit);
  EXPECT_GE(subscribers().ListMetrics().size(), 20u);
}

}  // namespace
}  // namespace ikkuna
