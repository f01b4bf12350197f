// The C interface over Session: steps, passes, and what is published in them.
#include <algorithm>
#include <cstring>
#include <new>
#include <optional>

#include "probe/core/array.h"
#include "probe/core/c_handle.h"

namespace ikkuna::probe::c {

namespace {

// When a training step of any root ended on this thread: roots that take turns on it share the time that passes.
struct ThreadClock {
  uint64_t session = 0;  // its serial
  uint64_t last_end_ns = 0;
};
thread_local ThreadClock thread_clock;

// One line, once, after two steps: by then the names are there.
void Greet(State& state, Session& session, const Root& root) {
  if (state.quiet || state.greeted.exchange(true)) return;
  session.Say("watching " + (root.name.empty() ? "a model" : root.name) + "; " +
              (session.connected() ? "a daemon listens" : "no daemon listens yet") + "; run " +
              session.identity().run_id);
}

// Why a step cannot begin; empty: it can. The caller holds the root's mutex.
std::string WhyNot(const State& state, const Root& root, uint16_t tag, uint64_t step) {
  if (step > kMaxStep) {
    return "step " + std::to_string(static_cast<int64_t>(step)) + " of " + Shown(root) +
           " is not taken: steps count from 0 and stay below 2^63";
  }
  if (tag != kTagDefault) {
    const auto open = root.evaluations.find(tag);
    if (open == root.evaluations.end() || open->second.expired()) return {};
    return "an evaluation of " + Shown(root) + " under this tag is open: end it before another begins";
  }
  if (const auto open = root.training.lock()) {
    return "step " + std::to_string(open->header.step) + " of " + Shown(root) +
           " is open: end it before the next begins";
  }
  if (step < state.start_step) {
    return "step " + std::to_string(step) + " of " + Shown(root) +
           " is not taken: this run has said that it begins at step " + std::to_string(state.start_step) +
           " (start_step), and what lies before is of an earlier attempt";
  }
  const uint64_t next = state.tracker.NextStep(root.tracked);
  if (step >= next) return {};
  return "step " + std::to_string(step) + " of " + Shown(root) + " is not taken: step " + std::to_string(next - 1) +
         " was begun before it, and the values of one step would stand in the place of another's; count on over the "
         "epochs";
}

// A loop that counts anew in each epoch would be told it at every step.
void TellOnce(Session& session, Root& root, const std::string& why) {
  if (std::exchange(root.refusal_told, true)) return;
  session.Say(why);
  session.AddNote(why);
}

}  // namespace

std::shared_ptr<Step> MakeStep(const std::shared_ptr<State>& state, Session& session, Root& root, uint16_t tag,
                               uint64_t step, uint32_t epoch) {
  session.RefreshDemand(root.demand);
  auto made = std::make_shared<Step>();
  made->state = state;
  made->root = &root;
  made->header.root = root.id;
  made->header.tag = tag;
  made->header.step = step;
  made->header.epoch = epoch;
  made->header.train_step = static_cast<uint32_t>(step - std::min(step, root.epoch_begin_step));
  made->header.dropped_kinds = &made->dropped_kinds;
  made->due = session.DemandAt(root.demand, root.id, tag, step, session.shifts());
  return made;
}

void EnsureStarted(Session& session, Step& step) {
  if (std::exchange(step.started, true)) return;
  if (step.training()) shm::AddRelaxed(session.root_status(step.header.root).steps_due, 1);
  MessageHeader marker = step.header;
  marker.kind = Kind::kBatchStarted;
  session.PublishMarker(marker);
}

void PublishPassStarted(Session& session, const Step& step, uint32_t number) {
  MessageHeader marker = step.header;
  marker.kind = Kind::kPassStarted;
  marker.pass = number;
  session.PublishMarker(marker);
}

void Name(Session& session, Step& step, Kind kind, std::vector<uint32_t> passes, uint16_t flags) {
  StepTracker& tracker = step.state->tracker;
  std::sort(passes.begin(), passes.end(), shm::PassBefore);
  tracker.PassesTold(step.root->tracked, passes);
  MessageHeader marker = step.header;
  marker.kind = kind;
  marker.flags |= flags;
  const uint64_t samples = kind == Kind::kBatchFinished ? step.root->samples.load(std::memory_order_relaxed) : 0;
  session.PublishMarker(marker, samples, {passes, step.named, tracker.LowestOpen(step.root->tracked)});
  step.named += static_cast<uint32_t>(passes.size());
}

void Account(State& state, Session& session, Root& root, const Step& step, uint64_t now) {
  auto& status = session.root_status(root.id);
  const uint64_t ended = state.tracker.steps_ended(root.tracked);
  shm::StoreRelaxed(status.samples_seen, root.samples.load(std::memory_order_relaxed));
  shm::StoreRelaxed(status.last_step_ns, now);
  // Steps of threads that train side by side end in any order.
  shm::StoreRelaxed(status.step, root.follows ? state.start_step + ended : step.header.step + 1);
  if (ended == 2) Greet(state, session, root);
  root.spent.total_ns.fetch_add(MonotonicNs() - now, std::memory_order_relaxed);
  const uint64_t on_thread = thread_clock.session == state.serial ? thread_clock.last_end_ns : 0;
  const uint64_t since = std::max(root.last_end_ns, on_thread);
  root.last_end_ns = now;
  thread_clock = {state.serial, now};
  session.StepFinished(root.step_time.Count(now - std::min(now, since)), root.spent.Take(),
                       step.due.due_kinds() | std::exchange(root.kinds_evaluated, 0),
                       std::exchange(root.evaluated_rarely, false));
}

namespace {

constexpr uint64_t kWholeModel =
    KindBit(Kind::kInputData) | KindBit(Kind::kInputLabels) | KindBit(Kind::kNetworkOutput);

// Empty: such a message may be published here.
std::string WhyMisplaced(const Place& place, bool of_pass) {
  const bool known = place.kind >= 0 && place.kind <= UINT8_MAX && IsKnownKind(static_cast<uint8_t>(place.kind));
  const auto kind = static_cast<Kind>(known ? place.kind : 0);
  const bool whole = known && (KindBit(kind) & kWholeModel) != 0;
  if (!known || (!IsDataKind(kind) && !whole)) {
    return "kind " + std::to_string(place.kind) + " is none that carries arrays";
  }
  const std::string name(KindName(kind));
  if (IsPerCallKind(kind) != of_pass) {
    return name + (of_pass ? " belong to the step: ikkuna_step_array()" : " belong to a pass: ikkuna_pass_array()");
  }
  if (whole && (place.module != 0 || place.param != 0)) return name + " are the model's: module and parameter are 0";
  return (place.flags & ~kGivenFlags) != 0 ? kNoFlags : "";
}

// A number under the name of another, or of several at once, is worse than none. Empty: these are the ids of one place.
std::string WhyUnnamed(const State& state, uint16_t root, const Place& place) {
  const auto kind = static_cast<Kind>(place.kind);
  if (!IsDataKind(kind)) return {};
  const bool of_param = kind != Kind::kActivations && kind != Kind::kLayerGradients;
  std::lock_guard lock(state.names_mutex);
  const auto module = state.root_of_module.find(place.module);
  const auto param = state.module_of_param.find(place.param);
  const bool module_ok = module != state.root_of_module.end() && module->second == root;
  const bool param_ok =
      place.param == 0 ? !of_param : param != state.module_of_param.end() && param->second == place.module;
  if (module_ok && param_ok) return {};
  return std::string(KindName(kind)) + " need the ids that ikkuna_module()" + (of_param ? " and ikkuna_param()" : "") +
         " gave for this root";
}

}  // namespace

// False: it is shorter than the first version of it was, or not in host memory.
bool CopyArray(const ikkuna_array* given, Array& array) {
  if (given == nullptr || given->size < offsetof(ikkuna_array, scale) + sizeof(double)) return false;
  const bool says_where = given->size >= offsetof(ikkuna_array, device_type) + sizeof(int32_t);
  if (says_where && given->device_type != 0 && given->device_type != IKKUNA_HOST) return false;
  array = {given->data,  DTypeOf(given->dtype), given->ndim,
           given->sizes, given->strides,        given->scale == 0 ? 1 : given->scale};
  return true;
}

MessageHeader HeaderOf(const Step& step, Pass* pass, uint16_t call, const Place& place) {
  MessageHeader header = step.header;
  header.kind = static_cast<Kind>(place.kind);
  header.module = place.module;
  header.param = place.param;
  header.flags |= place.flags | step.flags.load(std::memory_order_relaxed);
  if (pass != nullptr) {
    // How a step ended is said of the step alone: a pass that began in it may be part of the next.
    header.flags &= static_cast<uint16_t>(~(step.flags.load(std::memory_order_relaxed) &
                                            (kFlagStepSkipped | kFlagStepInferred) & ~place.flags));
    header.pass = pass->number;
    header.call = call;
    header.dropped_kinds = &pass->dropped_kinds;
  }
  return header;
}

// Of what is wanted under this kind, whatever is wrong with it.
void CountRefused(Session& session, const Step& step, Pass* pass, uint16_t call, const Place& place) {
  const bool known = place.kind >= 0 && place.kind <= UINT8_MAX && IsKnownKind(static_cast<uint8_t>(place.kind));
  if (!known || (pass != nullptr && pass->number == 0)) return;
  const auto kind = static_cast<Kind>(place.kind);
  if ((IsDataKind(kind) || IsPerCallKind(kind)) && step.due.Wanted(kind, place.module)) {
    session.CountFailed(HeaderOf(step, pass, call, place));
  }
}

int FindPlace(Session& session, Step& step, Pass* pass, uint16_t call, const Place& place, MessageHeader& header,
              Want& want) {
  State& state = *step.state;
  if (const std::string why = WhyMisplaced(place, pass != nullptr); !why.empty()) {
    CountRefused(session, step, pass, call, place);
    return Refuse(state, why);
  }
  want = step.due.Wanted(static_cast<Kind>(place.kind), place.module);
  if (!want || (pass != nullptr && pass->number == 0)) return 0;
  header = HeaderOf(step, pass, call, place);
  if (pass == nullptr && step.followed()) {
    std::lock_guard lock(step.mutex);
    if (step.over) {
      return Refuse(state,
                    "step " + std::to_string(step.header.step) + " has ended without this handle: end each in time");
    }
  }
  const std::string why = WhyUnnamed(state, step.root->id, place);
  if (why.empty()) return 1;
  session.DropUnnamed(header);
  return Refuse(state, why);
}

namespace {

// Publishes an array, or (`before`) the difference of two, if it is wanted. `pass`: null for what belongs to the step.
int Publish(Step& step, Pass* pass, uint16_t call, const Place& place, const ikkuna_array* now_given,
            const ikkuna_array* before_given, bool difference) {
  State& state = *step.state;
  return Guarded(state, 0, [&](Session& session) {
    MessageHeader header;
    Want want;
    if (const int found = FindPlace(session, step, pass, call, place, header, want); found != 1) return found;
    Array now, before;
    std::string why;
    if (!CopyArray(now_given, now) || (difference && !CopyArray(before_given, before))) why = kNoArray;
    if (why.empty()) why = WhyUnreadable(now);
    if (why.empty() && difference) why = WhyUnreadable(before);
    if (why.empty() && difference) why = WhyNoDifference(now, before);
    if (!why.empty()) {
      session.CountFailed(header);
      return Refuse(state, std::string(KindName(header.kind)) + " at step " + std::to_string(header.step) + ": " + why);
    }
    Spent& spent = step.root->spent;
    const bool small = (KindBit(header.kind) & kSmallKinds) != 0;
    Timer timer(spent.total_ns, small ? &spent.scalar_ns : want.level == Level::kTensor ? &spent.tensor_ns : nullptr);
    const bool published =
        difference ? PublishDifference(session, header, want, now, before) : PublishArray(session, header, want, now);
    return published ? 1 : 0;
  });
}

// Of what a trainer logs under `name`: published if this value is to be.
template <typename PublishLogged>
int Logged(Step& step, Kind kind, const char* name, PublishLogged&& publish) {
  return Guarded(*step.state, 0, [&](Session& session) {
    std::lock_guard lock(step.mutex);
    if (step.over || !step.due.AnyOf(kind)) return 0;
    Timer timer(step.root->spent.total_ns, &step.root->spent.scalar_ns);
    MessageHeader header = step.header;
    header.kind = kind;
    header.param = session.NameId(Text(name));
    if (kind != Kind::kLearningRate && !step.due.TakesLogged(kind, header.param)) return 0;
    EnsureStarted(session, step);
    return publish(session, header) ? 1 : 0;
  });
}

// The end of a step: the marker that names its passes, and what the root knows of it.
void End(Session& session, Step& step, uint16_t flags) {
  State& state = *step.state;
  Root& root = *step.root;
  const uint64_t now = MonotonicNs();
  std::lock_guard hold(root.mutex);
  std::vector<uint32_t> passes;
  {
    std::lock_guard lock(step.mutex);
    step.over = true;
    passes = std::move(step.passes);
    state.tracker.PassesTold(root.tracked, step.open);  // they come to nothing
    if (!step.open.empty()) step.dropped_kinds.fetch_or(step.due.due_kinds() & kPassKinds, std::memory_order_relaxed);
  }
  if (step.due.any()) Name(session, step, Kind::kBatchFinished, std::move(passes), flags);
  auto& status = session.root_status(root.id);
  if (!step.training()) {
    root.kinds_evaluated |= step.due.due_kinds();
    root.evaluated_rarely |= step.due.rare();
    root.evaluations.erase(step.header.tag);
    if (!root.training.expired()) shm::StoreRelaxed(status.phase, static_cast<uint32_t>(shm::Phase::kTrain));
    root.spent.total_ns.fetch_add(MonotonicNs() - now, std::memory_order_relaxed);
    return;
  }
  root.training.reset();
  state.tracker.Boundary(root.tracked, root.thread);
  Account(state, session, root, step, now);
}

}  // namespace

void EndSteps(State& state) {
  for (Root& root : state.roots) {
    Guarded(state, 0, [&](Session& session) {
      if (root.tracked < 0) return 0;
      if (root.follows) EndFollowed(session, root);
      std::vector<std::shared_ptr<Step>> open;
      {
        std::lock_guard lock(root.mutex);
        for (const auto& [tag, step] : root.evaluations) {
          if (auto alive = step.lock()) open.push_back(std::move(alive));
        }
        if (auto alive = root.training.lock()) open.push_back(std::move(alive));
      }
      for (const auto& step : open) {
        // What it has so far is not what it would have been.
        step->dropped_kinds.fetch_or(step->due.due_kinds() & kPassKinds, std::memory_order_relaxed);
        End(session, *step, 0);
      }
      if (state.tracker.steps_ended(root.tracked) == 0) return 0;
      shm::StoreRelaxed(session.root_status(root.id).phase, static_cast<uint32_t>(shm::Phase::kIdle));
      return 0;
    });
    // In a forked child a thread that is not there may hold it, for ever.
    if (!state.session || !state.session->in_owner()) continue;
    // They hold the state, which holds them.
    std::lock_guard lock(root.mutex);
    root.lanes.clear();
    root.recorded.clear();
    root.leaving.clear();
    root.coming.reset();
  }
}

}  // namespace ikkuna::probe::c

