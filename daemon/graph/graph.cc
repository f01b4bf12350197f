#include "daemon/graph/graph.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <utility>

#include "daemon/graph/closed_steps.h"
#include "daemon/graph/demand.h"
#include "daemon/graph/frame.h"
#include "daemon/graph/graph_context.h"
#include "daemon/graph/intake.h"
#include "daemon/graph/job_graph.h"
#include "daemon/graph/open_frames.h"
#include "daemon/graph/open_passes.h"
#include "daemon/graph/step_runner.h"
#include "daemon/graph/subscriber_set.h"
#include "daemon/graph/work_queue.h"
#include "shared/base/clock.h"
#include "shared/passes.h"

namespace ikkuna::graph {

namespace {

class Graph final : public MessageGraph {
 public:
  static constexpr size_t kMaxIdleFrames = 4;  // of a scene
  // Steps that are closed and wait for results: a queue bounds its own; this bounds those of whoever never lets go.
  static constexpr size_t kMaxClosing = 1024;
  Graph(GraphParts parts, std::shared_ptr<Run> run, std::function<void(Batch)> emit)
      : emit_(std::move(emit)),
        intake_(context_),
        runner_(context_, intake_),
        open_(context_, [this](std::unique_ptr<Frame> frame) { Recycle(std::move(frame)); }),
        passes_(context_) {
    context_.run = std::move(run);
    context_.recorded = context_.run->recorded();
    context_.parts = std::move(parts);
    context_.mailbox = std::make_shared<Mailbox>();
    if (context_.parts.queue != nullptr) context_.share = context_.parts.queue->OpenShare();
    if (context_.parts.jobs != nullptr) context_.job = context_.parts.jobs->Join(context_.run);
    MakePlan();
    demand_ = FoldDemand(plan_->entries(), context_.registry);
  }

  ~Graph() override {
    if (!finished_) Finish(0);
  }

  void AddRegistry(const std::vector<shm::RegistryEntry>& entries) override {
    const RegistryIndex::Change change = context_.registry.Add(entries);
    demand_stale_ |= change.added || change.renamed;
    if (!change.renamed) return;
    // Filters, slots and series were found by the old names.
    context_.memory.scenes.clear();
    plan_ = std::make_shared<Plan>(plan_->entries(), *context_.run->info());
    passes_.SetPlan(plan_);
  }

  void Handle(const shm::Message& message) override {
    if (context_.mailbox->any()) TakeLetters();
    const shm::Record& record = message.record;
    last_seq_ = std::max(last_seq_, record.seq);  // what comes late is handed on behind others
    const Counting counting(context_, record.seq);
    switch (static_cast<Kind>(record.kind)) {
      case Kind::kBatchStarted:
        return Start(record);
      case Kind::kBatchFinished:
        return Close(record);
      case Kind::kPassStarted:
        return StartPass(record);
      case Kind::kPassesNamed:
        return NamePasses(record);
      case Kind::kEpochStarted:
      case Kind::kEpochFinished:
        return;  // between steps; no subscriber takes markers
      default:
        break;
    }
    Frame* frame = open_.Find(record);
    if (record.pass != 0) {
      if (frame != nullptr) open_.Touch(*frame, record.seq);
      return TakeOfPass(message);
    }
    if (frame == nullptr) frame = &open_.OpenHeadless(record);
    open_.Touch(*frame, record.seq);
    ++frame->records;
    if (!frame->whole) return;
    intake_.Take(frame->contents, message);
    if (frame->contents.bytes > context_.parts.step_bytes_max) GiveUpTooLarge(record);
  }

  bool Refresh() override {
    if (context_.mailbox->any()) TakeLetters();
    const bool changed = context_.parts.subscribers->version() != version_;
    if (changed) MakePlan();
    if (changed || demand_stale_) UpdateDemand();
    if (!context_.events.empty()) EmitEvents();
    return std::exchange(demand_changed_, false);
  }

  std::vector<shm::DemandItem> Demand() override {
    if (demand_stale_) UpdateDemand();
    return demand_;
  }

  void Tick(uint64_t monotonic_ns) override {
    if (context_.parts.jobs != nullptr) context_.parts.jobs->Tick(monotonic_ns);
    if (context_.mailbox->any()) TakeLetters();
    open_.Tick(monotonic_ns);
    passes_.Tick(monotonic_ns);
    if (!context_.events.empty()) EmitEvents();
  }

