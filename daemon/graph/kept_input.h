// KeptInput: an input that owns what it refers to, so that it can wait: for the end of its step, for the other inputs
// of its bundle, for a thread of the pool. Bytes of tensors are copies within the memory budget.
//
// Owner: a frame, then the work that is made of it. Thread rule: one thread at a time; a KeptPayload is constant.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "daemon/graph/memory_budget.h"
#include "daemon/graph/slots.h"
#include "metrics/subscriber.h"
#include "metrics/value.h"
#include "shared/pub.h"

namespace ikkuna::graph {

// The tensor of a message; false when it has none in host memory (statistics at the source, a device).
bool ViewOf(const shm::Message& message, metrics::TensorView& view);
// Statistics of a message, given or computed; false when it has none.
bool StatsOf(const shm::Message& message, TensorStats& stats);
TensorStats StatsOfNumber(double number);

// A copy of a tensor.
class KeptPayload {
 public:
  // Null: no room in the budget.
  static std::shared_ptr<const KeptPayload> Copy(const metrics::TensorView& view, MemoryBudget& budget);
  const metrics::TensorView& view() const { return view_; }
  uint64_t bytes() const { return room_.bytes(); }

 private:
  MemoryBudget::Reservation room_;
  std::vector<int64_t> sizes_;
  std::unique_ptr<unsigned char[]> data_;
  metrics::TensorView view_;
};

struct KeptInput {
  uint32_t index = 0;  // which of the subscriber's inputs
  Kind kind = Kind::kInvalid;
  const Slot* slot = nullptr;  // the scene's slots outlive what is kept
  uint64_t seq = 0;
  uint32_t pass = 0;
  uint16_t call = 0;
  uint16_t flags = 0;
  bool wide = false;      // Precision::kDouble
  bool withheld = false;  // some of it was dropped, or cannot be read
  bool unasked = false;   // its statistics lack what the subscriber needs
  double number = 0;      // a scalar, or the number of a topic
  TensorStats stats{};
  std::string text;
  std::shared_ptr<const Value> value;          // of a topic that is no number
  std::shared_ptr<const KeptPayload> payload;  // of a message
};

// Inputs of one call, as a subscriber sees them; views of the kept ones.
class InputList {
 public:
  // `about`: the subject of all of them; null: each has its own.
  void Build(std::span<const KeptInput> kept, metrics::Content content, const Slot* about = nullptr);
  std::span<const metrics::Input> inputs() const { return inputs_; }

 private:
  std::vector<metrics::Input> inputs_;
  std::vector<metrics::Payload> payloads_;
  std::vector<TensorStats> stats_;
  std::vector<Value> numbers_;
};

}  // namespace ikkuna::graph
