// SIGKILL at random moments of writing, compacting, ending and deleting: a process writes several runs and says through
// a pipe what was committed, ended or deleted; it is killed; whoever opens the folder then finds exactly that.
//
// IKKUNA_TEST_SEED repeats a run (the moments themselves are the scheduler's); IKKUNA_TEST_KILLS asks for more.
#include <poll.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <map>
#include <random>

#include "tests/daemon/sinks/store_fixture.h"

namespace ikkuna::sinks {
namespace {

// What a run is given is a function of its number: nobody has to tell the reader what to expect.
constexpr int kNumbersKilled = 40;
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr int kKills = 15;  // each takes ten times as long, and no moment is another
#else
constexpr int kKills = 50;
#endif

uint64_t Mix(uint64_t a, uint64_t b, uint64_t c) {
  uint64_t x = a * 0x9e3779b97f4a7c15 ^ (b + 1) * 0xbf58476d1ce4e5b9 ^ (c + 1) * 0x94d049bb133111eb;
  x ^= x >> 31;
  x *= 0xd6e8feb86659fd93;
  return x ^ (x >> 32);
}
uint64_t LengthOf(int run) { return 400 + Mix(run, 1, 2) % 2600; }
// A third of the series begin later, a third come now and then.
bool Comes(int run, int series, uint64_t step) {
  if (series % 3 == 1) return step >= Mix(run, series, 3) % 700;
  if (series % 3 == 2) return step % (2 + series % 5) == 0;
  return true;
}
double ValueOfKilled(int run, int series, uint64_t step) {
  const double value = static_cast<double>(Mix(run, series, step) >> 12);
  return series % 2 == 0 ? static_cast<double>(static_cast<float>(value)) : value;
}
std::vector<std::string> TextsOf(int run, uint64_t step) {
  std::vector<std::string> texts;
  if (step % 3 != 0) return texts;
  for (uint64_t i = 0; i < 1 + step % 2; ++i)
    texts.push_back(std::to_string(run) + "/" + std::to_string(step) + "/" + std::to_string(i));
  return texts;
}
bool HasHistogram(uint64_t step) { return step % 7 == 0; }
Histogram HistogramOf(int run, uint64_t step) {
  Histogram histogram;
  histogram.min = static_cast<double>(run);
  histogram.max = static_cast<double>(run) + static_cast<double>(step);
  histogram.n = step;
  histogram.counts = {step, static_cast<uint64_t>(run), 3};
  return histogram;
}
bool HasEvent(uint64_t step) { return step % 50 == 0; }

RunKey KeyOf(int run, bool all) { return {"k" + std::to_string(run), 0, all ? kAllRanks : 0}; }
std::string TopicOf(int series) { return "n" + std::to_string(series); }

ProducerInfo ProducerOf(int run, bool all) {
  ProducerInfo info = Producer(KeyOf(run, all), static_cast<unsigned char>(all ? 2 : 1));
  info.uuid[1] = static_cast<unsigned char>(run);
  info.uuid[2] = static_cast<unsigned char>(run >> 8);
  info.start_unix_ns += run;
  return info;
}

enum class Said : uint32_t { kBegun = 1, kDone, kOver, kDeleting, kDeleted, kTurns };
struct Message {
  Said said;
  int32_t run;
  uint64_t number;
};

class Writer {
 public:
  Writer(std::string folder, int pipe, int first) : folder_(std::move(folder)), pipe_(pipe), next_(first) {}

