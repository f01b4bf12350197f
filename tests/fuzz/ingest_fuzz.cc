// What a hostile producer can do to the daemon's ingest: its segment is edited at will between and before the daemon's
// looks at it. The daemon's own parts run over it as ProducerSession runs them, but for the thread and the store.
#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "daemon/graph/graph.h"
#include "daemon/graph/memory_budget.h"
#include "daemon/graph/subscriber_set.h"
#include "daemon/graph/work_queue.h"
#include "daemon/ingest/command_queue.h"
#include "daemon/ingest/drain.h"
#include "daemon/ingest/registry_names.h"
#include "daemon/ingest/session_report.h"
#include "daemon/ingest/step_meter.h"
#include "tests/fuzz/evil_producer.h"

namespace ikkuna::fuzz {
namespace {

using ingest::Drain;

// What outlives a session in the daemon; made once, for speed.
struct Shared {
  EvilProducer producer;
  graph::SubscriberSet subscribers;
  graph::WorkQueue queue{1};
  graph::MemoryBudget memory{1 << 20};
  std::unique_ptr<shm::CtlWriter> ctl;
  std::shared_ptr<Run> run;

  Shared() {
    std::string all;
    for (const std::string& text : graph::DefaultSubscribers()) all += text + ";";
    all +=
        "kurtosis(activations); norm(activations, order=3); ratio(activations, weights); norm(weights, order=1);"
        "message_mean(activations_norm3); mean(weights, tag=test); nan_count(layer_gradients, module=features.*)";
    auto added = subscribers.Add(all, graph::Source::kFlag);
    if (!added) std::fprintf(stderr, "%s\n", added.error().text.c_str());
    FUZZ_CHECK(added.ok());
    auto made = shm::CtlWriter::Create(1, {0, 0}, 10'000);
    FUZZ_CHECK(made.ok());
    ctl = std::move(made).value();
    ProducerInfo info;
    info.run_key = {"run", 0, 0};
    run = std::make_shared<Run>(std::move(info));
  }
  graph::GraphParts Parts() { return {.subscribers = &subscribers, .queue = &queue, .memory = &memory}; }
};

class Session {
 public:
  // Null: refused, as a REJECT.
  static std::unique_ptr<Session> Open(Shared& shared, const shm::Heads& heads, uint64_t unready_ns) {
    auto view = shm::PubView::Open(shared.producer.fd());
    if (!view) return nullptr;
    if (auto started = (*view)->StartAt(heads); !started) return nullptr;
    return std::unique_ptr<Session>(new Session(shared, std::move(view).value(), unready_ns));
  }

  void Pump(uint64_t records_max, uint64_t end) {
    if (quarantined_) return;
    if (!TakeRegistry()) return Quarantine();
    if (graph_->Refresh()) FUZZ_CHECK(shared_.ctl->SetDemand(graph_->Demand(), view_->registry_read()).ok());
    const uint64_t before = drain_.position();
    auto done = drain_.Run(records_max, end);
    FUZZ_CHECK(drain_.position() - before <= view_->header().ring_slots + records_max);
    FUZZ_CHECK(handled_ + drain_.voids() + drain_.unready() + drain_.crowded() == drain_.handled());
    FUZZ_CHECK(drain_.handled() <= drain_.position() - first_position_);
    FUZZ_CHECK(view_->pending() <= view_->header().ring_slots);
    if (!done) Quarantine();
  }
  void Look() { Pump(Drain::kRecordsPerHead, view_->reserved()); }

  // The producer is dead: what is committed, then the holes.
  void Die() {
    const uint64_t slots = view_->header().ring_slots;
    uint64_t holes = 0;
    for (uint64_t turn = 0; turn <= slots && !quarantined_; ++turn) {
      Look();
      if (quarantined_) break;
      const uint64_t skipped = drain_.SkipHole();
      holes += skipped;
      if (skipped == 0) break;
    }
    FUZZ_CHECK(holes <= slots);
    Finish();
  }

  void Report() {
    numbers_.pub = view_->ReadStatus();
    numbers_.ring_position = drain_.position();
    numbers_.arena_position = view_->arena_position();
    numbers_.now_ns = ++now_ns_ * 1'000'000'000;
    numbers_.ledger.handled = drain_.handled();
    meter_.Update(numbers_.pub.status, numbers_.now_ns);
    numbers_.missing = graph_->Missing();
    commands_.Send(*shared_.ctl, numbers_.pub.status);
    static_cast<void>(commands_.TakeLate(numbers_.pub.status));
    const auto status =
        MakeReport(*shared_.run->info(), RunState::kRunning, numbers_, names_, meter_, view_->header().ring_slots);
    FUZZ_CHECK(status.ring_used <= status.ring_slots && status.arena_used <= status.arena_bytes);
    static_cast<void>(names_.Modules());
    static_cast<void>(names_.Facts());
    static_cast<void>(names_.FindTargets("*"));
  }

