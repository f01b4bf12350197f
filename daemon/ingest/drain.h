// Drain: takes records out of one producer's ring, in order, brings their payloads within reach, hands them on, and
// frees ring slots and payload bytes behind itself.
//
// A ring slot is free once its record is copied. A message whose payload is not ready on its device waits in a queue of
// ours, with all that come after it, so that order holds and the ring goes on being copied; one whose bytes come late
// waits alone (late_room.h). Bytes are free once `handle` returned.
// Owner: ProducerSession. Thread rule: the producer's ingest thread only.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "daemon/ingest/late_room.h"
#include "daemon/ingest/payload_source.h"
#include "shared/base/result.h"
#include "shared/ctl.h"
#include "shared/pub.h"

namespace ikkuna::ingest {

class Drain {
 public:
  // A ring of the default size; beyond it copying stops and the producer drops as ring_full.
  static constexpr size_t kWaitingMax = shm::kDefaultRingSlots;
  static constexpr uint64_t kRunNs = 50'000'000;
  // The producer sees freed places after so many records or bytes at the latest: a fraction of ring and arena, and rare
  // enough that the heads' cache line does not travel for each record.
  static constexpr uint64_t kRecordsPerHead = 64;
  static constexpr uint64_t kBytesPerHead = 1 << 20;
  static constexpr uint64_t kHeadsPerLateRing = 8;  // at least

  // Records up to `skip_through` (a seq) were handled by an earlier session: they are passed over. Up to
  // `counted_through` the voids and what was unready are counted already. `unready_ns`: how long bytes may come late.
  // `view` stands where the probe's last session ended.
  Drain(shm::PubView& view, shm::CtlWriter& ctl, std::vector<std::unique_ptr<PayloadSource>> sources,
        uint64_t skip_through, uint64_t counted_through, uint64_t unready_ns,
        std::function<void(const shm::Message&)> handle);

  Status AddEntries(const std::vector<shm::RegistryEntry>& entries);

  // Takes what is committed, up to `records_max` records, for some 50 ms and not beyond ring position `end`. How many
  // were taken or handled: 0 when there is nothing to do now. kCorrupt: the producer broke the format; do not call
  // again.
  Result<uint64_t> Run(uint64_t records_max, uint64_t end);
  // After the producer's death: passes over reserved slots before the next committed one. How many.
  uint64_t SkipHole();
  // Gives up on messages whose payload is not ready. How many.
  uint64_t AbandonWaiting();

  // Nothing is waited for any more that comes late: what is not ready, or not handled by `until_ns`, is given up.
  void FinishLate(uint64_t until_ns) { late_.Finish(until_ns); }

  // Records handed to `handle`, voids, and what was given up.
  uint64_t handled() const { return handled_ + late_.handled(); }
  uint64_t voids() const { return voids_; }  // records that the probe could not finish: there is nothing in them
  uint64_t unready() const { return late_.unready(); }  // records whose bytes never came
  uint64_t crowded() const { return late_.crowded(); }  // records whose bytes had not come when too many waited
  // All up to here was handed on, passed over, void, or given up. What overtook a message that waits is not in it,
  // though counted: a daemon that is killed then may have its voids and misses counted once more.
  uint64_t read_seq() const { return std::min(read_seq_, late_.first_seq() - 1); }
  // Of what waits for late bytes; the greatest there is: nothing does.
  uint64_t first_late_seq() const { return late_.first_seq(); }
  uint64_t waiting() const { return waiting_.size(); }
  size_t late_waiting() const { return late_.waiting(); }
  uint64_t position() const { return view_.ring_position(); }

 private:
  struct Waiting {
    shm::Message message;
    uint64_t arena_end;
    bool skipped;
  };
  PayloadSource* SourceOf(const shm::Message& message) const;
  Result<bool> TryFinish(shm::Message& message, bool skipped);
  void HandOn(const shm::Message& message, bool skipped);
  Result<uint64_t> RunWaiting();
  Status Take(shm::Message message);
  void FreeRead();
  bool MayGoOn();
  void PublishHeadsSometimes();
  void PublishHeads();

  // Constant after construction.
  shm::PubView& view_;
  shm::CtlWriter& ctl_;
  const std::vector<std::unique_ptr<PayloadSource>> sources_;
  const uint64_t skip_through_;
  const uint64_t counted_through_;
  const std::function<void(const shm::Message&)> handle_;

  LateRoom late_;
  std::deque<Waiting> waiting_;
  uint64_t handled_ = 0;
  uint64_t voids_ = 0;
  uint64_t read_seq_ = 0;
  uint64_t run_until_ns_ = 0;
  uint64_t arena_head_;       // arena bytes before it are no longer used
  const uint64_t late_step_;  // late bytes that are freed without being published
  shm::Heads published_;      // heads the producer can see
};

}  // namespace ikkuna::ingest
