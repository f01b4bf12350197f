#include "daemon/sink_list.h"

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <utility>

namespace ikkuna {

namespace {

constexpr char kThrew[] = "threw";

void AddCounts(std::vector<Count>& to, const std::vector<Count>& from) {
  for (const Count& count : from) {
    const auto known = std::find_if(to.begin(), to.end(), [&](const Count& one) { return one.reason == count.reason; });
    if (known == to.end()) {
      to.push_back(count);
    } else {
      known->count += count.count;
    }
  }
}

void AddCounters(SinkCounters& to, const SinkCounters& from) {
  to.offered += from.offered;
  to.written += from.written;
  to.dropped += from.dropped;
  to.waiting += from.waiting;
  to.events_dropped += from.events_dropped;
  to.failures += from.failures;
  to.lag_seconds = std::max(to.lag_seconds, from.lag_seconds);
  AddCounts(to.drops, from.drops);
}

}  // namespace

// One sink as the others see it.
class SinkList::One : public Sink {
 public:
  One(std::shared_ptr<Sink> sink, Takes takes, SinkCounters before)
      : sink_(std::move(sink)), takes_(takes), name_(sink_->name()), before_(std::move(before)) {}

  std::string name() const override { return name_; }
  Takes takes() const { return takes_; }
  void Offer(std::shared_ptr<const Batch> batch) override {
    if (takes_ == Takes::kAll) Give(std::move(batch));
  }
  void OfferKept(std::shared_ptr<const Batch> batch) {
    if (takes_ == Takes::kKept && !(batch->run && IsDaemonRun(batch->run->key()))) Give(std::move(batch));
  }
  SinkCounters Counters() const override {
    SinkCounters counters = sink_->Counters();
    AddCounters(counters, before_);
    const uint64_t lost = lost_.load(std::memory_order_relaxed);
    counters.offered += lost;
    counters.dropped += lost;
    counters.failures += threw_.load(std::memory_order_relaxed);
    counters.events_dropped += events_lost_.load(std::memory_order_relaxed);
    if (lost > 0) AddCounts(counters.drops, {{kThrew, lost}});
    return counters;
  }
  Status Flush(std::chrono::steady_clock::time_point deadline) override {
    return Guarded([&] { return sink_->Flush(deadline); });
  }
  void Close() override {
    static_cast<void>(Guarded([&] {
      sink_->Close();
      return Status();
    }));
  }

 private:
  void Give(std::shared_ptr<const Batch> batch) {
    const uint64_t values = batch->values(), events = batch->events.size();
    try {
      sink_->Offer(std::move(batch));
    } catch (...) {
      threw_.fetch_add(1, std::memory_order_relaxed);
      lost_.fetch_add(values, std::memory_order_relaxed);
      events_lost_.fetch_add(events, std::memory_order_relaxed);
    }
  }
  template <typename Call>
  Status Guarded(Call call) {
    try {
      return call();
    } catch (const std::exception& error) {
      threw_.fetch_add(1, std::memory_order_relaxed);
      return Error{ErrorCode::kSystem, "sink '" + name_ + "' failed: " + error.what()};
    }
  }

  // Constant after construction.
  const std::shared_ptr<Sink> sink_;
  const Takes takes_;
  const std::string name_;
  const SinkCounters before_;
  // Relaxed: counts.
  std::atomic<uint64_t> threw_{0}, lost_{0}, events_lost_{0};
};

SinkList::SinkList() = default;
SinkList::~SinkList() = default;

void SinkList::Restore(std::vector<SinkCounters> before) {
  for (SinkCounters& one : before) {
    // A process that is gone has nothing waiting.
    one.waiting = 0;
    one.lag_seconds = 0;
    const std::string name = one.name;
    before_[name] = std::move(one);
  }
}

void SinkList::Add(std::shared_ptr<Sink> sink, Takes takes) {
  const size_t count = count_.load(std::memory_order_relaxed);  // its only writer
  if (count == kMaxSinks) std::abort();
  const auto before = before_.find(sink->name());
  sinks_[count] =
      std::make_unique<One>(std::move(sink), takes, before == before_.end() ? SinkCounters{} : before->second);
  count_.store(count + 1, std::memory_order_release);  // pairs with the acquire of whoever goes through them
}

void SinkList::SetEventIds(std::function<uint64_t()> take_event_id) {
  take_event_id_ = std::move(take_event_id);
  has_ids_.store(true, std::memory_order_release);  // pairs with the acquire in Offer
}

void SinkList::Offer(std::shared_ptr<const Batch> batch) {
  if (has_ids_.load(std::memory_order_acquire) &&
      std::any_of(batch->events.begin(), batch->events.end(), [](const Event& event) { return event.id == 0; })) {
    auto numbered = std::make_shared<Batch>(*batch);
    for (Event& event : numbered->events) {
      if (event.id == 0) event.id = take_event_id_();
    }
    batch = std::move(numbered);
  }
  const size_t count = count_.load(std::memory_order_acquire);
  for (size_t i = 0; i < count; ++i) sinks_[i]->Offer(batch);
}

void SinkList::OfferKept(const std::shared_ptr<const Batch>& batch) {
  const size_t count = count_.load(std::memory_order_acquire);
  for (size_t i = 0; i < count; ++i) sinks_[i]->OfferKept(batch);
}

void SinkList::Offer(Event event, const std::string& except) {
  auto batch = std::make_shared<Batch>();
  batch->events.push_back(std::move(event));
  if (except.empty()) return Offer(std::move(batch));
  for (Sink* sink : sinks()) {
    if (sink->name() != except) sink->Offer(batch);
  }
}

SinkCounters SinkList::Counters() const {
  SinkCounters all;
  all.name = name();
  for (const Sink* sink : sinks()) AddCounters(all, sink->Counters());
  return all;
}

Status SinkList::Flush(std::chrono::steady_clock::time_point deadline) {
  const auto time = deadline - std::chrono::steady_clock::now();
  std::string text;
  for (Sink* sink : sinks()) {
    // One that takes all of its time leaves the others theirs.
    if (auto flushed = sink->Flush(std::chrono::steady_clock::now() + time); !flushed) {
      text += (text.empty() ? "" : "; ") + flushed.error().text;
    }
  }
  if (text.empty()) return {};
  return Error{ErrorCode::kUnavailable, text};
}

void SinkList::Close() {
  // Those that take what is kept after who keeps it, which has some of it until its end; where events are told last.
  const size_t count = count_.load(std::memory_order_acquire);
  for (const Takes takes : {Takes::kAll, Takes::kKept}) {
    for (size_t i = count; i-- > 1;) {
      if (sinks_[i]->takes() == takes) sinks_[i]->Close();
    }
  }
  if (count > 0) sinks_[0]->Close();
}

std::vector<Sink*> SinkList::sinks() const {
  std::vector<Sink*> all;
  const size_t count = count_.load(std::memory_order_acquire);
  for (size_t i = 0; i < count; ++i) all.push_back(sinks_[i].get());
  return all;
}

std::vector<SinkCounters> SinkList::Export() const {
  std::vector<SinkCounters> all;
  for (const Sink* sink : sinks()) {
    SinkCounters counters = sink->Counters();
    counters.offered = counters.written + counters.dropped;
    counters.waiting = 0;
    all.push_back(std::move(counters));
  }
  // One that is off this time goes on counting when it is on again.
  for (const auto& [name, counters] : before_) {
    const auto is = [&](const SinkCounters& other) { return other.name == name; };
    if (std::none_of(all.begin(), all.end(), is)) all.push_back(counters);
  }
  return all;
}

}  // namespace ikkuna
