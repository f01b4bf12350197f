// EventFile: one TensorBoard event file, written record by record.
//
// Owner and thread rule: the TensorBoard sink's thread alone. A record is u64 length, masked crc32c of it, the bytes,
// masked crc32c of them. The file never holds half a record for longer than a Flush: what a full disk cuts off is cut
// back to the last whole record.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "daemon/model/run.h"
#include "shared/base/result.h"
#include "shared/base/unique_fd.h"

namespace ikkuna::sinks {

// crc32c, rotated and offset as the format wants it.
uint32_t MaskedCrc32c(std::string_view bytes);
// The record that holds these bytes.
std::string FrameRecord(std::string_view bytes);

// Of this host, as it stands in the names of its files.
const std::string& EventFileHost();
// Written by a daemon of this host.
bool IsOwnEventFile(std::string_view file_name);

struct NewEventFile {
  std::string directory;
  int64_t unix_ns = 0;   // now
  uint32_t attempt = 0;  // of the run that writes it
  Uuid uuid{};           // of the process whose values they are
  // It begins with SessionLog START at this step, if no file of the process is there yet. The first START of a folder
  // means nothing to readers, so that every attempt has one, also the first: only then does a later one drop what it
  // overtook.
  std::optional<int64_t> start_step;
};

class EventFile {
 public:
  // Makes a new file `events.out.tfevents.{seconds}.{host}.{pid}.{n}.a{attempt}.{uuid}`, which stands behind all others
  // of the directory: readers read them in the order of their names, whatever the clock did. It begins with the
  // format's version. The directory is there.
  static Result<std::unique_ptr<EventFile>> Create(const NewEventFile& file);

  // Queues an event (a serialized ikkuna.tb.Event) of so many samples.
  void Add(std::string_view event, uint64_t samples);
  // Writes what is queued. An error: nothing of it was written, and it is gone.
  Status Flush();
  // What is queued goes, unwritten.
  void Discard();
  // Somebody took the file away; what is written to it would be seen by nobody.
  bool vanished() const;

  // Gives the descriptor back after a Flush; Resume goes on where it was.
  void Suspend() { fd_.reset(); }
  Status Resume();
  bool suspended() const { return !fd_; }
  // A record that could not be written could not be cut off either: nothing may come behind it.
  bool torn() const { return torn_; }

  uint64_t samples_queued() const { return samples_queued_; }
  size_t bytes_queued() const { return buffer_.size(); }
  uint64_t bytes_written() const { return bytes_written_; }
  const std::string& path() const { return path_; }

 private:
  EventFile(std::string path, UniqueFd fd) : path_(std::move(path)), fd_(std::move(fd)) {}

  const std::string path_;
  UniqueFd fd_;
  uint64_t bytes_written_ = 0;  // whole records
  std::string buffer_;
  uint64_t samples_queued_ = 0;
  bool torn_ = false;
};

}  // namespace ikkuna::sinks
