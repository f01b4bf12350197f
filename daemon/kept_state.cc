#include "daemon/kept_state.h"

#include <toml++/toml.h>

#include <algorithm>
#include <utility>

#include "daemon/kept_file.h"
#include "shared/base/clock.h"

namespace ikkuna {

namespace {

constexpr char kBroken[] = "kept_file_broken";
constexpr char kNotWritten[] = "kept_file_not_written";

Event MakeEvent(Severity severity, const char* kind, std::string text) {
  Event event;
  event.unix_ns = UnixNs();
  event.severity = severity;
  event.kind = kind;
  event.text = std::move(text);
  return event;
}

// The file's table; an empty one where there is none, or none that can be understood.
toml::table LoadTable(const std::string& path, const char* what, const TellEvent& tell, std::string* text) {
  auto read = ReadKeptFile(path);
  std::string why;
  if (!read) {
    why = read.error().text;
  } else if (!read->has_value()) {
    return {};
  } else {
    try {
      toml::table table = toml::parse(**read);
      *text = std::move(**read);
      return table;
    } catch (const toml::parse_error& error) {
      why = "line " + std::to_string(error.source().begin.line) + ": " + std::string(error.description());
    }
  }
  const std::string aside = MoveAside(path);
  tell(MakeEvent(Severity::kWarning, kBroken,
                 std::string(what) + " cannot be read from '" + path + "' (" + why + ")" +
                     (aside.empty() ? "" : "; the file is now '" + aside + "'")));
  return {};
}

void Write(const std::string& path, std::string text, const char* what, const TellEvent& tell, std::string& written,
           std::string& failure) {
  if (text == written) return;
  if (auto done = WriteKeptFile(path, text); !done) {
    if (done.error().text == failure) return;
    failure = done.error().text;
    tell(MakeEvent(Severity::kWarning, kNotWritten,
                   std::string(what) + " would not survive a restart of the daemon now: " + failure));
    return;
  }
  failure.clear();
  written = std::move(text);
}

constexpr char kSubscriptions[] = "What clients subscribed";
constexpr char kCounters[] = "What sinks counted";

// Whatever a hand wrote there is no larger than what is counted.
uint64_t NumberOf(const toml::table& table, std::string_view key) {
  return static_cast<uint64_t>(std::max<int64_t>(table[key].value_or(int64_t{0}), 0));
}

std::string Line(const char* key, uint64_t number) {
  return std::string(key) + " = " + std::to_string(std::min<uint64_t>(number, INT64_MAX)) + "\n";
}

}  // namespace

KeptSubscriptions::KeptSubscriptions(const std::string& folder, graph::SubscriberSet& subscribers, TellEvent tell)
    : path_(folder + "/subscriptions.toml"), subscribers_(subscribers), tell_(std::move(tell)) {}

void KeptSubscriptions::Restore() {
  std::lock_guard lock(mutex_);
  const toml::table table = LoadTable(path_, kSubscriptions, tell_, &written_);
  const toml::array* list = table["subscription"].as_array();
  if (list == nullptr) return;
  std::vector<SavedSubscription> saved;
  for (const toml::node& node : *list) {
    const toml::table* one = node.as_table();
    if (one == nullptr) continue;
    SavedSubscription subscription;
    subscription.id = NumberOf(*one, "id");
    subscription.text = (*one)["text"].value_or(std::string());
    subscription.owner = (*one)["owner"].value_or(std::string());
    if (!subscription.text.empty()) saved.push_back(std::move(subscription));
  }
  for (const auto& lost : subscribers_.Restore(std::move(saved))) {
    const std::string owner = lost.saved.owner.empty() ? "the operator" : lost.saved.owner;
    tell_(MakeEvent(Severity::kWarning, "subscription_not_restored",
                    lost.saved.text + ", which " + owner + " subscribed, is off since the restart: " + lost.why));
  }
}

void KeptSubscriptions::Save() {
  std::lock_guard lock(mutex_);
  std::string text = "# What clients subscribed, to be put back when the daemon starts. Written by ikkuna-daemon.\n";
  for (const SavedSubscription& saved : subscribers_.Export()) {
    text += "\n[[subscription]]\n" + Line("id", saved.id) + "text = " + TomlText(saved.text) +
            "\nowner = " + TomlText(saved.owner) + "\n";
  }
  Write(path_, std::move(text), kSubscriptions, tell_, written_, failure_);
}

KeptCounters::KeptCounters(const std::string& folder, TellEvent tell)
    : path_(folder + "/counters.toml"), tell_(std::move(tell)) {}

std::vector<SinkCounters> KeptCounters::Load() {
  std::lock_guard lock(mutex_);
  const toml::table table = LoadTable(path_, kCounters, tell_, &written_);
  std::vector<SinkCounters> all;
  const toml::array* list = table["sink"].as_array();
  if (list == nullptr) return all;
  for (const toml::node& node : *list) {
    const toml::table* one = node.as_table();
    if (one == nullptr) continue;
    SinkCounters counters;
    counters.name = (*one)["name"].value_or(std::string());
    counters.written = NumberOf(*one, "written");
    counters.events_dropped = NumberOf(*one, "events_dropped");
    counters.failures = NumberOf(*one, "failures");
    if (const toml::table* drops = (*one)["dropped"].as_table()) {
      for (const auto& [reason, node_of_count] : *drops) {
        const uint64_t count = NumberOf(*drops, reason.str());
        counters.dropped += count;
        if (count > 0) counters.drops.push_back({std::string(reason.str()), count});
      }
    }
    counters.offered = counters.written + counters.dropped;
    if (!counters.name.empty()) all.push_back(std::move(counters));
  }
  return all;
}

void KeptCounters::Save(const std::vector<SinkCounters>& counters) {
  std::string text = "# What the sinks counted, to go on with when the daemon starts. Written by ikkuna-daemon.\n";
  for (const SinkCounters& one : counters) {
    text += "\n[[sink]]\nname = " + TomlText(one.name) + "\n" + Line("written", one.written) +
            Line("events_dropped", one.events_dropped) + Line("failures", one.failures);
    if (one.drops.empty()) continue;
    text += "[sink.dropped]\n";
    for (const Count& drop : one.drops) {
      if (drop.count > 0) text += Line(TomlText(drop.reason).c_str(), drop.count);
    }
  }
  std::lock_guard lock(mutex_);
  Write(path_, std::move(text), kCounters, tell_, written_, failure_);
}

}  // namespace ikkuna
