// What subscribers ask for: done one after another, told, bounded.
#include "daemon/actions.h"

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/daemon/ingest/test_producer.h"

namespace ikkuna {
namespace {

using ingest::Eventually;

class ActionsTest : public testing::Test {
 protected:
  // Waits at the gate while it is shut.
  Result<std::string> Act(const RunKey& run, const Action& action) {
    std::unique_lock lock(mutex_);
    done_.push_back(run.run_id + "/" + std::to_string(run.attempt) + " " + std::string(ActionTypeName(action.type)) +
                    " " + action.modules);
    opened_.wait(lock, [this] { return open_; });
    if (throws_) throw std::runtime_error("no memory");
    if (refuses_) return Error{ErrorCode::kPermissionDenied, "its trainer does not allow it"};
    return std::string("it stops");
  }
  void Tell(Event event) {
    std::lock_guard lock(mutex_);
    told_.push_back(std::move(event));
  }
  void Open() {
    std::lock_guard lock(mutex_);
    open_ = true;
    opened_.notify_all();
  }
  std::vector<Event> Told() {
    std::lock_guard lock(mutex_);
    return told_;
  }
  std::vector<std::string> Done() {
    std::lock_guard lock(mutex_);
    return done_;
  }
  static Event Why() {
    Event event;
    event.kind = "non_finite";
    event.step = 17;
    return event;
  }
  static Action Stop() { return {}; }
  static Action Freeze(const std::string& modules) {
    Action action;
    action.type = Action::Type::kFreeze;
    action.modules = modules;
    return action;
  }

  std::mutex mutex_;
  std::condition_variable opened_;
  bool open_ = true, throws_ = false, refuses_ = false;
  std::vector<std::string> done_;
  std::vector<Event> told_;
  Actions actions_{[this](const RunKey& run, const Action& action) { return Act(run, action); },
                   [this](Event event) { Tell(std::move(event)); }};
};

TEST_F(ActionsTest, WhatCameOfItIsAnEventOfTheRun) {
  actions_.Take({"run", 1, 2}, Why(), Stop());
  ASSERT_TRUE(Eventually([&] { return Told().size() == 1; }));
  const Event event = Told()[0];
  EXPECT_EQ(event.kind, "action");
  EXPECT_EQ(event.run, (RunKey{"run", 1, 2}));
  EXPECT_EQ(event.step, 17u);
  EXPECT_EQ(event.severity, Severity::kInfo);
  EXPECT_EQ(event.text, "stop, for which non_finite asked: it stops");
}

TEST_F(ActionsTest, WhatIsRefusedOrFailsIsSaid) {
  refuses_ = true;
  actions_.Take({"run", 0, 0}, Why(), Stop());
  ASSERT_TRUE(Eventually([&] { return Told().size() == 1; }));
  EXPECT_EQ(Told()[0].severity, Severity::kWarning);
  EXPECT_EQ(Told()[0].text, "stop, for which non_finite asked, is not done: its trainer does not allow it");
  {
    std::lock_guard lock(mutex_);
    throws_ = true;
  }
  actions_.Take({"run", 0, 0}, Why(), Freeze("fc"));
  ASSERT_TRUE(Eventually([&] { return Told().size() == 2; }));
  EXPECT_EQ(Told()[1].severity, Severity::kError);
  EXPECT_NE(Told()[1].text.find("no memory"), std::string::npos) << Told()[1].text;
}

TEST_F(ActionsTest, AllRanksAskOnceForTheSame) {
  {
    std::lock_guard lock(mutex_);
    open_ = false;
  }
  for (uint32_t rank = 0; rank < 8; ++rank) actions_.Take({"run", 0, rank}, Why(), Stop());
  actions_.Take({"run", 1, 0}, Why(), Stop());
  actions_.Take({"run", 0, 0}, Why(), Freeze("a"));
  actions_.Take({"run", 0, 0}, Why(), Freeze("b"));
  Open();
  ASSERT_TRUE(Eventually([&] { return Told().size() == 4; }));
  EXPECT_EQ(Done(), (std::vector<std::string>{"run/0 stop ", "run/1 stop ", "run/0 freeze a", "run/0 freeze b"}));
}

TEST_F(ActionsTest, WhoAsksNeverWaitsAndTooManyAreTold) {
  {
    std::lock_guard lock(mutex_);
    open_ = false;
  }
  for (size_t i = 0; i < Actions::kWaitingMax + 3; ++i) {
    actions_.Take({"run", 0, 0}, Why(), Freeze(std::to_string(i)));
  }
  EXPECT_EQ(Told().size(), 3u);
  EXPECT_NE(Told()[0].text.find("is not done"), std::string::npos);
  Open();
  EXPECT_TRUE(Eventually([&] { return Told().size() == Actions::kWaitingMax + 3; }));
}

TEST_F(ActionsTest, NothingIsDoneAfterItsEnd) {
  actions_.End();
  actions_.Take({"run", 0, 0}, Why(), Stop());
  actions_.End();
  EXPECT_TRUE(Done().empty());
  EXPECT_TRUE(Told().empty());
}

}  // namespace
}  // namespace ikkuna
