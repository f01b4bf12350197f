#include "daemon/monitor/core_subscribers.h"

#include <algorithm>
#include <utility>

#include "daemon/graph/written_form.h"
#include "daemon/model/names.h"
#include "daemon/monitor/run_names.h"
#include "shared/base/suggestion.h"

namespace ikkuna {
namespace {

constexpr size_t kNamed = 8;  // modules of a list in a sentence

}  // namespace

std::vector<MetricInfo> CoreSubscribers::ListMetrics() { return parts_.subscribers->Metrics(); }

Answer<std::vector<SubscriberInfo>> CoreSubscribers::ListSubscribers(const std::string& run) {
  std::vector<SubscriberInfo> all = parts_.subscribers->List();
  if (!run.empty()) {
    Answer<std::vector<RunInfo>> runs = FindRun(*parts_.recorded, run);
    if (!runs) return runs.failure();
    const ProducerInfo& meant = runs->front().info;
    std::erase_if(all, [&](const SubscriberInfo& one) {
      return !MatchesPatterns(one.run, meant.run_key.run_id) && !MatchesPatterns(one.run, meant.run);
    });
  }
  std::sort(all.begin(), all.end(), [](const SubscriberInfo& a, const SubscriberInfo& b) { return a.id < b.id; });
  return all;
}

// Whoever may only read may have more computed of their own runs: each subscriber has to name one.
std::optional<Failure> CoreSubscribers::Refusal(const Caller& caller, const std::string& text) const {
  if (caller.role == Role::kControl) return {};
  Result<std::vector<graph::WrittenSubscriber>> written = graph::ParseWritten(text);
  if (!written) return Failure(written.error());
  for (const graph::WrittenSubscriber& one : *written) {
    std::string run;
    for (const auto& [name, value] : one.options) {
      if (name == "run") run = value;
    }
    if (!IsLiteral(run)) {
      return Failure{
          ErrorCode::kPermissionDenied,
          caller.name + " may subscribe for runs of their own only: name one, as in " + one.name + "(..., run=RUN_ID)",
          Reason::kRole, caller.name};
    }
    Result<std::vector<RunInfo>> runs = parts_.recorded->FindRuns(run);
    if (!runs) return Failure(runs.error());
    const bool theirs = !runs->empty() && std::all_of(runs->begin(), runs->end(), [&](const RunInfo& info) {
      return caller.MayChange(info.info.uid);
    });
    if (!theirs) {
      return Failure{ErrorCode::kPermissionDenied,
                     "run '" + run + "' is not of " + caller.name + ", who may subscribe for runs of their own only",
                     Reason::kRole, caller.name};
    }
  }
  return {};
}

// Of subscribers whose modules no connected run has. With no run connected nothing can be said.
std::vector<std::string> CoreSubscribers::Warnings(const std::vector<SubscriberInfo>& subscribers) const {
  std::vector<std::string> names;
  for (const ProducerStatus& producer : parts_.ingest->Producers()) {
    const auto modules = parts_.ingest->Modules(producer.info.run_key);
    if (!modules) continue;
    for (const ModuleInfo& module : *modules) names.push_back(module.name);
  }
  std::vector<std::string> warnings;
  if (names.empty()) return warnings;
  for (const SubscriberInfo& subscriber : subscribers) {
    const auto matches = [&](const std::string& name) { return MatchesPatterns(subscriber.module, name); };
    if (std::any_of(names.begin(), names.end(), matches)) continue;
    warnings.push_back("module=" + subscriber.module + " matches no module of a run that is connected" +
                       Suggestion(subscriber.module, names) + " There are " + Listed(names, kNamed));
  }
  return warnings;
}

void CoreSubscribers::TellOwners(const Caller& caller, const SubscriberChoice& choice,
                                 const std::vector<SubscriberInfo>& removed) const {
  for (const SubscriberInfo& one : removed) {
    std::vector<std::string> owners = one.owners;
    std::erase(owners, caller.name);
    if (one.source == SubscriberSource::kConfig || one.source == SubscriberSource::kFlag) {
      owners.emplace_back("the daemon's operator");
    }
    if (owners.empty()) continue;
    parts_.ingest->OfferEvent(Severity::kWarning, "subscription_removed",
                              one.text + " (subscriber " + std::to_string(one.id) + "), which " +
                                  Listed(owners, kNamed) + " subscribed, is off since " + caller.name +
                                  " unsubscribed " + Describe(choice) + ".");
  }
}

void CoreSubscribers::Changed() const {
  parts_.ingest->WakeAll();
  if (parts_.on_subscriptions) parts_.on_subscriptions();
}

Answer<SubscribeAnswer> CoreSubscribers::AddSubscribers(const Caller& caller, const std::string& text) {
  if (std::optional<Failure> refusal = Refusal(caller, text)) return *std::move(refusal);
  Answer<SubscribeAnswer> added = publisher_.UnlessPublished(text, [&]() -> Answer<SubscribeAnswer> {
    Result<SubscribeAnswer> answer = parts_.subscribers->Add(text, SubscriberSource::kClient, caller.name);
    if (!answer) {
      // Of what is there already only a topic can be in the way.
      const bool taken = answer.error().code == ErrorCode::kAlreadyExists;
      const Reason reason = taken ? Reason::kTopicTaken : Failure(answer.error()).reason;
      return Failure{answer.error().code, answer.error().text, reason,
                     reason == Reason::kBadField ? "text"
                     : reason == Reason::kLimit  ? "subscribers"
                                                 : text};
    }
    return *std::move(answer);
  });
  if (!added) return added.failure();
  added->warnings = Warnings(added->subscribers);
  Changed();
  return *std::move(added);
}

Answer<UnsubscribeAnswer> CoreSubscribers::RemoveSubscribers(const Caller& caller, const SubscriberChoice& choice) {
  const std::optional<std::string> owner =
      caller.role == Role::kControl ? std::nullopt : std::optional<std::string>(caller.name);
  Result<UnsubscribeAnswer> removed = parts_.subscribers->Remove(choice, owner);
  if (!removed) {
    if (removed.error().code == ErrorCode::kNotFound) {
      return Failure{ErrorCode::kNotFound, removed.error().text, Reason::kNoSuchObject,
                     choice.by == SubscriberChoice::By::kId ? std::to_string(choice.id) : choice.text};
    }
    if (removed.error().code != ErrorCode::kPermissionDenied) return removed.error();
    return Failure{ErrorCode::kPermissionDenied, removed.error().text, Reason::kRole, caller.name};
  }
  TellOwners(caller, choice, removed->removed);
  Changed();
  return *std::move(removed);
}

}  // namespace ikkuna
