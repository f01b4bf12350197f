// The C interface over Session. Exceptions (memory) end here; a failed call does nothing.
#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include "probe/core/session.h"
#include "probe/core/step_time.h"
#include "probe/core/step_tracker.h"
#include "probe/ikkuna/probe.h"
#include "shared/base/stream_copy.h"
#include "shared/stats/stats_pass.h"

namespace {

using ikkuna::Kind;
using ikkuna::KindBit;
using ikkuna::Level;
using ikkuna::probe::CostTimer;
using ikkuna::probe::MessageHeader;
using ikkuna::probe::Session;
using ikkuna::probe::StepDemand;
using ikkuna::probe::TensorShape;

// What is open of a root: a training step, and beside it an evaluation pass.
struct Frame {
  StepDemand due;
  MessageHeader header;
  bool open = false;
  bool started = false;                                           // its first marker is published
  std::atomic<uint64_t> dropped_kinds{0};                         // of it
  std::map<std::tuple<int, uint32_t, uint32_t>, uint16_t> calls;  // (kind, module, param) within it
};

// One root: touched by one thread at a time, as the interface demands.
struct Root {
  int tracked = -1;  // the tracker's number
  ikkuna::probe::ThreadId thread = 0;
  Session::DemandCopy demand;
  Frame training;
  Frame evaluation;
  bool refused = false;  // a step was, which was told
  std::string name;
  uint32_t epoch = 0;
  uint32_t epoch_begin_step = 0;
  ikkuna::probe::StepCost cost;   // of the calls since the last training step ended
  uint64_t samples = 0;           // that went into its steps, as the caller says
  uint64_t kinds_evaluated = 0;   // due in evaluation passes since the last training step
  bool evaluated_rarely = false;  // one of these came rarely

  // What calls are about: the evaluation, where one is open.
  Frame& current() { return evaluation.open ? evaluation : training; }
};

// When a training step of any root ended on this thread: roots that take turns share the time that passes.
struct ThreadClock {
  uint64_t session = 0;  // its serial: a later one may stand at the same address
  uint64_t last_end_ns = 0;
  ikkuna::probe::StepTime step_time;
};

// Of this thread; begins now when it is the first of the session's.
ThreadClock& ClockOf(uint64_t session) {
  thread_local ThreadClock clock;
  if (clock.session != session) clock = {session, ikkuna::MonotonicNs(), {}};
  return clock;
}

uint64_t NextSerial() {
  static std::atomic<uint64_t> last{0};
  return ++last;
}

std::string Text(const char* text) { return text == nullptr ? std::string() : std::string(text); }

}  // namespace

struct ikkuna_session {
  std::unique_ptr<Session> session;  // null: a handle that does nothing
  const uint64_t serial = NextSerial();
  ikkuna::probe::StepTracker tracker;
  std::array<Root, ikkuna::kMaxRoots> roots;
  std::atomic<bool> stop{false};
  std::atomic<bool> greeted{false};
  bool quiet = false;
  mutable std::mutex error_mutex;
  std::string error;  // guarded by error_mutex while roots begin side by side

  bool active() const { return session && session->active(); }
  Root* root(uint16_t id) { return id >= 1 && id <= roots.size() ? &roots[id - 1] : nullptr; }
};

