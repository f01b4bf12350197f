#include "daemon/monitor/why.h"

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "daemon/model/counted.h"
#include "daemon/model/names.h"
#include "daemon/monitor/why_texts.h"
#include "shared/codes.h"

namespace ikkuna {

namespace {

constexpr const char* kDefaultTag = "default";  // of training
constexpr const char* kAmongLost = "; or all of it is among what was dropped, lost or came to nothing, see above";

static_assert(static_cast<size_t>(WhyReason::kNotAsked) == kMissReasonCount, "MissReason has another length");

class Explainer {
 public:
  Explainer(const WhyInput& input, const std::string& module, const std::string& kind)
      : input_(input), module_(module), kind_(kind) {
    for (const Asked& asked : input.asked) {
      for (const std::string& topic : asked.topics) {
        if (asked.kinds != 0) topics_[topic] |= asked.kinds;
      }
    }
    for (const SeriesInfo& info : input.series) {
      if (info.count == 0 && info.thinned == 0) continue;
      const SeriesName& name = info.series->name;
      const std::string& tag = name.timeline.tag;
      kept_tags_.insert(tag);
      // Of what is not asked now the topic's words tell; a client's own is made of nothing of the trainer's.
      const auto [topic, fresh] = topics_.try_emplace(name.topic, 0);
      if (fresh && !input.topics_of_clients.contains(name.topic)) topic->second = KindsInTopic(name.topic);
      kept_kinds_[tag] |= topic->second;
      kept_kinds_of_[{name.timeline.root, name.module}][tag] |= topic->second;
    }
    for (const ModuleInfo& module : input.modules) several_roots_ |= module.root != input.modules[0].root;
    for (const Count& count : input.unrecorded) {
      // What came twice is there.
      if (count.reason != "repeated" && count.reason != "no_series") unrecorded_ += count.count;
    }
  }

  std::vector<WhyLine> Explain() {
    OfTheRun();
    OfTheStore();
    OfBudget();
    OfSubscribers();
    OfNotes();
    if (input_.series_cut) {
      Say(WhyReason::kNotLookedAt, {}, {}, {}, input_.series.size(),
          "this run has more than the " + std::to_string(input_.series.size()) +
              " series that were looked at: which kinds and modules have none is not told; see 'ikkuna series "
              "--module'");
    } else {
      OfTags();
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
    return std::any_of(MetaKinds().begin(), MetaKinds().end(), matters) ||
           std::any_of(DataKinds().begin(), DataKinds().end(), matters);
  }

  // What is true whatever is asked for.
  void OfTheRun() {
    const ProducerStatus& status = input_.status;
    const auto some = [](const Count& count) { return count.count != 0; };
    lost_some_ = status.lost_in_daemon + status.killed != 0 ||
                 std::any_of(status.drops.begin(), status.drops.end(), some) ||
                 std::any_of(status.missing.begin(), status.missing.end(), some);
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
          Counted(drop.count, "message") + " " + Were(drop.count) + " dropped (" + drop.reason +
              "): " + std::string(DropText(drop.reason)));
    }
    if (status.lost_in_daemon + status.killed != 0) {
      Say(WhyReason::kLost, {}, {}, {}, status.lost_in_daemon + status.killed,
          Counted(status.lost_in_daemon, "message") + " " + Were(status.lost_in_daemon) +
              " lost with a daemon that ended before it had kept them, " + std::to_string(status.killed) +
              " with a trainer that died over them");
    }
    for (const RootStatusInfo& root : status.roots) {
      if (IsOpen(status.state) || root.steps_due <= root.steps_observed) continue;
      const uint64_t left = root.steps_due - root.steps_observed;
      Say(WhyReason::kLost, {}, {}, {}, left,
          Counted(left, "step") + " of the " + std::to_string(root.steps_due) + " of '" + root.name +
              "' that were asked for did not become complete: " + (left == 1 ? "it" : "they") +
              (left == 1 ? " lacks" : " lack") +
              " records, since some were dropped or lost or were not due when their pass began (a skipped step is "
              "known behind "
              "the next pass), or the trainer or a daemon ended within " +
              (left == 1 ? "it" : "them"));
    }
    for (const Count& miss : status.missing) {
      if (miss.reason == "void" && miss.count != 0) {
        Say(WhyReason::kDropped, {}, {}, {}, miss.count,
            Counted(miss.count, "message") + (miss.count == 1 ? " is" : " are") +
                " void: the probe failed while it wrote them");
      }
      if (miss.reason == "unready" && miss.count != 0) {
        Say(WhyReason::kDropped, {}, {}, {}, miss.count,
            std::to_string(miss.count) +
                " messages were announced and their values never came, or not in time (--unready-s), or not before the "
                "trainer or this daemon ended");
      }
      if (miss.reason == "crowded" && miss.count != 0) {
        Say(WhyReason::kDropped, {}, {}, {}, miss.count,
            Counted(miss.count, "message") + " " + Were(miss.count) + " announced and given up before " +
                (miss.count == 1 ? "its" : "their") +
                " values came, since too many waited: the trainer runs too many steps ahead of its devices");
      }
      for (size_t i = 0; i < kMissReasonCount; ++i) {
        if (miss.count == 0 || miss.reason != MissReasonName(static_cast<MissReason>(i))) continue;
        Say(static_cast<WhyReason>(i), {}, {}, {}, miss.count,
            Counted(miss.count, MissedThing(static_cast<MissReason>(i))) + " of all subscribers " + Were(miss.count) +
                " " + std::string(MissText(static_cast<MissReason>(i))));
      }
    }
  }

