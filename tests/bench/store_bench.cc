// What the run store costs: samples a second, bytes written and at rest, memory, opening, reading. Values are noise, which
// does not compress: what a real run has is smaller. Batches of one step of all series are offered as fast as the store
// commits them; the clock stops when the last is committed. Every part runs in a process of its own.
//
//   store_bench [--part NAME] [--scale PERCENT] [--check]   parts: float20000 double20000 float2000 double2000 open runs
//
// Last line: key=value figures, those of 20,000 series without a number in their name. written_bytes: all that was given
// to the system to be written, the write-ahead log and compaction included; rest_bytes: of the files once the run is over.
// memory_mb: the most that the process ever had, the queue, the catalogue and 8 MB of the bench's own included.
// --check: 1 where bytes or memory are more than promised; times are the machine's.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "daemon/sinks/store.h"

namespace ikkuna::sinks {
namespace {

using Clock = std::chrono::steady_clock;
using Figures = std::map<std::string, double>;

double Seconds(Clock::time_point since) { return std::chrono::duration<double>(Clock::now() - since).count(); }

double CpuSeconds() {
  timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

double Proc(const char* file, const char* name) {
  std::ifstream in(std::string("/proc/self/") + file);
  std::string word;
  double value = 0;
  while (in >> word) {
    if (word == name) in >> value;
  }
  return value;
}

[[noreturn]] void Fail(const std::string& what) {
  std::fprintf(stderr, "store_bench: %s\n", what.c_str());
  std::exit(1);
}

// Numbers that no coder shrinks but for their exponents.
class Noise {
 public:
  explicit Noise(bool single) : values_(size_t{1} << 20) {
    uint64_t state = 0x9e3779b97f4a7c15;
    for (double& value : values_) {
      state ^= state << 13;
      state ^= state >> 7;
      state ^= state << 17;
      value = (static_cast<double>(state >> 11) * 0x1p-53 - 0.5) * 4;
      if (single) value = static_cast<double>(static_cast<float>(value));
    }
  }
  double At(uint64_t step, uint64_t series) const {
    return values_[(step * 48'271 + series * 16'807 + (step * series) % 8191) & (values_.size() - 1)];
  }

 private:
  std::vector<double> values_;
};

ProducerInfo Producer() {
  ProducerInfo producer;
  producer.uuid[0] = 1;
  producer.run_key.run_id = "bench";
  producer.start_unix_ns = 1'700'000'000'000'000'000;
  return producer;
}

std::unique_ptr<Store> Open(const std::string& folder) {
  StoreOptions options;
  options.data_dir = folder;
  options.bytes_max = 0;
  auto store = Store::Open(options);
  if (!store) Fail(store.error().text);
  return *std::move(store);
}

void Write(Store& store, uint64_t series, uint64_t steps, Precision precision, Figures& figures) {
  auto run = store.Begin(Producer());
  if (!run) Fail(run.error().text);
  SeriesTraits traits;
  traits.precision = precision;
  std::vector<uint32_t> ids;
  for (uint64_t i = 0; i < series; ++i) {
    ids.push_back((*run)->series().Intern(
        {{"model", "default"}, "layer" + std::to_string(i), "weight", "weights_norm2"}, traits));
  }
  const Noise noise(precision == Precision::kSingle);
  const double written_before = Proc("io", "wchar:");
  const auto start = Clock::now();
  const double cpu_start = CpuSeconds();
  for (uint64_t step = 0; step < steps; ++step) {
    auto batch = std::make_shared<Batch>();
    batch->run = *run;
    batch->stamp.timeline = 1;
    batch->stamp.step = step;
    batch->stamp.unix_ns = 1'700'000'000'000'000'000 + static_cast<int64_t>(step * 25'000'000 + noise.At(step, 7) * 1e5);
    batch->stamp.samples_seen = step * 128;
    batch->samples.reserve(series);
    for (uint64_t i = 0; i < series; ++i) batch->samples.push_back({ids[i], 0, noise.At(step, i)});
    batch->progress = Progress{step + 1, 0, 0};
    store.Offer(std::move(batch));
    // As fast as it goes without loss.
    if (step % 16 == 0) {
      while (store.Counters().waiting > Store::kValuesPerCommit * 16) {
        std::this_thread::sleep_for(std::chrono::microseconds(200));
      }
    }
  }
  if (Status flushed = store.Flush(Clock::now() + std::chrono::minutes(10)); !flushed) Fail(flushed.error().text);
  const double samples = static_cast<double>(series * steps);
  figures["samples_per_s"] = samples / Seconds(start);
  figures["samples_per_cpu_s"] = samples / (CpuSeconds() - cpu_start);
  figures["memory_mb"] = Proc("status", "VmHWM:") / 1024;
  if (store.Counters().dropped != 0) Fail("values were dropped");
  figures["written_bytes"] = written_before;  // the caller takes the difference at the end
}

void EndRun(Store& store) {
  ProducerStatus status;
  status.info = Producer();
  status.state = RunState::kFinished;
  store.SaveProducer(status);
}

Figures WritePart(const std::string& folder, uint64_t series, uint64_t steps, Precision precision) {
  Figures figures;
  auto store = Open(folder);
  Write(*store, series, steps, precision, figures);
  EndRun(*store);
  store->Close();
  const double samples = static_cast<double>(series * steps);
  figures["written_bytes"] = (Proc("io", "wchar:") - figures["written_bytes"]) / samples;
  figures["rest_bytes"] = static_cast<double>(store->store_bytes()) / samples;
  figures["threads"] = store->GetStatus().threads;
  figures["nice"] = store->GetStatus().nice;
  return figures;
}

double OpenMs(const std::string& folder, std::unique_ptr<Store>* store) {
  const auto start = Clock::now();
  *store = Open(folder);
  return Seconds(start) * 1000;
}

double ReadMs(Store& store) {
  ReadQuery query;
  query.filter.module = "layer17";
  query.max_points = 1000;
  double best = 1e9;
  for (int i = 0; i < 7; ++i) {
    const auto start = Clock::now();
    auto reader = store.Read(query);
    if (!reader) Fail(reader.error().text);
    size_t points = 0;
    for (;;) {
      auto part = (*reader)->Next();
      if (!part) Fail(part.error().text);
      if (!*part) break;
      points += (*part)->steps.size();
    }
    if (points == 0 || points > 1000) Fail("a read gave " + std::to_string(points) + " points");
    best = std::min(best, Seconds(start) * 1000);
  }
  return best;
}

Figures OpenPart(const std::string& folder, uint64_t steps) {
  Figures figures;
  const pid_t child = fork();
  if (child == 0) {
    auto store = Open(folder);
    Figures unused;
    Write(*store, 100, steps, Precision::kSingle, unused);
    kill(getpid(), SIGKILL);
  }
  int status = 0;
  waitpid(child, &status, 0);
  if (!WIFSIGNALED(status)) Fail("the writer of many samples failed");
  std::unique_ptr<Store> store;
  figures["open_killed_ms"] = OpenMs(folder, &store);
  if (store->ListRuns()->front().values != 100 * steps) Fail("samples are missing after SIGKILL");
  const auto start = Clock::now();
  if (!store->Begin(Producer())) Fail("cannot go on");
  figures["begin_killed_ms"] = Seconds(start) * 1000;
  figures["read_ms"] = ReadMs(*store);
  EndRun(*store);
  store->Close();
  figures["open_ms"] = OpenMs(folder, &store);
  figures["read_rest_ms"] = ReadMs(*store);
  return figures;
}

// A year of short runs: opening the folder with them, what they cost while nothing happens, and beside one that goes on.
Figures RunsPart(const std::string& folder, uint64_t runs) {
  Figures figures;
  auto store = Open(folder);
  auto producer = [](uint64_t r) {
    ProducerInfo producer = Producer();
    producer.run_key.run_id = "run-" + std::to_string(r);
    std::memcpy(&producer.uuid[1], &r, sizeof(r));
    return producer;
  };
  auto begin = [&](uint64_t r) {
    auto run = store->Begin(producer(r));
    if (!run) Fail(run.error().text);
    for (int i = 0; i < 20; ++i) {
      (*run)->series().Intern({{"model", "default"}, "layer" + std::to_string(i), "weight", "weights_norm2"}, {});
    }
    return *run;
  };
  auto step = [&](const std::shared_ptr<Run>& run, uint64_t at) {
    auto batch = std::make_shared<Batch>();
    batch->run = run;
    batch->stamp.timeline = 1;
    batch->stamp.step = at;
    for (uint32_t id = 1; id <= 20; ++id) batch->samples.push_back({id, 0, static_cast<double>(at * id)});
    batch->progress = Progress{at + 1, 0, 0};
    store->Offer(std::move(batch));
  };
  for (uint64_t r = 0; r < runs; ++r) {
    const auto run = begin(r);
    for (uint64_t at = 0; at < 100; ++at) step(run, at);
    ProducerStatus status;
    status.info = producer(r);
    status.state = RunState::kFinished;
    store->SaveProducer(status);
  }
  if (Status flushed = store->Flush(Clock::now() + std::chrono::minutes(10)); !flushed) Fail(flushed.error().text);
  store->Close();
  figures["open_ms"] = OpenMs(folder, &store);
  if (store->ListRuns()->size() != runs) Fail("runs are missing");
  std::this_thread::sleep_for(std::chrono::seconds(1));
  double cpu = CpuSeconds();
  std::this_thread::sleep_for(std::chrono::seconds(3));
  figures["idle_percent"] = (CpuSeconds() - cpu) / 3 * 100;
  const auto run = begin(runs);
  cpu = CpuSeconds();
  const auto start = Clock::now();
  for (uint64_t at = 0; at < 300; ++at) {
    step(run, at);
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  figures["live_percent"] = (CpuSeconds() - cpu) / Seconds(start) * 100;
  store->Close();
  store.reset();
  std::filesystem::remove(folder + "/runs/" +
                          std::filesystem::directory_iterator(folder + "/runs")->path().filename().string() +
                          "/catalogue.db");
  figures["open_anew_ms"] = OpenMs(folder, &store);
  return figures;
}

struct Bound {
  const char* figure;
  double most;
};
constexpr Bound kPromised[] = {{"float_written_bytes", 28},     {"double_written_bytes", 48}, {"float_rest_bytes", 5},
                               {"double_rest_bytes", 9},        {"float2000_rest_bytes", 5},  {"double2000_rest_bytes", 9},
                               {"float2000_written_bytes", 28}, {"float_memory_mb", 300},     {"double_memory_mb", 300},
                               {"double2000_written_bytes", 48}};

// Whether what does not depend on the machine is as promised.
bool Check(const Figures& figures) {
  bool good = true;
  for (const Bound& bound : kPromised) {
    const auto found = figures.find(bound.figure);
    if (found == figures.end() || found->second <= bound.most) continue;
    std::fprintf(stderr, "store_bench: %s is %.2f, promised is %.0f\n", bound.figure, found->second, bound.most);
    good = false;
  }
  return good;
}

int Main(int argc, char** argv) {
  std::string only;
  uint64_t scale = 100;
  bool check = false;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--part") == 0 && i + 1 < argc) {
      only = argv[++i];
    } else if (std::strcmp(argv[i], "--scale") == 0 && i + 1 < argc) {
      scale = std::strtoull(argv[++i], nullptr, 10);
    } else if (std::strcmp(argv[i], "--check") == 0) {
      check = true;
    } else {
      std::fprintf(stderr, "usage: store_bench [--part NAME] [--scale PERCENT] [--check]\n");
      return 2;
    }
  }
  struct Part {
    const char* name;
    const char* prefix;
    uint64_t series, steps;
    Precision precision;
  };
  const Part parts[] = {{"float20000", "float_", 20'000, 2'000, Precision::kSingle},
                        {"double20000", "double_", 20'000, 2'000, Precision::kDouble},
                        {"float2000", "float2000_", 2'000, 15'000, Precision::kSingle},
                        {"double2000", "double2000_", 2'000, 15'000, Precision::kDouble},
                        {"open", "", 100, 1'000'000, Precision::kSingle},
                        {"runs", "runs_", 0, 2'000, Precision::kDouble}};
  std::string line;
  for (const Part& part : parts) {
    if (!only.empty() && only != part.name) continue;
    const char* base = std::getenv("TMPDIR");
    std::string folder = std::string(base ? base : "/tmp") + "/ikkuna-store-bench-XXXXXX";
    if (!mkdtemp(folder.data())) Fail("cannot make a folder in TMPDIR");
    int fds[2];
    if (pipe(fds) != 0) Fail("pipe");
    const pid_t child = fork();
    if (child == 0) {
      const uint64_t steps = std::max<uint64_t>(part.steps * scale / 100, 1);
      const Figures figures = part.series == 0     ? RunsPart(folder, steps)
                              : part.series == 100 ? OpenPart(folder, steps)
                                                   : WritePart(folder, part.series, steps, part.precision);
      std::string text;
      for (const auto& [name, value] : figures) {
        char one[96];
        std::snprintf(one, sizeof(one), value >= 1000 ? "%s%s=%.0f " : "%s%s=%.2f ", part.prefix, name.c_str(), value);
        text += one;
      }
      if (write(fds[1], text.data(), text.size()) < 0) _exit(1);
      _exit(0);
    }
    close(fds[1]);
    std::string text;
    char buffer[4096];
    for (ssize_t n; (n = read(fds[0], buffer, sizeof(buffer))) > 0;) text.append(buffer, static_cast<size_t>(n));
    close(fds[0]);
    int status = 0;
    waitpid(child, &status, 0);
    std::error_code code;
    std::filesystem::remove_all(folder, code);
    if (status != 0) return 1;
    std::printf("%s: %s\n", part.name, text.c_str());
    std::fflush(stdout);
    line += text;
  }
  std::printf("%s\n", line.c_str());
  Figures all;
  std::istringstream words(line);
  for (std::string word; words >> word;) {
    if (const size_t at = word.find('='); at != std::string::npos) all[word.substr(0, at)] = std::atof(word.c_str() + at + 1);
  }
  return check && !Check(all) ? 1 : 0;
}

}  // namespace
}  // namespace ikkuna::sinks

int main(int argc, char** argv) { return ikkuna::sinks::Main(argc, argv); }
