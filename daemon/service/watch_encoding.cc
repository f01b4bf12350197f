#include "daemon/service/watch_encoding.h"

#include <string>
#include <unordered_map>

#include "daemon/service/convert_names.h"
#include "daemon/service/convert_values.h"
#include "daemon/service/message_size.h"

namespace ikkuna::service {
namespace {

// Numbers of one piece: at most 5 bytes of id, 8 of value, 2 of flags.
constexpr size_t kNumbersPerPiece = 32'768;

static_assert(static_cast<int>(ValueType::kNumber) == v1::WATCH_PART_NUMBERS &&
              static_cast<int>(ValueType::kText) == v1::WATCH_PART_TEXTS &&
              static_cast<int>(ValueType::kHistogram) == v1::WATCH_PART_HISTOGRAMS &&
              static_cast<int>(ValueType::kTensor) == v1::WATCH_PART_TENSORS);
WatchParts PartOf(ValueType type) { return 1u << static_cast<int>(type); }

// Collects what belongs to one part until a piece is full.
class PieceWriter {
 public:
  PieceWriter(WatchParts part, std::vector<WatchPiece>* pieces) : part_(part), pieces_(pieces) {}
  ~PieceWriter() = default;

  // Where the next bytes go; what was there may be sent first.
  v1::WatchResponse& Room(size_t bytes) {
    if (!room_.Take(bytes)) {
      Flush();
      room_.Take(bytes);
    }
    return response_;
  }
  void Flush() {
    if (room_.used() > 0) pieces_->push_back({part_, ToSlice(response_)});
    response_.Clear();
    room_ = {};
  }

 private:
  const WatchParts part_;
  std::vector<WatchPiece>* const pieces_;
  v1::WatchResponse response_;
  MessageRoom room_;
};

void EncodeSeries(const WatchUpdate& update, std::vector<WatchPiece>* pieces) {
  for (const ValueType type : {ValueType::kNumber, ValueType::kText, ValueType::kHistogram, ValueType::kTensor}) {
    PieceWriter writer(PartOf(type), pieces);
    for (const auto& series : update.new_series) {
      if (series->traits.type != type) continue;
      v1::Series out;
      Convert(update.run->run_key, *series, &out);
      *writer.Room(out.ByteSizeLong()).add_new_series() = std::move(out);
    }
    writer.Flush();
  }
}

// The step without its values.
v1::StepValues StepOf(const WatchUpdate& update) {
  v1::StepValues step;
  const StepStamp& stamp = update.batch->stamp;
  Convert(update.run->run_key, step.mutable_run());
  step.set_step(stamp.step);
  step.set_epoch(stamp.epoch);
  step.set_unix_ns(stamp.unix_ns);
  step.set_samples_seen(stamp.samples_seen);
  step.set_flags(ToFlags(stamp.flags));
  return step;
}

void EncodeNumbers(const WatchUpdate& update, const v1::StepValues& step, std::vector<WatchPiece>* pieces) {
  const std::vector<Sample>& samples = update.batch->samples;
  for (size_t begin = 0; begin < samples.size(); begin += kNumbersPerPiece) {
    const size_t end = std::min(begin + kNumbersPerPiece, samples.size());
    v1::WatchResponse response;
    v1::StepValues* out = response.add_steps();
    *out = step;
    const int count = static_cast<int>(end - begin);
    out->mutable_series()->Reserve(count);
    out->mutable_numbers()->Reserve(count);
    uint16_t any = 0;
    for (size_t i = begin; i < end; ++i) {
      out->add_series(samples[i].series);
      out->add_numbers(samples[i].value);
      any |= samples[i].flags;
    }
    for (size_t i = begin; ToFlags(any) != 0 && i < end; ++i) out->add_number_flags(ToFlags(samples[i].flags));
    pieces->push_back({PartOf(ValueType::kNumber), ToSlice(response)});
  }
}

void EncodeOthers(const WatchUpdate& update, const v1::StepValues& step, std::vector<WatchPiece>* pieces) {
  for (const ValueType type : {ValueType::kText, ValueType::kHistogram, ValueType::kTensor}) {
    PieceWriter writer(PartOf(type), pieces);
    for (const OtherValue& other : update.batch->others) {
      if (TypeOf(other.value) != type) continue;
      v1::Value value;
      ConvertPieces(
          other.value,
          [&] {
            value.Clear();
            return &value;
          },
          [&](uint32_t flags) {
            v1::WatchResponse& response = writer.Room(value.ByteSizeLong() + 2 * kFramingBytes);
            if (response.steps_size() == 0) *response.add_steps() = step;
            v1::StepValues* out = response.mutable_steps(0);
            out->add_value_series(other.series);
            *out->add_values() = value;
            out->add_value_flags(ToFlags(other.flags) | flags);
          });
    }
    writer.Flush();
  }
}

void EncodeEvents(const WatchUpdate& update, std::vector<WatchPiece>* pieces) {
  PieceWriter writer(1u << v1::WATCH_PART_EVENTS, pieces);
  for (const Event& event : update.batch->events) {
    v1::Event out;
    Convert(event, &out);
    *writer.Room(out.ByteSizeLong()).add_events() = std::move(out);
  }
  writer.Flush();
}

}  // namespace

grpc::Slice ToSlice(const v1::WatchResponse& response) { return grpc::Slice(response.SerializeAsString()); }

WatchEncoding Encode(const WatchUpdate& update) {
  WatchEncoding encoding;
  if (update.run) {
    v1::WatchResponse response;
    ConvertBrief(*update.run, response.add_runs());
    encoding.run = ToSlice(response);
    EncodeSeries(update, &encoding.pieces);
  }
  if (update.batch) {
    if (update.run && update.batch->values() > 0) {
      const v1::StepValues step = StepOf(update);
      EncodeNumbers(update, step, &encoding.pieces);
      EncodeOthers(update, step, &encoding.pieces);
    }
    EncodeEvents(update, &encoding.pieces);
  }
  return encoding;
}

}  // namespace ikkuna::service
