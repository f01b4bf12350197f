// Random schedules of steps and passes, of several roots and tags, with and without drops, against a slow reference
// that keeps every message and looks at all of them when a step ends.
#include <algorithm>
#include <optional>
#include <random>

#include "tests/daemon/graph/site.h"
#include "tests/daemon/graph/test_metrics.h"

namespace ikkuna::graph {
namespace {

struct SentPass {
  uint32_t number = 0;
  uint16_t tag = kTagDefault;
  bool begun = false;  // its pass_started arrived
  bool closed = false;
  bool named = false;    // by a marker that was sent, or nobody ever will
  bool arrived = false;  // that marker
  uint64_t dropped_before = 0;
  uint64_t dropped_kinds = 0;
  uint64_t delivered = 0;
  uint16_t calls = 0;
  std::vector<double> losses;
  std::vector<double> activations;
};

struct SentStep {
  Where where;
  bool begun = false;  // its batch_started arrived
  uint64_t dropped_before = 0;
  uint64_t dropped_kinds = 0;
  uint32_t names_sent = 0;
  uint32_t names_arrived = 0;
  std::vector<size_t> passes;  // whose names arrived, in the order of their numbers only by chance
  std::vector<double> weights;
};

class Schedule {
 public:
  // `drops`: of a thousand messages.
  Schedule(uint32_t seed, uint64_t drops)
      : site_({"loss", "last(loss)", "mean(activations)", "norm(activations, order=3)", "sequence(activations)",
               "mean(weights)", "loss(tag=test)", "mean(activations, tag=test)"}),
        random_(seed),
        drops_(drops) {
    // Some begin shortly before their numbers do so again.
    for (Root& root : roots_) root.next_pass = Below(2) == 0 ? 1 : UINT32_MAX - static_cast<uint32_t>(Below(40));
  }

  void Run(int events) {
    for (int i = 0; i < events; ++i) Do(Below(2));
    for (size_t root = 0; root < 2; ++root) {
      while (!roots_[root].steps.empty()) FinishStep(root, 0);
    }
    site_.graph->Finish(0);
  }

  void Check() {
    for (const auto& [name, steps] : site_.published()) {
      for (const auto& [step, value] : steps) {
        const bool expected = expected_.count(name) != 0 && expected_[name].count(step) != 0;
        EXPECT_TRUE(expected) << name << " at step " << step << " is " << value;
      }
    }
    for (const auto& [name, steps] : expected_) {
      for (const auto& [step, value] : steps) EXPECT_NEAR(site_.value(name, step), value, 1e-9 * std::abs(value)) << name;
      published_ += steps.size();
    }
    uint64_t taken = 0, delivered = 0;
    for (const Root& root : roots_) {
      for (const SentPass& pass : root.passes) {
        delivered += pass.delivered;
        if (pass.begun && pass.arrived) taken += pass.delivered;
      }
    }
    EXPECT_EQ(site_.missing(MissReason::kNoStep), delivered - taken);
    EXPECT_EQ(site_.graph->done_seq(), site_.seq);
    EXPECT_EQ(site_.missing(MissReason::kThrew), 0u);
  }
  static inline size_t published_ = 0;

 private:
  struct Root {
    uint32_t next_pass = 1;
    uint64_t next_step = 0;
    std::vector<SentPass> passes;
    std::vector<SentStep> steps;  // open
  };

  uint64_t Below(uint64_t n) { return std::uniform_int_distribution<uint64_t>(0, n - 1)(random_); }

  // False: it was dropped on the way.
  bool Send(shm::Message message) {
    if (Below(1000) < drops_) {
      ++site_.dropped;
      --site_.seq;  // what is dropped has no number
      return false;
    }
    message.record.dropped_total = site_.dropped;
    site_.Handle(message);
    return true;
  }

  void Do(size_t root) {
    const uint64_t what = Below(100);
    if (what < 8) return StartStep(root);
    if (what < 26) return StartPass(root);
    if (what < 66) return PassMessage(root);
    if (what < 72) return Weights(root);
    if (what < 86) return ClosePass(root);
    if (what < 90) return NameSome(root);
    if (what < 99 && !roots_[root].steps.empty()) return FinishStep(root, Below(roots_[root].steps.size()));
    site_.graph->Tick(MonotonicNs());
  }

