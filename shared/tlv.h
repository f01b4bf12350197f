// TLV messages of the handshake as bytes: u32 magic, u16 version, u16 type, then (u16 tag, u16 length, bytes, padding
// to 4).
//
// Thread rule: none. TlvReader keeps views into the bytes it was given.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>

#include "shared/base/result.h"

namespace ikkuna::shm {

constexpr uint32_t kHandshakeMagic = 0x484b4b49;  // "IKKH" read as bytes
constexpr uint16_t kHandshakeVersion = 1;
constexpr size_t kMaxMessageBytes = 4096;  // five names and a reason fit twice
enum class MessageType : uint16_t { kInvalid = 0, kHello = 1, kWelcome = 2, kReject = 3 };
// Values never change and are never reused. A reader skips tags that it does not know.
enum class Tag : uint16_t {
  kInvalid = 0,
  kUuid = 1,
  kRunId = 2,
  kRun = 3,
  kAttempt = 4,
  kRank = 5,
  kWorldSize = 6,
  kFeatureBits = 7,
  kRingHead = 8,
  kArenaHead = 9,
  kHasAttempt = 10,
  kResume = 11,
  kStartStep = 12,
  kJobAddress = 13,
  kJobPort = 14,
  kLateHead = 15,
  kSessionId = 16,
  kDaemonVersion = 17,
  kReason = 18,
  kRunIdMadeUp = 19,
};
constexpr size_t kTagCount = 20;

class TlvWriter {
 public:
  explicit TlvWriter(MessageType type);
  void Put(Tag tag, const void* data, size_t bytes);
  void PutText(Tag tag, std::string_view text) { Put(tag, text.data(), text.size()); }
  template <typename T>
  void PutNumber(Tag tag, T number) {
    static_assert(std::is_integral_v<T>);
    Put(tag, &number, sizeof(number));
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

class TlvReader {
 public:
  // Errors: kCorrupt for a wrong magic, version, type 0, a length beyond the end, or a tag that comes twice.
  static Result<TlvReader> Parse(std::string_view message_untrusted);

  MessageType type() const { return type_; }
  // Each nullopt when the tag is missing or its length or encoding is not that of the type asked for.
  std::optional<std::string_view> Bytes(Tag tag, size_t bytes) const;
  std::optional<std::string> Text(Tag tag, size_t bytes_max) const;
  template <typename T>
  std::optional<T> Number(Tag tag) const {
    const auto bytes = Bytes(tag, sizeof(T));
    if (!bytes) return std::nullopt;
    T number;
    std::memcpy(&number, bytes->data(), sizeof(number));
    return number;
  }

 private:
  TlvReader() = default;
  MessageType type_ = MessageType::kInvalid;
  std::array<std::optional<std::string_view>, kTagCount> values_{};
};

}  // namespace ikkuna::shm