  uint64_t done_seq() const override {
    uint64_t done = std::min({last_seq_, open_.done_seq(), passes_.done_seq()});
    for (const auto& [id, frame] : closing_) done = std::min(done, frame->held_seq - 1);
    return done;
  }

  uint64_t held() const override {
    uint64_t held = open_.held() + passes_.held();
    for (const auto& [id, frame] : closing_) held += frame->records;
    return held;
  }

  bool computes() const override {
    return std::any_of(closing_.begin(), closing_.end(),
                       [](const auto& one) { return StepRunner::Computes(*one.second); });
  }

  void Finish(uint64_t deadline_ns) override {
    finished_ = true;
    open_.DropAll();
    passes_.DiscardAll();
    context_.job.reset();  // nobody waits for this rank any more
    TakeLetters();
    while (!closing_.empty() && context_.mailbox->Wait(deadline_ns)) TakeLetters();
    context_.mailbox->End();
    while (!closing_.empty()) GiveUpOldest();
    if (context_.share) context_.share->Cancel();
    for (auto& [key, instances] : context_.memory.instances) instances->Retire();
    if (!context_.events.empty()) EmitEvents();
  }

  std::vector<Count> Missing() const override { return CountsOf(context_.missing); }
  uint64_t steps_observed(uint16_t root) const override { return root < steps_.size() ? steps_[root] : 0; }

 private:
  void MakePlan() {
    version_ = context_.parts.subscribers->version();  // before the snapshot: what changes meanwhile is seen next time
    plan_ = std::make_shared<Plan>(context_.parts.subscribers->Snapshot(), *context_.run->info());
    passes_.SetPlan(plan_);
    ForgetRemoved();
  }

  // What is kept for subscribers that are gone.
  void ForgetRemoved() {
    std::set<uint64_t> ids;
    for (const auto& entry : plan_->entries()) ids.insert(entry->id);
    std::erase_if(context_.memory.instances, [&](const auto& item) {
      if (ids.count(std::get<0>(item.first)) != 0) return false;
      item.second->Retire();
      return true;
    });
    for (auto& [where, scene] : context_.memory.scenes) {
      std::erase_if(scene->names, [&](const auto& item) { return ids.count(item.first) == 0; });
    }
  }

  void UpdateDemand() {
    demand_stale_ = false;
    std::vector<shm::DemandItem> demand = FoldDemand(plan_->entries(), context_.registry);
    if (demand == demand_) return;
    demand_ = std::move(demand);
    demand_changed_ = true;
  }

  void Start(const shm::Record& record) {
    // The same step again while it is open: its end was lost.
    open_.Discard(record);
    Scene* scene = SceneOf(record);
    std::unique_ptr<Frame> frame;
    if (scene != nullptr && !scene->idle_frames.empty()) {
      frame = std::move(scene->idle_frames.back());
      scene->idle_frames.pop_back();
    } else {
      frame = std::make_unique<Frame>();
    }
    frame->Open(plan_, scene, record);
    open_.Append(std::move(frame));
  }

  Scene* SceneOf(const shm::Record& record) {
    return plan_->SceneOf(record.root, record.tag, context_.registry, context_.memory, *context_.run,
                          context_.share.get());
  }

  void StartPass(const shm::Record& record) {
    Frame* frame = open_.Find(record);
    if (frame != nullptr) open_.Touch(*frame, record.seq);
    // With the plan that its step began with, which is likely to be the one that names it.
    if (frame != nullptr && frame->whole) {
      passes_.Begin(record, frame->contents.plan, frame->scene());
    } else {
      passes_.Begin(record, plan_, SceneOf(record));
    }
  }

  void TakeOfPass(const shm::Message& message) {
    Pass* pass = passes_.Find(message.record);
    if (pass == nullptr) return;
    intake_.Take(pass->contents, message);
    passes_.Touch(*pass);
  }

  // Its step is given up and counted; what comes of it later belongs to none.
  void GiveUpTooLarge(const shm::Record& record) {
    context_.Say(Severity::kWarning, "step_too_large",
                 "what the trainer published of step " + std::to_string(record.global_step) + " takes more than " +
                     std::to_string(context_.parts.step_bytes_max >> 20) +
                     " MiB here, and the step does not end; it is given up",
                 record.global_step);
    open_.Discard(record);
  }