  void OfTheStore() {
    if (input_.paused && !IsDone()) {
      Say(WhyReason::kUnrecorded, {}, {}, {}, 0,
          "nothing is recorded now, for want of room on the disk: make room, or see --store-min-free-mb");
    }
    for (const Count& count : input_.unrecorded) {
      if (count.count == 0) continue;
      Say(WhyReason::kUnrecorded, {}, {}, {}, count.count,
          Counted(count.count, "value") + " of this run " + UnrecordedText(count.reason, count.count));
    }
    uint64_t thinned = 0;
    for (const SeriesInfo& info : input_.series) {
      const SeriesName& name = info.series->name;
      if (!MatchesPatterns(module_, name.module)) continue;
      if (!kind_.empty() && !AnyKindMatters(KindsInTopic(name.topic))) continue;
      thinned += info.thinned;
    }
    if (thinned == 0) return;
    Say(WhyReason::kCoarsened, {}, {}, {}, thinned,
        Counted(thinned, "value") + " " + Were(thinned) +
            " thinned away, the oldest first, so that the run fits into the store: see --store-max-mb");
  }
  // Of what is not there nobody knows whether it came, where values were not kept.
  void SayUnknown(std::string module, const std::string& name) {
    std::string of = module.empty() ? "" : " of '" + module + "'";
    Say(WhyReason::kUnrecorded, std::move(module), name, {}, 0,
        "no " + name + of +
            (input_.paused && unrecorded_ == 0 ? " is kept, and nothing is recorded now"
                                               : " is kept, and " + Counted(unrecorded_, "value") + " of this run " +
                                                     Were(unrecorded_) + " not recorded") +
            ": whether any came is not known");
  }
  bool MayHaveCome() const { return unrecorded_ > 0 || (input_.paused && !IsDone()); }

  void OfBudget() {
    struct Level {
      const char* what;
      uint32_t factor;
      bool asked;
    };
    Level levels[] = {{"whole tensors", input_.status.period_factor_tensor, false},
                      {"statistics", input_.status.period_factor_summary, false},
                      {"scalars", input_.status.period_factor_scalar, false}};
    const uint64_t scalars = KindBit(Kind::kLearningRate) | KindBit(Kind::kScalar) | KindBit(Kind::kText);
    if (IsDone() && AnyKindMatters(input_.status.kinds_asked)) {
      for (Level& level : levels) level.asked = true;  // which of them is not known any more
    }
    for (const Asked& asked : input_.asked) {
      if (IsDone() || asked.off || !AnyKindMatters(asked.kinds)) continue;
      levels[2].asked |= (asked.kinds & scalars) != 0;
      if ((asked.kinds & ~scalars) != 0) levels[asked.tensors ? 0 : 1].asked = true;
    }
    for (const Level& level : levels) {
      if (level.factor <= 1 || !level.asked) continue;
      std::string percent = std::to_string(input_.status.budget * 100);
      percent.resize(std::min(percent.size(), percent.find('.') + 3));
      Say(WhyReason::kThinned, {}, {}, {}, 0,
          std::string(level.what) + (IsDone() ? " came at one in " : " come at one in ") +
              std::to_string(level.factor) + " of the steps that were asked for, to stay within the budget of " +
              percent + " % of the step time; raise --budget or ask more rarely");
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
            "of '" + asked.text + "', over all runs, " +
                Counted(asked.missing[i], MissedThing(static_cast<MissReason>(i))) + " " + Were(asked.missing[i]) +
                " " + std::string(MissText(static_cast<MissReason>(i))));
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
      const auto kind = std::find_if(DataKinds().begin(), DataKinds().end(), names);
      const bool has_kind = kind != DataKinds().end();
      if (has_kind && !KindMatters(*kind)) continue;
      if (about != nullptr && !MatchesPatterns(module_, about->name)) continue;
      if (about != nullptr) noted_.emplace(about->name, has_kind ? *kind : Kind::kInvalid);
      Say(WhyReason::kUncaptured, about == nullptr ? "" : about->name, has_kind ? std::string(KindName(*kind)) : "", {},
          0, note);
    }
  }

