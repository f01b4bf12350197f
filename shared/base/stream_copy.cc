#include "shared/base/stream_copy.h"

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ikkuna {

#if defined(__x86_64__)

namespace {

constexpr size_t kLine = 64;

// Lines of 64 bytes; `to` is a multiple of 64. Streaming stores of SSE2 are part of every x86-64, and as fast here as
// wider ones: four fill a line, which leaves the processor whole either way.
void StreamLines(unsigned char* to, const unsigned char* from, size_t lines) {
  for (; lines > 0; --lines, to += kLine, from += kLine) {
    _mm_prefetch(reinterpret_cast<const char*>(from + 8 * kLine), _MM_HINT_NTA);
    const auto* source = reinterpret_cast<const __m128i*>(from);
    const __m128i a = _mm_loadu_si128(source), b = _mm_loadu_si128(source + 1), c = _mm_loadu_si128(source + 2),
                  d = _mm_loadu_si128(source + 3);
    auto* target = reinterpret_cast<__m128i*>(to);
    _mm_stream_si128(target, a);
    _mm_stream_si128(target + 1, b);
    _mm_stream_si128(target + 2, c);
    _mm_stream_si128(target + 3, d);
  }
  _mm_sfence();
}

}  // namespace

void StreamCopy(void* to, const void* from, size_t bytes) noexcept {
  if (bytes < kStreamCopyLeast) {
    if (bytes > 0) std::memcpy(to, from, bytes);  // of nothing the addresses may be null
    return;
  }
  auto* target = static_cast<unsigned char*>(to);
  const auto* source = static_cast<const unsigned char*>(from);
  const size_t head = (kLine - reinterpret_cast<uintptr_t>(target) % kLine) % kLine;
  std::memcpy(target, source, head);
  target += head;
  source += head;
  bytes -= head;
  StreamLines(target, source, bytes / kLine);
  const size_t copied = bytes / kLine * kLine;
  std::memcpy(target + copied, source + copied, bytes - copied);
}

#else

void StreamCopy(void* to, const void* from, size_t bytes) noexcept {
  if (bytes > 0) std::memcpy(to, from, bytes);
}

#endif

}  // namespace ikkuna
