// How many samples a second the run store takes, sustained: batches of one step of all series are offered as fast as
// the store commits them, and the clock stops when the last is committed. Beside it the least that SQLite needs for the
// same rows: a table without a key, in transactions of the same size, so that a busy machine slows both.
//
//   store_bench [SERIES [SAMPLES]]      default: 2000 series, 4,000,000 samples
//
// Last line: samples_per_s=
#include <sqlite3.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "daemon/series_catalogue.h"
#include "daemon/sinks/store.h"

namespace ikkuna::sinks {
namespace {

using Clock = std::chrono::steady_clock;

// Wall time for people, processor time for comparing on a machine that does other things as well.
struct Cost {
  double wall = 0;
  double cpu = 0;
};

class Stopwatch {
 public:
  Cost Elapsed() const {
    return {std::chrono::duration<double>(Clock::now() - start_).count(), CpuSeconds() - cpu_start_};
  }

 private:
  static double CpuSeconds() {
    timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  }
  const Clock::time_point start_ = Clock::now();
  const double cpu_start_ = CpuSeconds();
};

Sample At(uint64_t series_id, uint64_t step) {
  Sample sample;
  sample.series_id = series_id;
  sample.step = step;
  sample.unix_ns = 1'700'000'000'000'000'000 + static_cast<int64_t>(step) * 25'000'000;
  sample.samples_seen = step * 128;
  sample.value = static_cast<double>((step * 2654435761u + series_id) % 1'000'003) * 1.7e-4;
  return sample;
}

Cost StoreCost(const std::string& folder, uint64_t series, uint64_t samples) {
  SeriesCatalogue catalogue;
  StoreOptions options;
  options.data_dir = folder;
  options.bytes_max = 0;
  auto store = Store::Open(options, catalogue);
  if (!store) {
    std::fprintf(stderr, "store_bench: %s\n", store.error().text.c_str());
    std::exit(1);
  }
  auto producer = std::make_shared<ProducerInfo>();
  producer->uuid[0] = 1;
  producer->run_key.run_id = "bench";
  std::vector<uint64_t> ids;
  for (uint64_t i = 0; i < series; ++i) {
    ids.push_back(catalogue.Intern(
        {producer->run_key, "default", "model", "layer" + std::to_string(i), "weight", "weights_norm2"}, "Linear", ""));
  }
  const Stopwatch stopwatch;
  for (uint64_t step = 0, offered = 0; offered < samples; ++step) {
    auto batch = std::make_shared<Batch>();
    batch->producer = producer;
    batch->samples.reserve(series);
    for (uint64_t id : ids) batch->samples.push_back(At(id, step));
    batch->progress.producer = producer->uuid;
    batch->progress.done_seq = step + 1;
    offered += series;
    (*store)->Offer(std::move(batch));
    // As fast as it goes without loss.
    while ((*store)->counters().offered - (*store)->counters().written > Store::kSamplesQueuedMax / 2) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  if (Status status = (*store)->Flush(); !status) {
    std::fprintf(stderr, "store_bench: %s\n", status.error().text.c_str());
    std::exit(1);
  }
  const Cost cost = stopwatch.Elapsed();
  if ((*store)->counters().dropped != 0) std::exit(1);
  std::printf("file: %.1f bytes a sample\n",
              static_cast<double>((*store)->store_bytes()) / static_cast<double>(samples));
  return cost;
}

Cost PlainCost(const std::string& folder, uint64_t series, uint64_t samples) {
  sqlite3* db = nullptr;
  sqlite3_stmt* insert = nullptr;
  sqlite3_open((folder + "/plain.db").c_str(), &db);
  sqlite3_exec(db,
               "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; CREATE TABLE s (series INTEGER, step INTEGER, "
               "epoch INTEGER, flags INTEGER, unix_ns INTEGER, samples_seen INTEGER, class INTEGER, value)",
               nullptr, nullptr, nullptr);
  sqlite3_prepare_v2(db, "INSERT INTO s VALUES (?, ?, ?, ?, ?, ?, ?, ?)", -1, &insert, nullptr);
  const Stopwatch stopwatch;
  for (uint64_t i = 0; i < samples; ++i) {
    if (i % Store::kRowsPerCommit == 0) sqlite3_exec(db, i == 0 ? "BEGIN" : "COMMIT; BEGIN", nullptr, nullptr, nullptr);
    const Sample sample = At(1 + i % series, i / series);
    sqlite3_bind_int64(insert, 1, static_cast<int64_t>(sample.series_id));
    sqlite3_bind_int64(insert, 2, static_cast<int64_t>(sample.step));
    sqlite3_bind_int64(insert, 3, sample.epoch);
    sqlite3_bind_int64(insert, 4, sample.flags);
    sqlite3_bind_int64(insert, 5, sample.unix_ns);
    sqlite3_bind_int64(insert, 6, static_cast<int64_t>(sample.samples_seen));
    sqlite3_bind_int64(insert, 7, 0);
    sqlite3_bind_double(insert, 8, sample.value);
    sqlite3_step(insert);
    sqlite3_reset(insert);
  }
  sqlite3_exec(db, "COMMIT", nullptr, nullptr, nullptr);
  const Cost cost = stopwatch.Elapsed();
  sqlite3_finalize(insert);
  sqlite3_close(db);
  return cost;
}

int Main(int argc, char** argv) {
  const uint64_t series = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 2'000;
  const uint64_t samples = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 4'000'000;
  if (series == 0 || samples == 0) {
    std::fprintf(stderr, "usage: store_bench [SERIES [SAMPLES]]\n");
    return 2;
  }
  std::string folder = "/tmp/ikkuna-store-bench-XXXXXX";
  if (!mkdtemp(folder.data())) {
    std::perror("store_bench: cannot make a folder in /tmp");
    return 1;
  }
  const Cost plain = PlainCost(folder, series, samples);
  const Cost store = StoreCost(folder, series, samples);
  std::error_code code;
  std::filesystem::remove_all(folder, code);
  std::printf("series: %llu\nsamples: %llu\n", static_cast<unsigned long long>(series),
              static_cast<unsigned long long>(samples));
  std::printf("of_plain_table: %.2f of its processor time\n", plain.cpu / store.cpu);
  std::printf("samples_per_cpu_s: %.0f\n", static_cast<double>(samples) / store.cpu);
  std::printf("samples_per_s=%.0f\n", static_cast<double>(samples) / store.wall);
  return 0;
}

}  // namespace
}  // namespace ikkuna::sinks

int main(int argc, char** argv) { return ikkuna::sinks::Main(argc, argv); }
