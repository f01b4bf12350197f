// Which parts of a definition make sense together.
#include <algorithm>
#include <stdexcept>
#include <string>

#include "metrics/subscriber.h"

namespace ikkuna::metrics {

void Subscriber::Merge(Subscriber& pass) {
  static_cast<void>(pass);
  throw std::logic_error("it cannot merge the passes of a step");
}

namespace {

constexpr uint8_t kNumbersOnly = TypeBit(ValueType::kNumber);
constexpr uint8_t kAllTypes = TypeBit(ValueType::kNumber) | TypeBit(ValueType::kText) | TypeBit(ValueType::kHistogram) |
                              TypeBit(ValueType::kTensor);

template <typename Enum>
bool Within(Enum value, Enum last) {
  return static_cast<uint8_t>(value) >= 1 && static_cast<uint8_t>(value) <= static_cast<uint8_t>(last);
}

// Empty: nothing is wrong.
const char* WrongAlone(const Definition& d) {
  if (!Within(d.content, Content::kValue) || !Within(d.delivery, Delivery::kLast) || !Within(d.scope, Scope::kJob) ||
      !Within(d.runs, Runs::kStream) || !Within(d.keeps, Keeps::kRun)) {
    return "it holds a code that means nothing";
  }
  if ((d.moments & ~kAllMoments) != 0) return "it rests on moments that do not exist";
  if (!d.create) return "it has no way to make a subscriber";
  if (d.topic.empty()) return "it has no topic";
  if (d.outputs.size() > Definition::kMaxOutputs) return "it has more than 256 outputs";
  for (const Output& output : d.outputs) {
    if (!Within(output.type, ValueType::kTensor)) return "an output has no type";
    const auto same = [&](const Output& other) { return other.suffix == output.suffix; };
    if (std::count_if(d.outputs.begin(), d.outputs.end(), same) != 1) return "two outputs have one topic";
  }
  return nullptr;
}

const char* WrongContent(const Definition& d, InputCount inputs) {
  if (d.content == Content::kText && inputs.topics != 0) return "texts of topics are read as values (kValue)";
  if (d.content == Content::kValue && inputs.kinds != 0) return "only topics have values: messages have none";
  if (d.content == Content::kValue && (d.takes == 0 || (d.takes & ~kAllTypes) != 0)) {
    return "it does not say which types of values it takes";
  }
  if (d.content != Content::kValue && d.takes != kNumbersOnly) {
    return "of topics only numbers pass for anything but a value (kValue)";
  }
  return nullptr;
}

const char* WrongDelivery(const Definition& d, InputCount inputs) {
  if (d.delivery != Delivery::kMerged) return nullptr;
  if (d.content == Content::kTensor) return "tensors of several calls do not merge: take each message, or the last";
  if (d.content == Content::kText) return "texts do not merge: take each message, or the last";
  if (d.content == Content::kScalar && inputs.kinds != 0) {
    return "scalars of several messages do not merge: take their statistics, each message, or the last";
  }
  return nullptr;
}

const char* WrongScope(const Definition& d, InputCount inputs) {
  if (d.scope == Scope::kSeries && inputs.kinds + inputs.topics != 1) {
    return "of several inputs no series is the result's: scope series takes one, scope module pairs several";
  }
  if (d.scope == Scope::kModule && d.delivery == Delivery::kMerged && inputs.kinds + inputs.topics < 2) {
    return "one merged input needs no pairing: take scope series";
  }
  if (d.scope != Scope::kJob) return nullptr;
  if (d.delivery != Delivery::kMerged)
    return "messages of several ranks come in no order: scope job takes what is merged";
  if (d.runs == Runs::kStream) return "scope job has no device: the ranks have one each";
  return nullptr;
}

}  // namespace

Status CheckDefinition(const Definition& definition, InputCount inputs) {
  const auto refuse = [&](const char* why) {
    return Error{ErrorCode::kInvalidArgument,
                 "the subscriber" + (definition.topic.empty() ? "" : " of topic '" + definition.topic + "'") +
                     " is not defined well: " + why};
  };
  if (const char* why = WrongAlone(definition)) return refuse(why);
  if (inputs.kinds + inputs.topics == 0) return refuse("nothing flows in");
  if (const char* why = WrongContent(definition, inputs)) return refuse(why);
  if (const char* why = WrongDelivery(definition, inputs)) return refuse(why);
  if (const char* why = WrongScope(definition, inputs)) return refuse(why);
  if (definition.runs == Runs::kStream && definition.content != Content::kTensor) {
    return refuse("only tensors lie on a device: what runs on a stream reads tensors");
  }
  return {};
}

}  // namespace ikkuna::metrics