  void StartStep(size_t r) {
    Root& root = roots_[r];
    // Where something is lost, of several open steps the daemon may take a slow one for one that lost its end.
    if (root.steps.size() >= (drops_ == 0 ? 3 : 1)) return;
    SentStep step;
    step.where = {static_cast<uint16_t>(r + 1), Below(4) == 0 ? kTagTest : kTagDefault, root.next_step++};
    step.dropped_before = site_.dropped;
    step.begun = Send(site_.Marker(Kind::kBatchStarted, step.where));
    root.steps.push_back(std::move(step));
  }

  void StartPass(size_t r) {
    Root& root = roots_[r];
    SentPass pass;
    pass.number = root.next_pass;
    root.next_pass = shm::NextPass(root.next_pass);
    pass.tag = Below(4) == 0 ? kTagTest : kTagDefault;
    shm::Message message = site_.Marker(Kind::kPassStarted, WhereOf(r, pass));
    message.record.pass = pass.number;
    pass.dropped_before = site_.dropped;
    pass.begun = Send(message);
    if (!pass.begun) pass.dropped_kinds |= KindBit(Kind::kPassStarted);
    root.passes.push_back(std::move(pass));
  }

  // Whatever step is open; it may be none.
  Where WhereOf(size_t r, const SentPass& pass) {
    const Root& root = roots_[r];
    const uint64_t step = root.steps.empty() ? root.next_step : root.steps[Below(root.steps.size())].where.step;
    return {static_cast<uint16_t>(r + 1), pass.tag, step};
  }

  SentPass* AnyPass(size_t r, bool closed) {
    std::vector<SentPass*> found;
    for (SentPass& pass : roots_[r].passes) {
      if (!pass.named && pass.closed == closed) found.push_back(&pass);
    }
    return found.empty() ? nullptr : found[Below(found.size())];
  }

  void PassMessage(size_t r) {
    SentPass* pass = AnyPass(r, false);
    if (pass == nullptr) return;
    const Where where = WhereOf(r, *pass);
    const double value = static_cast<double>(1 + Below(9));
    if (Below(3) == 0) {
      const auto loss = Site::At(site_.Scalar(Kind::kLoss, where, value), pass->number, 0);
      Note(*pass, Kind::kLoss, Send(loss), value, pass->losses);
      return;
    }
    const auto activations = Site::At(site_.Tensor(Kind::kActivations, where, r == 0 ? Site::kFc1 : Site::kOther, 0,
                                                   {value}),
                                      pass->number, pass->calls++);
    Note(*pass, Kind::kActivations, Send(activations), value, pass->activations);
  }

  static void Note(SentPass& pass, Kind kind, bool arrived, double value, std::vector<double>& values) {
    if (!arrived) {
      pass.dropped_kinds |= KindBit(kind);
      return;
    }
    ++pass.delivered;
    values.push_back(value);
  }

  void Weights(size_t r) {
    Root& root = roots_[r];
    if (root.steps.empty() || r != 0) return;
    SentStep& step = root.steps[Below(root.steps.size())];
    const double value = static_cast<double>(Below(100));
    if (Send(site_.Summary(Kind::kWeights, step.where, Site::kFc1, Site::kW1, {value}))) {
      step.weights.push_back(value);
    } else {
      step.dropped_kinds |= KindBit(Kind::kWeights);
    }
  }

  void ClosePass(size_t r) {
    if (SentPass* pass = AnyPass(r, false)) {
      pass->closed = true;
      pass->named = Below(5) == 0;  // nobody ever will
    }
  }

  // Those of its tag that may be named, some or all, ascending or nearly.
  std::vector<size_t> Choose(size_t r, uint16_t tag) {
    std::vector<size_t> chosen;
    const std::vector<SentPass>& passes = roots_[r].passes;
    for (size_t i = 0; i < passes.size() && chosen.size() < 20; ++i) {
      if (!passes[i].named && passes[i].closed && passes[i].tag == tag && Below(3) != 0) chosen.push_back(i);
    }
    return chosen;
  }

  // Of those that are open or wait for their names; each is the marker's own business that names it.
  uint32_t Lowest(size_t r) const {
    for (const SentPass& pass : roots_[r].passes) {
      if (!pass.named) return pass.number;
    }
    return roots_[r].next_pass;
  }