  // What the passes that this marker names have brought belongs to its step.
  void NamePasses(const shm::Record& record) {
    Frame* frame = open_.Find(record);
    if (frame == nullptr && record.kind == static_cast<uint8_t>(Kind::kPassesNamed)) {
      frame = &open_.OpenHeadless(record);
    }
    if (frame != nullptr) {
      open_.Touch(*frame, record.seq);
      ++frame->records;
    }
    if (record.type != static_cast<uint8_t>(RecordType::kMarker)) return;
    shm::ForEachNamed(record.marker, [&](uint32_t number) {
      std::unique_ptr<Pass> pass = passes_.Take(record, number);
      if (frame != nullptr && frame->whole) frame->AddPass(context_, pass.get());
      if (pass) passes_.Recycle(std::move(pass));
    });
    passes_.DiscardBefore(record.root, record.marker.lowest_open);
    const bool goes_on = frame != nullptr && frame->whole && record.kind == static_cast<uint8_t>(Kind::kPassesNamed);
    if (goes_on && frame->contents.bytes > context_.parts.step_bytes_max) GiveUpTooLarge(record);
  }

  void Close(const shm::Record& record) {
    NamePasses(record);
    std::unique_ptr<Frame> frame = open_.Take(record);
    if (!frame) return;
    frame->Close(record, ++last_id_);
    const bool counts = context_.counts && frame->complete;
    if (record.tag == kTagDefault && record.root < steps_.size() && counts) ++steps_[record.root];
    if (record.tag == kTagDefault) passes_.StepClosed(record.root);
    ClosedSteps& closed = ClosedOf(*frame);
    frame->again = closed.Again(frame->step);
    frame->reread = frame->again && frame->first_seq < context_.run->reread_until();
    closed.Close(frame->step);
    const uint64_t began = frame->first_seq;
    if (frame->scene() == nullptr) {
      Recycle(std::move(frame));
    } else {
      Run(std::move(frame));
    }
    open_.DiscardStragglers(record, began);
  }

  // An earlier daemon may have closed some: what a trainer that counts anew does again is again for this one too.
  ClosedSteps& ClosedOf(const Frame& frame) {
    const auto at = closed_.try_emplace({frame.root, frame.tag}).first;
    if (frame.scene() == nullptr || !at->second.Seed()) return at->second;
    const SceneMemory& memory = *frame.scene()->memory;
    const auto recorded = context_.recorded->steps.find({memory.root_name, memory.tag_name});
    if (recorded == context_.recorded->steps.end()) return at->second;
    for (const uint64_t step : recorded->second) at->second.Close(step);
    return at->second;
  }

  Batch BatchOf(const Frame& frame) const {
    Batch batch;
    batch.run = context_.run;
    batch.stamp = frame.stamp;
    return batch;
  }

  // A step that has just closed.
  void Run(std::unique_ptr<Frame> frame) {
    Batch batch = BatchOf(*frame);
    WaitingInstances waiting;
    for (const auto& [id, earlier] : closing_) {
      if (earlier->root == frame->root && earlier->tag == frame->tag) AddWaiting(*earlier, waiting);
    }
    Advance(*frame, waiting, batch);
    SayRepeated(*frame);
    Emit(std::move(batch));
    if (IsDone(*frame)) return Recycle(std::move(frame));
    if (closing_.size() >= kMaxClosing) GiveUpOldest();
    closing_.emplace(frame->id, std::move(frame));
  }

  static bool IsDone(const Frame& frame) {
    return std::none_of(frame.nodes.begin(), frame.nodes.end(), [](const NodeState& node) {
      return node.work == NodeState::Work::kWaits || node.work == NodeState::Work::kRuns;
    });
  }

  // The subscribers at work that wait in a step: they see none that came after it before. Instances outlive plans, of which
  // a step may have another than the next.
  using WaitingInstances = std::set<const Instances*>;
  static void AddWaiting(const Frame& earlier, WaitingInstances& waiting) {
    for (size_t i = 0; i < earlier.nodes.size(); ++i) {
      if (earlier.nodes[i].work == NodeState::Work::kWaits) waiting.insert(earlier.scene()->nodes[i].instances.get());
    }
  }

  void Advance(Frame& frame, WaitingInstances& waiting, Batch& batch) {
    std::vector<bool> blocked(frame.nodes.size(), false);
    for (size_t i = 0; i < frame.nodes.size() && !waiting.empty(); ++i) {
      blocked[i] = waiting.contains(frame.scene()->nodes[i].instances.get());
    }
    runner_.Advance(frame, blocked, batch);
    AddWaiting(frame, waiting);
  }

