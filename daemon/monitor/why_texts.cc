#include "daemon/monitor/why_texts.h"

#include <algorithm>
#include <utility>

namespace ikkuna {
namespace {

constexpr Kind kMetaKindList[] = {Kind::kInputData, Kind::kInputLabels,  Kind::kNetworkOutput, Kind::kLoss,
                                  Kind::kScalar,    Kind::kLearningRate, Kind::kText};
constexpr Kind kDataKindList[] = {Kind::kWeights,       Kind::kBiases,         Kind::kWeightGradients,
                                  Kind::kBiasGradients, Kind::kWeightUpdates,  Kind::kBiasUpdates,
                                  Kind::kActivations,   Kind::kLayerGradients, Kind::kRawWeightGradients,
                                  Kind::kExpAvg,        Kind::kExpAvgSq,       Kind::kBuffers};

constexpr std::string_view kWhatMissed[kMissReasonCount] = {"result", "result",  "message", "message", "step", "step",
                                                            "value",  "step",    "message", "step",    "call", "value",
                                                            "event",  "message", "step",    "result"};

bool IsWordEnd(std::string_view text, size_t at) { return at >= text.size() || text[at] == '_' || text[at] == '@'; }

}  // namespace

std::span<const Kind> MetaKinds() { return kMetaKindList; }
std::span<const Kind> DataKinds() { return kDataKindList; }

uint64_t KindsInTopic(std::string_view topic) {
  topic = topic.substr(0, topic.find('@'));
  uint64_t kinds = 0;
  if (topic.find("accuracy") != std::string_view::npos) {
    kinds |= KindBit(Kind::kNetworkOutput) | KindBit(Kind::kInputLabels);
  }
  // From word to word; the longest name counts: weight_gradients are no weights.
  for (size_t at = 0; at < topic.size();) {
    Kind longest = Kind::kInvalid;
    size_t bytes = 0;
    const auto look = [&](Kind kind) {
      const std::string_view name = KindName(kind);
      if (name.size() <= bytes || topic.substr(at, name.size()) != name || !IsWordEnd(topic, at + name.size())) return;
      longest = kind;
      bytes = name.size();
    };
    std::for_each(std::begin(kMetaKindList), std::end(kMetaKindList), look);
    std::for_each(std::begin(kDataKindList), std::end(kDataKindList), look);
    if (longest != Kind::kInvalid) kinds |= KindBit(longest);
    const size_t next = topic.find('_', at + bytes);
    if (next == std::string_view::npos) break;
    at = next + 1;
  }
  return kinds;
}

bool IsScalarKind(Kind kind) { return kind == Kind::kLearningRate || kind == Kind::kScalar || kind == Kind::kText; }

bool NeedsGradient(Kind kind) {
  switch (kind) {
    case Kind::kWeightGradients:
    case Kind::kBiasGradients:
    case Kind::kWeightUpdates:
    case Kind::kBiasUpdates:
    case Kind::kRawWeightGradients:
    case Kind::kExpAvg:
    case Kind::kExpAvgSq:
      return true;
    default:
      return false;
  }
}

bool IsOfCalls(Kind kind) { return kind == Kind::kActivations || kind == Kind::kLayerGradients; }

bool HasKind(const ModuleInfo& module, Kind kind) {
  if (IsOfCalls(kind)) return true;
  const auto any = [&](auto&& test) { return std::any_of(module.params.begin(), module.params.end(), test); };
  using Param = ModuleInfo::Param;
  switch (kind) {
    case Kind::kBuffers:
      return any([](const Param& p) { return p.buffer; });
    case Kind::kBiases:
    case Kind::kBiasGradients:
    case Kind::kBiasUpdates:
      return any([](const Param& p) { return p.bias && !p.buffer; });
    case Kind::kExpAvg:
    case Kind::kExpAvgSq:
      return any([](const Param& p) { return !p.buffer; });
    default:
      return any([](const Param& p) { return !p.bias && !p.buffer; });
  }
}

bool IsTrainable(const ModuleInfo& module, Kind kind) {
  const bool biases = kind == Kind::kBiasGradients || kind == Kind::kBiasUpdates;
  const bool both = kind == Kind::kExpAvg || kind == Kind::kExpAvgSq;
  return std::any_of(module.params.begin(), module.params.end(), [&](const ModuleInfo::Param& p) {
    return !p.buffer && p.trainable && (both || p.bias == biases);
  });
}

bool Names(const std::string& text, const std::string& name) {
  if (name.empty()) return false;
  const auto inside = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
  };
  for (size_t at = text.find(name); at != std::string::npos; at = text.find(name, at + 1)) {
    const size_t end = at + name.size();
    const bool begins = at == 0 || (!inside(text[at - 1]) && text[at - 1] != '.');
    const bool ends = end == text.size() ||
                      (!inside(text[end]) && !(text[end] == '.' && end + 1 < text.size() && inside(text[end + 1])));
    if (begins && ends) return true;
  }
  return false;
}

