#include "daemon/sinks/tensorboard.h"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <filesystem>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "daemon/sinks/tensorboard_tree.h"

namespace ikkuna::sinks {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kFlushEvery{1'000};  // TensorBoard itself looks every few seconds

}  // namespace

class TensorBoard::Impl {
 public:
  Impl(const TensorBoardOptions& options, const SeriesCatalogue& catalogue)
      : tree_(options.logdir, options.configuration, catalogue), thread_([this] { Run(); }) {}
  ~Impl() { Close(); }

  void Offer(std::shared_ptr<const Batch> batch);
  void Flush();
  void Close();
  SinkCounters counters() const;

 private:
  struct Waiting {
    std::shared_ptr<const Batch> batch;
    Clock::time_point since;
  };

  static uint64_t Rows(const Batch& batch) { return batch.samples.size() + batch.texts.size(); }
  void Run();
  void Settle();

  TensorBoardTree tree_;  // the thread's own

  mutable std::mutex mutex_;
  std::condition_variable thread_wakes_;
  std::condition_variable flushed_;
  // Guarded by mutex_.
  std::deque<Waiting> queue_;
  uint64_t rows_queued_ = 0;
  uint64_t ticket_ = 0;          // batches offered
  uint64_t taken_ticket_ = 0;    // batches given to the tree
  uint64_t flushed_ticket_ = 0;  // batches in the files
  bool flush_wanted_ = false;
  bool closing_ = false;
  uint64_t offered_ = 0;
  uint64_t written_ = 0;
  uint64_t dropped_ = 0;

  std::once_flag closed_;
  std::thread thread_;
};

void TensorBoard::Impl::Offer(std::shared_ptr<const Batch> batch) {
  const uint64_t rows = Rows(*batch);
  if (rows == 0) return;
  {
    std::lock_guard lock(mutex_);
    offered_ += rows;
    if (closing_ || queue_.size() >= kBatchesQueuedMax || rows_queued_ + rows > kSamplesQueuedMax) {
      dropped_ += rows;
      return;
    }
    rows_queued_ += rows;
    ++ticket_;
    queue_.push_back({std::move(batch), Clock::now()});
    if (queue_.size() > 1) return;  // it is awake already, or about to be
  }
  thread_wakes_.notify_one();
}

void TensorBoard::Impl::Run() {
  Clock::time_point flush_due = Clock::now() + kFlushEvery;
  std::unique_lock lock(mutex_);
  while (true) {
    thread_wakes_.wait_until(lock, flush_due, [this] { return !queue_.empty() || flush_wanted_ || closing_; });
    std::deque<Waiting> work = std::exchange(queue_, {});
    lock.unlock();
    uint64_t rows = 0;
    for (const Waiting& waiting : work) {
      tree_.Write(*waiting.batch);
      rows += Rows(*waiting.batch);
    }
    lock.lock();
    rows_queued_ -= rows;
    taken_ticket_ += work.size();
    if (flush_wanted_ || closing_ || Clock::now() >= flush_due) {
      flush_wanted_ = false;
      const uint64_t ticket = taken_ticket_;
      lock.unlock();
      tree_.Flush();
      lock.lock();
      flushed_ticket_ = ticket;
      flush_due = Clock::now() + kFlushEvery;
    }
    Settle();
    flushed_.notify_all();
    if (closing_ && queue_.empty() && flushed_ticket_ == ticket_) return;
  }
}

void TensorBoard::Impl::Settle() {
  const TensorBoardTree::Tally tally = tree_.TakeTally();
  written_ += tally.written;
  dropped_ += tally.dropped;
}

void TensorBoard::Impl::Flush() {
  std::unique_lock lock(mutex_);
  const uint64_t ticket = ticket_;
  while (flushed_ticket_ < ticket) {
    // Again each time: the thread may have taken an earlier wish before it took our batches.
    flush_wanted_ = true;
    thread_wakes_.notify_one();
    flushed_.wait(lock);
  }
}

void TensorBoard::Impl::Close() {
  std::call_once(closed_, [this] {
    {
      std::lock_guard lock(mutex_);
      closing_ = true;
    }
    thread_wakes_.notify_one();
    thread_.join();
  });
}

SinkCounters TensorBoard::Impl::counters() const {
  std::lock_guard lock(mutex_);
  SinkCounters counters;
  counters.name = "tensorboard";
  counters.offered = offered_;
  counters.written = written_;
  counters.dropped = dropped_;
  counters.queued = queue_.size();
  if (!queue_.empty()) {
    counters.lag_seconds = std::chrono::duration<double>(Clock::now() - queue_.front().since).count();
  }
  return counters;
}

Result<std::unique_ptr<TensorBoard>> TensorBoard::Open(const TensorBoardOptions& options,
                                                       const SeriesCatalogue& catalogue) {
  std::error_code code;
  std::filesystem::create_directories(options.logdir, code);
  if (code) {
    Error error = PosixError("cannot make TensorBoard folder '" + options.logdir + "'", code.value());
    error.text += "; pass --tensorboard-dir";
    return error;
  }
  return std::unique_ptr<TensorBoard>(new TensorBoard(std::make_unique<Impl>(options, catalogue)));
}

TensorBoard::TensorBoard(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
TensorBoard::~TensorBoard() = default;
void TensorBoard::Offer(std::shared_ptr<const Batch> batch) { impl_->Offer(std::move(batch)); }
void TensorBoard::Flush() { impl_->Flush(); }
void TensorBoard::Close() { impl_->Close(); }
SinkCounters TensorBoard::counters() const { return impl_->counters(); }

}  // namespace ikkuna::sinks
