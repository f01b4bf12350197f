// The step tracker under random loops of one thread and several models, against a reference that says what a step is.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <optional>
#include <ostream>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/probe/core/tracker_loop.h"

namespace ikkuna::probe {
namespace {

constexpr int kModels = 3;
size_t Index(int model) { return static_cast<size_t>(model); }

// What a loop does, as a list.
struct Happened {
  enum What { kForward, kEvaluate, kBackward, kUsed, kWrite, kOtherWrite, kStep } what;
  int model = 0;
  bool evaluating = false;                         // kForward: in evaluation mode
  std::vector<std::pair<int, PassId>> walked = {};  // kBackward: model and pass
  std::set<int> evaluations = {};                  // kBackward: models of which it reaches an evaluation
  bool cleared = false;                            // kBackward: gradients are cleared before
};

struct MadeStep {
  StepEndCause cause = StepEndCause::kWritten;
  Passes passes = {};
  bool written = true;
  bool evaluates = false;  // the model is known to train in evaluation mode from now on
  bool operator==(const MadeStep&) const = default;
};
std::ostream& operator<<(std::ostream& out, const MadeStep& step) {
  out << "{cause " << static_cast<int>(step.cause) << " passes";
  for (const PassId pass : step.passes) out << ' ' << pass;
  return out << (step.written ? " written" : "") << (step.evaluates ? " evaluates" : "") << '}';
}

// The steps of each model, by definition. Gradients are the sum of the backward passes since they were cleared. A write
// makes a step of those; where the trainer says where steps end, he does. Gradients that are cleared before a write make
// a skipped step, unless they were not meant for one: another model's step was made of the same backward passes, or they
// are of evaluations of a model that trains otherwise. Before a first backward pass gradients may be made elsewhere:
// from the third write on each is a step.
class Reference {
 public:
  Reference(const std::vector<Happened>& history, const std::array<bool, kModels>& manual) {
    for (size_t m = 0; m < kModels; ++m) models_[m].said = manual[m];
    for (size_t i = 0; i < history.size(); ++i) Next(i, history[i]);
  }
  const std::vector<MadeStep>& Steps(int model) const { return models_[Index(model)].steps; }

 private:
  struct Backward {
    size_t at = 0;
    Passes passes;
    bool of_evaluation = false;
    bool moved = false;  // weights have moved since: said steps
    bool later = false;  // it is not of the first evaluation of its step: said steps
  };
  struct Model {
    std::vector<Backward> sum;
    std::vector<MadeStep> steps;
    std::set<PassId> evaluating;
    bool said = false;  // the trainer says where steps end
    bool backward = false;
    uint32_t without_backward = 0;
    bool open = false;     // a pass or a gradient of a step that has not ended
    bool closing = false;  // writes are still the last step's
    bool wrote = false;
    bool trained = false;  // a training pass has begun in it
    bool evaluated = false;
    bool evaluates = false, trains = false;  // how its last step was made
  };

  void Next(size_t i, const Happened& event) {
    Model& model = models_[Index(event.model)];
    switch (event.what) {
      case Happened::kForward:
        model.closing = false;
        Open(model);
        (event.evaluating ? model.evaluated : model.trained) = true;
        if (event.evaluating) model.evaluating.insert(event.walked[0].second);
        return;
      case Happened::kEvaluate:
        model.closing = false;
        return;
      case Happened::kBackward:
        for (int m = 0; m < kModels; ++m) Walk(i, event, m);
        return;
      case Happened::kUsed:
        if (!model.said && !model.sum.back().of_evaluation) End(model, event.model, StepEndCause::kInferred);
        return;
      case Happened::kOtherWrite:
        for (Backward& one : model.sum) one.moved = true;
        return;
      case Happened::kWrite: {
        const bool made_elsewhere = !model.said && !model.backward && ++model.without_backward >= 3;
        if (!model.said && (made_elsewhere || !model.sum.empty())) {
          return End(model, event.model, StepEndCause::kWritten);
        }
        for (Backward& one : model.sum) one.moved = true;
        model.wrote |= !model.closing;
        return;
      }
      case Happened::kStep:
        model.closing = false;
        // The write of this very step may have ended it before anybody knew.
        if (std::exchange(model.said, true) || model.open) End(model, event.model, StepEndCause::kBoundary);
        return;
    }
  }

