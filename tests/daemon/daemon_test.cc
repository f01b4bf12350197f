// The daemon as a whole, its parts together in this process.
#include "daemon/daemon.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "shared/daemon_note.h"
#include "shared/places.h"
#include "tests/daemon/daemon_fixture.h"

namespace ikkuna {
namespace {

using DaemonTest = DaemonFixture;

TEST_F(DaemonTest, ServesAProducerFromSocketToSeries) {
  auto daemon = MustStart(MakeConfig());
  ASSERT_TRUE(daemon);
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  for (uint64_t step = 0; step < 20; ++step) producer.Step(step, 2);
  ASSERT_TRUE(HandledAll(*daemon, producer));
  Monitor& monitor = daemon->monitor();
  const auto status = monitor.status.GetStatus();
  EXPECT_EQ(status.version, "test");
  EXPECT_EQ(status.pid, ::getpid());
  EXPECT_EQ(status.directory, temp_.sub("dir"));
  EXPECT_EQ(status.data_directory, temp_.sub("data"));
  EXPECT_EQ(status.tensorboard_directory, temp_.sub("data") + "/tensorboard");
  EXPECT_GT(status.resident_bytes, 1u << 20);
  EXPECT_EQ(status.queue.memory_bytes_max, uint64_t{1} << 30);
  std::vector<std::string> sinks;
  for (const SinkCounters& sink : status.sinks) sinks.push_back(sink.name);
  EXPECT_EQ(sinks, (std::vector<std::string>{"log", "store", "tensorboard", "watch"}));
  EXPECT_EQ(status.series, 2u);
  ModuleQuery of_run;
  of_run.run.run = producer.hello().run_id;
  auto modules = monitor.runs.ListModules(of_run);
  ASSERT_TRUE(modules.ok());
  EXPECT_EQ(modules->modules.size(), 1u);
  ASSERT_TRUE(Eventually([&] {
    auto series = SeriesOf(*daemon);
    return series.size() == 2 && series[0].count == 20;
  }));
  // Every event of the way is there, and of the daemon's own, each with a number of its own.
  ASSERT_TRUE(Eventually([&] { return EventsOf(*daemon, "run_started").size() == 1; }));
  EXPECT_EQ(EventsOf(*daemon, "daemon_started").size(), 1u);
  std::set<uint64_t> ids;
  auto events = monitor.events.ListEvents({});
  ASSERT_TRUE(events.ok());
  for (const Event& event : *events) {
    EXPECT_NE(event.id, 0u);
    EXPECT_TRUE(ids.insert(event.id).second) << event.kind;
  }

  producer.Finish();
  ASSERT_TRUE(Eventually([&] { return monitor.status.GetStatus().producers[0].state == RunState::kFinished; }));
  auto after = monitor.runs.ListModules(of_run);  // from the store now
  ASSERT_TRUE(after.ok()) << after.failure().text;
  EXPECT_EQ(after->modules.size(), 1u);
}

// The same event has the same number wherever it is shown.
TEST_F(DaemonTest, AnEventHasOneNumberInTheStoreAndForThoseWhoWatch) {
  auto daemon = MustStart(MakeConfig());
  ASSERT_TRUE(daemon);
  auto watched = daemon->monitor().series.Watch({}, {});
  ASSERT_TRUE(watched.ok());
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  uint64_t id = 0;
  ASSERT_TRUE(Eventually([&] {
    for (const auto& update : watched->watcher->Take(1000).updates) {
      if (!update->batch) continue;
      for (const Event& event : update->batch->events) {
        if (event.kind == "run_started") id = event.id;
      }
    }
    return id != 0;
  }));
  ASSERT_TRUE(Eventually([&] { return !EventsOf(*daemon, "run_started").empty(); }));
  EXPECT_EQ(EventsOf(*daemon, "run_started")[0].id, id);
}

TEST_F(DaemonTest, SubscribingChangesTheDemandOfARunningProducer) {
  auto daemon = MustStart(MakeConfig());
  ASSERT_TRUE(daemon);
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  const auto asked = [&] {
    uint64_t kinds = 0;
    if (auto items = producer.ctl().CopyDemand(2)) {
      for (const auto& item : *items) kinds |= item.kinds;
    }
    return (kinds & KindBit(Kind::kActivations)) != 0;
  };
  EXPECT_FALSE(asked());
  SubscriberMonitor& subscribers = daemon->monitor().subscribers;
  auto added = subscribers.AddSubscribers(Operator(), "std(activations)");
  ASSERT_TRUE(added.ok()) << added.failure().text;
  ASSERT_EQ(added->subscribers.size(), 1u);
  EXPECT_EQ(added->subscribers[0].source, SubscriberSource::kClient);
  EXPECT_TRUE(Eventually(asked));
  EXPECT_EQ(subscribers.ListSubscribers("")->size(), 3u);
  SubscriberChoice choice;
  choice.id = added->subscribers[0].id;
  ASSERT_TRUE(subscribers.RemoveSubscribers(Operator(), choice).ok());
  EXPECT_TRUE(Eventually([&] { return !asked(); }));
  EXPECT_FALSE(subscribers.AddSubscribers(Operator(), "std(nothing)").ok());
  choice.id = 12345;
  EXPECT_FALSE(subscribers.RemoveSubscribers(Operator(), choice).ok());
}

TEST_F(DaemonTest, APatternThatNoModuleMatchesIsSaid) {
  auto daemon = MustStart(MakeConfig());
  ASSERT_TRUE(daemon);
  SubscriberMonitor& subscribers = daemon->monitor().subscribers;
  // With nobody there it may match what comes.
  auto early = subscribers.AddSubscribers(Operator(), "mean(weights, module=fcc, as=early)");
  ASSERT_TRUE(early.ok());
  EXPECT_TRUE(early->warnings.empty());
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  ModuleQuery of_run;
  of_run.run.run = producer.hello().run_id;
  ASSERT_TRUE(Eventually([&] {
    auto modules = daemon->monitor().runs.ListModules(of_run);
    return modules.ok() && modules->modules.size() == 1;
  }));
  auto late =
      subscribers.AddSubscribers(Operator(), "mean(weights, module=fcc, as=late); mean(weights, module=f*, as=right)");
  ASSERT_TRUE(late.ok());
  EXPECT_EQ(late->subscribers.size(), 2u);
  EXPECT_EQ(late->warnings,
            std::vector<std::string>{"module=fcc matches no module of a run that is connected; did you mean 'fc'? "
                                     "There are fc"});
}

TEST_F(DaemonTest, ControlActsOnlyWhereTheTrainerAllowsIt) {
  auto daemon = MustStart(MakeConfig());
  ASSERT_TRUE(daemon);
  Monitor& monitor = daemon->monitor();
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  ControlChoice choice;
  choice.run = producer.hello().run_id;
  EXPECT_FALSE(monitor.control.Stop(Operator(), choice).ok());

  ASSERT_TRUE(producer.Connect()) << producer.reject();
  ASSERT_TRUE(Eventually([&] { return !monitor.status.GetStatus().producers.empty(); }));
  auto refused = monitor.control.Freeze(Operator(), choice, "fc");
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.failure().code, ErrorCode::kPermissionDenied);
  EXPECT_NE(refused.failure().text.find("allow_control"), std::string::npos) << refused.failure().text;

