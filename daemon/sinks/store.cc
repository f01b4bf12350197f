#include "daemon/sinks/store.h"

#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>

#include "daemon/sinks/store_impl.h"
#include "shared/base/clock.h"

namespace ikkuna::sinks {
namespace {

const char* FileSystemName(const std::string& path) {
  struct statfs found {};
  if (::statfs(path.c_str(), &found) != 0) return "unknown";
  switch (static_cast<uint32_t>(found.f_type)) {
    case 0xef53:
      return "ext4";
    case 0x58465342:
      return "xfs";
    case 0x9123683e:
      return "btrfs";
    case 0x01021994:
      return "tmpfs";
    case 0x794c7630:
      return "overlayfs";
    case 0x6969:
      return "nfs";
    case 0xff534d42:
    case 0xfe534d42:
      return "cifs";
    case 0x0bd00bd0:
      return "lustre";
    case 0x47504653:
      return "gpfs";
    case 0x65735546:
      return "fuse";
    case 0x2fc12fc1:
      return "zfs";
    default:
      return "other";
  }
}

std::shared_ptr<const Batch> WithoutValues(const Batch& batch) {
  auto light = std::make_shared<Batch>();
  light->run = batch.run;
  light->stamp = batch.stamp;
  light->events = batch.events;
  light->progress = batch.progress;
  return light;
}

void CountUp(std::map<std::string, uint64_t, std::less<>>& counts, std::string_view reason, uint64_t values) {
  const auto found = counts.find(reason);
  if (found != counts.end()) {
    found->second += values;
  } else {
    counts.emplace(reason, values);
  }
}

}  // namespace

void Store::Impl::DropLocked(const EntryPtr& entry, std::string_view reason, uint64_t values, InFile in_file) {
  if (values == 0) return;
  dropped_ += values;
  CountUp(drops_, reason, values);
  if (!entry) return;
  CountUp(entry->drops_untold, reason, values);
  if (in_file == InFile::kYes) return;
  if (entry->drops_unsaved.empty()) entry->drops_since = Clock::now();
  CountUp(entry->drops_unsaved, reason, values);
  if (!entry->deleted) awake_.insert(entry);
}

Store::Impl::EntryPtr Store::Impl::FindLocked(const RunKey& run) const {
  const auto found = entries_.find(run);
  return found == entries_.end() ? nullptr : found->second;
}

Store::Impl::EntryPtr Store::Impl::Find(const RunKey& run) const {
  std::lock_guard lock(mutex_);
  return FindLocked(run);
}

std::vector<Store::Impl::EntryPtr> Store::Impl::Entries() const {
  std::lock_guard lock(mutex_);
  std::vector<EntryPtr> entries{own_};
  for (const auto& [key, entry] : entries_) entries.push_back(entry);
  return entries;
}

std::vector<Store::Impl::EntryPtr> Store::Impl::Awake() const {
  std::lock_guard lock(mutex_);
  return {awake_.begin(), awake_.end()};
}

Event Store::Impl::MakeEvent(Severity severity, std::string kind, std::string text, const RunKey& run) {
  Event event;
  event.unix_ns = UnixNs();
  event.severity = severity;
  event.run = run;
  event.kind = std::move(kind);
  event.text = std::move(text);
  return event;
}

void Store::Impl::ListLocked(Event& event) {
  event.id = TakeEventId();
  auto batch = std::make_shared<Batch>();
  batch->events.push_back(event);
  EntryPtr entry = FindLocked(event.run);
  PushLocked(entry ? entry : own_, std::move(batch));
}

void Store::Impl::Tell(const Event& event) {
  if (options_.on_event) options_.on_event(event);
}

void Store::Impl::Raise(Severity severity, std::string kind, std::string text, const RunKey& run) {
  Event event = MakeEvent(severity, std::move(kind), std::move(text), run);
  {
    std::lock_guard lock(mutex_);
    ListLocked(event);
  }
  Tell(event);
}

void Store::Impl::PushLocked(const EntryPtr& entry, std::shared_ptr<const Batch> batch) {
  const uint64_t events = batch->events.size();
  if (events > 0 && events_queued_ + events > kEventsQueuedMax) {
    events_dropped_ += events;
    auto light = std::make_shared<Batch>(*batch);
    light->events.clear();
    batch = std::move(light);
    if (batch->values() == 0 && !batch->progress) return;
  }
  events_queued_ += batch->events.size();
  // Progress alone takes the place of progress alone.
  auto is_progress = [](const Batch& one) { return one.values() == 0 && one.events.empty(); };
  if (is_progress(*batch)) {
    if (!batch->progress) return;
    if (entry->pending.size() > entry->staged && is_progress(*entry->pending.back().batch)) {
      entry->pending.back().batch = std::move(batch);
      entry->pending.back().ticket = ++ticket_;
      return;
    }
  }
  const size_t bytes = BytesOf(*batch);
  const uint64_t values = batch->values();
  const bool first = entry->pending.empty();
  if (first) awake_.insert(entry);
  ++ticket_;
  entry->pending.push_back({std::move(batch), ticket_, ticket_, bytes, Clock::now()});
  entry->values_pending += values;
  entry->bytes_pending += bytes;
  bytes_queued_ += bytes;
  ++batches_queued_;
  const bool full = entry->values_pending >= kValuesPerCommit || bytes_queued_ > kBytesQueuedMax / 2;
  if (sleeping_ && (first || full)) wake_.notify_one();
}

Store::Impl::Share Store::Impl::ShareLocked(const RunEntry& failing) const {
  size_t bytes = 0, batches = 0;  // of the others that fail
  for (const EntryPtr& entry : awake_) {
    if (entry.get() == &failing || entry->failing.empty()) continue;
    bytes += entry->bytes_pending;
    batches += entry->pending.size();
  }
  auto share = [](size_t most, size_t others) {
    return std::min(most / kFailingShare, most / kAllFailingShare - std::min(most / kAllFailingShare, others));
  };
  return {share(kBytesQueuedMax, bytes), share(kBatchesQueuedMax, batches)};
}

// The newest goes: what is staged stays, and what comes later would be dropped as well.
void Store::Impl::ShedLocked(const EntryPtr& entry) {
  const Share share = ShareLocked(*entry);
  std::vector<std::shared_ptr<const Batch>> light;
  while (entry->pending.size() > entry->staged &&
         (entry->bytes_pending > share.bytes || entry->pending.size() > share.batches)) {
    const Pending& one = entry->pending.back();
    const std::shared_ptr<const Batch> batch = one.batch;
    entry->values_pending -= batch->values();
    entry->bytes_pending -= one.bytes;
    events_queued_ -= batch->events.size();
    bytes_queued_ -= one.bytes;
    --batches_queued_;
    entry->pending.pop_back();
    DropLocked(entry, "disk", batch->values());
    if (!batch->events.empty() || batch->progress) light.push_back(WithoutValues(*batch));
  }
  for (; !light.empty(); light.pop_back()) PushLocked(entry, std::move(light.back()));
}

void Store::Impl::Offer(std::shared_ptr<const Batch> batch) {
  const uint64_t values = batch->values();
  const bool needs_ids =
      std::any_of(batch->events.begin(), batch->events.end(), [](const Event& event) { return event.id == 0; });
  std::shared_ptr<Batch> copy;
  if (needs_ids) batch = copy = std::make_shared<Batch>(*batch);
  const size_t bytes = values > 0 ? BytesOf(*batch) : 0;
  std::lock_guard lock(mutex_);
  if (copy) {
    for (Event& event : copy->events) {
      if (event.id == 0) event.id = TakeEventId();
    }
  }
  offered_ += values;
  if (closing_) {
    DropLocked(nullptr, "closed", values);
    events_dropped_ += batch->events.size();
    return;
  }
  if (!batch->run) {
    DropLocked(nullptr, "no_run", values);
    for (const Event& event : batch->events) {
      auto one = std::make_shared<Batch>();
      one->events.push_back(event);
      EntryPtr entry = FindLocked(event.run);
      PushLocked(entry ? entry : own_, std::move(one));
    }
    return;
  }
  EntryPtr entry = FindLocked(batch->run->key());
  if (!entry) {
    DropLocked(nullptr, "no_run", values);
    events_dropped_ += batch->events.size();
    return;
  }
  if (values > 0 && paused_) {
    DropLocked(entry, "paused", values);
    if (batch->events.empty() && !batch->progress) return;
    batch = WithoutValues(*batch);
    PushLocked(entry, std::move(batch));
    return;
  }
  bool full = bytes_queued_ + bytes > kBytesQueuedMax || batches_queued_ >= kBatchesQueuedMax;
  if (values > 0 && !full && !entry->failing.empty()) {
    const Share share = ShareLocked(*entry);
    full = entry->bytes_pending + bytes > share.bytes || entry->pending.size() >= share.batches;
  }
  if (values > 0 && full) {
    DropLocked(entry, entry->failing.empty() ? "queue_full" : "disk", values);
    if (batch->events.empty() && !batch->progress) return;
    batch = WithoutValues(*batch);
  }
  PushLocked(entry, std::move(batch));
}

Status Store::Impl::CanTake(const RunKey& run) const {
  std::lock_guard lock(mutex_);
  auto refused = [](const std::string& why) {
    return Error{ErrorCode::kResourceExhausted, "nothing of it was recorded: " + why};
  };
  if (paused_) {
    return refused("recording is paused, for want of room on the file system of '" + folder_ +
                   "'; make room, or see --store-min-free-mb");
  }
  const EntryPtr entry = FindLocked(run);
  if (entry && !entry->failing.empty() && !entry->pending.empty())
    return refused("the run's file takes nothing now: " + entry->failing);
  // With room for those that come between this answer and the values.
  if (bytes_queued_ > kBytesQueuedMax / 8 * 7 || batches_queued_ > kBatchesQueuedMax / 8 * 7) {
    return refused("more waits to be written than the disk keeps up with; try again");
  }
  return {};
}

SinkCounters Store::Impl::Counters() const {
  std::lock_guard lock(mutex_);
  SinkCounters counters;
  counters.name = "store";
  counters.offered = offered_;
  counters.written = written_;
  counters.dropped = dropped_;
  counters.waiting = offered_ - written_ - dropped_;
  counters.events_dropped = events_dropped_;
  counters.failures = failures_;
  const auto now = Clock::now();
  auto look = [&](const RunEntry& entry) {
    if (entry.pending.empty()) return;
    counters.lag_seconds = std::max(counters.lag_seconds,
                                    std::chrono::duration<double>(now - entry.pending.front().since).count());
  };
  for (const EntryPtr& entry : awake_) look(*entry);
  for (const auto& [reason, count] : drops_) counters.drops.push_back({reason, count});
  return counters;
}

Status Store::Impl::Flush(Clock::time_point deadline) {
  std::unique_lock lock(mutex_);
  const uint64_t target = ticket_;
  const auto begun = Clock::now();
  std::string failing;
  auto done = [&] {
    auto waits = [&](const RunEntry& entry) {
      return !entry.pending.empty() && entry.pending.front().first_ticket <= target;
    };
    auto saves = [&](const RunEntry& entry) {
      return entry.saves() || (!entry.drops_unsaved.empty() && entry.drops_since <= begun);
    };
    failing.clear();
    bool all = true;
    auto look = [&](const RunEntry& entry) {
      if (!waits(entry) && !saves(entry)) return;
      all = false;
      if (!entry.failing.empty()) failing = entry.failing;
    };
    for (const EntryPtr& entry : awake_) look(*entry);
    return all;
  };
  if (closed_) return {};
  const uint64_t round = flushes_;
  flush_wanted_ = true;
  wake_.notify_one();
  while (!done()) {
    flush_wanted_ = true;
    // It was tried once more, for this call.
    if (!failing.empty() && flushes_ >= round + 2) {
      return Error{ErrorCode::kUnavailable, "cannot write to run store '" + folder_ + "': " + failing};
    }
    if (flushed_.wait_until(lock, deadline) == std::cv_status::timeout && !done()) {
      return Error{ErrorCode::kUnavailable,
                   "run store '" + folder_ + "': not all was written in time" + (failing.empty() ? "" : ": " + failing)};
    }
  }
  return {};
}

// However slow the disk is: only where nothing is written for a while, or the file takes nothing, is there an end to it.
Status Store::Impl::FlushRun(const EntryPtr& entry) {
  constexpr std::chrono::seconds kNothingWritten{60};
  std::unique_lock lock(mutex_);
  const uint64_t target = ticket_, version = entry->said_version, round = flushes_;
  const auto begun = Clock::now();
  auto waits = [&] { return !entry->pending.empty() && entry->pending.front().first_ticket <= target; };
  auto saves = [&] {
    return entry->said_saved < version || (!entry->drops_unsaved.empty() && entry->drops_since <= begun);
  };
  auto refused = [&](const std::string& why) {
    uint64_t values = 0;
    for (const Pending& one : entry->pending) values += one.first_ticket <= target ? one.batch->values() : 0;
    const std::string what = values > 0 ? std::to_string(values) + " of its values wait" : "what is said of it waits";
    return Error{ErrorCode::kUnavailable, what + " to be written and would be missing in the copy: " + why};
  };
  uint64_t front = 0;
  auto deadline = Clock::now() + kNothingWritten;
  while (!entry->deleted && (waits() || saves())) {
    if (closing_ || copies_end_.load()) return refused("the daemon ends");
    if (!entry->failing.empty() && flushes_ >= round + 2) return refused(entry->failing);
    const uint64_t now_front = entry->pending.empty() ? 0 : entry->pending.front().first_ticket;
    if (now_front != std::exchange(front, now_front)) deadline = Clock::now() + kNothingWritten;
    if (Clock::now() > deadline) {
      return refused("nothing was written for " + std::to_string(kNothingWritten.count()) + " seconds; try again");
    }
    flush_wanted_ = true;
    wake_.notify_one();
    flushed_.wait_until(lock, deadline);
  }
  if (entry->deleted) return Error{ErrorCode::kNotFound, "it is not listed any more"};
  return {};
}

void Store::Impl::Close() {
  std::call_once(close_once_, [this] {
    {
      std::lock_guard lock(mutex_);
      closing_ = true;
      wake_.notify_one();
    }
    if (thread_.joinable()) thread_.join();
    std::lock_guard lock(mutex_);
    closed_ = true;
    auto drop = [this](const EntryPtr& entry) {
      for (const Pending& one : entry->pending) {
        DropLocked(entry, entry->failing.empty() ? "closed" : "disk", one.batch->values());
        events_dropped_ += one.batch->events.size();
      }
      entry->pending.clear();
      entry->staged = 0;
    };
    if (own_) drop(own_);
    for (const auto& [key, entry] : entries_) drop(entry);
    flushed_.notify_all();
    catalogue_.Close();
    event_ids_kept_ = next_event_id_.load();
    if (lock_) (void)WriteLock(0);  // closed in order
    lock_.reset();
  });
}

uint64_t Store::Impl::store_bytes() const {
  uint64_t bytes = 0;
  for (const EntryPtr& entry : Entries()) bytes += FileBytes(*entry);
  std::lock_guard lock(mutex_);
  for (const std::string& path : broken_) bytes += FileBytes(path);
  return bytes;
}

StoreStatus Store::Impl::GetStatus() const {
  StoreStatus status;
  status.folder = folder_;
  status.file_system = FileSystemName(folder_);
  status.bytes_max = bytes_max_;
  struct statvfs found {};
  if (::statvfs(folder_.c_str(), &found) == 0) status.free_bytes = uint64_t{found.f_bavail} * found.f_frsize;
  for (const EntryPtr& entry : Entries()) {
    status.bytes += FileBytes(*entry);
    if (entry != own_) ++status.runs;
    std::lock_guard lock(entry->mutex);
    if (!entry->loaded) continue;
    status.tail_bytes += entry->loaded->open.bytes + (entry->loaded->sealed ? entry->loaded->sealed->bytes : 0);
    if (entry != own_ && IsOpen(entry->head.producer.state)) ++status.runs_open;
  }
  status.threads = 1;
  status.nice = nice_.load(std::memory_order_relaxed);
  std::lock_guard lock(mutex_);
  for (const std::string& path : broken_) status.bytes += FileBytes(path);
  status.paused = paused_;
  for (const auto& [reason, count] : drops_) status.dropped.push_back({reason, count});
  return status;
}

Store::Store(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Store::~Store() = default;
void Store::Offer(std::shared_ptr<const Batch> batch) { impl_->Offer(std::move(batch)); }
SinkCounters Store::Counters() const { return impl_->Counters(); }
Status Store::Flush(std::chrono::steady_clock::time_point deadline) { return impl_->Flush(deadline); }
void Store::Close() { impl_->Close(); }
uint64_t Store::TakeEventId() { return impl_->TakeEventId(); }
bool Store::was_unclosed() const { return impl_->was_unclosed(); }
Result<std::vector<ProducerStatus>> Store::LoadProducers() { return impl_->LoadProducers(); }
std::vector<ProducerStatus> Store::TakeFound() { return impl_->TakeFound(); }
std::optional<Progress> Store::LoadProgress(const RunKey& run) { return impl_->LoadProgress(run); }
Result<std::shared_ptr<Run>> Store::Begin(const ProducerInfo& producer) { return impl_->Begin(producer); }
void Store::SaveProducer(const ProducerStatus& status) { impl_->SaveProducer(status); }
void Store::SaveModules(const RunKey& run, std::vector<ModuleInfo> modules) {
  impl_->SaveModules(run, std::move(modules));
}
Result<std::vector<RunInfo>> Store::ListRuns() { return impl_->ListRuns(nullptr); }
Result<std::vector<RunInfo>> Store::FindRuns(const std::string& name) { return impl_->ListRuns(&name); }
Result<std::vector<ModuleInfo>> Store::ListModules(const RunKey& run) { return impl_->ListModules(run); }
Result<SeriesPage> Store::ListSeries(const SeriesQuery& query) { return impl_->ListSeries(query); }
Result<std::unique_ptr<SeriesReader>> Store::Read(const ReadQuery& query) { return impl_->Read(query); }
Result<EventList> Store::ListEvents(const EventQuery& query) { return impl_->ListEvents(query); }
Status Store::DeleteRun(const RunKey& run) { return impl_->DeleteRun(run); }
Status Store::TagRun(const RunKey& run, const std::vector<std::string>& add, const std::vector<std::string>& remove) {
  return impl_->TagRun(run, add, remove);
}
void Store::EndCopies() { impl_->EndCopies(); }
Status Store::ExportFile(const RunKey& run, const std::string& path) { return impl_->ExportFile(run, path); }
Result<RunKey> Store::ImportFile(const std::string& path, bool moves) { return impl_->ImportFile(path, moves); }
Status Store::CanTake(const RunKey& run) const { return impl_->CanTake(run); }
Status Store::CheckRoom(uint64_t bytes) const { return impl_->CheckRoom(bytes); }
StoreStatus Store::GetStatus() const { return impl_->GetStatus(); }
uint64_t Store::store_bytes() const { return impl_->store_bytes(); }
uint64_t Store::bytes_max() const { return impl_->bytes_max(); }

}  // namespace ikkuna::sinks