  bool AskedAtAll(Kind kind) const {
    // Of a run that is over it is known what was asked of it.
    if (IsDone()) return (input_.status.kinds_asked & KindBit(kind)) != 0;
    return std::any_of(input_.asked.begin(), input_.asked.end(),
                       [&](const Asked& asked) { return !asked.off && (asked.kinds & KindBit(kind)) != 0; });
  }
  // Something that was made of the kind is kept; `module`: of it (null: of any); `tag`: under it (null: under any).
  bool Kept(Kind kind, const ModuleInfo* module = nullptr, const std::string* tag = nullptr) const {
    const std::map<std::string, uint64_t>* by_tag = &kept_kinds_;
    if (module != nullptr) {
      const auto found = kept_kinds_of_.find({module->root, module->name});
      if (found == kept_kinds_of_.end()) return false;
      by_tag = &found->second;
    }
    if (tag != nullptr) {
      const auto found = by_tag->find(*tag);
      return found != by_tag->end() && (found->second & KindBit(kind)) != 0;
    }
    return std::any_of(by_tag->begin(), by_tag->end(),
                       [&](const auto& one) { return (one.second & KindBit(kind)) != 0; });
  }

  bool StepsWereSeen() const {
    return std::any_of(input_.status.roots.begin(), input_.status.roots.end(),
                       [](const RootStatusInfo& root) { return root.steps_observed != 0; });
  }

  // A step at which it was asked for may have been closed: not that one was.
  bool MayHaveBeenDue(Kind kind) const {
    return std::any_of(input_.status.roots.begin(), input_.status.roots.end(),
                       [&](const RootStatusInfo& root) { return root.steps_observed >= Period(kind); });
  }
  // What is read for rules alone leaves no series by which it could be told that it came.
  bool LeavesNoSeries(Kind kind) const {
    bool asked = false;
    for (const Asked& one : input_.asked) {
      if (one.off || (one.kinds & KindBit(kind)) == 0) continue;
      if (!one.topics.empty()) return false;
      asked = true;
    }
    return asked;
  }

  // Of a tag under which nothing came, such as an evaluation that never was. Who asked a run that is over is not known.
  void OfTags() {
    if (IsDone() || MayHaveCome() || !StepsWereSeen()) return;
    for (const Asked& asked : input_.asked) {
      if (asked.off || asked.tag.empty() || asked.tag == kDefaultTag || kept_tags_.contains(asked.tag)) continue;
      if (asked.topics.empty()) continue;
      if (!AnyKindMatters(asked.kinds) || (!module_.empty() && !HasDataKind(asked.kinds))) continue;
      Say(WhyReason::kNeverCalled, {}, {}, asked.text, 0,
          "'" + asked.text + "' reads what bears the tag '" + asked.tag +
              "', and nothing of that came: the trainer has made no step or evaluation of that tag" +
              (lost_some_ ? kAmongLost : ""));
    }
  }
  static bool HasDataKind(uint64_t kinds) {
    return std::any_of(DataKinds().begin(), DataKinds().end(), [&](Kind kind) { return (kinds & KindBit(kind)) != 0; });
  }

  // One under which the kind is asked for, and other things came, but none of it; empty: there is none, or nobody knows.
  std::string LackingTag(Kind kind) const {
    for (const Asked& asked : input_.asked) {
      if (IsDone() || asked.off || asked.topics.empty() || (asked.kinds & KindBit(kind)) == 0) continue;
      const std::string tag = asked.tag.empty() ? kDefaultTag : asked.tag;
      const bool came = kept_tags_.contains(tag) || (tag == kDefaultTag && StepsWereSeen());
      if (came && !Kept(kind, nullptr, &tag)) return tag;
    }
    return {};
  }

