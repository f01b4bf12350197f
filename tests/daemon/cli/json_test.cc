#include "daemon/cli/json.h"

#include <gtest/gtest.h>

#include <limits>

#include "ikkuna/v1/monitor.pb.h"

namespace ikkuna::cli {
namespace {

TEST(JsonTest, NumbersThatJsonLacksAreTexts) {
  v1::Value value;
  value.mutable_histogram()->set_n(18446744073709551615u);
  value.mutable_histogram()->set_sum(std::numeric_limits<double>::quiet_NaN());
  value.mutable_histogram()->add_counts(1);
  EXPECT_EQ(JsonLine(ToJson(value)),
            "{\"histogram\":{\"min\":0.0,\"max\":0.0,\"n\":18446744073709551615,\"sum\":\"NaN\",\"sum_squares\":0.0,"
            "\"nans\":0,\"positive_infinities\":0,\"negative_infinities\":0,\"counts\":[1]}}\n");
  EXPECT_EQ(ToJson(-std::numeric_limits<double>::infinity()).dump(), "\"-Infinity\"");
  EXPECT_EQ(ToJson(std::numeric_limits<double>::infinity()).dump(), "\"Infinity\"");
  EXPECT_EQ(ToJson(0.1).dump(), "0.1");
}

TEST(JsonTest, AbsentMessagesAreLeftOutAndEnumsAreWords) {
  v1::Event event;
  event.set_severity(v1::SEVERITY_WARNING);
  Json json = ToJson(event);
  EXPECT_EQ(json["severity"], "warning");
  EXPECT_FALSE(json.contains("run"));
  EXPECT_EQ(json["text"], "");
  event.mutable_run()->set_rank(3);
  EXPECT_EQ(ToJson(event)["run"]["rank"], 3);
  v1::Producer producer;
  EXPECT_EQ(ToJson(producer)["state"], "unknown");
  producer.set_state(static_cast<v1::ProducerState>(99));
  EXPECT_EQ(ToJson(producer)["state"], "unknown");
  producer.set_state(v1::PRODUCER_STATE_SWITCHED_OFF);
  EXPECT_EQ(ToJson(producer)["state"], "switched_off");
}

TEST(JsonTest, EnumWordsAreReadBack) {
  EXPECT_EQ(ParseEnumWord<v1::ProducerState>("switched_off"), v1::PRODUCER_STATE_SWITCHED_OFF);
  EXPECT_EQ(ParseEnumWord<v1::ProducerState>("unspecified"), std::nullopt);
  EXPECT_EQ(ParseEnumWord<v1::ProducerState>(""), std::nullopt);
}

}  // namespace
}  // namespace ikkuna::cli
