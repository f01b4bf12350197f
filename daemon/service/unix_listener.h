// UnixListener: a Unix stream socket that lets in only the users it was told of, by the kernel's word.
//
// Owner: Server. Thread rule: Start and Stop from one thread; `accepted` is called from the listener's own.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "shared/base/result.h"
#include "shared/base/unique_fd.h"

namespace ikkuna::service {

class UnixListener {
 public:
  // Replaces a socket that nobody listens on. `accepted` gets connected, non-blocking sockets of our own user and of
  // `allow_uids`; the others are closed. Errors: kAlreadyExists (somebody listens there), kInvalidArgument (path too
  // long).
  static Result<std::unique_ptr<UnixListener>> Start(const std::string& path, const std::vector<uid_t>& allow_uids,
                                                     std::function<void(UniqueFd)> accepted);
  // Ends the thread and removes the socket. No `accepted` after it.
  void Stop();
  ~UnixListener() { Stop(); }
  UnixListener(const UnixListener&) = delete;
  UnixListener& operator=(const UnixListener&) = delete;

 private:
  UnixListener() = default;
  void Run();
  bool MayConnect(int socket_fd) const;

  // Constant after Start.
  std::string path_;
  std::vector<uid_t> uids_;
  std::function<void(UniqueFd)> accepted_;
  UniqueFd listen_fd_;
  UniqueFd stop_fd_;  // eventfd

  std::thread thread_;
};

}  // namespace ikkuna::service