  shm::StoreRelease(producer.pub().status().control, static_cast<uint32_t>(shm::Control::kAll));
  ASSERT_TRUE(Eventually([&] { return monitor.status.GetStatus().producers[0].allow_freeze; }));
  auto unknown = monitor.control.Freeze(Operator(), choice, "conv*");
  ASSERT_FALSE(unknown.ok());
  EXPECT_EQ(unknown.failure().code, ErrorCode::kNotFound);
  EXPECT_NE(unknown.failure().text.find("fc"), std::string::npos) << unknown.failure().text;
  // A run of another user, for one who only reads.
  if (::geteuid() != Reader().uid) {
    auto others = monitor.control.Stop(Reader(), choice);
    ASSERT_FALSE(others.ok());
    EXPECT_EQ(others.failure().code, ErrorCode::kPermissionDenied);
  }

  uint64_t done = 0;
  const auto next = [&](shm::CommandType type, uint32_t module) {
    return Eventually([&] {
      const auto command = producer.ctl().NextCommand(done);
      if (!command) return false;
      EXPECT_EQ(command->type, static_cast<uint32_t>(type));
      EXPECT_EQ(command->module, module);
      shm::StoreRelease(producer.pub().status().command_done, ++done);
      return true;
    });
  };
  auto frozen = monitor.control.Freeze(Operator(), choice, "f*");
  ASSERT_TRUE(frozen.ok()) << frozen.failure().text;
  EXPECT_NE(frozen->find("fc"), std::string::npos) << *frozen;
  EXPECT_TRUE(next(shm::CommandType::kFreeze, 1));
  ASSERT_TRUE(monitor.control.Unfreeze(Operator(), choice, "fc").ok());
  EXPECT_TRUE(next(shm::CommandType::kUnfreeze, 1));
  ASSERT_TRUE(monitor.control.Stop(Operator(), choice).ok());
  EXPECT_TRUE(next(shm::CommandType::kStop, 0));
}

TEST_F(DaemonTest, KeepsEverythingOverAnOrderlyRestart) {
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  auto daemon = MustStart(MakeConfig());
  ASSERT_TRUE(daemon);
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  for (uint64_t step = 0; step < 30; ++step) producer.Step(step, 2);
  // Without waiting: what is in the ring is the daemon's to handle before it ends.
  EXPECT_TRUE(daemon->Stop().ok());
  EXPECT_TRUE(producer.DaemonGone());
  producer.Disconnect();
  EXPECT_NE(::access(shm::ProbeSocketPath(temp_.sub("dir")).c_str(), F_OK), 0);
  daemon.reset();
  daemon = MustStart(MakeConfig());
  ASSERT_TRUE(daemon);
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  for (uint64_t step = 30; step < 60; ++step) producer.Step(step, 2);
  ASSERT_TRUE(HandledAll(*daemon, producer));
  const auto status = daemon->monitor().status.GetStatus().producers[0];
  EXPECT_EQ(status.handled, 60 * TestProducer::kRecordsPerStep);
  EXPECT_EQ(status.lost_in_daemon, 0u);
  EXPECT_EQ(status.handled + status.dropped_total + status.lost_in_daemon + status.killed, status.attempted);
  EXPECT_TRUE(Eventually([&] {
    auto series = SeriesOf(*daemon);
    return series.size() == 2 && series[0].count == 60 && series[1].count == 60;
  }));
}

TEST_F(DaemonTest, ASecondDaemonIsRefusedAndToldWhoIsThere) {
  auto first = MustStart(MakeConfig());
  ASSERT_TRUE(first);
  Config config = MakeConfig();
  config.data_dir = temp_.sub("other");
  auto second = Daemon::Start(config, "test");
  ASSERT_FALSE(second.ok());
  EXPECT_NE(second.error().text.find(std::to_string(::getpid())), std::string::npos) << second.error().text;
  // The first is not disturbed.
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  EXPECT_TRUE(producer.Connect()) << producer.reject();
}

TEST_F(DaemonTest, WhoStartsAndEndsDaemonsFindsANote) {
  auto daemon = MustStart(MakeConfig());
  ASSERT_TRUE(daemon);
  auto note = shm::ReadDaemonNote(temp_.sub("dir"));
  ASSERT_TRUE(note.has_value());
  EXPECT_EQ(note->pid, ::getpid());
  EXPECT_EQ(note->state, shm::DaemonState::kServing);
  EXPECT_EQ(note->data_directory, temp_.sub("data"));
  EXPECT_TRUE(daemon->Stop().ok());
  note = shm::ReadDaemonNote(temp_.sub("dir"));
  ASSERT_TRUE(note.has_value());
  EXPECT_EQ(note->state, shm::DaemonState::kEnded);
  EXPECT_FALSE(shm::IsServed(temp_.sub("dir")));
}

TEST_F(DaemonTest, WhatClientsSubscribedSurvivesARestart) {
  auto daemon = MustStart(MakeConfig());
  ASSERT_TRUE(daemon);
  auto& subscribers = daemon->monitor().subscribers;
  ASSERT_TRUE(subscribers.AddSubscribers(Operator(), "norm(weights, order=1)").ok());
  ASSERT_TRUE(subscribers.AddSubscribers(Caller{"token", {}, Role::kControl}, "norm(weights, order=1); max(weights)").ok());
  ASSERT_TRUE(subscribers.AddSubscribers(Operator(), "min(weights)").ok());
  SubscriberChoice choice;
  choice.by = SubscriberChoice::By::kTopic;
  choice.text = "weights_min";
  ASSERT_TRUE(subscribers.RemoveSubscribers(Operator(), choice).ok());
  const auto before = subscribers.ListSubscribers("");
  ASSERT_TRUE(before.ok());
  daemon.reset();
  daemon = MustStart(MakeConfig());
  ASSERT_TRUE(daemon);
  const auto after = daemon->monitor().subscribers.ListSubscribers("");
  ASSERT_TRUE(after.ok());
  ASSERT_EQ(after->size(), before->size());
  for (size_t i = 0; i < before->size(); ++i) {
    EXPECT_EQ((*after)[i].text, (*before)[i].text);
    EXPECT_EQ((*after)[i].owners, (*before)[i].owners);
    EXPECT_EQ((*after)[i].id, (*before)[i].id);
    EXPECT_EQ((*after)[i].source, (*before)[i].source);
  }
}

TEST_F(DaemonTest, CountersOfSinksGoOnAfterARestart) {
  uint64_t written = 0;
  for (int life = 0; life < 2; ++life) {
    auto daemon = MustStart(MakeConfig());
    ASSERT_TRUE(daemon);
    TestProducer producer(temp_.sub("dir"));
    producer.Register();
    ASSERT_TRUE(producer.Connect()) << producer.reject();
    for (uint64_t step = 0; step < 10; ++step) producer.Step(step, 2);
    written += 20;
    ASSERT_TRUE(Eventually([&] {
      const auto sinks = daemon->monitor().status.GetStatus().sinks;
      return sinks[1].name == "store" && sinks[1].written == written && sinks[1].offered == written;
    })) << daemon->monitor().status.GetStatus().sinks[1].written;
    producer.Finish();
  }
}

// One that cannot start leaves alone what another keeps.
TEST_F(DaemonTest, ADaemonThatCannotStartChangesNothing) {
  auto daemon = MustStart(MakeConfig());
  ASSERT_TRUE(daemon);
  ASSERT_TRUE(daemon->monitor().subscribers.AddSubscribers(Operator(), "min(weights)").ok());
  ASSERT_TRUE(daemon->Stop().ok());
  daemon.reset();
  const auto texts = [this] {
    std::string all;
    for (const char* name : {"counters.toml", "subscriptions.toml"}) {
      std::ifstream file(HostDirectory(temp_.sub("data")) + "/" + name);
      all.append(std::istreambuf_iterator<char>(file), {});
    }
    return all;
  };
  const std::string before = texts();
  EXPECT_NE(before.find("store"), std::string::npos);
  Config config = MakeConfig();
  config.tensorboard_dir = "/proc/nothing/here";
  EXPECT_FALSE(Daemon::Start(config, "test").ok());
  EXPECT_EQ(texts(), before);
  EXPECT_TRUE(MustStart(MakeConfig()));
}

TEST_F(DaemonTest, DataIsForItsUserAlone) {
  auto daemon = MustStart(MakeConfig());
  ASSERT_TRUE(daemon);
  ASSERT_TRUE(daemon->monitor().subscribers.AddSubscribers(Operator(), "min(weights)").ok());
  EXPECT_TRUE(daemon->Stop().ok());
  struct stat found {};
  size_t folders = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(temp_.sub("data"))) {
    if (!entry.is_directory()) continue;
    ++folders;
    ASSERT_EQ(::stat(entry.path().c_str(), &found), 0);
    EXPECT_EQ(found.st_mode & 0077, 0u) << entry.path();
  }
  EXPECT_GE(folders, 4u);
  ASSERT_EQ(::stat(temp_.sub("data").c_str(), &found), 0);
  EXPECT_EQ(found.st_mode & 07777, 0700u);
  ASSERT_EQ(::stat((HostDirectory(temp_.sub("data")) + "/subscriptions.toml").c_str(), &found), 0);
  EXPECT_EQ(found.st_mode & 07777, 0600u);
}

