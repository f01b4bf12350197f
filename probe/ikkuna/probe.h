/* Ikkuna's C interface: publish from any framework, in any language that can call C.
 *
 * Link libikkuna_probe_c.so, which needs no LibTorch (libikkuna_probe.so, for trainers with LibTorch, has these calls
 * too; never link both). No call blocks, throws or aborts; without a daemon every call is cheap and does nothing.
 * One session a process: ikkuna_open() of a second one returns a handle that does nothing and says so on stderr.
 *
 *   ikkuna_session* s = ikkuna_open(&(ikkuna_options){.size = sizeof(ikkuna_options), .run = "mnist"});
 *   uint16_t root = ikkuna_root(s, "model");
 *   uint32_t fc1 = ikkuna_module(s, root, "fc1", "Linear");
 *   uint32_t w = ikkuna_param(s, root, fc1, "weight", IKKUNA_F32, 2, (int64_t[]){10, 784});
 *   for (uint64_t step = 0; step < 100; ++step) {
 *     ikkuna_begin(s, root, IKKUNA_TAG_DEFAULT, step, 0);
 *     if (ikkuna_wanted(s, root, IKKUNA_WEIGHTS, fc1) != IKKUNA_NOTHING)
 *       ikkuna_tensor(s, root, IKKUNA_WEIGHTS, fc1, w, IKKUNA_F32, 2, (int64_t[]){10, 784}, data);
 *     ikkuna_loss(s, root, 0.5);
 *     ikkuna_end(s, root);
 *   }
 *   ikkuna_close(s);
 *
 * Threads: calls for one root come from one thread at a time; different roots may use different threads.
 * Strings are UTF-8, cut at 255 bytes. Numbers of kinds, tags and data types are those of the wire format. */
#ifndef IKKUNA_PROBE_H_
#define IKKUNA_PROBE_H_

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define IKKUNA_API __attribute__((visibility("default")))
#else
#define IKKUNA_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ikkuna_session ikkuna_session;

typedef struct ikkuna_options {
  size_t size;           /* sizeof(ikkuna_options): lets later versions add fields */
  const char* run;       /* display name; NULL: the program's name */
  const char* run_id;    /* NULL: IKKUNA_RUN_ID, TORCHELASTIC_RUN_ID, the job and step of Slurm, else a new UUID */
  const char* directory; /* of the daemon's sockets; NULL: IKKUNA_DIR, else the default */
  uint32_t rank;
  uint32_t world_size; /* 0: 1 */
  uint64_t arena_mb;   /* room for whole tensors under way; 0: IKKUNA_ARENA_MB, else 256 */
  double budget;       /* share of the step time that these calls may take; 0: 0.01, negative: as the daemon says.
                        * The daemon's --budget counts where it is lower, and its `off` lifts this one, too. */
  int allow_control;   /* not 0: clients may ask to stop, see ikkuna_stop_requested() */
  int quiet;           /* not 0: no greeting on stderr */
  int resume;          /* not 0: this run goes on with the attempt before: both are drawn as one line */
  uint64_t start_step; /* its first step; above 0 says the same as `resume` */
  int has_attempt;     /* 0: the restart count is the scheduler's, where it has one, else the daemon numbers */
  uint32_t attempt;    /* restart count of this job, where has_attempt is not 0 */
} ikkuna_options;

enum { IKKUNA_TAG_DEFAULT = 0, IKKUNA_TAG_TEST = 1, IKKUNA_TAG_NO_GRAD = 2 };
enum { IKKUNA_NOTHING = 0, IKKUNA_SUMMARY = 1, IKKUNA_TENSOR = 2 };
enum {
  IKKUNA_INPUT_DATA = 5,
  IKKUNA_INPUT_LABELS = 6,
  IKKUNA_NETWORK_OUTPUT = 7,
  IKKUNA_WEIGHTS = 16,
  IKKUNA_BIASES = 17,
  IKKUNA_WEIGHT_GRADIENTS = 18,
  IKKUNA_BIAS_GRADIENTS = 19,
  IKKUNA_WEIGHT_UPDATES = 20,
  IKKUNA_BIAS_UPDATES = 21,
  IKKUNA_ACTIVATIONS = 22,
  IKKUNA_LAYER_GRADIENTS = 23,
  IKKUNA_RAW_WEIGHT_GRADIENTS = 24,
  IKKUNA_EXP_AVG = 25,
  IKKUNA_EXP_AVG_SQ = 26,
  IKKUNA_BUFFERS = 27
};
enum {
  IKKUNA_F32 = 1,
  IKKUNA_F64 = 2,
  IKKUNA_F16 = 3,
  IKKUNA_BF16 = 4,
  IKKUNA_I8 = 5,
  IKKUNA_U8 = 6,
  IKKUNA_I16 = 7,
  IKKUNA_I32 = 8,
  IKKUNA_I64 = 9,
  IKKUNA_BOOL = 10
};

