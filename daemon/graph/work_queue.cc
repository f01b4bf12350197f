#include "daemon/graph/work_queue.h"

#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <utility>

#include "shared/base/clock.h"

namespace ikkuna::graph {

namespace {

template <typename T>
void Erase(std::vector<T*>& all, const T* one) {
  const auto at = std::find(all.begin(), all.end(), one);
  if (at == all.end()) return;
  *at = all.back();
  all.pop_back();
}

template <typename T>
T* Next(const std::vector<T*>& ready, uint64_t T::*running, uint64_t T::*time_ns) {
  T* best = ready.front();
  for (T* one : ready) {
    if (std::pair(one->*running, one->*time_ns) < std::pair(best->*running, best->*time_ns)) best = one;
  }
  return best;
}

}  // namespace

// One mutex for all: jobs are rare beside what they cost, and hold none of it while they run. Each thread holds the
// state, so that one which is left behind by Close finds it.
class WorkQueue::State {
 public:
  using Waiting = WorkSource::Waiting;
  // What leaves the queue without being run, to be told so when the mutex is free.
  using Unrun = std::list<Waiting>;

  static void Tell(Unrun unrun, NotRun why) {
    for (Waiting& one : unrun) {
      QueueCounters& counters = *one.lane->source_->counters_;
      (why == NotRun::kQueueFull ? counters.dropped : counters.cancelled).fetch_add(1, std::memory_order_relaxed);
      if (one.job.not_run) one.job.not_run(why);
      counters.bytes.fetch_sub(one.job.bytes, std::memory_order_relaxed);
    }
  }

  bool Push(WorkLane& lane, Job job) {
    WorkSource& source = *lane.source_;
    WorkShare& share = *source.share_;
    source.counters_->pushed.fetch_add(1, std::memory_order_relaxed);
    source.counters_->bytes.fetch_add(job.bytes, std::memory_order_relaxed);
    Unrun one, unrun;
    one.push_back({std::move(job), lane.shared_from_this()});
    bool taken = false;
    {
      std::lock_guard lock(mutex);
      taken = !closing && !share.closed_ && !source.cancelled();
      if (taken) {
        while (source.waiting_.size() >= source.options_.waiting_max) TakeOldest(source, unrun);
        Come(share, source);
        source.waiting_.splice(source.waiting_.end(), one);
        lane.jobs_.push_back(std::prev(source.waiting_.end()));
        CountWaiting(source, 1);
        if (lane.jobs_.size() == 1 && !lane.running_) MakeReady(lane);
      }
    }
    if (taken) work.notify_one();
    Tell(std::move(unrun), NotRun::kQueueFull);
    Tell(std::move(one), NotRun::kCancelled);
    return taken;
  }

  // With the mutex held.
  void CancelSource(WorkSource& source, Unrun& unrun) {
    source.cancelled_.store(true, std::memory_order_release);
    while (!source.waiting_.empty()) TakeOldest(source, unrun);
  }

  // With the mutex held.
  void CancelAll(Unrun& unrun) {
    for (WorkShare* share : shares) {
      share->closed_ = true;
      for (WorkSource* source : share->sources_) CancelSource(*source, unrun);
    }
  }

  void Run(size_t index, int nice_wanted) {
    const auto thread = static_cast<id_t>(::gettid());
    ::pthread_setname_np(::pthread_self(), "ikkuna-work");
    // Higher than ours is always granted; whatever it came to is shown.
    // Never above the daemon's own, which a privileged user's threads could be.
    if (::getpriority(PRIO_PROCESS, thread) < nice_wanted) ::setpriority(PRIO_PROCESS, thread, nice_wanted);
    nice.store(::getpriority(PRIO_PROCESS, thread), std::memory_order_relaxed);
    std::unique_lock lock(mutex);
    while (true) {
      work.wait(lock, [this] { return stop || !ready.empty(); });
      if (stop) break;
      RunOne(lock);
      lock.lock();
    }
    ended[index] = 1;
    idle.notify_all();
  }

  std::mutex mutex;
  std::condition_variable work;  // something is ready, or stop
  std::condition_variable idle;  // nothing waits or runs in some share, or a thread ended
  std::atomic<int> nice{0};
  // Guarded by mutex.
  std::vector<WorkShare*> shares;  // all that live
  std::vector<WorkShare*> ready;   // those with a ready source
  std::vector<uint8_t> ended;      // by thread
  uint32_t busy = 0;
  uint64_t waiting = 0;
  uint64_t busy_ns = 0;
  uint64_t floor_ns = 0;  // the time of the share that was chosen last
  bool closing = false;
  bool stop = false;