  void Walk(size_t i, const Happened& event, int m) {
    Model& model = models_[Index(m)];
    Backward backward{i, {}, false, false, false};
    for (const auto& [of, pass] : event.walked) {
      if (of == m) backward.passes.push_back(pass);
    }
    backward.of_evaluation = backward.passes.empty();
    if (backward.of_evaluation && event.evaluations.count(m) == 0) return;
    model.backward = true;
    if (event.cleared && !model.sum.empty()) {
      if (model.said) {  // those that no write has used are thrown away
        std::erase_if(model.sum, [](const Backward& one) { return !one.moved; });
        backward.later = !model.sum.empty();
      } else if (!std::all_of(model.sum.begin(), model.sum.end(), [&](const Backward& one) {
                   return UsedElsewhere(one.at, m) || (one.of_evaluation && model.trains);
                 })) {
        End(model, m, StepEndCause::kSkipped);
      } else {
        model.sum.clear();
      }
    } else if (!model.sum.empty()) {
      backward.later = model.sum.back().later;
    }
    Open(model);
    model.sum.push_back(std::move(backward));
  }

  static void Open(Model& model) {
    if (!std::exchange(model.open, true)) model.wrote = false;
  }

  bool UsedElsewhere(size_t backward, int model) const {
    return std::any_of(used_.begin(), used_.end(),
                       [&](const auto& used) { return used.first == backward && used.second != model; });
  }

  void End(Model& model, int m, StepEndCause cause) {
    MadeStep step;
    step.cause = cause;
    const bool written = cause == StepEndCause::kWritten || cause == StepEndCause::kBoundary;
    bool trained = model.trained, evaluated = model.evaluated;
    for (const Backward& one : model.sum) {
      if (written) used_.insert({one.at, m});
      evaluated |= one.of_evaluation;
      if (one.later) continue;
      for (const PassId pass : one.passes) {
        step.passes.push_back(pass);
        (model.evaluating.count(pass) != 0 ? evaluated : trained) = true;
      }
    }
    std::sort(step.passes.begin(), step.passes.end());
    if (written && (trained || evaluated)) {
      model.trains = trained;
      model.evaluates = !trained;
    }
    step.written = cause == StepEndCause::kWritten || model.wrote;
    step.evaluates = model.evaluates;
    model.closing = written && (cause == StepEndCause::kWritten || !step.written);
    model.steps.push_back(step);
    model.sum.clear();
    model.open = model.trained = model.evaluated = model.wrote = false;
  }

  std::array<Model, kModels> models_;
  std::set<std::pair<size_t, int>> used_;  // backward passes, and the models whose steps were made of them
};

// One loop over several models, told to a tracker as a front end would.
class RandomLoop {
 public:
  explicit RandomLoop(unsigned seed) : random_(seed) {
    for (int m = 0; m < kModels; ++m) tracker_.AddRoot(0, Pick(4) == 0);
    thread_ = tracker_.AddThread();
    for (int m = 0; m < kModels; ++m) manual_[Index(m)] = tracker_.manual(m);
  }

  void Run() {
    for (int event = 0; event < 160; ++event) {
      Do(static_cast<int>(Pick(kModels)), Pick(11));
      for (int m = 0; m < kModels; ++m) CheckLowest(m);
      if (::testing::Test::HasFailure()) return;
    }
    const Reference reference(history_, manual_);
    for (int m = 0; m < kModels; ++m) EXPECT_EQ(got_[Index(m)], reference.Steps(m)) << "model " << m;
  }

