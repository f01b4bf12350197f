#include "daemon/graph/open_passes.h"

#include <string>
#include <utility>

#include "shared/passes.h"

namespace ikkuna::graph {

namespace {

// At rest; more are of a burst that is over.
constexpr size_t kMaxIdle = 8;

}  // namespace

void OpenPasses::Begin(const shm::Record& started, std::shared_ptr<Plan> plan, Scene* scene) {
  const uint64_t key = KeyOf(started.root, started.tag, started.pass);
  if (passes_.count(key) != 0) Discard(key);
  Root& root = RootOf(started.root);
  std::unique_ptr<Pass> pass;
  if (!idle_.empty()) {
    pass = std::move(idle_.back());
    idle_.pop_back();
  } else {
    pass = std::make_unique<Pass>();
  }
  pass->root = started.root;
  pass->tag = started.tag;
  pass->number = started.pass;
  pass->first_seq = started.seq;
  pass->messages = 0;
  pass->dropped_before = started.dropped_total;
  pass->bytes = 0;
  pass->steps_before = root.steps;
  root.touched_ns = now_ns_;
  ++root.waiting;
  pass->contents.Open(std::move(plan), scene, started.global_step);
  Pass& begun = *passes_.emplace(key, std::move(pass)).first->second;
  by_age_.emplace(begun.first_seq, &begun);
  last_ = &begun;
  ++held_;
  Weigh(begun);
}

Pass* OpenPasses::Find(const shm::Record& record) {
  if (last_ != nullptr && last_->number == record.pass && last_->root == record.root && last_->tag == record.tag) {
    return last_;
  }
  const auto at = passes_.find(KeyOf(record.root, record.tag, record.pass));
  if (at == passes_.end()) {
    context_.Count(MissReason::kNoStep, 1);
    return nullptr;
  }
  return last_ = at->second.get();
}

void OpenPasses::Touch(Pass& pass) {
  ++pass.messages;
  ++held_;
  RootOf(pass.root).touched_ns = now_ns_;
  if (pass.contents.bytes != pass.bytes) Weigh(pass);
  if (pass.bytes > context_.parts.step_bytes_max) Discard(KeyOf(pass.root, pass.tag, pass.number));
}

void OpenPasses::Weigh(Pass& pass) {
  bytes_ += pass.contents.bytes - std::exchange(pass.bytes, pass.contents.bytes);
  while ((bytes_ > kMaxBytes && passes_.size() > 1) || passes_.size() > kMaxWaiting) DiscardOldest(pass);
}

std::unique_ptr<Pass> OpenPasses::Take(const shm::Record& record, uint32_t number) {
  return Remove(KeyOf(record.root, record.tag, number));
}

std::unique_ptr<Pass> OpenPasses::Remove(uint64_t key) {
  const auto at = passes_.find(key);
  if (at == passes_.end()) return nullptr;
  std::unique_ptr<Pass> pass = std::move(at->second);
  passes_.erase(at);
  by_age_.erase(pass->first_seq);
  if (last_ == pass.get()) last_ = nullptr;
  --RootOf(pass->root).waiting;
  bytes_ -= pass->bytes;
  held_ -= 1 + pass->messages;
  return pass;
}

void OpenPasses::Recycle(std::unique_ptr<Pass> pass) {
  pass->contents.Clear(context_);
  pass->contents.scene = nullptr;
  const std::shared_ptr<Plan> plan = std::move(pass->contents.plan);
  if (plan == plan_ && idle_.size() < kMaxIdle) idle_.push_back(std::move(pass));
}

void OpenPasses::SetPlan(const std::shared_ptr<Plan>& plan) {
  plan_ = plan;
  idle_.clear();
}

void OpenPasses::Discard(uint64_t key) {
  std::unique_ptr<Pass> pass = Remove(key);
  context_.Count(MissReason::kNoStep, pass->messages);
  Recycle(std::move(pass));
}

template <typename Which>
void OpenPasses::DiscardIf(Which which) {
  std::vector<uint64_t> keys;
  for (const auto& [key, pass] : passes_) {
    if (which(*pass)) keys.push_back(key);
  }
  for (const uint64_t key : keys) Discard(key);
}

void OpenPasses::DiscardOldest(const Pass& except) {
  auto at = by_age_.begin();
  if (at->second == &except) ++at;
  const Pass* oldest = at->second;
  if (!std::exchange(overflowed_, true)) {
    const std::string* name = context_.registry.Root(oldest->root);
    context_.Say(Severity::kWarning, "passes_overflow",
                 (name == nullptr ? "a root without a name" : *name) + ": what waits for a step to name it is more than " +
                     std::to_string(kMaxWaiting) + " passes, or takes more than " + std::to_string(kMaxBytes >> 20) +
                     " MiB; the oldest passes are discarded from here on, and their messages counted (no_step). The "
                     "trainer's front end should name the passes of a step as they end",
                 oldest->contents.step);
  }
  Discard(KeyOf(oldest->root, oldest->tag, oldest->number));
}

void OpenPasses::DiscardBefore(uint16_t root_id, uint32_t lowest) {
  Root& root = RootOf(root_id);
  if (lowest == 0 || lowest == root.lowest) return;
  // One that goes back reaches fewer passes than the one before did: it need not be refused.
  root.lowest = lowest;
  if (root.waiting == 0) return;
  DiscardIf([&](const Pass& pass) { return pass.root == root_id && shm::PassBefore(pass.number, lowest); });
}

void OpenPasses::StepClosed(uint16_t root_id) {
  const uint64_t steps = ++RootOf(root_id).steps;
  for (auto at = by_age_.begin(); at != by_age_.end();) {
    const Pass& pass = *(at++)->second;
    if (pass.root != root_id || pass.tag != kTagDefault) continue;
    if (steps - pass.steps_before <= kStepsBehindMax) return;
    Discard(KeyOf(pass.root, pass.tag, pass.number));
  }
}

void OpenPasses::Tick(uint64_t monotonic_ns) {
  now_ns_ = monotonic_ns;
  for (uint16_t id = 0; id < roots_.size(); ++id) {
    Root& root = roots_[id];
    if (root.waiting == 0) continue;
    if (root.touched_ns == 0) root.touched_ns = now_ns_;
    if (now_ns_ < root.touched_ns || now_ns_ - root.touched_ns < kSilentNs) continue;
    DiscardIf([&](const Pass& pass) { return pass.root == id; });
  }
}

void OpenPasses::DiscardAll() {
  DiscardIf([](const Pass&) { return true; });
}

uint64_t OpenPasses::done_seq() const {
  return by_age_.empty() ? UINT64_MAX : by_age_.begin()->first - 1;
}

}  // namespace ikkuna::graph
