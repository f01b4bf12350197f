// Event: what one thread of a front end has seen in one root, and what comes of it for the root's steps.
//
// No lock of ours is held while the front end works: what it is to take waits on its thread, and the marker of a step
// goes when the step has ended and the last handle of it has, on whichever threads that is.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "probe/core/c_handle.h"

namespace ikkuna::probe::c {

// One event of one thread in one root, whose mutex is held.
class Event {
 public:
  Event(Session& session, Thread& thread, Root& root)
      : state_(thread.state), session_(session), tracker_(state_->tracker), thread_(thread), root_(root) {}

  ikkuna_pass* BeginPass(uint32_t seen);
  void Gradient(int64_t task, uint32_t seen);
  void GradientsUsed(int64_t task);
  void Written(int write, uint32_t param, uint32_t seen);
  void Boundary();
  void Evaluation();
  void Epoch(uint32_t epoch);
  void CloseAll();
  ikkuna_step* Now();
  // The step that is about to begin, where one has ended.
  std::optional<uint64_t> boundary() const { return boundary_; }
  // Commands that are for no step may come behind it.
  bool may_command() const { return boundary_ || between_; }

 private:
  std::shared_ptr<Step> Make(uint64_t number);
  std::shared_ptr<Step> StepOf(uint32_t lane, uint64_t number);
  std::shared_ptr<Step> Coming();
  std::shared_ptr<Step> Said();
  void Start(Step& step);
  void Queue(const std::shared_ptr<Step>& step, uint32_t take, uint16_t flags = 0);
  void TakeWeights(const std::shared_ptr<Step>& step);
  void End(const StepEnd& end, bool gradients);
  void NamePassesOf(const StepEnd& end, Step& step, TrackedLane& lane);
  bool WroteAll(const TrackedLane& lane) const;
  void Finish(const StepToClose& closing);
  void FinishAll(const std::vector<StepToClose>& closing);
  void EndMerged();
  void Leave(const std::shared_ptr<Step>& step);
  void NoteDue(uint32_t lane);

  const std::shared_ptr<State>& state_;
  Session& session_;
  StepTracker& tracker_;
  Thread& thread_;
  Root& root_;
  std::optional<uint64_t> boundary_;
  bool between_ = false;
};

// What a thread has not taken in time is lost to its step. Takes the root's mutex.
void GiveUpTakes(Session& session, Thread& thread);

}  // namespace ikkuna::probe::c