namespace {

// Runs `body` if the handle works; whatever goes wrong inside switches the session off.
template <typename Body>
void Guarded(ikkuna_session* s, Body&& body) {
  if (s == nullptr || !s->active()) return;
  try {
    body(*s->session);
  } catch (const std::exception& error) {
    s->session->SwitchOff(error.what());
  } catch (...) {
    s->session->SwitchOff("unknown error");
  }
}

// The call of a scalar: on the step's account and on that of its class.
struct ScalarTimer {
  explicit ScalarTimer(ikkuna::probe::StepCost& cost) : total(cost.total_ns), scalars(cost.scalar_ns) {}
  CostTimer total;
  CostTimer scalars;
};

// One line, once, after two steps: by then the names are there.
void Greet(ikkuna_session& s, Session& session, const std::string& name) {
  if (s.quiet || s.greeted.exchange(true)) return;
  session.Say("watching " + (name.empty() ? "a model" : name) + "; " +
              (session.connected() ? "a daemon listens" : "no daemon listens yet") + "; run " +
              session.identity().run_id);
}

// A wrong id here would look like a broken producer to the daemon.
bool ValidPlace(int kind, uint32_t module, uint32_t param) {
  constexpr uint64_t kWholeModel =
      KindBit(Kind::kInputData) | KindBit(Kind::kInputLabels) | KindBit(Kind::kNetworkOutput);
  if (!ikkuna::IsKnownKind(static_cast<uint8_t>(kind))) return false;
  const auto known = static_cast<Kind>(kind);
  if (ikkuna::IsDataKind(known)) return module != 0 && module < ikkuna::kMaxModules && param <= ikkuna::kMaxParams;
  return (KindBit(known) & kWholeModel) != 0 && module == 0 && param == 0;
}

bool ValidTensor(int dtype, int ndim, const int64_t* sizes, const void* data, uint64_t* elements) {
  if (!ikkuna::IsKnownDType(static_cast<uint8_t>(dtype))) return false;
  if (ndim < 0 || (ndim > 0 && sizes == nullptr)) return false;
  uint64_t n = 1;
  for (int i = 0; i < ndim; ++i) {
    if (sizes[i] < 0 || __builtin_mul_overflow(n, static_cast<uint64_t>(sizes[i]), &n)) return false;
  }
  *elements = n;
  return n == 0 || data != nullptr;
}

// Why a step cannot begin; empty: it can.
std::string WhyNot(const ikkuna_session& s, const Root& root, uint16_t tag, uint64_t step) {
  const std::string name = root.name.empty() ? "a model" : "'" + root.name + "'";
  if (step > ikkuna::kMaxStep) {
    return "step " + std::to_string(static_cast<int64_t>(step)) + " of " + name +
           " is not taken: steps count from 0 and stay below 2^63";
  }
  const uint64_t next = s.tracker.NextStep(root.tracked);
  if (tag != ikkuna::kTagDefault || step >= next) return {};
  return "step " + std::to_string(step) + " of " + name + " is not taken: step " + std::to_string(next - 1) +
         " was begun before it, and the values of one step would stand in the place of another's; count on over the "
         "epochs";
}

// The marker that stands before all else of a step, or of a pass that is not training.
void EnsureStarted(Session& session, Frame& frame) {
  if (std::exchange(frame.started, true)) return;
  if (frame.header.tag == ikkuna::kTagDefault) {
    ikkuna::shm::AddRelaxed(session.root_status(frame.header.root).steps_due, 1);
  }
  MessageHeader marker = frame.header;
  marker.kind = Kind::kBatchStarted;
  session.PublishMarker(marker);
}

// Of what a trainer logs under `name`: the header, if this value is to be published.
std::optional<MessageHeader> LoggedHeader(Session& session, Frame& frame, Kind kind, const char* name) {
  MessageHeader header = frame.header;
  header.kind = kind;
  header.param = session.NameId(Text(name));
  if (!frame.due.TakesLogged(kind, header.param)) return std::nullopt;
  EnsureStarted(session, frame);
  return header;
}

// Told once a root: a loop that counts anew in each epoch would tell it at every step.
void Refuse(ikkuna_session& s, Session& session, Root& root, const std::string& why) {
  {
    std::lock_guard hold(s.error_mutex);
    s.error = why;
  }
  if (std::exchange(root.refused, true)) return;
  session.Say(why);
  session.AddNote(why);
}

}  // namespace

