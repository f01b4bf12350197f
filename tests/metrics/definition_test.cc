// Which definitions make sense: every combination of their parts against rules written down once more, and what a
// person is told.
#include <gmock/gmock.h>

#include "tests/metrics/metric_probe.h"

namespace ikkuna::metrics {
namespace {

using testing::HasSubstr;

struct Nothing final : Subscriber {
  void OnStep(const StepInfo&, std::span<const Input>, const ResultsRef&) override {}
};

Definition Good() {
  Definition definition;
  definition.topic = "x";
  definition.create = [] { return std::make_unique<Nothing>(); };
  return definition;
}

// The sentence; "" when it makes sense.
std::string Refusal(const Definition& definition, InputCount inputs = {1, 0}) {
  const Status checked = CheckDefinition(definition, inputs);
  if (checked.ok()) return "";
  EXPECT_EQ(checked.error().code, ErrorCode::kInvalidArgument);
  return checked.error().text;
}

// As a table: true where somebody could say what would come out.
bool Sensible(const Definition& d, InputCount in) {
  const size_t all = in.kinds + in.topics;
  if (all == 0) return false;
  // Content against what flows in.
  if (d.content == Content::kText && in.topics != 0) return false;
  if (d.content == Content::kValue && in.kinds != 0) return false;
  // Only statistics merge; of a topic there is one value.
  if (d.delivery == Delivery::kMerged) {
    const bool one_value = d.content == Content::kValue || (d.content == Content::kScalar && in.kinds == 0);
    if (d.content != Content::kStatistics && !one_value) return false;
  }
  switch (d.scope) {
    case Scope::kSeries:
      if (all != 1) return false;
      break;
    case Scope::kModule:
      if (d.delivery == Delivery::kMerged && all < 2) return false;
      break;
    case Scope::kRoot:
      break;
    case Scope::kJob:
      if (d.delivery != Delivery::kMerged || d.runs == Runs::kStream) return false;
      break;
  }
  return d.runs != Runs::kStream || d.content == Content::kTensor;
}

TEST(CheckDefinition, EveryCombination) {
  size_t sensible = 0, refused = 0;
  for (uint8_t content = 1; content <= 5; ++content) {
    for (uint8_t delivery = 1; delivery <= 3; ++delivery) {
      for (uint8_t scope = 1; scope <= 4; ++scope) {
        for (uint8_t runs = 1; runs <= 3; ++runs) {
          for (uint8_t keeps = 1; keeps <= 2; ++keeps) {
            for (size_t kinds = 0; kinds <= 3; ++kinds) {
              for (size_t topics = 0; topics <= 3; ++topics) {
                Definition d = Good();
                d.content = static_cast<Content>(content);
                d.delivery = static_cast<Delivery>(delivery);
                d.scope = static_cast<Scope>(scope);
                d.runs = static_cast<Runs>(runs);
                d.keeps = static_cast<Keeps>(keeps);
                const std::string refusal = Refusal(d, {kinds, topics});
                EXPECT_EQ(refusal.empty(), Sensible(d, {kinds, topics}))
                    << "content " << int{content} << " delivery " << int{delivery} << " scope " << int{scope}
                    << " runs " << int{runs} << " keeps " << int{keeps} << " kinds " << kinds << " topics " << topics
                    << ": " << refusal;
                ++(refusal.empty() ? sensible : refused);
              }
            }
          }
        }
      }
    }
  }
  EXPECT_GT(sensible, 500u);
  EXPECT_GT(refused, 2000u);
}

// Accepted once, and wrong then: nulls, zeros, and values of other series.
TEST(CheckDefinition, WhatWasAcceptedAndBroken) {
  Definition d = Good();
  d.delivery = Delivery::kMerged;
  d.content = Content::kTensor;
  EXPECT_THAT(Refusal(d), HasSubstr("tensors of several calls do not merge"));
  d.content = Content::kScalar;
  EXPECT_THAT(Refusal(d), HasSubstr("scalars of several messages do not merge"));
  d = Good();
  d.delivery = Delivery::kEachMessage;
  EXPECT_THAT(Refusal(d, {2, 0}), HasSubstr("scope series takes one"));
  EXPECT_THAT(Refusal(d, {1, 1}), HasSubstr("scope series takes one"));
  // A module's messages are a module's now, one instance each.
  d.scope = Scope::kModule;
  EXPECT_EQ(Refusal(d, {2, 0}), "");
}

TEST(CheckDefinition, PartsThatAreMissing) {
  Definition d = Good();
  d.create = nullptr;
  EXPECT_THAT(Refusal(d), HasSubstr("topic 'x' is not defined well: it has no way to make a subscriber"));
  d = Good();
  d.topic = "";
  EXPECT_THAT(Refusal(d), HasSubstr("it has no topic"));
  EXPECT_THAT(Refusal(Good(), {0, 0}), HasSubstr("nothing flows in"));
  d = Good();
  d.outputs = {{.suffix = "_a"}, {.suffix = "_b"}, {.suffix = "_a"}};
  EXPECT_THAT(Refusal(d), HasSubstr("two outputs have one topic"));
  d.outputs = {};
  EXPECT_EQ(Refusal(d), "");  // events only
  d.outputs.resize(257);
  EXPECT_THAT(Refusal(d), HasSubstr("more than 256 outputs"));
  d.outputs = {{.type = static_cast<ValueType>(9)}};
  EXPECT_THAT(Refusal(d), HasSubstr("an output has no type"));
  for (int part = 0; part < 5; ++part) {
    d = Good();
    if (part == 0) d.content = static_cast<Content>(6);
    if (part == 1) d.delivery = static_cast<Delivery>(0);
    if (part == 2) d.scope = static_cast<Scope>(5);
    if (part == 3) d.runs = static_cast<Runs>(4);
    if (part == 4) d.keeps = static_cast<Keeps>(0);
    EXPECT_THAT(Refusal(d), HasSubstr("a code that means nothing")) << part;
  }
}

TEST(CheckDefinition, TypesOfTopics) {
  Definition d = Good();
  d.takes = TypeBit(ValueType::kHistogram);
  EXPECT_THAT(Refusal(d, {0, 1}), HasSubstr("only numbers pass"));
  d.content = Content::kValue;
  EXPECT_EQ(Refusal(d, {0, 1}), "");
  EXPECT_THAT(Refusal(d, {1, 0}), HasSubstr("only topics have values"));
  d.takes = 0;
  EXPECT_THAT(Refusal(d, {0, 1}), HasSubstr("which types of values"));
  d.takes = 0x41;
  EXPECT_THAT(Refusal(d, {0, 1}), HasSubstr("which types of values"));
}

}  // namespace
}  // namespace ikkuna::metrics