 private:
  void CountWaiting(WorkSource& source, int64_t change) {
    waiting += static_cast<uint64_t>(change);
    source.share_->waiting_ += static_cast<uint64_t>(change);
    source.counters_->waiting.fetch_add(static_cast<uint64_t>(change), std::memory_order_relaxed);
  }

  // One that had nothing to do has saved up no time: it begins where the others are.
  void Come(WorkShare& share, WorkSource& source) {
    if (share.waiting_ == 0 && share.running_ == 0) share.time_ns_ = std::max(share.time_ns_, floor_ns);
    if (source.waiting_.empty() && source.running_ == 0) source.time_ns_ = std::max(source.time_ns_, share.floor_ns_);
  }

  void MakeReady(WorkLane& lane) {
    WorkSource& source = *lane.source_;
    WorkShare& share = *source.share_;
    lane.ready_at_ = source.ready_.insert(source.ready_.end(), &lane);
    if (source.ready_.size() != 1) return;
    share.ready_.push_back(&source);
    if (share.ready_.size() == 1) ready.push_back(&share);
  }

  void MakeUnready(WorkLane& lane) {
    WorkSource& source = *lane.source_;
    WorkShare& share = *source.share_;
    source.ready_.erase(lane.ready_at_);
    if (!source.ready_.empty()) return;
    Erase(share.ready_, &source);
    if (share.ready_.empty()) Erase(ready, &share);
  }

  // Moves the oldest that waits out of the source; there is one. It is the first of its lane.
  void TakeOldest(WorkSource& source, Unrun& unrun) {
    WorkLane& lane = *source.waiting_.front().lane;
    lane.jobs_.pop_front();
    if (lane.jobs_.empty() && !lane.running_) MakeUnready(lane);
    unrun.splice(unrun.end(), source.waiting_, source.waiting_.begin());
    CountWaiting(source, -1);
  }

  // Comes with the mutex, leaves without.
  void RunOne(std::unique_lock<std::mutex>& lock) {
    WorkShare& share = *Next(ready, &WorkShare::running_, &WorkShare::time_ns_);
    WorkSource& source = *Next(share.ready_, &WorkSource::running_, &WorkSource::time_ns_);
    floor_ns = std::max(floor_ns, share.time_ns_);
    share.floor_ns_ = std::max(share.floor_ns_, source.time_ns_);
    WorkLane& lane = *source.ready_.front();
    MakeUnready(lane);
    std::list<Waiting> one;
    one.splice(one.end(), source.waiting_, lane.jobs_.front());
    lane.jobs_.pop_front();
    lane.running_ = true;
    CountWaiting(source, -1);
    ++share.running_;
    ++source.running_;
    ++busy;
    lock.unlock();

    // Keeps all three beyond the job.
    const std::shared_ptr<WorkLane> kept = std::move(one.front().lane);
    const uint64_t took_ns = Execute(std::move(one.front().job), source);
    one.clear();

    lock.lock();
    lane.running_ = false;
    if (!lane.jobs_.empty()) MakeReady(lane);
    --share.running_;
    --source.running_;
    --busy;
    share.time_ns_ += took_ns;
    source.time_ns_ += took_ns;
    busy_ns += took_ns;
    const bool share_idle = share.running_ == 0 && share.waiting_ == 0;
    // `kept` may be the last that holds the share, whose end needs the mutex.
    lock.unlock();
    if (share_idle) idle.notify_all();
  }

