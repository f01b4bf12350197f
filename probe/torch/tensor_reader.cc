#include "probe/torch/tensor_reader.h"

#include <ATen/ATen.h>

#include "shared/base/stream_copy.h"
#include "shared/stats/stats_pass.h"

namespace ikkuna::torch_probe {

probe::TensorShape ShapeOf(const at::Tensor& tensor) {
  return {DTypeOf(tensor.scalar_type()), static_cast<int>(tensor.dim()), tensor.sizes().data()};
}

namespace {

// A tensor whose elements lie without gaps or overlaps, in any order of dimensions: statistics do not mind the order.
at::Tensor WithoutGaps(const at::Tensor& tensor) {
  at::Tensor plain = tensor.is_neg() ? tensor.resolve_neg() : tensor;
  return plain.is_non_overlapping_and_dense() ? plain : plain.contiguous();
}

TensorStats StatsOf(const at::Tensor& tensor) {
  const at::Tensor dense = WithoutGaps(tensor);
  return ComputeStats(dense.const_data_ptr(), DTypeOf(dense.scalar_type()), static_cast<size_t>(dense.numel()));
}

at::Tensor ArenaTensor(unsigned char* bytes, const at::Tensor& like) {
  return at::from_blob(bytes, like.sizes(), like.options().requires_grad(false));
}

}  // namespace

DType DTypeOf(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return DType::kF32;
    case at::kDouble:
      return DType::kF64;
    case at::kHalf:
      return DType::kF16;
    case at::kBFloat16:
      return DType::kBF16;
    case at::kChar:
      return DType::kI8;
    case at::kByte:
      return DType::kU8;
    case at::kShort:
      return DType::kI16;
    case at::kInt:
      return DType::kI32;
    case at::kLong:
      return DType::kI64;
    case at::kBool:
      return DType::kBool;
    default:
      return DType::kInvalid;
  }
}

// Sharded parameters are let go of by resizing their storage to nothing, while the tensor keeps its sizes.
static bool IsFreed(const at::Tensor& tensor) {
  if (tensor.numel() == 0) return false;
  int64_t last = tensor.storage_offset();
  for (int64_t d = 0; d < tensor.dim(); ++d) last += (tensor.size(d) - 1) * tensor.stride(d);
  return tensor.storage().nbytes() < static_cast<size_t>(last + 1) * tensor.itemsize();
}

std::string WhyUnreadable(const at::Tensor& tensor) {
  if (!tensor.defined()) return "undefined";
  if (!tensor.device().is_cpu()) return "on device " + tensor.device().str() + ", and only host tensors are read";
  if (tensor.layout() != at::kStrided) return "sparse or opaque layout";
  if (!tensor.has_storage()) return "without storage (a functorch or fake tensor)";
  if (IsFreed(tensor)) return "its storage was resized, and holds less than the tensor";
  if (DTypeOf(tensor.scalar_type()) == DType::kInvalid) {
    return std::string("data type ") + at::toString(tensor.scalar_type());
  }
  return {};
}

namespace {

// Whether the tensor goes as its bytes; else as its statistics, also where so many bytes can never go.
bool Travels(probe::Session& session, const probe::MessageHeader& header, Level level, uint64_t bytes) {
  if (level == Level::kSummary || bytes == 0) return false;
  if (session.FitsArena(bytes)) return true;
  session.NoteOversize(header.kind, bytes);
  return false;
}

// What reads a tensor before room is reserved for it, and may throw: then the message counts as failed.
template <typename Read>
auto ReadCounted(probe::Session& session, const probe::MessageHeader& header, Read&& read) {
  try {
    return read();
  } catch (...) {
    session.CountFailed(header);
    throw;
  }
}

}  // namespace

bool PublishTensor(probe::Session& session, const probe::MessageHeader& header, Level level, const at::Tensor& tensor) {
  const auto shape = ShapeOf(tensor);
  const uint64_t bytes = static_cast<uint64_t>(tensor.numel()) * DTypeBytes(shape.dtype);
  if (!Travels(session, header, level, bytes)) {
    return session.PublishSummary(header, shape, ReadCounted(session, header, [&] { return StatsOf(tensor); }));
  }
  // Whatever can throw (a copy that allocates) happens before room is reserved: a reservation is always committed.
  const at::Tensor source = ReadCounted(
      session, header, [&] { return tensor.is_neg() ? tensor.resolve_neg().contiguous() : tensor.contiguous(); });
  return session.PublishTensor(header, shape, bytes,
                               [&](unsigned char* payload) { StreamCopy(payload, source.const_data_ptr(), bytes); });
}

bool PublishDifference(probe::Session& session, const probe::MessageHeader& header, Level level, const at::Tensor& now,
                       const at::Tensor& kept) {
  const auto shape = ShapeOf(now);
  const auto n = static_cast<size_t>(now.numel());
  const uint64_t bytes = n * DTypeBytes(shape.dtype);
  const at::Tensor plain = ReadCounted(session, header, [&] { return now.contiguous(); });
  if (!Travels(session, header, level, bytes)) {
    StatsPass pass;
    pass.AddDifference(plain.const_data_ptr(), kept.const_data_ptr(), shape.dtype, n);
    return session.PublishSummary(header, shape, pass.Finish());
  }
  // Straight into the arena where nothing can throw; masks know no difference but their change.
  if (now.scalar_type() == at::kBool) return PublishTensor(session, header, level, plain.logical_xor(kept));
  return session.PublishTensor(header, shape, bytes, [&](unsigned char* payload) {
    at::Tensor room = ArenaTensor(payload, plain);
    at::sub_out(room, plain, kept);
  });
}

std::optional<double> ReadScalar(const at::Tensor& tensor) {
  if (!WhyUnreadable(tensor).empty() || tensor.numel() != 1) return std::nullopt;
  return tensor.item().toDouble();
}

}  // namespace ikkuna::torch_probe