  // What came from other threads, and what can run because of it.
  void TakeLetters() {
    std::set<std::pair<uint16_t, uint16_t>> moved;  // root and tag
    for (LateResults& late : context_.mailbox->Take()) {
      const auto at = closing_.find(late.frame);
      if (at == closing_.end()) continue;  // given up, and counted as that
      Frame& frame = *at->second;
      Batch batch = BatchOf(frame);
      const Counting counting(context_, frame.last_seq);
      runner_.TakeLate(frame, std::move(late), batch);
      SayRepeated(frame);
      Emit(std::move(batch));
      moved.emplace(frame.root, frame.tag);
    }
    for (const auto& [root, tag] : moved) AdvanceAll(root, tag);
    for (auto at = closing_.begin(); at != closing_.end();) {
      if (!IsDone(*at->second)) {
        ++at;
        continue;
      }
      Recycle(std::move(at->second));
      at = closing_.erase(at);
    }
  }

  void AdvanceAll(uint16_t root, uint16_t tag) {
    WaitingInstances waiting;
    for (auto& [id, frame] : closing_) {
      if (frame->root != root || frame->tag != tag) continue;
      Batch batch = BatchOf(*frame);
      const Counting counting(context_, frame->last_seq);
      Advance(*frame, waiting, batch);
      SayRepeated(*frame);
      Emit(std::move(batch));
    }
  }

  void Emit(Batch batch) {
    for (Event& event : context_.events) batch.events.push_back(std::move(event));
    context_.events.clear();
    if (batch.values() == 0 && batch.events.empty()) return;
    emit_(std::move(batch));
  }

  void EmitEvents() {
    Batch batch;
    batch.run = context_.run;
    Emit(std::move(batch));
  }

  void SayRepeated(const Frame& frame) {
    if (runner_.TakeRepeated() == 0) return;
    ClosedSteps& closed = closed_[{frame.root, frame.tag}];
    if (!closed.SetRewound()) return;
    const SceneMemory& memory = *frame.scene()->memory;
    const std::string which = memory.root_name + ", tag " + memory.tag_name + ": step " + std::to_string(frame.step) +
                              " came again after it was closed; its values are refused, as is all until step " +
                              std::to_string(closed.last()) + " is passed. ";
    context_.Say(
        Severity::kWarning, "steps_repeated",
        which + (frame.tag == kTagDefault
                     ? "Let the trainer go on counting, attach it with a start step, or give it a run of its own"
                     : "Give a second evaluation at one step a tag of its own"),
        frame.step);
  }

  void GiveUpOldest() {
    runner_.GiveUp(*closing_.begin()->second);
    std::unique_ptr<Frame> frame = std::move(closing_.begin()->second);
    closing_.erase(closing_.begin());
    Recycle(std::move(frame));
  }

  void Recycle(std::unique_ptr<Frame> frame) {
    if (frame->scene() == nullptr) return;
    frame->Clear(context_);
    const std::shared_ptr<Plan> plan = std::move(frame->contents.plan);
    Scene* scene = std::exchange(frame->contents.scene, nullptr);
    if (plan == plan_ && scene->idle_frames.size() < kMaxIdleFrames) scene->idle_frames.push_back(std::move(frame));
  }

  // Constant after construction.
  const std::function<void(Batch)> emit_;

  GraphContext context_;
  Intake intake_;
  StepRunner runner_;
  std::shared_ptr<Plan> plan_;
  uint64_t version_ = 0;
  std::vector<shm::DemandItem> demand_;
  bool demand_stale_ = false;
  bool demand_changed_ = true;  // nobody was told of the first
  OpenFrames open_;
  OpenPasses passes_;
  std::map<uint64_t, std::unique_ptr<Frame>> closing_;  // closed, not done; by id
  std::map<std::pair<uint16_t, uint16_t>, ClosedSteps> closed_;
  uint64_t last_id_ = 0;
  uint64_t last_seq_ = 0;
  bool finished_ = false;
  std::array<uint64_t, kMaxRoots + 1> steps_{};
};

}  // namespace

MakeMessageGraph MakeGraph(GraphParts parts) {
  return [parts = std::move(parts)](std::shared_ptr<Run> run, std::function<void(Batch)> emit) {
    return std::make_unique<Graph>(parts, std::move(run), std::move(emit));
  };
}

}  // namespace ikkuna::graph
