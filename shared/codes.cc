#include "shared/codes.h"

#include <array>
#include <utility>

namespace ikkuna {

namespace {

constexpr std::array<std::pair<Kind, std::string_view>, 25> kKindNames{{
    {Kind::kBatchStarted, "batch_started"},
    {Kind::kBatchFinished, "batch_finished"},
    {Kind::kEpochStarted, "epoch_started"},
    {Kind::kEpochFinished, "epoch_finished"},
    {Kind::kInputData, "input_data"},
    {Kind::kInputLabels, "input_labels"},
    {Kind::kNetworkOutput, "network_output"},
    {Kind::kLoss, "loss"},
    {Kind::kLearningRate, "learning_rate"},
    {Kind::kScalar, "scalar"},
    {Kind::kText, "text"},
    {Kind::kPassStarted, "pass_started"},
    {Kind::kPassesNamed, "passes_named"},
    {Kind::kWeights, "weights"},
    {Kind::kBiases, "biases"},
    {Kind::kWeightGradients, "weight_gradients"},
    {Kind::kBiasGradients, "bias_gradients"},
    {Kind::kWeightUpdates, "weight_updates"},
    {Kind::kBiasUpdates, "bias_updates"},
    {Kind::kActivations, "activations"},
    {Kind::kLayerGradients, "layer_gradients"},
    {Kind::kRawWeightGradients, "raw_weight_gradients"},
    {Kind::kExpAvg, "exp_avg"},
    {Kind::kExpAvgSq, "exp_avg_sq"},
    {Kind::kBuffers, "buffers"},
}};

}  // namespace

std::string_view KindName(Kind kind) {
  for (const auto& [known, name] : kKindNames) {
    if (known == kind) return name;
  }
  return "invalid";
}

std::optional<Kind> KindFromName(std::string_view name) {
  for (const auto& [kind, known] : kKindNames) {
    if (known == name) return kind;
  }
  return std::nullopt;
}

bool IsKnownKind(uint8_t code) { return (code >= 1 && code <= 13) || (code >= 16 && code <= 27); }

bool IsKnownRecordType(uint8_t code) { return code >= 1 && code <= 6; }

bool IsKnownDType(uint8_t code) { return code >= 1 && code <= 10; }

std::string_view DTypeName(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "float32";
    case DType::kF64:
      return "float64";
    case DType::kF16:
      return "float16";
    case DType::kBF16:
      return "bfloat16";
    case DType::kI8:
      return "int8";
    case DType::kU8:
      return "uint8";
    case DType::kI16:
      return "int16";
    case DType::kI32:
      return "int32";
    case DType::kI64:
      return "int64";
    case DType::kBool:
      return "bool";
    case DType::kInvalid:
      break;
  }
  return "invalid";
}

bool IsKnownLayout(uint8_t code) { return code == static_cast<uint8_t>(Layout::kRowMajor); }

bool IsKnownSpace(uint8_t code) { return code >= 1 && code <= 4; }

std::string_view DropReasonName(DropReason reason) {
  switch (reason) {
    case DropReason::kRingFull:
      return "ring_full";
    case DropReason::kArenaFull:
      return "arena_full";
    case DropReason::kPoolFull:
      return "pool_full";
    case DropReason::kOversize:
      return "oversize";
    case DropReason::kContended:
      return "contended";
    case DropReason::kReentrant:
      return "reentrant";
    case DropReason::kFailed:
      return "failed";
    case DropReason::kUnnamed:
      return "unnamed";
  }
  return "invalid";
}

}  // namespace ikkuna
