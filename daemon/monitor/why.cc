#include "daemon/monitor/why.h"

#include <algorithm>
#include <array>
#include <optional>
#include <set>
#include <utility>

#include "daemon/model/names.h"
#include "shared/codes.h"

namespace ikkuna {

namespace {

static_assert(static_cast<size_t>(WhyReason::kNotAsked) == kMissReasonCount, "MissReason has another length");

constexpr Kind kMetaKinds[] = {Kind::kInputData, Kind::kInputLabels,  Kind::kNetworkOutput, Kind::kLoss,
                               Kind::kScalar,    Kind::kLearningRate, Kind::kText};
constexpr Kind kDataKinds[] = {Kind::kWeights,       Kind::kBiases,         Kind::kWeightGradients,
                               Kind::kBiasGradients, Kind::kWeightUpdates,  Kind::kBiasUpdates,
                               Kind::kActivations,   Kind::kLayerGradients, Kind::kRawWeightGradients,
                               Kind::kExpAvg,        Kind::kExpAvgSq,       Kind::kBuffers};

bool IsScalarKind(Kind kind) { return kind == Kind::kLearningRate || kind == Kind::kScalar || kind == Kind::kText; }

// Needs a gradient of a parameter.
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

// What a module may have of a kind, whether anybody asks or not.
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

// `name` stands in `text` as a whole path, not as a part of a longer one.
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

// Notes also tell of weaker guarantees; those that name something unseen are meant.
bool TellsOfUncaptured(const std::string& note) {
  for (const char* word : {"captured", "not watched", "not heard", "switched itself off"}) {
    if (note.find(word) != std::string::npos) return true;
  }
  return false;
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
  };
  for (const auto& [name, text] : kTexts) {
    if (name == reason) return text;
  }
  return "the trainer's probe says no more";
}

std::string_view MissText(MissReason reason) {
  switch (reason) {
    case MissReason::kWithheld:
      return "withheld: some of the messages that they need were dropped, or a call is missing in the step; see what "
             "was "
             "dropped";
    case MissReason::kIncomplete:
      return "incomplete: a part of what they are made of never came";
    case MissReason::kNoTensor:
      return "not computed: the message came as statistics, the tensor itself was too large for the arena; raise "
             "IKKUNA_ARENA_MB";
    case MissReason::kUnnamed:
      return "not used: they bear an id without a name";
    case MissReason::kDiscarded:
      return "given up: their beginning was not seen, or their end was lost";
    case MissReason::kSilent:
      return "given up: nothing came of them for too long";
    case MissReason::kRepeated:
      return "refused: they belong to steps that were closed before; let the trainer go on counting, or attach it with "
             "a "
             "start step";
    case MissReason::kQueueFull:
      return "dropped for newer ones: the subscriber is slower than the trainer; give it a larger subsample";
    case MissReason::kMemoryFull:
      return "dropped: copies found no room; raise --memory-mb";
    case MissReason::kCancelled:
      return "cancelled: the subscriber was removed, or its producer or the daemon ended first";
    case MissReason::kThrew:
      return "lost: the subscriber threw, and was switched off; see 'ikkuna events'";
    case MissReason::kRefused:
      return "refused: of another type than their series, or the catalogue of series is full";
    case MissReason::kSuppressed:
      return "not repeated: they came soon after one of the same rule";
  }
  return "missing";
}

constexpr std::string_view kWhatMissed[kMissReasonCount] = {"results", "results", "messages", "messages", "steps",
                                                            "steps",   "values",  "steps",    "messages", "steps",
                                                            "calls",   "values",  "events"};

class Explainer {
 public:
  Explainer(const WhyInput& input, const std::string& module, const std::string& kind)
      : input_(input), module_(module), kind_(kind) {
    for (const SeriesInfo& info : input.series) {
      if (info.count == 0 && info.thinned == 0) continue;
      kept_.emplace(info.series->name.topic, info.series->name.module);
      topics_.insert(info.series->name.topic);
    }
  }

  std::vector<WhyLine> Explain() {
    OfTheRun();
    OfBudget();
    OfSubscribers();
    OfNotes();
    if (input_.asked_known) {
      OfKinds();
      OfModules();
    }
    return std::move(lines_);
  }

 private:
  bool narrowed() const { return !module_.empty() || !kind_.empty(); }

  void Say(WhyReason reason, std::string module, std::string kind, std::string subscriber, uint64_t count,
           std::string text) {
    lines_.push_back({reason, std::move(module), std::move(kind), std::move(subscriber), count, std::move(text)});
  }

