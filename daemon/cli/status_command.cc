// ikkuna status
#include <algorithm>

#include "daemon/cli/json.h"
#include "daemon/cli/status_text.h"
#include "shared/base/clock.h"

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
  if (root.samples_seen() > 0) text += ", " + Count(root.samples_seen()) + " samples seen";
  text += "; asked for " + Count(root.steps_due()) + " steps, complete " + Count(root.steps_observed());
  // While it runs some are under way.
  const v1::Accounting& a = producer.accounting();
  const uint64_t under_way = producer.state() != v1::PRODUCER_STATE_RUNNING ? 0 : 2;
  const bool lossy = a.dropped() + a.lost_in_daemon() + a.killed() > 0;
  if ((under_way == 0 || lossy) && root.steps_due() > root.steps_observed() + under_way) {
    text += " (the others lost records, or a daemon or the trainer ended within them)";
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

std::string ControlText(const v1::Producer& producer) {
  if (!producer.allow_control()) return "not allowed; the trainer sets allow_control in its options";
  return producer.allow_freeze() ? "freeze and stop are allowed" : "stop is allowed; this trainer cannot freeze";
}

}  // namespace

std::string AccountingText(const v1::Accounting& a) {
  std::string text = Count(a.attempted()) + " records = " + Count(a.handled()) + " handled + " + Count(a.dropped()) +
                     " dropped + " + Count(a.lost_in_daemon()) + " lost in daemon + " + Count(a.killed()) + " killed";
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
          ", rank " + std::to_string(producer.run().rank()) + " of " +
          std::to_string(std::max(1u, producer.world_size())) + ", pid " + std::to_string(producer.pid()) + ", since " +
          LocalTime(producer.start_unix_ns()) + ")\n";
  std::string text = head;
  for (const v1::RootStatus& root : producer.roots()) text += Line("model", RootText(root, producer));
  text += Line("coverage", Percent(producer.coverage()) + " of the steps (" + Count(producer.steps_while_connected()) +
                               " of " + Count(producer.steps_total()) + ")");
  std::string drops;
  for (const v1::DropCount& drop : producer.accounting().drops()) {
    drops += (drops.empty() ? "" : ", ") + drop.reason() + " " + Count(drop.count());
  }
  text += Line("drops", drops.empty() ? "none" : Paint(terminal, Colour::kYellow, drops));
  if (producer.incomplete_bundles() > 0)
    text += Line("bundles", Count(producer.incomplete_bundles()) +
                                " could not complete: of the messages that they combine some never came; 'ikkuna "
                                "subscribers' counts them");
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
  Result<v1::ListSubscribersResponse> subscribers =
      client.Call(&v1::Monitor::Stub::ListSubscribers, v1::ListSubscribersRequest());
  if (!subscribers) return subscribers.error();
  return Health{std::move(*status), std::move(*subscribers)};
}

std::string DaemonText(const Terminal& terminal, const Health& health, const std::string& address) {
  const v1::GetStatusResponse& status = health.status;
  double age_s = static_cast<double>(UnixNs() - status.start_unix_ns()) / 1e9;
  std::string text = Paint(terminal, Colour::kBold, "ikkuna-daemon " + status.version()) + "  pid " +
                     std::to_string(status.pid()) + ", up " + Duration(std::max(0.0, age_s)) + ", at " + address + "\n";
  std::string store = PlainText(status.data_directory()) + ", " + Bytes(status.store_bytes());
  if (status.store_bytes_max() > 0) store += " of " + Bytes(status.store_bytes_max());
  store += ", " + Count(status.series()) + " series";
  if (status.series_refused() > 0) store += " (" + Count(status.series_refused()) + " refused: the maximum is reached)";
  text += Line("store", store);
  if (!status.tensorboard_directory().empty()) text += Line("tensorboard", PlainText(status.tensorboard_directory()));
  text += Line("memory", Bytes(status.resident_bytes()));
  for (const v1::Sink& sink : status.sinks()) {
    std::string line = sink.name() + ": " + Count(sink.offered()) + " samples = " + Count(sink.written()) +
                       " written + " + Count(sink.dropped()) + " dropped";
    if (sink.queued() > 0) {
      line +=
          " + those of " + Count(sink.queued()) + " batches that wait (oldest " + Duration(sink.lag_seconds()) + ")";
    }
    text += Line("sink", line);
  }
  text += Line("subscribers", SubscribersText(health.subscribers));
  const std::string& run = status.health_run();
  text += Line("own health", run.empty() ? "not kept" : "kept as series: ikkuna series --run " + PlainText(run));
  return text;
}

void AddStatusCommand(CLI::App& app, Context& context) {
  struct Options {
    bool json = false;
    std::string run;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("status", "State of the daemon and of every run it knows: coverage, drops, own cost");
  command->add_flag("--json", options->json, "As JSON");
  command->add_option("--run", options->run, "Only this run, by name or id")->type_name("RUN");
  command->footer("Examples:\n  ikkuna status\n  ikkuna status --json | jq '.producers[].coverage'");
  command->callback([&context, options] {
    context.chosen = [&context, options]() -> Result<int> {
      Result<std::unique_ptr<Client>> client = Client::Connect(context.connection);
      if (!client) return client.error();
      Result<Health> health = ReadHealth(**client);
      if (!health) return health.error();
      v1::GetStatusResponse* status = &health->status;
      if (!options->run.empty()) {
        auto* producers = status->mutable_producers();
        auto other = [&](const v1::Producer& producer) {
          return producer.run().run_id() != options->run && producer.run_name() != options->run;
        };
        producers->erase(std::remove_if(producers->begin(), producers->end(), other), producers->end());
        if (producers->empty())
          return Error{ErrorCode::kNotFound, "the daemon knows no producer of a run '" + options->run + "'"};
      }
      if (options->json) {
        Print(JsonText(ToJson(*status)));
        return kExitOk;
      }
      Print(DaemonText(context.terminal, *health, (*client)->address()));
      if (status->producers().empty()) Print("\nNo trainer has connected yet.\n");
      for (const v1::Producer& producer : status->producers()) Print("\n" + ProducerText(context.terminal, producer));
      return kExitOk;
    };
  });
}

}  // namespace ikkuna::cli
