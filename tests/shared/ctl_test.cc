// CTL: demand, heads and commands both ways, and a daemon that lies.
#include "shared/ctl.h"

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <thread>

#include "tests/shared/transport_pair.h"

namespace ikkuna::shm {
namespace {

// CTL as a liar writes it: a true one, whose bytes are in reach.
struct OpenCtl {
  std::unique_ptr<CtlWriter> writer;
  unsigned char* bytes = nullptr;
  size_t size = 0;

  OpenCtl() {
    auto made = CtlWriter::Create(7, {0, 0}, 10000);
    EXPECT_TRUE(made.ok());
    if (!made) return;
    writer = std::move(made).value();
  }
  std::unique_ptr<CtlView> Open() const {
    auto view = CtlView::Open(Duplicate(writer->fd()));
    EXPECT_TRUE(view.ok()) << view.error().text;
    return view.ok() ? std::move(view).value() : nullptr;
  }
};

DemandItem Item(uint32_t period) {
  DemandItem item;
  item.kinds = KindBit(Kind::kWeights) | KindBit(Kind::kLoss);
  item.period = period;
  item.root = 2;
  item.tag = kTagTest;
  item.level = Level::kTensor;
  item.all_modules = false;
  item.modules = {0x8000000000000002u, 0x5};
  return item;
}

TEST(Ctl, StartsEmptyAtTheHeadsGiven) {
  auto writer = CtlWriter::Create(42, {3, 128}, 10000);
  ASSERT_TRUE(writer.ok());
  auto view = CtlView::Open(Duplicate((*writer)->fd()));
  ASSERT_TRUE(view.ok()) << view.error().text;
  EXPECT_EQ((*view)->session_id(), 42u);
  EXPECT_EQ((*view)->heads(), (Heads{3, 128}));
  EXPECT_EQ((*view)->budget_ppm(), 10000u);
  EXPECT_EQ((*view)->demand_generation(), 0u);
  const auto demand = (*view)->CopyDemand(100);
  ASSERT_TRUE(demand.has_value());
  EXPECT_TRUE(demand->empty());
  EXPECT_FALSE((*view)->NextCommand(0).has_value());
}

TEST(Ctl, WordsArrive) {
  OpenCtl ctl;
  auto view = ctl.Open();
  ASSERT_TRUE(view);
  ctl.writer->SetHeads({5, 640});
  ctl.writer->SetBudget(7);
  ctl.writer->Beat(99);
  EXPECT_EQ(view->heads(), (Heads{5, 640}));
  EXPECT_EQ(view->budget_ppm(), 7u);
  EXPECT_EQ(view->heartbeat_ns(), 99u);
}

TEST(Ctl, DemandArrivesWholeAndIsReplaced) {
  OpenCtl ctl;
  auto view = ctl.Open();
  ASSERT_TRUE(view);
  DemandItem all;
  all.kinds = KindBit(Kind::kActivations);
  all.period = 10;
  all.moments = kMomentFirst | kMomentBounds;
  ASSERT_TRUE(ctl.writer->SetDemand({Item(3), all}, 12).ok());
  EXPECT_EQ(view->demand_generation(), 2u);
  EXPECT_EQ(view->registry_seen(), 12u);
  auto demand = view->CopyDemand(100);
  ASSERT_TRUE(demand.has_value());
  ASSERT_EQ(demand->size(), 2u);
  EXPECT_EQ((*demand)[0], Item(3));
  EXPECT_EQ((*demand)[1], all);
  // A shorter bitset leaves nothing of the longer one before it.
  DemandItem shorter = Item(5);
  shorter.modules = {0x2};
  ASSERT_TRUE(ctl.writer->SetDemand({shorter}, 13).ok());
  demand = view->CopyDemand(100);
  ASSERT_TRUE(demand.has_value());
  ASSERT_EQ(demand->size(), 1u);
  EXPECT_EQ((*demand)[0].modules, (std::vector<uint64_t>{0x2, 0x0}));
  // The last module there can be.
  shorter.modules.assign(kModuleBitsetBytes / 8, ~uint64_t{0});
  ASSERT_TRUE(ctl.writer->SetDemand({shorter}, 13).ok());
  EXPECT_EQ(view->CopyDemand(kMaxModules - 1)->front().modules, shorter.modules);
  EXPECT_EQ(view->CopyDemand(~size_t{0})->front().modules, shorter.modules) << "no more than there is";
}

TEST(Ctl, DemandHasAMaximumAndItsEntriesLimits) {
  OpenCtl ctl;
  std::vector<DemandItem> items(kMaxDemandEntries, Item(1));
  EXPECT_TRUE(ctl.writer->SetDemand(items, 0).ok());
  items.push_back(Item(1));
  const auto refused = ctl.writer->SetDemand(items, 0);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kResourceExhausted);
  auto view = ctl.Open();
  ASSERT_TRUE(view);
  EXPECT_EQ(view->CopyDemand(100)->size(), kMaxDemandEntries) << "a refused demand changes nothing";
  DemandItem wrong = Item(0);
  EXPECT_FALSE(ctl.writer->SetDemand({wrong}, 0).ok());
  wrong = Item(1);
  wrong.root = 0;
  EXPECT_FALSE(ctl.writer->SetDemand({wrong}, 0).ok());
  wrong = Item(1);
  wrong.modules.resize(kModuleBitsetBytes / 8 + 1);
  EXPECT_FALSE(ctl.writer->SetDemand({wrong}, 0).ok());
}

TEST(Ctl, CommandsComeInOrderOnce) {
  OpenCtl ctl;
  auto view = ctl.Open();
  ASSERT_TRUE(view);
  Command command{};
  command.type = static_cast<uint32_t>(CommandType::kFreeze);
  command.root = 1;
  command.module = 4;
  auto pushed = ctl.writer->Push(command, 0);
  ASSERT_TRUE(pushed.ok());
  EXPECT_EQ(*pushed, 1u);
  command.type = static_cast<uint32_t>(CommandType::kStop);
  ASSERT_TRUE(ctl.writer->Push(command, 0).ok());
  auto first = view->NextCommand(0);
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(first->type, static_cast<uint32_t>(CommandType::kFreeze));
  EXPECT_EQ(first->module, 4u);
  EXPECT_EQ(view->NextCommand(1)->type, static_cast<uint32_t>(CommandType::kStop));
  EXPECT_FALSE(view->NextCommand(2).has_value());
}

TEST(Ctl, CommandsWaitingHaveAMaximum) {
  OpenCtl ctl;
  auto view = ctl.Open();
  ASSERT_TRUE(view);
  Command command{};
  command.type = static_cast<uint32_t>(CommandType::kStop);
  for (size_t i = 0; i < kCommandSlots; ++i) ASSERT_TRUE(ctl.writer->Push(command, 0).ok());
  const auto refused = ctl.writer->Push(command, 0);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kResourceExhausted);
  EXPECT_TRUE(ctl.writer->Push(command, 1).ok());
  EXPECT_FALSE(view->NextCommand(0).has_value()) << "done, and its slot taken";
  EXPECT_TRUE(view->NextCommand(kCommandSlots).has_value());
  EXPECT_EQ(ctl.writer->Push(command, 1000).error().code, ErrorCode::kCorrupt) << "more than were ever pushed";
}

