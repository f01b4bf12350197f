#include "probe/core/array.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>

#include "shared/base/half.h"
#include "shared/base/stream_copy.h"
#include "shared/stats/merge.h"
#include "shared/stats/stats_pass.h"

namespace ikkuna::probe {

namespace {

struct Dim {
  int64_t size, stride;
};

// Elements of an array in some order: all of `dims`, the last one fastest. Neighbours that are one row are one.
struct Walk {
  const unsigned char* begin = nullptr;
  int ndim = 0;  // 0: one element
  std::array<Dim, kMaxArrayDims> dims;  // the first ndim hold

  void Append(Dim dim) {
    if (dim.size == 1) return;
    if (ndim > 0 && dims[static_cast<size_t>(ndim - 1)].stride == dim.stride * dim.size) {
      Dim& outer = dims[static_cast<size_t>(ndim - 1)];
      outer = {outer.size * dim.size, dim.stride};
      return;
    }
    dims[static_cast<size_t>(ndim++)] = dim;
  }
  Dim last() const { return ndim == 0 ? Dim{1, 1} : dims[static_cast<size_t>(ndim - 1)]; }
  bool IsOneRow() const { return ndim == 0 || (ndim == 1 && dims[0].stride == 1); }
};

int64_t StrideOf(const Array& array, int dim) {
  if (array.strides != nullptr) return array.strides[dim];
  int64_t stride = 1;
  for (int i = dim + 1; i < array.ndim; ++i) stride *= array.sizes[i];
  return stride;
}

bool IsDense(const Array& array) {
  if (array.strides == nullptr) return true;
  int64_t dense = 1;
  for (int i = array.ndim - 1; i >= 0; --i) {
    if (array.sizes[i] != 1 && array.strides[i] != dense) return false;
    dense *= array.sizes[i];
  }
  return true;
}

// Of an array that has elements.
Walk RowMajor(const Array& array) {
  Walk walk;
  walk.begin = static_cast<const unsigned char*>(array.data);
  int64_t dense = 1;
  std::array<int64_t, kMaxArrayDims> strides;
  for (int i = array.ndim - 1; i >= 0; --i) {
    strides[static_cast<size_t>(i)] = array.strides != nullptr ? array.strides[i] : dense;
    dense *= array.sizes[i];
  }
  for (int i = 0; i < array.ndim; ++i) walk.Append({array.sizes[i], strides[static_cast<size_t>(i)]});
  return walk;
}

// In the order in which they lie, or nearly.
Walk AsItLies(const Array& array) {
  Walk dense = RowMajor(array);
  if (dense.IsOneRow()) return dense;
  Walk walk;
  walk.begin = dense.begin;
  const auto element = static_cast<int64_t>(DTypeBytes(array.dtype));
  for (int i = 0; i < dense.ndim; ++i) {
    Dim& dim = dense.dims[static_cast<size_t>(i)];
    if (dim.stride >= 0) continue;
    walk.begin += (dim.size - 1) * dim.stride * element;
    dim.stride = -dim.stride;
  }
  std::stable_sort(dense.dims.begin(), dense.dims.begin() + dense.ndim,
                   [](const Dim& a, const Dim& b) { return a.stride > b.stride; });
  for (int i = 0; i < dense.ndim; ++i) walk.Append(dense.dims[static_cast<size_t>(i)]);
  return walk;
}

// The rows of a walk one after the other: the elements of its last dimension.
class Rows {
 public:
  Rows(const Walk& walk, size_t element_bytes)
      : walk_(walk), element_(static_cast<int64_t>(element_bytes)), at_(walk.begin), outer_(std::max(0, walk.ndim - 1)) {
    std::fill_n(index_.begin(), outer_, 0);
  }
  const unsigned char* at() const { return at_; }
  // False: there are no more.
  bool Next() {
    for (int i = outer_ - 1; i >= 0; --i) {
      const auto d = static_cast<size_t>(i);
      const Dim& dim = walk_.dims[d];
      at_ += dim.stride * element_;
      if (++index_[d] < dim.size) return true;
      at_ -= dim.size * dim.stride * element_;
      index_[d] = 0;
    }
    return false;
  }

