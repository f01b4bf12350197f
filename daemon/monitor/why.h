// Why: what is missing of a run, of a module or of a kind, and for which reason.
//
// Pure: everything it knows is in its arguments. Thread rule: none, no state.
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/graph/subscriber_entry.h"
#include "daemon/model/missing.h"
#include "daemon/model/query.h"
#include "daemon/model/run.h"
#include "daemon/model/status.h"

namespace ikkuna {

enum class WhyReason : uint8_t {
  // As MissReason, in its order: read by the graph, and nothing came of it.
  kWithheld = 0,
  kIncomplete,
  kNoTensor,
  kUnnamed,
  kDiscarded,
  kSilent,
  kRepeated,
  kQueueFull,
  kMemoryFull,
  kCancelled,
  kThrew,
  kRefused,
  kSuppressed,
  kNoStep,
  kLate,
  kFailed,
  kNotAsked,     // no subscriber reads it
  kThinned,      // the budget makes its steps rarer than was asked
  kDropped,      // the trainer had no room for it
  kLost,         // an earlier daemon ended with it, or the trainer died over it
  kNoDaemon,     // no daemon was connected then
  kNotYet,       // asked, but no step that is due has been closed
  kNoGradient,   // its parameters are frozen, or no gradient reached them
  kNeverCalled,  // the trainer did not use it
  kUncaptured,   // the probe cannot see it
  kUnrecorded,   // the store did not keep it
  kCoarsened,    // the store thinned it away
  kNotLookedAt,  // the run has more series than are looked at
};
std::string_view WhyReasonName(WhyReason reason);  // "withheld", ..., "not_asked", "no_gradient", ...

// A subscriber as far as it asks something of a run.
struct Asked {
  std::string text;  // written form
  uint64_t kinds = 0;
  bool tensors = false;  // it needs them whole
  std::string root;      // patterns
  std::string module;    // patterns
  std::string tag;
  uint32_t period = 1;
  bool off = false;  // it threw
  std::vector<std::string> topics;
  MissCounts missing{};  // over all runs
};
// Those of the set that look at this run.
std::vector<Asked> AskedOf(const std::vector<std::shared_ptr<graph::SubscriberEntry>>& entries,
                           const ProducerInfo& producer);

struct WhyInput {
  std::vector<Asked> asked;  // of the daemon that had the run; none of a later one
  // False: nobody knows who asks. Of a run that is over that makes no difference: its status says what was asked.
  bool asked_known = true;
  ProducerStatus status;
  std::vector<ModuleInfo> modules;
  std::vector<SeriesInfo> series;  // of the run
  std::set<std::string> topics_of_clients;  // that they publish to the run
  bool series_cut = false;         // there are more: of what is not among them nothing is known
  std::vector<Count> unrecorded;   // values of it that the store did not keep, by reason
  bool paused = false;             // nothing is recorded now, for want of room on the disk
};

struct WhyLine {
  WhyReason reason = WhyReason::kNotAsked;
  std::string module;      // empty: the run as a whole
  std::string kind;        // empty: all
  std::string subscriber;  // written form; empty: all
  uint64_t count = 0;      // 0: a state
  std::string text;        // one sentence: what is missing, why, and what would change it
  bool operator==(const WhyLine&) const = default;
};

// `module` and `kind` are patterns; empty: all. The most general first. None: nothing is missing.
std::vector<WhyLine> ExplainMissing(const WhyInput& input, const std::string& module, const std::string& kind);

}  // namespace ikkuna