  bool KindMatters(Kind kind) const { return MatchesPatterns(kind_, KindName(kind)); }
  bool AnyKindMatters(uint64_t kinds) const {
    const auto matters = [&](Kind kind) { return (kinds & KindBit(kind)) != 0 && KindMatters(kind); };
    return std::any_of(std::begin(kMetaKinds), std::end(kMetaKinds), matters) ||
           std::any_of(std::begin(kDataKinds), std::end(kDataKinds), matters);
  }

  // What is true whatever is asked for.
  void OfTheRun() {
    const ProducerStatus& status = input_.status;
    if (status.state == RunState::kQuarantined) {
      Say(WhyReason::kUncaptured, {}, {}, {}, 0,
          "nothing more is read of this run: what it wrote broke the format; see 'ikkuna events'");
    }
    if (status.state == RunState::kSwitchedOff) {
      Say(WhyReason::kUncaptured, {}, {}, {}, 0, "nothing more comes of this run: its probe switched itself off");
    }
    if (status.steps_total > status.steps_while_connected) {
      const uint64_t unseen = status.steps_total - status.steps_while_connected;
      Say(WhyReason::kNoDaemon, {}, {}, {}, unseen,
          std::to_string(unseen) + " of " + std::to_string(status.steps_total) +
              " steps went by while no daemon was connected");
    }
    for (const Count& drop : status.drops) {
      if (drop.count == 0) continue;
      Say(WhyReason::kDropped, {}, {}, {}, drop.count,
          std::to_string(drop.count) + " messages were dropped (" + drop.reason +
              "): " + std::string(DropText(drop.reason)));
    }
    if (status.lost_in_daemon + status.killed != 0) {
      Say(WhyReason::kLost, {}, {}, {}, status.lost_in_daemon + status.killed,
          std::to_string(status.lost_in_daemon) +
              " messages were lost with a daemon that ended before it had kept them, " + std::to_string(status.killed) +
              " with a trainer that died over them");
    }
    for (const Count& miss : status.missing) {
      for (size_t i = 0; i < kMissReasonCount; ++i) {
        if (miss.count == 0 || miss.reason != MissReasonName(static_cast<MissReason>(i))) continue;
        Say(static_cast<WhyReason>(i), {}, {}, {}, miss.count,
            std::to_string(miss.count) + " " + std::string(kWhatMissed[i]) + " of all subscribers were " +
                std::string(MissText(static_cast<MissReason>(i))));
      }
    }
  }

  void OfBudget() {
    struct Level {
      const char* what;
      uint32_t factor;
      bool asked;
    };
    Level levels[] = {{"whole tensors", input_.status.period_factor_tensor, false},
                      {"statistics", input_.status.period_factor_summary, false},
                      {"scalars", input_.status.period_factor_scalar, false}};
    for (const Asked& asked : input_.asked) {
      if (asked.off || !AnyKindMatters(asked.kinds)) continue;
      const uint64_t scalars = KindBit(Kind::kLearningRate) | KindBit(Kind::kScalar) | KindBit(Kind::kText);
      levels[2].asked |= (asked.kinds & scalars) != 0;
      if ((asked.kinds & ~scalars) != 0) levels[asked.tensors ? 0 : 1].asked = true;
    }
    for (const Level& level : levels) {
      if (level.factor <= 1 || !level.asked) continue;
      std::string percent = std::to_string(input_.status.budget * 100);
      percent.resize(std::min(percent.size(), percent.find('.') + 3));
      Say(WhyReason::kThinned, {}, {}, {}, 0,
          std::string(level.what) + " come at every " + std::to_string(level.factor) +
              "th of the steps that were asked for, to stay within the budget of " + percent +
              " % of the step time; raise --budget or ask more rarely");
    }
  }

  void OfSubscribers() {
    for (const Asked& asked : input_.asked) {
      if (asked.kinds != 0 && !AnyKindMatters(asked.kinds)) continue;
      if (asked.kinds == 0 && !kind_.empty()) continue;  // of topics
      if (asked.off) {
        Say(WhyReason::kThrew, {}, {}, asked.text, 0,
            "'" + asked.text + "' threw, and was switched off; see 'ikkuna events', remove it and add it again");
      }
      for (size_t i = 0; i < kMissReasonCount; ++i) {
        if (asked.missing[i] == 0) continue;
        Say(static_cast<WhyReason>(i), {}, {}, asked.text, asked.missing[i],
            "of '" + asked.text + "', over all runs, " + std::to_string(asked.missing[i]) + " " +
                std::string(kWhatMissed[i]) + " were " + std::string(MissText(static_cast<MissReason>(i))));
      }
    }
  }

