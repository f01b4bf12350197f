// A daemon that is killed in mid-write: the store opens, and holds exactly the samples that its progress speaks of.
#include <signal.h>
#include <sys/wait.h>

#include <random>

#include "tests/daemon/sinks/sinks_fixture.h"

namespace ikkuna::sinks {
namespace {

constexpr uint64_t kSeries = 5;

// Each batch is one record: a sample of each series at step seq, and the progress seq.
[[noreturn]] void WriteUntilKilled(const std::string& data_dir, int ready_fd) {
  SeriesCatalogue catalogue;
  StoreOptions options;
  options.data_dir = data_dir;
  options.on_committed = [ready_fd](const Uuid&, uint64_t done_seq) {
    if (write(ready_fd, &done_seq, sizeof(done_seq)) < 0) _exit(2);
  };
  auto store = Store::Open(options, catalogue);
  if (!store) _exit(1);
  auto progress = (*store)->LoadProgress(Producer()->uuid);
  uint64_t seq = progress ? progress->progress.done_seq : 0;
  for (;;) {
    ++seq;
    std::vector<Sample> samples;
    for (uint64_t i = 0; i < kSeries; ++i) {
      samples.push_back(At(catalogue.Intern(Key("m" + std::to_string(i)), "", ""), seq, double(seq)));
    }
    (*store)->Offer(BatchOf(std::move(samples), seq));
    if (seq % 64 == 0) {
      (*store)->Nudge();
      usleep(1'000);
    }
  }
}

TEST(StoreCrash, SamplesAndProgressAgreeAfterEveryKill) {
  TempDir dir;
  std::mt19937 random(1);
  uint64_t reported = 0;
  for (int round = 0; round < 6; ++round) {
    int pipe_fds[2];
    ASSERT_EQ(pipe(pipe_fds), 0);
    const pid_t child = fork();
    if (child == 0) {
      close(pipe_fds[0]);
      WriteUntilKilled(dir.path(), pipe_fds[1]);
    }
    close(pipe_fds[1]);
    // A few commits, then at any moment.
    uint64_t done_seq = 0;
    for (int commits = 0; commits < 3; ++commits) {
      ASSERT_EQ(read(pipe_fds[0], &done_seq, sizeof(done_seq)), ssize_t{sizeof(done_seq)});
      reported = done_seq;
    }
    usleep(random() % 60'000);
    kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "exit " << WEXITSTATUS(status);
    while (read(pipe_fds[0], &done_seq, sizeof(done_seq)) == ssize_t{sizeof(done_seq)}) reported = done_seq;
    close(pipe_fds[0]);

    SeriesCatalogue catalogue;
    StoreOptions options;
    options.data_dir = dir.path();
    auto store = Store::Open(options, catalogue);
    ASSERT_TRUE(store.ok()) << store.error().text;
    const auto progress = (*store)->LoadProgress(Producer()->uuid);
    ASSERT_TRUE(progress.has_value());
    // What was reported is there; what is there may have been committed a moment before it could be reported.
    EXPECT_GE(progress->progress.done_seq, reported);
    auto list = (*store)->ListSeries({});
    ASSERT_TRUE(list.ok());
    ASSERT_EQ(list->size(), kSeries);
    for (const SeriesInfo& info : *list) {
      EXPECT_EQ(info.count, progress->progress.done_seq);
      EXPECT_EQ(info.first_step, 1u);
      EXPECT_EQ(info.last_step, progress->progress.done_seq);
      auto read = (*store)->Read({.series_id = info.series.id, .step_min = {}, .step_max = {}, .max_points = 0});
      ASSERT_TRUE(read.ok());
      EXPECT_EQ(read->samples.size(), progress->progress.done_seq);
    }
  }
}

}  // namespace
}  // namespace ikkuna::sinks
