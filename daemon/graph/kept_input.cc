#include "daemon/graph/kept_input.h"

#include <cstring>
#include <new>
#include <utility>

#include "shared/stats/stats_pass.h"

namespace ikkuna::graph {

using metrics::Content;

bool ViewOf(const shm::Message& message, metrics::TensorView& view) {
  const shm::Record& record = message.record;
  switch (static_cast<RecordType>(record.type)) {
    case RecordType::kScalar:
      view = {&record.scalar, DType::kF64, {}, 1};
      return true;
    case RecordType::kTensor:
      view.dtype = static_cast<DType>(record.dtype);
      if (DTypeBytes(view.dtype) == 0) return false;
      view.elements = record.payload.bytes / DTypeBytes(view.dtype);
      view.data = message.payload;
      if (view.data == nullptr && view.elements != 0) return false;
      break;
    case RecordType::kSummary:  // a tensor without elements needs no bytes
      if (record.stats.n != 0) return false;
      view = {nullptr, static_cast<DType>(record.dtype), {}, 0};
      break;
    default:
      return false;
  }
  view.sizes = {record.sizes, record.ndim};
  return true;
}

bool StatsOf(const shm::Message& message, TensorStats& stats) {
  if (message.record.type == static_cast<uint8_t>(RecordType::kSummary)) {
    stats = message.record.stats;
    return true;
  }
  metrics::TensorView view;
  if (!ViewOf(message, view)) return false;
  stats = ComputeStats(view.data, view.dtype, view.elements);
  return true;
}

TensorStats StatsOfNumber(double number) { return ComputeStats(&number, DType::kF64, 1); }

std::shared_ptr<const KeptPayload> KeptPayload::Copy(const metrics::TensorView& view, MemoryBudget& budget) {
  const uint64_t bytes = view.elements * DTypeBytes(view.dtype);
  auto room = budget.Reserve(bytes);
  if (!room) return nullptr;
  auto kept = std::make_shared<KeptPayload>();
  kept->room_ = std::move(*room);
  kept->sizes_.assign(view.sizes.begin(), view.sizes.end());
  kept->view_ = {nullptr, view.dtype, kept->sizes_, view.elements};
  if (bytes != 0) {
    kept->data_.reset(new (std::nothrow) unsigned char[bytes]);
    if (!kept->data_) return nullptr;  // as if the budget were used up: the machine's memory is
    std::memcpy(kept->data_.get(), view.data, bytes);
    kept->view_.data = kept->data_.get();
  }
  return kept;
}

void InputList::Build(std::span<const KeptInput> kept, Content content, const Slot* about) {
  // Sized before anything points into them.
  inputs_.assign(kept.size(), {});
  payloads_.assign(content == Content::kTensor ? kept.size() : 0, {});
  stats_.assign(content == Content::kStatistics ? kept.size() : 0, {});
  numbers_.assign(content == Content::kValue ? kept.size() : 0, {});
  for (size_t i = 0; i < kept.size(); ++i) {
    const KeptInput& from = kept[i];
    const bool topic = from.kind == Kind::kInvalid;
    metrics::Input& input = inputs_[i];
    input.index = from.index;
    input.kind = from.kind;
    if (from.slot != nullptr) {
      input.subject = from.slot->subject;
      input.module = from.slot->module_name;
      input.param = from.slot->param_name;
    }
    if (about != nullptr) input.subject = about->subject;
    input.seq = from.seq;
    input.pass = from.pass;
    input.call = from.call;
    input.flags = from.flags;
    input.scalar = from.number;
    input.text = from.text;
    switch (content) {
      case Content::kStatistics:
        stats_[i] = topic ? StatsOfNumber(from.number) : from.stats;
        input.stats = &stats_[i];
        break;
      case Content::kTensor:
        if (from.payload) {
          payloads_[i] = {from.payload->view(), Space::kHostArena, -1, from.payload};
        } else {
          payloads_[i].view = {&from.number, DType::kF64, {}, 1};
        }
        input.payload = &payloads_[i];
        break;
      case Content::kValue:
        if (!from.value) numbers_[i] = from.number;
        input.value = from.value ? from.value.get() : &numbers_[i];
        break;
      case Content::kScalar:
      case Content::kText:
        break;
    }
  }
}

}  // namespace ikkuna::graph
