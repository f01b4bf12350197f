#include "daemon/event_log.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstdint>

#include "daemon/sinks/queued_sink.h"
#include "shared/base/utf8.h"

namespace ikkuna {
namespace {

constexpr char kDigits[] = "0123456789abcdef";

// Bytes that the lead byte of a character announces; 1 for one that is none.
size_t CharacterBytes(unsigned char lead) { return lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc0 ? 2 : 1; }

uint32_t CodePoint(std::string_view character) {
  const auto lead = static_cast<unsigned char>(character[0]);
  if (character.size() == 1) return lead;
  uint32_t code = lead & (0x7fu >> character.size());
  for (const char c : character.substr(1)) code = code << 6 | (static_cast<unsigned char>(c) & 0x3fu);
  return code;
}

// C0, DEL, C1 (a terminal obeys U+009B as it does ESC [), and what breaks a line or turns its direction.
bool IsControl(uint32_t code) {
  return code < 0x20 || (code >= 0x7f && code <= 0x9f) || (code >= 0x200e && code <= 0x200f) ||
         (code >= 0x2028 && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069);
}

void AppendControl(std::string& shown, uint32_t code) {
  if (code == '\n') {
    shown += "\\n";
  } else if (code == '\t') {
    shown += "\\t";
  } else if (code == '\r') {
    shown += "\\r";
  } else if (code < 0x80) {
    shown += {'\\', 'x', kDigits[code >> 4], kDigits[code & 15]};
  } else {
    shown += {'\\', 'u', kDigits[code >> 12], kDigits[code >> 8 & 15], kDigits[code >> 4 & 15], kDigits[code & 15]};
  }
}

std::string Shown(std::string_view text) {
  if (text.size() <= kLogTextBytesMax) return Escaped(text);
  size_t kept = kLogTextBytesMax;
  // Not within a character; text that is no UTF-8 has none to spare.
  for (int i = 0; i < 3 && (static_cast<unsigned char>(text[kept]) & 0xc0) == 0x80; ++i) --kept;
  return Escaped(text.substr(0, kept)) + "... (" + std::to_string(text.size() - kept) + " bytes more)";
}

class LogWriter : public sinks::BatchWriter {
 public:
  void Write(const std::shared_ptr<const Batch>& batch, uint64_t, sinks::Tally&) override {
    for (const Event& event : batch->events) LogEvent(event);
  }
  void Commit(sinks::Tally&) override {}
};

}  // namespace

std::string Escaped(std::string_view text) {
  std::string shown;
  shown.reserve(text.size());
  while (!text.empty()) {
    const size_t bytes = std::min(text.size(), CharacterBytes(static_cast<unsigned char>(text[0])));
    const std::string_view character = text.substr(0, bytes);
    if (!IsValidUtf8(character)) {
      const auto byte = static_cast<unsigned char>(text[0]);
      shown += {'\\', 'x', kDigits[byte >> 4], kDigits[byte & 15]};
      text.remove_prefix(1);
      continue;
    }
    text.remove_prefix(bytes);
    if (const uint32_t code = CodePoint(character); IsControl(code)) {
      AppendControl(shown, code);
    } else if (code == '\\') {
      shown += "\\\\";
    } else {
      shown += character;
    }
  }
  return shown;
}

void LogEvent(const Event& event) {
  const auto level = event.severity == Severity::kError     ? spdlog::level::err
                     : event.severity == Severity::kWarning ? spdlog::level::warn
                                                            : spdlog::level::info;
  spdlog::log(level, "{}: {}", Shown(event.kind), Shown(event.text));
}

std::unique_ptr<Sink> MakeEventLog() {
  sinks::QueueOptions options;
  options.name = "log";
  options.batches_max = kLogBatchesMax;
  options.bytes_max = size_t{4} << 20;
  options.takes_values = false;
  options.takes_events = true;
  return std::make_unique<sinks::QueuedSink>(options, std::make_unique<LogWriter>());
}

}  // namespace ikkuna
