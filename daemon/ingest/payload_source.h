// PayloadSource: where the bytes of whole tensors lie, and how they come within reach and are given back.
//
// One source for each space a producer uses; the host arena's is below. A source for another space (a device pool)
// waits for its event, brings the bytes into reach and gives bytes and event back through CTL. Owner: the Drain of one
// producer. Thread rule: the producer's ingest thread only.
#pragma once

#include <cstdint>

#include "shared/base/result.h"
#include "shared/codes.h"
#include "shared/ctl.h"
#include "shared/pub.h"

namespace ikkuna::ingest {

// Bytes within reach until the message is released.
struct PayloadView {
  const unsigned char* data = nullptr;
  uint64_t bytes = 0;
};

class PayloadSource {
 public:
  virtual ~PayloadSource() = default;
  virtual Space space() const = 0;

  // A registry entry of the producer, before any message that names it: pools, events. kCorrupt: quarantine.
  virtual Status AddEntry(const shm::RegistryEntry& entry) = 0;
  // False: the producer's own work on the bytes is still under way; asked again later. Never waits.
  virtual bool Ready(const shm::Message& message) = 0;
  // Only when Ready. kCorrupt: what the message names does not exist or reaches out of it.
  virtual Result<PayloadView> Resolve(const shm::Message& message) = 0;
  // We no longer use the message's bytes, nor its event. Called once a message, in the order of the ring.
  virtual void Release(const shm::Message& message) = 0;
  // Makes the releases visible to the producer.
  virtual void PublishHeads(shm::CtlWriter& ctl) = 0;
};

// Tensors in PUB's own arena: there when the record is. The arena's head advances together with the ring's, in Drain.
class HostArenaSource : public PayloadSource {
 public:
  Space space() const override { return Space::kHostArena; }
  Status AddEntry(const shm::RegistryEntry&) override { return {}; }
  bool Ready(const shm::Message&) override { return true; }
  Result<PayloadView> Resolve(const shm::Message& message) override {
    return PayloadView{message.payload, message.payload_bytes};
  }
  void Release(const shm::Message&) override {}
  void PublishHeads(shm::CtlWriter&) override {}
};

}  // namespace ikkuna::ingest