  [[noreturn]] void Main() {
    StoreOptions options;
    options.data_dir = folder_;
    options.host = "here";
    options.bytes_max = 0;
    options.free_bytes_min = 0;
    options.tail_bytes_max = 256 << 10;  // it compacts all the time, with commits in between
    options.slice_bytes = 4 << 10;
    options.on_committed = [this](const RunKey& key, uint64_t done) {
      if (key.rank != kAllRanks) Say(Said::kDone, std::atoi(key.run_id.c_str() + 1), done);
    };
    auto store = Store::Open(options);
    if (!store) Fail("open: " + store.error().text);
    store_ = *std::move(store);
    auto known = store_->LoadProducers();
    if (!known) Fail(known.error().text);
    for (const ProducerStatus& one : *known) {
      const int run = std::atoi(one.info.run_key.run_id.c_str() + 1);
      if (one.info.run_key.rank == kAllRanks) continue;
      if (IsOpen(one.state)) {
        Start(run);
      } else {
        over_.push_back(run);
      }
    }
    for (uint64_t turn = 0;; ++turn) {
      while (live_.size() < 2) Start(next_++);
      for (auto live = live_.begin(); live != live_.end();) {
        Step(live->first, live->second);
        if (live->second.step < LengthOf(live->first)) {
          ++live;
          continue;
        }
        End(live->first);
        live = live_.erase(live);
      }
      while (over_.size() > 3) Delete();
      // Now and then faster than it is written.
      if (turn % 8 == 0 && turn / 600 % 3 != 0) std::this_thread::sleep_for(std::chrono::microseconds(500));
      while (store_->Counters().waiting > 50'000) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      if (turn % 64 == 0) {
        Say(Said::kTurns, -1);
        for (const Count& drop : store_->Counters().drops) {
          if (drop.reason != "repeated") Fail("dropped: " + drop.reason);
        }
      }
    }
  }

 private:
  struct Live {
    RunPtr run, all;
    uint64_t step = 0;
    std::vector<uint32_t> numbers;
    uint32_t text = 0, histogram = 0, mean = 0;
  };

  [[noreturn]] void Fail(const std::string& what) {
    std::fprintf(stderr, "writer: %s\n", what.c_str());
    _exit(3);
  }
  void Say(Said said, int run, uint64_t number = 0) {
    const Message message{said, run, number};
    if (::write(pipe_, &message, sizeof(message)) != sizeof(message)) _exit(4);
  }

  void Start(int run) {
    Live live;
    auto begun = store_->Begin(ProducerOf(run, false));
    if (!begun) Fail(begun.error().text);
    live.run = *begun;
    begun = store_->Begin(ProducerOf(run, true));
    if (!begun) Fail(begun.error().text);
    live.all = *begun;
    live.step = store_->LoadProgress(KeyOf(run, false))->done_seq;
    live.numbers.resize(kNumbersKilled);
    live.mean = Intern(*live.all, Name("mean"));
    live_.emplace(run, std::move(live));
    Say(Said::kBegun, run);
  }

  void Step(int run, Live& live) {
    const uint64_t step = live.step++;
    // First what all ranks came to, then the progress that speaks for it.
    auto all = BatchOf(live.all, step, {Number(live.mean, ValueOfKilled(run, 0, step))});
    store_->Offer(all);
    auto batch = std::make_shared<Batch>();
    batch->run = live.run;
    batch->stamp.timeline = live.run->series().InternTimeline({"model", "default"});
    batch->stamp.step = step;
    batch->stamp.unix_ns = kStartNs + static_cast<int64_t>(step);
    for (int i = 0; i < kNumbersKilled; ++i) {
      if (!Comes(run, i, step)) continue;
      if (live.numbers[i] == 0) {
        SeriesTraits traits;
        traits.precision = i % 2 == 0 ? Precision::kSingle : Precision::kDouble;
        live.numbers[i] = live.run->series().Intern(Name(TopicOf(i)), traits);
      }
      batch->samples.push_back(Number(live.numbers[i], ValueOfKilled(run, i, step)));
    }
    for (const std::string& text : TextsOf(run, step)) {
      if (live.text == 0) live.text = Intern(*live.run, Name("text"), ValueType::kText);
      batch->others.push_back({live.text, 0, Text{text}});
    }
    if (HasHistogram(step)) {
      if (live.histogram == 0) live.histogram = Intern(*live.run, Name("histogram"), ValueType::kHistogram);
      batch->others.push_back({live.histogram, 0, HistogramOf(run, step)});
    }
    if (HasEvent(step)) {
      Event event = EventOf("k", KeyOf(run, false));
      event.step = step;
      batch->events.push_back(event);
    }
    batch->progress = Progress{step + 1, 0, 0};
    store_->Offer(batch);
  }

  void End(int run) {
    for (const bool all : {true, false}) {
      ProducerStatus status;
      status.info = ProducerOf(run, all);
      status.state = RunState::kFinished;
      status.handled = status.attempted = LengthOf(run);
      store_->SaveProducer(status);
    }
    over_.push_back(run);
    if (run % 2 == 0) return;
    Status flushed = store_->Flush(Watchdog());
    if (!flushed) Fail(flushed.error().text);
    Say(Said::kOver, run);
  }

