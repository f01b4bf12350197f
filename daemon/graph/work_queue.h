// WorkQueue: the threads on which `queue` subscribers run, one pool for the graphs of all producers.
//
//   WorkQueue ── WorkShare, one a producer ── WorkSource, one a subscriber of it ── WorkLane, one an instance of that
//
// Jobs of a lane run one after another, in the order of Push, on any thread of the pool. A free thread takes from the
// producer that has the fewest jobs running, then from the one that took the least time so far; within it likewise
// between subscribers; lanes of one subscriber take turns. So one that needs a second for a message costs the others at
// most the threads that are busy with it when they come.
//
// Waiting is bounded for each source: one job too many drops the oldest that waits. Every job is either run or told
// `not_run`, once, and destroyed; no lock is held then.
//
// Owner: the daemon owns the WorkQueue, each graph its share. Thread rule: every method from any thread, but Close
// never from a job. Lifetime: shares, sources and lanes may outlive the queue, and take nothing then; a job
// that waits keeps its lane.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace ikkuna::graph {

enum class NotRun : uint8_t {
  kQueueFull = 1,  // newer jobs of its source took its place
  kCancelled = 2,  // its source, its producer or the queue ended first
};

struct Job {
  std::function<void()> run;            // on a thread of the pool; may throw: see SourceOptions::failed
  std::function<void(NotRun)> not_run;  // instead: on the thread that dropped it; does not throw; may be empty
  uint64_t bytes = 0;                   // that it holds, for the counters
};

// Of one subscriber over all producers: handed to each of its sources, and kept where the subscriber is shown. At rest
// pushed == waiting + running + done + failed + dropped + cancelled.
struct QueueCounters {
  std::atomic<uint64_t> pushed{0};
  std::atomic<uint64_t> waiting{0};
  std::atomic<uint64_t> running{0};
  std::atomic<uint64_t> bytes{0};  // of jobs that wait or run
  std::atomic<uint64_t> done{0};
  std::atomic<uint64_t> failed{0};     // threw
  std::atomic<uint64_t> dropped{0};    // NotRun::kQueueFull
  std::atomic<uint64_t> cancelled{0};  // NotRun::kCancelled
  std::atomic<uint64_t> busy_ns{0};    // of jobs that ended, wall time on a thread of the pool
};

struct SourceOptions {
  size_t waiting_max = 64;                       // jobs, over all lanes of the source; at least 1
  std::shared_ptr<QueueCounters> counters = {};  // null: nobody looks
  // A job threw: the exception's text, on the thread that ran it. The source goes on until it is cancelled, which may
  // be done here. Does not throw.
  std::function<void(const std::string& what)> failed = {};
};

struct WorkQueueStatus {
  uint32_t threads = 0;
  int nice = 0;             // as the kernel has it
  uint32_t busy = 0;        // threads that run a job now, or destroy what it held
  uint64_t waiting = 0;     // jobs
  double busy_seconds = 0;  // of jobs that ended
};

class WorkLane;
class WorkSource;
class WorkShare;

class WorkQueue {
 public:
  static constexpr uint32_t kMaxThreads = 64;
  static constexpr int kDefaultNice = 10;  // what trains on these cores comes first
  // Close() gives a job that runs this long, after it was cancelled, to see that.
  static constexpr std::chrono::milliseconds kGrace{500};
  // A quarter of the cores, 1 to 4: the rest is the trainer's.
  static uint32_t DefaultThreads();

  explicit WorkQueue(uint32_t threads = DefaultThreads(), int nice = kDefaultNice,
                     std::chrono::milliseconds grace = kGrace);
  ~WorkQueue();  // Close() at once
  WorkQueue(const WorkQueue&) = delete;
  WorkQueue& operator=(const WorkQueue&) = delete;

