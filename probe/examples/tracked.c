/* A front end that does not know where steps begin: it only sees what its framework does, as hooks do. It says what it sees, and
 * is told what to take of which step. The framework here is a line that is fitted to points, with accumulation over two batches
 * and a loss scaler that skips a step now and then.
 *
 *   tracked [STEPS]      default 200
 */
#include <ikkuna/probe.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static float w[2] = {0, 0}, dw[2]; /* slope and offset, and their gradient */
static float kept[2];              /* the weights of a step, for its update */
static ikkuna_thread* thread;
static uint16_t root;
static uint32_t line, weight;
static int cleared = 1; /* gradients were zeroed since the last backward pass */

static ikkuna_array array_of(const float* data, const int64_t* sizes) {
  ikkuna_array array = {0};
  array.size = sizeof array;
  array.data = data;
  array.dtype = IKKUNA_F32;
  array.ndim = 1;
  array.sizes = sizes;
  return array;
}
static const int64_t two[] = {2};

/* Behind each call that says what is seen: what waits is published, before the framework goes on. */
static void take(void) {
  ikkuna_take todo = {0};
  todo.size = sizeof todo;
  while (ikkuna_next_take(thread, &todo) == 1) {
    const ikkuna_array weights = array_of(w, two), gradients = array_of(dw, two), before = array_of(kept, two);
    if (todo.take & IKKUNA_TAKE_WEIGHTS) {
      ikkuna_step_array(todo.step, IKKUNA_WEIGHTS, line, weight, todo.flags, &weights);
      kept[0] = w[0], kept[1] = w[1];
    }
    if (todo.take & IKKUNA_TAKE_GRADIENTS) {
      ikkuna_step_array(todo.step, IKKUNA_WEIGHT_GRADIENTS, line, weight, todo.flags, &gradients);
    }
    if (todo.take & IKKUNA_TAKE_RATES) ikkuna_rate(todo.step, "all", 0.1);
    if (todo.take & IKKUNA_TAKE_UPDATES) {
      ikkuna_step_difference(todo.step, IKKUNA_WEIGHT_UPDATES, line, weight, todo.flags, &weights, &before);
    }
    ikkuna_step_end(todo.step, 0);
  }
}

static void batch(int64_t task) {
  ikkuna_pass* pass = ikkuna_on_pass(thread, root, 0); /* the model is called */
  take();
  const float x = (float)(task % 11) / 11, error = w[0] * x + w[1] - (2 * x - 1);
  const int64_t one[] = {1};
  const ikkuna_array output = array_of(&error, one);
  ikkuna_pass_scalar(pass, IKKUNA_LOSS, 0, 0.5 * error * error);

  ikkuna_pass* walk = ikkuna_on_reached(thread, pass, task); /* a hook on its output */
  ikkuna_pass_array(walk, IKKUNA_LAYER_GRADIENTS, line, 0, 0, 0, &output);
  ikkuna_on_gradient(thread, root, task, cleared ? IKKUNA_SEEN_CLEARED : 0); /* a hook on a parameter */
  take();
  dw[0] += error * x, dw[1] += error;
  cleared = 0;
  ikkuna_on_backward_end(thread, task);
  ikkuna_pass_end(pass); /* its graph is gone */
}

int main(int argc, char** argv) {
  const long steps = argc > 1 ? atol(argv[1]) : 200;
  ikkuna_session* session = ikkuna_open(&(ikkuna_options){.size = sizeof(ikkuna_options), .run = "line"});
  root = ikkuna_root_tracked(session, "line", 0);
  line = ikkuna_module(session, root, "fit", "Line", 0);
  weight = ikkuna_param(session, root, line, "weight", IKKUNA_F32, 1, two, IKKUNA_TRAINABLE);
  thread = ikkuna_thread_begin(session);
  for (long i = 0; i < steps; ++i) {
    dw[0] = dw[1] = 0;
    cleared = 1;
    batch(2 * i);
    batch(2 * i + 1);
    if (i % 16 == 7) continue; /* skipped: the next gradients show it */
    ikkuna_on_write(thread, root, IKKUNA_WRITE_ARITHMETIC, weight, IKKUNA_SEEN_GRADIENT); /* the optimizer is about to */
    take();
    w[0] -= 0.1f * dw[0], w[1] -= 0.1f * dw[1];
  }
  ikkuna_on_end(thread, root); /* the last update */
  take();
  printf("y = %.2f x %+.2f after %llu steps\n", w[0], w[1], (unsigned long long)ikkuna_next_step(session, root));
  ikkuna_thread_end(thread);
  ikkuna_close(session);
  return 0;
}
