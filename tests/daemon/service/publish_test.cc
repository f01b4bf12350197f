// A client's own values, on their way in.
#include "tests/daemon/service/service_fixture.h"

namespace ikkuna::test {
namespace {

class PublishTest : public ServiceTest {};

TEST_F(PublishTest, PublishCarriesEachTypeOfValue) {
  StartServer();
  v1::PublishRequest request;
  request.set_own_run("mine");
  request.set_end(true);
  v1::PublishedStep* step = request.add_steps();
  step->set_root("model");
  step->set_step(7);
  step->set_epoch(1);
  step->set_unix_ns(5);
  step->set_samples_seen(9);
  const auto add = [&] {
    v1::PublishedValue* value = step->add_values();
    value->set_topic("t");
    value->set_module("fc");
    value->set_param("p");
    value->set_unit("s");
    return value->mutable_value();
  };
  add()->set_number(2.5);
  add()->set_text("hello");
  v1::Histogram* histogram = add()->mutable_histogram();
  histogram->set_max(1);
  histogram->set_n(2);
  histogram->add_counts(2);
  v1::Tensor* tensor = add()->mutable_tensor();
  tensor->set_form(v1::TENSOR_FORM_IMAGE);
  tensor->add_sizes(1);
  tensor->add_sizes(1);
  tensor->add_values(0.5f);
  v1::PublishResponse response;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::Publish, request, &response).ok());
  EXPECT_EQ(response.values(), 4u);
  EXPECT_EQ(response.run().run_id(), "mine");
  const PublishRequest seen = monitor_.last_publish();
  EXPECT_TRUE(seen.end);
  ASSERT_EQ(seen.steps.size(), 1u);
  EXPECT_EQ(seen.steps[0].timeline, (Timeline{"model", "default"}));
  EXPECT_EQ(seen.steps[0].stamp.step, 7u);
  EXPECT_EQ(seen.steps[0].stamp.epoch, 1u);
  EXPECT_EQ(seen.steps[0].stamp.samples_seen, 9u);
  ASSERT_EQ(seen.steps[0].values.size(), 4u);
  EXPECT_EQ(seen.steps[0].values[0].name, (SeriesName{{"model", "default"}, "fc", "p", "t"}));
  EXPECT_EQ(seen.steps[0].values[0].unit, "s");
  EXPECT_EQ(std::get<double>(seen.steps[0].values[0].value), 2.5);
  EXPECT_EQ(std::get<Text>(seen.steps[0].values[1].value).text, "hello");
  EXPECT_EQ(std::get<Histogram>(seen.steps[0].values[2].value).counts, std::vector<uint64_t>{2});
  EXPECT_EQ(std::get<TensorValue>(seen.steps[0].values[3].value).form, TensorValue::Form::kImage);
}

}  // namespace
}  // namespace ikkuna::test
