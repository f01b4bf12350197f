// What `why` knows of kinds, modules and reasons: which kinds there are, what a module may have, what is said about it.
//
// Thread rule: none, no state.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "daemon/model/missing.h"
#include "daemon/model/status.h"
#include "shared/codes.h"

namespace ikkuna {

std::span<const Kind> MetaKinds();
std::span<const Kind> DataKinds();
// What a trainer logs, or a rate: no tensor, which comes at every step.
bool IsScalarKind(Kind kind);
// Needs a gradient of a parameter.
bool NeedsGradient(Kind kind);
// Comes when a module is called.
bool IsOfCalls(Kind kind);
// What a module may have of a kind, whether anybody asks or not.
bool HasKind(const ModuleInfo& module, Kind kind);
// One of the parameters that a gradient kind is about is not frozen.
bool IsTrainable(const ModuleInfo& module, Kind kind);
// Set of the kinds (KindBit) that a topic was made of, as its name says.
uint64_t KindsInTopic(std::string_view topic);

// `name` stands in `text` as a whole path, not as a part of a longer one.
bool Names(const std::string& text, const std::string& name);
// Notes also tell of weaker guarantees; those that name something unseen are meant.
bool TellsOfUncaptured(const std::string& note);

// Why no module has any, and what helps.
std::string_view NoneCameText(Kind kind);
// What the reason of a drop means and what helps.
std::string_view DropText(const std::string& reason);
// What became of it and what helps; goes on from "7 values were ".
std::string_view MissText(MissReason reason);
// What is counted under the reason: "value", "step", ...
std::string_view MissedThing(MissReason reason);

}  // namespace ikkuna