  void Delete() {
    const int run = over_.front();
    over_.erase(over_.begin());
    Say(Said::kDeleting, run);
    for (const bool all : {false, true}) {
      if (Status gone = store_->DeleteRun(KeyOf(run, all)); !gone && gone.error().code != ErrorCode::kNotFound)
        Fail(gone.error().text);
    }
    Say(Said::kDeleted, run);
  }

  const std::string folder_;
  const int pipe_;
  int next_;
  std::unique_ptr<Store> store_;
  std::map<int, Live> live_;
  std::vector<int> over_;
};

class StoreKillTest : public StoreTest {
 protected:
  struct Known {
    uint64_t done = 0;
    bool over = false, deleting = false, deleted = false;
  };

  // Starts a writer, kills it `after` it has said so many words beyond its first, and takes note of what it said: the
  // time is for the moment within its work, the words are for how far it comes, however slow the machine is.
  void WriteAndKill(int first, uint64_t words, std::chrono::microseconds after) {
    int fds[2];
    ASSERT_EQ(::pipe(fds), 0);
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ::close(fds[0]);
      Writer(dir_.path() + "/data", fds[1], first).Main();
    }
    ::close(fds[1]);
    std::string said;
    auto until = Watchdog();
    for (bool far = false;;) {
      const auto left = until - std::chrono::steady_clock::now();
      const auto left_us = std::chrono::duration_cast<std::chrono::microseconds>(left).count();
      if (left_us <= 0) break;
      const timespec wait{left_us / 1'000'000, left_us % 1'000'000 * 1000};
      pollfd poll{fds[0], POLLIN, 0};
      if (::ppoll(&poll, 1, &wait, nullptr) <= 0) break;
      char bytes[4096];
      const ssize_t n = ::read(fds[0], bytes, sizeof(bytes));
      if (n <= 0) break;
      said.append(bytes, static_cast<size_t>(n));
      if (!far && said.size() / sizeof(Message) > words) {
        far = true;
        until = std::chrono::steady_clock::now() + after;
      }
    }
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << "the writer ended by itself: " << status;
    char bytes[4096];
    for (ssize_t n; (n = ::read(fds[0], bytes, sizeof(bytes))) > 0;) said.append(bytes, static_cast<size_t>(n));
    ::close(fds[0]);
    for (size_t at = 0; at + sizeof(Message) <= said.size(); at += sizeof(Message)) {
      Message message;
      std::memcpy(&message, said.data() + at, sizeof(message));
      if (message.said == Said::kTurns) continue;
      Known& known = known_[message.run];
      switch (message.said) {
        case Said::kBegun:
        case Said::kTurns:
          break;
        case Said::kDone:
          known.done = std::max(known.done, message.number);
          break;
        case Said::kOver:
          known.over = true;
          break;
        case Said::kDeleting:
          known.deleting = true;
          break;
        case Said::kDeleted:
          known.deleted = true;
          break;
      }
    }
  }

