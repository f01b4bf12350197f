// The C interface over StepTracker: steps that are found from what a front end sees.
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <new>

#include "probe/core/c_event.h"

namespace ikkuna::probe::c {

namespace {

constexpr size_t kLeastTake = offsetof(ikkuna_take, flags) + sizeof(uint16_t);  // of version 2
constexpr const char* kNoTask = "a backward pass has a number that is not below 0";
// Backward passes that are remembered: beyond it the oldest is forgotten, one that has ended first.
constexpr size_t kMaxTasks = 256;

constexpr uint64_t kWalkKinds = KindBit(Kind::kLayerGradients) | KindBit(Kind::kRawWeightGradients);

// The tracker's number of a backward pass that is under way, and of none before it.
TaskId TaskOf(State& state, Thread& thread, int64_t given) {
  const uint64_t ended = state.tasks_ended.load(std::memory_order_acquire);
  if (thread.task_known != 0 && thread.task_given == given && thread.task_read == ended) return thread.task_known;
  std::lock_guard lock(state.tasks_mutex);
  const auto found = std::find_if(state.tasks.rbegin(), state.tasks.rend(),
                                  [&](const State::Task& task) { return task.given == given && !task.ended; });
  TaskId known = 0;
  if (found != state.tasks.rend()) {
    known = found->known;
  } else {
    if (state.tasks.size() >= kMaxTasks) {
      const auto over =
          std::find_if(state.tasks.begin(), state.tasks.end(), [](const auto& task) { return task.ended; });
      state.tasks.erase(over == state.tasks.end() ? state.tasks.begin() : over);
    }
    known = ++state.last_task;
    state.tasks.push_back({given, known, false});
  }
  thread.task_given = given;
  thread.task_read = ended;
  return thread.task_known = known;
}

// The one of this id that was begun last; 0: there is none. `ends`: it does now.
TaskId LastTask(State& state, int64_t given, bool ends) {
  std::lock_guard lock(state.tasks_mutex);
  const auto found = std::find_if(state.tasks.rbegin(), state.tasks.rend(),
                                  [&](const State::Task& task) { return task.given == given; });
  if (found == state.tasks.rend()) return 0;
  if (ends) {
    found->ended = true;
    state.tasks_ended.fetch_add(1, std::memory_order_release);
  }
  return found->known;
}

// Those that came with the takes of an event: what the front end does on one is done to the step that comes, and must
// not reach what of the last is not read yet.
void HandleWaiting(State& state, Session& session, Thread& thread) {
  if (!thread.takes.empty() || !thread.boundary) return;
  const Thread::Boundary boundary = *std::exchange(thread.boundary, std::nullopt);
  HandleCommands(state, session, boundary.root, boundary.step);
}

// What `body` makes of the event, with the root's mutex held, and commands behind it. `refused`: where it is.
template <typename Value, typename Body>
Value Seen(ikkuna_thread* handle, uint16_t root_id, Value nothing, Value refused, Body&& body) {
  if (handle == nullptr) return nothing;
  Thread& thread = handle->body;
  State& state = *thread.state;
  return Guarded(state, nothing, [&](Session& session) -> Value {
    Root* const root = state.root(root_id);
    if (root == nullptr || !root->follows) {
      Refuse(state,
             "what is seen needs the id of a root whose steps are found from it: take what ikkuna_root_tracked() "
             "gives");
      return refused;
    }
    session.WaitForDaemon();
    GiveUpTakes(session, thread);
    HandleWaiting(state, session, thread);
    Value value = nothing;
    bool first = false;
    {
      std::lock_guard lock(root->mutex);
      first = root->last_end_ns == 0;
      if (first) root->last_end_ns = MonotonicNs();
    }
    if (first) HandleCommands(state, session, root_id, state.tracker.NextStep(root->tracked));
    {
      Timer timer(root->spent.total_ns, nullptr);
      std::lock_guard lock(root->mutex);
      Event event(session, thread, *root);
      value = body(event);
      if (event.may_command()) thread.boundary = {root_id, event.boundary()};
    }
    HandleWaiting(state, session, thread);
    return value;
  });
}

template <typename Body>
int SeenAndCounted(ikkuna_thread* thread, uint16_t root, Body&& body) {
  const int seen = Seen(thread, root, 0, -1, [&](Event& event) {
    body(event);
    return 1;
  });
  return seen == 1 ? static_cast<int>(thread->body.takes.size()) : seen;
}

}  // namespace

}  // namespace ikkuna::probe::c

using namespace ikkuna::probe::c;
using ikkuna::probe::Session;
using ikkuna::probe::TaskId;