 private:
  const Walk& walk_;
  const int64_t element_;
  const unsigned char* at_;
  const int outer_;
  std::array<int64_t, kMaxArrayDims> index_;
};

template <typename T>
void GatherAs(unsigned char* to, const unsigned char* from, size_t n, int64_t stride) {
  for (size_t i = 0; i < n; ++i) {
    std::memcpy(to + i * sizeof(T), from, sizeof(T));
    from += stride * static_cast<int64_t>(sizeof(T));
  }
}

void Gather(unsigned char* to, const unsigned char* from, size_t n, int64_t stride, size_t element_bytes) {
  if (stride == 1) {
    std::memcpy(to, from, n * element_bytes);
    return;
  }
  switch (element_bytes) {
    case 1:
      return GatherAs<uint8_t>(to, from, n, stride);
    case 2:
      return GatherAs<uint16_t>(to, from, n, stride);
    case 4:
      return GatherAs<uint32_t>(to, from, n, stride);
    default:
      return GatherAs<uint64_t>(to, from, n, stride);
  }
}

// Calls `take(bytes, n)` for all elements in the walk's order, gathered in pieces of one buffer; long rows as they lie.
constexpr size_t kBufferBytes = 16 << 10;
constexpr size_t kLongRow = 512;  // a statistics pass over fewer elements costs more than gathering them

template <typename Take>
void ForPieces(const Walk& walk, size_t element_bytes, Take&& take) {
  const Dim row = walk.last();
  Rows rows(walk, element_bytes);
  if (row.stride == 1 && (static_cast<size_t>(row.size) >= kLongRow || walk.IsOneRow())) {
    do {
      take(rows.at(), static_cast<size_t>(row.size));
    } while (rows.Next());
    return;
  }
  alignas(64) unsigned char buffer[kBufferBytes];
  const size_t capacity = kBufferBytes / element_bytes;
  size_t held = 0;
  do {
    const unsigned char* from = rows.at();
    for (int64_t left = row.size; left > 0;) {
      const size_t n = std::min(static_cast<size_t>(left), capacity - held);
      Gather(buffer + held * element_bytes, from, n, row.stride, element_bytes);
      from += static_cast<int64_t>(n * element_bytes) * row.stride;
      left -= static_cast<int64_t>(n);
      held += n;
      if (held < capacity) continue;
      take(buffer, held);
      held = 0;
    }
  } while (rows.Next());
  if (held != 0) take(buffer, held);
}

// Pieces of one size of two walks of one shape.
template <typename Take>
void ForPiecesOfBoth(const Array& a, const Array& b, Take&& take) {
  if (IsDense(a) && IsDense(b)) {
    take(static_cast<const unsigned char*>(a.data), static_cast<const unsigned char*>(b.data), ElementsOf(a));
    return;
  }
  const size_t element = DTypeBytes(a.dtype);
  const Walk walk_a = RowMajor(a), walk_b = RowMajor(b);
  // The gathering of one drives that of the other: both buffers fill at the same places.
  alignas(64) unsigned char buffer[kBufferBytes];
  const size_t capacity = kBufferBytes / element;
  const Dim row = walk_b.last();
  Rows rows(walk_b, element);
  int64_t in_row = 0;
  const auto next = [&](size_t n) {
    for (size_t held = 0; held < n;) {
      const size_t some = std::min(n - held, static_cast<size_t>(row.size - in_row));
      Gather(buffer + held * element, rows.at() + in_row * row.stride * static_cast<int64_t>(element), some, row.stride,
             element);
      held += some;
      in_row += static_cast<int64_t>(some);
      if (in_row < row.size) continue;
      in_row = 0;
      rows.Next();
    }
  };
  ForPieces(walk_a, element, [&](const unsigned char* piece, size_t n) {
    for (size_t done = 0; done < n; done += capacity) {
      const size_t some = std::min(capacity, n - done);
      next(some);
      take(piece + done * element, buffer, some);
    }
  });
}

bool IsFloat(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF64 || dtype == DType::kF16 || dtype == DType::kBF16;
}

// Of elements that count `k` times.
TensorStats Scaled(TensorStats s, double k) {
  if (k == 1) return s;
  s.shift *= k;
  s.sum1 *= k;
  s.sum2 *= k * k;
  s.sum3 *= k * k * k;
  s.sum4 *= k * k * (k * k);
  s.abs_sum *= std::fabs(k);
  s.square_sum *= k * k;
  const bool bounds = Has(s, kMomentBounds) && s.finite_n != 0;
  if (bounds) {
    s.min *= k;
    s.max *= k;
  }
  if (k > 0) return s;
  if (bounds) std::swap(s.min, s.max);
  std::swap(s.positive_infinities, s.negative_infinities);
  return s;
}

// How elements of each type are subtracted, negated and scaled.
template <typename T>
struct Plain {
  using Stored = T;
  static T Difference(T a, T b) {
    if constexpr (std::is_integral_v<T>) {
      using U = std::make_unsigned_t<T>;
      return static_cast<T>(static_cast<U>(static_cast<U>(a) - static_cast<U>(b)));
    } else {
      return a - b;
    }
  }
  static T Negated(T x) { return Difference(T{0}, x); }
  static T Times(T x, double k) { return static_cast<T>(static_cast<double>(x) * k); }
};
template <float (*ToFloat)(uint16_t), uint16_t (*FromFloat)(float)>
struct Short {
  using Stored = uint16_t;
  static uint16_t Difference(uint16_t a, uint16_t b) { return FromFloat(ToFloat(a) - ToFloat(b)); }
  static uint16_t Negated(uint16_t x) { return x ^ 0x8000; }
  static float Times(uint16_t x, double k) { return static_cast<float>(ToFloat(x) * k); }
};
struct Bool {
  using Stored = uint8_t;
  static uint8_t Difference(uint8_t a, uint8_t b) { return (a != 0) != (b != 0) ? 1 : 0; }
  static uint8_t Negated(uint8_t x) { return x; }
  static uint8_t Times(uint8_t x, double) { return x; }
};

template <typename Work>
void WithType(DType dtype, Work&& work) {
  switch (dtype) {
    case DType::kF32:
      return work(Plain<float>{});
    case DType::kF64:
      return work(Plain<double>{});
    case DType::kF16:
      return work(Short<HalfToFloat, FloatToHalf>{});
    case DType::kBF16:
      return work(Short<BrainToFloat, FloatToBrain>{});
    case DType::kI8:
      return work(Plain<int8_t>{});
    case DType::kU8:
      return work(Plain<uint8_t>{});
    case DType::kI16:
      return work(Plain<int16_t>{});
    case DType::kI32:
      return work(Plain<int32_t>{});
    case DType::kI64:
      return work(Plain<int64_t>{});
    case DType::kBool:
      return work(Bool{});
    case DType::kInvalid:
      return;
  }
}

template <typename T>
T LoadAt(const unsigned char* from, size_t i) {
  T value;
  std::memcpy(&value, from + i * sizeof(T), sizeof(T));
  return value;
}
template <typename T>
void StoreAt(unsigned char* to, size_t i, T value) {
  std::memcpy(to + i * sizeof(T), &value, sizeof(T));
}

// Writes an element as a copy has it.
template <typename Type>
void StoreScaled(unsigned char* to, size_t i, typename Type::Stored x, double k) {
  if (k == 1) {
    StoreAt(to, i, x);
  } else if (k == -1) {
    StoreAt(to, i, Type::Negated(x));
  } else {
    StoreAt(to, i, Type::Times(x, k));
  }
}

constexpr int64_t kMaxReach = int64_t{1} << 47;  // bytes, or elements: beyond it nothing is an address

std::string Dimension(int dim) { return "dimension " + std::to_string(dim); }

}  // namespace

std::string WhyUnreadable(const Array& array) {
  if (!IsKnownDType(static_cast<uint8_t>(array.dtype))) return "its data type is none of those in ikkuna/probe.h";
  if (array.ndim < 0 || array.ndim > kMaxArrayDims) {
    return "it has " + std::to_string(array.ndim) + " dimensions; 0 to " + std::to_string(kMaxArrayDims) + " can be given";
  }
  if (array.ndim > 0 && array.sizes == nullptr) return "its sizes are not given";
  bool none = false;
  int64_t elements = 1;  // as if no dimension were empty: shapes are multiplied in parts, too
  for (int i = 0; i < array.ndim; ++i) {
    if (array.sizes[i] < 0) return Dimension(i) + " has the size " + std::to_string(array.sizes[i]);
    none |= array.sizes[i] == 0;
    if (__builtin_mul_overflow(elements, std::max<int64_t>(array.sizes[i], 1), &elements) || elements > kMaxReach) {
      return "its sizes multiply to more than there is memory";
    }
  }
  const double scale = std::fabs(array.scale);
  if (!(scale >= 0x1p-100 && scale <= 0x1p100)) {
    return "its scale is " + std::to_string(array.scale) + ": give one from 2^-100 to 2^100, of either sign";
  }
  if (array.scale != 1 && !IsFloat(array.dtype)) return "only floats can be scaled: give integers with the scale 1";
  if (none) return {};
  if (array.data == nullptr) return "it has elements and no data";
  const auto element = static_cast<int64_t>(DTypeBytes(array.dtype));
  int64_t reach = element;
  for (int i = 0; i < array.ndim; ++i) {
    int64_t bytes = 0;
    const int64_t stride = StrideOf(array, i);
    if (stride == INT64_MIN || __builtin_mul_overflow(array.sizes[i] - 1, std::abs(stride), &bytes) ||
        __builtin_mul_overflow(bytes, element, &bytes) || bytes > kMaxReach || (reach += bytes) > kMaxReach) {
      return "the stride of " + Dimension(i) + " leads beyond the address space; strides count elements, not bytes";
    }
  }
  return {};
}

std::string WhyNoDifference(const Array& now, const Array& before) {
  if (now.dtype != before.dtype) return "the two differ in their data type";
  if (now.ndim != before.ndim || !std::equal(now.sizes, now.sizes + now.ndim, before.sizes)) {
    return "the two differ in their sizes";
  }
  if (now.scale != before.scale) return "the two differ in their scale";
  return {};
}

uint64_t ElementsOf(const Array& array) {
  uint64_t elements = 1;
  for (int i = 0; i < array.ndim; ++i) elements *= static_cast<uint64_t>(array.sizes[i]);
  return elements;
}

TensorStats StatsOf(const Array& array, uint64_t moments) {
  StatsPass pass(moments);
  if (IsDense(array)) {
    pass.Add(array.data, array.dtype, ElementsOf(array));
  } else if (ElementsOf(array) != 0) {
    ForPieces(AsItLies(array), DTypeBytes(array.dtype),
              [&](const unsigned char* bytes, size_t n) { pass.Add(bytes, array.dtype, n); });
  }
  return Scaled(pass.Finish(), array.scale);
}

TensorStats StatsOfDifference(const Array& now, const Array& before, uint64_t moments) {
  StatsPass pass(moments);
  if (ElementsOf(now) != 0) {
    ForPiecesOfBoth(now, before, [&](const unsigned char* a, const unsigned char* b, size_t n) {
      pass.AddDifference(a, b, now.dtype, n);
    });
  }
  return Scaled(pass.Finish(), now.scale);
}

DType CopiedAs(const Array& array) {
  const bool scaled = std::fabs(array.scale) != 1;
  return scaled && DTypeBytes(array.dtype) == 2 ? DType::kF32 : array.dtype;
}

void CopyDense(const Array& array, unsigned char* to) {
  if (ElementsOf(array) == 0) return;
  const size_t element = DTypeBytes(array.dtype);
  if (IsDense(array) && array.scale == 1) return StreamCopy(to, array.data, ElementsOf(array) * element);
  WithType(array.dtype, [&]<typename Type>(Type) {
    ForPieces(RowMajor(array), element, [&](const unsigned char* bytes, size_t n) {
      if (array.scale == 1) std::memcpy(to, bytes, n * element);
      for (size_t i = 0; array.scale != 1 && i < n; ++i) {
        StoreScaled<Type>(to, i, LoadAt<typename Type::Stored>(bytes, i), array.scale);
      }
      to += n * DTypeBytes(CopiedAs(array));
    });
  });
}

void CopyDenseDifference(const Array& now, const Array& before, unsigned char* to) {
  if (ElementsOf(now) == 0) return;
  WithType(now.dtype, [&]<typename Type>(Type) {
    using Stored = typename Type::Stored;
    ForPiecesOfBoth(now, before, [&](const unsigned char* a, const unsigned char* b, size_t n) {
      for (size_t i = 0; i < n; ++i) {
        StoreScaled<Type>(to, i, Type::Difference(LoadAt<Stored>(a, i), LoadAt<Stored>(b, i)), now.scale);
      }
      to += n * DTypeBytes(CopiedAs(now));
    });
  });
}

namespace {

TensorShape ShapeOf(const Array& array) { return {CopiedAs(array), array.ndim, array.sizes}; }

// `copy` writes its bytes, `stats` gives its statistics: one of them is done.
template <typename Copy, typename Stats>
bool PublishAs(Session& session, const MessageHeader& header, const Want& want, const Array& array, Copy&& copy,
               Stats&& stats) {
  const uint64_t bytes = CopiedBytes(array);
  if (want.level == Level::kTensor && bytes != 0) {
    if (session.FitsArena(bytes)) return session.PublishTensor(header, ShapeOf(array), bytes, copy);
    session.NoteOversize(header.kind, bytes);
  }
  const TensorStats found = stats();
  // A scale may take a double beyond what a double can hold.
  if (array.scale != 1 && !ValidateStats(found).ok()) {
    session.CountFailed(header);
    return false;
  }
  return session.PublishSummary(header, ShapeOf(array), found);
}

}  // namespace

bool PublishArray(Session& session, const MessageHeader& header, const Want& want, const Array& array) {
  return PublishAs(
      session, header, want, array, [&](unsigned char* to) { CopyDense(array, to); },
      [&] { return StatsOf(array, want.moments); });
}

bool PublishDifference(Session& session, const MessageHeader& header, const Want& want, const Array& now,
                       const Array& before) {
  return PublishAs(
      session, header, want, now, [&](unsigned char* to) { CopyDenseDifference(now, before, to); },
      [&] { return StatsOfDifference(now, before, want.moments); });
}

}  // namespace ikkuna::probe