TEST(Ctl, NextSessionGoesOnBehindTheCommandsDone) {
  OpenCtl ctl;
  auto view = ctl.Open();
  ASSERT_TRUE(view);
  Command command{};
  command.type = static_cast<uint32_t>(CommandType::kStop);
  EXPECT_EQ(*ctl.writer->Push(command, 100), 101u);
  EXPECT_TRUE(view->NextCommand(100).has_value());
}

// ---- A daemon that lies

TEST(Malicious_Ctl, HeaderIsChecked) {
  const std::pair<const char*, std::function<void(CtlHeader&)>> lies[] = {
      {"magic", [](CtlHeader& h) { h.magic = kPubMagic; }},
      {"major", [](CtlHeader& h) { h.abi_major = 0; }},
      {"not ready", [](CtlHeader& h) { h.ready = 2; }},
      {"header small", [](CtlHeader& h) { h.header_bytes = 0; }},
      {"total", [](CtlHeader& h) { h.total_bytes += 4096; }},
      {"total 0", [](CtlHeader& h) { h.total_bytes = 0; }},
      {"state outside", [](CtlHeader& h) { h.state_offset = h.total_bytes - 64; }},
      {"state wraps", [](CtlHeader& h) { h.state_offset = ~uint64_t{63}; }},
      {"state misaligned", [](CtlHeader& h) { h.state_offset += 8; }},
      {"demand on header", [](CtlHeader& h) { h.demand_offset = 0; }},
      {"bitsets outside", [](CtlHeader& h) { h.bitsets_offset += 64; }},
      {"commands on demand", [](CtlHeader& h) { h.commands_offset = h.demand_offset + 64; }},
  };
  for (const auto& [what, lie] : lies) {
    auto segment = Segment::Create("lie", 4 << 20);
    ASSERT_TRUE(segment.ok());
    CtlHeader header{};
    header.magic = kCtlMagic;
    header.abi_major = kAbiMajor;
    header.header_bytes = sizeof(header);
    header.total_bytes = 4 << 20;
    header.state_offset = 128;
    header.demand_offset = 1024;
    header.commands_offset = 16384;
    header.bitsets_offset = (4 << 20) - kMaxDemandEntries * kModuleBitsetBytes;
    header.ready = 1;
    auto& shared = *reinterpret_cast<CtlHeader*>(segment->data());
    shared = header;
    ASSERT_TRUE(CtlView::Open(Duplicate(segment->fd())).ok()) << "true as it stands";
    lie(shared);
    auto opened = CtlView::Open(Duplicate(segment->fd()));
    ASSERT_FALSE(opened.ok()) << what;
    EXPECT_EQ(opened.error().code, ErrorCode::kCorrupt) << what;
  }
  EXPECT_FALSE(CtlView::Open(UniqueFd()).ok());
  EXPECT_FALSE(CtlView::Open(UniqueFd(open("/dev/zero", O_RDWR | O_CLOEXEC))).ok());
}