  std::shared_ptr<WorkShare> OpenShare();
  // Takes nothing more; runs what waits until `deadline`; cancels the rest, and leaves a thread whose job does not
  // return to the end of the process: a subscriber that hangs must not keep the daemon from ending. False when there
  // was one; what its job holds is then never destroyed before it returns.
  bool Close(std::chrono::steady_clock::time_point deadline);
  WorkQueueStatus status() const;

 private:
  friend class WorkLane;
  friend class WorkSource;
  friend class WorkShare;
  class State;
  std::shared_ptr<State> state_;
  const std::chrono::milliseconds grace_;
  std::vector<std::thread> threads_;  // Close empties it
};

// Of one producer. Made by WorkQueue::OpenShare.
class WorkShare : public std::enable_shared_from_this<WorkShare> {
 public:
  explicit WorkShare(std::shared_ptr<WorkQueue::State> state);
  ~WorkShare();
  WorkShare(const WorkShare&) = delete;
  WorkShare& operator=(const WorkShare&) = delete;

  std::shared_ptr<WorkSource> OpenSource(SourceOptions options);
  // WorkSource::Cancel of all; nothing more is taken. Returns how many jobs still run.
  uint64_t Cancel();

 private:
  friend class WorkQueue::State;
  friend class WorkSource;
  friend class WorkLane;
  const std::shared_ptr<WorkQueue::State> state_;
  // Guarded by the queue's mutex.
  std::vector<WorkSource*> sources_;  // all that live
  std::vector<WorkSource*> ready_;    // those with a ready lane
  uint64_t waiting_ = 0;
  uint64_t running_ = 0;
  uint64_t time_ns_ = 0;   // taken so far; one that comes (again) begins at the least of the others
  uint64_t floor_ns_ = 0;  // the time of the source that was chosen last
  bool closed_ = false;
};

// Of one subscriber of one producer. Made by WorkShare::OpenSource.
class WorkSource : public std::enable_shared_from_this<WorkSource> {
 public:
  WorkSource(std::shared_ptr<WorkShare> share, SourceOptions options);
  ~WorkSource();
  WorkSource(const WorkSource&) = delete;
  WorkSource& operator=(const WorkSource&) = delete;

  std::shared_ptr<WorkLane> OpenLane();
  // What waits is not run, what runs sees cancelled(), nothing more is taken. From a job, too.
  void Cancel();
  bool cancelled() const { return cancelled_.load(std::memory_order_acquire); }
  uint64_t waiting() const;

 private:
  friend class WorkQueue::State;
  friend class WorkShare;
  friend class WorkLane;
  struct Waiting {
    Job job;
    std::shared_ptr<WorkLane> lane;
  };
  const std::shared_ptr<WorkShare> share_;
  const SourceOptions options_;
  const std::shared_ptr<QueueCounters> counters_;  // never null
  std::atomic<bool> cancelled_{false};
  // Guarded by the queue's mutex.
  std::list<Waiting> waiting_;  // oldest first
  std::list<WorkLane*> ready_;  // lanes with a job that waits and none that runs; the next one first
  uint64_t running_ = 0;
  uint64_t time_ns_ = 0;
};

// Of one instance of the subscriber. Made by WorkSource::OpenLane.
class WorkLane : public std::enable_shared_from_this<WorkLane> {
 public:
  explicit WorkLane(std::shared_ptr<WorkSource> source);
  WorkLane(const WorkLane&) = delete;
  WorkLane& operator=(const WorkLane&) = delete;

  // False: its source is cancelled or the queue closed; the job was told so. Of older jobs that gave way `not_run` is
  // called here, before it returns.
  bool Push(Job job);
  WorkSource& source() const { return *source_; }

 private:
  friend class WorkQueue::State;
  const std::shared_ptr<WorkSource> source_;
  // Guarded by the queue's mutex.
  std::deque<std::list<WorkSource::Waiting>::iterator> jobs_;  // those of source_->waiting_ that are of this lane
  std::list<WorkLane*>::iterator ready_at_;                    // its place in source_->ready_, where it stands there
  bool running_ = false;
};

}  // namespace ikkuna::graph
