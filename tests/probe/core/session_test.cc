// Session: what it does when a daemon says no, and what it keeps of facts.
#include "probe/core/session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "shared/base/utf8.h"
#include "tests/probe/core/child.h"
#include "tests/probe/core/daemon_by_hand.h"
#include "tests/watchdog.h"

namespace ikkuna::probe {
namespace {

using ::testing::HasSubstr;

// Until it holds; the limit is a watchdog.
bool Eventually(const std::function<bool()>& holds) {
  for (const auto end = std::chrono::steady_clock::now() + test::kWatchdog; std::chrono::steady_clock::now() < end;) {
    if (holds()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}

std::unique_ptr<Session> Open(const DaemonByHand& daemon) {
  SessionOptions options;
  options.directory = daemon.directory();
  options.arena_mb = 1;
  options.retry_refused_ms = 20;
  return Session::Open(options);
}

TEST(Session, ADaemonThatRefusedIsAskedAgainAndTheReasonIsSaidOnce) {
  DaemonByHand daemon;
  ::testing::internal::CaptureStderr();
  std::unique_ptr<Session> session = Open(daemon);
  ASSERT_NE(session, nullptr);
  for (int i = 0; i < 3; ++i) daemon.Refuse("64 trainers are watched already");
  daemon.Refuse("the run is watched by another");
  daemon.Accept({});
  EXPECT_TRUE(Eventually([&] { return session->connected(); }));
  EXPECT_TRUE(session->active());
  session.reset();
  const std::string said = ::testing::internal::GetCapturedStderr();
  const size_t first = said.find("64 trainers are watched already");
  ASSERT_NE(first, std::string::npos) << said;
  EXPECT_EQ(said.find("64 trainers are watched already", first + 1), std::string::npos) << said;
  EXPECT_THAT(said, HasSubstr("the run is watched by another"));
}

TEST(Session, StepsThatNoDaemonSawAreCountedAndNoOthers) {
  DaemonByHand daemon;
  std::unique_ptr<Session> session = Open(daemon);
  ASSERT_NE(session, nullptr);
  shm::RootStatus& root = session->root_status(1);
  const auto made = [&](uint64_t step) { shm::StoreRelease(root.step, step); };
  shm::StoreRelease(root.start_step, 100);  // those before it are another process's
  made(107);
  daemon.Accept({});
  ASSERT_TRUE(Eventually([&] { return session->connected(); }));
  EXPECT_EQ(daemon.view().ReadStatus().status.steps_unwatched, 7u);
  made(120);
  daemon.Hang();
  ASSERT_TRUE(Eventually([&] { return !session->connected(); }));
  made(125);
  daemon.Accept({});
  ASSERT_TRUE(Eventually([&] { return session->connected(); }));
  made(130);
  EXPECT_EQ(daemon.view().ReadStatus().status.steps_unwatched, 12u);
}

TEST(Session, AFactThatIsSaidAgainTakesTheOldOnesPlace) {
  DaemonByHand daemon;
  std::unique_ptr<Session> session = Open(daemon);
  ASSERT_NE(session, nullptr);
  daemon.Accept({});
  for (int i = 0; i < 1000; ++i) session->AddFact("lr", "0.1");
  session->AddFact("batch", "128");
  session->AddFact("lr", "0.05");
  daemon.ReadRegistry();
  std::vector<std::pair<uint32_t, std::string>> rates;
  for (const shm::RegistryEntry& entry : daemon.registry()) {
    if (entry.type == shm::EntryType::kFact && entry.name == "lr") rates.emplace_back(entry.id, entry.second);
  }
  ASSERT_EQ(rates.size(), 2u);
  EXPECT_EQ(rates[0].second, "0.1");
  EXPECT_EQ(rates[1].second, "0.05");
  EXPECT_EQ(rates[0].first, rates[1].first);
}

std::string NotesOf(DaemonByHand& daemon) {
  daemon.ReadRegistry();
  std::string notes;
  for (const auto& entry : daemon.registry()) {
    if (entry.type == shm::EntryType::kNote) notes += entry.second + "\n";
  }
  return notes;
}

MessageHeader Header(Kind kind) {
  MessageHeader header;
  header.kind = kind;
  header.root = 1;
  if (IsDataKind(kind)) header.module = 1;
  return header;
}

TEST(Session, ANameOfTheRunThatIsWrittenOtherwiseIsSaid) {
  DaemonByHand daemon;
  SessionOptions options;
  options.directory = daemon.directory();
  options.arena_mb = 1;
  options.identity.run_id = std::string(250, 'r') + "/sweep/lr=0.1";
  options.identity.run = std::string(300, 'n');
  std::unique_ptr<Session> session = Session::Open(options);
  ASSERT_NE(session, nullptr);
  daemon.Accept({});
  ASSERT_TRUE(Eventually([&] { return session->connected(); }));
  EXPECT_EQ(daemon.hello().run_id, WireName(options.identity.run_id, kMaxNameBytes));
  EXPECT_THAT(NotesOf(daemon), HasSubstr("the name 'rrrr"));
  EXPECT_THAT(NotesOf(daemon), HasSubstr("the name 'nnnn"));
}

struct Waiting {
  Waiting() { ::setenv("IKKUNA_WAIT_MS", "600000", 1); }
  ~Waiting() { ::unsetenv("IKKUNA_WAIT_MS"); }
};

// What was waited for is there in the first step, and what it asks for can travel.
TEST(Session, AFirstStepThatWaitedHasWhatIsAsked) {
  const Waiting waiting;
  for (int round = 0; round < 40; ++round) {
    DaemonByHand daemon;
    std::unique_ptr<Session> session = Open(daemon);
    ASSERT_NE(session, nullptr);
    std::thread other([&] { daemon.Accept({Ask(KindBit(Kind::kActivations), Level::kTensor)}); });
    session->WaitForDaemon();
    Session::DemandCopy copy;
    session->RefreshDemand(copy);
    const bool ready = session->arena_ready();
    other.join();
    ASSERT_TRUE(copy.table) << round;
    ASSERT_TRUE(copy.table->NeedsArena()) << round;
    ASSERT_TRUE(ready) << round;
  }
}

TEST(Session, ADaemonThatTakesNoWholeTensorsIsNotWaitedForThem) {
  const Waiting waiting;
  DaemonByHand daemon;
  std::unique_ptr<Session> session = Open(daemon);
  ASSERT_NE(session, nullptr);
  daemon.Accept({Ask(KindBit(Kind::kActivations), Level::kTensor)}, 0, shm::kFeatureCommands);
  const auto begin = std::chrono::steady_clock::now();
  session->WaitForDaemon();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, test::kWatchdog);
}

// Whoever else has the lock in that moment.
TEST(Session, AFirstCopyOfTheDemandWaitsForTheLock) {
  const Waiting waiting;
  DaemonByHand daemon;
  std::unique_ptr<Session> session = Open(daemon);
  ASSERT_NE(session, nullptr);
  daemon.Accept({Ask(KindBit(Kind::kLoss), Level::kSummary)});
  session->WaitForDaemon();
  std::atomic<int> empty{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int n = 0; n < 50'000; ++n) {
        Session::DemandCopy copy;
        session->RefreshDemand(copy);
        if (!copy.table) ++empty;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(empty, 0);
}

// What the probe switches off runs at once; what tells the trainer of it runs on the service thread.
TEST(Session, SwitchOffIsToldByTheServiceThread) {
  DaemonByHand daemon;
  ::testing::internal::CaptureStderr();
  std::unique_ptr<Session> session = Open(daemon);
  ASSERT_NE(session, nullptr);
  daemon.Accept({});
  std::atomic<int> calls{0};
  std::atomic<bool> elsewhere{false};
  session->SetTick({}, [&, trainer = std::this_thread::get_id()] {
    elsewhere.store(std::this_thread::get_id() != trainer);
    ++calls;
  });
  session->SwitchOff("a tensor that nobody can read");
  session->SwitchOff("a second failure");
  EXPECT_FALSE(session->active());
  EXPECT_TRUE(Eventually([&] { return calls.load() == 1; }));
  EXPECT_TRUE(elsewhere.load());
  EXPECT_THAT(NotesOf(daemon), HasSubstr("switched itself off: a tensor that nobody can read"));
  EXPECT_EQ(daemon.view().ReadStatus().status.state, static_cast<uint32_t>(shm::ProducerState::kSwitchedOff));
  session.reset();
  EXPECT_EQ(calls.load(), 1);
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_THAT(said, HasSubstr("off for the rest of this run"));
  EXPECT_EQ(said.find("a second failure"), std::string::npos);
}

TEST(Session, WhatAFillThrowsLeavesAVoidAndItsKindIsMissing) {
  DaemonByHand daemon;
  std::unique_ptr<Session> session = Open(daemon);
  ASSERT_NE(session, nullptr);
  daemon.Accept({Ask(KindBit(Kind::kActivations), Level::kTensor)});
  ASSERT_TRUE(Eventually([&] { return session->arena_ready(); }));
  std::atomic<uint64_t> dropped{0};
  MessageHeader header = Header(Kind::kActivations);
  header.dropped_kinds = &dropped;
  const int64_t sizes[] = {16};
  const TensorShape shape{DType::kF32, 1, sizes};
  EXPECT_THROW(
      session->PublishTensor(header, shape, 64, [](unsigned char*) { throw std::runtime_error("no memory"); }),
      std::runtime_error);
  EXPECT_EQ(dropped.load(), KindBit(Kind::kActivations));
  EXPECT_TRUE(session->PublishTensor(header, shape, 64, [](unsigned char* to) { std::memset(to, 0, 64); }));
  const auto got = daemon.Drain();
  ASSERT_EQ(got.size(), 2u);
  EXPECT_EQ(got[0].record.type, static_cast<uint8_t>(RecordType::kVoid));
  EXPECT_EQ(got[1].payload.size(), 64u);
}

TEST(Session, ATextThatIsTooLongIsCutBeforeACharacterAndFlagged) {
  DaemonByHand daemon;
  std::unique_ptr<Session> session = Open(daemon);
  ASSERT_NE(session, nullptr);
  daemon.Accept({});
  MessageHeader header = Header(Kind::kText);
  header.param = session->NameId("note");
  EXPECT_TRUE(session->PublishText(header, std::string(shm::kMaxTextBytes - 1, 'x') + "\xc3\xa4"));
  EXPECT_TRUE(session->PublishText(header, std::string(shm::kMaxTextBytes, 'y')));
  const auto got = daemon.Drain();
  ASSERT_EQ(got.size(), 2u);
  EXPECT_EQ(got[0].record.text.length, shm::kMaxTextBytes - 1);
  EXPECT_EQ(got[0].record.flags, kFlagTruncated);
  EXPECT_EQ(got[1].record.text.length, shm::kMaxTextBytes);
  EXPECT_EQ(got[1].record.flags, 0);
}

// A record without its module, name or tag would be a broken format to the daemon, and the end of the session.
TEST(Session, WhatHasNoIdIsDroppedAsUnnamed) {
  DaemonByHand daemon;
  std::unique_ptr<Session> session = Open(daemon);
  ASSERT_NE(session, nullptr);
  daemon.Accept({});
  const TensorShape shape{DType::kF32, 0, nullptr};
  TensorStats stats;
  stats.n = stats.finite_n = stats.zeros = 1;
  std::atomic<uint64_t> dropped{0};
  const auto without = [&](Kind kind, auto&& change) {
    MessageHeader header = Header(kind);
    header.dropped_kinds = &dropped;
    change(header);
    return header;
  };
  EXPECT_FALSE(session->PublishSummary(without(Kind::kWeights, [](auto& h) { h.module = 0; }), shape, stats));
  EXPECT_FALSE(session->PublishScalar(without(Kind::kScalar, [](auto& h) { h.param = 0; }), 1));
  EXPECT_FALSE(session->PublishScalar(without(Kind::kLearningRate, [](auto& h) { h.param = 0; }), 1));
  EXPECT_FALSE(session->PublishText(without(Kind::kText, [](auto& h) { h.param = 0; }), "x"));
  EXPECT_FALSE(session->PublishScalar(without(Kind::kLoss, [](auto& h) { h.tag = kNoTag; }), 1));
  EXPECT_FALSE(session->PublishMarker(without(Kind::kBatchStarted, [](auto& h) { h.root = 0; })));
  EXPECT_TRUE(session->PublishScalar(Header(Kind::kLoss), 1));
  EXPECT_EQ(daemon.Drain().size(), 1u);
  const auto status = daemon.view().ReadStatus().status;
  EXPECT_EQ(status.dropped[static_cast<size_t>(DropReason::kUnnamed)], 6u);
  EXPECT_EQ(status.attempted, 7u);
  EXPECT_NE(dropped.load() & KindBit(Kind::kWeights), 0u);
  // Of a root that found no room there are status words all the same.
  shm::StoreRelaxed(session->root_status(0).step, 9);
  EXPECT_EQ(daemon.view().ReadStatus().status.roots[15].step, 0u);
}

TEST(Session, AMessageThatCannotBeReadCountsAsFailed) {
  DaemonByHand daemon;
  std::unique_ptr<Session> session = Open(daemon);
  ASSERT_NE(session, nullptr);
  daemon.Accept({});
  std::atomic<uint64_t> dropped{0};
  MessageHeader header = Header(Kind::kWeights);
  header.dropped_kinds = &dropped;
  session->CountFailed(header);
  EXPECT_EQ(dropped.load(), KindBit(Kind::kWeights));
  EXPECT_EQ(daemon.view().ReadStatus().status.dropped[static_cast<size_t>(DropReason::kFailed)], 1u);
}

// ---- What a daemon may do

TEST(Session, WithoutTheArenaWholeTensorsComeAsStatistics) {
  DaemonByHand daemon;
  std::unique_ptr<Session> session = Open(daemon);
  ASSERT_NE(session, nullptr);
  daemon.Accept({Ask(KindBit(Kind::kActivations), Level::kTensor)}, 0, shm::kFeatureCommands);
  ASSERT_TRUE(Eventually([&] { return session->connected(); }));
  EXPECT_TRUE(session->arena_ready()) << "there is nothing to wait for";
  EXPECT_FALSE(session->FitsArena(1));
  EXPECT_EQ(daemon.view().ReadStatus().status.arena_tail, 0u);
  EXPECT_THAT(NotesOf(daemon), HasSubstr("takes no whole tensors"));
}

TEST(Session, WithoutCommandsInTheAgreementNoneIsTaken) {
  DaemonByHand daemon;
  SessionOptions options;
  options.directory = daemon.directory();
  options.arena_mb = 1;
  options.control = shm::Control::kAll;
  std::unique_ptr<Session> session = Session::Open(options);
  ASSERT_NE(session, nullptr);
  daemon.Accept({}, 0, shm::kFeatureArena);
  ASSERT_TRUE(Eventually([&] { return session->connected(); }));
  daemon.Command(shm::CommandType::kStop);
  int handled = 0;
  for (int i = 0; i < 200; ++i) {
    session->HandleCommands(1, i, [&](const shm::Command&) { ++handled; });
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(handled, 0);
  EXPECT_EQ(daemon.view().ReadStatus().status.command_done, 0u);
}

// One that nobody here knows must not hold up those behind it, nor be taken without a word.
TEST(Session, CommandsThatCannotBeDoneAreTakenAndSaid) {
  DaemonByHand daemon;
  SessionOptions options;
  options.directory = daemon.directory();
  options.arena_mb = 1;
  options.control = shm::Control::kStopOnly;
  std::unique_ptr<Session> session = Session::Open(options);
  ASSERT_NE(session, nullptr);
  daemon.Accept({});
  ASSERT_TRUE(Eventually([&] { return session->connected(); }));
  for (const auto type : {shm::CommandType::kEvaluate, shm::CommandType::kCapture, static_cast<shm::CommandType>(99),
                          shm::CommandType::kFreeze, shm::CommandType::kPrepare}) {
    daemon.Command(type);
  }
  const uint64_t stop = daemon.Command(shm::CommandType::kStop);
  std::vector<uint32_t> handled;
  EXPECT_TRUE(Eventually([&] {
    session->HandleCommands(1, 5, [&](const shm::Command& command) { handled.push_back(command.type); });
    return daemon.view().ReadStatus().status.command_done == stop && !handled.empty();
  }));
  EXPECT_EQ(handled, std::vector<uint32_t>{static_cast<uint32_t>(shm::CommandType::kStop)});
  const std::string notes = NotesOf(daemon);
  EXPECT_THAT(notes, HasSubstr("(99) that this probe does not know"));
  for (const char* type : {"(1)", "(4)", "(5)"}) {
    EXPECT_THAT(notes, HasSubstr(std::string(type) + " that this trainer does not take"));
  }
}

TEST(Session, ALieOfTheDaemonIsNoted) {
  DaemonByHand daemon;
  SessionOptions options;
  options.directory = daemon.directory();
  options.arena_mb = 1;
  options.ring_slots = 8;
  std::unique_ptr<Session> session = Session::Open(options);
  ASSERT_NE(session, nullptr);
  daemon.Accept({});
  ASSERT_TRUE(Eventually([&] { return session->connected(); }));
  daemon.ctl().SetHeads({1000, 0});
  for (int i = 0; i < 20; ++i) session->PublishScalar(Header(Kind::kLoss), 1);
  EXPECT_TRUE(Eventually([&] { return NotesOf(daemon).find("positions that cannot be") != std::string::npos; }));
  EXPECT_EQ(daemon.view().ReadStatus().status.dropped[static_cast<size_t>(DropReason::kRingFull)], 12u);
}

TEST(Session, ADaemonThatHangsIsSaidOnTheTerminal) {
  DaemonByHand daemon;
  Child child([&] {
    std::unique_ptr<Session> session = Open(daemon);
    if (!session) return 1;
    Child::WaitForLetGo();
    return 0;
  });
  daemon.Accept({});
  daemon.ctl().Beat(MonotonicNs() - Session::kSilentDaemonNs - 1);
  EXPECT_TRUE(child.Says("the daemon has not moved for 30 s")) << child.said();
  daemon.ctl().Beat(MonotonicNs());
  EXPECT_EQ(child.End(), 0);
}

// ---- The end, and other processes

TEST(Session, ASecondIsRefusedUntilTheFirstIsGone) {
  DaemonByHand daemon;
  std::unique_ptr<Session> first = Open(daemon);
  ASSERT_NE(first, nullptr);
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(Open(daemon), nullptr);
  EXPECT_THAT(::testing::internal::GetCapturedStderr(), HasSubstr("the second probe does nothing"));
  EXPECT_TRUE(first->active());
  first.reset();
  EXPECT_NE(Open(daemon), nullptr);
}

// Something of the process that its end takes down, as LibTorch is, and that a tick would touch.
struct Torn {
  std::atomic<bool>* torn;
  ~Torn() {
    torn->store(true);
    std::this_thread::sleep_for(std::chrono::milliseconds(600));  // two ticks
  }
};

TEST(Session, OneThatIsNeverDestroyedEndsWithTheProcess) {
  DaemonByHand daemon;
  Child child([&] {
    static std::atomic<bool> torn{false};
    static Torn world{&torn};
    auto* leaked = Open(daemon).release();
    if (leaked == nullptr) return 1;
    leaked->SetTick([] {
      if (torn.load()) ::_exit(7);
    });
    Child::WaitForLetGo();
    std::exit(0);
  });
  daemon.Accept({});
  EXPECT_EQ(child.End(), 0);
  EXPECT_EQ(daemon.view().ReadStatus().status.state, static_cast<uint32_t>(shm::ProducerState::kFinished));
}

TEST(Session, OneOfAStaticObjectEndsWithTheProcess) {
  DaemonByHand daemon;
  Child child([&] {
    static std::unique_ptr<Session> early;  // made before, so destroyed behind the handlers of exit()
    early = Open(daemon);
    if (!early) return 1;
    Child::WaitForLetGo();
    std::exit(0);
  });
  daemon.Accept({});
  EXPECT_EQ(child.End(), 0);
}

// A training thread that ends the process within a call that the service thread waits for.
TEST(Session, AnExitFromWithinATickDoesNotHang) {
  DaemonByHand daemon;
  Child child([&]() -> int {
    auto* leaked = Open(daemon).release();
    static auto* const held = new std::mutex;  // the thread that waits for it outlives static objects
    static std::atomic<bool> locked{false}, waits{false};
    leaked->SetTick([] {
      if (!locked.load()) return;
      waits.store(true);
      std::lock_guard lock(*held);
    });
    held->lock();
    locked.store(true);
    while (!waits.load()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    std::exit(0);
  });
  EXPECT_EQ(child.End(), 0);
}

TEST(Session, AForkedChildThatExitsEndsNothingOfItsParent) {
  DaemonByHand daemon;
  std::unique_ptr<Session> session = Open(daemon);
  ASSERT_NE(session, nullptr);
  daemon.Accept({});
  ASSERT_TRUE(Eventually([&] { return session->connected(); }));
  for (int i = 0; i < 20; ++i) {  // the service thread may be in any of its locks
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      ::alarm(Child::kWatchdogSeconds);
      if (session->active()) ::_exit(1);
      session->Say("not from here");
      session->AddNote("nor this");
      session->AddFact("a", "b");
      if (session->NameId("x") != 0 || session->TagId("x") != kNoTag || session->AddRoot("x") != 0) ::_exit(2);
      session->SwitchOff("nor from here");
      session->PublishScalar(Header(Kind::kLoss), 1);
      std::exit(0);  // with the handlers that the parent's session registered
    }
    int status = -1;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_EQ(status, 0);
    session->AddNote("note " + std::to_string(i));
  }
  EXPECT_TRUE(session->active());
  EXPECT_EQ(daemon.view().ReadStatus().status.state, static_cast<uint32_t>(shm::ProducerState::kRunning));
  EXPECT_THAT(NotesOf(daemon), ::testing::Not(HasSubstr("nor this")));
}

// What the trainer becomes holds nothing of ours.
TEST(Session, NothingIsLeftOpenBehindExec) {
  DaemonByHand daemon;
  Child child([&] {
    std::unique_ptr<Session> session = Open(daemon);
    if (!session) return 1;
    Child::WaitForLetGo();
    ::dup2(2, 1);
    ::execl("/bin/ls", "ls", "-l", "/proc/self/fd", nullptr);
    return 2;
  });
  daemon.Accept({});
  EXPECT_EQ(child.End(), 0);
  EXPECT_THAT(child.said(), HasSubstr("2 -> "));
  for (const char* ours : {"ikkuna", "eventfd", "socket"}) {
    EXPECT_EQ(child.said().find(ours), std::string::npos) << child.said();
  }
}

}  // namespace
}  // namespace ikkuna::probe
