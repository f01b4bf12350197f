// StepRunner, what it takes from subscribers: values become samples of their series, events are filtered.
#include <algorithm>
#include <utility>

#include "daemon/graph/step_runner.h"

namespace ikkuna::graph {

void StepRunner::TakeValue(uint32_t output, metrics::Subject subject, Value value) {
  const std::vector<metrics::Output>& outputs = node_->definition().outputs;
  const Slot* slot =
      subject == about_->subject ? about_ : frame_->scene()->memory->slots.Find(subject, context_.registry);
  if (output >= outputs.size() || TypeOf(value) != outputs[output].type || slot == nullptr) {
    return Count(MissReason::kRefused, 1);
  }
  SeriesRef& ref = node_->names->Ref(output, slot->number);
  if (ref.id == SeriesRef::kUnknown) {
    ref.id = SeriesOf(*slot, output, origin_.wide);
    const std::vector<uint64_t>& recorded = context_.recorded->next;
    if (ref.id >= 1 && ref.id <= recorded.size()) ref.next = std::max(ref.next, recorded[ref.id - 1]);
  }
  if (const double* number = std::get_if<double>(&value)) {
    if (!PutNumber(ref, *slot, output, *number, origin_)) {
      // Of a step that is read once more those that take the value may have said nothing yet.
      if (frame_->reread && node_->consumed[output] != 0) KeepForTakers(*slot, output, value, origin_);
      return;
    }
  } else {
    // Of texts a step may bring more when it comes in two parts.
    const bool text = TypeOf(value) == ValueType::kText;
    if (frame_->reread && IsRecorded(ref)) return;
    const uint64_t known = frame_->again ? ref.next : 0;
    if (known > frame_->step + (text ? 1 : 0)) {
      if (frame_->reread) return;
      ++repeated_;
      return Count(MissReason::kRepeated, 1);
    }
    ref.next = std::max(ref.next, frame_->step + 1);
    if (ref.id == 0) Count(MissReason::kRefused, 1);
  }
  ++given_;
  if (node_->consumed[output] != 0) KeepForTakers(*slot, output, value, origin_);
  if (ref.id != 0 && TypeOf(value) != ValueType::kNumber) {
    batch_->others.push_back({ref.id, origin_.flags, std::move(value)});
  }
}

// An earlier daemon has kept what the series has of this step.
bool StepRunner::IsRecorded(const SeriesRef& ref) const {
  const std::vector<uint64_t>& recorded = context_.recorded->next;
  return ref.id >= 1 && ref.id <= recorded.size() && recorded[ref.id - 1] > frame_->step;
}

// False: it goes no further.
bool StepRunner::PutNumber(SeriesRef& ref, const Slot& slot, uint32_t output, double number, Origin origin) {
  if (ref.next > frame_->step) {
    const bool twice = (ref.next == frame_->step + 1 || ref.put == frame_->step + 1) && !frame_->again;
    if (twice && Replace(ref.id, slot, output, number)) return false;
    if (frame_->again || twice) {
      if (frame_->reread) return false;
      if (frame_->again) ++repeated_;  // else it is the subscriber that says it twice, not the trainer
      Count(MissReason::kRepeated, 1);
      return false;
    }
    // A step of another thread, which closed after a later one.
  } else {
    ref.next = frame_->step + 1;
  }
  ref.put = frame_->step + 1;
  if (ref.id == 0) {
    Count(MissReason::kRefused, 1);
  } else {
    batch_->samples.push_back({ref.id, origin.flags, number});
  }
  return true;
}

// Of several numbers for one series and step the last counts. False: the one before has left already.
bool StepRunner::Replace(uint32_t series, const Slot& slot, uint32_t output, double number) {
  if (node_->consumed[output] != 0) {
    for (size_t i = state_->values.size(); i-- > 0;) {
      TopicValue& value = state_->values[i];
      if (value.slot != &slot || value.output != output) continue;
      value.number = number;
      break;
    }
  }
  for (size_t i = batch_->samples.size(); i-- > 0;) {
    if (batch_->samples[i].series != series) continue;
    batch_->samples[i].value = number;
    return true;
  }
  return series == 0;
}

void StepRunner::KeepForTakers(const Slot& slot, uint32_t output, const Value& value, Origin origin) {
  TopicValue& kept = state_->values.emplace_back();
  kept.slot = &slot;
  kept.output = output;
  kept.flags = origin.flags;
  kept.wide = origin.wide;
  if (const double* number = std::get_if<double>(&value)) {
    kept.number = *number;
  } else {
    kept.value = std::make_shared<const Value>(value);
  }
}

uint32_t StepRunner::SeriesOf(const Slot& slot, uint32_t output, bool wide) {
  const Scene& scene = *frame_->scene();
  const metrics::Output& described = node_->definition().outputs[output];
  SeriesName name;
  name.timeline = {scene.memory->root_name, scene.memory->tag_name};
  name.module = slot.module_name;
  name.param = slot.param_name;
  name.topic = node_->subscription().topics[output];
  SeriesTraits traits;
  traits.type = described.type;
  traits.precision = described.precision.value_or(wide ? Precision::kDouble : Precision::kSingle);
  traits.module_type = slot.module_type;
  traits.unit = described.unit.empty() ? std::string(node_->subscription().descriptor->unit) : described.unit;
  return context_.run->series().Intern(name, traits);
}

// Before the first call of a subscriber that keeps something for the run: what it knew when it gave the values that are
// recorded has ended with the daemon, the session or the subscription of then.
void StepRunner::TellStateLost() {
  if (node_->instances->has_run_state()) return;
  const std::vector<std::string>& topics = node_->subscription().topics;
  const std::vector<uint64_t>& recorded = context_.recorded->next;
  const auto gave_before = [&](const auto& series) {
    return series->id <= recorded.size() && recorded[series->id - 1] != 0 &&
           std::find(topics.begin(), topics.end(), series->name.topic) != topics.end();
  };
  const auto all = context_.run->series().Since(0);
  if (std::none_of(all.begin(), all.end(), gave_before)) return;
  Event event;
  event.unix_ns = frame_->stamp.unix_ns;
  event.severity = Severity::kWarning;
  event.run = context_.run->key();
  event.kind = "state_lost";
  event.text = node_->subscription().text + " begins anew at step " + std::to_string(frame_->step) +
               ": what it had gathered before ended with the daemon or the connection of then";
  event.step = frame_->step;
  batch_->events.push_back(std::move(event));
}

void StepRunner::TakeEvent(Severity severity, std::string text, std::optional<Action> action) {
  const EventFilter::Answer answer =
      filter_.Ask(node_->entry->id, frame_->root, frame_->tag, frame_->step, action ? &*action : nullptr);
  if (!answer.shown) return Count(MissReason::kSuppressed, 1);
  Event event;
  event.unix_ns = frame_->stamp.unix_ns;
  event.severity = severity;
  event.run = context_.run->key();
  event.kind = node_->subscription().descriptor->name;
  event.text = frame_->scene()->memory->root_name + ", " + std::move(text) + SuppressedText(answer.suppressed);
  event.step = frame_->step;
  if (action && context_.parts.act) {
    context_.parts.act(*context_.run, event, *action);
  } else if (action) {
    event.text += RefusedText(*action);
  }
  ++given_;
  batch_->events.push_back(std::move(event));
}

}  // namespace ikkuna::graph
