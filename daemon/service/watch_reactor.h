// WatchReactor: one Watch stream. At most one write is outstanding; what comes meanwhile waits in the hub, which drops
// and counts.
//
// Owner: itself while the stream lives (gRPC calls OnDone last), and whoever holds a shared_ptr. Thread rule: all
// methods from any thread.
#pragma once

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_set>
#include <vector>

#include "daemon/model/watch.h"
#include "daemon/monitor/series_monitor.h"
#include "daemon/service/failures.h"
#include "daemon/service/let_in.h"
#include "daemon/service/open_calls.h"
#include "daemon/service/watch_encoding.h"

namespace ikkuna::service {

class WatchReactor final : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                           public std::enable_shared_from_this<WatchReactor> {
 public:
  // Values that a stream takes from the hub at one time.
  static constexpr size_t kValuesTaken = 8192;

  // `on_done` is called once, when gRPC is through with the stream. `calls` outlives the stream.
  static std::shared_ptr<WatchReactor> Create(OpenCalls& calls, LetIn let_in,
                                              std::function<void(WatchReactor*)> on_done);

  // Sends the headers and then what the watcher has of `parts`, until an end or the client's going.
  void Begin(WatchAnswer answer, WatchParts parts);
  // Finishes the stream, after the outstanding write. The first end given counts.
  void End(const Failure& failure);
  void End(const grpc::Status& status);
  // The same once the client has all that waits for it.
  void EndWhenEmpty(const Failure& failure);

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  WatchReactor(OpenCalls& calls, LetIn let_in, std::function<void(WatchReactor*)> on_done);
  // Starts the next write or the finish, if none is outstanding.
  void Pump();
  // Puts the next message's worth into message_; false: nothing is there.
  bool FillLocked();
  // Gets the next update with its encoding; false: none is there.
  bool NextLocked();

  // Constant after construction.
  OpenCalls& calls_;
  const std::function<void(WatchReactor*)> on_done_;

  std::shared_ptr<WatchReactor> self_;     // from Create to OnDone
  std::atomic<bool> pump_waiting_{false};  // a Pump is posted: one is enough

  std::mutex mutex_;
  // Guarded by mutex_.
  LetIn let_in_;
  std::unique_ptr<Watcher> watcher_;
  WatchParts parts_ = kAllParts;
  std::deque<std::shared_ptr<const WatchUpdate>> taken_;
  std::shared_ptr<const WatchUpdate> update_;       // that is being sent
  std::shared_ptr<const WatchEncoding> encoding_;   // of update_
  size_t next_piece_ = 0;                           // of encoding_
  std::unordered_set<uint64_t> runs_told_;          // by WatchUpdate::run_number
  WatchTaken counted_;                              // its counts, as the hub has them
  uint64_t dropped_told_ = 0;
  uint64_t events_dropped_told_ = 0;
  std::optional<grpc::Status> end_;
  bool at_once_ = false;  // what still waits is not written
  bool writing_ = false;
  bool finished_ = false;
  Uuid daemon_{};
  // Written under mutex_ while no write is outstanding; gRPC reads it until OnWriteDone.
  grpc::ByteBuffer message_;
};

}  // namespace ikkuna::service
