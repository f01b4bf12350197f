// UnixListener: a Unix stream socket that knows, by the kernel's word, which user connects.
//
// Owner: Doors. Thread rule: Start, OpenToOthers and Stop from one thread; `accepted` is called from the listener's
// own.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>

#include "daemon/service/accept_loop.h"
#include "shared/base/result.h"
#include "shared/base/unique_fd.h"

namespace ikkuna::service {

class UnixListener {
 public:
  // Replaces a socket that nobody listens on. `accepted` gets connected, non-blocking sockets and the user who
  // connected each, whoever that is. Errors: kAlreadyExists (somebody listens there), kInvalidArgument (path too long).
  static Result<std::unique_ptr<UnixListener>> Start(const std::string& path, bool open_to_others,
                                                     std::function<void(UniqueFd, uid_t)> accepted);
  // Whether other users may try to connect: the mode of the socket. Who gets in is for `accepted` to decide.
  Status OpenToOthers(bool open);
  // Ends the thread and removes the socket. No `accepted` after it.
  void Stop();
  ~UnixListener() { Stop(); }
  UnixListener(const UnixListener&) = delete;
  UnixListener& operator=(const UnixListener&) = delete;

 private:
  UnixListener() = default;

  std::string path_;  // constant after Start
  std::unique_ptr<AcceptLoop> loop_;
};

}  // namespace ikkuna::service
