// What is kept of each thread, and what becomes of it when the thread ends.
#include <algorithm>
#include <memory>
#include <mutex>

#include "probe/torch/listener.h"

namespace ikkuna::torch_probe {

ThreadState& CurrentThread() {
  thread_local ThreadState state;
  return state;
}

ThreadState& Listener::OwnThread() {
  ThreadState& thread = CurrentThread();
  if (thread.listener != serial_) {
    thread.listener = serial_;
    thread.roots.fill(nullptr);
    thread.stepped.fill(nullptr);
    thread.owns_backward = false;
    thread.depth = 0;
    thread.busy = false;
    thread.off_graph_task = -2;
    thread.last_root = thread.last_layer = -1;
    thread.provenance.Clear();
    thread.pass = nullptr;
    thread.pass_state = nullptr;
    thread.cost = {};
    thread.timer = nullptr;
    thread.last_step_ns = 0;
    thread.steps_ended = 0;
    thread.step_time = {};
  }
  return thread;
}

ThreadState::~ThreadState() {
  const Listener::Inside inside;
  Listener* live = Listener::Live(listener);
  // Not in a forked child: another thread may have held a lock of ours when it was made.
  if (live == nullptr || !live->active()) return;
  for (size_t m = 0; m < roots.size(); ++m) {
    RootThread* state = roots[m];
    if (state == nullptr) continue;
    // What is pending stays: backward may have run on this thread for a step that another one will end. So does what is
    // due or watched where no thread is left that trains: the one that takes over is to be heard from its first layer
    // on.
    for (auto* flag : {&state->open, &state->learning}) flag->store(false);
    // Copies of the weights, for an update that nobody will ask for now; in a pass, another thread may be at them.
    if (!state->in_pass && !state->closing) state->kept.clear();
    std::lock_guard lock(live->mutex_);
    state->ended.store(true);
    if (state->in_pass || live->TrainsLocked(m)) {
      for (auto* flag : {&state->due, &state->watching}) flag->store(false);
    }
    live->Sync(*state);
  }
}

// Whether a living thread trains the model.
bool Listener::TrainsLocked(size_t model) const {
  return std::any_of(states_[model].begin(), states_[model].end(),
                     [](const auto& state) { return state->trains.load() && !state->ended.load(); });
}

// Of threads that come and go (one an epoch, one a backward pass) the next takes over what the last has left.
RootThread& Listener::State(ThreadState& thread, WatchedModel& model, bool only_backward) {
  RootThread*& state = thread.roots[static_cast<size_t>(model.index())];
  if (state != nullptr) return *state;
  {
    std::lock_guard lock(mutex_);
    auto& states = states_[static_cast<size_t>(model.index())];
    // A thread that runs backward alone leaves the steps to those whose layers it works for.
    const bool may_step = !only_backward || !TrainsLocked(static_cast<size_t>(model.index()));
    for (const auto& other : states) {
      if (!other->ended.load() || other->pending.load()) continue;
      if (other->in_pass && other->leader.load() == nullptr) continue;
      if (other->started_thread ? !may_step : !only_backward) continue;
      other->ended.store(false);
      state = other.get();
      break;
    }
    if (state == nullptr) {
      states.push_back(std::make_unique<RootThread>());
      return *(state = states.back().get());
    }
  }
  Guarded([&](ThreadState&) { TakeOver(*state, model, true); });
  return *state;
}

// What the thread that ended left open is closed as its own next pass would have.
void Listener::TakeOver(RootThread& state, WatchedModel& model, bool optimizers_alive) {
  if (state.closing && model.steps_finished.load() == state.steps_at_close) {
    FinishClosing(state, model, optimizers_alive);
  } else if (state.closing) {
    // The weights have moved on since, and so have the moments.
    session_->AddNote("the last update of a thread of " + model.name() + " that ended is not captured: others went on");
    capture_.PublishMarker(*state.closing, Kind::kBatchFinished);
    state.closing.reset();
    state.late_optimizers.clear();
    state.kept.clear();
    state.open.store(false);
  }
  CloseEvaluation(state, model);
  state.stepper.store(false);
  state.trains.store(false);
  state.graph_task = -2;
  state.last_step_ns = MonotonicNs();
  if (!state.started_thread) return;
  state.due.store(state.pass.identity->any());
  state.watching.store(state.demand.table && state.demand.table->WatchesEvaluation(model.root_id()));
  Sync(state);
}

// The state that ran the forward pass of what this thread's backward belongs to: its own, or the only one there is.
RootThread& Listener::ForwardState(ThreadState& thread, WatchedModel& model) {
  RootThread& own = State(thread, model);
  if (own.started_thread) return own;
  std::lock_guard lock(mutex_);
  RootThread* only = nullptr;
  for (const auto& state : states_[static_cast<size_t>(model.index())]) {
    if (!state->started_thread) continue;
    if (only != nullptr) return own;
    only = state.get();
  }
  return only == nullptr ? own : *only;
}

}  // namespace ikkuna::torch_probe
