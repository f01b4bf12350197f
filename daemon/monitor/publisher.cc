#include "daemon/monitor/publisher.h"

#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "daemon/graph/subscription.h"
#include "daemon/ingest/producer_session.h"
#include "daemon/model/names.h"
#include "daemon/monitor/publish_check.h"
#include "daemon/monitor/run_names.h"
#include "shared/base/clock.h"

namespace ikkuna {
namespace {

Uuid NewUuid() {
  Uuid uuid{};
  // 16 bytes never come in part.
  [[maybe_unused]] const ssize_t got = ::getrandom(uuid.data(), uuid.size(), 0);
  return uuid;
}

}  // namespace

Publisher::~Publisher() {
  std::lock_guard lock(mutex_);
  for (const auto& [name, own] : own_runs_) FinishLocked(own);
}

void Publisher::FinishLocked(const OwnRun& own) const {
  ProducerStatus status;
  status.info = *own.run->info();
  status.state = RunState::kFinished;
  parts_.runs->SaveProducer(status);
}

void Publisher::Tell(const OwnRun& own, const char* kind, const std::string& what) const {
  parts_.ingest->OfferEvent(Severity::kInfo, kind, "run '" + own.run->info()->run + "' of " + own.owner + " " + what,
                            own.run->key());
}

void Publisher::FinishIdleLocked() {
  const uint64_t now = MonotonicNs();
  std::erase_if(own_runs_, [&](const auto& entry) {
    if (now - entry.second.last_ns < kIdleNs) return false;
    Tell(entry.second, kRunEnded, "ended: nothing came for " + std::to_string(kIdleNs / 60'000'000'000) + " minutes");
    FinishLocked(entry.second);
    added_.erase(entry.second.run->key());
    return true;
  });
}

Answer<std::shared_ptr<Run>> Publisher::LiveRun(const Caller& caller, const PublishRequest& request) const {
  Answer<std::vector<RunInfo>> runs = FindRun(*parts_.recorded, request.run);
  if (!runs) return runs.failure();
  const RunKey& newest = runs->front().info.run_key;
  const auto sessions = parts_.ingest->FindLive(newest.run_id, request.attempt.value_or(newest.attempt));
  for (const auto& session : sessions) {
    if (request.rank && session->run_key().rank != *request.rank) continue;
    if (!caller.MayChange(session->uid())) {
      return Failure{ErrorCode::kPermissionDenied,
                     "run " + Describe(session->run_key()) + " is of uid " + std::to_string(session->uid()) + ", and " +
                         caller.name + " may publish to runs of their own only",
                     Reason::kRole, caller.name};
    }
    return session->run();
  }
  return Failure{
      ErrorCode::kFailedPrecondition,
      "run '" + newest.run_id + "' is not connected to this daemon now; its values stand, and nothing is added",
      Reason::kRunNotLive, newest.run_id};
}

Answer<std::shared_ptr<Run>> Publisher::OwnRunLocked(const Caller& caller, const PublishRequest& request) {
  const std::string& name = request.own_run;
  if (const auto own = own_runs_.find(name); own != own_runs_.end()) {
    if (own->second.owner != caller.name) {
      return Failure{ErrorCode::kAlreadyExists, "run '" + name + "' is of " + own->second.owner, Reason::kExists, name};
    }
    return own->second.run;
  }
  if (request.steps.empty()) {
    return Failure{ErrorCode::kNotFound, "no run '" + name + "' of " + caller.name + " is open, so that none can end",
                   Reason::kRunNotLive, name};
  }
  if (!IsName(name) || name == kLatestRun || name == kDaemonRunId) {
    return Bad("own_run",
               "own_run is the name of a run: UTF-8 of at most 255 bytes, neither 'latest' nor the daemon's");
  }
  if (own_runs_.size() >= kOwnRunsMax) {
    return Failure{ErrorCode::kResourceExhausted,
                   std::to_string(kOwnRunsMax) + " runs of clients are open, which is the most; end one first",
                   Reason::kLimit, "own runs"};
  }
  return BeginOwnLocked(caller, name);
}

Answer<std::shared_ptr<Run>> Publisher::BeginOwnLocked(const Caller& caller, const std::string& name) {
  Result<std::vector<RunInfo>> known = parts_.recorded->FindRuns(name);
  if (!known) return known.error();
  ProducerInfo info;
  for (const RunInfo& run : *known) {
    if (run.info.run_key.run_id != name) continue;
    if (!IsOwnRunOf(caller, run.info)) {
      return Failure{ErrorCode::kAlreadyExists, "run '" + name + "' is there already, and is not of " + caller.name,
                     Reason::kExists, name};
    }
    info = run.info;
  }
  const bool again = !info.run_key.run_id.empty();
  if (!again) {
    info.uuid = NewUuid();
    info.run_key.run_id = name;
    info.run = name;
    info.uid = caller.uid.value_or(::geteuid());
    info.start_unix_ns = UnixNs();
    info.facts = {{kPublisherFact, caller.name}};
  }
  Result<std::shared_ptr<Run>> run = parts_.runs->Begin(info);
  if (!run) return run.error();
  ProducerStatus status;
  status.info = info;
  parts_.runs->SaveProducer(status);
  const OwnRun& own = own_runs_[name] = {*run, caller.name, MonotonicNs()};
  if (again) Tell(own, kRunResumed, "goes on");
  return *run;
}

std::optional<Failure> Publisher::LearnTopicsLocked(const Run& run) {
  const RunKey& key = run.key();
  if (learned_.contains(key)) return {};
  EventQuery query;
  query.filter.run = key.run_id;
  query.filter.run_is_id = true;
  query.filter.attempt = key.attempt;
  query.filter.rank = key.rank;
  query.kind = kPublished;
  query.limit = UINT32_MAX;
  Result<EventList> events = parts_.recorded->ListEvents(query);
  if (!events) return Failure(events.error());
  if (!events->unread.empty()) return Failure{ErrorCode::kUnavailable, events->unread[0], Reason::kStore, key.run_id};
  for (const Event& event : *events) {
    if (const auto published = ParsePublished(event)) topics_.try_emplace({key, published->second}, published->first);
  }
  learned_.insert(key);
  return {};
}

void Publisher::ForgetEndedLocked() {
  const auto ended = [this](const RunKey& run) {
    for (const auto& session : parts_.ingest->FindLive(run.run_id, run.attempt)) {
      if (session->run_key() == run) return false;
    }
    return true;
  };
  std::erase_if(topics_, [&](const auto& entry) { return ended(entry.first.first); });
  std::erase_if(learned_, ended);
  std::erase_if(added_,
                [&](const auto& entry) { return !own_runs_.contains(entry.first.run_id) && ended(entry.first); });
}

std::optional<Failure> Publisher::CheckTopicsLocked(const Caller& caller, const Run& run, const PublishRequest& request,
                                                    std::vector<std::string>* fresh) {
  if (std::optional<Failure> failure = LearnTopicsLocked(run)) return failure;
  std::set<std::string> topics;
  for (const PublishedStep& step : request.steps) {
    for (const PublishedValue& value : step.values) topics.insert(value.name.topic);
  }
  const std::string display = run.info()->run;
  for (const SubscriberInfo& subscriber : parts_.subscribers->List()) {
    if (!MatchesPatterns(subscriber.run, run.key().run_id) && !MatchesPatterns(subscriber.run, display)) continue;
    for (const std::string& topic : subscriber.topics) {
      if (!topics.contains(topic)) continue;
      return Failure{ErrorCode::kAlreadyExists,
                     "topic '" + topic + "' is published by the subscriber " + subscriber.text +
                         "; take another name, such as '" + topic.substr(0, topic.find('@')) + "@mine'",
                     Reason::kTopicTaken, topic};
    }
  }
  for (const std::string& topic : topics) {
    const auto owner = topics_.find({run.key(), topic});
    if (owner == topics_.end()) {
      fresh->push_back(topic);
    } else if (owner->second != caller.name) {
      return Failure{ErrorCode::kAlreadyExists, "topic '" + topic + "' of this run is published by " + owner->second,
                     Reason::kTopicTaken, topic};
    }
  }
  if (fresh->empty()) return {};
  if (topics_.size() + fresh->size() > kTopicsMax) ForgetEndedLocked();
  if (topics_.size() + fresh->size() > kTopicsMax) {
    return Failure{ErrorCode::kResourceExhausted,
                   "clients publish " + std::to_string(kTopicsMax) + " topics already, which is the most",
                   Reason::kLimit, "topics"};
  }
  // What stands in the run under this name already, and is no client's, somebody else made.
  std::set<std::string> there;
  for (const auto& series : run.series().Since(0)) there.insert(series->name.topic);
  for (const std::string& topic : *fresh) {
    if (!there.contains(topic)) continue;
    return Failure{ErrorCode::kAlreadyExists,
                   "topic '" + topic + "' of this run is there already, and is not of " + caller.name +
                       "; take another name, such as '" + topic.substr(0, topic.find('@')) + "@mine'",
                   Reason::kTopicTaken, topic};
  }
  return {};
}

// Before anything is interned: all or nothing. `fresh`: series that are new.
std::optional<Failure> Publisher::CheckSeriesLocked(const Run& run, const PublishRequest& request,
                                                    size_t* fresh) const {
  std::set<SeriesName> new_series;
  for (const PublishedStep& step : request.steps) {
    for (const PublishedValue& value : step.values) {
      SeriesName name = NameOf(step, value);
      const std::optional<uint32_t> id = run.series().FindId(name);
      if (!id) {
        new_series.insert(std::move(name));
        continue;
      }
      const std::shared_ptr<const Series> series = run.series().Find(*id);
      if (series == nullptr) continue;
      const bool typed = series->traits.type == TypeOf(value.value);
      if (typed && series->traits.unit == value.unit) continue;
      const std::string has = typed ? "unit '" + series->traits.unit + "', not '" + value.unit + "'"
                                    : "type " + std::string(ValueTypeName(series->traits.type));
      return Failure{ErrorCode::kFailedPrecondition,
                     "topic '" + value.name.topic + "' cannot be recorded: the series of that name has values of " +
                         has,
                     Reason::kTopicTaken, value.name.topic};
    }
  }
  *fresh = new_series.size();
  const auto found = added_.find(run.key());
  const size_t added = found == added_.end() ? 0 : found->second.series;
  if (added + *fresh > kSeriesMax ||
      run.series().size() + *fresh > SeriesCatalogue::kMaxSeries) {
    return Failure{ErrorCode::kResourceExhausted,
                   "clients have added " + std::to_string(added) + " series to run " + Describe(run.key()) + "; " +
                       std::to_string(kSeriesMax) + " are the most",
                   Reason::kLimit, "series"};
  }
  return {};
}

Answer<std::unordered_map<uint32_t, uint64_t>> Publisher::CheckStepsLocked(const Run& run,
                                                                           const PublishRequest& request) const {
  struct Doubtful {
    std::set<std::pair<uint32_t, uint64_t>> steps;  // by series
    uint64_t least = UINT64_MAX;
    uint64_t greatest = 0;
    bool all_known = true;  // the newest step of each of the series
  };
  std::map<std::string, Doubtful> topics;
  const auto added = added_.find(run.key());
  for (const PublishedStep& step : request.steps) {
    for (const PublishedValue& value : step.values) {
      if (TypeOf(value.value) == ValueType::kText) continue;  // of which all stay
      const std::optional<uint32_t> id = run.series().FindId(NameOf(step, value));
      if (!id) continue;
      bool known = false;
      if (added != added_.end()) {
        const auto newest = added->second.newest.find(*id);
        known = newest != added->second.newest.end();
        if (known && step.stamp.step > newest->second) continue;  // as nearly always
      }
      Doubtful& doubtful = topics[value.name.topic];
      doubtful.steps.emplace(*id, step.stamp.step);
      doubtful.least = std::min(doubtful.least, step.stamp.step);
      doubtful.greatest = std::max(doubtful.greatest, step.stamp.step);
      doubtful.all_known = doubtful.all_known && known;
    }
  }
  std::unordered_map<uint32_t, uint64_t> learned;
  for (const auto& [topic, doubtful] : topics) {
    ReadQuery query;
    query.filter.run = run.key().run_id;
    query.filter.run_is_id = true;
    query.filter.attempt = run.key().attempt;
    query.filter.rank = run.key().rank;
    query.filter.topic = topic;
    query.step_min = doubtful.least;
    // To the end where the newest steps are to be learned.
    if (doubtful.all_known) query.step_max = doubtful.greatest;
    Result<std::unique_ptr<SeriesReader>> reader = parts_.recorded->Read(query);
    if (!reader) return reader.error();
    while (true) {
      Result<std::optional<SeriesColumns>> part = (*reader)->Next();
      if (!part) return part.error();
      if (!*part) break;
      const uint32_t id = (*part)->series->id;
      for (const uint64_t step : (*part)->steps) {
        if (doubtful.steps.contains({id, step})) {
          return Failure{ErrorCode::kAlreadyExists,
                         "topic '" + topic + "' has a value at step " + std::to_string(step) +
                             " of that series already, and what is recorded stands; give this one a step or a param "
                             "of its own",
                         Reason::kExists, topic};
        }
        // Of a part of the steps nothing is learned: the topic's other series may have newer ones.
        if (!doubtful.all_known) learned[id] = std::max(learned[id], step);
      }
    }
  }
  return learned;
}

void Publisher::Offer(const std::shared_ptr<Run>& run, const Caller& caller, const PublishRequest& request,
                      const std::vector<std::string>& fresh) const {
  for (const PublishedStep& step : request.steps) {
    auto batch = std::make_shared<Batch>();
    batch->run = run;
    batch->stamp = step.stamp;
    batch->stamp.timeline = run->series().InternTimeline(step.timeline);
    if (batch->stamp.unix_ns == 0) batch->stamp.unix_ns = UnixNs();
    for (const PublishedValue& value : step.values) {
      const uint32_t id = run->series().FindId(NameOf(step, value)).value_or(0);
      if (const double* number = std::get_if<double>(&value.value)) {
        batch->samples.push_back({id, 0, *number});
      } else {
        batch->others.push_back({id, 0, value.value});
      }
    }
    if (&step == &request.steps.front()) {
      for (const std::string& topic : fresh) {
        Event event;
        event.id = parts_.store.take_event_id ? parts_.store.take_event_id() : 0;
        event.unix_ns = UnixNs();
        event.run = run->key();
        event.kind = kPublished;
        event.text = PublishedText(caller.name, topic, run->key());
        event.step = step.stamp.step;
        batch->events.push_back(std::move(event));
      }
    }
    for (Sink* sink : parts_.sinks) sink->Offer(batch);
  }
}

Answer<PublishAnswer> Publisher::Publish(const Caller& caller, const PublishRequest& request) {
  if (request.run.empty() == request.own_run.empty()) {
    return Bad("target", "either run, one that is connected, or own_run, one of the client's own, must be given");
  }
  if (std::optional<Failure> bad = CheckValues(request)) return *std::move(bad);
  const bool own_run = !request.own_run.empty();
  // One publisher at a time: what is interned below is offered below, and a topic has one owner.
  std::lock_guard lock(mutex_);
  FinishIdleLocked();
  Answer<std::shared_ptr<Run>> found = own_run ? OwnRunLocked(caller, request) : LiveRun(caller, request);
  if (!found) return found.failure();
  const std::shared_ptr<Run> run = *found;
  std::vector<std::string> fresh;
  if (!own_run) {
    if (std::optional<Failure> taken = CheckTopicsLocked(caller, *run, request, &fresh)) return *std::move(taken);
  }
  size_t new_series = 0;
  if (std::optional<Failure> refused = CheckSeriesLocked(*run, request, &new_series)) return *std::move(refused);
  Answer<std::unordered_map<uint32_t, uint64_t>> learned = CheckStepsLocked(*run, request);
  if (!learned) return learned.failure();
  if (parts_.store.can_take && !request.steps.empty()) {
    if (Status taken = parts_.store.can_take(run->key()); !taken) {
      return Failure{taken.error().code, taken.error().text, Reason::kStore, run->key().run_id};
    }
  }
  PublishAnswer answer{run->key(), 0};
  Added& added = added_[run->key()];
  for (const PublishedStep& step : request.steps) {
    for (const PublishedValue& value : step.values) {
      SeriesTraits traits;
      traits.type = TypeOf(value.value);
      traits.unit = value.unit;
      const uint32_t id = run->series().Intern(NameOf(step, value), traits);
      if (id == 0) {
        return Failure{ErrorCode::kResourceExhausted,
                       "topic '" + value.name.topic + "' cannot be recorded: run " + Describe(run->key()) +
                           " has too many series, or too many roots and tags",
                       Reason::kLimit, "series"};
      }
      if (traits.type != ValueType::kText) {
        uint64_t& newest = added.newest[id];
        newest = std::max(newest, step.stamp.step);
      }
      ++answer.values;
    }
  }
  for (const auto& [id, step] : *learned) added.newest[id] = std::max(added.newest[id], step);
  added.series += new_series;
  for (const std::string& topic : fresh) topics_[{run->key(), topic}] = caller.name;
  Offer(run, caller, request, fresh);
  if (const auto own = own_runs_.find(request.own_run); own != own_runs_.end()) {
    own->second.last_ns = MonotonicNs();
    if (request.end) {
      Tell(own->second, kRunEnded, "ended, as its publisher said");
      FinishLocked(own->second);
      added_.erase(run->key());
      own_runs_.erase(own);
    }
  }
  return answer;
}

Answer<SubscribeAnswer> Publisher::UnlessPublished(const std::string& text,
                                                   const std::function<Answer<SubscribeAnswer>()>& subscribe) {
  std::lock_guard lock(mutex_);
  ForgetEndedLocked();
  for (const ProducerStatus& producer : parts_.ingest->Producers()) {
    const RunKey& key = producer.info.run_key;
    if (!IsOpen(producer.state) || learned_.contains(key)) continue;
    for (const auto& session : parts_.ingest->FindLive(key.run_id, key.attempt)) {
      // One whose events cannot be read now stands in nobody's way, and is looked at again.
      if (session->run_key() == key) static_cast<void>(LearnTopicsLocked(*session->run()));
    }
  }
  if (topics_.empty()) return subscribe();
  const auto written = graph::ParseWritten(text);
  if (!written) return written.error();
  for (const graph::WrittenSubscriber& one : *written) {
    const auto subscription = graph::Settle(one, {});
    if (!subscription) return subscription.error();
    for (const auto& [what, owner] : topics_) {
      const auto& [run, topic] = what;
      if (!subscription->OutputOf(topic)) continue;
      const auto sessions = parts_.ingest->FindLive(run.run_id, run.attempt);
      const std::string display = sessions.empty() ? "" : sessions.front()->run()->info()->run;
      if (!subscription->MatchesRun(run.run_id, display)) continue;
      return Failure{ErrorCode::kAlreadyExists,
                     "topic '" + topic + "' is published to run " + Describe(run) + " by " + owner +
                         "; give this one a name with as=, or name other runs with run=",
                     Reason::kTopicTaken, topic};
    }
  }
  return subscribe();
}

void Publisher::Tick() {
  std::lock_guard lock(mutex_);
  FinishIdleLocked();
  ForgetEndedLocked();
}

}  // namespace ikkuna
