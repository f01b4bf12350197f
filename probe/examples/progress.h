// The progress of a training, for a person to read: one line that is written over on a terminal, plain lines elsewhere.
#pragma once

#include <chrono>
#include <cstdint>

namespace trainer {

class Progress {
 public:
  explicit Progress(int64_t log_every);

  bool Due(int64_t step) const { return step % log_every_ == 0; }
  // After `steps` steps; `accuracy` in [0, 1] is that of the last batch.
  void Training(int64_t steps, int64_t epoch, double loss, double accuracy);
  void Test(int64_t epoch, double loss, double accuracy);
  void Done(int64_t steps);

 private:
  using Clock = std::chrono::steady_clock;

  const int64_t log_every_;
  const bool terminal_;
  const Clock::time_point begin_ = Clock::now();
  Clock::time_point last_ = begin_;
  int64_t last_steps_ = 0;
};

}  // namespace trainer
