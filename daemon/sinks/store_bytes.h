// ByteWriter, ByteReader: little-endian bytes of the store's blobs. Varint: seven bits a byte, the lowest first, the
// top bit set where another follows.
//
// Blobs are signed: four bytes at their end say whether they are what was written there, so that a bit that flipped on
// the disk is an error and never a number.
//
// Thread rule: as a value. A reader checks every bound: past the end it gives 0 and ok() is false from then on.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>

namespace ikkuna::sinks {

static_assert(std::endian::native == std::endian::little, "blobs are copied as they lie in memory");

// `seed` says where the bytes belong: those of another place are wrong here. Each step is one to one in the bytes it
// takes, so that a change within eight bytes is always seen in 64 bits, and but once in 2^32 in what is left of them.
inline uint32_t ChecksumOf(std::string_view bytes, uint64_t seed) {
  constexpr uint64_t kOdd = 0x9e37'79b9'7f4a'7c15;
  uint64_t hash = (seed + 1) * kOdd ^ bytes.size();
  auto take = [&hash](uint64_t word) {
    hash = (hash ^ word) * kOdd;
    hash ^= hash >> 32;
  };
  for (; bytes.size() >= sizeof(uint64_t); bytes.remove_prefix(sizeof(uint64_t))) {
    uint64_t word;
    std::memcpy(&word, bytes.data(), sizeof(word));
    take(word);
  }
  uint64_t rest = 0;
  if (!bytes.empty()) std::memcpy(&rest, bytes.data(), bytes.size());
  take(rest);
  return static_cast<uint32_t>(hash ^ hash >> 32);
}

inline std::string Signed(std::string_view blob, uint64_t seed) {
  const uint32_t sum = ChecksumOf(blob, seed);
  std::string whole(blob);
  whole.append(reinterpret_cast<const char*>(&sum), sizeof(sum));
  return whole;
}
// Takes the signature off. False: it is not what was written.
inline bool CheckSigned(std::string_view* blob, uint64_t seed) {
  uint32_t sum;
  if (blob->size() < sizeof(sum)) return false;
  std::memcpy(&sum, blob->data() + blob->size() - sizeof(sum), sizeof(sum));
  blob->remove_suffix(sizeof(sum));
  return sum == ChecksumOf(*blob, seed);
}

class ByteWriter {
 public:
  template <typename T>
  void Put(T value) {
    static_assert(std::is_arithmetic_v<T>);
    PutBytes(&value, sizeof(value));
  }
  void PutVarint(uint64_t value) {
    while (value >= 0x80) {
      bytes_.push_back(static_cast<char>(value | 0x80));
      value >>= 7;
    }
    bytes_.push_back(static_cast<char>(value));
  }
  void PutText(std::string_view text) {
    PutVarint(text.size());
    PutBytes(text.data(), text.size());
  }
  void PutBytes(const void* bytes, size_t size) {
    if (size > 0) bytes_.append(static_cast<const char*>(bytes), size);
  }

  std::string& bytes() { return bytes_; }
  size_t size() const { return bytes_.size(); }

 private:
  std::string bytes_;
};

class ByteReader {
 public:
  explicit ByteReader(std::string_view bytes) : bytes_(bytes) {}

  template <typename T>
  T Get() {
    static_assert(std::is_arithmetic_v<T>);
    T value{};
    if (const std::string_view from = GetBytes(sizeof(T)); !from.empty()) std::memcpy(&value, from.data(), sizeof(T));
    return value;
  }
  uint64_t GetVarint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = Get<uint8_t>();
      value |= uint64_t{byte & 0x7fu} << shift;
      if (byte < 0x80) return value;
    }
    ok_ = false;
    return 0;
  }
  std::string_view GetText() { return GetBytes(GetVarint()); }
  std::string_view GetBytes(uint64_t size) {
    if (size > bytes_.size()) {
      ok_ = false;
      bytes_ = {};
      return {};
    }
    const std::string_view found = bytes_.substr(0, size);
    bytes_.remove_prefix(size);
    return found;
  }

  bool ok() const { return ok_; }
  size_t left() const { return bytes_.size(); }

 private:
  std::string_view bytes_;
  bool ok_ = true;
};

}  // namespace ikkuna::sinks
