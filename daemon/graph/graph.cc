#include "daemon/graph/graph.h"

#include <algorithm>
#include <array>
#include <utility>

#include "daemon/graph/demand.h"
#include "daemon/graph/frame.h"
#include "daemon/graph/step_runner.h"
#include "daemon/graph/subscriber_set.h"

namespace ikkuna::graph {

class Graph::Impl {
 public:
  // Two are open at once in an ordinary loop, one a thread where several train one model.
  static constexpr size_t kMaxOpenFrames = 64;  // of a root: threads that train one model have a step open each
  static constexpr size_t kMaxIdleFrames = 4;   // of a scene
  // A step that has not ended when others are so far ahead never will. Until then its thread may merely not have run:
  // in a time slice of the kernel the others make hundreds of small steps.
  static constexpr uint64_t kStepsBehindMax = 1000;

  Impl(std::shared_ptr<const ProducerInfo> producer, SeriesCatalogue& catalogue, SubscriberSet& subscribers,
       std::function<void(Batch)> emit)
      : producer_(std::move(producer)),
        subscribers_(subscribers),
        emit_(std::move(emit)),
        runner_(*producer_, catalogue) {
    MakePlan();
    demand_ = FoldDemand(plan_->entries(), registry_);
  }

  void AddRegistry(const std::vector<shm::RegistryEntry>& entries) {
    const RegistryIndex::Change change = registry_.Add(entries);
    demand_stale_ |= change.added || change.renamed;
    // Filters and series were found by the old names.
    if (change.renamed) plan_ = std::make_shared<Plan>(plan_->entries());
  }

  void Handle(const shm::Message& message) {
    const shm::Record& record = message.record;
    last_seq_ = record.seq;
    switch (static_cast<Kind>(record.kind)) {
      case Kind::kBatchStarted:
        return Start(record);
      case Kind::kBatchFinished:
        return Close(record);
      case Kind::kEpochStarted:
      case Kind::kEpochFinished:
        return;  // between steps; no subscriber takes markers
      default:
        break;
    }
    Frame* frame = Find(record);
    if (frame == nullptr) frame = &OpenHeadless(record);
    frame->last_seq = record.seq;
    if (frame->whole) frame->Take(message, registry_);
  }

  bool Refresh() {
    const bool changed = subscribers_.version() != version_;
    if (changed) MakePlan();
    if (changed || demand_stale_) UpdateDemand();
    return std::exchange(demand_changed_, false);
  }

  const std::vector<shm::DemandItem>& Demand() {
    if (demand_stale_) UpdateDemand();
    return demand_;
  }

  uint64_t done_seq() const {
    uint64_t done = last_seq_;
    for (const auto& frame : open_) {
      if (frame->whole) done = std::min(done, frame->first_seq - 1);
    }
    return done;
  }

  void Finish() {
    while (!open_.empty()) Discard(0);
  }

  GraphCounters counters() const { return counters_; }
  uint64_t steps_observed(uint16_t root) const { return root < steps_.size() ? steps_[root] : 0; }

 private:
  void MakePlan() {
    version_ = subscribers_.version();  // before the snapshot: what changes meanwhile is seen the next time
    plan_ = std::make_shared<Plan>(subscribers_.Snapshot());
  }

  void UpdateDemand() {
    demand_stale_ = false;
    std::vector<shm::DemandItem> demand = FoldDemand(plan_->entries(), registry_);
    if (demand == demand_) return;
    demand_ = std::move(demand);
    demand_changed_ = true;
  }

  size_t IndexOf(const shm::Record& record) const {
    for (size_t i = open_.size(); i-- > 0;) {
      const Frame& frame = *open_[i];
      if (frame.step == record.global_step && frame.root == record.root && frame.tag == record.tag) return i;
    }
    return open_.size();
  }

  Frame* Find(const shm::Record& record) {
    const size_t i = IndexOf(record);
    return i == open_.size() ? nullptr : open_[i].get();
  }

  Frame& Append(std::unique_ptr<Frame> frame) {
    open_.push_back(std::move(frame));
    Frame& fresh = *open_.back();
    size_t same_root = 0;
    for (const auto& open : open_) same_root += open->root == fresh.root;
    if (same_root > kMaxOpenFrames) {
      for (size_t i = 0; i < open_.size(); ++i) {
        if (open_[i]->root != fresh.root) continue;
        Discard(i);
        break;
      }
    }
    return fresh;
  }