  // A note goes to the module that it names, else to the run.
  void OfNotes() {
    for (const std::string& note : input_.status.notes) {
      if (!TellsOfUncaptured(note)) continue;
      const ModuleInfo* about = nullptr;
      for (const ModuleInfo& module : input_.modules) {
        if (Names(note, module.name) && (about == nullptr || module.name.size() > about->name.size())) about = &module;
      }
      const auto names = [&](Kind kind) { return Names(note, std::string(KindName(kind))); };
      const auto* const kind = std::find_if(std::begin(kDataKinds), std::end(kDataKinds), names);
      const bool has_kind = kind != std::end(kDataKinds);
      if (has_kind && !KindMatters(*kind)) continue;
      if (about != nullptr && !MatchesPatterns(module_, about->name)) continue;
      if (about != nullptr) noted_.emplace(about->name, has_kind ? *kind : Kind::kInvalid);
      Say(WhyReason::kUncaptured, about == nullptr ? "" : about->name, has_kind ? std::string(KindName(*kind)) : "", {},
          0, note);
    }
  }

  bool AskedAtAll(Kind kind) const {
    return std::any_of(input_.asked.begin(), input_.asked.end(),
                       [&](const Asked& asked) { return !asked.off && (asked.kinds & KindBit(kind)) != 0; });
  }
  // Something that was made of the kind is kept; `module`: of it (null: of any).
  bool Kept(Kind kind, const std::string* module) const {
    for (const Asked& asked : input_.asked) {
      if ((asked.kinds & KindBit(kind)) == 0) continue;
      for (const std::string& topic : asked.topics) {
        if (module == nullptr ? topics_.contains(topic) : kept_.contains({topic, *module})) return true;
      }
    }
    return false;
  }

  bool StepsWereSeen() const {
    return std::any_of(input_.status.roots.begin(), input_.status.roots.end(),
                       [](const RootStatusInfo& root) { return root.steps_observed != 0; });
  }

  // Kinds that nobody asks for, or that are asked and of which nothing at all has come.
  void OfKinds() {
    std::vector<std::string> unasked;
    const auto look = [&](Kind kind, bool meta) {
      if (!KindMatters(kind)) return;
      const std::string name(KindName(kind));
      if (!AskedAtAll(kind)) {
        unasked.push_back(name);
        return;
      }
      if (Kept(kind, nullptr)) return;
      if (!StepsWereSeen() && !IsScalarKind(kind) && !IsDone()) {
        Say(WhyReason::kNotYet, {}, name, {}, 0,
            name + " are asked for at steps that are multiples of " + std::to_string(Period(kind)) +
                ", and none of these has been closed whole yet");
      } else if (meta) {
        Say(WhyReason::kNeverCalled, {}, name, {}, 0, MetaText(kind));
      }
    };
    for (const Kind kind : kMetaKinds) {
      if (module_.empty()) look(kind, true);
    }
    for (const Kind kind : kDataKinds) look(kind, false);
    if (unasked.empty()) return;
    if (!narrowed()) {
      Say(WhyReason::kNotAsked, {}, {}, {}, 0,
          "no subscriber reads " + Listed(unasked) + "; see 'ikkuna subscribe --help'");
      return;
    }
    for (const std::string& name : unasked) {
      Say(WhyReason::kNotAsked, {}, name, {}, 0,
          "no subscriber reads " + name + ": subscribe to one, such as 'ikkuna subscribe \"" +
              (name == "scalar" || name == "text" || name == "learning_rate" || name == "loss" ? name
                                                                                               : "mean(" + name + ")") +
              "\"'");
    }
  }

  bool IsDone() const { return !IsOpen(input_.status.state); }

  uint32_t Period(Kind kind) const {
    uint32_t least = 0;
    for (const Asked& asked : input_.asked) {
      if ((asked.kinds & KindBit(kind)) == 0 || asked.off) continue;
      least = least == 0 ? asked.period : std::min(least, asked.period);
    }
    return std::max(least, 1u);
  }

