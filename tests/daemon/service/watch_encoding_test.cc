// What is made of an update: once, in pieces that any choice of which is a message.
#include "daemon/service/watch_encoding.h"

#include <gtest/gtest.h>

#include <string>

#include "daemon/service/message_size.h"

namespace ikkuna::service {
namespace {

std::shared_ptr<WatchUpdate> UpdateOf(std::vector<Sample> samples, std::vector<OtherValue> others) {
  auto update = std::make_shared<WatchUpdate>();
  ProducerInfo producer;
  producer.run_key = {"r", 0, 1};
  update->position = 5;
  update->run_number = 1;
  update->run = std::make_shared<const ProducerInfo>(producer);
  auto batch = std::make_shared<Batch>();
  batch->run = std::make_shared<Run>(producer);
  batch->stamp.step = 7;
  batch->samples = std::move(samples);
  batch->others = std::move(others);
  Event event;
  event.kind = "note";
  batch->events = {event};
  update->batch = std::move(batch);
  return update;
}

std::string BytesOf(const grpc::Slice& slice) { return {reinterpret_cast<const char*>(slice.begin()), slice.size()}; }

v1::WatchResponse Parsed(const WatchEncoding& encoding, WatchParts parts) {
  std::string bytes = BytesOf(encoding.run);
  for (const WatchPiece& piece : encoding.pieces) {
    EXPECT_LE(piece.bytes.size(), kMessageBytesMax);
    if ((piece.part & parts) != 0) bytes += BytesOf(piece.bytes);
  }
  v1::WatchResponse response;
  EXPECT_TRUE(response.ParseFromString(bytes));
  return response;
}

TEST(WatchEncoding, IsMadeOnceForAllWatchers) {
  const auto update = UpdateOf({{1, 0, 0.5}}, {});
  int made = 0;
  const auto make = [&](const WatchUpdate& of) {
    ++made;
    return Encode(of);
  };
  const auto first = update->Once<WatchEncoding>(make);
  const auto second = update->Once<WatchEncoding>(make);
  EXPECT_EQ(first, second);
  EXPECT_EQ(made, 1);
}

TEST(WatchEncoding, AnyChoiceOfPartsIsAMessage) {
  const auto update = UpdateOf({{1, 0, 0.5}, {2, 1, 1.5}}, {{3, 0, Text{"a"}}, {4, 0, Histogram{}}, {3, 64, Text{"b"}}});
  const WatchEncoding encoding = Encode(*update);
  const v1::WatchResponse all = Parsed(encoding, kAllParts);
  EXPECT_EQ(all.runs_size(), 1);
  EXPECT_EQ(all.events_size(), 1);
  int numbers = 0, values = 0;
  for (const v1::StepValues& step : all.steps()) {
    EXPECT_EQ(step.step(), 7u);
    EXPECT_EQ(step.run().rank(), 1u);
    numbers += step.numbers_size();
    values += step.values_size();
    EXPECT_EQ(step.series_size(), step.numbers_size());
    EXPECT_EQ(step.value_series_size(), step.values_size());
  }
  EXPECT_EQ(numbers, 2);
  EXPECT_EQ(values, 3);
  const v1::WatchResponse texts = Parsed(encoding, 1u << v1::WATCH_PART_TEXTS);
  ASSERT_EQ(texts.steps_size(), 1);
  EXPECT_EQ(texts.steps(0).numbers_size(), 0);
  ASSERT_EQ(texts.steps(0).values_size(), 2);
  EXPECT_EQ(texts.steps(0).values(1).text(), "b");
  EXPECT_EQ(texts.steps(0).value_flags(1), 64u);
  EXPECT_EQ(texts.events_size(), 0);
}

TEST(WatchEncoding, FlagsAreLeftOutWhereThereAreNone) {
  const WatchEncoding encoding = Encode(*UpdateOf({{1, 0, 0.5}, {2, 0, 1.5}}, {}));
  EXPECT_EQ(Parsed(encoding, kAllParts).steps(0).number_flags_size(), 0);
}

TEST(WatchEncoding, WhatIsLargeIsManyPieces) {
  std::vector<Sample> samples(200'000, Sample{2'000'000, 127, 0.5});
  std::vector<OtherValue> others;
  for (int i = 0; i < 100; ++i) others.push_back({1, 0, Text{std::string(50'000, 'x')}});
  const v1::WatchResponse all = Parsed(Encode(*UpdateOf(samples, others)), kAllParts);
  int numbers = 0, values = 0;
  for (const v1::StepValues& step : all.steps()) {
    numbers += step.numbers_size();
    values += step.values_size();
  }
  EXPECT_EQ(numbers, 200'000);
  EXPECT_EQ(values, 100);
}

}  // namespace
}  // namespace ikkuna::service
