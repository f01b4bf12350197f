// Columns of the store's blobs: numbers as byte planes, what belongs to steps as residuals of a line.
//
// PlaneCoder. n values of 4 or 8 bytes become, if that makes them smaller, their XOR with the value before, and then
// as many planes as a value has bytes: plane k has byte k of every value. A plane is one of {raw, n equal bytes, zstd}.
// StampColumns. Each column in blocks of 512: base, slope and residuals of 0, 1, 2, 4 or 8 bytes, so that one stamp is
// read without its neighbours.
// Thread rule: a PlaneCoder by one thread at a time (it owns zstd's memory); StampColumns as a value.
#pragma once

#include <zstd.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/model/batch.h"
#include "daemon/sinks/store_bytes.h"

namespace ikkuna::sinks {

// zstd frames of known size. Unpack gives false where the bytes are no frame or hold more than `bytes_max`.
std::string Pack(std::string_view bytes);
bool Unpack(std::string_view packed, size_t bytes_max, std::string* bytes);

class PlaneCoder {
 public:
  PlaneCoder();

  // T: float or double. Appends to `out`.
  template <typename T>
  void Encode(std::span<const T> values, ByteWriter& out);
  // As many as `values` has room for. False: the bytes are broken.
  template <typename T>
  bool Decode(ByteReader& in, std::span<T> values);

 private:
  template <typename Word>
  void EncodeWords(std::span<const Word> words, ByteWriter& out);
  template <typename Word>
  bool DecodeWords(ByteReader& in, std::span<Word> words);
  void PutPlane(const unsigned char* plane, size_t size, ByteWriter& out);

  struct FreeContext {
    void operator()(ZSTD_CCtx* context) const { ZSTD_freeCCtx(context); }
    void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
  };
  std::unique_ptr<ZSTD_CCtx, FreeContext> compress_;
  std::unique_ptr<ZSTD_DCtx, FreeContext> decompress_;
  std::vector<unsigned char> planes_, packed_;
};
template <>
void PlaneCoder::Encode<float>(std::span<const float> values, ByteWriter& out);
template <>
void PlaneCoder::Encode<double>(std::span<const double> values, ByteWriter& out);
template <>
bool PlaneCoder::Decode<float>(ByteReader& in, std::span<float> values);
template <>
bool PlaneCoder::Decode<double>(ByteReader& in, std::span<double> values);

// Stamps of one timeline in one segment, ascending by step.
class StampColumns {
 public:
  static constexpr size_t kStampsMax = 65'535;  // an index is 16 bits

  static std::string Encode(std::span<const StepStamp> stamps);
  // Takes the blob. False: it is broken.
  static bool Parse(std::string blob, TimelineId timeline, StampColumns* columns);

  size_t size() const { return size_; }
  uint64_t step(size_t index) const { return Column(0, index); }
  StepStamp at(size_t index) const;

 private:
  static constexpr size_t kBlock = 512;
  static constexpr size_t kColumns = 5;  // step, epoch, unix_ns, samples_seen, flags
  struct Block {
    uint64_t base, slope;
    uint32_t offset;  // in the blob
    uint8_t width;
  };
  uint64_t Column(size_t column, size_t index) const;

  std::string blob_;
  std::vector<Block> blocks_;  // [block * kColumns + column]
  size_t size_ = 0;
  TimelineId timeline_ = 0;
};

}  // namespace ikkuna::sinks
