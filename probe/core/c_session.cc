// The C interface over Session: opening and closing, names, what is due. Exceptions (memory) end here; a failed call does
// nothing.
#include <algorithm>
#include <cstring>
#include <new>
#include <optional>

#include "probe/core/array.h"
#include "probe/core/c_handle.h"

namespace ikkuna::probe::c {

namespace {

constexpr size_t kMaxUnanswered = 1024;  // commands; of more the oldest is taken for one that is never answered
constexpr const char* kNoRoom = "a limit of the format is reached, and a note says which: there is no room for this name";

uint64_t NextSerial() {
  static std::atomic<uint64_t> last{0};
  return ++last;
}

struct LastError {
  uint64_t session = 0;  // its serial
  std::string text;
};
LastError& ErrorOfThread() {
  thread_local LastError error;
  return error;
}

std::shared_ptr<State> Open(const ikkuna_options& given) {
  auto state = std::make_shared<State>();
  state->serial = NextSerial();
  state->quiet = given.quiet != 0;
  for (size_t i = 0; i < state->roots.size(); ++i) state->roots[i].id = static_cast<uint16_t>(i + 1);
  SessionOptions options;
  options.identity.run = Text(given.run);
  options.identity.run_id = Text(given.run_id);
  if (given.rank != 0 || given.world_size != 0) options.identity.rank = given.rank;
  if (given.world_size != 0) options.identity.world_size = given.world_size;
  options.identity.resume = given.resume != 0;
  // Beyond it steps would soon have numbers that none can have: -1 for one that is not known, say.
  state->start_step = given.start_step <= kMaxStep / 2 ? given.start_step : 0;
  options.identity.start_step = state->start_step;
  if (given.has_attempt != 0) options.identity.attempt = given.attempt;
  options.directory = Text(given.directory);
  options.arena_mb = given.arena_mb;
  options.late_bytes = std::min(given.late_kb, shm::kMaxLateBytes >> 10) << 10;
  if (given.budget != 0) options.budget_ppm = BudgetPpm(given.budget);
  const bool all = given.control == IKKUNA_CONTROL_ALL && given.on_command != nullptr;
  if (given.allow_control != 0 || given.control != IKKUNA_CONTROL_NONE) options.control = shm::Control::kStopOnly;
  if (all) options.control = shm::Control::kAll;
  options.takes_all_commands = all;
  if (given.prepared != nullptr) {
    // Before it has a root the front end makes no steps, and may not have its handle yet.
    options.prepared = [prepared = given.prepared, context = given.context, ready = state->has_root] {
      return ready->load() && prepared(context) != 0;
    };
  }
  state->on_command = given.on_command;
  state->context = given.context;
  state->session = Session::Open(options);
  if (state->session && state->start_step != given.start_step) {
    const std::string why = "start_step is above 2^62: this run counts from 0";
    state->session->Say(why);
    state->session->AddNote(why);
  }
  return state;
}

// What a parameter or a module is named by, without its data.
std::string WhyNoShape(int dtype, int ndim, const int64_t* sizes) {
  const int64_t nothing = 0;  // an address: shapes are checked, no element is read
  return WhyUnreadable({&nothing, DTypeOf(dtype), ndim, sizes});
}

// What `answer` says of the demand as it is, and of the shifts that hold for the tag; `unknown` where that cannot be read
// just now. Evaluations that come rarely are not thinned, and whether one does is known only when it comes.
template <typename Answer>
uint64_t Ask(ikkuna_session* s, uint16_t root, uint16_t tag, uint64_t nothing, uint64_t unknown, Answer&& answer) {
  if (s == nullptr || !s->state || s->state->root(root) == nullptr) return nothing;
  State& state = *s->state;
  return Guarded(state, nothing, [&](Session& session) {
    session.WaitForDaemon();
    std::lock_guard lock(state.question_mutex);
    if (!session.RefreshDemand(state.question)) return unknown;
    return answer(*state.question.table, tag == kTagDefault ? session.shifts() : PeriodShifts{});
  });
}

// The root, made if it is not there; 0: there is no room for it, or it is there with steps of the other sort.
uint16_t AddRoot(ikkuna_session* s, const char* name, bool follows, bool manual) {
  if (s == nullptr || !s->state) return 0;
  State& state = *s->state;
  return Guarded(state, uint16_t{0}, [&](Session& session) -> uint16_t {
    std::lock_guard lock(state.names_mutex);
    const auto known = state.root_ids.find(Text(name));
    if (known != state.root_ids.end()) {
      if (state.roots[known->second - 1u].follows == follows) return known->second;
      return Refuse(state, "root '" + Text(name) + "' is there already, and its steps are " +
                               (follows ? "given" : "found from what is seen") + ": choose another name"), 0;
    }
    const uint16_t fresh = session.AddRoot(Text(name));
    if (fresh == 0) return Refuse(state, kNoRoom), 0;
    Root& root = state.roots[fresh - 1u];
    root.name = Text(name);
    root.follows = follows;
    root.thread = state.tracker.AddThread();
    root.tracked = state.tracker.AddRoot(follows ? state.start_step : 0, manual);
    if (follows) shm::StoreRelaxed(session.root_status(fresh).start_step, state.start_step);
    state.root_ids[root.name] = fresh;
    state.has_root->store(true);
    return fresh;
  });
}

}  // namespace

void HandleCommands(State& state, Session& session, uint16_t root, std::optional<uint64_t> step) {
  session.HandleCommands(root, step, [&](const shm::Command& command) {
    if (command.type == static_cast<uint32_t>(shm::CommandType::kStop)) {
      if (session.allow_control()) state.stop.store(true);
      return;
    }
    {
      std::lock_guard lock(state.commands_mutex);
      if (state.commands.size() >= kMaxUnanswered) state.commands.erase(state.commands.begin());
      state.commands.emplace(command.seq, command);
    }
    ikkuna_command given{};
    given.size = sizeof given;
    given.id = command.seq;
    given.step = step.value_or(UINT64_MAX);
    given.type = command.type;
    given.module = command.module;
    given.param = command.param;
    given.root = command.root == kAnyRoot ? uint16_t{0} : command.root;
    state.on_command(state.context, &given);
  });
}

int Refuse(const State& state, std::string why) noexcept {
  LastError& error = ErrorOfThread();
  error.session = state.serial;
  error.text = std::move(why);
  return -1;
}

int Refuse(const State& state, const char* why) noexcept {
  try {
    return Refuse(state, std::string(why));
  } catch (const std::bad_alloc&) {
    return Refuse(state, std::string());  // there is no memory for a sentence
  }
}

}  // namespace ikkuna::probe::c

