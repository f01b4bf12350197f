#include <algorithm>
#include <functional>
#include <optional>
#include <set>
#include <utility>

#include "daemon/service/calls/calls.h"
#include "daemon/service/convert_names.h"
#include "daemon/service/convert_values.h"
#include "daemon/service/cursor_text.h"
#include "daemon/service/message_size.h"
#include "daemon/service/request_checks.h"

namespace ikkuna::service {
namespace {

// Bytes that a row takes at most, without its number or value: three varints of 10, 5 and 10 bytes, a fixed64, flags.
constexpr size_t kRowBytes = 10 + 5 + 8 + 10 + 3;
constexpr size_t kNumberBytes = 8;

// Splits what the store's reader gives into messages: parts of many short series together, a part of many large values
// over several. One part of the reader (1 MB) and one message are all that it holds.
class SampleAnswers : public AnswerSource<v1::ReadSamplesResponse> {
 public:
  explicit SampleAnswers(ReadAnswer answer) : answer_(std::move(answer)) {}

  Answer<bool> Next(v1::ReadSamplesResponse* response) override {
    if (ended_) return false;
    MessageRoom room;
    for (;;) {
      if (!part_) {
        Result<std::optional<SeriesColumns>> next = answer_.reader->Next();
        if (!next) return next.error();
        if (!*next) break;
        part_ = **std::move(next);
        row_ = 0;
        piece_ = 0;
      }
      if (!Put(room, response)) return true;
      part_.reset();
    }
    ended_ = true;
    answer_.reader.reset();
    response->set_cursor(ToText(answer_.cursor));
    return true;
  }

 private:
  // As much of the part as has room; false: some is left.
  bool Put(MessageRoom& room, v1::ReadSamplesResponse* response) {
    const SeriesColumns& part = *part_;
    v1::Columns head;
    Convert(part.run->run_key, *part.series, head.mutable_series());
    head.set_reduced(part.reduced);
    head.set_thinned(part.thinned);
    size_t head_bytes = head.ByteSizeLong() + 10 * kFramingBytes;
    std::optional<v1::Run> run;
    if (named_.count(part.run->run_key) == 0) {
      ConvertBrief(*part.run, &run.emplace());
      head_bytes += run->ByteSizeLong() + kFramingBytes;
    }
    const bool numbers = part.series->traits.type == ValueType::kNumber;
    // The first row has to fit with its head: else both wait for the next message.
    if (room.used() > 0 && room.used() + head_bytes + (numbers ? kRowBytes + kNumberBytes : FirstBytes()) >
                               kMessageBytesMax) {
      return false;
    }
    room.Add(head_bytes);
    if (run) {
      *response->add_runs() = *std::move(run);
      named_.insert(part.run->run_key);
    }
    v1::Columns* columns = response->add_columns();
    *columns = std::move(head);
    return numbers ? PutNumbers(room, columns) : PutValues(room, columns);
  }

  bool PutNumbers(MessageRoom& room, v1::Columns* columns) {
    const SeriesColumns& part = *part_;
    const size_t fit = (kMessageBytesMax - std::min(room.used(), kMessageBytesMax)) / (kRowBytes + kNumberBytes);
    const size_t end = std::min(part.steps.size(), row_ + std::max<size_t>(1, fit));
    const auto copy = [&](const auto& from, auto* to) {
      to->Add(from.begin() + static_cast<std::ptrdiff_t>(row_), from.begin() + static_cast<std::ptrdiff_t>(end));
    };
    copy(part.steps, columns->mutable_steps());
    copy(part.epochs, columns->mutable_epochs());
    copy(part.unix_ns, columns->mutable_unix_ns());
    copy(part.samples_seen, columns->mutable_samples_seen());
    copy(part.numbers, columns->mutable_numbers());
    columns->mutable_flags()->Reserve(static_cast<int>(end - row_));
    for (size_t i = row_; i < end; ++i) columns->add_flags(ToFlags(part.flags[i]));
    row_ = end;
    if (row_ < part.steps.size()) return false;
    // What the rows really took leaves room for others.
    room.Add(columns->ByteSizeLong());
    return true;
  }

  bool PutValues(MessageRoom& room, v1::Columns* columns) {
    const SeriesColumns& part = *part_;
    for (; row_ < part.steps.size(); ++row_, piece_ = 0) {
      size_t piece = 0;
      bool full = false;
      v1::Value* value = nullptr;
      ConvertPieces(
          part.others[row_],
          [&] { return full || piece < piece_ ? (spare_.Clear(), value = nullptr, &spare_) : value = columns->add_values(); },
          [&](uint32_t flags) {
            const size_t index = piece++;
            if (value == nullptr) return;
            if (!room.Take(kRowBytes + value->ByteSizeLong()) && columns->steps_size() > 0) {
              columns->mutable_values()->RemoveLast();
              full = true;
              piece_ = index;
              return;
            }
            columns->add_steps(part.steps[row_]);
            columns->add_epochs(part.epochs[row_]);
            columns->add_unix_ns(part.unix_ns[row_]);
            columns->add_samples_seen(part.samples_seen[row_]);
            columns->add_flags(ToFlags(part.flags[row_]) | flags);
          });
      if (full) return false;
    }
    return true;
  }

  // Of the next value, or of a piece of it.
  size_t FirstBytes() const {
    return kRowBytes + std::min(BytesOf(part_->others[row_]) * 2, kTextBytesMax + kFramingBytes);
  }

  ReadAnswer answer_;
  std::optional<SeriesColumns> part_;  // that is being sent
  size_t row_ = 0;                     // of part_, the next
  size_t piece_ = 0;                   // of the value in row_, the next
  std::set<RunKey> named_;
  v1::Value spare_;
  bool ended_ = false;
};

}  // namespace

Answers<v1::ReadSamplesResponse> Handle(const Call& call, const v1::ReadSamplesRequest& request) {
  if (Outcome bad = CheckFilter(request.filter())) return *bad;
  if (request.max_points() != 0 && request.max_points() < kPointsMin) {
    return BadField("max_points", "max_points is " + std::to_string(request.max_points()) + "; pass " +
                                      std::to_string(kPointsMin) + " or more, or 0 for every sample");
  }
  ReadOptions options;
  if (request.has_step_min()) options.query.step_min = request.step_min();
  if (request.has_step_max()) options.query.step_max = request.step_max();
  if (request.has_step_min() && request.has_step_max() && request.step_min() > request.step_max()) {
    return BadField("step_min", "step_min " + std::to_string(request.step_min()) + " is greater than step_max " +
                                    std::to_string(request.step_max()));
  }
  options.query.filter = ToFilter(request.filter());
  options.query.max_points = request.max_points();
  options.merge_attempts = request.merge_attempts();
  for (const int number : request.types()) {
    const std::optional<ValueType> type = FromProto(static_cast<v1::ValueType>(number));
    if (!type) return BadField("types", "types has " + std::to_string(number) + ", which is no type of a series");
    options.query.types.push_back(*type);
  }
  Answer<ReadAnswer> answer = call.monitor.series.ReadSamples(options);
  if (!answer) return answer.failure();
  return std::unique_ptr<AnswerSource<v1::ReadSamplesResponse>>(
      std::make_unique<SampleAnswers>(*std::move(answer)));
}

}  // namespace ikkuna::service