extern "C" {

uint64_t ikkuna_next_step(const ikkuna_session* s, uint16_t root_id) {
  if (s == nullptr || !s->state || s->state->root(root_id) == nullptr) return 0;
  if (!s->state->session || !s->state->session->in_owner()) return 0;
  return s->state->tracker.NextStep(s->state->root(root_id)->tracked);
}

ikkuna_thread* ikkuna_thread_begin(ikkuna_session* s) {
  if (s == nullptr || !s->state) return nullptr;
  return Guarded(*s->state, static_cast<ikkuna_thread*>(nullptr), [&](Session&) {
    auto made = std::make_unique<ikkuna_thread>();
    made->body.state = s->state;
    made->body.id = s->state->tracker.AddThread();
    return made.release();
  });
}

void ikkuna_thread_end(ikkuna_thread* thread) {
  const std::unique_ptr<ikkuna_thread> own(thread);
  if (thread == nullptr) return;
  State& state = *thread->body.state;
  Guarded(state, 0, [&](Session& session) {
    GiveUpTakes(session, thread->body);
    state.tracker.EndThread(thread->body.id);
    return 0;
  });
  for (const ikkuna_take& left : thread->body.takes) delete left.step;
}

uint32_t ikkuna_look(const ikkuna_session* s, uint16_t root_id) {
  if (s == nullptr || !s->state || !s->state->active()) return 0;
  const Root* const root = s->state->root(root_id);
  if (root == nullptr || !root->follows) return 0;
  const auto& tracker = s->state->tracker;
  uint32_t look = 0;
  if (tracker.Pending(root->tracked)) look |= IKKUNA_LOOK_GRADIENTS;
  if (tracker.WatchesWeights(root->tracked)) look |= IKKUNA_LOOK_WEIGHTS;
  if (!tracker.Accumulates(root->tracked)) look |= IKKUNA_LOOK_WRITES;
  if (tracker.Awake(root->tracked)) look |= IKKUNA_LOOK_AWAKE;
  return look;
}

ikkuna_pass* ikkuna_on_pass(ikkuna_thread* thread, uint16_t root, uint32_t seen) {
  ikkuna_pass* const nothing = nullptr;
  return Seen(thread, root, nothing, nothing, [&](Event& event) { return event.BeginPass(seen); });
}

ikkuna_pass* ikkuna_on_reached(ikkuna_thread* thread, ikkuna_pass* handle, int64_t given) {
  if (thread == nullptr || handle == nullptr || handle->body->tracked == 0) return nullptr;
  Pass& pass = *handle->body;
  const std::shared_ptr<Step>& step = pass.step;
  State& state = *step->state;
  return Guarded(state, static_cast<ikkuna_pass*>(nullptr), [&](Session& session) -> ikkuna_pass* {
    if (given < 0) return Refuse(state, kNoTask), nullptr;
    const TaskId task = TaskOf(state, thread->body, given);
    std::lock_guard lock(pass.walks_mutex);
    if (pass.walked_for_nothing == task) return nullptr;
    for (const auto& [known, walk] : pass.walks) {
      if (known == task) return walk.get();
    }
    Timer timer(step->root->spent.total_ns, nullptr);
    std::lock_guard hold(step->root->mutex);
    const bool numbered = pass.number != 0 && step->due.AnyOf(kWalkKinds);
    const uint32_t number = state.tracker.Walked(step->root->tracked, thread->body.id, pass.tracked, task, numbered);
    // One that runs within another, as checkpointing does, is part of it.
    for (const auto& [other, walk] : pass.walks) {
      if (walk->body->number == number) return walk.get();
    }
    if (number == 0) {
      pass.walked_for_nothing = task;
      return nullptr;
    }
    auto walk = std::make_unique<ikkuna_pass>();
    walk->body = std::make_shared<Pass>();
    walk->body->step = step;
    walk->body->number = number;
    walk->body->of_walk = true;
    PublishPassStarted(session, *step, number);
    step->root->recorded[number] = walk->body;
    return pass.walks.emplace_back(task, std::move(walk)).second.get();
  });
}

int ikkuna_on_evaluation_reached(ikkuna_thread* thread, uint16_t root_id, int64_t task) {
  if (thread == nullptr) return 0;
  State& state = *thread->body.state;
  return Guarded(state, 0, [&](Session&) {
    const Root* const root = state.root(root_id);
    if (root == nullptr || !root->follows) return Refuse(state, "there is no such root whose steps are found");
    if (task < 0) return Refuse(state, kNoTask);
    state.tracker.EvaluationWalked(root->tracked, thread->body.id, TaskOf(state, thread->body, task));
    return static_cast<int>(thread->body.takes.size());
  });
}

int ikkuna_on_gradient(ikkuna_thread* thread, uint16_t root, int64_t given, uint32_t seen) {
  if (thread == nullptr) return 0;
  State& state = *thread->body.state;
  if (given < 0) return Guarded(state, 0, [&](Session&) { return Refuse(state, kNoTask); });
  const TaskId task = Guarded(state, TaskId{0}, [&](Session&) { return TaskOf(state, thread->body, given); });
  if (task == 0) return 0;
  // One early way out, before anything that threads share.
  const bool known = root >= 1 && root <= ikkuna::kMaxRoots;
  if (known && thread->body.last_task[root - 1u] == task) return static_cast<int>(thread->body.takes.size());
  const int waiting = SeenAndCounted(thread, root, [&](Event& event) { event.Gradient(task, seen); });
  if (known && waiting >= 0) thread->body.last_task[root - 1u] = task;
  return waiting;
}

int ikkuna_on_gradients_used(ikkuna_thread* thread, uint16_t root, int64_t given) {
  if (thread == nullptr) return 0;
  State& state = *thread->body.state;
  if (given < 0) return Guarded(state, 0, [&](Session&) { return Refuse(state, kNoTask); });
  const TaskId task = Guarded(state, TaskId{0}, [&](Session&) { return LastTask(state, given, false); });
  return SeenAndCounted(thread, root, [&](Event& event) { event.GradientsUsed(task); });
}

int ikkuna_on_backward_end(ikkuna_thread* thread, int64_t given) {
  if (thread == nullptr) return 0;
  State& state = *thread->body.state;
  return Guarded(state, 0, [&](Session&) {
    if (given < 0) return Refuse(state, kNoTask);
    if (const TaskId task = LastTask(state, given, true); task != 0) state.tracker.EndBackward(thread->body.id, task);
    return static_cast<int>(thread->body.takes.size());
  });
}

int ikkuna_on_write(ikkuna_thread* thread, uint16_t root, int write, uint32_t param, uint32_t seen) {
  if (thread == nullptr) return 0;
  if (write < IKKUNA_WRITE_ARITHMETIC || write > IKKUNA_WRITE_OTHER || param > INT32_MAX) {
    return Refuse(*thread->body.state, "a write is one of IKKUNA_WRITE_*, of a parameter whose number is below 2^31");
  }
  return SeenAndCounted(thread, root, [&](Event& event) { event.Written(write, param, seen); });
}

int ikkuna_on_boundary(ikkuna_thread* thread, uint16_t root) {
  return SeenAndCounted(thread, root, [](Event& event) { event.Boundary(); });
}

int ikkuna_on_evaluation(ikkuna_thread* thread, uint16_t root) {
  return SeenAndCounted(thread, root, [](Event& event) { event.Evaluation(); });
}

int ikkuna_on_epoch(ikkuna_thread* thread, uint16_t root, uint32_t epoch) {
  return SeenAndCounted(thread, root, [&](Event& event) { event.Epoch(epoch); });
}

int ikkuna_on_end(ikkuna_thread* thread, uint16_t root) {
  return SeenAndCounted(thread, root, [](Event& event) { event.CloseAll(); });
}

int ikkuna_next_take(ikkuna_thread* thread, ikkuna_take* take) {
  if (thread == nullptr) return 0;
  if (take == nullptr || take->size < kLeastTake) {
    return Refuse(*thread->body.state, "a take needs `size` to be sizeof(ikkuna_take)");
  }
  Thread& body = thread->body;
  if (body.takes.empty() && body.boundary) {
    Guarded(*body.state, 0, [&](Session& session) { return HandleWaiting(*body.state, session, body), 0; });
  }
  if (body.takes.empty()) return 0;
  // A program knows the fields of its own version, and its `size` stays.
  const size_t size = take->size;
  std::memcpy(static_cast<void*>(take), &body.takes.front(), std::min(size, sizeof *take));
  take->size = size;
  body.takes.pop_front();
  return 1;
}

ikkuna_step* ikkuna_step_now(ikkuna_thread* thread, uint16_t root) {
  ikkuna_step* const nothing = nullptr;
  if (thread == nullptr) return nothing;
  State& state = *thread->body.state;
  return Guarded(state, nothing, [&](Session& session) -> ikkuna_step* {
    Root* const of = state.root(root);
    if (of == nullptr || !of->follows) {
      Refuse(state, "the step of now is one of a root that ikkuna_root_tracked() gives");
      return nullptr;
    }
    session.WaitForDaemon();
    std::lock_guard lock(of->mutex);
    return Event(session, thread->body, *of).Now();
  });
}

}  // extern "C"
