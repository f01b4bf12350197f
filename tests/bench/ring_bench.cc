// What publishing costs: a record without payload through the ring while the daemon's side drains it from another
// thread, and payloads through the arena against a memcpy and a non-temporal copy of the same bytes, in turn.
//
//   ring_bench [--check]     with --check: exit 1 if publish_ns is above 100
//
// Last line: publish_ns (median of a record without payload), records_per_s (drained, sustained), payload_of_copy
// (bytes a second into the arena, over those of the faster plain copy)
#include <pthread.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "shared/base/stream_copy.h"
#include "shared/ctl.h"
#include "shared/pub.h"

namespace ikkuna::shm {
namespace {

constexpr double kPublishNsMax = 100;
constexpr int kRounds = 15;
constexpr int kRecordsPerRound = 200'000;
constexpr int kBatch = 100;  // publishes between two looks at the clock, which costs as much as one of them
constexpr useconds_t kPollUs = 200;
constexpr uint64_t kArenaBytes = uint64_t{128} << 20;

uint64_t NowNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

void Pin(int core) {
  cpu_set_t allowed, one;
  CPU_ZERO(&allowed);
  sched_getaffinity(0, sizeof allowed, &allowed);
  std::vector<int> cores;
  for (int i = 0; i < CPU_SETSIZE; ++i) {
    if (CPU_ISSET(i, &allowed)) cores.push_back(i);
  }
  CPU_ZERO(&one);
  CPU_SET(cores[static_cast<size_t>(core) % cores.size()], &one);
  pthread_setaffinity_np(pthread_self(), sizeof one, &one);
}

template <typename T>
T MustHave(Result<T> result) {
  if (!result) {
    std::fprintf(stderr, "ring_bench: %s\n", result.error().text.c_str());
    std::exit(1);
  }
  return std::move(result).value();
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

// Both ends in one process, as over the socket, and a thread that drains like the daemon: all there is, then the heads.
class Pipe {
 public:
  Pipe() {
    writer_ = MustHave(PubWriter::Create({.arena_bytes = kArenaBytes}));
    if (writer_->BackArena(kArenaBytes) == 0) {
      std::fprintf(stderr, "ring_bench: no memory for an arena of 128 MiB\n");
      std::exit(1);
    }
    view_ = MustHave(PubView::Open(UniqueFd(dup(writer_->fd()))));
    ctl_ = MustHave(CtlWriter::Create(1, writer_->heads(), 0));
    writer_->SetHeadSource(MustHave(CtlView::Open(UniqueFd(dup(ctl_->fd())))));
    if (auto started = view_->StartAt(writer_->heads()); !started) std::exit(1);
    drain_ = std::thread([this] { Drain(); });
  }
  ~Pipe() {
    stop_.store(true);
    drain_.join();
  }

  PubWriter& writer() { return *writer_; }
  uint64_t drained() const { return drained_.load(std::memory_order_relaxed); }

 private:
  void Drain() {
    Pin(1);
    while (!stop_.load(std::memory_order_relaxed)) {
      uint64_t count = 0;
      for (;;) {
        auto message = view_->Next();
        if (!message) {
          std::fprintf(stderr, "ring_bench: %s\n", message.error().text.c_str());
          std::exit(1);
        }
        if (!*message) break;
        if (++count % 256 == 0) ctl_->SetHeads({view_->ring_position(), view_->arena_position()});
      }
      ctl_->SetHeads({view_->ring_position(), view_->arena_position()});
      drained_.fetch_add(count, std::memory_order_relaxed);
      // Like the daemon it comes back later for a batch; at the writer's heels each record would wait for its lines.
      if (count == 0) usleep(kPollUs);
    }
  }

  std::unique_ptr<PubWriter> writer_;
  std::unique_ptr<PubView> view_;
  std::unique_ptr<CtlWriter> ctl_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> drained_{0};
  std::thread drain_;
};

void Fill(Record& record, uint64_t step) {
  record.time_ns = NowNs();  // the probe looks at the clock for each record too
  record.global_step = step;
  record.module = 0;
  record.param = 1;
  record.epoch = record.train_step = 0;
  record.root = 1;
  record.tag = kTagDefault;
  record.pass = 0;
  record.call = 0;
  record.type = static_cast<uint8_t>(RecordType::kScalar);
  record.kind = static_cast<uint8_t>(Kind::kScalar);
  record.dtype = record.ndim = record.layout = 0;
  record.space = static_cast<uint8_t>(Space::kInline);
  record.flags = 0;
  std::memset(record.sizes, 0, sizeof record.sizes);
  std::memset(record.raw, 0, kUnionBytes);
  record.scalar = 1;
}

bool PublishScalar(PubWriter& writer, uint64_t step) {
  auto reservation = writer.Reserve(Space::kInline, 0);
  if (!reservation) return false;
  Fill(reservation.record(), step);
  reservation.Commit();
  return true;
}

bool PublishBytes(PubWriter& writer, const std::vector<unsigned char>& bytes) {
  auto reservation = writer.Reserve(Space::kHostArena, bytes.size());
  if (!reservation) return false;
  const PayloadRef placed = reservation.record().payload;
  StreamCopy(reservation.payload(), bytes.data(), bytes.size());
  Fill(reservation.record(), 0);
  reservation.record().module = 1;
  reservation.record().type = static_cast<uint8_t>(RecordType::kTensor);
  reservation.record().kind = static_cast<uint8_t>(Kind::kActivations);
  reservation.record().dtype = static_cast<uint8_t>(DType::kU8);
  reservation.record().ndim = 1;
  reservation.record().space = static_cast<uint8_t>(Space::kHostArena);
  reservation.record().layout = static_cast<uint8_t>(Layout::kRowMajor);
  reservation.record().sizes[0] = static_cast<int64_t>(bytes.size());
  reservation.record().payload = placed;
  reservation.Commit();
  return true;
}

// Bursts of less than a ring, as a step makes them; the burst's end waits until it has been drained.
double PublishNs(Pipe& pipe) {
  std::vector<double> batches;
  for (int i = 0; i < kRecordsPerRound; i += kBatch) {
    if (i % 10'000 == 0) {
      const uint64_t published = LoadRelaxed(pipe.writer().status().reserved);
      while (pipe.drained() < published) sched_yield();
    }
    const uint64_t begin = NowNs();
    for (int k = 0; k < kBatch; ++k) PublishScalar(pipe.writer(), static_cast<uint64_t>(i));
    batches.push_back(static_cast<double>(NowNs() - begin) / kBatch);
  }
  return Median(batches);
}

// As fast as both ends go: a full ring is tried again.
double RecordsPerSecond(Pipe& pipe) {
  const uint64_t before = pipe.drained(), begin = NowNs();
  for (int i = 0; i < kRecordsPerRound;) {
    if (PublishScalar(pipe.writer(), static_cast<uint64_t>(i))) ++i;
  }
  while (pipe.drained() < before + kRecordsPerRound) sched_yield();
  return kRecordsPerRound / (1e-9 * static_cast<double>(NowNs() - begin));
}

struct CopySpeed {
  double payload = 0, stream = 0, plain = 0;  // GB/s
};

CopySpeed Payload(Pipe& pipe, const std::vector<unsigned char>& source, std::vector<unsigned char>& room) {
  const size_t count = std::max<size_t>(1, (size_t{64} << 20) / source.size());
  const double gigabytes = 1e-9 * static_cast<double>(count * source.size());
  const auto speed = [&](auto&& copy) {
    const uint64_t begin = NowNs();
    for (size_t i = 0; i < count; ++i) copy(i);
    return gigabytes / (1e-9 * static_cast<double>(NowNs() - begin));
  };
  // The room is walked like the arena, so that each copy meets lines that no cache holds.
  const auto place = [&](size_t i) {
    return room.data() + i * source.size() % (room.size() - source.size()) / 64 * 64;
  };
  CopySpeed result;
  result.plain = speed([&](size_t i) { std::memcpy(place(i), source.data(), source.size()); });
  result.stream = speed([&](size_t i) { StreamCopy(place(i), source.data(), source.size()); });
  result.payload = speed([&](size_t) {
    while (!PublishBytes(pipe.writer(), source)) sched_yield();
  });
  const uint64_t published = LoadRelaxed(pipe.writer().status().reserved);
  while (pipe.drained() < published) sched_yield();
  return result;
}

int Run(bool check) {
  Pin(0);
  Pipe pipe;
  std::vector<double> publish, records;
  for (int round = 0; round < kRounds; ++round) {
    publish.push_back(PublishNs(pipe));
    records.push_back(RecordsPerSecond(pipe));
  }
  std::printf("record without payload: %.0f ns a publish, %.2f million a second drained\n", Median(publish),
              Median(records) / 1e6);
  std::vector<unsigned char> room(kArenaBytes, 1);
  double of_copy = 0;
  for (const size_t bytes : {size_t{4} << 10, size_t{64} << 10, size_t{512} << 10, size_t{4} << 20}) {
    const std::vector<unsigned char> source(bytes, 7);
    std::vector<double> payload, stream, plain, ratio;
    for (int round = 0; round < kRounds; ++round) {
      const CopySpeed speed = Payload(pipe, source, room);
      payload.push_back(speed.payload);
      stream.push_back(speed.stream);
      plain.push_back(speed.plain);
      ratio.push_back(speed.payload / std::max(speed.stream, speed.plain));
    }
    of_copy = Median(ratio);
    std::printf("payload of %4zu KiB: %6.2f GB/s   non-temporal copy %6.2f   memcpy %6.2f   of the faster %.2f\n",
                bytes >> 10, Median(payload), Median(stream), Median(plain), of_copy);
  }
  const double publish_ns = Median(publish);
  std::printf("publish_ns=%.1f records_per_s=%.0f payload_of_copy=%.3f\n", publish_ns, Median(records), of_copy);
  return check && publish_ns > kPublishNsMax ? 1 : 0;
}

}  // namespace
}  // namespace ikkuna::shm

int main(int argc, char** argv) { return ikkuna::shm::Run(argc > 1 && std::string(argv[1]) == "--check"); }