  static std::string MetaText(Kind kind) {
    switch (kind) {
      case Kind::kLearningRate:
        return "no learning rate came: attach the optimizer to the probe";
      case Kind::kScalar:
        return "the trainer logged no number";
      case Kind::kText:
        return "the trainer logged no text";
      default:
        return "no " + std::string(KindName(kind)) +
               " came: no loss function that is known was called; give the loss with probe.Loss()";
    }
  }

  void OfModules() {
    for (const ModuleInfo& module : input_.modules) {
      if (!MatchesPatterns(module_, module.name)) continue;
      for (const Kind kind : kDataKinds) {
        if (KindMatters(kind) && AskedAtAll(kind) && HasKind(module, kind)) OfModule(module, kind);
      }
    }
  }

  void OfModule(const ModuleInfo& module, Kind kind) {
    const std::string name(KindName(kind));
    if (noted_.contains({module.name, kind}) || noted_.contains({module.name, Kind::kInvalid})) return;
    const auto reads = [&](const Asked& asked) {
      return !asked.off && (asked.kinds & KindBit(kind)) != 0 && MatchesPatterns(asked.module, module.name) &&
             MatchesPatterns(asked.root, module.root);
    };
    if (std::none_of(input_.asked.begin(), input_.asked.end(), reads)) {
      if (narrowed()) {
        Say(WhyReason::kNotAsked, module.name, name, {}, 0,
            "those who read " + name + " leave out '" + module.name + "': see their module= and root=");
      }
      return;
    }
    if (Kept(kind, &module.name)) return;
    if (NeedsGradient(kind) && !IsTrainable(module, kind)) {
      Say(WhyReason::kNoGradient, module.name, name, {}, 0, "'" + module.name + "' is frozen: it has no " + name);
      return;
    }
    // Of nobody: the module is not the reason.
    if (!Kept(kind, nullptr)) return;
    if (NeedsGradient(kind)) {
      Say(WhyReason::kNoGradient, module.name, name, {}, 0,
          "no gradient reached '" + module.name + "', while others had " + name +
              ": it takes no part in the loss, or its gradients are not kept");
    } else if (IsOfCalls(kind)) {
      Say(WhyReason::kNeverCalled, module.name, name, {}, 0,
          "'" + module.name + "' had no " + name +
              ", while others had: it was not called, or only passes on to modules within it, which have their own");
    } else {
      Say(WhyReason::kNeverCalled, module.name, name, {}, 0,
          "'" + module.name + "' had no " + name + ", while others had: its root did not train at the steps asked for");
    }
  }

  const WhyInput& input_;
  const std::string& module_;
  const std::string& kind_;
  std::set<std::pair<std::string, std::string>> kept_;  // topic and module of series with values
  std::set<std::string> topics_;
  std::set<std::pair<std::string, Kind>> noted_;
  std::vector<WhyLine> lines_;
};

}  // namespace

std::string_view WhyReasonName(WhyReason reason) {
  const auto index = static_cast<size_t>(reason);
  if (index < kMissReasonCount) return MissReasonName(static_cast<MissReason>(index));
  static constexpr std::string_view kNames[] = {"not_asked", "thinned",     "dropped",      "lost",      "no_daemon",
                                                "not_yet",   "no_gradient", "never_called", "uncaptured"};
  return index - kMissReasonCount < std::size(kNames) ? kNames[index - kMissReasonCount] : "invalid";
}

std::vector<Asked> AskedOf(const std::vector<std::shared_ptr<graph::SubscriberEntry>>& entries,
                           const ProducerInfo& producer) {
  std::vector<Asked> all;
  for (const auto& entry : entries) {
    const graph::Subscription& subscription = entry->subscription;
    if (!subscription.MatchesRun(producer.run_key.run_id, producer.run)) continue;
    Asked asked;
    asked.text = subscription.text;
    for (const graph::SubscriptionInput& input : subscription.inputs) {
      if (!input.is_topic()) asked.kinds |= KindBit(input.kind);
    }
    asked.tensors = subscription.definition.content == metrics::Content::kTensor;
    asked.root = subscription.root;
    asked.module = subscription.module;
    asked.period = subscription.subsample;
    asked.off = entry->off.load(std::memory_order_relaxed);
    asked.topics = subscription.topics;
    for (size_t i = 0; i < kMissReasonCount; ++i) asked.missing[i] = entry->missing[i].load(std::memory_order_relaxed);
    all.push_back(std::move(asked));
  }
  return all;
}

std::vector<WhyLine> ExplainMissing(const WhyInput& input, const std::string& module, const std::string& kind) {
  return Explainer(input, module, kind).Explain();
}

}  // namespace ikkuna
