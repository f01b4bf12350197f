// FakePoolSource: a payload source for the space of device pools, with memory of this process in the device's place.
//
// As a real one it learns of pool and events from the registry, waits for the record's event, and gives back bytes and
// events first in, first out.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "daemon/ingest/payload_source.h"

namespace ikkuna::ingest {

constexpr uint32_t kPoolId = 1;
constexpr uint64_t kPoolBytes = 1024;

// What a device would be: memory that is not in PUB, and events that complete when the device says so (from any
// thread).
class FakeDevice {
 public:
  std::array<unsigned char, kPoolBytes> pool{};
  void Complete(uint32_t event) { completed_.fetch_or(uint64_t{1} << event); }
  bool IsComplete(uint32_t event) const { return event < 64 && (completed_.load() >> event & 1) != 0; }

 private:
  std::atomic<uint64_t> completed_{0};
};

class FakePoolSource : public PayloadSource {
 public:
  explicit FakePoolSource(FakeDevice& device) : device_(device) {}
  Space space() const override { return Space::kDevicePool; }
  Status AddEntry(const shm::RegistryEntry& entry) override {
    if (entry.type == shm::EntryType::kDevicePool) pools_[entry.id] = entry.value;
    if (entry.type == shm::EntryType::kDeviceEvent) events_.insert(entry.id);
    return {};
  }
  bool Ready(const shm::Message& message) override {
    ++asked_;
    return device_.IsComplete(message.record.payload.event);
  }
  Result<PayloadView> Resolve(const shm::Message& message) override {
    const shm::PayloadRef& ref = message.record.payload;
    const auto pool = pools_.find(ref.device);
    if (pool == pools_.end()) return Error{ErrorCode::kCorrupt, "the record names a pool that was never registered"};
    if (events_.count(ref.event) == 0) return Error{ErrorCode::kCorrupt, "the record names an unknown event"};
    const uint64_t offset = ref.position % pool->second;
    if (ref.bytes > pool->second - offset) return Error{ErrorCode::kCorrupt, "the record reaches out of its pool"};
    return PayloadView{device_.pool.data() + offset, ref.bytes};
  }
  void Release(const shm::Message& message) override {
    const shm::PayloadRef& ref = message.record.payload;
    heads_.pool_head = ref.position + (ref.bytes + 63) / 64 * 64;
    ++heads_.event_head;
    released_.push_back(message.record.seq);
  }
  void PublishHeads(shm::CtlWriter& ctl) override { ctl.SetPoolHeads(kPoolId, heads_); }

  int asked() const { return asked_; }
  const std::vector<uint64_t>& released() const { return released_; }

 private:
  FakeDevice& device_;
  std::map<uint32_t, uint64_t> pools_;
  std::set<uint32_t> events_;
  shm::PoolHeads heads_;
  int asked_ = 0;
  std::vector<uint64_t> released_;
};

// The registry entries of one pool with events 1 to 4.
inline void RegisterPool(shm::PubWriter& writer) {
  shm::RegistryEntry pool;
  pool.type = shm::EntryType::kDevicePool;
  pool.id = kPoolId;
  pool.value = kPoolBytes;
  pool.name = "GPU-0";
  pool.second = std::string(64, 'h');
  EXPECT_TRUE(writer.Append(pool));
  for (uint32_t id = 1; id <= 4; ++id) {
    shm::RegistryEntry event;
    event.type = shm::EntryType::kDeviceEvent;
    event.id = id;
    event.parent = kPoolId;
    event.second = std::string(64, 'e');
    EXPECT_TRUE(writer.Append(event));
  }
}

}  // namespace ikkuna::ingest
