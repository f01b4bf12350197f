#include "shared/tlv.h"

#include "shared/base/utf8.h"

namespace ikkuna::shm {

namespace {

constexpr size_t kMessageHeaderBytes = 8;
constexpr size_t kTlvHeaderBytes = 4;
constexpr size_t kTlvAlign = 4;

template <typename T>
T NumberAt(std::string_view bytes, size_t at) {
  T number;
  std::memcpy(&number, bytes.data() + at, sizeof(number));
  return number;
}

template <typename T>
void AppendNumber(std::string& bytes, T number) {
  bytes.append(reinterpret_cast<const char*>(&number), sizeof(number));
}

Error CorruptTlv(const char* what) { return Error{ErrorCode::kCorrupt, std::string("the peer's message has ") + what}; }

}  // namespace

TlvWriter::TlvWriter(MessageType type) {
  AppendNumber(bytes_, kHandshakeMagic);
  AppendNumber(bytes_, kHandshakeVersion);
  AppendNumber(bytes_, static_cast<uint16_t>(type));
}

void TlvWriter::Put(Tag tag, const void* data, size_t bytes) {
  AppendNumber(bytes_, static_cast<uint16_t>(tag));
  AppendNumber(bytes_, static_cast<uint16_t>(bytes));
  bytes_.append(static_cast<const char*>(data), bytes);
  bytes_.append((kTlvAlign - bytes % kTlvAlign) % kTlvAlign, '\0');
}

Result<TlvReader> TlvReader::Parse(std::string_view message_untrusted) {
  const std::string_view message = message_untrusted;
  if (message.size() < kMessageHeaderBytes) return CorruptTlv("no room for its header");
  if (NumberAt<uint32_t>(message, 0) != kHandshakeMagic) return CorruptTlv("not the magic of this protocol");
  if (NumberAt<uint16_t>(message, 4) != kHandshakeVersion) return CorruptTlv("another version of this protocol");
  TlvReader reader;
  reader.type_ = static_cast<MessageType>(NumberAt<uint16_t>(message, 6));
  if (reader.type_ == MessageType::kInvalid) return CorruptTlv("no type");
  for (size_t at = kMessageHeaderBytes; at < message.size();) {
    if (message.size() - at < kTlvHeaderBytes) return CorruptTlv("a field without room for its header");
    const auto tag = NumberAt<uint16_t>(message, at);
    const size_t bytes = NumberAt<uint16_t>(message, at + 2);
    at += kTlvHeaderBytes;
    const size_t padded = (bytes + kTlvAlign - 1) / kTlvAlign * kTlvAlign;
    if (padded > message.size() - at) return CorruptTlv("a field that is longer than the message");
    if (tag == 0) return CorruptTlv("a field with tag 0");
    if (tag < kTagCount) {
      if (reader.values_[tag]) return CorruptTlv("a field twice");
      reader.values_[tag] = message.substr(at, bytes);
    }
    at += padded;
  }
  return reader;
}

std::optional<std::string_view> TlvReader::Bytes(Tag tag, size_t bytes) const {
  const auto& value = values_[static_cast<size_t>(tag)];
  if (!value || value->size() != bytes) return std::nullopt;
  return value;
}

std::optional<std::string> TlvReader::Text(Tag tag, size_t bytes_max) const {
  const auto& value = values_[static_cast<size_t>(tag)];
  if (!value || value->size() > bytes_max || !IsValidUtf8(*value)) return std::nullopt;
  return std::string(*value);
}

}  // namespace ikkuna::shm