  // One run, up to what its file says is done, and nothing beyond.
  void CheckRun(Recorded& recorded, int run, uint64_t done) {
    SCOPED_TRACE("run k" + std::to_string(run) + ", done " + std::to_string(done));
    ReadQuery query;
    query.filter.run = KeyOf(run, false).run_id;
    query.filter.rank = 0;
    std::map<std::string, uint64_t> counts, read;
    SeriesQuery series;
    series.filter = query.filter;
    auto page = recorded.ListSeries(series);
    ASSERT_TRUE(page.ok()) << page.error().text;
    for (const SeriesInfo& info : page->series) counts[info.series->name.topic] = info.count;
    std::map<std::string, std::vector<SeriesColumns>> found;
    for (SeriesColumns& part : ReadFrom(recorded, query)) {
      read[part.series->name.topic] += part.steps.size();
      found[part.series->name.topic].push_back(std::move(part));
    }
    ASSERT_EQ(counts, read);
    for (int i = 0; i < kNumbersKilled; ++i) {
      uint64_t step = 0;
      auto advance = [&] {
        while (step < done && !Comes(run, i, step)) ++step;
      };
      for (const SeriesColumns& part : found[TopicOf(i)]) {
        for (size_t n = 0; n < part.steps.size(); ++n, ++step) {
          advance();
          ASSERT_LT(step, done) << "too much of " << TopicOf(i);
          ASSERT_EQ(part.steps[n], step) << TopicOf(i);
          ASSERT_EQ(part.numbers[n], ValueOfKilled(run, i, step)) << TopicOf(i);
        }
      }
      advance();
      ASSERT_EQ(step, done) << "the end of " << TopicOf(i) << " is missing";
    }
    std::vector<std::string> texts, expected_texts;
    for (uint64_t step = 0; step < done; ++step) {
      for (std::string& text : TextsOf(run, step)) expected_texts.push_back(std::move(text));
    }
    for (const SeriesColumns& part : found["text"]) {
      for (const Value& value : part.others) texts.push_back(std::get<Text>(value).text);
    }
    ASSERT_EQ(texts, expected_texts);
    uint64_t step = 0;
    for (const SeriesColumns& part : found["histogram"]) {
      for (size_t n = 0; n < part.steps.size(); ++n, step += 7) {
        ASSERT_LT(step, done);
        ASSERT_EQ(part.steps[n], step);
        ASSERT_EQ(std::get<Histogram>(part.others[n]), HistogramOf(run, step));
      }
    }
    ASSERT_GE(step, done);
    EventQuery events;
    events.filter.run = query.filter.run;
    events.filter.rank = 0;
    events.limit = 100'000;
    auto listed = recorded.ListEvents(events);
    ASSERT_TRUE(listed.ok()) << listed.error().text;
    step = 0;
    for (const Event& event : *listed) {
      if (event.kind != "k") continue;
      ASSERT_EQ(event.step, step);
      step += 50;
    }
    ASSERT_LT(step, done + 50);
    ASSERT_GE(step, done);
    // What all ranks came to is never behind.
    query.filter.rank = kAllRanks;
    step = 0;
    for (const SeriesColumns& part : ReadFrom(recorded, query)) {
      for (size_t n = 0; n < part.steps.size(); ++n, ++step) {
        ASSERT_EQ(part.steps[n], step);
        ASSERT_EQ(part.numbers[n], ValueOfKilled(run, 0, step));
      }
    }
    ASSERT_GE(step, done) << "the progress of a rank speaks of values of all ranks that are not there";
  }

  // `producers`: as they are in the folder.
  void CheckAll(Recorded& recorded, const std::function<std::optional<uint64_t>(const RunKey&)>& done_of,
                const std::map<RunKey, RunState>& states) {
    for (auto& [run, known] : known_) {
      const std::optional<uint64_t> done = done_of(KeyOf(run, false));
      if (known.deleted) {
        ASSERT_FALSE(done) << "run k" << run << " was deleted";
        ASSERT_FALSE(std::filesystem::exists(file(KeyOf(run, false))));
        continue;
      }
      if (!done) {
        ASSERT_TRUE(known.deleting) << "run k" << run << " is gone";
        continue;
      }
      ASSERT_GE(*done, known.done) << "of run k" << run << " more was said to be committed";
      known.done = *done;
      if (known.over) {
        ASSERT_EQ(*done, LengthOf(run));
      }
      const RunState state = states.at(KeyOf(run, false));
      if (known.over) {
        ASSERT_EQ(state, RunState::kFinished) << run;
      }
      if (!IsOpen(state)) {
        ASSERT_EQ(*done, LengthOf(run)) << "it is over, but not all of it is there";
      }
      if (known.deleting) continue;  // its run of all ranks may be gone
      ASSERT_NO_FATAL_FAILURE(CheckRun(recorded, run, *done));
    }
  }

