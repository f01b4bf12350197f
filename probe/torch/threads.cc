#include "probe/torch/threads.h"

#include "probe/torch/listener.h"

namespace ikkuna::torch_probe {

namespace {

thread_local ThreadState* current = nullptr;  // null: the thread has not asked yet
thread_local bool gone = false;

ThreadState& FirstOfThread() {
  // Of threads whose own state is gone already: a probe that is a global object ends after the main thread's.
  if (gone) {
    current = new ThreadState;  // never destroyed: the thread is about to end
    current->tells = false;
    return *current;
  }
  thread_local ThreadState state;
  current = &state;
  return state;
}

}  // namespace

ThreadState& CurrentThread() { return current != nullptr ? *current : FirstOfThread(); }

void ThreadState::Reset(uint64_t serial) {
  listener = serial;
  id = 0;
  for (auto& root : roots) root.reset();
  depth = 0;
  busy = false;
  telling = false;
  backward_ends.clear();
  last_root = last_layer = -1;
  provenance.Clear();
  awaits_bias = {};
  foreign_weights.clear();
  pass.reset();
  evaluation_tag.reset();
  starts_backward = false;
  cost = {};
  timer = nullptr;
  last_step_ns = 0;
  step_time = {};
  untold.clear();
  released.clear();
}

ThreadState::~ThreadState() {
  ends = true;
  tells = false;
  {
    const Listener::Inside inside;
    Listener* live = Listener::Live(listener);
    // Not in a forked child: another thread may have held a lock of ours when it was made.
    if (live != nullptr && live->active() && id != 0) live->EndThread(*this);
  }
  gone = true;
  current = nullptr;
}

RootThread& StateOn(ThreadState& thread, const WatchedModel& model) {
  std::unique_ptr<RootThread>& state = thread.roots[static_cast<size_t>(model.index())];
  if (!state) state = std::make_unique<RootThread>();
  return *state;
}

void TellSubscribers(ThreadState& thread) noexcept {
  thread.telling = true;
  if (thread.in_order->left()) thread.in_order->Tell();
  while (!thread.untold.empty()) {
    const std::vector<Untold> untold = std::exchange(thread.untold, {});
    for (const Untold& one : untold) {
      if (one.subscriber == nullptr)
        thread.in_order->Tell();
      else
        TellOne(one);
    }
  }
  thread.telling = false;
}

}  // namespace ikkuna::torch_probe
