#include "probe/examples/progress.h"

#include <unistd.h>
#include <cstdio>

namespace trainer {

Progress::Progress(int64_t log_every) : log_every_(log_every), terminal_(isatty(STDOUT_FILENO) == 1) {}

void Progress::Training(int64_t steps, int64_t epoch, double loss, double accuracy) {
  const auto now = Clock::now();
  const double seconds = std::chrono::duration<double>(now - last_).count();
  const double rate = seconds > 0 ? static_cast<double>(steps - last_steps_) / seconds : 0;
  last_ = now;
  last_steps_ = steps;
  std::printf("%sstep %lld  epoch %lld  loss %.4f  accuracy %.3f  %.4g steps/s%s", terminal_ ? "\r\x1b[K" : "",
              static_cast<long long>(steps), static_cast<long long>(epoch), loss, accuracy, rate,
              terminal_ ? "" : "\n");
  std::fflush(stdout);
}

void Progress::Test(int64_t epoch, double loss, double accuracy) {
  std::printf("%sepoch %lld  test loss %.4f  test accuracy %.4f\n", terminal_ ? "\r\x1b[K" : "",
              static_cast<long long>(epoch), loss, accuracy);
  std::fflush(stdout);
  last_ = Clock::now();  // the test pass is not counted as slow training
}

void Progress::Done(int64_t steps) {
  const double seconds = std::chrono::duration<double>(Clock::now() - begin_).count();
  std::printf("%s%lld steps in %.1f s\n", terminal_ ? "\n" : "", static_cast<long long>(steps), seconds);
  std::fflush(stdout);
}

}  // namespace trainer