// A CTL whose state is written by hand.
struct HandmadeCtl {
  Segment segment;
  CtlState* state = nullptr;
  DemandEntry* demand = nullptr;
  Command* commands = nullptr;
  std::unique_ptr<CtlView> view;

  HandmadeCtl() {
    auto made = Segment::Create("hand", 4 << 20);
    if (!made) return;
    segment = std::move(made).value();
    auto& header = *reinterpret_cast<CtlHeader*>(segment.data());
    header.magic = kCtlMagic;
    header.abi_major = kAbiMajor;
    header.header_bytes = sizeof(header);
    header.total_bytes = 4 << 20;
    header.state_offset = 128;
    header.demand_offset = 1024;
    header.commands_offset = 16384;
    header.bitsets_offset = 65536;
    header.ready = 1;
    state = reinterpret_cast<CtlState*>(segment.data() + 128);
    demand = reinterpret_cast<DemandEntry*>(segment.data() + 1024);
    commands = reinterpret_cast<Command*>(segment.data() + 16384);
    auto opened = CtlView::Open(Duplicate(segment.fd()));
    if (opened) view = std::move(opened).value();
  }
};

TEST(Malicious_Ctl, DemandIsChecked) {
  const DemandEntry good{KindBit(Kind::kLoss), 1, kAnyRoot, 0, 1, 1, 0, 0, 0};
  const std::pair<const char*, std::function<void(HandmadeCtl&)>> lies[] = {
      {"odd generation", [](HandmadeCtl& c) { c.state->demand_generation = 1; }},
      {"too many", [](HandmadeCtl& c) { c.state->demand_count = kMaxDemandEntries + 1; }},
      {"4 billion", [](HandmadeCtl& c) { c.state->demand_count = ~0u; }},
      {"period 0", [](HandmadeCtl& c) { c.demand[0].period = 0; }},
      {"root 0", [](HandmadeCtl& c) { c.demand[0].root = 0; }},
      {"root 17", [](HandmadeCtl& c) { c.demand[0].root = 17; }},
      {"tag", [](HandmadeCtl& c) { c.demand[0].tag = kMaxTags; }},
      {"level 0", [](HandmadeCtl& c) { c.demand[0].level = 0; }},
      {"level 3", [](HandmadeCtl& c) { c.demand[0].level = 3; }},
      {"all_modules 2", [](HandmadeCtl& c) { c.demand[0].all_modules = 2; }},
  };
  for (const auto& [what, lie] : lies) {
    HandmadeCtl ctl;
    ASSERT_TRUE(ctl.view);
    ctl.demand[0] = good;
    ctl.state->demand_count = 1;
    ctl.state->demand_generation = 2;
    ASSERT_TRUE(ctl.view->CopyDemand(10).has_value());
    lie(ctl);
    EXPECT_FALSE(ctl.view->CopyDemand(10).has_value()) << what;
  }
}

