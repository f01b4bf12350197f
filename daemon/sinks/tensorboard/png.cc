#include "daemon/sinks/tensorboard/png.h"

#include <algorithm>
#include <boost/crc.hpp>

namespace ikkuna::sinks {
namespace {

constexpr size_t kStoredMax = 65'535;  // of one stored block
constexpr size_t kAdlerRun = 5'552;    // bytes after which its sums must be reduced

void AppendBigEndian(std::string& out, uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>(value >> shift & 0xff);
}

void AppendChunk(std::string& png, std::string_view type, std::string_view data) {
  AppendBigEndian(png, static_cast<uint32_t>(data.size()));
  const size_t summed_from = png.size();
  png += type;
  png += data;
  boost::crc_32_type crc;
  crc.process_bytes(png.data() + summed_from, png.size() - summed_from);
  AppendBigEndian(png, crc.checksum());
}

uint32_t Adler32(std::string_view bytes) {
  uint32_t a = 1;
  uint32_t b = 0;
  while (!bytes.empty()) {
    const size_t count = std::min(bytes.size(), kAdlerRun);
    for (const char byte : bytes.substr(0, count)) {
      a += static_cast<unsigned char>(byte);
      b += a;
    }
    a %= 65'521;
    b %= 65'521;
    bytes.remove_prefix(count);
  }
  return b << 16 | a;
}

std::string Stored(std::string_view bytes) {
  std::string zlib = "\x78\x01";
  const uint32_t sum = Adler32(bytes);
  do {
    const size_t count = std::min(bytes.size(), kStoredMax);
    const auto length = static_cast<uint16_t>(count);
    const auto complement = static_cast<uint16_t>(~length);
    zlib += static_cast<char>(count == bytes.size());
    for (const uint16_t word : {length, complement}) {
      zlib += static_cast<char>(word & 0xff);
      zlib += static_cast<char>(word >> 8);
    }
    zlib += bytes.substr(0, count);
    bytes.remove_prefix(count);
  } while (!bytes.empty());
  AppendBigEndian(zlib, sum);
  return zlib;
}

}  // namespace

std::string EncodePng(const PngShape& shape, std::string_view pixels) {
  std::string png = "\x89PNG\r\n\x1a\n";
  std::string header;
  AppendBigEndian(header, shape.width);
  AppendBigEndian(header, shape.height);
  const char colour = shape.channels == 1 ? 0 : shape.channels == 3 ? 2 : 6;
  header += {8, colour, 0, 0, 0};
  AppendChunk(png, "IHDR", header);
  std::string rows;
  const size_t row = size_t{shape.width} * shape.channels;
  rows.reserve(pixels.size() + shape.height);
  for (size_t at = 0; at < pixels.size(); at += row) {
    rows += '\0';  // no filter
    rows += pixels.substr(at, row);
  }
  AppendChunk(png, "IDAT", Stored(rows));
  AppendChunk(png, "IEND", {});
  return png;
}

}  // namespace ikkuna::sinks
