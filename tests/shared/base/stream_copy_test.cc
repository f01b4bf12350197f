#include "shared/base/stream_copy.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

namespace ikkuna {
namespace {

// Every byte arrives and none beside them is touched, at every alignment of both ends and around every size at which
// the way of copying changes.
TEST(StreamCopyTest, CopiesAllAndNothingElse) {
  constexpr size_t kMargin = 128;
  constexpr unsigned char kUntouched = 0xee;
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{63}, kStreamCopyLeast - 1, kStreamCopyLeast,
                             kStreamCopyLeast + 1, kStreamCopyLeast + 63, kStreamCopyLeast + 64, size_t{100'003}}) {
    for (const size_t to_offset : {size_t{0}, size_t{1}, size_t{17}, size_t{63}}) {
      for (const size_t from_offset : {size_t{0}, size_t{3}, size_t{32}}) {
        std::vector<unsigned char> from(bytes + from_offset), to(bytes + to_offset + 2 * kMargin, kUntouched);
        for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<unsigned char>((i * 131 + i / 256) % 251);
        unsigned char* begin = to.data() + kMargin + to_offset;
        StreamCopy(begin, from.data() + from_offset, bytes);
        size_t wrong = 0;
        for (size_t i = 0; i < to.size(); ++i) {
          const size_t place = static_cast<size_t>(to.data() + i - begin);  // wraps below `begin`
          wrong += to[i] != (place < bytes ? from[from_offset + place] : kUntouched);
        }
        EXPECT_EQ(wrong, 0u) << bytes << " bytes, offsets " << to_offset << " and " << from_offset;
      }
    }
  }
}

}  // namespace
}  // namespace ikkuna
