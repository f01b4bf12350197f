#include "daemon/cli/json.h"

#include <gtest/gtest.h>

#include <limits>

#include "ikkuna/v1/monitor.pb.h"

namespace ikkuna::cli {
namespace {

TEST(JsonTest, NumbersThatJsonLacksAreTexts) {
  v1::Sample sample;
  sample.set_series_id(18446744073709551615u);
  sample.set_unix_ns(-1);
  sample.set_value(std::numeric_limits<double>::quiet_NaN());
  sample.add_flags(v1::SAMPLE_FLAG_STEP_SKIPPED);
  EXPECT_EQ(
      JsonLine(ToJson(sample)),
      "{\"series_id\":18446744073709551615,\"step\":0,\"epoch\":0,\"unix_ns\":-1,\"samples_seen\":0,\"value\":\"NaN\","
      "\"flags\":[\"step_skipped\"]}\n");
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

}  // namespace
}  // namespace ikkuna::cli
