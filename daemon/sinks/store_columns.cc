#include "daemon/sinks/store_columns.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

namespace ikkuna::sinks {
namespace {

constexpr int kLevel = 1;  // noise dominates: higher levels cost time and gain percents

enum PlaneForm : uint8_t { kRaw = 0, kEqual = 1, kZstd = 2 };
enum Transform : uint8_t { kPlain = 0, kXor = 1 };

// Bits that an entropy coder needs for each byte of the plane, about. 8: noise.
double BitsOf(const unsigned char* plane, size_t size) {
  std::array<uint32_t, 256> counts{};
  for (size_t i = 0; i < size; ++i) ++counts[plane[i]];
  double sum = 0;
  for (uint32_t count : counts) {
    if (count > 1) sum += count * std::log2(static_cast<double>(count));
  }
  return std::log2(static_cast<double>(size)) - sum / static_cast<double>(size);
}

template <typename Word>
void Split(std::span<const Word> words, bool xored, unsigned char* planes) {
  const size_t n = words.size();
  Word before = 0;
  for (size_t i = 0; i < n; ++i) {
    const Word word = xored ? static_cast<Word>(words[i] ^ before) : words[i];
    before = words[i];
    for (size_t k = 0; k < sizeof(Word); ++k) planes[k * n + i] = static_cast<unsigned char>(word >> (8 * k));
  }
}

}  // namespace

std::string Pack(std::string_view bytes) {
  std::string packed(ZSTD_compressBound(bytes.size()), '\0');
  const size_t size = ZSTD_compress(packed.data(), packed.size(), bytes.data(), bytes.size(), kLevel);
  packed.resize(ZSTD_isError(size) ? 0 : size);
  return packed;
}

bool Unpack(std::string_view packed, size_t bytes_max, std::string* bytes) {
  const unsigned long long size = ZSTD_getFrameContentSize(packed.data(), packed.size());
  if (size == ZSTD_CONTENTSIZE_UNKNOWN || size == ZSTD_CONTENTSIZE_ERROR || size > bytes_max) return false;
  bytes->resize(size);
  return ZSTD_decompress(bytes->data(), bytes->size(), packed.data(), packed.size()) == size;
}

PlaneCoder::PlaneCoder() : compress_(ZSTD_createCCtx()), decompress_(ZSTD_createDCtx()) {}

void PlaneCoder::PutPlane(const unsigned char* plane, size_t size, ByteWriter& out) {
  if (std::all_of(plane, plane + size, [plane](unsigned char byte) { return byte == *plane; })) {
    out.Put<uint8_t>(kEqual);
    out.Put<uint8_t>(*plane);
    return;
  }
  // A sample of a long plane says enough, and what does not shrink is not worth zstd's time.
  if (BitsOf(plane, std::min<size_t>(size, 4096)) < 7.2) {
    packed_.resize(ZSTD_compressBound(size));
    const size_t packed = ZSTD_compressCCtx(compress_.get(), packed_.data(), packed_.size(), plane, size, kLevel);
    if (!ZSTD_isError(packed) && packed + 4 < size) {
      out.Put<uint8_t>(kZstd);
      out.PutVarint(packed);
      out.PutBytes(packed_.data(), packed);
      return;
    }
  }
  out.Put<uint8_t>(kRaw);
  out.PutBytes(plane, size);
}

template <typename Word>
void PlaneCoder::EncodeWords(std::span<const Word> words, ByteWriter& out) {
  if (words.empty()) return;
  const size_t n = words.size();
  planes_.resize(n * sizeof(Word));
  // The upper planes of the first values have exponents and signs: they decide which of the two will be smaller.
  const size_t looked = std::min<size_t>(n, 512);
  double bits[2] = {};
  for (const bool xored : {false, true}) {
    Split(words.first(looked), xored, planes_.data());
    for (size_t k = sizeof(Word) == 4 ? 1 : 4; k < sizeof(Word); ++k) bits[xored] += BitsOf(&planes_[k * looked], looked);
  }
  const bool xored = bits[1] < bits[0];
  out.Put<uint8_t>(xored ? kXor : kPlain);
  Split(words, xored, planes_.data());
  for (size_t k = 0; k < sizeof(Word); ++k) PutPlane(&planes_[k * n], n, out);
}

template <typename Word>
bool PlaneCoder::DecodeWords(ByteReader& in, std::span<Word> words) {
  if (words.empty()) return true;
  const size_t n = words.size();
  const auto transform = in.Get<uint8_t>();
  if (transform > kXor) return false;
  std::fill(words.begin(), words.end(), Word{0});
  for (size_t k = 0; k < sizeof(Word); ++k) {
    const unsigned char* plane = nullptr;
    switch (in.Get<uint8_t>()) {
      case kRaw: {
        const std::string_view raw = in.GetBytes(n);
        if (!in.ok()) return false;
        plane = reinterpret_cast<const unsigned char*>(raw.data());
        break;
      }
      case kEqual:
        planes_.assign(n, in.Get<uint8_t>());
        plane = planes_.data();
        break;
      case kZstd: {
        const std::string_view packed = in.GetText();
        planes_.resize(n);
        if (ZSTD_decompressDCtx(decompress_.get(), planes_.data(), n, packed.data(), packed.size()) != n) return false;
        plane = planes_.data();
        break;
      }
      default:
        return false;
    }
    if (!in.ok()) return false;
    for (size_t i = 0; i < n; ++i) words[i] |= static_cast<Word>(Word{plane[i]} << (8 * k));
  }
  if (transform == kXor) {
    for (size_t i = 1; i < n; ++i) words[i] ^= words[i - 1];
  }
  return true;
}

template <>
void PlaneCoder::Encode<float>(std::span<const float> values, ByteWriter& out) {
  std::vector<uint32_t> words(values.size());
  if (!words.empty()) std::memcpy(words.data(), values.data(), values.size_bytes());
  EncodeWords(std::span<const uint32_t>(words), out);
}
template <>
void PlaneCoder::Encode<double>(std::span<const double> values, ByteWriter& out) {
  std::vector<uint64_t> words(values.size());
  if (!words.empty()) std::memcpy(words.data(), values.data(), values.size_bytes());
  EncodeWords(std::span<const uint64_t>(words), out);
}
template <>
bool PlaneCoder::Decode<float>(ByteReader& in, std::span<float> values) {
  std::vector<uint32_t> words(values.size());
  if (!DecodeWords(in, std::span(words))) return false;
  if (!words.empty()) std::memcpy(values.data(), words.data(), words.size() * sizeof(uint32_t));
  return true;
}
template <>
bool PlaneCoder::Decode<double>(ByteReader& in, std::span<double> values) {
  std::vector<uint64_t> words(values.size());
  if (!DecodeWords(in, std::span(words))) return false;
  if (!words.empty()) std::memcpy(values.data(), words.data(), words.size() * sizeof(uint64_t));
  return true;
}

namespace {

uint64_t Field(const StepStamp& stamp, size_t column) {
  switch (column) {
    case 0:
      return stamp.step;
    case 1:
      return stamp.epoch;
    case 2:
      return static_cast<uint64_t>(stamp.unix_ns);
    case 3:
      return stamp.samples_seen;
    default:
      return stamp.flags;
  }
}

}  // namespace

std::string StampColumns::Encode(std::span<const StepStamp> stamps) {
  // All headers (21 bytes each) before all residuals.
  ByteWriter head, body;
  head.Put(static_cast<uint32_t>(stamps.size()));
  const size_t blocks = (stamps.size() + kBlock - 1) / kBlock;
  const size_t head_bytes = 4 + blocks * kColumns * 21;
  std::array<int64_t, kBlock> residuals;
  for (size_t begin = 0; begin < stamps.size(); begin += kBlock) {
    const size_t n = std::min(kBlock, stamps.size() - begin);
    for (size_t column = 0; column < kColumns; ++column) {
      const uint64_t first = Field(stamps[begin], column);
      const auto rise = static_cast<int64_t>(Field(stamps[begin + n - 1], column) - first);
      const uint64_t slope = n > 1 ? static_cast<uint64_t>(rise / static_cast<int64_t>(n - 1)) : 0;
      int64_t least = 0, most = 0;
      for (size_t i = 0; i < n; ++i) {
        residuals[i] = static_cast<int64_t>(Field(stamps[begin + i], column) - first - i * slope);
        least = std::min(least, residuals[i]);
        most = std::max(most, residuals[i]);
      }
      const uint64_t range = static_cast<uint64_t>(most) - static_cast<uint64_t>(least);
      const uint8_t width = range == 0 ? 0 : range <= 0xff ? 1 : range <= 0xffff ? 2 : range <= 0xffff'ffff ? 4 : 8;
      head.Put(first + static_cast<uint64_t>(least));
      head.Put(slope);
      head.Put(static_cast<uint32_t>(head_bytes + body.size()));
      head.Put(width);
      for (size_t i = 0; i < n; ++i) {
        const uint64_t residual = static_cast<uint64_t>(residuals[i]) - static_cast<uint64_t>(least);
        body.PutBytes(&residual, width);
      }
    }
  }
  head.PutBytes(body.bytes().data(), body.size());
  return std::move(head.bytes());
}

bool StampColumns::Parse(std::string blob, TimelineId timeline, StampColumns* columns) {
  columns->blob_ = std::move(blob);
  columns->timeline_ = timeline;
  ByteReader in(columns->blob_);
  const auto size = in.Get<uint32_t>();
  if (!in.ok() || size > kStampsMax) return false;
  columns->size_ = size;
  const size_t blocks = (size + kBlock - 1) / kBlock;
  columns->blocks_.clear();
  for (size_t i = 0; i < blocks * kColumns; ++i) {
    Block block{};
    block.base = in.Get<uint64_t>();
    block.slope = in.Get<uint64_t>();
    block.offset = in.Get<uint32_t>();
    block.width = in.Get<uint8_t>();
    const size_t n = std::min(kBlock, size - i / kColumns * kBlock);
    if (!in.ok() || block.width > 8 || block.offset + n * block.width > columns->blob_.size()) return false;
    columns->blocks_.push_back(block);
  }
  return true;
}

uint64_t StampColumns::Column(size_t column, size_t index) const {
  const Block& block = blocks_[index / kBlock * kColumns + column];
  const size_t i = index % kBlock;
  uint64_t residual = 0;
  std::memcpy(&residual, blob_.data() + block.offset + i * block.width, block.width);
  return block.base + i * block.slope + residual;
}

StepStamp StampColumns::at(size_t index) const {
  StepStamp stamp;
  stamp.timeline = timeline_;
  stamp.step = Column(0, index);
  stamp.epoch = static_cast<uint32_t>(Column(1, index));
  stamp.unix_ns = static_cast<int64_t>(Column(2, index));
  stamp.samples_seen = Column(3, index);
  stamp.flags = static_cast<uint16_t>(Column(4, index));
  return stamp;
}

}  // namespace ikkuna::sinks