  void CheckFiles() {
    for (const auto& item : std::filesystem::directory_iterator(dir_.path() + "/data/runs/here")) {
      const std::string path = item.path().string();
      ASSERT_EQ(path.find(".broken"), std::string::npos) << path;
      if (item.path().extension() != ".run" && item.path().extension() != ".db") continue;
      sqlite3* db = nullptr;
      ASSERT_EQ(sqlite3_open_v2(path.c_str(), &db, SQLITE_OPEN_READWRITE, nullptr), SQLITE_OK);
      auto text = [&](const char* sql) {
        sqlite3_stmt* statement = nullptr;
        std::string answer = sqlite3_errmsg(db);
        if (sqlite3_prepare_v2(db, sql, -1, &statement, nullptr) == SQLITE_OK &&
            sqlite3_step(statement) == SQLITE_ROW) {
          answer = reinterpret_cast<const char*>(sqlite3_column_text(statement, 0));
        }
        sqlite3_finalize(statement);
        return answer;
      };
      EXPECT_EQ(text("PRAGMA integrity_check"), "ok") << path;
      segments_ += std::strtoull(text("SELECT count(*) FROM segment").c_str(), nullptr, 10);
      sqlite3_close(db);
    }
  }

  std::map<int, Known> known_;
  uint64_t segments_ = 0;
};

TEST_F(StoreKillTest, NothingThatWasSaidToBeCommittedIsLostWheneverTheDaemonIsKilled) {
  const char* seed_text = std::getenv("IKKUNA_TEST_SEED");
  const char* kills_text = std::getenv("IKKUNA_TEST_KILLS");
  const uint64_t seed = seed_text ? std::strtoull(seed_text, nullptr, 10) : std::random_device()();
  const int kills = kills_text ? std::atoi(kills_text) : kKills;
  std::printf("IKKUNA_TEST_SEED=%" PRIu64 "\n", seed);
  std::mt19937_64 random(seed);
  const auto has_seen = [&] {
    uint64_t deleted = 0, over = 0;
    for (const auto& [run, known] : known_) {
      deleted += known.deleted;
      over += known.over;
    }
    return deleted > 3 && over > 3 && segments_ > 20;
  };
  // Until everything has happened, which chance may put off.
  for (int kill = 0; kill < kills || (kills >= 50 && kill < 6 * kills && !has_seen()); ++kill) {
    SCOPED_TRACE("seed " + std::to_string(seed) + ", kill " + std::to_string(kill));
    // Often within the first milliseconds, when files are opened and recovered.
    const uint64_t most = kill % 5 == 0 ? 1 : kill % 7 == 0 ? 300 : 60;
    ASSERT_NO_FATAL_FAILURE(WriteAndKill(1 + kill * 500, random() % most, std::chrono::microseconds(random() % 5'000)));
    if (kill % 3 == 0) {
      // As `ikkuna read --data-dir` would, with the dead daemon's logs beside the files.
      auto stored = StoredRuns::Open(dir_.path() + "/data");
      ASSERT_TRUE(stored.ok()) << stored.error().text;
      ASSERT_TRUE((*stored)->unread().empty()) << (*stored)->unread().front();
      for (auto& [run, known] : known_) {
        auto runs = (*stored)->FindRuns(KeyOf(run, false).run_id);
        ASSERT_TRUE(runs.ok());
        ASSERT_TRUE(!known.deleted || runs->empty());
        ASSERT_TRUE(known.deleting || !runs->empty());
      }
    }
    OpenStore();
    std::map<RunKey, RunState> states;
    auto producers = store_->LoadProducers();
    ASSERT_TRUE(producers.ok());
    for (const ProducerStatus& one : *producers) states[one.info.run_key] = one.state;
    auto done_of = [&](const RunKey& key) -> std::optional<uint64_t> {
      const auto progress = store_->LoadProgress(key);
      return progress ? std::optional(progress->done_seq) : std::nullopt;
    };
    ASSERT_NO_FATAL_FAILURE(CheckAll(*store_, done_of, states));
    store_.reset();
    ASSERT_NO_FATAL_FAILURE(CheckFiles());
  }
  uint64_t deleted = 0, over = 0, done = 0;
  for (const auto& [run, known] : known_) {
    deleted += known.deleted;
    over += known.over;
    done += known.done;
  }
  std::printf("%zu runs, %" PRIu64 " over, %" PRIu64 " deleted, %" PRIu64 " steps; segments seen: %" PRIu64 "\n",
              known_.size(), over, deleted, done, segments_);
  // It would be worth nothing if none of this had happened.
  EXPECT_TRUE(kills < 50 || has_seen());
}

}  // namespace
}  // namespace ikkuna::sinks