  // Asked, steps were seen, all was recorded, and no module has any (under the tag, where there is one).
  void OfNoModule(Kind kind, const std::string& under) {
    const std::string name(KindName(kind));
    const auto noted = [&](const WhyLine& line) { return line.reason == WhyReason::kUncaptured && line.kind == name; };
    if (std::any_of(lines_.begin(), lines_.end(), noted)) return;
    const std::vector<ModuleInfo>& modules = input_.modules;
    if (!IsDone()) {
      bool tagged = true, matched = modules.empty();
      for (const Asked& asked : input_.asked) {
        if (asked.off || (asked.kinds & KindBit(kind)) == 0) continue;
        tagged = tagged && asked.tag != kDefaultTag && !kept_tags_.contains(asked.tag);
        matched = matched || std::any_of(modules.begin(), modules.end(), [&](const ModuleInfo& module) {
                    return MatchesPatterns(asked.module, module.name) && MatchesPatterns(asked.root, module.root);
                  });
      }
      if (tagged) return;  // said of its tag
      if (!matched) {
        Say(WhyReason::kNotAsked, {}, name, {}, 0,
            "those who read " + name + " name no module of this run: see their module= and root=");
        return;
      }
    }
    const auto has = [&](const ModuleInfo& module) { return HasKind(module, kind); };
    if (!modules.empty() && std::none_of(modules.begin(), modules.end(), has)) {
      Say(WhyReason::kNeverCalled, {}, name, {}, 0, "no module of this run has " + name);
      return;
    }
    const auto frozen = [&](const ModuleInfo& module) { return !has(module) || !IsTrainable(module, kind); };
    if (!modules.empty() && NeedsGradient(kind) && std::all_of(modules.begin(), modules.end(), frozen))
      return;  // of each
    std::string text = "no " + name + " came of any module" + under;
    text += ": " + std::string(NoneCameText(kind));
    if (IsDone()) text += "; or those who asked for it keep no series";
    if (lost_some_) text += kAmongLost;
    Say(WhyReason::kNeverCalled, {}, name, {}, 0, std::move(text));
  }