using namespace ikkuna::probe::c;
using ikkuna::Kind;
using ikkuna::MonotonicNs;
using ikkuna::probe::MessageHeader;
using ikkuna::probe::Session;
namespace shm = ikkuna::shm;

extern "C" {

// The number of a step is the caller's; the tracker says whether it may have it, and ends it.
ikkuna_step* ikkuna_step_begin(ikkuna_session* s, uint16_t root_id, uint16_t tag, uint64_t step, uint32_t epoch) {
  if (s == nullptr || !s->state) return nullptr;
  State& state = *s->state;
  return Guarded(state, static_cast<ikkuna_step*>(nullptr), [&](Session& session) -> ikkuna_step* {
    Root* const root = state.root(root_id);
    if (root == nullptr || tag >= ikkuna::kMaxTags) {
      Refuse(state, "a step needs the id of a root and of a tag: take what ikkuna_root() and ikkuna_tag() give");
      return nullptr;
    }
    const bool training = tag == ikkuna::kTagDefault;
    if (training && root->follows) {
      Refuse(state, "the steps of " + Shown(*root) + " are found from what is seen (ikkuna_on_pass() and its like): begin "
                    "none, or make the root with ikkuna_root()");
      return nullptr;
    }
    session.WaitForDaemon();
    std::optional<Timer> timer(std::in_place, root->spent.total_ns, nullptr);
    std::string refusal;
    {
      std::lock_guard lock(root->mutex);
      refusal = WhyNot(state, *root, tag, step);
      if (!refusal.empty()) TellOnce(session, *root, refusal);
    }
    // A boundary it is all the same: a trainer whose steps are refused can be stopped.
    // What the front end does on a command is no work of ours.
    timer.reset();
    HandleCommands(state, session, root_id, training && refusal.empty() ? std::optional(step) : std::nullopt);
    timer.emplace(root->spent.total_ns, nullptr);
    std::lock_guard lock(root->mutex);
    if (refusal.empty()) refusal = WhyNot(state, *root, tag, step);  // another thread may have been faster
    if (!refusal.empty()) {
      Refuse(state, refusal);
      return nullptr;
    }
    const bool first = state.tracker.NextStep(root->tracked) == 0;
    auto made = std::make_unique<ikkuna_step>();
    auto& status = session.root_status(root_id);
    if (training && epoch != root->epoch) {
      root->epoch = epoch;
      root->epoch_begin_step = step;
    }
    made->body = MakeStep(s->state, session, *root, tag, step, epoch);
    Step& body = *made->body;
    if (training) {
      if (root->last_end_ns == 0) root->last_end_ns = MonotonicNs();
      state.tracker.TakeStep(root->tracked, root->thread, step);
      root->training = made->body;
      if (first) shm::StoreRelaxed(status.start_step, step);
      shm::StoreRelaxed(status.epoch, epoch);
    } else {
      root->evaluations[tag] = made->body;
    }
    shm::StoreRelaxed(status.phase, static_cast<uint32_t>(training ? shm::Phase::kTrain : shm::Phase::kEvaluate));
    if (body.due.any()) {
      std::lock_guard hold(body.mutex);
      EnsureStarted(session, body);
    }
    return made.release();
  });
}

int ikkuna_step_wanted(const ikkuna_step* step, int kind, uint32_t module) {
  if (step == nullptr || !step->body->state->active() || kind < 0 || kind > UINT8_MAX) return IKKUNA_NOTHING;
  if (!ikkuna::IsKnownKind(static_cast<uint8_t>(kind))) return IKKUNA_NOTHING;
  return static_cast<int>(step->body->due.Wanted(static_cast<Kind>(kind), module).level);
}

int ikkuna_pass_wanted(const ikkuna_pass* pass, int kind, uint32_t module) {
  if (pass == nullptr || pass->body->number == 0) return IKKUNA_NOTHING;
  const ikkuna_step of{pass->body->step};
  return ikkuna_step_wanted(&of, kind, module);
}

void ikkuna_step_lacks(ikkuna_step* step, int kind) {
  if (step == nullptr || kind < 0 || kind >= 64) return;
  step->body->dropped_kinds.fetch_or(ikkuna::KindBit(static_cast<Kind>(kind)), std::memory_order_relaxed);
}

int ikkuna_step_array(ikkuna_step* step, int kind, uint32_t module, uint32_t param, uint16_t flags,
                      const ikkuna_array* array) {
  if (step == nullptr) return 0;
  return Publish(*step->body, nullptr, 0, {kind, module, param, flags}, array, nullptr, false);
}

int ikkuna_step_difference(ikkuna_step* step, int kind, uint32_t module, uint32_t param, uint16_t flags,
                           const ikkuna_array* now, const ikkuna_array* before) {
  if (step == nullptr) return 0;
  return Publish(*step->body, nullptr, 0, {kind, module, param, flags}, now, before, true);
}

int ikkuna_rate(ikkuna_step* step, const char* group, double value) {
  if (step == nullptr) return 0;
  return Logged(*step->body, Kind::kLearningRate, group,
                [&](Session& session, const MessageHeader& header) { return session.PublishScalar(header, value); });
}

int ikkuna_log(ikkuna_step* step, const char* name, double value) {
  if (step == nullptr) return 0;
  return Logged(*step->body, Kind::kScalar, name,
                [&](Session& session, const MessageHeader& header) { return session.PublishScalar(header, value); });
}

int ikkuna_log_text(ikkuna_step* step, const char* name, const char* text) {
  if (step == nullptr) return 0;
  return Logged(*step->body, Kind::kText, name,
                [&](Session& session, const MessageHeader& header) { return session.PublishText(header, Text(text)); });
}

void ikkuna_samples(ikkuna_step* step, uint64_t count) {
  if (step == nullptr || !step->body->training()) return;
  std::atomic<uint64_t>& samples = step->body->root->samples;
  uint64_t before = samples.load(std::memory_order_relaxed);
  // What a record can say.
  while (!samples.compare_exchange_weak(before, before + std::min(count, ikkuna::kMaxStep - before))) {
  }
}

int ikkuna_step_end(ikkuna_step* step, uint16_t flags) {
  const std::unique_ptr<ikkuna_step> own(step);
  if (step == nullptr) return 0;
  Step& body = *own->body;
  return Guarded(*body.state, 0, [&](Session& session) {
    const bool known = (flags & ~kGivenFlags) == 0;
    const uint16_t said = known ? flags : uint16_t{0};
    if (body.followed()) {
      EndHandle(session, body, said);
    } else {
      End(session, body, said);
    }
    return known ? 1 : Refuse(*body.state, std::string(kNoFlags) + "; the step ended without them");
  });
}

ikkuna_pass* ikkuna_pass_begin(ikkuna_step* step) {
  if (step == nullptr) return nullptr;
  const std::shared_ptr<Step>& body = step->body;
  return Guarded(*body->state, static_cast<ikkuna_pass*>(nullptr), [&](Session& session) -> ikkuna_pass* {
    if (body->followed()) {
      Refuse(*body->state, "a training pass of " + Shown(*body->root) + " begins with ikkuna_on_pass()");
      return nullptr;
    }
    auto made = std::make_unique<ikkuna_pass>();
    made->body = std::make_shared<Pass>();
    made->body->step = body;
    Timer timer(body->root->spent.total_ns, nullptr);
    std::lock_guard lock(body->mutex);
    if (!body->over && body->due.AnyOf(kPassKinds)) {
      EnsureStarted(session, *body);
      const uint32_t number = body->state->tracker.NextPass(body->root->tracked);
      body->open.push_back(number);
      made->body->number = number;
      PublishPassStarted(session, *body, number);
    }
    return made.release();
  });
}

int ikkuna_pass_array(ikkuna_pass* pass, int kind, uint32_t module, uint32_t param, uint16_t call, uint16_t flags,
                      const ikkuna_array* array) {
  if (pass == nullptr) return 0;
  return Publish(*pass->body->step, pass->body.get(), call, {kind, module, param, flags}, array, nullptr, false);
}

int ikkuna_pass_scalar(ikkuna_pass* pass, int kind, uint16_t call, double value) {
  if (pass == nullptr) return 0;
  Step& step = *pass->body->step;
  return Guarded(*step.state, 0, [&](Session& session) {
    if (kind != IKKUNA_LOSS) {
      CountRefused(session, step, pass->body.get(), call, {kind, 0, 0, 0});
      return Refuse(*step.state, "kind " + std::to_string(kind) + " is no scalar of a pass");
    }
    if (!step.due.Wanted(Kind::kLoss, 0) || pass->body->number == 0) return 0;
    MessageHeader header = step.header;
    header.kind = Kind::kLoss;
    header.pass = pass->body->number;
    header.call = call;
    header.dropped_kinds = &pass->body->dropped_kinds;
    Timer timer(step.root->spent.total_ns, &step.root->spent.scalar_ns);
    return session.PublishScalar(header, value) ? 1 : 0;
  });
}

void ikkuna_step_spent(ikkuna_step* step, uint64_t ns) {
  if (step != nullptr) step->body->root->spent.total_ns.fetch_add(ns, std::memory_order_relaxed);
}

void ikkuna_pass_spent(ikkuna_pass* pass, uint64_t ns) {
  if (pass != nullptr) pass->body->step->root->spent.total_ns.fetch_add(ns, std::memory_order_relaxed);
}

int ikkuna_pass_end(ikkuna_pass* pass) {
  if (pass == nullptr || pass->body->of_walk) return 0;
  const std::unique_ptr<ikkuna_pass> own(pass);
  Step& step = *own->body->step;
  if (step.followed()) return Guarded(*step.state, 0, [&](Session&) { return PassGone(*own->body), 1; });
  if (own->body->number == 0) return 0;
  return Guarded(*step.state, 0, [&](Session& session) {
    const uint32_t number = own->body->number;
    step.dropped_kinds.fetch_or(own->body->dropped_kinds.load(std::memory_order_relaxed), std::memory_order_relaxed);
    {
      std::lock_guard lock(step.mutex);
      if (step.over) {
        return Refuse(*step.state, "step " + std::to_string(step.header.step) +
                                       " ended before this pass of it, which comes to nothing: end passes first");
      }
      std::erase(step.open, number);
      step.passes.push_back(number);
      if (step.passes.size() < ikkuna::probe::StepPasses::kNameAtOnce) return 1;
    }
    std::lock_guard hold(step.root->mutex);
    std::vector<uint32_t> passes;
    {
      std::lock_guard lock(step.mutex);
      passes = std::move(step.passes);
      step.passes.clear();
    }
    if (!passes.empty()) Name(session, step, Kind::kPassesNamed, std::move(passes), 0);
    return 1;
  });
}

void ikkuna_pass_abandon(ikkuna_pass* pass) {
  if (pass != nullptr && (pass->body->of_walk || pass->body->step->followed())) {
    ikkuna_pass_end(pass);
    return;
  }
  const std::unique_ptr<ikkuna_pass> own(pass);
  if (pass == nullptr || own->body->number == 0) return;
  Step& step = *own->body->step;
  Guarded(*step.state, 0, [&](Session&) {
    std::lock_guard lock(step.mutex);
    if (step.over) return 0;
    std::erase(step.open, own->body->number);
    step.state->tracker.PassesTold(step.root->tracked, {own->body->number});
    return 0;
  });
}

}  // extern "C"
