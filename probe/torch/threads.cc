// What is kept of each thread, and what becomes of it when the thread ends.
#include "probe/torch/threads.h"

#include "probe/torch/listener.h"

namespace ikkuna::torch_probe {

namespace {

// Of threads whose own state is gone already: a probe that is a global object ends after the main thread's.
thread_local bool gone = false;
thread_local ThreadState* spare = nullptr;

}  // namespace

ThreadState& CurrentThread() {
  if (gone) {
    if (spare == nullptr) spare = new ThreadState;  // never destroyed: the thread is about to end
    return *spare;
  }
  thread_local ThreadState state;
  return state;
}

void ThreadState::Reset(uint64_t serial) {
  listener = serial;
  id = 0;
  for (auto& root : roots) root.reset();
  depth = 0;
  busy = false;
  telling = false;
  off_graph_task = guarded_task = -2;
  last_root = last_layer = -1;
  provenance.Clear();
  awaits_bias = {};
  foreign_weights.clear();
  pass.reset();
  cost = {};
  timer = nullptr;
  last_step_ns = 0;
  steps_ended = 0;
  step_time = {};
  untold.clear();
}

ThreadState& Listener::OwnThread() {
  ThreadState& thread = CurrentThread();
  if (thread.listener != serial_) thread.Reset(serial_);
  if (thread.id == 0) thread.id = tracker_.AddThread();
  return thread;
}

ThreadState::~ThreadState() {
  gone = true;
  const Listener::Inside inside;
  Listener* live = Listener::Live(listener);
  // Not in a forked child: another thread may have held a lock of ours when it was made.
  if (live == nullptr || !live->active() || id == 0) return;
  live->EndThread(*this);
}

void Listener::EndThread(ThreadState& thread) noexcept {
  // An evaluation that it has left is whole; its training passes may still be walked by others.
  Guarded(thread, [&](ThreadState& own) {
    for (size_t m = 0; m < kMaxRoots; ++m) {
      if (own.roots[m]) CloseEvaluation(*own.roots[m], *models_[m]);
    }
    tracker_.EndThread(own.id);
    own.id = 0;
    for (int m = 0; m < model_count_.load(std::memory_order_acquire); ++m) {
      if (!own.roots[static_cast<size_t>(m)]) continue;
      {
        // Copies of the weights that no step will need.
        RootState& root = *roots_[static_cast<size_t>(m)];
        std::lock_guard lock(root.mutex);
        for (size_t lane = 0; lane < root.lanes.size(); ++lane) {
          LaneState& left = *root.lanes[lane];
          if (!left.identity && !left.closing && !tracker_.LaneInUse(m, static_cast<uint32_t>(lane))) left.kept = {};
        }
      }
      Listen(m);
    }
  });
}

RootThread& Listener::State(ThreadState& thread, const WatchedModel& model) {
  std::unique_ptr<RootThread>& state = thread.roots[static_cast<size_t>(model.index())];
  if (!state) state = std::make_unique<RootThread>();
  return *state;
}

}  // namespace ikkuna::torch_probe
