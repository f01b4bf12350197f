#include "daemon/service/convert_values.h"

#include <algorithm>
#include <utility>

#include "daemon/service/convert_names.h"
#include "daemon/service/failures.h"
#include "shared/codes.h"

namespace ikkuna::service {
namespace {

constexpr bool IsSame(RecordFlag record, v1::SampleFlag sample) {
  return static_cast<int>(record) == static_cast<int>(sample);
}
static_assert(IsSame(kFlagGradScaled, v1::SAMPLE_FLAG_GRAD_SCALED));
static_assert(IsSame(kFlagGradModified, v1::SAMPLE_FLAG_GRAD_MODIFIED));
static_assert(IsSame(kFlagWeightsChangedOutside, v1::SAMPLE_FLAG_WEIGHTS_CHANGED_OUTSIDE));
static_assert(IsSame(kFlagStepInferred, v1::SAMPLE_FLAG_STEP_INFERRED));
static_assert(IsSame(kFlagStepSkipped, v1::SAMPLE_FLAG_STEP_SKIPPED));
static_assert(IsSame(kFlagFlattened, v1::SAMPLE_FLAG_FLATTENED));
static_assert(IsSame(kFlagTruncated, v1::SAMPLE_FLAG_TRUNCATED));
static_assert(kKnownRecordFlags == 2 * kFlagTruncated - 1, "a RecordFlag without a SampleFlag");

static_assert(static_cast<int>(kFlagThinned) == static_cast<int>(v1::SAMPLE_FLAG_THINNED) &&
              (kKnownRecordFlags & kFlagThinned) == 0);
static_assert(static_cast<int>(kFlagRanksMissing) == static_cast<int>(v1::SAMPLE_FLAG_RANKS_MISSING) &&
              (kKnownRecordFlags & kFlagRanksMissing) == 0);

void ConvertHistogram(const Histogram& from, v1::Histogram* to) {
  to->set_min(from.min);
  to->set_max(from.max);
  to->set_n(from.n);
  to->set_sum(from.sum);
  to->set_sum_squares(from.sum_squares);
  to->set_nans(from.nans);
  to->set_positive_infinities(from.positive_infinities);
  to->set_negative_infinities(from.negative_infinities);
  to->mutable_counts()->Add(from.counts.begin(), from.counts.end());
}

v1::TensorForm ToProto(TensorValue::Form form) {
  switch (form) {
    case TensorValue::Form::kMatrix:
      return v1::TENSOR_FORM_MATRIX;
    case TensorValue::Form::kImage:
      return v1::TENSOR_FORM_IMAGE;
  }
  return v1::TENSOR_FORM_UNSPECIFIED;
}

}  // namespace

uint32_t ToFlags(uint16_t flags) { return flags & (kKnownRecordFlags | kFlagRanksMissing | kFlagThinned); }

void ConvertPieces(const Value& from, const std::function<v1::Value*()>& piece,
                   const std::function<void(uint32_t flags)>& emit) {
  if (const double* number = std::get_if<double>(&from)) {
    piece()->set_number(*number);
    emit(0);
  } else if (const Text* text = std::get_if<Text>(&from)) {
    piece()->set_text(Shown(text->text, kTextBytesMax));
    emit(text->text.size() > kTextBytesMax ? v1::SAMPLE_FLAG_TRUNCATED : 0);
  } else if (const Histogram* histogram = std::get_if<Histogram>(&from)) {
    ConvertHistogram(*histogram, piece()->mutable_histogram());
    emit(0);
  } else if (const TensorValue* tensor = std::get_if<TensorValue>(&from)) {
    size_t offset = 0;
    do {
      const size_t end = std::min(offset + kTensorPieceElements, tensor->values.size());
      v1::Tensor* to = piece()->mutable_tensor();
      to->set_form(ToProto(tensor->form));
      to->mutable_sizes()->Add(tensor->sizes.begin(), tensor->sizes.end());
      to->set_offset(offset);
      to->mutable_values()->Add(tensor->values.begin() + static_cast<std::ptrdiff_t>(offset),
                                tensor->values.begin() + static_cast<std::ptrdiff_t>(end));
      emit(0);
      offset = end;
    } while (offset < tensor->values.size());
  }
}

Histogram FromProto(const v1::Histogram& from) {
  Histogram to;
  to.min = from.min();
  to.max = from.max();
  to.n = from.n();
  to.sum = from.sum();
  to.sum_squares = from.sum_squares();
  to.nans = from.nans();
  to.positive_infinities = from.positive_infinities();
  to.negative_infinities = from.negative_infinities();
  to.counts.assign(from.counts().begin(), from.counts().end());
  return to;
}

Answer<Value> FromProto(const v1::Value& from) {
  switch (from.kind_case()) {
    case v1::Value::kNumber:
      return Value(from.number());
    case v1::Value::kText:
      return Value(Text{from.text()});
    case v1::Value::kHistogram:
      return Value(FromProto(from.histogram()));
    case v1::Value::kTensor: {
      const v1::Tensor& tensor = from.tensor();
      if (tensor.offset() != 0) {
        return BadField("steps.values.value.tensor.offset", "a tensor is published in one piece: its offset is " +
                                                                std::to_string(tensor.offset()) + ", not 0");
      }
      TensorValue to;
      if (tensor.form() == v1::TENSOR_FORM_MATRIX) {
        to.form = TensorValue::Form::kMatrix;
      } else if (tensor.form() == v1::TENSOR_FORM_IMAGE) {
        to.form = TensorValue::Form::kImage;
      } else {
        return BadField("steps.values.value.tensor.form", "the form of a tensor is missing: a matrix or an image");
      }
      to.sizes.assign(tensor.sizes().begin(), tensor.sizes().end());
      to.values.assign(tensor.values().begin(), tensor.values().end());
      return Value(std::move(to));
    }
    case v1::Value::KIND_NOT_SET:
      break;
  }
  return BadField("steps.values.value", "a value is neither a number nor a text, a histogram or a tensor");
}

}  // namespace ikkuna::service
