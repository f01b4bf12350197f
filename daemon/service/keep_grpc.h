// KeepGrpc: gRPC stays up until the process ends. Thread rule: any thread, any number of times.
#pragma once

namespace ikkuna::service {

// The last user of gRPC that goes waits for a poller of its, which may sleep ten seconds where something was still to be
// sent: to a slow reader, or of a file whose import is refused. What it would free the end of the process frees as well.
void KeepGrpc();

}  // namespace ikkuna::service
