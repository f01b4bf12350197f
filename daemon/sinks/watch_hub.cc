#include "daemon/sinks/watch_hub.h"

#include <sys/random.h>
#include <unistd.h>

#include <functional>
#include <string>
#include <utility>

#include "daemon/sinks/queued_sink.h"
#include "daemon/sinks/watch_groups.h"
#include "shared/base/clock.h"

namespace ikkuna::sinks {
namespace {

Uuid NewUuid() {
  Uuid uuid{};
  if (getrandom(uuid.data(), uuid.size(), 0) != static_cast<ssize_t>(uuid.size())) {
    // Two daemons of one host never share both.
    const int64_t parts[2] = {UnixNs(), getpid()};
    static_assert(sizeof(parts) == sizeof(uuid));
    std::copy_n(reinterpret_cast<const unsigned char*>(parts), uuid.size(), uuid.begin());
  }
  return uuid;
}

class HubWriter : public BatchWriter {
 public:
  explicit HubWriter(std::shared_ptr<WatchGroups> groups) : groups_(std::move(groups)) {}
  // Before the first batch.
  void SetQueue(const QueuedSink* queue) { queue_ = queue; }

  void Write(const std::shared_ptr<const Batch>& batch, uint64_t ticket, Tally& tally) override {
    // Tickets that are left out are batches for which the queue had no room.
    const Lost lost = ticket != ticket_ + 1 ? LostSince() : Lost{};
    ticket_ = ticket;
    groups_->Accept(batch, ticket, lost.values, lost.events);
    tally.written += batch->values();
  }
  void Commit(Tally&) override {}
  void End() override {
    const Lost lost = LostSince();
    groups_->End(lost.values, lost.events);
  }

 private:
  struct Lost {
    uint64_t values = 0;
    uint64_t events = 0;
  };
  Lost LostSince() {
    const SinkCounters now = queue_->Counters();
    const Lost lost{now.dropped - lost_.values, now.events_dropped - lost_.events};
    lost_ = {now.dropped, now.events_dropped};
    return lost;
  }

  const std::shared_ptr<WatchGroups> groups_;
  const QueuedSink* queue_ = nullptr;
  uint64_t ticket_ = 0;
  Lost lost_;
};

class HubWatcher : public Watcher {
 public:
  HubWatcher(std::shared_ptr<WatchGroups> groups, std::shared_ptr<WatchMember> member)
      : groups_(std::move(groups)), member_(std::move(member)) {}
  ~HubWatcher() override {
    SetWakeUp(nullptr);
    groups_->Leave(*member_);
  }
  WatchTaken Take(size_t values_max) override { return groups_->Take(*member_, values_max); }
  void SetWakeUp(std::function<void()> wake_up) override { groups_->SetWakeUp(*member_, std::move(wake_up)); }

 private:
  const std::shared_ptr<WatchGroups> groups_;
  const std::shared_ptr<WatchMember> member_;
};

QueueOptions QueueOptionsOf(const WatchOptions& options) {
  QueueOptions queue;
  queue.name = "watch";
  queue.drop = DropPolicy::kOldest;
  queue.takes_events = true;
  queue.report = options.report;
  return queue;
}

}  // namespace

class WatchHub::Impl {
 public:
  explicit Impl(const WatchOptions& options)
      : groups(std::make_shared<WatchGroups>(options.past_bytes_max, options.waiting_bytes_max)),
        uuid(NewUuid()),
        writer(new HubWriter(groups)),
        queue(QueueOptionsOf(options), std::unique_ptr<BatchWriter>(writer)) {
    writer->SetQueue(&queue);
  }

  const std::shared_ptr<WatchGroups> groups;
  const Uuid uuid;
  HubWriter* const writer;  // the queue's
  QueuedSink queue;
};

WatchHub::WatchHub(const WatchOptions& options) : impl_(std::make_unique<Impl>(options)) {}
WatchHub::~WatchHub() { Close(); }

void WatchHub::Offer(std::shared_ptr<const Batch> batch) { impl_->queue.Offer(std::move(batch)); }
Status WatchHub::Flush(std::chrono::steady_clock::time_point deadline) { return impl_->queue.Flush(deadline); }
void WatchHub::Close() { impl_->queue.Close(); }
WatchCursor WatchHub::Cursor() const { return {impl_->uuid, impl_->queue.ticket()}; }
size_t WatchHub::watchers() const { return impl_->groups->members(); }

SinkCounters WatchHub::Counters() const {
  const SinkCounters queue = impl_->queue.Counters();
  SinkCounters counters;
  counters.name = queue.name;
  counters.failures = queue.failures;
  counters.lag_seconds = queue.lag_seconds;
  impl_->groups->AddCounts(counters);
  counters.offered = counters.written + counters.dropped + counters.waiting;
  return counters;
}

Result<std::unique_ptr<Watcher>> WatchHub::Watch(const SeriesFilter& filter, const std::optional<WatchCursor>& from) {
  const WatchCursor now = Cursor();
  if (from && from->daemon == now.daemon && from->position > now.position) {
    return Error{ErrorCode::kFailedPrecondition, "cannot watch from there: this daemon has not come to position " +
                                                     std::to_string(from->position) +
                                                     " yet; a cursor is taken as a read gave it"};
  }
  if (from && from->daemon != now.daemon) {
    return Error{ErrorCode::kFailedPrecondition,
                 "cannot watch from there: the cursor is of another daemon (" + UuidText(from->daemon) +
                     ") than this one, which was started since; read again, and watch from where that read ends"};
  }
  Result<std::shared_ptr<WatchMember>> member =
      impl_->groups->Join(filter, from ? from->position : now.position, from.has_value());
  if (!member) return member.error();
  return std::unique_ptr<Watcher>(std::make_unique<HubWatcher>(impl_->groups, *std::move(member)));
}

}  // namespace ikkuna::sinks
