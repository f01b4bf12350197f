// TensorBoard: a sink that writes event files which TensorBoard shows while the training runs.
//
// Owner: the daemon's core. Thread rule: every method from any thread; one thread of its own writes. Offer only queues.
//
// Folders: {logdir}/{run}/{rank}/{tag}, {run} being the display name (else the run_id) and "-attempt{n}" after a
// restart; a second run of the same name gets "{run}-2" and so on (a file `.ikkuna-run` in the folder says whose it
// is). Names: {topic}/{module}[.{param}] and, without a module, {topic} or {topic}/{param}. A root that is not called
// "model" stands in between: {topic}/{root}/{module}[.{param}]. A '/' inside a part becomes '_', so the number of parts
// tells the two forms apart; should two series still meet in one name, the later gets "#2". Every opening begins a new
// file; a torn one of an earlier daemon is left as it is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "daemon/sample.h"
#include "daemon/series_catalogue.h"
#include "shared/base/result.h"

namespace ikkuna::sinks {

struct TensorBoardOptions {
  std::string logdir;         // created when missing
  std::string configuration;  // shown as text beside each run's own facts; may be empty
};

class TensorBoard : public SampleSink {
 public:
  static constexpr size_t kBatchesQueuedMax = 65'536;     // as the store's
  static constexpr size_t kSamplesQueuedMax = 1'000'000;  // as the store's
  static constexpr size_t kFilesOpenMax = 256;            // then the one that rested longest is set aside

  static Result<std::unique_ptr<TensorBoard>> Open(const TensorBoardOptions& options, const SeriesCatalogue& catalogue);
  ~TensorBoard() override;  // closes
  TensorBoard(const TensorBoard&) = delete;
  TensorBoard& operator=(const TensorBoard&) = delete;

  void Offer(std::shared_ptr<const Batch> batch) override;
  // Waits until everything offered before is in the files (or dropped).
  void Flush();
  void Close();
  // Texts count as samples. offered == written + dropped once the queue is empty.
  SinkCounters counters() const;

 private:
  class Impl;
  explicit TensorBoard(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace ikkuna::sinks
