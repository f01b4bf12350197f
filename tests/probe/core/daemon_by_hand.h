// DaemonByHand: a daemon's side of one session, held by a test. What is asked is what the test says, and what the probe
// publishes is read record by record.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "shared/ctl.h"
#include "shared/handshake.h"
#include "shared/pub.h"
#include "tests/watchdog.h"

namespace ikkuna {

// Accepts one producer, gives it a demand, and reads what it publishes.
class DaemonByHand {
 public:
  DaemonByHand() {
    char path[] = "/tmp/ikkuna-by-hand-XXXXXX";
    directory_ = ::mkdtemp(path);
    EXPECT_TRUE(shm::PrepareDirectory(directory_, false).ok());
    auto listener = shm::ListenForProducers(directory_, false);
    EXPECT_TRUE(listener.ok());
    listener_ = std::move(listener).value();
  }
  ~DaemonByHand() { std::filesystem::remove_all(directory_); }
  const std::string& directory() const { return directory_; }

  void Accept(const std::vector<shm::DemandItem>& demand, uint32_t budget_ppm = 0,
              uint64_t features = shm::kFeatureArena | shm::kFeatureCommands) {
    Meet();
    ASSERT_TRUE(view_);
    ASSERT_TRUE(view_->StartAt(hello_.heads).ok());
    auto ctl = shm::CtlWriter::Create(7, hello_.heads, budget_ppm);
    ASSERT_TRUE(ctl.ok());
    ctl_ = std::move(ctl).value();
    ReadRegistry();
    ASSERT_TRUE(ctl_->SetDemand(demand, 1u << 20).ok());
    ASSERT_TRUE(
        shm::SendWelcome(socket_.get(), {.session_id = 7, .feature_bits = features, .daemon_version = "test"}, ctl_->fd())
            .ok());
  }
  // Meets a producer and sends it away.
  void Refuse(const std::string& reason) {
    Meet();
    ASSERT_TRUE(view_);
    ASSERT_TRUE(shm::SendReject(socket_.get(), {.reason = reason}).ok());
    socket_.reset();
    view_.reset();
  }
  // The number of the command.
  uint64_t Command(shm::CommandType type, uint16_t root = 0, uint32_t module = 0, uint32_t param = 0,
                   uint64_t argument = 0) {
    shm::Command command{};
    command.type = static_cast<uint32_t>(type);
    command.root = root;
    command.module = module;
    command.param = param;
    command.argument = argument;
    auto number = ctl_->Push(command, view_->ReadStatus().status.command_done);
    EXPECT_TRUE(number.ok());
    return number ? *number : 0;
  }
  void ReadRegistry() {
    auto entries = view_->ReadRegistry();
    ASSERT_TRUE(entries.ok()) << entries.error().text;
    for (auto& entry : *entries) registry_.push_back(entry);
  }
  // Everything published, with host payloads copied out.
  struct Got {
    shm::Record record;
    std::vector<unsigned char> payload;
  };
  std::vector<Got> Drain() {
    std::vector<Got> all;
    for (;;) {
      auto next = view_->Next();
      EXPECT_TRUE(next.ok()) << (next.ok() ? "" : next.error().text);
      if (!next.ok() || !next->has_value()) break;
      const shm::Message& message = **next;
      Got got{message.record, {}};
      if (message.payload != nullptr) got.payload.assign(message.payload, message.payload + message.payload_bytes);
      all.push_back(std::move(got));
    }
    ctl_->SetHeads({view_->ring_position(), view_->arena_position()});
    ReadRegistry();
    return all;
  }
  void Demand(const std::vector<shm::DemandItem>& demand) { ASSERT_TRUE(ctl_->SetDemand(demand, 1u << 20).ok()); }
  const shm::Hello& hello() const { return hello_; }
  void Hang() { socket_.reset(); }
  shm::CtlWriter& ctl() { return *ctl_; }
  shm::PubView& view() { return *view_; }
  const std::vector<shm::RegistryEntry>& registry() const { return registry_; }

 private:
  // Until a producer has said hello; the limit is a watchdog.
  void Meet() {
    using namespace std::chrono_literals;
    const auto end = std::chrono::steady_clock::now() + test::kWatchdog;
    if (!socket_) view_.reset();  // of the meeting before
    while (!socket_ && std::chrono::steady_clock::now() < end) {
      socket_ = UniqueFd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (!socket_) std::this_thread::sleep_for(1ms);
    }
    ASSERT_TRUE(socket_.valid());
    while (!view_ && std::chrono::steady_clock::now() < end) {
      auto hello = shm::ReceiveHello(socket_.get());
      if (!hello) {
        ASSERT_EQ(hello.error().code, ErrorCode::kUnavailable) << hello.error().text;
        std::this_thread::sleep_for(1ms);
        continue;
      }
      hello_ = hello->hello;
      auto view = shm::PubView::Open(std::move(hello->pub_fd));
      ASSERT_TRUE(view.ok()) << view.error().text;
      view_ = std::move(view).value();
    }
  }

  std::string directory_;
  UniqueFd listener_, socket_;
  shm::Hello hello_;
  std::unique_ptr<shm::PubView> view_;
  std::unique_ptr<shm::CtlWriter> ctl_;
  std::vector<shm::RegistryEntry> registry_;
};

inline shm::DemandItem Ask(uint64_t kinds, Level level) {
  shm::DemandItem item;
  item.kinds = kinds | KindBit(Kind::kBatchStarted) | KindBit(Kind::kBatchFinished);
  item.level = level;
  return item;
}

}  // namespace ikkuna