bool TellsOfUncaptured(const std::string& note) {
  for (const char* word : {"captured", "not watched", "not heard", "switched itself off"}) {
    if (note.find(word) != std::string::npos) return true;
  }
  return false;
}

std::string_view NoneCameText(Kind kind) {
  switch (kind) {
    case Kind::kWeightGradients:
    case Kind::kBiasGradients:
      return "the trainer published none: no backward pass reached a parameter, or its gradients are gone when the "
             "step ends";
    case Kind::kRawWeightGradients:
      return "the trainer published none: they are there only where gradients are clipped or scaled within a step";
    case Kind::kWeightUpdates:
    case Kind::kBiasUpdates:
      return "the trainer published none: attach the optimizer to the probe";
    case Kind::kExpAvg:
    case Kind::kExpAvgSq:
      return "the trainer published none: attach the optimizer to the probe; one without that state, such as plain "
             "SGD, has none";
    case Kind::kActivations:
    case Kind::kLayerGradients:
      return "the trainer published none: no module that is watched was called in a step";
    default:
      return "the trainer published none";
  }
}

std::string_view DropText(const std::string& reason) {
  static constexpr std::pair<std::string_view, std::string_view> kTexts[] = {
      {"ring_full",
       "the ring was full: the daemon did not read in time; subscribe to less, or see its load in 'ikkuna status'"},
      {"arena_full", "the arena was full: ask for fewer whole tensors, or raise IKKUNA_ARENA_MB"},
      {"pool_full", "the device pool was full: ask for fewer whole tensors"},
      {"oversize", "the tensor is larger than the arena: raise IKKUNA_ARENA_MB"},
      {"contended", "several threads published at once: rare, and nothing to do about"},
      {"reentrant", "it was published from within a publish of its own thread"},
      {"failed", "the tensor could not be read: see the notes in 'ikkuna status'"},
      {"unnamed", "there was no room for one more name: see the notes in 'ikkuna status'"},
  };
  for (const auto& [name, text] : kTexts) {
    if (name == reason) return text;
  }
  return "the trainer's probe says no more";
}

std::string_view MissText(MissReason reason) {
  switch (reason) {
    case MissReason::kWithheld:
      return "withheld, since a part of the messages would make a wrong number: the trainer dropped others (see what "
             "was dropped), a call of the module is missing in the step, what another subscriber makes of them came to "
             "nothing (see what is missing of it: it threw, or its copies found no room), or a pass of the step was under "
             "way when the daemon or the subscriber came, which needs nothing done";
    case MissReason::kIncomplete:
      return "incomplete: a part of what goes in never came";
    case MissReason::kNoTensor:
      return "not computed: the message came as statistics. The tensor was too large for the arena (raise "
             "IKKUNA_ARENA_MB), or it came in the first seconds after whole tensors were asked for, while the trainer's "
             "memory for them is made ready, which needs nothing done";
    case MissReason::kUnnamed:
      return "not used: the id has no name";
    case MissReason::kDiscarded:
      return "given up: the beginning was not seen, or the end was lost";
    case MissReason::kSilent:
      return "given up: nothing came for too long";
    case MissReason::kRepeated:
      return "refused, and what came first stays: a step of the same number was closed before; let the trainer go on "
             "counting, attach it with a start step, or give it a run of its own; a second evaluation at one step "
             "takes "
             "a tag of its own";
    case MissReason::kQueueFull:
      return "dropped for newer ones: the subscriber is slower than the trainer; give it a larger subsample";
    case MissReason::kMemoryFull:
      return "dropped: copies found no room; raise --memory-mb";
    case MissReason::kCancelled:
      return "cancelled: the subscriber was removed, or its producer or the daemon ended first";
    case MissReason::kThrew:
      return "lost: the subscriber threw, and was switched off; see 'ikkuna events'";
    case MissReason::kRefused:
      return "refused: of another type than the series, or the catalogue of series is full";
    case MissReason::kSuppressed:
      return "not repeated so soon after one of the same rule";
    case MissReason::kNoStep:
      return "discarded: no step was made of the pass. The trainer skipped that batch (no backward pass reached it), "
             "which needs nothing done; or the first message of the pass or the end of its step was dropped (see what "
             "was "
             "dropped); or it waited for a step too long, took too much (then 'ikkuna events' has passes_overflow), or "
             "began before the daemon or its subscribers came";
    case MissReason::kLate:
      return "late: closed by this rank so long after the others that what is of all ranks went without it; see "
             "whether its process was stopped, or is slow";
    case MissReason::kFailed:
      return "lost: the daemon could not go on with it, most likely for want of memory";
  }
  return "missing";
}

std::string_view MissedThing(MissReason reason) { return kWhatMissed[static_cast<size_t>(reason)]; }

}  // namespace ikkuna