  // What the job holds is destroyed when it returns: its results may have made further jobs by then.
  static uint64_t Execute(Job job, WorkSource& source) {
    QueueCounters& counters = *source.counters_;
    counters.running.fetch_add(1, std::memory_order_relaxed);
    const uint64_t began = MonotonicNs();
    std::string what;
    bool threw = true;
    try {
      job.run();
      threw = false;
    } catch (const std::exception& error) {
      what = error.what();
    } catch (...) {
      what = "an exception of an unknown type";
    }
    if (threw && source.options_.failed) source.options_.failed(what);
    job.run = nullptr;
    job.not_run = nullptr;
    const uint64_t took_ns = MonotonicNs() - began;
    (threw ? counters.failed : counters.done).fetch_add(1, std::memory_order_relaxed);
    counters.busy_ns.fetch_add(took_ns, std::memory_order_relaxed);
    counters.running.fetch_sub(1, std::memory_order_relaxed);
    counters.bytes.fetch_sub(job.bytes, std::memory_order_relaxed);
    return took_ns;
  }
};

uint32_t WorkQueue::DefaultThreads() { return std::clamp(std::thread::hardware_concurrency() / 4, 1u, 4u); }

WorkQueue::WorkQueue(uint32_t threads, int nice, std::chrono::milliseconds grace)
    : state_(std::make_shared<State>()), grace_(grace) {
  threads = std::clamp(threads, 1u, kMaxThreads);
  state_->ended.assign(threads, 0);
  for (uint32_t i = 0; i < threads; ++i) {
    try {
      threads_.emplace_back([state = state_, i, nice] { state->Run(i, nice); });
    } catch (const std::system_error&) {
      break;  // the kernel's limit: the rest does the work; without any, all is refused
    }
  }
  std::lock_guard lock(state_->mutex);
  state_->closing = threads_.empty();
}

WorkQueue::~WorkQueue() { Close(std::chrono::steady_clock::now()); }

std::shared_ptr<WorkShare> WorkQueue::OpenShare() { return std::make_shared<WorkShare>(state_); }

bool WorkQueue::Close(std::chrono::steady_clock::time_point deadline) {
  State& state = *state_;
  State::Unrun unrun;
  std::vector<uint8_t> ended;
  {
    std::unique_lock lock(state.mutex);
    state.closing = true;
    state.idle.wait_until(lock, deadline, [&] { return state.waiting == 0 && state.busy == 0; });
    state.CancelAll(unrun);
    state.stop = true;
    state.work.notify_all();
    lock.unlock();
    State::Tell(std::move(unrun), NotRun::kCancelled);
    lock.lock();
    const auto all_ended = [&] {
      for (size_t i = 0; i < threads_.size(); ++i) {
        if (state.ended[i] == 0) return false;
      }
      return true;
    };
    state.idle.wait_until(lock, std::max(deadline, std::chrono::steady_clock::now() + grace_), all_ended);
    ended = state.ended;
  }
  bool all = true;
  for (size_t i = 0; i < threads_.size(); ++i) {
    if (ended[i] != 0) {
      threads_[i].join();
    } else {
      threads_[i].detach();
      all = false;
    }
  }
  threads_.clear();
  return all;
}

WorkQueueStatus WorkQueue::status() const {
  std::lock_guard lock(state_->mutex);
  return {static_cast<uint32_t>(threads_.size()), state_->nice.load(std::memory_order_relaxed), state_->busy,
          state_->waiting, static_cast<double>(state_->busy_ns) * 1e-9};
}

WorkShare::WorkShare(std::shared_ptr<WorkQueue::State> state) : state_(std::move(state)) {
  std::lock_guard lock(state_->mutex);
  state_->shares.push_back(this);
}

// Nothing of it waits or runs, for that keeps it.
WorkShare::~WorkShare() {
  std::lock_guard lock(state_->mutex);
  Erase(state_->shares, this);
}

std::shared_ptr<WorkSource> WorkShare::OpenSource(SourceOptions options) {
  return std::make_shared<WorkSource>(shared_from_this(), std::move(options));
}

uint64_t WorkShare::Cancel() {
  WorkQueue::State::Unrun unrun;
  uint64_t running = 0;
  {
    std::lock_guard lock(state_->mutex);
    closed_ = true;
    for (WorkSource* source : sources_) state_->CancelSource(*source, unrun);
    running = running_;
  }
  WorkQueue::State::Tell(std::move(unrun), NotRun::kCancelled);
  return running;
}

WorkSource::WorkSource(std::shared_ptr<WorkShare> share, SourceOptions options)
    : share_(std::move(share)),
      options_([&] {
        options.waiting_max = std::max<size_t>(options.waiting_max, 1);
        return std::move(options);
      }()),
      counters_(options_.counters != nullptr ? options_.counters : std::make_shared<QueueCounters>()) {
  std::lock_guard lock(share_->state_->mutex);
  share_->sources_.push_back(this);
}

WorkSource::~WorkSource() {
  std::lock_guard lock(share_->state_->mutex);
  Erase(share_->sources_, this);
}

std::shared_ptr<WorkLane> WorkSource::OpenLane() { return std::make_shared<WorkLane>(shared_from_this()); }

void WorkSource::Cancel() {
  WorkQueue::State::Unrun unrun;
  {
    std::lock_guard lock(share_->state_->mutex);
    share_->state_->CancelSource(*this, unrun);
  }
  WorkQueue::State::Tell(std::move(unrun), NotRun::kCancelled);
  share_->state_->idle.notify_all();
}

uint64_t WorkSource::waiting() const {
  std::lock_guard lock(share_->state_->mutex);
  return waiting_.size();
}

WorkLane::WorkLane(std::shared_ptr<WorkSource> source) : source_(std::move(source)) {}

bool WorkLane::Push(Job job) { return source_->share_->state_->Push(*this, std::move(job)); }

}  // namespace ikkuna::graph
