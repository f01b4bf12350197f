// The step tracker under random interleavings of threads that each write for themselves, and of several models, against
// a reference that says what a step of such a thread is.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/probe/core/tracker_loop.h"

namespace ikkuna::probe {
namespace {

constexpr size_t kWriters = 4, kRootCount = 2;

// By definition: a thread's write makes a step of what its own backward passes have walked since its last step,
// whatever others do meanwhile; gradients of its own that it clears before make a skipped one, unless a step of another
// model was made of the same backward passes. An update spans what others wrote between the step's first pass and its
// close.
class Interleaving {
 public:
  explicit Interleaving(unsigned seed) : random_(seed) {
    for (size_t m = 0; m < kRootCount; ++m) tracker_.AddRoot(0, false);
    while (threads_.size() < kWriters) threads_.push_back(NewThread());
  }

  void Run() {
    WarmUp();
    for (int event = 0; event < 400 && !::testing::Test::HasFailure(); ++event) {
      const size_t t = Pick(threads_.size());
      if (threads_[t]->next.empty()) Plan(t);
      std::vector<std::function<void()>>& next = threads_[t]->next;  // Plan() may have put another thread there
      if (next.empty()) continue;
      const std::function<void()> now = next.front();
      next.erase(next.begin());
      now();
    }
    for (size_t m = 0; m < kRootCount; ++m) {
      EXPECT_EQ(tracker_.steps_ended(static_cast<int>(m)), ended_[m].size());
      EXPECT_GT(ended_[m].size(), 8u);
    }
  }

 private:
  struct Walked {
    TaskId task = 0;
    Passes passes;
  };
  struct Own {                       // of one model on one thread
    Passes open;                     // that no backward has reached
    std::vector<Walked> sum;         // since the last step
    std::optional<uint64_t> number;  // of the step that is open
    bool others_wrote = false;       // and had begun nothing since when it was opened
    size_t writes_at_open = 0;
    bool writing = false;  // it has written and begun nothing since
  };
  struct Thread {
    ThreadId id = 0;
    std::array<Own, kRootCount> own;
    std::vector<std::function<void()>> next;
    std::set<size_t> unwritten;  // a newcomer: models that it has not written yet
  };
  struct Update {  // that is open
    ThreadId writer = 0;
    size_t writes_at_open = 0;
    bool may_span = false;  // others were maybe in the midst of their writes when it was opened
  };

  size_t Pick(size_t n) { return std::uniform_int_distribution<size_t>(0, n - 1)(random_); }
  std::unique_ptr<Thread> NewThread() {
    auto thread = std::make_unique<Thread>();
    thread->id = tracker_.AddThread();
    for (size_t m = 0; m < kRootCount; ++m) thread->unwritten.insert(m);
    return thread;
  }

  // Rounds in which each is seen to write beside the others; what their steps are made of is not asked.
  void WarmUp() {
    for (int round = 0; round < 2; ++round) {
      for (size_t m = 0; m < kRootCount; ++m) {
        const int model = static_cast<int>(m);
        std::vector<PassId> passes;
        for (auto& one : threads_) {
          const auto begun = tracker_.BeginPass(model, one->id, {true, false, false, 0});
          for (const StepToClose& closed : begun.to_close) updates_[m].erase(closed.step);
          passes.push_back(begun.pass);
        }
        for (size_t t = 0; t < kWriters; ++t) {
          const TaskId task = Loop::NextTask();
          tracker_.Walked(model, threads_[t]->id, passes[t], task, false);
          tracker_.Gradient(model, threads_[t]->id, task, {});
          tracker_.EndBackward(threads_[t]->id, task);
        }
        for (auto& one : threads_) {
          const auto seen = tracker_.Written(model, one->id, WriteKind::kArithmetic, true, 0, true);
          ASSERT_TRUE(seen.ended);
          for (const StepToClose& closed : seen.to_close) updates_[m].erase(closed.step);
          ended_[m].insert(seen.ended->step);
          tracker_.HoldClosing(model, seen.ended->lane, seen.ended->step, false);
          updates_[m][seen.ended->step] = {one->id, 0, true};
          writes_[m].push_back(one->id);
          one->own[m].writing = true;
          one->unwritten.clear();
        }
      }
    }
    for (auto& open : updates_) open.clear();
  }

