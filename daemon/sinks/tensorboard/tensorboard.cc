#include "daemon/sinks/tensorboard/tensorboard.h"

#include <unistd.h>

#include <utility>

#include "daemon/sinks/queued_sink.h"
#include "daemon/sinks/tensorboard/folders.h"
#include "daemon/sinks/tensorboard/tree.h"

namespace ikkuna::sinks {
namespace {

class TensorBoardWriter : public BatchWriter {
 public:
  explicit TensorBoardWriter(const TensorBoardOptions& options) : tree_(options) {}
  void Write(const std::shared_ptr<const Batch>& batch, uint64_t, Tally& tally) override { tree_.Write(*batch, tally); }
  void Commit(Tally& tally) override { tree_.Flush(tally); }
  void End() override { tree_.Close(); }

 private:
  TensorBoardTree tree_;
};

}  // namespace

Result<std::unique_ptr<Sink>> OpenTensorBoard(const TensorBoardOptions& options) {
  Status made = MakeFolders(options.logdir);
  if (made && access(options.logdir.c_str(), W_OK | X_OK) != 0)
    made = PosixError("cannot write to TensorBoard folder '" + options.logdir + "'", errno);
  if (!made) {
    Error error = made.error();
    error.text += "; pass --tensorboard-dir";
    return error;
  }
  QueueOptions queue;
  queue.name = "tensorboard";
  queue.niceness = options.nice;
  queue.report = options.report;
  queue.takes_events = true;  // those that say that a run is over: its files may go then
  return std::unique_ptr<Sink>(
      std::make_unique<QueuedSink>(std::move(queue), std::make_unique<TensorBoardWriter>(options)));
}

}  // namespace ikkuna::sinks