  // Kinds that nobody asks for, or that are asked and of which nothing at all has come.
  void OfKinds() {
    std::vector<std::string> unasked;
    const auto look = [&](Kind kind, bool meta) {
      if (!KindMatters(kind)) return;
      const std::string name(KindName(kind));
      if (!AskedAtAll(kind)) {
        if (!IsDone() || !Kept(kind)) unasked.push_back(name);
        return;
      }
      const std::string tag = Kept(kind) ? LackingTag(kind) : "";
      if (Kept(kind) && tag.empty()) return;
      const std::string under = tag.empty() ? "" : " under the tag '" + tag + "'";
      if (!IsDone() && LeavesNoSeries(kind)) return;
      if (!MayHaveBeenDue(kind) && !IsScalarKind(kind) && !IsDone()) {
        Say(WhyReason::kNotYet, {}, name, {}, 0,
            name + " are asked for at steps that are multiples of " + std::to_string(Period(kind)) +
                ", and none of these is known to have been closed whole yet");
      } else if (MayHaveCome()) {
        SayUnknown({}, name);
      } else if (meta) {
        Say(WhyReason::kNeverCalled, {}, name, {}, 0, MetaText(kind, under));
      } else {
        OfNoModule(kind, under);
      }
    };
    for (const Kind kind : MetaKinds()) {
      if (module_.empty()) look(kind, true);
    }
    for (const Kind kind : DataKinds()) look(kind, false);
    if (unasked.empty()) return;
    if (IsDone()) {
      Say(WhyReason::kNotAsked, {}, unasked.size() == 1 ? unasked[0] : "", {}, 0,
          "while the run went on no subscriber asked for " + Listed(unasked) +
              "; subscribe before the next one begins, see 'ikkuna subscribe --help'");
      return;
    }
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

  // Then what counts is what was asked of the run, not who asks now.
  bool IsDone() const { return !IsOpen(input_.status.state) || !input_.asked_known; }

  uint32_t Period(Kind kind) const {
    uint32_t least = 0;
    for (const Asked& asked : input_.asked) {
      if ((asked.kinds & KindBit(kind)) == 0 || asked.off) continue;
      least = least == 0 ? asked.period : std::min(least, asked.period);
    }
    return std::max(least, 1u);
  }

  static std::string MetaText(Kind kind, const std::string& under) {
    switch (kind) {
      case Kind::kLearningRate:
        return "no learning rate came: attach the optimizer to the probe";
      case Kind::kScalar:
        return "the trainer logged no number";
      case Kind::kText:
        return "the trainer logged no text";
      default:
        return "no " + std::string(KindName(kind)) + under +
               " came: no loss function that is known was called; give the loss with probe.Loss()";
    }
  }

  void OfModules() {
    for (const ModuleInfo& module : input_.modules) {
      if (!MatchesPatterns(module_, module.name)) continue;
      for (const Kind kind : DataKinds()) {
        if (KindMatters(kind) && AskedAtAll(kind) && HasKind(module, kind)) OfModule(module, kind);
      }
    }
  }

  void OfModule(const ModuleInfo& module, Kind kind) {
    const std::string name(KindName(kind));
    if (noted_.contains({module.name, kind}) || noted_.contains({module.name, Kind::kInvalid})) return;
    std::set<std::string> tags;  // under which it is asked for
    for (const Asked& asked : input_.asked) {
      const bool reads = !asked.off && (asked.kinds & KindBit(kind)) != 0 &&
                         MatchesPatterns(asked.module, module.name) && MatchesPatterns(asked.root, module.root);
      if (reads) tags.insert(asked.tag.empty() ? std::string(kDefaultTag) : asked.tag);
    }
    if (!IsDone() && tags.empty()) {
      if (narrowed()) {
        Say(WhyReason::kNotAsked, module.name, name, {}, 0,
            "those who read " + name + " leave out " + Shown(module) + ": see their module= and root=");
      }
      return;
    }
    const auto lacks = [&](const std::string* tag) { return !Kept(kind, &module, tag); };
    const bool lacking = IsDone() ? lacks(nullptr) : std::any_of(tags.begin(), tags.end(), [&](const std::string& tag) {
      return lacks(&tag);
    });
    if (lacking && NeedsGradient(kind) && !IsTrainable(module, kind)) {
      Say(WhyReason::kNoGradient, module.name, name, {}, 0, Shown(module) + " is frozen: it has no " + name);
      return;
    }
    if (IsDone()) return OfModuleUnder(nullptr, module, kind);
    for (const std::string& tag : tags) OfModuleUnder(&tag, module, kind);
  }

  // `tag`: under which it is asked for; null: it is not known under which.
  void OfModuleUnder(const std::string* tag, const ModuleInfo& module, Kind kind) {
    // Of nobody: the module is not the reason.
    if (Kept(kind, &module, tag) || !Kept(kind, nullptr, tag)) return;
    const std::string name(KindName(kind));
    if (MayHaveCome()) return SayUnknown(module.name, name);
    const std::string under = tag == nullptr || *tag == kDefaultTag ? "" : " under the tag '" + *tag + "'";
    if (NeedsGradient(kind)) {
      Say(WhyReason::kNoGradient, module.name, name, {}, 0,
          "no gradient reached " + Shown(module) + under + ", while others had " + name +
              ": it takes no part in the loss, or its gradients are not kept");
    } else if (IsOfCalls(kind)) {
      Say(WhyReason::kNeverCalled, module.name, name, {}, 0,
          Shown(module) + " had no " + name + under +
              ", while others had: it was not called, or only passes on to modules within it, which have their own" +
              (IsDone() ? "; or those who asked left it out" : ""));
    } else {
      Say(WhyReason::kNeverCalled, module.name, name, {}, 0,
          Shown(module) + " had no " + name + under +
              ", while others had: its root did not train at the steps asked for");
    }
  }
  std::string Shown(const ModuleInfo& module) const {
    return "'" + module.name + "'" + (several_roots_ ? " of '" + module.root + "'" : "");
  }

  const WhyInput& input_;
  const std::string& module_;
  const std::string& kind_;
  std::map<std::string, uint64_t> topics_;  // with the kinds (KindBit) that each was made of
  std::map<std::string, uint64_t> kept_kinds_;  // sets of kinds, by tag
  std::map<std::pair<std::string, std::string>, std::map<std::string, uint64_t>> kept_kinds_of_;  // by root and module
  bool several_roots_ = false;
  std::set<std::string> kept_tags_;
  bool lost_some_ = false;   // messages of the run, or what would have been made of them
  uint64_t unrecorded_ = 0;  // values that came, and that the store did not keep
  std::set<std::pair<std::string, Kind>> noted_;
  std::vector<WhyLine> lines_;
};

}  // namespace

std::string_view WhyReasonName(WhyReason reason) {
  const auto index = static_cast<size_t>(reason);
  if (index < kMissReasonCount) return MissReasonName(static_cast<MissReason>(index));
  static constexpr std::string_view kNames[] = {"not_asked",  "thinned",    "dropped",     "lost",
                                                "no_daemon",  "not_yet",    "no_gradient", "never_called",
                                                "uncaptured", "unrecorded", "coarsened",   "not_looked_at"};
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
    asked.tag = subscription.tag;
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