  // What the thread does next, in the events that a front end tells; others come in between.
  void Plan(size_t t) {
    Thread& thread = *threads_[t];
    const size_t m = thread.unwritten.empty() ? Pick(kRootCount) : *thread.unwritten.begin();
    const auto newcomer = [&](const auto& one) {
      return tracker_.LaneOf(0, one->id) == 0 || tracker_.LaneOf(1, one->id) == 0;
    };
    switch (Pick(10)) {
      case 0: {  // it goes, and another one comes in its place: the next when that one has lanes of its own
        const auto is_open = [](const Own& own) { return own.number.has_value(); };
        if (std::any_of(threads_.begin(), threads_.end(), newcomer)) return;
        if (std::any_of(thread.own.begin(), thread.own.end(), is_open)) return;
        tracker_.EndThread(thread.id);
        threads_[t] = NewThread();
        return;
      }
      case 1:
      case 2:
      case 3:
      case 4:
        thread.next.push_back([this, t, m] { Forward(t, m); });
        return;
      case 5: {  // a graph that is destroyed before backward
        Passes& open = thread.own[m].open;
        if (open.empty()) return;
        tracker_.PassGone(static_cast<int>(m), open.back());
        open.pop_back();
        return;
      }
      case 6:
      case 7:
        return PlanBackward(t, m);
      default:
        if (thread.own[m].sum.empty()) return PlanBackward(t, m);
        thread.next.push_back([this, t, m] { Write(t, m); });
    }
  }

  void PlanBackward(size_t t, size_t m) {
    Thread& thread = *threads_[t];
    const bool clears = Pick(3) == 0;
    const TaskId task = Loop::NextTask();
    std::vector<std::function<void()>> gradients;
    for (size_t of = 0; of < kRootCount; ++of) {
      Passes& open = thread.own[of].open;
      if (open.empty() || (of != m && (Pick(3) != 0 || !thread.unwritten.empty()))) continue;
      Walked walked{task, {}};
      for (size_t count = 1 + Pick(open.size()); count > 0; --count) {
        const auto at = open.begin() + static_cast<std::ptrdiff_t>(Pick(open.size()));
        walked.passes.push_back(*at);
        thread.next.push_back([this, t, of, task, pass = *at] {
          tracker_.Walked(static_cast<int>(of), threads_[t]->id, pass, task, false);
        });
        open.erase(at);
      }
      gradients.push_back([this, t, of, clears, walked] { Gradient(t, of, clears, walked); });
    }
    if (gradients.empty()) return;
    thread.next.insert(thread.next.end(), gradients.begin(), gradients.end());
    thread.next.push_back([this, t, task] { tracker_.EndBackward(threads_[t]->id, task); });
  }

  void Forward(size_t t, size_t m) {
    Own& own = threads_[t]->own[m];
    const auto begun = tracker_.BeginPass(static_cast<int>(m), threads_[t]->id, {true, false, false, 0});
    EXPECT_FALSE(begun.ended);
    Closed(t, m, begun.to_close);
    own.writing = false;
    Opened(t, m, begun.step);
    own.open.push_back(begun.pass);
  }

  void Gradient(size_t t, size_t m, bool clears, const Walked& walked) {
    Own& own = threads_[t]->own[m];
    const auto state = clears ? kCleared : GradientState::kKept;
    const auto came = tracker_.Gradient(static_cast<int>(m), threads_[t]->id, walked.task, {state, false, 0});
    Closed(t, m, came.to_close);
    if (clears && !own.sum.empty()) {
      const bool elsewhere = std::all_of(own.sum.begin(), own.sum.end(), [&](const Walked& one) {
        return std::any_of(made_of_.begin(), made_of_.end(),
                           [&](const auto& used) { return used.first == one.task && used.second != m; });
      });
      EXPECT_EQ(came.ended.has_value(), !elsewhere);
      if (came.ended) Ended(t, m, *came.ended, StepEndCause::kSkipped);
      own.sum.clear();
    } else {
      EXPECT_FALSE(came.ended);
    }
    Opened(t, m, came.step);
    own.sum.push_back(walked);
  }