TEST(Malicious_Ctl, UnknownKindsAreAskedInVain) {
  HandmadeCtl ctl;
  ASSERT_TRUE(ctl.view);
  ctl.demand[0] = {~uint64_t{0}, 1, kAnyRoot, 0, 1, 1, 0, 0, 0};
  ctl.state->demand_count = 1;
  const auto demand = ctl.view->CopyDemand(10);
  ASSERT_TRUE(demand.has_value());
  for (uint8_t code = 0; code < 64; ++code) {
    EXPECT_EQ((demand->front().kinds >> code & 1) != 0, IsKnownKind(code)) << int{code};
  }
}

TEST(Malicious_Ctl, CommandsAreChecked) {
  const std::pair<const char*, std::function<void(Command&)>> lies[] = {
      {"type 0", [](Command& c) { c.type = 0; }},
      {"root", [](Command& c) { c.root = 17; }},
      {"module", [](Command& c) { c.module = kMaxModules; }},
      {"param", [](Command& c) { c.param = kMaxParams + 1; }},
      {"seq", [](Command& c) { c.seq = 65; }},
  };
  for (const auto& [what, lie] : lies) {
    HandmadeCtl ctl;
    ASSERT_TRUE(ctl.view);
    ctl.commands[0].type = 1;
    ctl.commands[0].seq = 1;
    ASSERT_TRUE(ctl.view->NextCommand(0).has_value());
    lie(ctl.commands[0]);
    EXPECT_FALSE(ctl.view->NextCommand(0).has_value()) << what;
  }
}

// Heads below what was accepted or beyond what was handed out are as if they had not been written.
TEST(Malicious_Ctl, HeadsAreChecked) {
  HandmadeCtl ctl;
  ASSERT_TRUE(ctl.view);
  auto made = PubWriter::Create({.ring_slots = 4, .arena_bytes = 4096, .registry_bytes = 4096});
  ASSERT_TRUE(made.ok());
  PubWriter& writer = **made;
  ASSERT_EQ(writer.BackArena(4096), 4096u);
  const CtlState& state = *ctl.state;
  writer.SetHeadSource(std::shared_ptr<const CtlView>(std::move(ctl.view)));
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(PublishBytes(writer, 64, 1));
  EXPECT_FALSE(writer.peer_lied());
  EXPECT_FALSE(PublishScalar(writer, 1));
  EXPECT_FALSE(writer.peer_lied()) << "no room is no lie";
  const Heads lies[] = {{5, 0}, {~uint64_t{0}, 0}, {1, 320}, {1, ~uint64_t{0}}};
  for (const Heads& lie : lies) {
    StoreRelease(ctl.state->ring_head, lie.ring_head);
    StoreRelease(ctl.state->arena_head, lie.arena_head);
    EXPECT_FALSE(PublishScalar(writer, 1)) << lie.ring_head << " " << lie.arena_head;
    EXPECT_TRUE(writer.peer_lied());
    EXPECT_FALSE(writer.AcceptHeads(lie));
    EXPECT_EQ(writer.heads(), (Heads{0, 0}));
  }
  StoreRelease(ctl.state->ring_head, 2);
  StoreRelease(ctl.state->arena_head, 128);
  EXPECT_TRUE(PublishScalar(writer, 1));
  EXPECT_EQ(writer.heads(), (Heads{2, 128}));
  EXPECT_FALSE(writer.AcceptHeads({1, 128})) << "backwards";
  EXPECT_TRUE(writer.peer_lied()) << "until the session is another";
  writer.SetHeadSource(nullptr);
  EXPECT_FALSE(writer.peer_lied());
  EXPECT_EQ(LoadRelaxed(state.ring_head), 2u);
}

