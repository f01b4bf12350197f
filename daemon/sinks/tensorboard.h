// TensorBoard: a sink that writes event files which TensorBoard shows while the training runs.
//
// Owner: the daemon's list of sinks. Thread rule: as Sink says (a QueuedSink).
//
// Folders: {logdir}/{run}/{rank}/{tag}, {run} being the display name (else the run_id) and "-attempt{n}" after a
// restart; an attempt that continues another writes into the folder of that one, where its first file begins with
// SessionLog START: TensorBoard's reader then drops what was overtaken. A second run of the same name gets "{run}-2" and
// so on, and so do two tags that are sanitised to one path; a file `.ikkuna-run` or `.ikkuna-tag` in the folder says
// whose it is. Curves: {topic}/{module}[.{param}] and, without a module, {topic} or {topic}/{param}. A root that is not
// called "model" stands in between: {topic}/{root}/{module}[.{param}]. A '/' inside a part becomes '_'; a curve whose name
// another series has, or once had in this folder, gets "#" and digits of a hash of its own name, so that it is called the
// same after every restart. Folders are for their owner alone (0700).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "daemon/model/sink.h"
#include "shared/base/result.h"

namespace ikkuna::sinks {

struct TensorBoardOptions {
  std::string logdir;         // created when missing
  std::string configuration;  // shown as text beside each run's own facts; may be empty
  std::string topics;         // patterns (daemon/model/names.h) of what is written; empty: all
  // Of all files below logdir together, those of earlier daemons included; then nothing more is written, with an event.
  // 0: no limit. 4 GiB are some 50 million numbers.
  uint64_t bytes_max = uint64_t{4} << 30;
  std::function<void(Event)> report = {};  // see queued_sink.h
};

// Drops by reason: topic_filter is no drop (it was not asked for); step_too_large, size_cap, disk, too_many_folders.
Result<std::unique_ptr<Sink>> OpenTensorBoard(const TensorBoardOptions& options);

}  // namespace ikkuna::sinks
