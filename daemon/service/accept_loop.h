// AcceptLoop: a thread that takes connections from listening sockets.
//
// Owner: UnixListener, Doors. Thread rule: Start and Stop from one thread; `accepted` is called from the loop's own.
#pragma once

#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "shared/base/result.h"
#include "shared/base/unique_fd.h"

namespace ikkuna::service {

class AcceptLoop {
 public:
  // `listening` are non-blocking sockets that listen. `accepted` gets connected, non-blocking ones; what it throws
  // costs that connection alone.
  static Result<std::unique_ptr<AcceptLoop>> Start(std::vector<UniqueFd> listening,
                                                   std::function<void(UniqueFd)> accepted);
  // Ends the thread and closes the sockets. No `accepted` after it.
  void Stop();
  ~AcceptLoop() { Stop(); }
  AcceptLoop(const AcceptLoop&) = delete;
  AcceptLoop& operator=(const AcceptLoop&) = delete;

 private:
  AcceptLoop() = default;
  void Run();
  // False: there was none.
  bool AcceptOne(int listening_fd);

  // Constant after Start.
  std::vector<UniqueFd> listening_;
  std::function<void(UniqueFd)> accepted_;
  UniqueFd stop_fd_;  // eventfd

  std::thread thread_;
};

}  // namespace ikkuna::service