 private:
  size_t Pick(size_t n) { return std::uniform_int_distribution<size_t>(0, n - 1)(random_); }

  void Do(int m, size_t what) {
    switch (what) {
      case 0:
      case 1:
        return Forward(m, false);
      case 2: {  // a graph is destroyed before backward
        Passes& mine = open_[Index(m)];
        if (mine.empty()) return;
        const size_t index = Pick(mine.size());
        tracker_.PassGone(m, mine[index]);
        mine.erase(mine.begin() + static_cast<std::ptrdiff_t>(index));
        return;
      }
      case 3:
        return Evaluate(m);
      case 4:
      case 5:
      case 6:
        return Backward(m);
      case 7:
      case 8:
        return Write(m, WriteKind::kArithmetic);
      case 9:
        return Write(m, WriteKind::kOther);
      default:  // in some runs the trainer says where steps end, from some step on
        if (!tracker_.manual(m) && Pick(8) != 0) return;
        history_.push_back({Happened::kStep, m});
        const auto seen = tracker_.Boundary(m, thread_);
        Closed(m, seen.to_close);
        if (seen.ended) Note(m, *seen.ended);
    }
  }

  void Forward(int m, bool evaluating) {
    StepTracker::PassOptions options;
    options.recorded = true;
    options.evaluating = evaluating;
    tracker_.PassesTold(m, std::exchange(batches_[Index(m)], {}));
    const auto begun = tracker_.BeginPass(m, thread_, options);
    EXPECT_FALSE(begun.ended);
    Closed(m, begun.to_close);
    EXPECT_FALSE(closing_[Index(m)]);
    open_[Index(m)].push_back(begun.pass);
    history_.push_back({Happened::kForward, m, evaluating, {{m, begun.pass}}});
  }

  // A few batches, of which one may be walked by backward later.
  void Evaluate(int m) {
    if (tracker_.trains_in_evaluation(m)) return Forward(m, true);
    const bool opened = batches_[Index(m)].empty();
    if (opened) {
      Closed(m, tracker_.CloseSteps(m, thread_, StepTracker::CloseAt::kEvaluation));
      EXPECT_FALSE(closing_[Index(m)]);
      history_.push_back({Happened::kEvaluate, m});
    }
    for (size_t batch = 0; batch < 1 + Pick(2); ++batch) {
      EXPECT_TRUE(tracker_.EvaluationLayer(m, thread_, 7, opened && batch == 0));
      EXPECT_FALSE(tracker_.EvaluationLayer(m, thread_, 8, false));
      batches_[Index(m)].push_back(tracker_.NextPass(m));
    }
  }

  // Over passes of one model, or of several, of training and of evaluation; none is walked twice here.
  void Backward(int m) {
    Happened backward{Happened::kBackward, m};
    backward.cleared = Pick(2) == 0;
    const bool look = Pick(8) == 0;  // no parameter gets a gradient
    for (int of = 0; of < kModels; ++of) {
      if (of != m && Pick(2) == 0) continue;
      if (!batches_[Index(of)].empty() && Pick(2) == 0) backward.evaluations.insert(of);
      Passes& passes = open_[Index(of)];
      std::shuffle(passes.begin(), passes.end(), random_);
      const size_t count = passes.empty() || look || Pick(4) == 0 ? 0 : 1 + Pick(passes.size());
      for (size_t i = 0; i < count; ++i) {
        backward.walked.push_back({of, passes.back()});
        passes.pop_back();
      }
    }
    const TaskId task = Loop::NextTask();
    std::set<int> models = backward.evaluations;
    for (const auto& [of, pass] : backward.walked) {
      tracker_.Walked(of, thread_, pass, task, false);
      models.insert(of);
    }
    if (look) models.clear();
    // Parameters behind a layer get theirs before it is reached, or after.
    const bool first = Pick(2) == 0;
    const auto evaluations_walked = [&] {
      for (const int of : backward.evaluations) tracker_.EvaluationWalked(of, thread_, task);
    };
    if (first) evaluations_walked();
    for (const int of : models) {
      const auto state = backward.cleared ? GradientState::kCleared : GradientState::kKept;
      const bool moved = tracker_.manual(of) && moved_[Index(of)];
      const auto came = tracker_.Gradient(of, thread_, task, {state, moved, 0});
      Closed(of, came.to_close);
      if (came.ended) Note(of, *came.ended);
    }
    if (!first) evaluations_walked();
    EXPECT_TRUE(tracker_.EndBackward(thread_, task));
    if (models.empty()) return;
    history_.push_back(backward);
    for (const auto& [of, pass] : backward.walked) {
      if (Pick(2) == 0) tracker_.PassGone(of, pass);
    }
    const bool used = Pick(8) == 0;
    for (const int of : models) {
      moved_[Index(of)] = false;
      if (!used) continue;
      history_.push_back({Happened::kUsed, of});
      const auto came = tracker_.GradientsUsed(of, task);
      Closed(of, came.to_close);
      if (came.ended) Note(of, *came.ended);
    }
  }