TEST_F(DaemonTest, LingeringEndsWhenNobodyNeedsIt) {
  Config config = MakeConfig();
  config.linger = 0.2;
  auto daemon = MustStart(config);
  ASSERT_TRUE(daemon);
  EXPECT_EQ(daemon->monitor().status.GetStatus().linger_seconds, 0.2);
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  EXPECT_FALSE(daemon->LingerIsOver());
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_FALSE(daemon->LingerIsOver()) << "a trainer is connected";
  producer.Finish();
  EXPECT_TRUE(Eventually([&] { return daemon->LingerIsOver(); }));
  // From here on whoever wants a daemon waits for its end.
  auto lock = shm::UpLock::Try(temp_.sub("dir"));
  ASSERT_TRUE(lock.ok());
  EXPECT_FALSE(lock->has_value());
  EXPECT_TRUE(daemon->Stop().ok());
  EXPECT_FALSE(shm::UpLock::Try(temp_.sub("dir"))->has_value());
  daemon.reset();
  EXPECT_TRUE(shm::UpLock::Try(temp_.sub("dir"))->has_value());
}

// ---- SIGHUP ----

class ReloadTest : public DaemonFixture {
 protected:
  static std::set<std::string> Subscribed(Daemon& daemon) {
    std::set<std::string> texts;
    const auto all = daemon.monitor().subscribers.ListSubscribers("");
    for (const SubscriberInfo& info : *all) texts.insert(info.topics[0]);
    return texts;
  }
  static std::string Told(Daemon& daemon, const std::string& kind) {
    EXPECT_TRUE(Eventually([&] { return !EventsOf(daemon, kind).empty(); })) << kind;
    const auto events = EventsOf(daemon, kind);
    return events.empty() ? "" : events.back().text;
  }
};

