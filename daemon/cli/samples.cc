#include "daemon/cli/samples.h"

#include "daemon/cli/terminal.h"
#include "daemon/model/counted.h"

namespace ikkuna::cli {

Status ReadSamples(Client& client, const RunLine& line, const SampleQuery& query,
                   const std::function<Result<bool>(const v1::Columns&)>& each) {
  v1::ReadSamplesRequest request;
  *request.mutable_filter() = FilterOf(line.run, query.series, query.topic);
  if (query.steps.from) request.set_step_min(*query.steps.from);
  if (query.steps.to) request.set_step_max(*query.steps.to);
  request.set_max_points(query.points);
  for (const v1::ValueType type : query.types) request.add_types(type);
  if (line.attempts.size() > 1) {
    // The daemon knows where one attempt took over from another; lines of other attempts are left out here.
    request.mutable_filter()->clear_attempt();
    request.set_merge_attempts(true);
  }
  return client.Stream<v1::ReadSamplesRequest, v1::ReadSamplesResponse>(
      &v1::Monitor::Stub::ReadSamples, request, [&](v1::ReadSamplesResponse& response) -> Result<bool> {
        for (const v1::Columns& columns : response.columns()) {
          if (!line.attempts.contains(columns.series().key().run().attempt())) continue;
          Result<bool> more = each(columns);
          if (!more || !*more) return more;
        }
        return true;
      });
}

size_t SizeOf(const v1::Columns& columns) { return static_cast<size_t>(columns.steps_size()); }

std::string FlagsText(uint32_t flags, const char* separator) {
  std::string text;
  for (uint32_t bit = 1; bit != 0 && bit <= flags; bit <<= 1) {
    if ((flags & bit) == 0) continue;
    text += (text.empty() ? "" : separator) + EnumWord(*v1::SampleFlag_descriptor(), static_cast<int>(bit));
  }
  return text;
}

Json FlagWords(uint32_t flags) {
  Json words = Json::array();
  for (uint32_t bit = 1; bit != 0 && bit <= flags; bit <<= 1) {
    if ((flags & bit) != 0) words.push_back(EnumWord(*v1::SampleFlag_descriptor(), static_cast<int>(bit)));
  }
  return words;
}

void FlagNotes::Add(const v1::Columns& columns) {
  thinned_ = thinned_ || columns.thinned();
  for (const uint32_t flags : columns.flags()) Add(flags);
}

void FlagNotes::Add(uint32_t flags) {
  thinned_ = thinned_ || (flags & v1::SAMPLE_FLAG_THINNED) != 0;
  flags &= ~static_cast<uint32_t>(v1::SAMPLE_FLAG_THINNED);
  if (flags == 0) return;
  ++values_;
  for (uint32_t bit = 1; bit != 0 && bit <= flags; bit <<= 1) {
    if ((flags & bit) != 0) ++by_flag_[bit];
  }
}

std::string FlagNotes::Text() const {
  std::string text;
  if (values_ != 0) {
    std::string names;
    for (const auto& [flag, count] : by_flag_) {
      names += (names.empty() ? "" : ", ") + FlagsText(flag, "") + (by_flag_.size() > 1 ? " " + Count(count) : "");
    }
    text += Count(values_) + " of these values " + (values_ == 1 ? "has a flag" : "have flags") + ": " + names +
            "; 'ikkuna read' shows which.\n";
  }
  if (thinned_) text += "Some of these steps were thinned away to keep to the store's maximum.\n";
  return text;
}

std::string ExactValue(const v1::Columns& columns, size_t i) {
  if (columns.numbers_size() > 0) return ExactNumber(At(columns.numbers(), i));
  if (i >= static_cast<size_t>(columns.values_size())) return "";
  const v1::Value& value = columns.values(static_cast<int>(i));
  switch (value.kind_case()) {
    case v1::Value::kNumber:
      return ExactNumber(value.number());
    case v1::Value::kText:
      return value.text();
    case v1::Value::kHistogram:
    case v1::Value::kTensor: {
      const Json json = value.has_histogram() ? ToJson(value.histogram()) : ToJson(value.tensor());
      return json.dump(-1, ' ', false, Json::error_handler_t::replace);
    }
    default:
      return "";  // of a newer daemon
  }
}

std::string ShortValue(const v1::Value& value) {
  switch (value.kind_case()) {
    case v1::Value::kNumber:
      return ShortNumber(value.number());
    case v1::Value::kText:
      return PlainText(value.text());
    case v1::Value::kHistogram: {
      const v1::Histogram& histogram = value.histogram();
      std::string text = "histogram of " + Counted(histogram.n(), "value");
      if (histogram.n() > 0) text += " from " + ShortNumber(histogram.min()) + " to " + ShortNumber(histogram.max());
      return text;
    }
    case v1::Value::kTensor: {
      std::string text;
      for (const int64_t size : value.tensor().sizes()) text += (text.empty() ? "" : "x") + std::to_string(size);
      return (value.tensor().form() == v1::TENSOR_FORM_IMAGE ? "image " : "matrix ") + text;
    }
    default:
      return "a value that this client does not know";
  }
}

}  // namespace ikkuna::cli
