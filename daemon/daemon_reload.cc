// SIGHUP: what of a daemon's configuration changes while it runs.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <set>
#include <utility>

#include "daemon/config_options.h"
#include "daemon/daemon.h"
#include "daemon/model/names.h"
#include "shared/places.h"

namespace ikkuna {

namespace {

// What the operator subscribes, by written form.
std::set<std::pair<std::string, SubscriberSource>> WrittenOf(const Config& config) {
  graph::SubscriberSet set;
  std::set<std::pair<std::string, SubscriberSource>> written;
  if (!AddSubscribers(config, set)) return written;
  for (const SubscriberInfo& info : set.List()) written.insert({info.text, info.source});
  return written;
}

}  // namespace

// All that were the operator's and are not any more go, then the others come. A client's stay, also where the operator
// asked for the same.
void Daemon::SwitchSubscribers(const Config& fresh) {
  const auto before = WrittenOf(config_), after = WrittenOf(fresh);
  if (before == after && subscribed_all_) return;
  std::vector<SavedSubscription> clients = subscribers_.Export();
  // One that a client had first and the operator asked for as well is the operator's no more.
  std::erase_if(clients, [&](const SavedSubscription& one) {
    const auto is = [&](const auto& item) { return item.first == one.text; };
    return one.owner.empty() && std::any_of(before.begin(), before.end(), is) &&
           std::none_of(after.begin(), after.end(), is);
  });
  for (const auto& [text, source] : before) {
    if (after.contains({text, source})) continue;
    // One that a client had removed is not there.
    static_cast<void>(subscribers_.Remove({SubscriberChoice::By::kText, 0, text}));
  }
  const Status added = AddSubscribers(fresh, subscribers_);
  subscribed_all_ = added.ok();
  if (!added) {
    Tell(Severity::kWarning, "subscription_failed",
         "not all of the new configuration is subscribed: " + added.error().text + "; the next SIGHUP tries again");
  }
  for (const auto& lost : subscribers_.Restore(clients)) {
    const std::string owner = lost.saved.owner.empty() ? "the operator" : lost.saved.owner;
    Tell(Severity::kWarning, "subscription_not_restored",
         lost.saved.text + ", which " + owner +
             " subscribed, is off since the operator had the configuration read again: " + lost.why);
  }
  kept_subscriptions_->Save();
  ingest_->WakeAll();
}

void Daemon::Reload(const Result<Config>& fresh) {
  const auto refuse = [this](const std::string& why) {
    Tell(Severity::kWarning, "reload_failed", "the configuration stays as it is: " + why);
  };
  if (!fresh) return refuse(fresh.error().text);
  // Of what cannot change now the old value stays in force.
  Config next = config_;
  Config wanted = *fresh;
  if (auto data_directory = DataDirectory(wanted.data_dir)) wanted.data_dir = *data_directory;
  std::vector<std::string> changed, later;
  for (const ConfigOption& option : ConfigOptions()) {
    const OptionValue value = option.get(wanted);
    if (value == option.get(config_)) continue;
    if (option.takes_effect == TakesEffect::kAtStart) {
      later.push_back(option.key);
      continue;
    }
    if (auto set = option.set(next, value); !set) return refuse(set.error().text);
    changed.push_back(option.key);
  }
  next.subscribe_from_file = wanted.subscribe_from_file;
  if (auto checked = CheckConfig(next); !checked) return refuse(checked.error().text);
  // What can fail comes first, so that the old configuration stays in force as a whole.
  if (auto open = shm::PrepareDirectory(directory_, !next.allow_uid.empty()); !open) return refuse(open.error().text);
  if (auto reloaded = server_->Reload(ServerOptionsOf(next, directory_)); !reloaded) {
    return refuse(reloaded.error().text);
  }
  // Before the door opens; where it closes again, what the others have recorded stays theirs until the next start.
  if (!UidsOf(next).empty()) ingest_->ExpectSeveralUsers();
  if (auto allowed = acceptor_->Allow(UidsOf(next)); !allowed) {
    Tell(Severity::kWarning, "reload_failed", "trainers of other users connect as before: " + allowed.error().text);
  }
  for (const std::string& note : server_->notes()) spdlog::warn("{}", note);
  SwitchSubscribers(next);
  spdlog::set_level(spdlog::level::from_str(next.log_level));
  config_ = std::move(next);
  std::string text = "the configuration, tokens and certificates were read again";
  if (!changed.empty()) text += "; changed: " + Listed(changed);
  if (!later.empty()) text += "; at the next start of the daemon: " + Listed(later);
  Tell(Severity::kInfo, "reloaded", text);
}

}  // namespace ikkuna
