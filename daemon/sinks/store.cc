#include "daemon/sinks/store.h"

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <future>
#include <mutex>
#include <thread>
#include <utility>

#include "daemon/sinks/sqlite.h"
#include "daemon/sinks/store_index.h"
#include "daemon/sinks/store_open.h"
#include "daemon/sinks/store_queue.h"
#include "daemon/sinks/store_reader.h"
#include "daemon/sinks/store_schema.h"
#include "daemon/sinks/store_upkeep.h"
#include "daemon/sinks/store_writer.h"
#include "shared/base/clock.h"

namespace ikkuna::sinks {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kFreshWait{250};      // a query waits so long for what was offered before it
constexpr std::chrono::milliseconds kRetryAfter{1'000};   // a full disk is not asked more often
constexpr std::chrono::milliseconds kUpkeepEvery{1'000};  // the cap may be passed by what one second brings

// What to do about a store that does not open, where the reason does not say so itself.
std::string WithAdvice(const Error& reason) {
  if (reason.text.find("--data-dir") != std::string::npos) return reason.text;
  switch (reason.code) {
    case ErrorCode::kCorrupt:
      return reason.text + "; move it away or pass --data-dir";
    case ErrorCode::kResourceExhausted:
      return reason.text + "; free some space or pass --data-dir";
    case ErrorCode::kUnavailable:
      return reason.text + "; close the program that uses it or pass --data-dir";
    default:
      return reason.text + "; pass --data-dir";
  }
}

uint64_t FileBytes(const std::string& path) {
  std::error_code code;
  const uintmax_t bytes = std::filesystem::file_size(path, code);
  return code ? 0 : bytes;
}

}  // namespace

class Store::Impl {
 public:
  Impl(const StoreOptions& options, SeriesCatalogue& catalogue, UniqueFd lock, Database db)
      : options_(options),
        path_(options.data_dir + "/ikkuna.db"),
        lock_(std::move(lock)),
        catalogue_(catalogue),
        db_(std::move(db)),
        reader_(path_, index_),
        upkeep_(db_, index_, options.bytes_max, [this](Severity severity, std::string kind, std::string text) {
          Raise(severity, std::move(kind), std::move(text));
        }) {}
  ~Impl() { Close(); }

  Status Start();
  void Close();
  Status Flush();
  // For a query: what was offered before is committed, or kFreshWait has passed, or the disk refuses.
  void Freshen();
  Status DeleteRun(const RunKey& run);

  StoreQueue& queue() { return queue_; }
  const StoreQueue& queue() const { return queue_; }
  StoreReader& reader() { return reader_; }
  const StoreIndex& index() const { return index_; }
  const StoreOptions& options() const { return options_; }
  const std::string& path() const { return path_; }
  uint64_t bytes() const { return bytes_.load(std::memory_order_relaxed); }

 private:
  void Run();
  bool WriteChunk(StoreChunk& chunk);
  void OnFailure(const Error& error);
  void OnRecovery();
  void Upkeep();
  void TakeDeletions();
  void Raise(Severity severity, std::string kind, std::string text);
  void MeasureBytes();

  // Constant after construction.
  const StoreOptions options_;
  const std::string path_;
  UniqueFd lock_;  // until Close()

  SeriesCatalogue& catalogue_;
  StoreIndex index_;
  StoreQueue queue_;
  std::atomic<uint64_t> bytes_{0};  // relaxed: a figure for people
  std::thread thread_;
  std::once_flag closed_;

  std::mutex deletions_mutex_;
  // Guarded by deletions_mutex_.
  std::vector<std::pair<RunKey, std::shared_ptr<std::promise<Status>>>> deletions_;
  bool deletions_closed_ = false;

  // The writer thread's own, after Start().
  Database db_;
  std::unique_ptr<StoreWriter> writer_;
  StoreReader reader_;
  StoreUpkeep upkeep_;
  Clock::time_point upkeep_due_{};
  std::optional<Clock::time_point> failing_since_;
  uint64_t dropped_before_failure_ = 0;
};

Status Store::Impl::Start() {
  if (Status status = PrepareSchema(db_, options_.bytes_max); !status) return status;
  if (Status status = LoadStore(db_, catalogue_, index_); !status) return status;
  auto writer = StoreWriter::Make(db_, catalogue_, index_);
  if (!writer) return writer.error();
  writer_ = *std::move(writer);
  MeasureBytes();
  thread_ = std::thread([this] { Run(); });
  return {};
}

void Store::Impl::Run() {
  std::optional<StoreChunk> chunk;
  while (true) {
    if (!chunk) {
      StoreQueue::Taken taken = queue_.Take(upkeep_due_);
      if (taken.ended) break;
      chunk = std::move(taken.chunk);
    }
    if (chunk) {
      if (WriteChunk(*chunk)) {
        chunk.reset();
      } else if (queue_.closing()) {
        queue_.GivenUp(*chunk);
        chunk.reset();
      } else {
        queue_.WaitToRetry(Clock::now() + kRetryAfter);
      }
    }
    TakeDeletions();
    if (Clock::now() >= upkeep_due_) Upkeep();
  }
}

bool Store::Impl::WriteChunk(StoreChunk& chunk) {
  Result<WriteOutcome> outcome = writer_->Write(chunk, upkeep_.refuse_samples());
  if (!outcome) {
    OnFailure(outcome.error());
    return false;
  }
  index_.Add(outcome->gains);
  for (const Progress& progress : outcome->progress) index_.PutProgress(progress);
  queue_.Committed(chunk, outcome->dropped);
  if (options_.on_committed) {
    for (const Progress& progress : outcome->progress) options_.on_committed(progress.producer, progress.done_seq);
  }
  if (failing_since_) OnRecovery();
  return true;
}

void Store::Impl::OnFailure(const Error& error) {
  queue_.Failed(Error{error.code, "cannot write run store '" + path_ + "': " + error.text});
  if (failing_since_) return;
  failing_since_ = Clock::now();
  dropped_before_failure_ = queue_.counters().dropped;
  Raise(Severity::kError, "store_failed",
        "cannot write run store '" + path_ + "': " + error.text +
            "; samples wait in memory, then are dropped, until it can be written again");
}

void Store::Impl::OnRecovery() {
  const double seconds = std::chrono::duration<double>(Clock::now() - *failing_since_).count();
  failing_since_.reset();
  const uint64_t dropped = queue_.counters().dropped - dropped_before_failure_;
  Raise(Severity::kInfo, "store_recovered",
        "run store is written again after " + std::to_string(static_cast<int64_t>(seconds + 0.5)) + " s; " +
            std::to_string(dropped) + " samples were dropped meanwhile");
}

void Store::Impl::Upkeep() {
  Result<bool> more = failing_since_ ? Result<bool>(false) : upkeep_.Slice();
  if (upkeep_.TakeRunDeleted()) writer_->Forget();
  // While there is work it is done between chunks, one slice each time.
  upkeep_due_ = more && *more ? Clock::now() : Clock::now() + kUpkeepEvery;
  MeasureBytes();
}

void Store::Impl::TakeDeletions() {
  std::lock_guard lock(deletions_mutex_);
  for (auto& [run, promise] : deletions_) {
    upkeep_.DeleteRun(run, [promise = promise](Status status) { promise->set_value(std::move(status)); });
    upkeep_due_ = Clock::now();
  }
  deletions_.clear();
}

Status Store::Impl::DeleteRun(const RunKey& run) {
  auto promise = std::make_shared<std::promise<Status>>();
  std::future<Status> done = promise->get_future();
  // What waits in the queue belongs to the run, too.
  if (Status status = Flush(); !status) return status;
  {
    std::lock_guard lock(deletions_mutex_);
    if (deletions_closed_) return Error{ErrorCode::kUnavailable, "the run store is closed"};
    deletions_.emplace_back(run, std::move(promise));
  }
  queue_.Wake();
  return done.get();
}

void Store::Impl::Raise(Severity severity, std::string kind, std::string text) {
  Event event;
  event.unix_ns = UnixNs();
  event.severity = severity;
  event.kind = std::move(kind);
  event.text = std::move(text);
  if (options_.on_event) options_.on_event(event);
  queue_.Push(std::move(event));
}

void Store::Impl::MeasureBytes() {
  bytes_.store(FileBytes(path_) + FileBytes(path_ + "-wal"), std::memory_order_relaxed);
}

Status Store::Impl::Flush() {
  Result<bool> committed = queue_.WaitCommitted(queue_.Nudge(), std::nullopt);
  if (!committed) return committed.error();
  return {};
}

void Store::Impl::Freshen() {
  // An error or a timeout: the query answers with what there is.
  (void)queue_.WaitCommitted(queue_.Nudge(), Clock::now() + kFreshWait);
}

void Store::Impl::Close() {
  std::call_once(closed_, [this] {
    if (!thread_.joinable()) return;
    queue_.Close();
    thread_.join();
    {
      std::lock_guard lock(deletions_mutex_);
      deletions_closed_ = true;
    }
    TakeDeletions();
    upkeep_.Abandon();
    reader_.Close();
    // Should it fail, the next opening counts by itself.
    if (!SaveCounts(db_, index_) && !sqlite3_get_autocommit(db_.handle())) (void)db_.Execute("ROLLBACK");
    (void)db_.Execute("PRAGMA wal_checkpoint(TRUNCATE)");
    writer_.reset();
    { Database closing = std::move(db_); }
    MeasureBytes();
    lock_.reset();
  });
}

Result<std::unique_ptr<Store>> Store::Open(const StoreOptions& options, SeriesCatalogue& catalogue) {
  const std::string path = options.data_dir + "/ikkuna.db";
  auto fail = [&path](const Error& reason) {
    return Error{reason.code, "cannot open run store '" + path + "': " + WithAdvice(reason)};
  };
  Result<UniqueFd> lock = LockDataDirectory(options.data_dir);
  if (!lock) return fail(lock.error());
  Result<Database> db = Database::Open(path, Database::Mode::kReadWrite);
  if (!db) return fail(db.error());
  auto impl = std::make_unique<Impl>(options, catalogue, *std::move(lock), *std::move(db));
  if (Status status = impl->Start(); !status) return fail(status.error());
  return std::unique_ptr<Store>(new Store(std::move(impl)));
}

Store::Store(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Store::~Store() = default;

void Store::Offer(std::shared_ptr<const Batch> batch) { impl_->queue().Offer(*batch); }
void Store::Nudge() { impl_->queue().Nudge(); }
Status Store::Flush() { return impl_->Flush(); }
void Store::Close() { impl_->Close(); }

void Store::UpsertRun(const ProducerInfo& producer, const std::string& state) {
  impl_->queue().Push(RunUpsert{producer, state});
}
void Store::SaveProducer(const ProducerStatus& status) { impl_->queue().Push(RunWrite(status)); }
void Store::SaveModules(const RunKey& run, std::vector<ModuleInfo> modules) {
  impl_->queue().Push(RunModules{run, std::move(modules)});
}
Status Store::DeleteRun(const RunKey& run) { return impl_->DeleteRun(run); }

std::optional<StoredProgress> Store::LoadProgress(const Uuid& producer) const {
  std::optional<Progress> progress = impl_->index().FindProgress(producer);
  if (!progress) return std::nullopt;
  return StoredProgress{*progress, progress->done_seq - std::min(progress->done_seq, progress->lost_in_daemon)};
}

Result<std::vector<ProducerStatus>> Store::LoadProducers() const { return impl_->reader().ListProducers(); }

Result<std::vector<RunInfo>> Store::ListRuns() {
  impl_->Freshen();
  return impl_->reader().ListRuns();
}
Result<std::vector<ModuleInfo>> Store::ListModules(const RunKey& run) {
  impl_->Freshen();
  return impl_->reader().ListModules(run);
}
Result<std::vector<SeriesInfo>> Store::ListSeries(const SeriesFilter& filter) {
  impl_->Freshen();
  return impl_->reader().ListSeries(filter);
}
Result<ReadAnswer> Store::Read(const ReadQuery& query) {
  impl_->Freshen();
  return impl_->reader().Read(query);
}
Result<std::vector<TextSample>> Store::ReadTexts(uint64_t series_id) {
  impl_->Freshen();
  return impl_->reader().ReadTexts(series_id);
}
Result<std::vector<Event>> Store::ListEvents(const EventQuery& query) {
  impl_->Freshen();
  return impl_->reader().ListEvents(query);
}

SinkCounters Store::counters() const { return impl_->queue().counters(); }
uint64_t Store::store_bytes() const { return impl_->bytes(); }
uint64_t Store::bytes_max() const { return impl_->options().bytes_max; }
const std::string& Store::path() const { return impl_->path(); }

}  // namespace ikkuna::sinks