  bool SendNames(size_t r, SentStep& step, Kind kind) {
    const std::vector<size_t> chosen = Choose(r, step.where.tag);
    if (chosen.empty() && kind == Kind::kPassesNamed) return false;
    std::vector<uint32_t> numbers;
    for (const size_t i : chosen) {
      SentPass& pass = roots_[r].passes[i];
      pass.named = true;
      numbers.push_back(pass.number);
      step.dropped_kinds |= pass.dropped_kinds;
    }
    shm::Message message = site_.Naming(kind, step.where, numbers, Below(3) == 0 ? 0 : Lowest(r), step.names_sent);
    step.names_sent += static_cast<uint32_t>(numbers.size());
    if (kind == Kind::kBatchFinished) message.record.marker.dropped_kinds = step.dropped_kinds;
    const bool arrived = Send(message);
    if (!arrived) step.dropped_kinds |= KindBit(kind);
    if (!arrived) return false;
    step.names_arrived += static_cast<uint32_t>(numbers.size());
    for (const size_t i : chosen) {
      roots_[r].passes[i].arrived = true;
      step.passes.push_back(i);
    }
    return true;
  }

  void NameSome(size_t r) {
    Root& root = roots_[r];
    if (!root.steps.empty()) SendNames(r, root.steps[Below(root.steps.size())], Kind::kPassesNamed);
  }

  void FinishStep(size_t r, size_t at) {
    SentStep step = std::move(roots_[r].steps[at]);
    roots_[r].steps.erase(roots_[r].steps.begin() + static_cast<std::ptrdiff_t>(at));
    if (SendNames(r, step, Kind::kBatchFinished) && step.begun) Expect(r, step);
  }

  // All that a step is made of, in the order of its passes.
  void Expect(size_t r, SentStep& step) {
    uint64_t since = step.dropped_before;
    bool lacks = step.names_sent != step.names_arrived;
    std::sort(step.passes.begin(), step.passes.end());  // as they were opened
    std::vector<double> losses, activations;
    std::optional<double> last;
    double digits = 0;
    for (const size_t i : step.passes) {
      const SentPass& pass = roots_[r].passes[i];
      lacks |= !pass.begun;
      if (pass.begun) since = std::min(since, pass.dropped_before);
      losses.insert(losses.end(), pass.losses.begin(), pass.losses.end());
      activations.insert(activations.end(), pass.activations.begin(), pass.activations.end());
      if (!pass.losses.empty()) last = pass.losses.back();
      for (const double value : pass.activations) digits = 10 * digits + value;
    }
    uint64_t missing = 0;
    if (site_.dropped != since) missing = step.dropped_kinds != 0 ? step.dropped_kinds : ~uint64_t{0};
    const bool test = step.where.tag == kTagTest;
    const std::string prefix = std::string(test ? "test:" : "") + (r == 0 ? "" : "model1:");
    const auto put = [&](const std::string& name, double value) { expected_[prefix + name][step.where.step] = value; };
    const std::string module = r == 0 ? "fc1/" : "other/";
    if (!lacks && (missing & KindBit(Kind::kLoss)) == 0 && !losses.empty()) {
      put("loss", MeanOf(losses));
      if (!test) put("loss_last", *last);
    }
    if (!lacks && (missing & KindBit(Kind::kActivations)) == 0 && !activations.empty()) {
      put(module + "activations_mean", MeanOf(activations));
      double cubes = 0;
      for (const double value : activations) cubes += value * value * value;
      if (!test) put(module + "activations_norm3", std::pow(cubes, 1.0 / 3));
      if (!test) put(module + "activations_sequence", digits);
    }
    if (!test && !step.weights.empty()) put("fc1.weight/weights_mean", MeanOf(step.weights));
  }

  static double MeanOf(const std::vector<double>& values) {
    double sum = 0;
    for (const double value : values) sum += value;
    return sum / static_cast<double>(values.size());
  }

  Site site_;
  std::mt19937 random_;
  const uint64_t drops_;
  Root roots_[2];
  Published expected_;
};

TEST(PassSchedules, GiveWhatASlowReferenceGives) {
  RegisterTestMetrics();
  for (uint32_t seed = 0; seed < 60; ++seed) {
    for (const uint64_t drops : {0, 5, 60}) {
      SCOPED_TRACE("seed " + std::to_string(seed) + ", drops " + std::to_string(drops));
      Schedule schedule(seed, drops);
      schedule.Run(1500);
      schedule.Check();
      if (testing::Test::HasFailure()) return;
    }
  }
  EXPECT_GT(Schedule::published_, 10'000u);
}

}  // namespace
}  // namespace ikkuna::graph
