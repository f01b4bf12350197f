// Lists in pages: what each answer has, and where the next begins.
#include <gmock/gmock.h>

#include "tests/daemon/service/service_fixture.h"

namespace ikkuna::test {
namespace {

class ListsTest : public ServiceTest {};

TEST_F(ListsTest, SubscribersComeInPagesById) {
  SubscriberInfo one;
  for (const uint64_t id : {9, 7, 8}) {
    one.id = id;
    monitor_.subscribers.push_back(one);
  }
  StartServer();
  v1::ListSubscribersRequest list;
  list.set_limit(2);
  v1::ListSubscribersResponse first, second;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::ListSubscribers, list, &first).ok());
  ASSERT_EQ(first.subscribers_size(), 2);
  EXPECT_EQ(first.subscribers(1).id(), 8u);
  list.set_page(first.next_page());
  ASSERT_TRUE(Call(&v1::Monitor::Stub::ListSubscribers, list, &second).ok());
  ASSERT_EQ(second.subscribers_size(), 1);
  EXPECT_EQ(second.subscribers(0).id(), 9u);
  EXPECT_EQ(second.next_page(), "");
  list.set_page("last");
  EXPECT_EQ(Call(&v1::Monitor::Stub::ListSubscribers, list, &second).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(ListsTest, ManySubscribersFitHoweverLongTheirTextsAre) {
  monitor_.subscribers.resize(1'500);
  for (size_t i = 0; i < monitor_.subscribers.size(); ++i) {
    monitor_.subscribers[i].id = i + 1;
    monitor_.subscribers[i].text = std::string(1'600, 'x');
  }
  StartServer();
  v1::ListSubscribersRequest list;
  uint64_t got = 0;
  do {
    v1::ListSubscribersResponse page;
    ASSERT_TRUE(Call(&v1::Monitor::Stub::ListSubscribers, list, &page).ok());
    for (const v1::Subscriber& one : page.subscribers()) ASSERT_EQ(one.id(), ++got);
    list.set_page(page.next_page());
  } while (!list.page().empty());
  EXPECT_EQ(got, 1'500u);
}

TEST_F(ListsTest, EventsComeFromAnIdOnwardsOrAreTheLast) {
  for (uint64_t id = 1; id <= 5; ++id) {
    monitor_.events.push_back({id, static_cast<int64_t>(10 * id), Severity::kInfo, {}, "started", "It started.", 0});
  }
  monitor_.events[1] = {2, 20, Severity::kError, {"id-1", 0, 1}, "non_finite", "NaN.", 30};
  StartServer();
  v1::ListEventsRequest request;
  v1::ListEventsResponse response;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::ListEvents, request, &response).ok());
  ASSERT_EQ(response.events_size(), 5);
  EXPECT_FALSE(response.more());
  EXPECT_FALSE(response.events(0).has_run());
  EXPECT_EQ(
      response.events(1).ShortDebugString(),
      "id: 2 unix_ns: 20 severity: SEVERITY_ERROR run { run_id: \"id-1\" rank: 1 } kind: \"non_finite\" text: \"NaN.\" "
      "step: 30");
  request.set_run("fashion");
  request.set_attempt(0);
  request.set_rank(1);
  request.set_after_id(1);
  request.set_limit(2);
  ASSERT_TRUE(Call(&v1::Monitor::Stub::ListEvents, request, &response).ok());
  ASSERT_EQ(response.events_size(), 2);
  EXPECT_EQ(response.events(0).id(), 2u);
  EXPECT_TRUE(response.more());
  EXPECT_EQ(monitor_.last_events().filter.run, "fashion");
  EXPECT_EQ(monitor_.last_events().filter.rank, 1u);
  request.set_after_id(3);
  ASSERT_TRUE(Call(&v1::Monitor::Stub::ListEvents, request, &response).ok());
  EXPECT_EQ(response.events_size(), 2);
  EXPECT_FALSE(response.more());
  request.Clear();
  request.set_last(2);
  ASSERT_TRUE(Call(&v1::Monitor::Stub::ListEvents, request, &response).ok());
  ASSERT_EQ(response.events_size(), 2);
  EXPECT_EQ(response.events(0).id(), 4u);
  EXPECT_EQ(response.events(1).id(), 5u);
  EXPECT_FALSE(response.more());
  EXPECT_EQ(response.unread_size(), 0);
  monitor_.unread_events = {"cannot read the events of 'bad'"};
  ASSERT_TRUE(Call(&v1::Monitor::Stub::ListEvents, request, &response).ok());
  EXPECT_EQ(response.events_size(), 2);
  ASSERT_EQ(response.unread_size(), 1);
  EXPECT_EQ(response.unread(0), "cannot read the events of 'bad'");
}

TEST_F(ListsTest, EventsWithLongTextsComeInSeveralAnswersAndTheNewestStayOfTheLast) {
  for (uint64_t id = 1; id <= 100; ++id) {
    monitor_.events.push_back({id, 1, Severity::kInfo, {}, "note", std::string(20'000, 'x'), 0});
  }
  StartServer();
  v1::ListEventsRequest request;
  v1::ListEventsResponse response;
  uint64_t seen = 0;
  do {
    request.set_after_id(seen);
    ASSERT_TRUE(Call(&v1::Monitor::Stub::ListEvents, request, &response).ok());
    for (const v1::Event& event : response.events()) EXPECT_EQ(event.id(), ++seen);
  } while (response.more());
  EXPECT_EQ(seen, 100u);
  request.set_last(100);
  ASSERT_TRUE(Call(&v1::Monitor::Stub::ListEvents, request, &response).ok());
  EXPECT_LT(response.events_size(), 100);
  EXPECT_EQ(response.events(response.events_size() - 1).id(), 100u);
  EXPECT_EQ(response.events(0).id(), 101u - static_cast<uint64_t>(response.events_size()));
}

}  // namespace
}  // namespace ikkuna::test
