// EventFile: one TensorBoard event file, written record by record.
//
// Owner and thread rule: the TensorBoard sink's thread alone. A record is u64 length, masked crc32c of it, the bytes,
// masked crc32c of them. The file never holds half a record for longer than a Flush: what a full disk cuts off is cut
// back to the last whole record.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "shared/base/result.h"
#include "shared/base/unique_fd.h"

namespace ikkuna::sinks {

// crc32c, rotated and offset as the format wants it.
uint32_t MaskedCrc32c(std::string_view bytes);
// The record that holds these bytes.
std::string FrameRecord(std::string_view bytes);

class EventFile {
 public:
  // Makes a new file `events.out.tfevents.{seconds}.{host}.{pid}.{n}` in the directory, which is made when missing. It
  // begins with the format's version.
  static Result<std::unique_ptr<EventFile>> Create(const std::string& directory, int64_t unix_ns);

  // Queues an event (a serialized ikkuna.tb.Event) of so many samples.
  void Add(std::string_view event, uint64_t samples);
  // Writes what is queued. An error: nothing of it was written, and it is gone.
  Status Flush();

  // Gives the descriptor back after a Flush; Resume goes on where it was.
  void Suspend() { fd_.reset(); }
  Status Resume();
  bool suspended() const { return !fd_; }

  uint64_t samples_queued() const { return samples_queued_; }
  size_t bytes_queued() const { return buffer_.size(); }
  const std::string& path() const { return path_; }

 private:
  EventFile(std::string path, UniqueFd fd) : path_(std::move(path)), fd_(std::move(fd)) {}

  const std::string path_;
  UniqueFd fd_;
  uint64_t bytes_written_ = 0;  // whole records
  std::string buffer_;
  uint64_t samples_queued_ = 0;
};

}  // namespace ikkuna::sinks
