/* A trainer in plain C that is watched: a perceptron of two layers with gradients of its own, which learns to tell the
 * inside of a circle from the outside. The lines marked `ikkuna` are what watching takes.
 *
 *   mlp [STEPS]       default 2000; the loss every 200 steps goes to standard output
 */
#include <ikkuna/probe.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { IN = 2, HIDDEN = 32, OUT = 2, BATCH = 64 };
static const float kRate = 0.2f;

static float w1[HIDDEN][IN], b1[HIDDEN], w2[OUT][HIDDEN], b2[OUT];
static float x[BATCH][IN], hidden[BATCH][HIDDEN], out[BATCH][OUT];
static int64_t labels[BATCH];
static float dw1[HIDDEN][IN], db1[HIDDEN], dw2[OUT][HIDDEN], db2[OUT];
static float dhidden[BATCH][HIDDEN], dout[BATCH][OUT];

static uint64_t seed = 1;
/* In [-1, 1). */
static float uniform(void) {
  seed = seed * 6364136223846793005u + 1442695040888963407u;
  return (float)((double)(seed >> 11) / 4503599627370496.0 - 1.0);
}

static void draw_batch(void) {
  for (int i = 0; i < BATCH; ++i) {
    x[i][0] = uniform();
    x[i][1] = uniform();
    labels[i] = x[i][0] * x[i][0] + x[i][1] * x[i][1] < 0.5f;
  }
}

/* Leaves activations and logits; returns the mean cross-entropy, and its gradient in dout. */
static double forward(void) {
  double loss = 0;
  for (int i = 0; i < BATCH; ++i) {
    for (int h = 0; h < HIDDEN; ++h) {
      float sum = b1[h];
      for (int k = 0; k < IN; ++k) sum += w1[h][k] * x[i][k];
      hidden[i][h] = tanhf(sum);
    }
    for (int o = 0; o < OUT; ++o) {
      out[i][o] = b2[o];
      for (int h = 0; h < HIDDEN; ++h) out[i][o] += w2[o][h] * hidden[i][h];
    }
    const float most = out[i][0] > out[i][1] ? out[i][0] : out[i][1];
    const float sum = expf(out[i][0] - most) + expf(out[i][1] - most);
    for (int o = 0; o < OUT; ++o) {
      dout[i][o] = (expf(out[i][o] - most) / sum - (labels[i] == o ? 1.0f : 0.0f)) / BATCH;
    }
    loss += (most + logf(sum) - out[i][labels[i]]) / BATCH;
  }
  return loss;
}

static void backward(void) {
  memset(dw1, 0, sizeof dw1);
  memset(db1, 0, sizeof db1);
  memset(dw2, 0, sizeof dw2);
  memset(db2, 0, sizeof db2);
  for (int i = 0; i < BATCH; ++i) {
    for (int h = 0; h < HIDDEN; ++h) {
      dhidden[i][h] = 0;
      for (int o = 0; o < OUT; ++o) {
        dhidden[i][h] += dout[i][o] * w2[o][h];
        dw2[o][h] += dout[i][o] * hidden[i][h];
      }
    }
    for (int o = 0; o < OUT; ++o) db2[o] += dout[i][o];
    for (int h = 0; h < HIDDEN; ++h) {
      const float before_tanh = dhidden[i][h] * (1 - hidden[i][h] * hidden[i][h]);
      db1[h] += before_tanh;
      for (int k = 0; k < IN; ++k) dw1[h][k] += before_tanh * x[i][k];
    }
  }
}

static void descend(float* parameter, const float* gradient, int n) {
  for (int i = 0; i < n; ++i) parameter[i] -= kRate * gradient[i];
}

/* ikkuna: a parameter as it is handed over, and its value before the optimizer's write. */
typedef struct {
  uint32_t module, id;
  float *value, *gradient;
  int64_t sizes[2];
  int ndim, is_bias;
  float before[HIDDEN * (IN > OUT ? IN : OUT)];
} parameter;

static int elements(const parameter* p) { return (int)(p->sizes[0] * (p->ndim == 2 ? p->sizes[1] : 1)); }

static ikkuna_array array_of(const void* data, int dtype, int ndim, const int64_t* sizes) {
  return (ikkuna_array){.size = sizeof(ikkuna_array), .data = data, .dtype = dtype, .ndim = ndim, .sizes = sizes};
}

static const int64_t kHiddenSizes[] = {BATCH, HIDDEN}, kOutSizes[] = {BATCH, OUT}, kLabelSizes[] = {BATCH};

/* ikkuna: what a forward pass gives. */
static void publish_forward(ikkuna_pass* pass, uint32_t fc1, uint32_t fc2, double loss) {
  const ikkuna_array h = array_of(hidden, IKKUNA_F32, 2, kHiddenSizes), o = array_of(out, IKKUNA_F32, 2, kOutSizes);
  const ikkuna_array l = array_of(labels, IKKUNA_I64, 1, kLabelSizes);
  ikkuna_pass_array(pass, IKKUNA_ACTIVATIONS, fc1, 0, 0, 0, &h);
  ikkuna_pass_array(pass, IKKUNA_ACTIVATIONS, fc2, 0, 0, 0, &o);
  ikkuna_pass_array(pass, IKKUNA_NETWORK_OUTPUT, 0, 0, 0, 0, &o);
  ikkuna_pass_array(pass, IKKUNA_INPUT_LABELS, 0, 0, 0, 0, &l);
  ikkuna_pass_scalar(pass, IKKUNA_LOSS, 0, loss);
}

