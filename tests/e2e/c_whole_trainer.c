/* A trainer that uses the whole C interface for very many steps: two models, of which one says where its steps are and the
 * other is seen (passes, backward, writes), evaluations, epochs, what is logged, values that come late, commands.
 *
 *   c_whole_trainer STEPS US   US: microseconds between two steps; prints its memory (kB, without what is shared) after a fifth
 *                              of the steps and at the end
 */
#define _DEFAULT_SOURCE
#include <ikkuna/probe.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { N = 64, EVALUATE = 500, EPOCH = 2000, DROPPED = 97, RETAINED = 89 };

typedef struct {
  uint16_t root;
  uint32_t module, weight, bias;
  float w[N], b[1], dw[N], db[1], kept[N];
  uint64_t kept_of;
} model;

static ikkuna_session* session;
static uint64_t refused, commands;
static const int64_t sizes[] = {8, 8}, one[] = {1}, column_strides[] = {1, 8};

static void check(int result) {
  if (result >= 0) return;
  if (refused++ < 10) printf("refused: %s\n", ikkuna_error(session));
}

static ikkuna_array array_of(const float* data, int scalar) {
  ikkuna_array array = {0};
  array.size = sizeof array;
  array.data = data;
  array.dtype = IKKUNA_F32;
  array.ndim = scalar ? 1 : 2;
  array.sizes = scalar ? one : sizes;
  return array;
}

static void on_command(void* context, const ikkuna_command* command) {
  (void)context;
  ++commands;
  check(ikkuna_command_done(session, command->id, command->type != IKKUNA_COMMAND_CAPTURE, NULL));
}
static int prepared(void* context) {
  (void)context;
  return 1;
}

static void name_all(model* of) {
  of->module = ikkuna_module(session, of->root, "fc", "Linear", 0);
  of->weight = ikkuna_param(session, of->root, of->module, "weight", IKKUNA_F32, 2, sizes, IKKUNA_TRAINABLE);
  of->bias = ikkuna_param(session, of->root, of->module, "bias", IKKUNA_F32, 1, one, IKKUNA_TRAINABLE | IKKUNA_BIAS);
}

static double forward(model* of, uint64_t step, float* output) {
  float sum = of->b[0];
  for (int i = 0; i < N; ++i) sum += of->w[i] * (float)((step + (uint64_t)i) % 7) * 0.01f;
  *output = sum;
  return 0.5 * (double)sum * (double)sum;
}
static void backward(model* of, uint64_t step, float output) {
  for (int i = 0; i < N; ++i) of->dw[i] = output * (float)((step + (uint64_t)i) % 7) * 0.01f;
  of->db[0] = output;
}
static void update(float* value, const float* gradient, int count) {
  for (int i = 0; i < count; ++i) value[i] -= 0.1f * gradient[i];
}

/* Of a step or a take of one; `take`: a set of IKKUNA_TAKE_*. */
static void publish(model* of, ikkuna_step* step, uint64_t number, uint32_t take, uint16_t flags) {
  const ikkuna_array w = array_of(of->w, 0), b = array_of(of->b, 1), dw = array_of(of->dw, 0), db = array_of(of->db, 1);
  const ikkuna_array kept = array_of(of->kept, 0);
  if (take & IKKUNA_TAKE_WEIGHTS) {
    check(ikkuna_step_array(step, IKKUNA_WEIGHTS, of->module, of->weight, flags, &w));
    check(ikkuna_step_array(step, IKKUNA_BIASES, of->module, of->bias, flags, &b));
    if (ikkuna_step_wanted(step, IKKUNA_WEIGHT_UPDATES, of->module) != IKKUNA_NOTHING) memcpy(of->kept, of->w, sizeof of->w);
    of->kept_of = number;
  }
  if (take & IKKUNA_TAKE_GRADIENTS) {
    check(ikkuna_step_array(step, IKKUNA_WEIGHT_GRADIENTS, of->module, of->weight, flags, &dw));
    check(ikkuna_step_array(step, IKKUNA_BIAS_GRADIENTS, of->module, of->bias, flags, &db));
  }
  if (take & IKKUNA_TAKE_RATES) check(ikkuna_rate(step, "all", 0.1));
  if ((take & IKKUNA_TAKE_UPDATES) && of->kept_of == number) {
    check(ikkuna_step_difference(step, IKKUNA_WEIGHT_UPDATES, of->module, of->weight, flags, &w, &kept));
  } else if (take & IKKUNA_TAKE_UPDATES) {
    ikkuna_step_lacks(step, IKKUNA_WEIGHT_UPDATES);
  }
}