 private:
  Session(Shared& shared, std::unique_ptr<shm::PubView> view, uint64_t unready_ns)
      : shared_(shared),
        view_(std::move(view)),
        graph_(graph::MakeGraph(shared.Parts())(shared.run, [](Batch) {})),
        drain_(*view_, *shared.ctl, Sources(), 0, 0, unready_ns,
               [this](const shm::Message& message) { Handle(message); }),
        first_position_(view_->ring_position()) {}
  static std::vector<std::unique_ptr<ingest::PayloadSource>> Sources() {
    std::vector<std::unique_ptr<ingest::PayloadSource>> sources;
    sources.push_back(std::make_unique<ingest::HostArenaSource>());
    return sources;
  }

  void Handle(const shm::Message& message) {
    ++handled_;
    if (message.payload != nullptr) {
      // Every byte is within reach, whatever the record claimed.
      unsigned sum = 0;
      for (uint64_t i = 0; i < message.payload_bytes; ++i) sum += message.payload[i];
      const uint64_t extent = shm::IsLate(message) ? view_->header().late_bytes : names_.arena_extent();
      FUZZ_CHECK(extent == 0 || message.record.payload.position % extent + message.payload_bytes <= extent);
      consumed_ = sum;
    }
    graph_->Handle(message);
    seen_seq_ = std::max(seen_seq_, message.record.seq);
    FUZZ_CHECK(graph_->done_seq() <= seen_seq_);
    FUZZ_CHECK(drain_.read_seq() <= drain_.position() + 1);
  }
  bool TakeRegistry() {
    auto entries = view_->ReadRegistry();
    if (!entries) return false;
    if (!drain_.AddEntries(*entries)) return false;
    graph_->AddRegistry(*entries);
    names_.Add(*entries);
    return true;
  }
  void Quarantine() {
    quarantined_ = true;
    Finish();
  }
  // Once a session; nothing is left waiting.
  void Finish() {
    if (std::exchange(finished_, true)) return;
    drain_.FinishLate(UINT64_MAX);
    FUZZ_CHECK(drain_.first_late_seq() == UINT64_MAX);
    graph_->Finish(0);
  }

  Shared& shared_;
  std::unique_ptr<shm::PubView> view_;
  std::unique_ptr<MessageGraph> graph_;
  Drain drain_;
  ingest::RegistryNames names_;
  ingest::StepMeter meter_;
  ingest::SessionNumbers numbers_;
  ingest::CommandQueue commands_;
  const uint64_t first_position_;
  uint64_t handled_ = 0;
  uint64_t seen_seq_ = 0;
  volatile unsigned consumed_ = 0;  // keeps the reads above
  uint64_t now_ns_ = 0;
  bool quarantined_ = false;
  bool finished_ = false;
};

shm::Heads HeadsOf(FuzzInput& input, EvilProducer& producer) {
  const shm::PubStatus& status = producer.status();
  switch (input.Choice(3)) {
    case 0:
      return {0, 0};
    case 1:
      return {input.Near(status.reserved), input.Near(status.arena_tail)};
    default:
      return {input.Near(status.reserved), input.Near(status.arena_tail), input.Near(status.late_tail)};
  }
}
uint64_t UnreadyNs(FuzzInput& input) { return input.Choice(2) == 0 ? UINT64_MAX : 0; }

}  // namespace
}  // namespace ikkuna::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace ikkuna::fuzz;
  static Shared shared;
  shared.producer.Reset();
  FuzzInput input(data, size);
  std::unique_ptr<Session> session;
  bool refused = false;
  while (!input.empty()) {
    const size_t step = input.Choice(13);
    // What a daemon does begins with a meeting; until then the edits are made before HELLO.
    if (step >= 8 && step < 12 && !session && !refused) {
      const auto heads = HeadsOf(input, shared.producer);
      session = Session::Open(shared, heads, UnreadyNs(input));
      refused = session == nullptr;
    }
    switch (step) {
      case 0:
        shared.producer.PokeBytes(input);
        break;
      case 1:
        shared.producer.PokeWord(input);
        break;
      case 2:
      case 3:
        shared.producer.AppendEntry(input);
        break;
      case 4:
        shared.producer.LeaveHole(input);
        break;
      case 5:
      case 6:
      case 7:
        shared.producer.PublishRecord(input);
        break;
      case 8:
        if (session) session->Look();
        break;
      case 9:
        if (session) session->Pump(1 + input.Choice(4), input.Near(shared.producer.status().reserved));
        break;
      case 10:
        if (session) session->Report();
        break;
      case 12:
        shared.producer.FillLate(input);
        break;
      default:  // dies, and another with the same memory takes its place
        if (session) session->Die();
        session.reset();
        refused = false;
        break;
    }
  }
  if (session) session->Look();
  if (session) session->Report();
  if (session) session->Die();
  return 0;
}