extern "C" {

ikkuna_session* ikkuna_open(const ikkuna_options* given) {
  auto* handle = new (std::nothrow) ikkuna_session;
  if (handle == nullptr) return nullptr;
  try {
    ikkuna_options options{};
    if (given != nullptr) std::memcpy(&options, given, std::min(given->size, sizeof options));
    ikkuna::probe::SessionOptions session;
    session.identity.run = Text(options.run);
    session.identity.run_id = Text(options.run_id);
    if (options.world_size != 0) {
      session.identity.rank = options.rank;
      session.identity.world_size = options.world_size;
    }
    session.identity.resume = options.resume != 0;
    session.identity.start_step = options.start_step;
    if (options.has_attempt != 0) session.identity.attempt = options.attempt;
    session.directory = Text(options.directory);
    session.arena_mb = options.arena_mb;
    if (options.budget != 0) session.budget_ppm = ikkuna::probe::BudgetPpm(options.budget);
    if (options.allow_control != 0) session.control = ikkuna::shm::Control::kStopOnly;
    handle->quiet = options.quiet != 0;
    handle->session = Session::Open(session);
  } catch (const std::exception& error) {
    ikkuna::probe::PrintNow(std::string("off, this run is not watched: ") + error.what());
  }
  return handle;
}

void ikkuna_close(ikkuna_session* s) {
  if (s == nullptr) return;
  for (size_t i = 0; i < s->roots.size(); ++i) {
    const auto id = static_cast<uint16_t>(i + 1);
    ikkuna_end(s, id);  // an evaluation, where one is open
    ikkuna_end(s, id);
    Guarded(s, [&](Session& session) {
      if (s->roots[i].tracked < 0 || s->tracker.steps_ended(s->roots[i].tracked) == 0) return;
      ikkuna::shm::StoreRelaxed(session.root_status(id).phase, static_cast<uint32_t>(ikkuna::shm::Phase::kIdle));
    });
  }
  Guarded(s, [](Session& session) { session.SetFinished(); });
  delete s;
}

uint16_t ikkuna_root(ikkuna_session* s, const char* name) {
  uint16_t id = 0;
  Guarded(s, [&](Session& session) {
    id = session.AddRoot(Text(name));
    Root* const root = s->root(id);
    if (root == nullptr) return;
    root->name = Text(name);
    if (root->tracked >= 0) return;
    root->tracked = s->tracker.AddRoot(0, true);
    root->thread = s->tracker.AddThread();
  });
  return id;
}

uint32_t ikkuna_module(ikkuna_session* s, uint16_t root, const char* path, const char* type) {
  uint32_t id = 0;
  Guarded(s, [&](Session& session) { id = session.AddModule(root, Text(path), Text(type), 0); });
  return id;
}

uint32_t ikkuna_param(ikkuna_session* s, uint16_t root, uint32_t module, const char* name, int dtype, int ndim,
                      const int64_t* sizes) {
  uint32_t id = 0;
  uint64_t elements = 0;
  if (!ValidTensor(dtype, ndim, sizes, &elements, &elements)) return 0;
  Guarded(s, [&](Session& session) {
    const uint32_t flags = Text(name) == "bias" ? uint32_t{ikkuna::shm::kEntryBias} : 0u;
    const TensorShape shape{static_cast<ikkuna::DType>(dtype), ndim, sizes};
    id = session.AddParam(root, module, Text(name), shape, flags | ikkuna::shm::kEntryTrainable);
  });
  return id;
}

void ikkuna_fact(ikkuna_session* s, const char* key, const char* value) {
  Guarded(s, [&](Session& session) { session.AddFact(Text(key), Text(value)); });
}

// The number of a step is the caller's; the tracker says whether it may have it, and ends it.
int ikkuna_begin(ikkuna_session* s, uint16_t root_id, uint16_t tag, uint64_t step, uint32_t epoch) {
  Root* root = s == nullptr ? nullptr : s->root(root_id);
  if (root == nullptr || tag >= ikkuna::kMaxTags) return s == nullptr ? 0 : -1;
  if (root->tracked < 0) return s->active() ? -1 : 0;
  const bool training = tag == ikkuna::kTagDefault;
  // An evaluation stands beside the step that is open, which goes on behind it.
  if (root->evaluation.open) ikkuna_end(s, root_id);
  if (training && root->training.open) ikkuna_end(s, root_id);
  int began = 0;
  Guarded(s, [&](Session& session) {
    session.WaitForDaemon();
    CostTimer timer(root->cost.total_ns);
    if (training) ClockOf(s->serial);
    const bool first = s->tracker.NextStep(root->tracked) == 0;
    const std::string refusal = WhyNot(*s, *root, tag, step);
    // A boundary it is all the same: a trainer whose steps are refused can be stopped.
    const bool boundary = training && refusal.empty();
    session.HandleCommands(root_id, boundary ? std::optional(step) : std::nullopt,
                           [&](const ikkuna::shm::Command& command) {
                             const bool stop = command.type == static_cast<uint32_t>(ikkuna::shm::CommandType::kStop);
                             if (stop && session.allow_control()) s->stop.store(true);
                           });
    if (!refusal.empty()) {
      began = -1;
      Refuse(*s, session, *root, refusal);
      return;
    }
    session.RefreshDemand(root->demand);
    if (epoch != root->epoch) root->epoch_begin_step = static_cast<uint32_t>(step);
    root->epoch = epoch;
    Frame& frame = training ? root->training : root->evaluation;
    frame.header = {};
    frame.header.root = root_id;
    frame.header.tag = tag;
    frame.header.step = step;
    frame.header.epoch = epoch;
    frame.header.train_step = static_cast<uint32_t>(step) - root->epoch_begin_step;
    frame.dropped_kinds.store(0, std::memory_order_relaxed);
    frame.header.dropped_kinds = &frame.dropped_kinds;
    frame.due = session.DemandAt(root->demand, root_id, tag, step, session.shifts());
    frame.started = false;
    frame.calls.clear();
    frame.open = true;
    if (training) s->tracker.TakeStep(root->tracked, root->thread, step);
    auto& status = session.root_status(root_id);
    if (training && first) ikkuna::shm::StoreRelaxed(status.start_step, step);
    const auto phase = training ? ikkuna::shm::Phase::kTrain : ikkuna::shm::Phase::kEvaluate;
    ikkuna::shm::StoreRelaxed(status.phase, static_cast<uint32_t>(phase));
    ikkuna::shm::StoreRelaxed(status.epoch, epoch);
    if (frame.due.any()) EnsureStarted(session, frame);
  });
  return began;
}

const char* ikkuna_error(const ikkuna_session* s) {
  if (s == nullptr) return "";
  std::lock_guard hold(s->error_mutex);
  return s->error.c_str();
}

void ikkuna_end(ikkuna_session* s, uint16_t root_id) {
  Root* root = s == nullptr ? nullptr : s->root(root_id);
  if (root == nullptr || !root->current().open) return;
  Frame& frame = root->current();
  frame.open = false;
  Guarded(s, [&](Session& session) {
    ThreadClock& clock = ClockOf(s->serial);  // before `now`: it may begin here
    const uint64_t now = ikkuna::MonotonicNs();
    if (frame.due.any()) {
      MessageHeader marker = frame.header;
      marker.kind = Kind::kBatchFinished;
      session.PublishMarker(marker, root->samples);
    }
    auto& status = session.root_status(root_id);
    if (frame.header.tag != ikkuna::kTagDefault) {
      root->kinds_evaluated |= frame.due.due_kinds();
      root->evaluated_rarely |= frame.due.rare();
      if (root->training.open) {
        ikkuna::shm::StoreRelaxed(status.phase, static_cast<uint32_t>(ikkuna::shm::Phase::kTrain));
      }
      root->cost.total_ns += ikkuna::MonotonicNs() - now;
      return;
    }
    s->tracker.Boundary(root->tracked, root->thread);
    ikkuna::shm::StoreRelaxed(status.samples_seen, root->samples);
    ikkuna::shm::StoreRelaxed(status.last_step_ns, now);
    ikkuna::shm::StoreRelaxed(status.step, frame.header.step + 1);
    if (s->tracker.steps_ended(root->tracked) == 2) Greet(*s, session, root->name);
    root->cost.total_ns += ikkuna::MonotonicNs() - now;
    const uint64_t step_ns = clock.step_time.Count(now - std::exchange(clock.last_end_ns, now));
    session.StepFinished(step_ns, std::exchange(root->cost, {}),
                         frame.due.due_kinds() | std::exchange(root->kinds_evaluated, 0),
                         std::exchange(root->evaluated_rarely, false));
  });
}

int ikkuna_wanted(ikkuna_session* s, uint16_t root_id, int kind, uint32_t module) {
  Root* root = s == nullptr ? nullptr : s->root(root_id);
  if (root == nullptr || !root->current().open || !s->active() || !ikkuna::IsKnownKind(static_cast<uint8_t>(kind))) {
    return IKKUNA_NOTHING;
  }
  return static_cast<int>(root->current().due.Wanted(static_cast<Kind>(kind), module));
}

void ikkuna_tensor(ikkuna_session* s, uint16_t root_id, int kind, uint32_t module, uint32_t param, int dtype, int ndim,
                   const int64_t* sizes, const void* data) {
  const int level = ikkuna_wanted(s, root_id, kind, module);
  uint64_t elements = 0;
  if (level == IKKUNA_NOTHING || !ValidPlace(kind, module, param)) return;
  if (!ValidTensor(dtype, ndim, sizes, data, &elements)) return;
  Guarded(s, [&](Session& session) {
    Root& root = *s->root(root_id);
    CostTimer timer(root.cost.total_ns);
    const TensorShape shape{static_cast<ikkuna::DType>(dtype), ndim, sizes};
    Frame& frame = root.current();
    MessageHeader header = frame.header;
    header.kind = static_cast<Kind>(kind);
    header.module = module;
    header.param = param;
    header.call = frame.calls[{kind, module, param}]++;
    const uint64_t bytes = elements * ikkuna::DTypeBytes(shape.dtype);
    const bool fits = session.FitsArena(bytes);
    if (level == IKKUNA_TENSOR && !fits) session.NoteOversize(header.kind, bytes);
    if (level == IKKUNA_TENSOR && bytes != 0 && fits) {
      CostTimer tensors(root.cost.tensor_ns);
      session.PublishTensor(header, shape, bytes, [&](unsigned char* to) { ikkuna::StreamCopy(to, data, bytes); });
    } else {
      session.PublishSummary(header, shape, ikkuna::ComputeStats(data, shape.dtype, elements));
    }
  });
}

void ikkuna_samples(ikkuna_session* s, uint16_t root_id, uint64_t count) {
  if (Root* root = s == nullptr ? nullptr : s->root(root_id)) {
    root->samples += std::min(count, ikkuna::kMaxStep - root->samples);  // what a record can say
  }
}

void ikkuna_loss(ikkuna_session* s, uint16_t root_id, double value) {
  if (ikkuna_wanted(s, root_id, static_cast<int>(Kind::kLoss), 0) == IKKUNA_NOTHING) return;
  Guarded(s, [&](Session& session) {
    Root& root = *s->root(root_id);
    ScalarTimer timer(root.cost);
    Frame& frame = root.current();
    MessageHeader header = frame.header;
    header.kind = Kind::kLoss;
    header.call = frame.calls[{static_cast<int>(Kind::kLoss), 0, 0}]++;
    session.PublishScalar(header, value);
  });
}

void ikkuna_log(ikkuna_session* s, uint16_t root_id, const char* name, double value) {
  if (ikkuna_wanted(s, root_id, static_cast<int>(Kind::kScalar), 0) == IKKUNA_NOTHING) return;
  Guarded(s, [&](Session& session) {
    Root& root = *s->root(root_id);
    ScalarTimer timer(root.cost);
    if (const auto header = LoggedHeader(session, root.current(), Kind::kScalar, name))
      session.PublishScalar(*header, value);
  });
}

void ikkuna_log_text(ikkuna_session* s, uint16_t root_id, const char* name, const char* text) {
  if (ikkuna_wanted(s, root_id, static_cast<int>(Kind::kText), 0) == IKKUNA_NOTHING) return;
  Guarded(s, [&](Session& session) {
    Root& root = *s->root(root_id);
    ScalarTimer timer(root.cost);
    if (const auto header = LoggedHeader(session, root.current(), Kind::kText, name))
      session.PublishText(*header, Text(text));
  });
}

int ikkuna_stop_requested(const ikkuna_session* s) { return s != nullptr && s->stop.load() ? 1 : 0; }

}  // extern "C"