  void Start(const shm::Record& record) {
    // The same step again while it is open: its end was lost.
    if (const size_t i = IndexOf(record); i != open_.size()) Discard(i);
    Scene* scene = plan_->SceneOf(record.root, record.tag, registry_);
    std::unique_ptr<Frame> frame;
    if (scene != nullptr && !scene->idle_frames.empty()) {
      frame = std::move(scene->idle_frames.back());
      scene->idle_frames.pop_back();
    } else {
      frame = std::make_unique<Frame>();
    }
    frame->Open(plan_, scene, record);
    Append(std::move(frame));
  }

  // Messages of a step of which we did not see the beginning: they are let through, and counted as one frame.
  Frame& OpenHeadless(const shm::Record& record) {
    auto frame = std::make_unique<Frame>();
    frame->root = record.root;
    frame->tag = record.tag;
    frame->step = record.global_step;
    frame->first_seq = frame->last_seq = record.seq;
    return Append(std::move(frame));
  }

  void Close(const shm::Record& record) {
    const size_t i = IndexOf(record);
    if (i == open_.size()) {
      ++counters_.frames_discarded;  // neither beginning nor content was seen
      return;
    }
    Frame& frame = *open_[i];
    if (!frame.whole) return Discard(i);
    Batch batch;
    if (frame.scene != nullptr) batch = runner_.Run(frame, record, counters_);
    ++counters_.frames_closed;
    if (record.tag == kTagDefault && record.root < steps_.size() && record.dropped_total == frame.dropped_before) {
      ++steps_[record.root];
    }
    const uint64_t began = frame.first_seq;
    Release(i);
    DiscardStragglers(record, began);
    if (batch.samples.empty() && batch.texts.empty() && batch.events.empty()) return;
    batch.producer = producer_;
    emit_(std::move(batch));
  }

  // Earlier steps of which nothing came since this one began have lost their ends, if the producer lost anything since
  // they began. Those of other threads that train the same model go on.
  void DiscardStragglers(const shm::Record& finished, uint64_t began) {
    for (size_t i = open_.size(); i-- > 0;) {
      const Frame& frame = *open_[i];
      const bool earlier = frame.root == finished.root && frame.tag == finished.tag &&
                           frame.step < finished.global_step && frame.last_seq < began;
      if (!earlier) continue;
      const bool lost = frame.dropped_before != finished.dropped_total;
      if (lost || !frame.whole || finished.global_step - frame.step > kStepsBehindMax) Discard(i);
    }
  }

  void Discard(size_t i) {
    ++counters_.frames_discarded;
    Release(i);
  }

  void Release(size_t i) {
    std::unique_ptr<Frame> frame = std::move(open_[i]);
    open_.erase(open_.begin() + static_cast<std::ptrdiff_t>(i));
    if (frame->scene == nullptr) return;
    const std::shared_ptr<Plan> plan = std::move(frame->plan);
    Scene* scene = std::exchange(frame->scene, nullptr);
    frame->Clear(*scene);
    if (plan == plan_ && scene->idle_frames.size() < kMaxIdleFrames) scene->idle_frames.push_back(std::move(frame));
  }

  // Constant after construction.
  const std::shared_ptr<const ProducerInfo> producer_;
  SubscriberSet& subscribers_;
  const std::function<void(Batch)> emit_;

  RegistryIndex registry_;
  StepRunner runner_;
  std::shared_ptr<Plan> plan_;
  uint64_t version_ = 0;
  std::vector<shm::DemandItem> demand_;
  bool demand_stale_ = false;
  bool demand_changed_ = true;                // nobody was told of the first
  std::vector<std::unique_ptr<Frame>> open_;  // in order of their beginning
  uint64_t last_seq_ = 0;
  GraphCounters counters_;
  std::array<uint64_t, kMaxRoots + 1> steps_{};
};

Graph::Graph(std::shared_ptr<const ProducerInfo> producer, SeriesCatalogue& catalogue, SubscriberSet& subscribers,
             std::function<void(Batch)> emit)
    : impl_(std::make_unique<Impl>(std::move(producer), catalogue, subscribers, std::move(emit))) {}
Graph::~Graph() = default;

void Graph::AddRegistry(const std::vector<shm::RegistryEntry>& entries) { impl_->AddRegistry(entries); }
void Graph::Handle(const shm::Message& message) { impl_->Handle(message); }
bool Graph::Refresh() { return impl_->Refresh(); }
std::vector<shm::DemandItem> Graph::Demand() const { return impl_->Demand(); }
uint64_t Graph::done_seq() const { return impl_->done_seq(); }
void Graph::Finish() { impl_->Finish(); }
GraphCounters Graph::counters() const { return impl_->counters(); }
uint64_t Graph::steps_observed(uint16_t root) const { return impl_->steps_observed(root); }

}  // namespace ikkuna::graph
