/* A job in C that knows Ikkuna by its installed header and library alone: 40 steps of a loss and of two weights, or,
 * with an argument, as many as it takes until a client asks it to stop. */
#define _POSIX_C_SOURCE 199309L
#include <ikkuna/probe.h>
#include <stdio.h>
#include <time.h>

int main(int argc, char** argv) {
  (void)argv;
  const int until_stopped = argc > 1;
  ikkuna_session* s = ikkuna_open(
      &(ikkuna_options){.size = sizeof(ikkuna_options), .run = "c-job", .budget = -1, .allow_control = until_stopped});
  const uint16_t root = ikkuna_root(s, "net");
  const uint32_t fc1 = ikkuna_module(s, root, "fc1", "Linear", 0);
  const int64_t sizes[2] = {1, 2};
  const uint32_t weight = ikkuna_param(s, root, fc1, "weight", IKKUNA_F32, 2, sizes, IKKUNA_TRAINABLE);
  for (uint64_t step = 0; until_stopped ? !ikkuna_stop_requested(s) : step < 40; ++step) {
    const float data[2] = {(float)step, -(float)step};
    const ikkuna_array array = {
        .size = sizeof(ikkuna_array), .data = data, .dtype = IKKUNA_F32, .ndim = 2, .sizes = sizes};
    ikkuna_step* open = ikkuna_step_begin(s, root, IKKUNA_TAG_DEFAULT, step, (uint32_t)(step / 20));
    ikkuna_pass* pass = ikkuna_pass_begin(open);
    ikkuna_pass_scalar(pass, IKKUNA_LOSS, 0, 1.0 / (double)(step + 1));
    ikkuna_pass_end(pass);
    ikkuna_step_array(open, IKKUNA_WEIGHTS, fc1, weight, 0, &array);
    ikkuna_samples(open, 32);
    ikkuna_step_end(open, 0);
    if (until_stopped) nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
  }
  ikkuna_close(s);
  puts("trained");
  return 0;
}