  void Write(size_t t, size_t m) {
    Thread& thread = *threads_[t];
    const auto seen = tracker_.Written(static_cast<int>(m), thread.id, WriteKind::kArithmetic, true, 0, true);
    Closed(t, m, seen.to_close);
    ASSERT_TRUE(seen.ended);
    for (const Walked& one : thread.own[m].sum) made_of_.insert({one.task, m});
    Own& own = thread.own[m];
    updates_[m][seen.ended->step] = {thread.id, own.writes_at_open, own.others_wrote};
    Ended(t, m, *seen.ended, StepEndCause::kWritten);
    own.sum.clear();
    own.writing = true;
    writes_[m].push_back(thread.id);
    tracker_.HoldClosing(static_cast<int>(m), seen.ended->lane, seen.ended->step, false);
    thread.unwritten.erase(m);
  }

  void Opened(size_t t, size_t m, uint64_t step) {
    Own& own = threads_[t]->own[m];
    if (own.number) {
      EXPECT_EQ(*own.number, step) << "a step keeps its number";
      return;
    }
    own.number = step;
    own.writes_at_open = writes_[m].size();
    own.others_wrote = std::any_of(threads_.begin(), threads_.end(),
                                   [&](const auto& other) { return other != threads_[t] && other->own[m].writing; });
  }

  void Ended(size_t t, size_t m, const StepEnd& end, StepEndCause cause) {
    Own& own = threads_[t]->own[m];
    Passes want;
    for (const Walked& one : own.sum) want.insert(want.end(), one.passes.begin(), one.passes.end());
    std::sort(want.begin(), want.end());
    EXPECT_EQ(end.cause, cause);
    EXPECT_EQ(end.passes, want);
    EXPECT_EQ(end.step, own.number);
    EXPECT_TRUE(ended_[m].insert(end.step).second) << "each step has a number of its own";
    for (const PassId pass : end.passes) EXPECT_TRUE(named_[m].insert(pass).second) << "no pass is of two steps";
    tracker_.PassesTold(static_cast<int>(m), end.passes);
    own.number.reset();
  }

  void Closed(size_t t, size_t m, const std::vector<StepToClose>& to_close) {
    for (const StepToClose& closed : to_close) {
      const auto update = updates_[m].find(closed.step);
      if (update == updates_[m].end()) continue;  // of the warm-up
      const Update& of = update->second;
      const auto& writes = writes_[m];
      const bool spans = std::any_of(writes.begin() + static_cast<std::ptrdiff_t>(of.writes_at_open), writes.end(),
                                     [&](ThreadId writer) { return writer != of.writer; });
      if (spans || !of.may_span) {
        EXPECT_EQ(closed.spanned, spans) << "step " << closed.step;
      }
      const auto writer =
          std::find_if(threads_.begin(), threads_.end(), [&](const auto& one) { return one->id == of.writer; });
      const bool writing = of.writer != threads_[t]->id && writer != threads_.end() && (*writer)->own[m].writing;
      EXPECT_EQ(closed.writing, writing) << "step " << closed.step;
      updates_[m].erase(update);
    }
  }

  std::mt19937 random_;
  StepTracker tracker_;
  std::vector<std::unique_ptr<Thread>> threads_;
  std::array<std::map<uint64_t, Update>, kRootCount> updates_;
  std::array<std::vector<ThreadId>, kRootCount> writes_;  // that made a step, in their order
  std::array<std::set<uint64_t>, kRootCount> ended_;
  std::array<std::set<PassId>, kRootCount> named_;
  std::set<std::pair<TaskId, size_t>> made_of_;  // backward passes, and the models whose steps were made of them
};

TEST(TrackerLanes, RandomInterleavingsOfThreadsThatEachWriteForThemselves) {
  for (unsigned seed = 0; seed < 400; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Interleaving(seed).Run();
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace ikkuna::probe