int main(int argc, char** argv) {
  const uint64_t steps = argc > 1 ? strtoull(argv[1], NULL, 10) : 2000;
  for (int h = 0; h < HIDDEN; ++h) {
    for (int k = 0; k < IN; ++k) w1[h][k] = uniform();
    for (int o = 0; o < OUT; ++o) w2[o][h] = uniform() / 4;
  }

  ikkuna_session* s = ikkuna_open(&(ikkuna_options){.size = sizeof(ikkuna_options), .run = "circle", .allow_control = 1});
  const uint16_t root = ikkuna_root(s, "mlp");
  const uint32_t fc1 = ikkuna_module(s, root, "fc1", "Linear", 0), fc2 = ikkuna_module(s, root, "fc2", "Linear", 0);
  parameter parameters[] = {{fc1, 0, &w1[0][0], &dw1[0][0], {HIDDEN, IN}, 2, 0, {0}},
                            {fc1, 0, b1, db1, {HIDDEN}, 1, 1, {0}},
                            {fc2, 0, &w2[0][0], &dw2[0][0], {OUT, HIDDEN}, 2, 0, {0}},
                            {fc2, 0, b2, db2, {OUT}, 1, 1, {0}}};
  for (int i = 0; i < 4; ++i) {
    parameter* p = &parameters[i];
    p->id = ikkuna_param(s, root, p->module, p->is_bias ? "bias" : "weight", IKKUNA_F32, p->ndim, p->sizes,
                         IKKUNA_TRAINABLE | (p->is_bias ? IKKUNA_BIAS : 0));
  }
  ikkuna_fact(s, "optimizer", "SGD");

  uint64_t generation = 0, next_due = 0; /* ikkuna: until then nothing is wanted, and nothing is done for it */
  for (uint64_t i = 0; i < steps && !ikkuna_stop_requested(s); ++i) {
    draw_batch();
    ikkuna_step* step = ikkuna_step_begin(s, root, IKKUNA_TAG_DEFAULT, i, 0);
    if (generation != ikkuna_demand_generation(s) || i > next_due) {
      generation = ikkuna_demand_generation(s);
      next_due = ikkuna_next_due(s, root, IKKUNA_TAG_DEFAULT, i);
    }
    const int due = i == next_due;

    const double loss = forward();
    ikkuna_pass* pass = due ? ikkuna_pass_begin(step) : NULL;
    if (due) publish_forward(pass, fc1, fc2, loss);
    backward();
    if (due) {
      const ikkuna_array h = array_of(dhidden, IKKUNA_F32, 2, kHiddenSizes), o = array_of(dout, IKKUNA_F32, 2, kOutSizes);
      ikkuna_pass_array(pass, IKKUNA_LAYER_GRADIENTS, fc1, 0, 0, 0, &h);
      ikkuna_pass_array(pass, IKKUNA_LAYER_GRADIENTS, fc2, 0, 0, 0, &o);
      ikkuna_pass_end(pass);
      for (int k = 0; k < 4; ++k) {
        parameter* p = &parameters[k];
        const ikkuna_array value = array_of(p->value, IKKUNA_F32, p->ndim, p->sizes);
        const ikkuna_array gradient = array_of(p->gradient, IKKUNA_F32, p->ndim, p->sizes);
        ikkuna_step_array(step, p->is_bias ? IKKUNA_BIASES : IKKUNA_WEIGHTS, p->module, p->id, 0, &value);
        ikkuna_step_array(step, p->is_bias ? IKKUNA_BIAS_GRADIENTS : IKKUNA_WEIGHT_GRADIENTS, p->module, p->id, 0, &gradient);
        memcpy(p->before, p->value, (size_t)elements(p) * sizeof(float));
      }
    }
    for (int k = 0; k < 4; ++k) descend(parameters[k].value, parameters[k].gradient, elements(&parameters[k]));
    if (due) {
      for (int k = 0; k < 4; ++k) {
        parameter* p = &parameters[k];
        const ikkuna_array now = array_of(p->value, IKKUNA_F32, p->ndim, p->sizes);
        const ikkuna_array before = array_of(p->before, IKKUNA_F32, p->ndim, p->sizes);
        ikkuna_step_difference(step, p->is_bias ? IKKUNA_BIAS_UPDATES : IKKUNA_WEIGHT_UPDATES, p->module, p->id, 0, &now,
                               &before);
      }
    }
    ikkuna_rate(step, "all", kRate);
    ikkuna_samples(step, BATCH);
    ikkuna_step_end(step, 0);

    if ((i + 1) % 200 == 0) {
      printf("step %llu  loss %.6f\n", (unsigned long long)(i + 1), loss);
      draw_batch();
      ikkuna_step* test = ikkuna_step_begin(s, root, IKKUNA_TAG_TEST, i, 0);
      ikkuna_pass* evaluation = ikkuna_pass_begin(test);
      const double test_loss = forward();
      publish_forward(evaluation, fc1, fc2, test_loss);
      ikkuna_pass_end(evaluation);
      ikkuna_step_end(test, 0);
    }
  }
  ikkuna_close(s);
  puts("trained");
  return 0;
}