// A daemon frees a slot that a thread is still writing: no second thread gets it.
TEST(Malicious_Ctl, SlotThatIsBeingWrittenIsNotHandedOutAgain) {
  TransportPair pair({.ring_slots = 4, .arena_bytes = 0, .registry_bytes = 4096});
  ASSERT_TRUE(pair.ok());
  auto slow = pair.writer->Reserve(Space::kInline, 0);
  ASSERT_TRUE(slow);
  std::thread([&] {
    for (int i = 1; i < 4; ++i) EXPECT_TRUE(PublishScalar(*pair.writer, i));
    pair.ctl->SetHeads({1, 0});
    EXPECT_FALSE(PublishScalar(*pair.writer, 4));
    EXPECT_TRUE(pair.writer->peer_lied());
  }).join();
  FillScalar(slow.record(), 0);
  slow.Commit();
  EXPECT_TRUE(PublishScalar(*pair.writer, 5)) << "committed and given back";
  EXPECT_EQ(pair.writer->status().dropped[static_cast<size_t>(DropReason::kRingFull)], 1u);
}

// The source may be taken away, and its memory with it, while threads publish.
TEST(Ctl, HeadSourceIsReplacedUnderPublishingThreads) {
  auto made = PubWriter::Create({.ring_slots = 4, .arena_bytes = 0, .registry_bytes = 4096});
  ASSERT_TRUE(made.ok());
  PubWriter& writer = **made;
  std::atomic<bool> done{false};
  std::atomic<uint64_t> attempts{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&] {
      while (!done.load()) {
        PublishScalar(writer, 1);
        ++attempts;
      }
    });
  }
  for (int session = 0; session < 200; ++session) {
    auto ctl = CtlWriter::Create(1, writer.heads(), 0);
    ASSERT_TRUE(ctl.ok());
    auto view = CtlView::Open(Duplicate((*ctl)->fd()));
    ASSERT_TRUE(view.ok());
    writer.SetHeadSource(std::shared_ptr<const CtlView>(std::move(view).value()));
    const uint64_t before = attempts.load();
    while (attempts.load() < before + 10) std::this_thread::yield();
    if (session % 2 == 0) writer.SetHeadSource(nullptr);
  }
  done = true;
  for (std::thread& thread : threads) thread.join();
  const PubStatus& status = writer.status();
  uint64_t dropped = 0;
  for (const uint64_t count : status.dropped) dropped += count;
  EXPECT_EQ(status.attempted, attempts.load());
  EXPECT_EQ(status.reserved + dropped, attempts.load());
}

// Whatever a reader gets while the demand is replaced again and again is one demand, whole.
TEST(Ctl, DemandIsNeverTorn) {
  OpenCtl ctl;
  auto view = ctl.Open();
  ASSERT_TRUE(view);
  std::atomic<bool> done{false};
  std::atomic<uint64_t> copies{0};
  std::thread reader([&] {
    while (!done.load()) {
      const auto demand = view->CopyDemand(64 * 8 - 1);
      if (!demand) continue;
      for (const DemandItem& item : *demand) {
        EXPECT_EQ(item.period, demand->size());
        for (const uint64_t word : item.modules) EXPECT_EQ(word, demand->size());
      }
      ++copies;
    }
  });
  for (uint32_t round = 0; round < 3000 || copies.load() < 100; ++round) {
    const uint32_t count = round % 7 + 1;
    DemandItem item = Item(count);
    item.modules.assign(8, count);
    ASSERT_TRUE(ctl.writer->SetDemand(std::vector<DemandItem>(count, item), round).ok());
    if (round % 64 == 0) std::this_thread::yield();
  }
  done = true;
  reader.join();
}

}  // namespace
}  // namespace ikkuna::shm
