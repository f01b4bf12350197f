#include "daemon/monitor/publisher.h"

#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "daemon/ingest/producer_session.h"
#include "daemon/monitor/run_names.h"
#include "shared/base/clock.h"
#include "shared/base/utf8.h"

namespace ikkuna {
namespace {

constexpr size_t kNameBytesMax = 255;
constexpr char kPublisherFact[] = "publisher";

// [a-z0-9_]+(@[a-z0-9_]+)?, as the topics of subscribers are.
bool IsTopic(const std::string& text) {
  const auto is_word = [](std::string_view word) {
    return !word.empty() && std::all_of(word.begin(), word.end(), [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
    });
  };
  const size_t at = text.find('@');
  if (text.size() > kNameBytesMax) return false;
  if (at == std::string::npos) return is_word(text);
  return is_word(std::string_view(text).substr(0, at)) && is_word(std::string_view(text).substr(at + 1));
}

bool IsName(const std::string& text) { return text.size() <= kNameBytesMax && IsValidUtf8(text); }

Failure Bad(const std::string& field, std::string text) {
  return {ErrorCode::kInvalidArgument, std::move(text), Reason::kBadField, field};
}

// Whether a tensor's elements are those of its sizes, a histogram's counts its n, a text UTF-8.
bool IsSound(const Value& value) {
  if (const Text* text = std::get_if<Text>(&value)) return IsValidUtf8(text->text);
  if (const Histogram* histogram = std::get_if<Histogram>(&value)) {
    uint64_t n = 0;
    for (const uint64_t count : histogram->counts) n += count;
    return !histogram->counts.empty() && histogram->counts.size() <= Histogram::kMaxBins && n == histogram->n;
  }
  if (const TensorValue* tensor = std::get_if<TensorValue>(&value)) {
    uint64_t elements = 1;
    for (const int64_t size : tensor->sizes) {
      if (size < 0 || static_cast<uint64_t>(size) > TensorValue::kMaxElements) return false;
      elements *= static_cast<uint64_t>(size);
      if (elements > TensorValue::kMaxElements) return false;
    }
    const bool image = tensor->form == TensorValue::Form::kImage;
    const size_t dims = tensor->sizes.size();
    if (image && dims != 2 &&
        !(dims == 3 && (tensor->sizes[2] == 1 || tensor->sizes[2] == 3 || tensor->sizes[2] == 4))) {
      return false;
    }
    return dims > 0 && elements == tensor->values.size();
  }
  return true;
}

std::optional<Failure> CheckValues(const PublishRequest& request) {
  if (request.steps.empty() && !request.end) return Bad("steps", "steps is empty: there is nothing to publish");
  for (const PublishedStep& step : request.steps) {
    if (step.values.empty()) return Bad("steps.values", "a step has no values");
    // Beyond it no store keeps a step.
    if (step.stamp.step > INT64_MAX)
      return Bad("steps.step", "step " + std::to_string(step.stamp.step) + " is above 2^63 - 1");
    if (!IsName(step.timeline.root) || !IsName(step.timeline.tag)) {
      return Bad("steps.root", "root and tag are UTF-8 of at most 255 bytes");
    }
    for (const PublishedValue& value : step.values) {
      if (!IsTopic(value.name.topic)) {
        return Bad("steps.values.topic",
                   "topic '" + CleanUtf8(value.name.topic, kNameBytesMax) +
                       "' is no name of a topic: lower-case letters, digits and '_', and perhaps '@' and a name");
      }
      if (!IsName(value.name.module) || !IsName(value.name.param) || !IsName(value.unit)) {
        return Bad("steps.values.module", "module, param and unit are UTF-8 of at most 255 bytes");
      }
      if (BytesOf(value.value) > Publisher::kValueBytesMax) {
        return Bad("steps.values.value", "a value of topic '" + value.name.topic + "' is larger than 1 MiB");
      }
      if (!IsSound(value.value)) {
        return Bad("steps.values.value", "a value of topic '" + value.name.topic +
                                             "' does not fit itself: its text is not UTF-8, its sizes are not those of "
                                             "its elements, or its counts do not add up");
      }
    }
  }
  return {};
}

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

void Publisher::FinishIdleLocked() {
  const uint64_t now = MonotonicNs();
  std::erase_if(own_runs_, [&](const auto& entry) {
    if (now - entry.second.last_ns < kIdleNs) return false;
    FinishLocked(entry.second);
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

Answer<std::shared_ptr<Run>> Publisher::OwnRunLocked(const Caller& caller, const std::string& name) {
  if (const auto own = own_runs_.find(name); own != own_runs_.end()) {
    if (own->second.owner != caller.name) {
      return Failure{ErrorCode::kAlreadyExists, "run '" + name + "' is of " + own->second.owner, Reason::kExists, name};
    }
    return own->second.run;
  }
  if (!IsName(name) || name == "latest" || name == kDaemonRunId) {
    return Bad("own_run",
               "own_run is the name of a run: UTF-8 of at most 255 bytes, neither 'latest' nor the daemon's");
  }
  if (own_runs_.size() >= kOwnRunsMax) {
    return Failure{ErrorCode::kResourceExhausted,
                   std::to_string(kOwnRunsMax) + " runs of clients are open, which is the most; end one first",
                   Reason::kLimit, "own runs"};
  }
  Result<std::vector<RunInfo>> known = parts_.recorded->FindRuns(name);
  if (!known) return known.error();
  ProducerInfo info;
  for (const RunInfo& run : *known) {
    if (run.info.run_key.run_id != name) continue;
    const auto& facts = run.info.facts;
    const std::pair<std::string, std::string> mark{kPublisherFact, caller.name};
    if (std::find(facts.begin(), facts.end(), mark) == facts.end()) {
      return Failure{ErrorCode::kAlreadyExists, "run '" + name + "' is there already, and is not of " + caller.name,
                     Reason::kExists, name};
    }
    info = run.info;
  }
  if (info.run_key.run_id.empty()) {
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
  own_runs_[name] = {*run, caller.name, MonotonicNs()};
  return *run;
}

std::optional<Failure> Publisher::CheckTopicsLocked(const Caller& caller, const RunKey& run,
                                                    const PublishRequest& request,
                                                    std::vector<std::string>* fresh) const {
  std::set<std::string> topics;
  for (const PublishedStep& step : request.steps) {
    for (const PublishedValue& value : step.values) topics.insert(value.name.topic);
  }
  for (const SubscriberInfo& subscriber : parts_.subscribers->List()) {
    for (const std::string& topic : subscriber.topics) {
      if (!topics.contains(topic)) continue;
      return Failure{ErrorCode::kAlreadyExists,
                     "topic '" + topic + "' is published by the subscriber " + subscriber.text +
                         "; take another name, such as '" + topic + "@mine'",
                     Reason::kTopicTaken, topic};
    }
  }
  for (const std::string& topic : topics) {
    const auto owner = topics_.find({run, topic});
    if (owner == topics_.end()) {
      fresh->push_back(topic);
    } else if (owner->second != caller.name) {
      return Failure{ErrorCode::kAlreadyExists, "topic '" + topic + "' of this run is published by " + owner->second,
                     Reason::kTopicTaken, topic};
    }
  }
  if (topics_.size() + fresh->size() > kTopicsMax) {
    return Failure{ErrorCode::kResourceExhausted,
                   "clients publish " + std::to_string(kTopicsMax) + " topics already, which is the most",
                   Reason::kLimit, "topics"};
  }
  return {};
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
      SeriesName name = value.name;
      name.timeline = step.timeline;
      const uint32_t id = run->series().FindId(name).value_or(0);
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
        event.kind = "published";
        event.text = caller.name + " publishes topic '" + topic + "' to run " + Describe(run->key()) + ".";
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
  // One publisher at a time: what is interned below is offered below, and a topic has one owner.
  std::lock_guard lock(mutex_);
  FinishIdleLocked();
  Answer<std::shared_ptr<Run>> found =
      request.own_run.empty() ? LiveRun(caller, request) : OwnRunLocked(caller, request.own_run);
  if (!found) return found.failure();
  const std::shared_ptr<Run> run = *found;
  std::vector<std::string> fresh;
  if (std::optional<Failure> taken = CheckTopicsLocked(caller, run->key(), request, &fresh)) return *std::move(taken);
  PublishAnswer answer{run->key(), 0};
  for (const PublishedStep& step : request.steps) {
    for (const PublishedValue& value : step.values) {
      SeriesName name = value.name;
      name.timeline = step.timeline;
      SeriesTraits traits;
      traits.type = TypeOf(value.value);
      traits.unit = value.unit;
      if (run->series().Intern(name, traits) == 0) {
        return Failure{ErrorCode::kFailedPrecondition,
                       "topic '" + value.name.topic +
                           "' cannot be recorded: a series of that name is of another type, or the run has too many",
                       Reason::kTopicTaken, value.name.topic};
      }
      ++answer.values;
    }
  }
  for (const std::string& topic : fresh) topics_[{run->key(), topic}] = caller.name;
  Offer(run, caller, request, fresh);
  if (const auto own = own_runs_.find(request.own_run); own != own_runs_.end()) {
    own->second.last_ns = MonotonicNs();
    if (request.end) {
      FinishLocked(own->second);
      own_runs_.erase(own);
    }
  }
  return answer;
}

}  // namespace ikkuna
