// PNG of eight bits a channel, not compressed: pictures of a training are small and few, and no library is needed.
// W3C Portable Network Graphics, second edition; RFC 1950 and 1951 for the stored blocks.
//
// Thread rule: a free function without state.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace ikkuna::sinks {

struct PngShape {
  uint32_t height = 0;
  uint32_t width = 0;
  uint32_t channels = 0;  // 1 grey, 3 RGB, 4 RGBA
};

// `pixels`: height * width * channels bytes, row by row.
std::string EncodePng(const PngShape& shape, std::string_view pixels);

}  // namespace ikkuna::sinks
