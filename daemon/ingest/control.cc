#include "daemon/ingest/control.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <memory>
#include <thread>
#include <utility>

#include "daemon/ingest/producer_session.h"
#include "daemon/model/names.h"
#include "shared/base/clock.h"

namespace ikkuna::ingest {

namespace {

using Sessions = std::vector<std::shared_ptr<ProducerSession>>;

constexpr size_t kNamed = 8;            // ranks and modules that a text names
constexpr int kLookMs = 5;              // at acknowledgements
constexpr uint64_t kMeasureNs = 300'000'000;  // steps are counted over this where no rate is known yet
constexpr uint64_t kAheadStepsMin = 2;  // ranks may be a step apart

// What is asked, of every rank alike.
struct Wish {
  std::string verb;
  shm::CommandType type;
  std::string modules = {};  // of freeze and unfreeze
};

std::string RunText(const ControlTarget& target) {
  return "'" + target.run_id + "' (attempt " + std::to_string(target.attempt) + ")";
}

std::string RanksText(const std::vector<uint32_t>& ranks) {
  std::vector<std::string> names;
  for (const uint32_t rank : ranks) names.push_back(std::to_string(rank));
  return (ranks.size() == 1 ? "rank " : "ranks ") + Listed(names, kNamed);
}

Error Refuse(const Wish& wish, ErrorCode code, const std::string& why) {
  return Error{code, "cannot " + wish.verb + ": " + why};
}

Status MayAsk(const Caller& caller, const ProducerSession& session, const Wish& wish) {
  if (caller.admin) return {};
  if (caller.uid && (*caller.uid == session.uid() || *caller.uid == 0 || *caller.uid == ::geteuid())) return {};
  return Refuse(wish, ErrorCode::kPermissionDenied,
                "run " + Describe(session.run_key()) + " belongs to user " + std::to_string(session.uid()) +
                    (caller.uid ? ", not to user " + std::to_string(*caller.uid)
                                : ", and this client has not the role `control`"));
}

Status LetsItself(const ProducerSession& session, const Wish& wish) {
  const ProducerStatus status = session.status();
  const std::string run = "run " + Describe(session.run_key());
  if (status.state != RunState::kRunning) {
    return Refuse(wish, ErrorCode::kFailedPrecondition, run + " is " + std::string(RunStateName(status.state)));
  }
  if (!status.allow_control) {
    return Refuse(wish, ErrorCode::kPermissionDenied,
                  "the trainer of " + run + " does not allow control; it has to set allow_control in its probe's "
                  "options");
  }
  if (wish.type != shm::CommandType::kStop && !status.allow_freeze) {
    return Refuse(wish, ErrorCode::kFailedPrecondition,
                  "the trainer of " + run + " can be stopped, but takes no other commands; through the C interface it has "
                  "to set control and on_command in its options");
  }
  return {};
}

// The sessions that are meant, each there, permitted and willing.
Result<Sessions> Choose(const Ingest& ingest, const Caller& caller, const ControlTarget& target, const Wish& wish) {
  const Sessions live = ingest.FindLive(target.run_id, target.attempt);
  if (live.empty()) {
    return Refuse(wish, ErrorCode::kNotFound, "run " + RunText(target) + " is not connected to this daemon now");
  }
  uint32_t world_size = 1;
  for (const auto& session : live) world_size = std::max(world_size, session->run()->info()->world_size);
  std::vector<uint32_t> missing;
  Sessions chosen;
  const auto take = [&](uint32_t rank) {
    const auto found = std::find_if(live.begin(), live.end(),
                                    [rank](const auto& session) { return session->run_key().rank == rank; });
    if (found == live.end()) {
      missing.push_back(rank);
    } else if (std::find(chosen.begin(), chosen.end(), *found) == chosen.end()) {
      chosen.push_back(*found);
    }
  };
  // The producer's own word: no more ranks than any job has are counted one by one.
  constexpr uint32_t kWorldMax = 65'536;
  if (!target.ranks.empty()) {
    for (const uint32_t rank : target.ranks) take(rank);
  } else {
    for (const auto& session : live) take(session->run_key().rank);
    for (uint32_t rank = 0; rank < std::min(world_size, kWorldMax); ++rank) take(rank);
  }
  if (!missing.empty()) {
    return Refuse(wish, ErrorCode::kFailedPrecondition,
                  RanksText(missing) + " of run " + RunText(target) +
                      (target.ranks.empty()
                           ? " (world size " + std::to_string(world_size) + ") are not connected to this daemon: on "
                             "another host, or not watched. The others would go on without them; name the ranks that "
                             "are meant"
                           : " is not connected to this daemon now"));
  }
  for (const auto& session : chosen) {
    if (auto may = MayAsk(caller, *session, wish); !may) return may.error();
    if (auto lets = LetsItself(*session, wish); !lets) return lets.error();
  }
  return chosen;
}

// The commands of one rank; each names its root, by which its step is looked up. Root 0: the rank as a whole.
struct Order {
  std::shared_ptr<ProducerSession> session;
  std::vector<shm::Command> commands;
  std::vector<ProducerSession::Root> roots;  // as the order was made
};

const ProducerSession::Root* FindRoot(const std::vector<ProducerSession::Root>& roots, const std::string& name) {
  const auto found = std::find_if(roots.begin(), roots.end(), [&](const auto& root) { return root.name == name; });
  return found == roots.end() ? nullptr : &*found;
}

std::string NameOf(const std::vector<ProducerSession::Root>& roots, uint16_t id) {
  const auto found = std::find_if(roots.begin(), roots.end(), [id](const auto& root) { return root.id == id; });
  return found == roots.end() ? std::string() : found->name;
}

Result<Order> MakeOrder(const std::shared_ptr<ProducerSession>& session, const Wish& wish,
                        std::vector<std::string>& touched) {
  Order order{session, {}, session->Roots()};
  shm::Command command{};
  command.type = static_cast<uint32_t>(wish.type);
  if (wish.type == shm::CommandType::kStop) {
    order.commands.push_back(command);
    return order;
  }
  auto targets = session->FindTargets(wish.modules);
  if (!targets) return Refuse(wish, targets.error().code, targets.error().text);
  for (const auto& target : *targets) {
    command.module = target.module;
    command.root = target.root;
    order.commands.push_back(command);
    if (std::find(touched.begin(), touched.end(), target.name) == touched.end()) touched.push_back(target.name);
  }
  return order;
}

// A stop of several ranks needs one root to count by: the first that the first rank has attached.
Status GiveRoots(std::vector<Order>& orders, const Wish& wish) {
  if (wish.type != shm::CommandType::kStop) return {};
  std::string name;
  for (Order& order : orders) {
    if (order.roots.empty()) {
      return Refuse(wish, ErrorCode::kFailedPrecondition,
                    "run " + Describe(order.session->run_key()) + " has no model yet, so that no step can be agreed on");
    }
    if (name.empty()) name = order.roots.front().name;
    const auto* root = FindRoot(order.roots, name);
    if (root == nullptr) {
      return Refuse(wish, ErrorCode::kFailedPrecondition,
                    "run " + Describe(order.session->run_key()) + " has no model '" + name +
                        "', by whose steps the others count");
    }
    for (shm::Command& command : order.commands) command.root = root->id;
  }
  return {};
}

// Every rank acknowledges that it hears; else nothing is asked of any.
Status Prepare(const std::vector<Order>& orders, const Wish& wish) {
  shm::Command prepare{};
  prepare.type = static_cast<uint32_t>(shm::CommandType::kPrepare);
  std::vector<uint64_t> tickets;
  for (const Order& order : orders) {
    auto ticket = order.session->PushCommands({prepare}, "a preparation");
    if (!ticket) return ticket.error();
    tickets.push_back(*ticket);
  }
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(Control::kPrepareMs);
  while (true) {
    std::vector<uint32_t> silent;
    for (size_t i = 0; i < orders.size(); ++i) {
      if (orders[i].session->commands_taken() < tickets[i]) silent.push_back(orders[i].session->run_key().rank);
    }
    if (silent.empty()) return {};
    if (std::chrono::steady_clock::now() >= deadline) {
      return Refuse(wish, ErrorCode::kFailedPrecondition,
                    RanksText(silent) + " did not acknowledge within " + std::to_string(Control::kPrepareMs / 1000) +
                        " s, so nothing is asked of any; name the ranks that are meant");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(kLookMs));
  }
}

struct Agreed {
  uint64_t step = 0;
  uint64_t ahead = 0;   // of the rank that is furthest
  double seconds = 0;   // until the last rank is there; 0: not known
  bool stands = false;  // a rank makes no steps now
};

// One step for each root that commands name, by its name: far enough ahead of the rank that is furthest, at the pace of
// the one that is fastest. A pause (an evaluation, a checkpoint) may end before the commands are read, so that the pace
// is the usual one where that is more than the pace of now.
std::map<std::string, Agreed> AgreeOnSteps(const std::vector<Order>& orders, double seconds_passed) {
  struct Seen {
    uint64_t furthest = 0;
    double fastest = 0;
    std::vector<std::pair<uint64_t, double>> ranks;  // each rank's step and pace
    bool stands = false;
  };
  std::map<std::string, Seen> seen;
  for (const Order& order : orders) {
    for (const auto& now : order.session->Roots()) {
      Seen& root = seen[now.name];
      double pace = now.steps_per_second;
      const auto* before = FindRoot(order.roots, now.name);
      if (before != nullptr && now.step > before->step && seconds_passed > 0) {
        pace = std::max(pace, static_cast<double>(now.step - before->step) / seconds_passed);
      }
      root.furthest = std::max(root.furthest, now.step);
      root.fastest = std::max({root.fastest, pace, now.usual_steps_per_second});
      // Steps that take seconds each may leave none in the time over which a pace is taken.
      const bool long_steps = now.usual_steps_per_second > 0 && now.usual_steps_per_second < 0.5;
      root.stands = root.stands || (pace == 0 && !long_steps);
      root.ranks.emplace_back(now.step, pace > 0 ? pace : now.usual_steps_per_second);
    }
  }
  std::map<std::string, Agreed> agreed;
  for (const auto& [name, root] : seen) {
    const auto ahead = static_cast<uint64_t>(std::ceil(std::min(root.fastest * Control::kAheadSeconds, 1e12)));
    Agreed& one = agreed[name];
    one.ahead = std::max(ahead, kAheadStepsMin);
    one.step = root.furthest + one.ahead;
    one.stands = root.stands;
    for (const auto& [step, pace] : root.ranks) {
      if (pace > 0) one.seconds = std::max(one.seconds, static_cast<double>(one.step - step) / pace);
    }
  }
  return agreed;
}

std::string AheadText(const Agreed& agreed) {
  std::string text = std::to_string(agreed.ahead) + (agreed.ahead == 1 ? " step" : " steps") + " from now";
  if (agreed.seconds >= 120) {
    text += ", some " + std::to_string(static_cast<uint64_t>(std::min(agreed.seconds / 60, 1e9))) + " min";
  } else if (agreed.seconds > 0) {
    text += ", some " + std::to_string(static_cast<uint64_t>(std::ceil(agreed.seconds))) + " s";
  }
  return text + (agreed.stands ? " once all of them train again" : "");
}

// Between the preparation and the first command a rank may have gone; with a part of them alone nothing begins.
Status AllThere(const std::vector<Order>& orders, const Wish& wish) {
  for (const Order& order : orders) {
    if (auto lets = LetsItself(*order.session, wish); !lets) {
      return Error{lets.error().code, lets.error().text + ", so nothing is asked of any rank"};
    }
    if (order.session->ended() || order.session->quarantined()) {
      return Refuse(
          wish, ErrorCode::kFailedPrecondition,
          "run " + Describe(order.session->run_key()) + " has left meanwhile, so nothing is asked of any rank");
    }
  }
  return {};
}

Result<std::string> AskAlone(Order& order, const Wish& wish, const std::string& what) {
  if (auto pushed = order.session->PushCommands(order.commands, what); !pushed) return pushed.error();
  return what + " asked of run " + Describe(order.session->run_key()) +
         (wish.type == shm::CommandType::kStop
              ? "; its probe answers true to StopRequested() from the next step on, and the trainer ends where it asks"
              : "; the trainer does it at the boundary of its next step, and an event tells what changed");
}

Result<std::string> AskTogether(std::vector<Order>& orders, const ControlTarget& target, const Wish& wish,
                                const std::string& what) {
  if (auto given = GiveRoots(orders, wish); !given) return given.error();
  const uint64_t begin = MonotonicNs();
  if (auto prepared = Prepare(orders, wish); !prepared) return prepared.error();
  if (const uint64_t passed = MonotonicNs() - begin; passed < kMeasureNs) {
    std::this_thread::sleep_for(std::chrono::nanoseconds(kMeasureNs - passed));
  }
  const auto steps = AgreeOnSteps(orders, static_cast<double>(MonotonicNs() - begin) * 1e-9);
  std::vector<uint32_t> ranks;
  std::map<std::string, Agreed> used;
  for (Order& order : orders) {
    ranks.push_back(order.session->run_key().rank);
    for (shm::Command& command : order.commands) {
      const std::string root = NameOf(order.roots, command.root);
      const auto step = steps.find(root);
      if (step == steps.end()) {
        return Refuse(wish, ErrorCode::kFailedPrecondition, "the model of " + what + " is not attached yet");
      }
      command.argument = step->second.step + 1;
      used[root] = step->second;
    }
  }
  std::vector<std::string> where, ahead;
  for (const auto& [root, agreed] : used) {
    where.push_back("step " + std::to_string(agreed.step) + " of '" + root + "'");
    ahead.push_back(AheadText(agreed));
  }
  const std::string when = what + " before " + Listed(where);
  if (auto there = AllThere(orders, wish); !there) return there.error();
  for (const Order& order : orders) {
    if (auto pushed = order.session->PushCommands(order.commands, when); !pushed) {
      order.session->OfferEvent(Severity::kError, "split", when + " could not be asked: " + pushed.error().text);
      return pushed.error();
    }
  }
  return what + " asked of run " + RunText(target) + ", " + RanksText(ranks) + ": together before " + Listed(where) +
         ", " + Listed(ahead);
}

Result<std::string> Ask(Ingest& ingest, const Caller& caller, const ControlTarget& target, const Wish& wish) {
  auto sessions = Choose(ingest, caller, target, wish);
  if (!sessions) return sessions.error();
  std::vector<Order> orders;
  std::vector<std::string> touched;
  for (const auto& session : *sessions) {
    auto order = MakeOrder(session, wish, touched);
    if (!order) return order.error();
    orders.push_back(std::move(*order));
  }
  const std::string what = wish.verb + (touched.empty() ? "" : " of " + Listed(touched, kNamed));
  auto text = orders.size() == 1 ? AskAlone(orders.front(), wish, what) : AskTogether(orders, target, wish, what);
  if (!text) return text;
  for (const auto& session : *sessions) session->OfferEvent(Severity::kInfo, wish.verb, *text);
  return text;
}

}  // namespace

Result<std::string> Control::Freeze(const Caller& caller, const ControlTarget& target, const std::string& modules) {
  return Ask(ingest_, caller, target, {"freeze", shm::CommandType::kFreeze, modules});
}

Result<std::string> Control::Unfreeze(const Caller& caller, const ControlTarget& target, const std::string& modules) {
  return Ask(ingest_, caller, target, {"unfreeze", shm::CommandType::kUnfreeze, modules});
}

Result<std::string> Control::Stop(const Caller& caller, const ControlTarget& target) {
  return Ask(ingest_, caller, target, {"stop", shm::CommandType::kStop});
}

}  // namespace ikkuna::ingest
