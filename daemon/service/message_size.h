// How large an answer is: below 1 MiB a message, so that a client needs no other limits than those it has.
//
// Thread rule: functions without state.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "daemon/service/failures.h"

namespace ikkuna::service {

// Of what an answer is made of: the rest up to 1 MiB is for what stands around it.
constexpr size_t kMessageBytesMax = 960 * 1024;
// No answer is longer.
constexpr size_t kAnswerBytesMax = 1024 * 1024;
// Tag and length of a part of a message.
constexpr size_t kFramingBytes = 8;

// Counts parts into a message, the first of which always fits.
class MessageRoom {
 public:
  bool Take(size_t bytes) {
    bytes += kFramingBytes;
    if (used_ > 0 && used_ + bytes > kMessageBytesMax) return false;
    used_ += bytes;
    return true;
  }
  // What is there already.
  void Add(size_t bytes) { used_ += bytes + kFramingBytes; }
  size_t used() const { return used_; }

 private:
  size_t used_ = 0;
};

// One page of a list. `ask(limit)` gives one of at most so many entries; `fill(page)` puts as many as have room into an
// empty answer and says how many of how many: where names are long those are fewer, and then the page is asked for
// again with so many, so that its end is where the next begins.
struct Filled {
  size_t put = 0;
  size_t of = 0;
};
template <typename Ask, typename Fill>
Outcome FillPage(uint32_t limit, Ask&& ask, Fill&& fill) {
  for (;;) {
    auto page = ask(limit);
    if (!page) return page.failure();
    const Filled filled = fill(*page);
    if (filled.put == filled.of) return {};
    limit = static_cast<uint32_t>(std::max<size_t>(1, filled.put));
  }
}

}  // namespace ikkuna::service