  void Write(int m, WriteKind kind) {
    history_.push_back({kind == WriteKind::kOther ? Happened::kOtherWrite : Happened::kWrite, m});
    moved_[Index(m)] = true;
    const auto seen = tracker_.Written(m, thread_, kind, true, 0, true);
    Closed(m, seen.to_close);
    if (seen.ended) Note(m, *seen.ended);
  }

  void Note(int m, const StepEnd& end) {
    EXPECT_FALSE(closing_[Index(m)]) << "the update of a step is lost when the next ends";
    EXPECT_EQ(end.step, next_[Index(m)]++);
    for (const PassId pass : end.passes) EXPECT_GE(pass, lowest_[Index(m)]);
    got_[Index(m)].push_back({end.cause, end.passes, end.written, tracker_.trains_in_evaluation(m)});
    if (Pick(2) == 0) tracker_.PassesTold(m, end.passes);
    const bool said = end.cause == StepEndCause::kBoundary;
    if (end.cause != StepEndCause::kWritten && (!said || end.written)) return;
    closing_[Index(m)] = end.step;
    tracker_.HoldClosing(m, end.lane, end.step, false);
  }

  void Closed(int m, const std::vector<StepToClose>& to_close) {
    for (const StepToClose& step : to_close) {
      EXPECT_EQ(closing_[Index(m)], step.step);
      EXPECT_FALSE(step.spanned);
      closing_[Index(m)].reset();
    }
  }

  void CheckLowest(int m) {
    const PassId now = tracker_.LowestOpen(m);
    EXPECT_GE(now, lowest_[Index(m)]) << "what was given up is not taken back";
    lowest_[Index(m)] = now;
    for (const PassId pass : open_[Index(m)]) EXPECT_GE(pass, now);
    for (const PassId batch : batches_[Index(m)]) EXPECT_GE(batch, now);
  }

  std::mt19937 random_;
  StepTracker tracker_;
  ThreadId thread_ = 0;
  std::vector<Happened> history_;
  std::array<std::vector<MadeStep>, kModels> got_;
  std::array<Passes, kModels> open_, batches_;  // training passes; evaluation batches that are not told
  std::array<PassId, kModels> lowest_{};
  std::array<uint64_t, kModels> next_{};
  std::array<std::optional<uint64_t>, kModels> closing_;
  std::array<bool, kModels> moved_{};  // since the last backward pass that gave gradients
  std::array<bool, kModels> manual_{};  // from the beginning
};

TEST(TrackerModel, RandomLoopsOfSeveralModelsOnOneThread) {
  for (unsigned seed = 0; seed < 600; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    RandomLoop(seed).Run();
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace ikkuna::probe