TEST_F(ReloadTest, SubscribersOfTheConfigurationComeAndGoThoseOfClientsStay) {
  Config config = MakeConfig();
  config.subscribe = {"loss", "mean(weights)", "max(weights)"};
  auto daemon = MustStart(config);
  ASSERT_TRUE(daemon);
  // A client asked for one of these as well, and for one of its own.
  ASSERT_TRUE(daemon->monitor().subscribers.AddSubscribers(Operator(), "max(weights); std(weights)").ok());
  config.subscribe = {"loss", "min(weights)"};
  daemon->Reload(config);
  EXPECT_EQ(Subscribed(*daemon), (std::set<std::string>{"loss", "weights_min", "weights_max", "weights_std"}));
  const std::string told = Told(*daemon, "reloaded");
  EXPECT_NE(told.find("changed: subscribe"), std::string::npos) << told;
  EXPECT_EQ(told.find("next start"), std::string::npos) << told;
  // The default set, on and off.
  config.no_default = false;
  daemon->Reload(config);
  EXPECT_GT(Subscribed(*daemon).size(), 8u);
  config.no_default = true;
  daemon->Reload(config);
  EXPECT_EQ(Subscribed(*daemon), (std::set<std::string>{"loss", "weights_min", "weights_max", "weights_std"}));
}