static void evaluate(model* of, uint64_t step, uint16_t tag) {
  ikkuna_step* test = ikkuna_step_begin(session, of->root, tag, step, 0);
  for (int batch = 0; batch < 3; ++batch) {
    float output;
    ikkuna_pass* pass = ikkuna_pass_begin(test);
    check(ikkuna_pass_scalar(pass, IKKUNA_LOSS, 0, forward(of, step, &output)));
    check(ikkuna_pass_end(pass));
  }
  check(ikkuna_log(test, "score", (double)step));
  check(ikkuna_step_end(test, 0));
}

typedef struct {
  ikkuna_late* late;
  const ikkuna_array* array;
} delivery;
static void* deliver(void* of) {
  delivery* what = of;
  check(ikkuna_late_fill(what->late, what->array));
  return NULL;
}

static void given_step(model* of, uint64_t number, uint16_t tag) {
  if (ikkuna_next_due(session, of->root, IKKUNA_TAG_DEFAULT, number) == number) {
    (void)ikkuna_due(session, of->root, IKKUNA_TAG_DEFAULT, number);
  }
  ikkuna_step* step = ikkuna_step_begin(session, of->root, IKKUNA_TAG_DEFAULT, number, (uint32_t)(number / EPOCH));
  ikkuna_pass* pass = ikkuna_pass_begin(step);
  float output;
  const double loss = forward(of, number, &output);
  const ikkuna_array activation = array_of(&output, 1);
  ikkuna_late* late = NULL;
  if (ikkuna_late_room(session) > 0) {
    late = ikkuna_pass_late(pass, IKKUNA_ACTIVATIONS, of->module, 0, 0, 0, &activation);
  }
  check(ikkuna_pass_scalar(pass, IKKUNA_LOSS, 0, loss));
  ikkuna_pass_spent(pass, 10);
  backward(of, number, output);
  if (number % DROPPED == 0) {
    ikkuna_pass_abandon(ikkuna_pass_begin(step));
  }
  publish(of, step, number, IKKUNA_TAKE_WEIGHTS | IKKUNA_TAKE_GRADIENTS | IKKUNA_TAKE_RATES, 0);
  update(of->w, of->dw, N);
  update(of->b, of->db, 1);
  publish(of, step, number, IKKUNA_TAKE_UPDATES, 0);
  delivery what = {late, &activation};
  if (number % 1000 == 0) {
    pthread_t thread;
    pthread_create(&thread, NULL, deliver, &what);
    pthread_join(thread, NULL);
  } else if (number == 500) { /* never comes: the daemon counts it */
    check(ikkuna_late_end(late, IKKUNA_LATE_NEVER));
  } else if (number % 1000 == 501) {
    ikkuna_place place = {0};
    place.size = sizeof place;
    const int whole = ikkuna_late_place(late, &place) == 1 && place.content == IKKUNA_TENSOR;
    if (whole) memcpy(place.data, &output, sizeof output);
    if (whole) check(ikkuna_late_end(late, IKKUNA_LATE_READY));
    if (!whole) deliver(&what);
  } else {
    deliver(&what);
  }
  check(ikkuna_pass_end(pass));
  check(ikkuna_log(step, "score", loss));
  if (number % EVALUATE == 0) check(ikkuna_log_text(step, "remark", "all is well"));
  ikkuna_samples(step, 32);
  check(ikkuna_step_end(step, number % DROPPED == 1 ? IKKUNA_FLAG_GRAD_MODIFIED : 0));
  if (number % EVALUATE == EVALUATE - 1) evaluate(of, number, tag);
}

static void take_all(ikkuna_thread* thread, model* of) {
  ikkuna_take take = {0};
  take.size = sizeof take;
  while (ikkuna_next_take(thread, &take) == 1) {
    publish(of, take.step, take.number, take.take, take.flags);
    check(ikkuna_step_end(take.step, 0));
  }
}

