#include "daemon/graph/closed_steps.h"

#include <utility>

namespace ikkuna::graph {

bool ClosedSteps::Again(uint64_t step) const {
  if (!any_ || step > last_) return false;
  return rewound_ || last_ - step >= kBehindMax || closed_.test(step % kBehindMax);
}

void ClosedSteps::Close(uint64_t step) {
  if (!any_ || step > last_) {
    const uint64_t ahead = any_ ? step - last_ : kBehindMax;
    if (ahead >= kBehindMax) {
      closed_.reset();
    } else {
      for (uint64_t between = last_ + 1; between < step; ++between) closed_.reset(between % kBehindMax);
    }
    any_ = true;
    rewound_ = false;
    last_ = step;
  }
  if (last_ - step < kBehindMax) closed_.set(step % kBehindMax);
}

bool ClosedSteps::SetRewound() { return !std::exchange(rewound_, true); }

EventFilter::Answer EventFilter::Ask(uint64_t subscriber, uint16_t root, uint16_t tag, uint64_t step,
                                     const Action* action) {
  std::string asked;
  if (action != nullptr) {
    asked = std::string(ActionTypeName(action->type)) + "\n" + action->modules + "\n" + action->command;
  }
  if (last_.size() >= kMaxKinds) last_.clear();
  const auto [at, first] = last_.try_emplace({subscriber, root, tag, std::move(asked)});
  Last& last = at->second;
  // A step below the last: the trainer counts anew.
  if (!first && step >= last.step && step - last.step < kEverySteps) {
    ++last.suppressed;
    return {false, 0};
  }
  last.step = step;
  return {true, std::exchange(last.suppressed, 0)};
}

std::string SuppressedText(uint64_t suppressed) {
  if (suppressed == 0) return {};
  return " (" + std::to_string(suppressed) + " more since the last of these were not shown)";
}

std::string RefusedText(const Action& action) {
  return "; it asks for " + std::string(ActionTypeName(action.type)) + ", which this daemon does not do";
}

}  // namespace ikkuna::graph
