#include "daemon/service/keep_grpc.h"

#include <grpc/grpc.h>

#include <mutex>

namespace ikkuna::service {

void KeepGrpc() {
  static std::once_flag once;
  std::call_once(once, grpc_init);
}

}  // namespace ikkuna::service
