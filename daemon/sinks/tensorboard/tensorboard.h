// TensorBoard: a sink that writes event files which TensorBoard shows while the training runs.
//
// Owner: the daemon's list of sinks. Thread rule: as Sink says (a QueuedSink).
//
// Folders: {logdir}/{run}/{rank}/{tag}, {run} being the display name (else the run_id) and "-attempt{n}" after a
// restart; an attempt that continues another writes into the folder of that one, where its first files begin with
// SessionLog START: TensorBoard's readers then drop what was overtaken. A second run of the same name gets "{run}-2"
// and so on, and so do two tags that are sanitised to one path, or that the file system holds for one; a file
// `.ikkuna-run` or `.ikkuna-tag` in the folder says whose it is. Curves: {topic}/{module}[.{param}] and, without a
// module, {topic} or {topic}/{param}. A root that is not called "model" stands in between:
// {topic}/{root}/{module}[.{param}]. A '/' inside a part becomes '_'; a curve whose name another series has, or once
// had in this folder, gets "#" and digits of a hash of its own name. The file `.ikkuna-curves` keeps who has which, so
// that each is called the same after every restart. Folders are for their owner alone (0700).
//
// The values of one step and phase are one event, of one time. Numbers are single precision, the format's own.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "daemon/model/sink.h"
#include "shared/base/result.h"

namespace ikkuna::sinks {

struct TensorBoardOptions {
  std::string logdir;         // created when missing
  std::string configuration;  // shown as text beside each run's own facts; may be empty
  std::string topics;         // patterns (daemon/model/names.h) of what is written; empty: all
  // Of the event files that daemons of this host wrote below logdir, earlier ones included. At the cap the runs go that
  // were not written to for longest, whole, an event each; never one that this daemon writes. What does not fit beside
  // those is dropped and counted, with an event when that begins. 0: no limit. 4 GiB are some 80 million numbers.
  uint64_t bytes_max = uint64_t{4} << 30;
  // Of its file system: a little above what shall stay free the files of runs that go on no more leave, oldest first, so
  // that they go before the store's, which have all that these have; below `free_bytes_pause` nothing is written. 0: not
  // looked at.
  uint64_t free_bytes_min = 0, free_bytes_pause = 0;
  std::function<std::optional<uint64_t>()> free_bytes = {};  // empty: the file system is asked
  int nice = 5;                            // of its thread
  std::function<void(Event)> report = {};  // see queued_sink.h
};

// Drops by reason, beside the queue's own: step_too_large, size_cap, paused (too little is
// free), disk, file_removed (somebody took the file away),
// overtaken (by an attempt that continues this one), no_picture (a tensor of another form), unnamed. What `topics`
// leaves out is no drop: it is not offered.
Result<std::unique_ptr<Sink>> OpenTensorBoard(const TensorBoardOptions& options);

}  // namespace ikkuna::sinks