TEST_F(ReloadTest, WhatAClientHadFirstIsTheOperatorsNoMoreWhenItLeavesTheConfiguration) {
  Config config = MakeConfig();
  config.subscribe = {"loss"};
  auto daemon = MustStart(config);
  ASSERT_TRUE(daemon);
  ASSERT_TRUE(daemon->monitor().subscribers.AddSubscribers(Operator(), "max(weights)").ok());
  config.subscribe = {"loss", "max(weights)"};
  daemon->Reload(config);
  config.subscribe = {"loss"};
  daemon->Reload(config);
  EXPECT_EQ(Subscribed(*daemon), (std::set<std::string>{"loss", "weights_max"}));
  ASSERT_TRUE(daemon->monitor()
                  .subscribers.RemoveSubscribers(Operator(), {SubscriberChoice::By::kTopic, 0, "weights_max"})
                  .ok());
  EXPECT_EQ(Subscribed(*daemon), std::set<std::string>{"loss"});
}

TEST_F(ReloadTest, WhatFailedTheLastTimeIsTriedAgainThoughNothingChanged) {
  Config config = MakeConfig();
  config.subscribe = {"loss"};
  auto daemon = MustStart(config);
  ASSERT_TRUE(daemon);
  auto& subscribers = daemon->monitor().subscribers;
  ASSERT_TRUE(subscribers.AddSubscribers(Operator(), "std(weights, subsample=7)").ok());
  config.subscribe = {"loss", "std(weights)", "min(weights)"};
  daemon->Reload(config);
  EXPECT_NE(Told(*daemon, "subscription_failed").find("weights_std"), std::string::npos);
  EXPECT_EQ(Subscribed(*daemon), (std::set<std::string>{"loss", "weights_std"}));
  ASSERT_TRUE(subscribers.RemoveSubscribers(Operator(), {SubscriberChoice::By::kTopic, 0, "weights_std"}).ok());
  daemon->Reload(config);
  EXPECT_EQ(Subscribed(*daemon), (std::set<std::string>{"loss", "weights_std", "weights_min"}));
  EXPECT_EQ(EventsOf(*daemon, "subscription_failed").size(), 1u);
}

