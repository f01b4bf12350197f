// FuzzInput: the fuzzer's bytes as a sequence of small decisions; at their end everything reads as 0.
//
// Thread rule: none. Keeps views into the bytes it was given.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>

namespace ikkuna::fuzz {

// What must hold whatever the input is: the fuzzer keeps the input for which it does not.
#define FUZZ_CHECK(condition)                                                             \
  do {                                                                                    \
    if (!(condition)) {                                                                   \
      std::fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                       \
    }                                                                                     \
  } while (false)

class FuzzInput {
 public:
  FuzzInput(const uint8_t* data, size_t size) : left_(data, size) {}

  bool empty() const { return left_.empty(); }
  template <typename T>
  T Number() {
    T number{};
    const auto bytes = Bytes(sizeof(T));
    if (!bytes.empty()) std::memcpy(&number, bytes.data(), bytes.size());
    return number;
  }
  uint8_t U8() { return Number<uint8_t>(); }
  uint16_t U16() { return Number<uint16_t>(); }
  uint64_t U64() { return Number<uint64_t>(); }
  // 0 to `count` - 1.
  size_t Choice(size_t count) { return U8() % count; }
  // At most `size`, fewer at the end.
  std::span<const uint8_t> Bytes(size_t size) {
    const auto taken = left_.first(std::min(size, left_.size()));
    left_ = left_.subspan(taken.size());
    return taken;
  }
  // Over `to`, as far as the input goes.
  void Fill(void* to, size_t size) {
    const auto bytes = Bytes(size);
    if (!bytes.empty()) std::memcpy(to, bytes.data(), bytes.size());
  }
  // A number near `from`, or any: a wrong one that is close gets further than one that is far.
  uint64_t Near(uint64_t from) {
    const uint8_t mode = U8();
    if (mode == 255) return U64();
    if (mode == 254) return from ^ (uint64_t{1} << (U8() % 64));
    return from + static_cast<uint64_t>(static_cast<int64_t>(static_cast<int8_t>(mode)));
  }

 private:
  std::span<const uint8_t> left_;
};

}  // namespace ikkuna::fuzz
