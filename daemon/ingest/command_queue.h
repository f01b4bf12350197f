// CommandQueue: the commands of one session, from whoever asks to the producer's ring of commands.
//
// The ring has 64 places; what does not fit waits here. Commands are taken in order, so a place in that order (a ticket,
// from 1) tells whether one was. Owner: ProducerSession. Thread rule: Push and taken() from any thread, the rest on the
// ingest thread.
#pragma once

#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <vector>

#include "shared/base/result.h"
#include "shared/ctl.h"
#include "shared/layout.h"

namespace ikkuna::ingest {

class CommandQueue {
 public:
  static constexpr size_t kWaitingMax = 65'536;  // a freeze of every module of the largest model
  static constexpr size_t kNamedMax = 64;        // groups whose lateness can be told by name

  // All or none; `what` names them where they come too late. Returns the ticket of the last.
  Result<uint64_t> Push(const std::vector<shm::Command>& commands, const std::string& what);
  // Commands up to this ticket were taken by the producer.
  uint64_t taken() const;

  void Send(shm::CtlWriter& ctl, const shm::PubStatus& status);
  // What the producer says that it took too late since the last call; empty: nothing.
  std::string TakeLate(const shm::PubStatus& status);

 private:
  struct Group {
    uint64_t last;  // ticket
    std::string what;
  };
  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::deque<shm::Command> waiting_;
  std::deque<Group> groups_;
  uint64_t pushed_ = 0;  // tickets given
  uint64_t taken_ = 0;   // tickets
  // Ingest thread only.
  uint64_t sent_ = 0;       // tickets
  uint64_t base_ = 0;       // a command's number is its ticket plus this: earlier sessions had those before
  uint64_t late_told_ = 0;  // number
};

}  // namespace ikkuna::ingest