// The exit code of a child that becomes user 4242 and connects to `path`: 0 it was taken, 1 it was closed on, 2 not
// connected, 3 not the user.
int ConnectAsOther(const std::string& path, int type) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::alarm(120);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.data(), path.size());
    if (::setresgid(4242, 4242, 4242) != 0 || ::setresuid(4242, 4242, 4242) != 0) ::_exit(3);
    const int fd = ::socket(AF_UNIX, type, 0);
    if (::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) ::_exit(2);
    // The preface of HTTP/2 and empty SETTINGS, which the service answers and the door of trainers does not.
    static const char kPreface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0";
    if (type == SOCK_STREAM && ::send(fd, kPreface, sizeof kPreface - 1, MSG_NOSIGNAL) < 0) ::_exit(1);
    char byte = 0;
    ::_exit(type == SOCK_STREAM && ::read(fd, &byte, 1) != 1 ? 1 : 0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST_F(ReloadTest, UsersComeAndGo) {
  if (::geteuid() != 0) GTEST_SKIP() << "SKIP: needs root to become another user";
  Config config = MakeConfig();
  auto daemon = MustStart(config);
  ASSERT_TRUE(daemon);
  ASSERT_EQ(::chmod(temp_.sub("").c_str(), 0711), 0);
  const std::string clients = temp_.sub("dir") + "/grpc.sock", trainers = temp_.sub("dir") + "/probe.sock";
  EXPECT_EQ(ConnectAsOther(clients, SOCK_STREAM), 2);
  EXPECT_EQ(ConnectAsOther(trainers, SOCK_SEQPACKET), 2);
  config.allow_uid = {"4242"};
  daemon->Reload(config);
  EXPECT_NE(Told(*daemon, "reloaded").find("changed: allow_uid"), std::string::npos);
  EXPECT_EQ(ConnectAsOther(clients, SOCK_STREAM), 0);
  EXPECT_EQ(ConnectAsOther(trainers, SOCK_SEQPACKET), 0);
  EXPECT_TRUE(EventsOf(*daemon, "connection_refused").empty());
  // Another instead: the mode lets everybody try, and who it is decides.
  config.allow_uid = {"4243:control"};
  daemon->Reload(config);
  EXPECT_EQ(ConnectAsOther(clients, SOCK_STREAM), 1);
  EXPECT_EQ(Told(*daemon, "client_refused"),
            "clients' connections were refused: 1 of users that --allow-uid does not name");
  EXPECT_EQ(ConnectAsOther(trainers, SOCK_SEQPACKET), 0);
  EXPECT_NE(Told(*daemon, "connection_refused").find("user 4242 may not use this daemon"), std::string::npos);
  config.allow_uid = {};
  daemon->Reload(config);
  EXPECT_EQ(ConnectAsOther(clients, SOCK_STREAM), 2);
  EXPECT_EQ(ConnectAsOther(trainers, SOCK_SEQPACKET), 2);
}

TEST_F(ReloadTest, WhatCannotChangeNowIsNamedAndStays) {
  Config config = MakeConfig();
  auto daemon = MustStart(config);
  ASSERT_TRUE(daemon);
  config.data_dir = temp_.sub("elsewhere");
  config.memory_mb = 7;
  config.log_level = "warning";
  daemon->Reload(config);
  const std::string told = Told(*daemon, "reloaded");
  EXPECT_NE(told.find("changed: log_level"), std::string::npos) << told;
  EXPECT_NE(told.find("at the next start of the daemon: data_dir, memory_mb"), std::string::npos) << told;
  EXPECT_EQ(daemon->config().data_dir, temp_.sub("data"));
  EXPECT_EQ(daemon->config().memory_mb, 1024u);
  EXPECT_EQ(daemon->config().log_level, "warning");
}

// Tokens and certificates are read again although their paths are the same.
TEST_F(ReloadTest, ABadFileOfTokensLeavesTheOldInForce) {
  const std::string file = temp_.sub("tokens");
  const auto write = [&file](const std::string& text) {
    std::ofstream(file) << text;
    std::filesystem::permissions(file, std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  };
  write("control 0123456789abcdef0123456789abcdef0123456789abcdef\n");
  Config config = MakeConfig();
  config.listen = "127.0.0.1:0";
  config.token_file = file;
  auto daemon = MustStart(config);
  ASSERT_TRUE(daemon);
  EXPECT_GT(daemon->server().tcp_port(), 0);
  write("\n");
  config.subscribe = {"min(weights)"};
  const std::set<std::string> before = Subscribed(*daemon);
  daemon->Reload(config);
  EXPECT_NE(Told(*daemon, "reload_failed").find(file), std::string::npos);
  EXPECT_EQ(Subscribed(*daemon), before) << "all of it or nothing";
  write("read fedcba9876543210fedcba9876543210fedcba9876543210\n");
  daemon->Reload(config);
  EXPECT_NE(Told(*daemon, "reloaded").find("changed: subscribe"), std::string::npos);
  EXPECT_EQ(Subscribed(*daemon), std::set<std::string>{"weights_min"});
}

TEST_F(ReloadTest, ABadConfigurationLeavesTheOldInForce) {
  auto daemon = MustStart(MakeConfig());
  ASSERT_TRUE(daemon);
  const std::set<std::string> before = Subscribed(*daemon);
  daemon->Reload(Error{ErrorCode::kInvalidArgument, "ikkuna.toml:3: unknown key 'x'"});
  EXPECT_NE(Told(*daemon, "reload_failed").find("ikkuna.toml:3"), std::string::npos);
  Config config = MakeConfig();
  config.subscribe = {"mean(weights)", "mean(weights, as=mean, as=mean"};
  daemon->Reload(config);
  EXPECT_TRUE(Eventually([&] { return EventsOf(*daemon, "reload_failed").size() == 2; }));
  EXPECT_TRUE(EventsOf(*daemon, "reloaded").empty());
  EXPECT_EQ(Subscribed(*daemon), before);
}

}  // namespace
}  // namespace ikkuna
