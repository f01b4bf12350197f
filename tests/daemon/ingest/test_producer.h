// TestProducer: a producer made of nothing but shared/, as another framework's probe would be. In the test's own
// process or in a child of it.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "daemon/model/run.h"
#include "shared/ctl.h"
#include "shared/handshake.h"
#include "shared/passes.h"
#include "shared/pub.h"
#include "shared/stats/stats_pass.h"
#include "tests/shared/leave_open.h"
#include "tests/watchdog.h"

namespace ikkuna::ingest {

// Polls until `what` holds; the limit is a watchdog.
inline bool Eventually(const std::function<bool()>& what) {
  for (const auto end = std::chrono::steady_clock::now() + test::kWatchdog; std::chrono::steady_clock::now() < end;) {
    if (what()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return what();
}

// A directory of its own, removed with the object.
class TempDirectory {
 public:
  TempDirectory() {
    std::string pattern = "/tmp/ikkuna-test.XXXXXX";
    path_ = ::mkdtemp(pattern.data());
  }
  ~TempDirectory() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  std::string sub(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

class TestProducer {
 public:
  explicit TestProducer(std::string directory, const shm::PubSizes& sizes = SmallSizes())
      : directory_(std::move(directory)) {
    auto pub = shm::PubWriter::Create(sizes);
    if (!pub) {
      ADD_FAILURE() << pub.error().text;
      return;
    }
    pub_ = std::move(pub).value();
    shm::StoreRelease(pub_->status().state, static_cast<uint32_t>(shm::ProducerState::kRunning));
    pub_->WriteClock();
    hello_.run_id = "run-" + std::to_string(::getpid()) + "-" + std::to_string(++count_);
    hello_.run = "test";
    std::memcpy(hello_.uuid.data(), pub_->header().uuid, hello_.uuid.size());
    hello_.feature_bits = pub_->header().feature_bits;
  }
  static shm::PubSizes SmallSizes() {
    shm::PubSizes sizes;
    sizes.ring_slots = 1024;
    sizes.arena_bytes = 1 << 20;
    sizes.registry_bytes = 1 << 20;
    return sizes;
  }

  // One root, one layer with one 2x2 parameter.
  void Register() {
    shm::RegistryEntry root;
    root.type = shm::EntryType::kRoot;
    root.id = root.root = 1;
    root.name = "model";
    EXPECT_TRUE(pub_->Append(root));
    shm::RegistryEntry module;
    module.type = shm::EntryType::kModule;
    module.root = 1;
    module.id = 1;
    module.name = "fc";
    module.second = "Linear";
    EXPECT_TRUE(pub_->Append(module));
    shm::RegistryEntry param;
    param.type = shm::EntryType::kParam;
    param.root = 1;
    param.id = 1;
    param.parent = 1;
    param.value = 4;
    param.dtype = DType::kF32;
    param.sizes = {2, 2};
    param.name = "weight";
    param.flags = shm::kEntryTrainable;
    EXPECT_TRUE(pub_->Append(param));
    AddFact("command", "train --lr 0.1");
  }
  void AddFact(const std::string& key, const std::string& value) {
    shm::RegistryEntry fact;
    fact.type = shm::EntryType::kFact;
    fact.id = ++facts_;
    fact.name = key;
    fact.second = value;
    EXPECT_TRUE(pub_->Append(fact));
  }

  // True when the daemon welcomed us; else reject() says why not.
  bool Connect() {
    reject_.clear();
    auto socket = shm::ConnectToDaemon(directory_);
    if (!socket) {
      reject_ = socket.error().text;
      return false;
    }
    socket_ = std::move(socket).value();
    hello_.heads = pub_->heads();
    if (auto sent = shm::SendHello(socket_.get(), hello_, pub_->fd()); !sent) {
      reject_ = sent.error().text;
      return false;
    }
    pollfd fd{socket_.get(), POLLIN, 0};
    if (::poll(&fd, 1, static_cast<int>(std::chrono::milliseconds(test::kWatchdog).count())) != 1) {
      reject_ = "no answer";
      return false;
    }
    auto answer = shm::ReceiveAnswer(socket_.get());
    if (!answer) {
      reject_ = answer.error().text;
      return false;
    }
    if (auto* reject = std::get_if<shm::Reject>(&*answer)) {
      reject_ = reject->reason;
      return false;
    }
    auto ctl = shm::CtlView::Open(std::move(std::get<shm::ReceivedWelcome>(*answer).ctl_fd));
    if (!ctl) {
      reject_ = ctl.error().text;
      return false;
    }
    ctl_ = std::move(ctl).value();
    if (!pub_->AcceptHeads(ctl_->heads())) reject_ = "the daemon's heads make no sense";
    pub_->SetHeadSource(ctl_);
    pub_->status().steps_unwatched += shm::StepsMade(pub_->status()) - steps_at_disconnect_;
    return reject_.empty();
  }
  // As the probe does when it sees the daemon's end.
  void Disconnect() {
    if (ctl_) steps_at_disconnect_ = shm::StepsMade(pub_->status());
    pub_->SetHeadSource(nullptr);
    ctl_.reset();
    socket_.reset();
  }
  // The goodbye of a trainer that ends in order.
  void Finish() {
    shm::StoreRelease(pub_->status().state, static_cast<uint32_t>(shm::ProducerState::kFinished));
    Disconnect();
  }
  // The daemon closed the connection.
  bool DaemonGone() const {
    pollfd fd{socket_.get(), POLLIN, 0};
    return ::poll(&fd, 1, 0) > 0 && (fd.revents & POLLHUP) != 0;
  }

  // A training step: begin, weights, loss, end. Weights are `value`, `value`, `value`, `value`.
  void Step(uint64_t step, float value) {
    Marker(Kind::kBatchStarted, step);
    Summary(step, value);
    Scalar(Kind::kLoss, step, value);
    Marker(Kind::kBatchFinished, step);
    shm::RootStatus& root = pub_->status().roots[0];
    shm::StoreRelease(root.phase, static_cast<uint32_t>(shm::Phase::kTrain));
    shm::StoreRelease(root.step, step + 1);
  }
  static constexpr uint64_t kRecordsPerStep = 4;

  bool Marker(Kind kind, uint64_t step) {
    return Publish(step, kind, [](shm::Record& record) { record.type = static_cast<uint8_t>(RecordType::kMarker); });
  }
  // `pass`: 0: of the step as a whole.
  bool Scalar(Kind kind, uint64_t step, double value, uint32_t pass = 0) {
    return Publish(step, kind, [&](shm::Record& record) {
      record.type = static_cast<uint8_t>(RecordType::kScalar);
      record.pass = pass;
      record.scalar = value;
    });
  }
  // A pass of two records: its beginning and a loss.
  void Pass(uint64_t step, uint32_t pass, double loss) {
    StartPass(step, pass);
    Scalar(Kind::kLoss, step, loss, pass);
  }
  bool StartPass(uint64_t step, uint32_t pass) {
    return Publish(step, Kind::kPassStarted, [&](shm::Record& record) {
      record.type = static_cast<uint8_t>(RecordType::kMarker);
      record.pass = pass;
    });
  }
  // The end of a step of these passes; `before`: of it that were named already. kPassesNamed: not its end yet.
  bool Name(Kind kind, uint64_t step, const std::vector<uint32_t>& passes, uint32_t lowest_open, uint32_t before = 0) {
    return Publish(step, kind, [&](shm::Record& record) {
      record.type = static_cast<uint8_t>(RecordType::kMarker);
      for (const uint32_t pass : passes) EXPECT_TRUE(shm::NamePass(record.marker, pass)) << pass;
      record.marker.lowest_open = lowest_open;
      record.marker.passes = before + static_cast<uint32_t>(passes.size());
    });
  }
  bool Summary(uint64_t step, float value) {
    const float data[4] = {value, value, value, value};
    return Publish(step, Kind::kWeights, [&](shm::Record& record) {
      record.type = static_cast<uint8_t>(RecordType::kSummary);
      record.module = 1;
      record.param = 1;
      record.dtype = static_cast<uint8_t>(DType::kF32);
      record.layout = static_cast<uint8_t>(Layout::kRowMajor);
      record.ndim = 2;
      record.sizes[0] = record.sizes[1] = 2;
      record.stats = ComputeStats(data, DType::kF32, 4);
    });
  }
  // Statistics of the weights, of a producer with a ring of late bytes: a device computes them still, or they are there.
  shm::LateSpan LateSummary(uint64_t step, const TensorStats* there = nullptr) {
    auto reservation = pub_->Reserve(Space::kHostLate, sizeof(TensorStats));
    if (!reservation) return {};
    shm::Record& record = reservation.record();
    const shm::Record reserved = record;
    record = shm::Record{};
    record.seq = reserved.seq;
    record.dropped_total = reserved.dropped_total;
    record.payload = reserved.payload;
    record.time_ns = 1;
    record.global_step = step;
    record.module = record.param = 1;
    record.root = 1;
    record.type = static_cast<uint8_t>(RecordType::kSummary);
    record.kind = static_cast<uint8_t>(Kind::kWeights);
    record.space = static_cast<uint8_t>(Space::kHostLate);
    record.dtype = static_cast<uint8_t>(DType::kF32);
    record.layout = static_cast<uint8_t>(Layout::kRowMajor);
    record.ndim = 2;
    record.sizes[0] = record.sizes[1] = 2;
    const shm::LateSpan span = reservation.TakeLate();
    if (there != nullptr) {
      std::memcpy(span.data(), there, sizeof *there);
      span.SetReady();
    }
    reservation.Commit();
    return span;
  }
  bool Publish(uint64_t step, Kind kind, const std::function<void(shm::Record&)>& fill) {
    auto reservation = pub_->Reserve(Space::kInline, 0);
    if (!reservation) return false;
    shm::Record& record = reservation.record();
    const uint64_t dropped = record.dropped_total;
    const uint64_t seq = record.seq;
    record = shm::Record{};
    record.seq = seq;
    record.dropped_total = dropped;
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    record.time_ns = static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
    record.global_step = step;
    record.train_step = static_cast<uint32_t>(step);
    record.root = 1;
    record.kind = static_cast<uint8_t>(kind);
    record.space = static_cast<uint8_t>(Space::kInline);
    fill(record);
    reservation.Commit();
    return true;
  }

  const std::string& reject() const { return reject_; }
  shm::PubWriter& pub() { return *pub_; }
  const shm::CtlView& ctl() const { return *ctl_; }
  std::shared_ptr<const shm::CtlView> ctl_handle() const { return ctl_; }
  shm::Hello& hello() { return hello_; }
  int socket() const { return socket_.get(); }

 private:
  static inline int count_ = 0;
  std::string directory_;
  std::unique_ptr<shm::PubWriter> pub_;
  shm::Hello hello_;
  UniqueFd socket_;
  std::shared_ptr<const shm::CtlView> ctl_;
  std::string reject_;
  uint64_t steps_at_disconnect_ = 0;
  uint32_t facts_ = 0;
};

// In a forked child, when a byte comes from `go`: publishes so many steps, then reserves without committing on a thread
// that ends, which leaves a hole, publishes one step behind it, writes the producer's uuid to `done`, and waits to be
// killed.
[[noreturn]] inline void PublishAndHang(const std::string& directory, uint64_t steps, int go, int done,
                                        const std::function<void(shm::Hello&)>& say) {
  char byte;
  if (::read(go, &byte, 1) != 1) ::_exit(2);
  TestProducer producer(directory);
  producer.Register();
  if (say) say(producer.hello());
  if (!producer.Connect()) ::_exit(3);
  for (uint64_t step = 0; step < steps; ++step) producer.Step(step, 1);
  std::thread([&] { shm::LeaveOpen(producer.pub().Reserve(Space::kInline, 0)); }).join();
  producer.Step(steps, 1);
  if (::write(done, producer.hello().uuid.data(), 16) != 16) ::_exit(4);
  while (true) ::pause();
}

// A child that does so. Make it before any thread of the test's own.
class HangingTrainer {
 public:
  HangingTrainer(const std::string& directory, uint64_t steps, const std::function<void(shm::Hello&)>& say = {}) {
    if (::pipe2(go_, O_CLOEXEC) != 0 || ::pipe2(done_, O_CLOEXEC) != 0) ::abort();
    pid_ = ::fork();
    if (pid_ == 0) PublishAndHang(directory, steps, go_[0], done_[1], say);
    EXPECT_GT(pid_, 0);
  }
  ~HangingTrainer() {
    if (!gone_) Kill();
    for (int fd : {go_[0], go_[1], done_[0], done_[1]}) ::close(fd);
  }
  HangingTrainer(const HangingTrainer&) = delete;
  HangingTrainer& operator=(const HangingTrainer&) = delete;

  pid_t pid() const { return pid_; }
  // Lets it publish, and returns its uuid when it has.
  Uuid Publish() {
    Uuid uuid{};
    EXPECT_EQ(::write(go_[1], "g", 1), 1);
    EXPECT_EQ(::read(done_[0], uuid.data(), uuid.size()), 16);
    return uuid;
  }
  void Kill() {
    EXPECT_EQ(::kill(pid_, SIGKILL), 0);
    Wait();
  }
  // Of one that was killed.
  void Wait() {
    EXPECT_EQ(::waitpid(pid_, nullptr, 0), pid_);
    gone_ = true;
  }

 private:
  int go_[2], done_[2];
  pid_t pid_ = -1;
  bool gone_ = false;
};

}  // namespace ikkuna::ingest