using namespace ikkuna::probe::c;
using ikkuna::kMaxDims;
using ikkuna::probe::DemandTable;
using ikkuna::probe::PeriodShifts;
using ikkuna::probe::Session;
namespace shm = ikkuna::shm;

extern "C" {

uint32_t ikkuna_version(void) { return IKKUNA_VERSION; }

ikkuna_session* ikkuna_open(const ikkuna_options* given) {
  auto* handle = new (std::nothrow) ikkuna_session;
  if (handle == nullptr) return nullptr;
  try {
    ikkuna_options options{};
    if (given != nullptr && given->size == 0) {
      ikkuna::probe::PrintNow(
          "ikkuna_options.size is 0: all options are taken as their defaults; set it to sizeof(ikkuna_options)");
    }
    if (given != nullptr) std::memcpy(&options, given, std::min(given->size, sizeof options));
    handle->state = Open(options);
  } catch (const std::exception& error) {
    ikkuna::probe::PrintNow(std::string("off, this run is not watched: ") + error.what());
  }
  return handle;
}

void ikkuna_close(ikkuna_session* s) {
  if (s == nullptr) return;
  if (s->state) {
    EndSteps(*s->state);
    Guarded(*s->state, 0, [&](Session& session) {
      std::lock_guard lock(s->state->commands_mutex);
      if (const size_t left = s->state->commands.size(); left != 0) {
        session.AddNote("the trainer ended without an answer to " + std::to_string(left) + " commands, the first " +
                        std::to_string(s->state->commands.begin()->first));
      }
      return session.SetFinished(), 0;
    });
    s->state->session.reset();
  }
  delete s;
}

const char* ikkuna_error(const ikkuna_session* s) {
  const LastError& error = ErrorOfThread();
  return s != nullptr && s->state && error.session == s->state->serial ? error.text.c_str() : "";
}

uint16_t ikkuna_root(ikkuna_session* s, const char* name) { return AddRoot(s, name, false, true); }

uint16_t ikkuna_root_tracked(ikkuna_session* s, const char* name, uint32_t flags) {
  if (s != nullptr && s->state && (flags & ~uint32_t{IKKUNA_SAYS_BOUNDARIES}) != 0) {
    return Refuse(*s->state, "a tracked root has no such flags"), 0;
  }
  return AddRoot(s, name, true, (flags & IKKUNA_SAYS_BOUNDARIES) != 0);
}

uint32_t ikkuna_module(ikkuna_session* s, uint16_t root, const char* path, const char* type, uint32_t flags) {
  if (s == nullptr || !s->state) return 0;
  State& state = *s->state;
  return Guarded(state, uint32_t{0}, [&](Session& session) -> uint32_t {
    if (state.root(root) == nullptr) {
      return Refuse(state, "a module needs the id of a root: take what ikkuna_root() gives"), 0;
    }
    if ((flags & ~uint32_t{IKKUNA_FUNCTIONAL}) != 0) return Refuse(state, "a module has no such flags"), 0;
    std::lock_guard lock(state.names_mutex);
    State::Module& known = state.modules[{root, Text(path)}];
    if (known.id == 0) {
      known.id = session.AddModule(root, Text(path), Text(type), flags);
    } else if (known.type != Text(type) || known.flags != flags) {
      session.RenewModule(known.id, root, Text(path), Text(type), flags);
    }
    known.type = Text(type);
    known.flags = flags;
    if (known.id == 0) Refuse(state, kNoRoom);
    if (known.id != 0) state.root_of_module[known.id] = root;
    return known.id;
  });
}

uint32_t ikkuna_param(ikkuna_session* s, uint16_t root, uint32_t module, const char* name, int dtype, int ndim,
                      const int64_t* sizes, uint32_t flags) {
  if (s == nullptr || !s->state) return 0;
  State& state = *s->state;
  return Guarded(state, uint32_t{0}, [&](Session& session) -> uint32_t {
    if ((flags & ~uint32_t{IKKUNA_BIAS | IKKUNA_BUFFER | IKKUNA_TRAINABLE}) != 0) {
      return Refuse(state, "a parameter has no such flags"), 0;
    }
    if (const std::string why = WhyNoShape(dtype, ndim, sizes); !why.empty()) {
      return Refuse(state, "parameter '" + Text(name) + "': " + why), 0;
    }
    std::lock_guard lock(state.names_mutex);
    const auto owner = state.root_of_module.find(module);
    if (owner == state.root_of_module.end() || owner->second != root) {
      return Refuse(state, "a parameter needs the ids of a root and of a module of it: take what ikkuna_root() and "
                           "ikkuna_module() give"), 0;
    }
    const ikkuna::probe::TensorShape shape{DTypeOf(dtype), ndim, sizes};
    const std::vector<int64_t> given(sizes, sizes + ndim);
    State::Param& known = state.params[{module, Text(name)}];
    if (known.id == 0) {
      known.id = session.AddParam(root, module, Text(name), shape, flags);
    } else if (known.dtype != dtype || known.sizes != given || known.flags != flags) {
      session.RenewParam(known.id, root, module, Text(name), shape, flags);
    }
    known.dtype = dtype;
    known.sizes = given;
    known.flags = flags;
    if (known.id == 0) Refuse(state, kNoRoom);
    if (known.id != 0) state.module_of_param[known.id] = module;
    return known.id;
  });
}

int ikkuna_shard(ikkuna_session* s, uint32_t param, int ndim, const int64_t* sizes, const int64_t* offsets) {
  if (s == nullptr || !s->state) return 0;
  State& state = *s->state;
  return Guarded(state, 0, [&](Session& session) {
    std::lock_guard lock(state.names_mutex);
    const auto owner = state.module_of_param.find(param);
    if (owner == state.module_of_param.end()) {
      return Refuse(state, "a shard needs the id of a parameter: take what ikkuna_param() gives");
    }
    const auto named = std::find_if(state.params.lower_bound({owner->second, ""}), state.params.end(),
                                    [&](const auto& one) { return one.second.id == param; });
    State::Param& known = named->second;
    const auto own = known.sizes.size();
    const std::string shown = "shard of '" + named->first.second + "': ";
    const bool given = sizes != nullptr && offsets != nullptr;
    if (ndim != 0 && (!given || ndim < 0 || static_cast<size_t>(ndim) != own || own > kMaxDims)) {
      return Refuse(state, shown + "it has the dimensions of its parameter, with a size and an offset each, at most " +
                               std::to_string(kMaxDims) + "; 0 says that it is whole");
    }
    for (int i = 0; i < ndim; ++i) {
      if (offsets[i] < 0 || sizes[i] < known.sizes[static_cast<size_t>(i)] ||
          offsets[i] > sizes[i] - known.sizes[static_cast<size_t>(i)]) {
        return Refuse(state, shown + "dimension " + std::to_string(i) + " reaches out of the whole");
      }
    }
    const std::vector<int64_t> whole(sizes, sizes + ndim), begins(offsets, offsets + ndim);
    if (known.global_sizes == whole && known.offsets == begins) return 1;
    session.AddShard(param, whole, begins);
    known.global_sizes = whole;
    known.offsets = begins;
    return 1;
  });
}

uint16_t ikkuna_tag(ikkuna_session* s, const char* name) {
  static_assert(ikkuna::probe::kNoTag == UINT16_MAX);
  if (s == nullptr || !s->state) return UINT16_MAX;
  return Guarded(*s->state, uint16_t{UINT16_MAX}, [&](Session& session) {
    const uint16_t id = session.TagId(Text(name));
    if (id == ikkuna::probe::kNoTag) Refuse(*s->state, kNoRoom);
    return id;
  });
}

void ikkuna_fact(ikkuna_session* s, const char* key, const char* value) {
  if (s == nullptr || !s->state) return;
  Guarded(*s->state, 0, [&](Session& session) { return session.AddFact(Text(key), Text(value)), 0; });
}

void ikkuna_note(ikkuna_session* s, const char* text) {
  if (s == nullptr || !s->state) return;
  Guarded(*s->state, 0, [&](Session& session) { return session.AddNote(Text(text)), 0; });
}

uint64_t ikkuna_demand_generation(const ikkuna_session* s) {
  return s != nullptr && s->state && s->state->active() ? s->state->session->demand_generation() : 0;
}

uint64_t ikkuna_next_due(ikkuna_session* s, uint16_t root, uint16_t tag, uint64_t step) {
  return Ask(s, root, tag, UINT64_MAX, step, [&](const DemandTable& table, const PeriodShifts& shifts) {
    return table.NextDue(root, tag, step, shifts);
  });
}

uint64_t ikkuna_due(ikkuna_session* s, uint16_t root, uint16_t tag, uint64_t step) {
  return Ask(s, root, tag, 0, UINT64_MAX, [&](const DemandTable& table, const PeriodShifts& shifts) {
    return table.DueAt(root, tag, step, shifts);
  });
}

int ikkuna_stop_requested(const ikkuna_session* s) { return s != nullptr && s->state && s->state->stop.load() ? 1 : 0; }

int ikkuna_command_done(ikkuna_session* s, uint64_t id, int done, const char* note) {
  if (s == nullptr || !s->state) return 0;
  State& state = *s->state;
  return Guarded(state, 0, [&](Session& session) {
    shm::Command command{};
    {
      std::lock_guard lock(state.commands_mutex);
      const auto waits = state.commands.find(id);
      if (waits == state.commands.end()) {
        return Refuse(state, "no command of this number waits for an answer: it was given one, or never came");
      }
      command = waits->second;
      state.commands.erase(waits);
    }
    if (done == 0 || (note != nullptr && note[0] != 0)) {
      static constexpr const char* kNames[] = {"command", "freeze", "unfreeze", "stop", "evaluate", "capture"};
      const std::string name = command.type < std::size(kNames) ? kNames[command.type] : kNames[0];
      const std::string why = note != nullptr && note[0] != 0 ? note : "the trainer does not say why";
      // With its number, since a note is told once.
      session.AddNote(name + (done != 0 ? " done" : " refused") + " (command " + std::to_string(id) + "): " + why);
    }
    return 1;
  });
}

}  // extern "C"
