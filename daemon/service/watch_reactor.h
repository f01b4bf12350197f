// WatchReactor: one Watch stream. At most one write is outstanding; what comes meanwhile waits in the Watcher's bounded
// queue, which drops and counts.
//
// Owner: itself while the stream lives (gRPC calls OnDone last), and whoever holds a shared_ptr. Thread rule: all
// methods from any thread.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include "daemon/monitor.h"
#include "daemon/service/worker_pool.h"
#include "ikkuna/v1/monitor.pb.h"

namespace ikkuna::service {

class WatchReactor final : public grpc::ServerWriteReactor<v1::WatchResponse>,
                           public std::enable_shared_from_this<WatchReactor> {
 public:
  // Items in one message, so that it stays well below the largest one: 64 bytes a sample, 300 a series.
  static constexpr size_t kMaxSamples = 8192;
  static constexpr size_t kMaxNewSeries = 4096;

  // `on_done` is called once, when gRPC is through with the stream. `pumps` outlives the stream.
  static std::shared_ptr<WatchReactor> Create(WorkerPool& pumps, std::function<void(WatchReactor*)> on_done);

  // Sends the headers and then what `watcher` has, until End or the client's going.
  void Begin(std::unique_ptr<Watcher> watcher);
  // Finishes the stream, after the outstanding write. The first status given counts.
  void End(const grpc::Status& status);
  // The same once the client has all that waits for it.
  void EndWhenEmpty(const grpc::Status& status);

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  WatchReactor(WorkerPool& pumps, std::function<void(WatchReactor*)> on_done);
  // Starts the next write or the finish, if none is outstanding.
  void Pump();
  // Moves the next message's worth out of pending_ and the watcher; false: nothing is there.
  bool FillLocked();

  // Constant after construction.
  WorkerPool& pumps_;
  const std::function<void(WatchReactor*)> on_done_;

  std::shared_ptr<WatchReactor> self_;     // from Create to OnDone
  std::atomic<bool> pump_waiting_{false};  // a Pump is posted: one is enough

  std::mutex mutex_;
  // Guarded by mutex_.
  std::unique_ptr<Watcher> watcher_;
  WatchUpdate pending_;
  size_t announced_ = 0;  // of pending_.new_series
  uint64_t dropped_sent_ = 0;
  std::optional<grpc::Status> end_;
  bool at_once_ = false;  // what still waits is not written
  bool writing_ = false;
  bool finished_ = false;
  // Written under mutex_ while no write is outstanding; gRPC reads it until OnWriteDone.
  v1::WatchResponse response_;
};

}  // namespace ikkuna::service