static void tracked_step(ikkuna_thread* thread, model* of, uint64_t number, uint16_t tag) {
  float output;
  if (number % DROPPED == 0) { /* a batch that is left out */
    ikkuna_pass* dropped = ikkuna_on_pass(thread, of->root, 0);
    take_all(thread, of);
    ikkuna_pass_abandon(dropped);
  }
  ikkuna_pass* pass = ikkuna_on_pass(thread, of->root, 0);
  take_all(thread, of);
  const double loss = forward(of, number, &output);
  const ikkuna_array activation = array_of(&output, 1);
  if (ikkuna_pass_wanted(pass, IKKUNA_ACTIVATIONS, of->module) != IKKUNA_NOTHING) {
    check(ikkuna_pass_array(pass, IKKUNA_ACTIVATIONS, of->module, 0, 0, 0, &activation));
  }
  check(ikkuna_pass_scalar(pass, IKKUNA_LOSS, 0, loss));
  for (int walk = 0; walk < (number % RETAINED == 0 ? 2 : 1); ++walk) {
    const int64_t task = (int64_t)(2 * number + (uint64_t)walk);
    const uint32_t look = ikkuna_look(session, of->root);
    ikkuna_pass* reached = ikkuna_on_reached(thread, pass, task);
    check(ikkuna_pass_array(reached, IKKUNA_LAYER_GRADIENTS, of->module, 0, 0, 0, &activation));
    check(ikkuna_on_gradient(thread, of->root, task, walk == 0 && (look & IKKUNA_LOOK_GRADIENTS) ? IKKUNA_SEEN_CLEARED : 0));
    take_all(thread, of);
    backward(of, number, output);
    check(ikkuna_on_backward_end(thread, task));
  }
  ikkuna_step* now = ikkuna_step_now(thread, of->root);
  check(ikkuna_log(now, "score", loss));
  ikkuna_samples(now, 32);
  check(ikkuna_step_end(now, 0));
  if (number % 50 == 49) { /* a loss scaler skips this one */
    ikkuna_pass_end(pass);
    return;
  }
  check(ikkuna_on_write(thread, of->root, IKKUNA_WRITE_ARITHMETIC, of->weight, IKKUNA_SEEN_GRADIENT));
  take_all(thread, of);
  update(of->w, of->dw, N);
  check(ikkuna_on_write(thread, of->root, IKKUNA_WRITE_ARITHMETIC, of->bias, IKKUNA_SEEN_GRADIENT));
  take_all(thread, of);
  update(of->b, of->db, 1);
  ikkuna_pass_end(pass);
  if (number % EPOCH == 100) {
    check(ikkuna_on_epoch(thread, of->root, (uint32_t)(number / EPOCH) + 1));
    take_all(thread, of);
  }
  if (number % EVALUATE != 120) return;
  check(ikkuna_on_evaluation(thread, of->root));
  take_all(thread, of);
  evaluate(of, ikkuna_next_step(session, of->root), tag);
}

static long memory_kb(void) {
  long kb = -1;
  char line[256];
  FILE* file = fopen("/proc/self/status", "r");
  while (file != NULL && fgets(line, sizeof line, file) != NULL) {
    if (sscanf(line, "RssAnon: %ld", &kb) == 1) break;
  }
  if (file != NULL) fclose(file);
  return kb;
}

int main(int argc, char** argv) {
  const uint64_t steps = argc > 1 ? strtoull(argv[1], NULL, 10) : 20000;
  const unsigned pause_us = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 0;
  ikkuna_options options = {0};
  options.size = sizeof options;
  options.run = "whole";
  options.budget = -1;
  options.quiet = 1;
  options.control = IKKUNA_CONTROL_ALL;
  options.on_command = on_command;
  options.prepared = prepared;
  options.late_kb = 64;
  session = ikkuna_open(&options);
  if (session == NULL || ikkuna_version() < IKKUNA_VERSION) return 1;
  ikkuna_fact(session, "optimizer", "descent");
  ikkuna_note(session, "nothing is missing");
  const uint16_t tag = ikkuna_tag(session, "held_out");
  model given = {0}, tracked = {0};
  given.root = ikkuna_root(session, "given");
  tracked.root = ikkuna_root_tracked(session, "tracked", 0);
  for (int i = 0; i < N; ++i) given.w[i] = tracked.w[i] = (float)(i % 5) * 0.1f;
  name_all(&given);
  name_all(&tracked);
  ikkuna_thread* thread = ikkuna_thread_begin(session);
  uint64_t generation = ikkuna_demand_generation(session), changes = 0;
  long early = 0;
  for (uint64_t i = 0; i < steps; ++i) {
    if (i == steps / 5) early = memory_kb();
    if (i % 1000 == 999) { /* what is said again is not said anew; threads come and go */
      name_all(&given);
      name_all(&tracked);
      ikkuna_thread_end(thread);
      thread = ikkuna_thread_begin(session);
    }
    if (generation != ikkuna_demand_generation(session)) {
      generation = ikkuna_demand_generation(session);
      ++changes;
    }
    given_step(&given, i, tag);
    tracked_step(thread, &tracked, i, tag);
    if (ikkuna_stop_requested(session)) break;
    if (pause_us != 0) usleep(pause_us);
  }
  ikkuna_array strided = array_of(given.w, 0);
  strided.strides = column_strides;
  ikkuna_step* last = ikkuna_step_begin(session, given.root, IKKUNA_TAG_DEFAULT, steps, 0);
  check(ikkuna_step_array(last, IKKUNA_WEIGHTS, given.module, given.weight, 0, &strided));
  check(ikkuna_step_end(last, 0));
  check(ikkuna_on_end(thread, tracked.root));
  take_all(thread, &tracked);
  printf("tracked steps %llu\n", (unsigned long long)ikkuna_next_step(session, tracked.root));
  printf("memory kB early %ld late %ld\n", early, memory_kb());
  printf("refused %llu\n", (unsigned long long)refused);
  ikkuna_thread_end(thread);
  ikkuna_close(session);
  return 0;
}
