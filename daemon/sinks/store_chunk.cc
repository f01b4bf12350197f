#include "daemon/sinks/store_chunk.h"

#include <algorithm>
#include <cmath>

#include "daemon/sinks/store_tail.h"

namespace ikkuna::sinks {
namespace {

enum AtForm : uint8_t { kConsecutive = 0, kListed = 1 };

}  // namespace

Point PointOf(const StepStamp& stamp, double value, uint16_t flags) {
  return {stamp.step,  stamp.samples_seen, stamp.unix_ns,
          value,       stamp.epoch,        static_cast<uint16_t>(flags | stamp.flags)};
}

void PutHead(const ChunkHead& head, ByteWriter& out) {
  out.Put(head.series);
  out.Put(head.count);
  out.Put(static_cast<uint8_t>(static_cast<uint8_t>(head.precision) | (head.has_flags ? 0x80 : 0)));
  out.Put(head.coarsened);
  out.Put(head.offset);
  out.Put(head.bytes);
  for (uint16_t at : {head.first_at, head.last_at, head.least_at, head.greatest_at, head.nan_at, head.nans}) out.Put(at);
  out.Put(head.thinned);
  out.Put(head.sum);
  // Infinities and NaNs too, bit by bit.
  for (double value : {head.first, head.last, head.least, head.greatest}) out.Put(value);
}
static_assert(ChunkHead::kBytes == 4 + 2 + 1 + 1 + 4 + 4 + 6 * 2 + 4 + 4 + 4 * 8);

bool ParseHeads(std::string_view heads, std::vector<ChunkHead>* parsed) {
  if (heads.size() % ChunkHead::kBytes != 0) return false;
  ByteReader in(heads);
  while (in.left() > 0) {
    ChunkHead head;
    head.series = in.Get<uint32_t>();
    head.count = in.Get<uint16_t>();
    const auto form = in.Get<uint8_t>();
    head.precision = static_cast<Precision>(form & 0x7f);
    head.has_flags = (form & 0x80) != 0;
    head.coarsened = in.Get<uint8_t>();
    head.offset = in.Get<uint32_t>();
    head.bytes = in.Get<uint32_t>();
    for (uint16_t* at :
         {&head.first_at, &head.last_at, &head.least_at, &head.greatest_at, &head.nan_at, &head.nans}) {
      *at = in.Get<uint16_t>();
    }
    head.thinned = in.Get<uint32_t>();
    head.sum = in.Get<uint32_t>();
    for (double* value : {&head.first, &head.last, &head.least, &head.greatest}) *value = in.Get<double>();
    if (!in.ok() || head.count == 0 || head.count > kNumbersPerChunk || head.first_at > head.last_at) return false;
    if (head.precision != Precision::kSingle && head.precision != Precision::kDouble) return false;
    parsed->push_back(head);
  }
  return true;
}

void ChunkRow::Add(uint32_t series, Precision precision, const SeriesNumbers& numbers, PlaneCoder& coder) {
  SeriesNumbers part;
  for (size_t begin = 0; begin < numbers.at.size(); begin += kNumbersPerChunk) {
    const size_t end = std::min(begin + kNumbersPerChunk, numbers.at.size());
    part.at.assign(numbers.at.begin() + begin, numbers.at.begin() + end);
    part.values.assign(numbers.values.begin() + begin, numbers.values.begin() + end);
    part.flags.assign(numbers.flags.begin() + begin, numbers.flags.begin() + end);
    AddChunk(series, precision, part, 0, 0, coder);
  }
}

void ChunkRow::AddChunk(uint32_t series, Precision precision, const SeriesNumbers& numbers, uint8_t coarsened,
                        uint32_t thinned, PlaneCoder& coder) {
  const size_t count = numbers.at.size();
  ChunkHead head;
  head.series = series;
  head.count = static_cast<uint16_t>(count);
  head.precision = precision;
  head.coarsened = coarsened;
  head.thinned = thinned;
  head.first_at = numbers.at.front();
  head.last_at = numbers.at.back();
  head.first = numbers.values.front();
  head.last = numbers.values.back();
  size_t flagged = 0;
  for (size_t i = 0; i < count; ++i) {
    if (numbers.flags[i] != 0) ++flagged;
    const double value = numbers.values[i];
    if (std::isnan(value)) {
      if (head.nans++ == 0) head.nan_at = numbers.at[i];
      continue;
    }
    if (head.least_at == ChunkHead::kNone || value < head.least) {
      head.least = value;
      head.least_at = numbers.at[i];
    }
    if (head.greatest_at == ChunkHead::kNone || value > head.greatest) {
      head.greatest = value;
      head.greatest_at = numbers.at[i];
    }
  }
  head.has_flags = flagged > 0;

  ByteWriter body;
  const bool consecutive = size_t{head.last_at} - head.first_at + 1 == count;
  body.Put<uint8_t>(consecutive ? kConsecutive : kListed);
  if (!consecutive) {
    for (size_t i = 1; i < count; ++i) body.PutVarint(uint64_t{numbers.at[i]} - numbers.at[i - 1]);
  }
  if (flagged > 0) {
    body.PutVarint(flagged);
    for (size_t i = 0; i < count; ++i) {
      if (numbers.flags[i] == 0) continue;
      body.PutVarint(i);
      body.PutVarint(numbers.flags[i]);
    }
  }
  if (precision == Precision::kSingle) {
    std::vector<float> singles(count);
    std::vector<size_t> exact;
    for (size_t i = 0; i < count; ++i) {
      if (FitsSingle(numbers.values[i])) {
        singles[i] = static_cast<float>(numbers.values[i]);
      } else {
        exact.push_back(i);
      }
    }
    body.PutVarint(exact.size());
    for (size_t i : exact) {
      body.PutVarint(i);
      body.Put(numbers.values[i]);
    }
    coder.Encode<float>(singles, body);
  } else {
    coder.Encode<double>(numbers.values, body);
  }
  AddEncoded(head, body.bytes());
}

void ChunkRow::AddEncoded(ChunkHead head, std::string_view data) {
  head.offset = static_cast<uint32_t>(data_.size());
  head.bytes = static_cast<uint32_t>(data.size());
  head.sum = ChecksumOf(data, head.series);
  PutHead(head, heads_);
  data_.PutBytes(data.data(), data.size());
}

bool DecodeChunk(const ChunkHead& head, std::string_view data, PlaneCoder& coder, SeriesNumbers* numbers) {
  numbers->Clear();
  if (data.size() != head.bytes || ChecksumOf(data, head.series) != head.sum) return false;
  ByteReader in(data);
  uint64_t at = head.first_at;
  const auto form = in.Get<uint8_t>();
  if (!in.ok() || form > kListed) return false;
  numbers->at.push_back(static_cast<uint16_t>(at));
  for (size_t i = 1; i < head.count; ++i) {
    const uint64_t gap = form == kConsecutive ? 1 : in.GetVarint();
    at += gap;
    if (gap == 0 || gap > ChunkHead::kNone || at > head.last_at) return false;
    numbers->at.push_back(static_cast<uint16_t>(at));
  }
  numbers->flags.assign(head.count, 0);
  if (head.has_flags) {
    for (uint64_t n = in.GetVarint(); n > 0; --n) {
      const uint64_t i = in.GetVarint();
      const uint64_t flags = in.GetVarint();
      if (!in.ok() || i >= head.count) return false;
      numbers->flags[i] = static_cast<uint16_t>(flags);
    }
  }
  numbers->values.resize(head.count);
  if (head.precision == Precision::kDouble) return coder.Decode<double>(in, numbers->values) && in.ok();
  std::vector<std::pair<uint64_t, double>> exact;
  for (uint64_t n = in.GetVarint(); n > 0; --n) {
    const uint64_t i = in.GetVarint();
    const auto value = in.Get<double>();
    if (!in.ok() || i >= head.count) return false;
    exact.emplace_back(i, value);
  }
  std::vector<float> singles(head.count);
  if (!coder.Decode<float>(in, singles) || !in.ok()) return false;
  for (size_t i = 0; i < head.count; ++i) numbers->values[i] = static_cast<double>(singles[i]);
  for (const auto& [i, value] : exact) numbers->values[i] = value;
  return true;
}

}  // namespace ikkuna::sinks
