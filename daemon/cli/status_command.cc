// ikkuna status
#include <algorithm>
#include <set>

#include "daemon/cli/json.h"
#include "daemon/cli/status_text.h"
#include "shared/base/clock.h"
#include "shared/base/suggestion.h"

namespace ikkuna::cli {
namespace {

Colour StateColour(v1::ProducerState state) {
  switch (state) {
    case v1::PRODUCER_STATE_RUNNING:
      return Colour::kGreen;
    case v1::PRODUCER_STATE_FINISHED:
      return Colour::kCyan;
    case v1::PRODUCER_STATE_DIED:
    case v1::PRODUCER_STATE_QUARANTINED:
      return Colour::kRed;
    default:
      return Colour::kYellow;
  }
}

std::string Line(const std::string& name, const std::string& text) {
  return "  " + name + std::string(name.size() < 12 ? 12 - name.size() : 1, ' ') + text + "\n";
}

std::string RootText(const v1::RootStatus& root, const v1::Producer& producer) {
  std::string text = PlainText(root.name()) + ": step " + Count(root.step()) + ", epoch " +
                     std::to_string(root.epoch()) + ", " + EnumWord(*v1::Phase_descriptor(), root.phase());
  if (root.steps_per_second() > 0) text += ", " + ShortNumber(root.steps_per_second()) + " steps/s";
  if (root.samples_seen() > 0) text += ", " + Counted(root.samples_seen(), "sample") + " seen";
  text += "; asked for " + Counted(root.steps_due(), "step") + ", complete " + Count(root.steps_observed());
  // While it runs some are under way.
  const v1::Accounting& a = producer.accounting();
  const uint64_t under_way = producer.state() != v1::PRODUCER_STATE_RUNNING ? 0 : 2;
  const bool lossy = a.dropped() + a.lost_in_daemon() + a.killed() > 0;
  if ((under_way == 0 || lossy) && root.steps_due() > root.steps_observed() + under_way) {
    text += " (the others lack records, or a daemon or the trainer ended within them)";
  }
  if (root.seconds_since_step() >= 1) text += "; last step " + Duration(root.seconds_since_step()) + " ago";
  return text;
}

std::string Ordinal(uint32_t n) {
  const uint32_t last = n % 100 / 10 == 1 ? 0 : n % 10;
  return std::to_string(n) + (last == 1 ? "st" : last == 2 ? "nd" : last == 3 ? "rd" : "th");
}

std::string FactorText(const v1::PeriodFactors& factors) {
  if (factors.tensor() <= 1 && factors.summary() <= 1 && factors.scalar() <= 1) return "as asked";
  auto text = [](const char* what, uint32_t factor) {
    return std::string(what) + (factor <= 1 ? " all" : " every " + Ordinal(factor));
  };
  return "of the steps asked for, " + text("tensors", factors.tensor()) + ", " + text("statistics", factors.summary()) +
         ", " + text("scalars", factors.scalar());
}

// What the subscribers have computed for so far, and which of them most.
std::string SubscribersText(const v1::ListSubscribersResponse& subscribers) {
  double seconds = 0;
  const v1::Subscriber* most = nullptr;
  for (const v1::Subscriber& one : subscribers.subscribers()) {
    seconds += one.cpu_seconds();
    if (most == nullptr || one.cpu_seconds() > most->cpu_seconds()) most = &one;
  }
  std::string text = Count(static_cast<uint64_t>(subscribers.subscribers().size()));
  if (seconds <= 0) return text;
  return text + ", computing for " + Duration(seconds) + " so far, the longest " + PlainText(most->text()) + " with " +
         Percent(most->cpu_seconds() / seconds) + " of it";
}

std::string CountsText(const google::protobuf::RepeatedPtrField<v1::Count>& counts) {
  std::string text;
  for (const v1::Count& count : counts) {
    text += (text.empty() ? "" : ", ") + PlainText(count.reason()) + " " + Count(count.count());
  }
  return text;
}

std::string StoreText(const v1::GetStatusResponse& status) {
  const v1::StoreStatus& store = status.store();
  std::string text = PlainText(status.data_directory()) + ", " + Bytes(store.bytes());
  if (store.bytes_max() > 0) text += " of " + Bytes(store.bytes_max());
  text += ", " + Counted(store.runs(), "file") + " of runs";
  if (store.runs_open() > 0) text += " (" + Count(store.runs_open()) + " being written)";
  if (!store.file_system().empty()) {
    text += ", on " + PlainText(store.file_system()) + " with " + Bytes(store.free_bytes()) + " free";
  }
  return text;
}

std::string SinkText(const v1::Sink& sink) {
  std::string text = PlainText(sink.name()) + ": " + Counted(sink.offered(), "value") + " = " + Count(sink.written()) +
                     " written + " + Count(sink.dropped()) + " dropped";
  if (sink.waiting() > 0) {
    text += " + " + Count(sink.waiting()) + (sink.waiting() == 1 ? " that waits" : " that wait") + " (the oldest for " +
            Duration(sink.lag_seconds()) + ")";
  }
  if (sink.drops_size() > 0) text += "; dropped: " + CountsText(sink.drops());
  if (sink.events_dropped() > 0) text += "; " + Counted(sink.events_dropped(), "event") + " dropped";
  if (sink.failures() > 0) text += "; failed " + Counted(sink.failures(), "time");
  return text;
}

std::string QueueText(const v1::Queue& queue) {
  std::string text = Counted(queue.threads(), "thread") + " at nice " + std::to_string(queue.nice()) + ", " +
                     Count(queue.busy()) + " busy, " + Counted(queue.waiting(), "job") +
                     (queue.waiting() == 1 ? " waits" : " wait") + "; copies " + Bytes(queue.memory_bytes()) + " of " +
                     Bytes(queue.memory_bytes_max());
  if (queue.memory_refused() > 0) text += "; no room " + Counted(queue.memory_refused(), "time") + " (--memory-mb)";
  return text;
}

std::string ControlText(const v1::Producer& producer) {
  if (!producer.allow_control()) return "not allowed; the trainer sets allow_control in its options";
  return producer.allow_freeze() ? "freeze and stop are allowed" : "stop is allowed; this trainer cannot freeze";
}

}  // namespace

std::string AccountingText(const v1::Accounting& a) {
  std::string text = Counted(a.attempted(), "record") + " = " + Count(a.handled()) + " handled + " +
                     Count(a.dropped()) + " dropped + " + Count(a.lost_in_daemon()) + " lost in daemon + " +
                     Count(a.killed()) + " killed";
  if (a.in_flight() > 0) text += " + " + Count(a.in_flight()) + " in flight";
  uint64_t sum = a.handled() + a.dropped() + a.lost_in_daemon() + a.killed() + a.in_flight();
  if (sum != a.attempted()) text += " (does not add up: " + Count(sum) + ")";
  return text;
}

std::string ProducerText(const Terminal& terminal, const v1::Producer& producer) {
  std::string name = producer.run_name().empty() ? producer.run().run_id() : producer.run_name();
  std::string head =
      Paint(terminal, Colour::kBold, PlainText(name)) + "  " +
      Paint(terminal, StateColour(producer.state()), EnumWord(*v1::ProducerState_descriptor(), producer.state()));
  head += "  (id " + PlainText(producer.run().run_id()) + ", attempt " + std::to_string(producer.run().attempt()) +
          (producer.has_continues() ? " from step " + Count(producer.start_step()) + " on" : "") + ", rank " +
          std::to_string(producer.run().rank()) + " of " + std::to_string(std::max(1u, producer.world_size())) +
          (producer.pid() < 0 ? std::string(", in another container") : ", pid " + std::to_string(producer.pid())) +
          ", since " + LocalTime(producer.start_unix_ns()) + ")\n";
  std::string text = head;
  for (const v1::RootStatus& root : producer.roots()) text += Line("model", RootText(root, producer));
  text += Line("coverage", Percent(producer.coverage()) + " of the steps (" + Count(producer.steps_while_connected()) +
                               " of " + Count(producer.steps_total()) + ")");
  const std::string drops = CountsText(producer.accounting().drops());
  text += Line("drops", drops.empty() ? "none" : Paint(terminal, Colour::kYellow, drops));
  if (producer.missing_size() > 0) {
    text += Line("missing",
                 Paint(terminal, Colour::kYellow, CountsText(producer.missing())) + "; 'ikkuna why' says of what");
  }
  // Of a producer of an earlier daemon's, what it shared is gone; what was counted stays.
  bool attached = producer.ring_slots() > 0;
  std::string cost = Percent(producer.probe_cost()) + " of the step time";
  if (attached) cost += producer.budget() > 0 ? ", budget " + Percent(producer.budget()) : ", no budget";
  if (producer.budget() > 0 && producer.probe_cost_fixed() > producer.budget()) {
    cost += "; " + Percent(producer.probe_cost_fixed()) +
            " go to steps of which nothing is asked, which thinning does not help: these steps are too short for this "
            "budget";
  }
  text += Line("own cost", cost);
  text += Line("accounting", AccountingText(producer.accounting()));
  if (attached) {
    text += Line("delivered", FactorText(producer.period_factors()));
    text +=
        Line("buffers", "ring " + Count(producer.ring_used()) + " of " + Count(producer.ring_slots()) +
                            " records, arena " + Bytes(producer.arena_used()) + " of " + Bytes(producer.arena_bytes()));
    text += Line("control", ControlText(producer));
  }
  for (const std::string& note : producer.notes()) text += Line("note", PlainText(note));
  return text;
}

Result<Health> ReadHealth(Client& client) {
  Result<v1::GetStatusResponse> status = client.Call(&v1::Monitor::Stub::GetStatus, v1::GetStatusRequest());
  if (!status) return status.error();
  Result<v1::ListSubscribersResponse> subscribers = client.ListSubscribers("");
  if (!subscribers) return subscribers.error();
  return Health{std::move(*status), std::move(*subscribers)};
}

std::string DaemonText(const Terminal& terminal, const Health& health, const std::string& address) {
  const v1::GetStatusResponse& status = health.status;
  double age_s = static_cast<double>(UnixNs() - status.start_unix_ns()) / 1e9;
  std::string text = Paint(terminal, Colour::kBold, "ikkuna-daemon " + status.version()) + "  pid " +
                     std::to_string(status.pid()) + ", up " + Duration(std::max(0.0, age_s)) + ", at " + address + "\n";
  std::string store = StoreText(status);
  store += "; " + Count(status.series()) + " series";
  if (status.series_refused() > 0) store += " (" + Count(status.series_refused()) + " refused: the maximum is reached)";
  text += Line("store", store);
  if (status.store().paused()) {
    text += Line(
        "", Paint(terminal, Colour::kRed, "recording pauses: the disk is too full; what comes is dropped and counted"));
  }
  if (status.store().dropped_size() > 0) {
    text += Line("", Paint(terminal, Colour::kYellow, "not kept: " + CountsText(status.store().dropped())));
  }
  if (!status.tensorboard_directory().empty()) text += Line("tensorboard", PlainText(status.tensorboard_directory()));
  const v1::Resources& resources = status.resources();
  std::string takes = Bytes(resources.resident_bytes());
  if (resources.threads() > 0) {
    takes +=
        ", " + Counted(resources.threads(), "thread") + ", " + Duration(resources.cpu_seconds()) + " of processor time";
  }
  text += Line("memory", takes);
  for (const v1::Sink& sink : status.sinks()) text += Line("sink", SinkText(sink));
  if (status.queue().threads() > 0) text += Line("queue", QueueText(status.queue()));
  text += Line("subscribers", SubscribersText(health.subscribers));
  const std::string& run = status.health_run();
  if (!status.caller().empty()) {
    text += Line("you", PlainText(status.caller()) + ", may " +
                            (status.role() == v1::ROLE_CONTROL ? "control everything"
                                                               : "read everything and control what is yours"));
  }
  if (status.linger_seconds() > 0) {
    text +=
        Line("lingers", "ends by itself " + Duration(status.linger_seconds()) + " after the last trainer and client");
  }
  text += Line("own health", run.empty() ? "not kept" : "kept as series: ikkuna series --run " + PlainText(run));
  return text;
}

namespace {

struct StatusOptions {
  std::string run;
  std::optional<uint32_t> attempt, rank;
  bool json = false;
};

// Leaves the producers of one run, which may be named in any way that names a run.
Status Narrow(Client& client, const StatusOptions& options, v1::GetStatusResponse* status) {
  std::string run_id = options.run;
  if (options.run == "latest") {
    Result<v1::Run> run = ChooseRun(client, {});
    if (!run) return run.error();
    run_id = run->key().run_id();
  }
  std::set<std::string> names;
  for (const v1::Producer& one : status->producers()) names.insert({one.run_name(), one.run().run_id()});
  names.erase("");
  auto* producers = status->mutable_producers();
  const auto other = [&](const v1::Producer& one) {
    if (options.attempt && one.run().attempt() != *options.attempt) return true;
    if (options.rank && one.run().rank() != *options.rank) return true;
    return !run_id.empty() && one.run().run_id() != run_id && one.run_name() != run_id;
  };
  producers->erase(std::remove_if(producers->begin(), producers->end(), other), producers->end());
  if (!producers->empty()) return {};
  if (names.contains(run_id) || run_id.empty()) {
    return Error{ErrorCode::kNotFound, "no producer has that run, attempt and rank"};
  }
  const std::string nearest = Suggestion(options.run, std::vector<std::string>(names.begin(), names.end()));
  return Error{ErrorCode::kNotFound, "the daemon knows no producer of a run '" + options.run + "'" +
                                         (nearest == "." ? "; 'ikkuna runs' lists what is recorded" : nearest)};
}

Result<int> RunStatus(Context& context, const StatusOptions& options) {
  Result<std::unique_ptr<Client>> client = context.ConnectToDaemon("status");
  if (!client) return client.error();
  Result<Health> health = ReadHealth(**client);
  if (!health) return health.error();
  v1::GetStatusResponse* status = &health->status;
  if (!options.run.empty() || options.attempt || options.rank) {
    if (Status narrowed = Narrow(**client, options, status); !narrowed) return narrowed.error();
  }
  if (options.json) {
    Print(JsonText(ToJson(*status)));
    return kExitOk;
  }
  Print(DaemonText(context.terminal, *health, (*client)->address()));
  if (status->producers().empty()) Print("\nNo trainer has connected yet.\n");
  for (const v1::Producer& producer : status->producers()) Print("\n" + ProducerText(context.terminal, producer));
  return kExitOk;
}

}  // namespace

void AddStatusCommand(CLI::App& app, Context& context) {
  auto options = std::make_shared<StatusOptions>();
  CLI::App* command =
      app.add_subcommand("status", "State of the daemon and of every run it knows: coverage, drops, own cost");
  command->add_option("--run", options->run, "Only this run: its name, its id, or 'latest'")->type_name("RUN");
  command->add_option("--attempt", options->attempt, "Only this life of the run")->type_name("N");
  command->add_option("--rank", options->rank, "Only this rank")->type_name("N");
  command->add_flag("--json", options->json, "As JSON");
  command->footer(
      "Examples:\n  ikkuna status\n  ikkuna status --run latest\n  ikkuna status --json | jq '.producers[].coverage'");
  command->callback(
      [&context, options] { context.chosen = [&context, options] { return RunStatus(context, *options); }; });
}

}  // namespace ikkuna::cli
