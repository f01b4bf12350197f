// Notices: lines for the trainer's stderr. Nothing here waits for whoever reads it: a pipe that nobody empties, or a
// terminal that was stopped, costs the lines that find no room, which are counted.
//
// Owner: the session. Thread rule: Say() from any thread; the others from one at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>

namespace ikkuna::probe {

class Notices {
 public:
  // Lines that wait; beyond it they are counted and left out.
  static constexpr size_t kMaxBytes = 64 << 10;

  // Puts a line behind those that wait; "ikkuna: " goes before it.
  void Say(std::string_view text);
  // Prints what can be printed now.
  void Print();
  // The same at the end, when nobody will print the rest: waits for the reader at most so long.
  void PrintLast(int wait_ms);

 private:
  std::mutex mutex_;
  // Guarded by mutex_.
  std::string waiting_;
  uint64_t left_out_ = 0;
};

// Where there is no session: prints the line if that goes without waiting, from the calling thread.
void PrintNow(std::string_view text);

// Writes to a descriptor without waiting, whatever its own flags are, and without a signal. Returns how much was
// written.
size_t WriteWithoutWaiting(int fd, std::string_view bytes);

}  // namespace ikkuna::probe