/* Never NULL but when memory is exhausted. IKKUNA=off in the environment gives a handle that does nothing. */
IKKUNA_API ikkuna_session* ikkuna_open(const ikkuna_options* options);
/* Says goodbye and frees the handle; what was published stays readable by the daemon. NULL is allowed. */
IKKUNA_API void ikkuna_close(ikkuna_session* session);

/* Names. Each returns the id for later calls, 0 when a limit of the format is reached. */
IKKUNA_API uint16_t ikkuna_root(ikkuna_session* session, const char* name);
IKKUNA_API uint32_t ikkuna_module(ikkuna_session* session, uint16_t root, const char* path, const char* type);
/* A parameter called "bias" counts under the bias kinds. `sizes` holds ndim values. */
IKKUNA_API uint32_t ikkuna_param(ikkuna_session* session, uint16_t root, uint32_t module, const char* name, int dtype,
                                 int ndim, const int64_t* sizes);
/* A fact of the run, such as a hyperparameter. */
IKKUNA_API void ikkuna_fact(ikkuna_session* session, const char* key, const char* value);

/* A step (or, with another tag, an evaluation pass) begins: what is wanted is fixed from here to ikkuna_end(). An
 * evaluation may stand within a step: calls are about it until its ikkuna_end(), then about the step again. The time
 * of a step is that from one end to the next; when these calls take more than the budget of it, less is wanted.
 * Steps of training (the default tag) ascend, over all epochs: one that was taken before, and one that is 2^63 or above
 * (a negative number), is refused, since its values would stand in the place of others. The call then
 * returns -1, nothing is wanted until the next, and ikkuna_error() says why. Else it returns 0. */
IKKUNA_API int ikkuna_begin(ikkuna_session* session, uint16_t root, uint16_t tag, uint64_t step, uint32_t epoch);
IKKUNA_API void ikkuna_end(ikkuna_session* session, uint16_t root);
/* IKKUNA_NOTHING, IKKUNA_SUMMARY or IKKUNA_TENSOR; module 0 for kinds without one. */
IKKUNA_API int ikkuna_wanted(ikkuna_session* session, uint16_t root, int kind, uint32_t module);
/* Publishes a contiguous row-major host tensor, as statistics or whole, as is wanted; nothing if it is not wanted.
 * Several calls for one series within a step count as calls of the module. ndim > 8 is flattened. */
IKKUNA_API void ikkuna_tensor(ikkuna_session* session, uint16_t root, int kind, uint32_t module, uint32_t param,
                              int dtype, int ndim, const int64_t* sizes, const void* data);
/* So many training samples more go into this root's steps; before the ikkuna_end() of the step. */
IKKUNA_API void ikkuna_samples(ikkuna_session* session, uint16_t root, uint64_t count);
IKKUNA_API void ikkuna_loss(ikkuna_session* session, uint16_t root, double value);
IKKUNA_API void ikkuna_log(ikkuna_session* session, uint16_t root, const char* name, double value);
IKKUNA_API void ikkuna_log_text(ikkuna_session* session, uint16_t root, const char* name, const char* text);

/* Why the last ikkuna_begin() that was refused was refused; empty: none was. Valid until the next that is. */
IKKUNA_API const char* ikkuna_error(const ikkuna_session* session);

/* 1 once a client asked the run to stop; needs allow_control. */
IKKUNA_API int ikkuna_stop_requested(const ikkuna_session* session);

#ifdef __cplusplus
}
#endif
#endif /* IKKUNA_PROBE_H_ */
