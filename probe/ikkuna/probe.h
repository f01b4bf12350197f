/* Ikkuna's C interface: publish from any framework, in any language that can call C.
 *
 * Link libikkuna_probe_c.so, which needs no LibTorch (libikkuna_probe.so, for trainers with LibTorch, has these calls
 * too; never link both). No call waits for the daemon, throws or aborts; without a daemon every call is cheap and does
 * nothing. One session a process: ikkuna_open() of a second one returns a handle that does nothing and says so on stderr.
 *
 *   ikkuna_session* s = ikkuna_open(&(ikkuna_options){.size = sizeof(ikkuna_options), .run = "mnist"});
 *   uint16_t root = ikkuna_root(s, "model");
 *   uint32_t fc1 = ikkuna_module(s, root, "fc1", "Linear", 0);
 *   const int64_t sizes[] = {10, 784};
 *   uint32_t w = ikkuna_param(s, root, fc1, "weight", IKKUNA_F32, 2, sizes, IKKUNA_TRAINABLE);
 *   for (uint64_t i = 0; i < 100; ++i) {
 *     ikkuna_step* step = ikkuna_step_begin(s, root, IKKUNA_TAG_DEFAULT, i, 0);
 *     ikkuna_pass* pass = ikkuna_pass_begin(step);
 *     ikkuna_pass_scalar(pass, IKKUNA_LOSS, 0, 0.5);
 *     ikkuna_pass_end(pass);
 *     ikkuna_step_array(step, IKKUNA_WEIGHTS, fc1, w, 0, &(ikkuna_array){
 *         .size = sizeof(ikkuna_array), .data = data, .dtype = IKKUNA_F32, .ndim = 2, .sizes = sizes});
 *     ikkuna_step_end(step, 0);
 *   }
 *   ikkuna_close(s);
 *
 * A step is one update of the parameters, or, under another tag, one evaluation, whose number is that of the training
 * step before it. It is made of passes: a forward pass, and what backward makes of it. Micro-batches of a step are passes
 * of it, and so are the batches of an evaluation. What a module gives at each call belongs to a pass; parameters, their
 * gradients and updates, and what is logged belong to the step. Begin and end every step: that costs little, and commands
 * of clients arrive there; where nothing is due the work between can be spared.
 *
 * Such steps are given: the caller knows where one begins. A front end that only sees what its framework does (a pass begins,
 * a gradient is there, parameters are written) makes a root with ikkuna_root_tracked() and says what it sees, see "Tracked
 * steps"; where a step begins and ends, and which passes it is made of, is found as it is for LibTorch.
 *
 * Threads: any thread may begin a pass of a step and publish in it, several passes may be open at once; one pass is one
 * thread's at a time, and so is what is done with the step itself, until the next begins on another. ikkuna_open() and
 * ikkuna_close() run alone. In a forked child nothing is watched: calls do nothing there, and handles may be ended or left.
 * Results: -1 is a refusal, and ikkuna_error() says on the same thread what was wrong and what to do. 1: published.
 * 0: not wanted, or dropped, which the daemon shows. What was wanted and is refused is counted there, too. A handle that is
 * NULL is taken, and nothing comes of it.
 * Strings are UTF-8; a name above 255 bytes stands as its end behind a hash. Numbers of kinds, tags and data types are those of the wire format. */
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

#define IKKUNA_VERSION 2
/* IKKUNA_VERSION of the library: a program runs with any that is not below its own. */
IKKUNA_API uint32_t ikkuna_version(void);

typedef struct ikkuna_session ikkuna_session;
typedef struct ikkuna_step ikkuna_step;
typedef struct ikkuna_pass ikkuna_pass;
typedef struct ikkuna_thread ikkuna_thread;

/* What clients may ask for. */
enum { IKKUNA_CONTROL_NONE = 0, IKKUNA_CONTROL_STOP = 1, IKKUNA_CONTROL_ALL = 2 };
enum {
  IKKUNA_COMMAND_FREEZE = 1,
  IKKUNA_COMMAND_UNFREEZE = 2,
  IKKUNA_COMMAND_EVALUATE = 4, /* no client of this version asks for it, nor for the next */
  IKKUNA_COMMAND_CAPTURE = 5
};
typedef struct ikkuna_command {
  size_t size;      /* sizeof(ikkuna_command) of the library */
  uint64_t id;      /* for ikkuna_command_done() */
  uint64_t step;    /* that is about to begin; UINT64_MAX: none is, at the boundary of an evaluation */
  uint32_t type;    /* IKKUNA_COMMAND_* */
  uint32_t module;  /* 0: the whole root */
  uint32_t param;   /* 0: all of the module */
  uint16_t root;    /* 0: every root */
} ikkuna_command;

typedef struct ikkuna_options {
  size_t size;           /* sizeof(ikkuna_options): lets later versions add fields */
  const char* run;       /* display name; NULL: the program's name */
  const char* run_id;    /* NULL: IKKUNA_RUN_ID, TORCHELASTIC_RUN_ID, the job and step of Slurm, else a new UUID */
  const char* directory; /* of the daemon's sockets; NULL: IKKUNA_DIR, else the default */
  uint32_t rank;       /* 0 where world_size is 0, too: that of the launcher's environment (RANK, Slurm's), else 0 */
  uint32_t world_size; /* 0: that of the launcher's environment, else 1 */
  uint64_t arena_mb;   /* room for whole tensors under way; 0: IKKUNA_ARENA_MB, else 256 */
  double budget;       /* share of the step time that these calls may take; 0: 0.01, negative: as the daemon says.
                        * The daemon's --budget counts where it is lower, and its `off` lifts this one, too. */
  int allow_control;   /* not 0: clients may ask to stop, see ikkuna_stop_requested(); `control` says more */
  int quiet;           /* not 0: no greeting on stderr */
  int resume;          /* not 0: this run goes on with the attempt before: both are drawn as one line */
  uint64_t start_step; /* its first step; above 0 says the same as `resume`, and no step below it is taken; above 2^62: 0 */
  int has_attempt;     /* 0: the restart count is the scheduler's, where it has one, else the daemon numbers */
  uint32_t attempt;    /* restart count of this job, where has_attempt is not 0 */
  int control;         /* IKKUNA_CONTROL_*: what clients may ask for; 0: as allow_control says. _ALL needs on_command */
  /* A command is due: called on the thread of ikkuna_step_begin(), before the step it is for, or of an ikkuna_on_ call, where
   * a step has ended: by that call itself where nothing waits to be taken, else by the ikkuna_next_take() that finds nothing
   * more, or the thread's next ikkuna_on_ call. Behind a step that was skipped the one it is for has just begun. It is under
   * no lock and may call all of this but ikkuna_close(). It does what is asked now or later (a freeze: when no optimizer
   * writes), and says so with ikkuna_command_done(). `command` is valid during the call. */
  void (*on_command)(void* context, const ikkuna_command* command);
  /* A command to several ranks is being prepared, and none gets it unless all acknowledge: 1 acknowledges that this one
   * makes steps and will act, 0 does not, and it is asked again in 50 ms (the daemon gives up after 5 s). NULL: 1. Called on
   * a thread of the session, once there is a root. ikkuna_close() waits for it, and so does what else that thread does: read
   * an atomic, and take no lock that a caller of these calls may hold. */
  int (*prepared)(void* context);
  void* context;       /* of both */
  uint64_t late_kb;    /* room for values that are announced before they are there, see ikkuna_step_late(); 0: none */
} ikkuna_options;

enum { IKKUNA_TAG_DEFAULT = 0, IKKUNA_TAG_TEST = 1, IKKUNA_TAG_NO_GRAD = 2 };
enum { IKKUNA_NOTHING = 0, IKKUNA_SUMMARY = 1, IKKUNA_TENSOR = 2 };
/* Of a pass: */
enum {
  IKKUNA_INPUT_DATA = 5,
  IKKUNA_INPUT_LABELS = 6,
  IKKUNA_NETWORK_OUTPUT = 7,
  IKKUNA_LOSS = 8,
  IKKUNA_ACTIVATIONS = 22,
  IKKUNA_LAYER_GRADIENTS = 23,
  IKKUNA_RAW_WEIGHT_GRADIENTS = 24
};
/* Of a step: */
enum {
  IKKUNA_WEIGHTS = 16,
  IKKUNA_BIASES = 17,
  IKKUNA_WEIGHT_GRADIENTS = 18,
  IKKUNA_BIAS_GRADIENTS = 19,
  IKKUNA_WEIGHT_UPDATES = 20,
  IKKUNA_BIAS_UPDATES = 21,
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
/* What is known of messages, or of a whole step. */
enum {
  IKKUNA_FLAG_GRAD_SCALED = 1,      /* gradients are those of a scaled loss */
  IKKUNA_FLAG_GRAD_MODIFIED = 2,    /* the optimizer changes gradients before it writes */
  IKKUNA_FLAG_WEIGHTS_OUTSIDE = 4,  /* an update holds more than the optimizer's write */
  IKKUNA_FLAG_STEP_INFERRED = 8,    /* that the step ended here is a guess */
  IKKUNA_FLAG_STEP_SKIPPED = 16     /* no parameter was written: a loss scaler found infinities */
};
/* Of modules and parameters. */
enum { IKKUNA_BIAS = 1, IKKUNA_FUNCTIONAL = 2, IKKUNA_BUFFER = 4, IKKUNA_TRAINABLE = 8 };

/* A tensor in host memory, read during the call only. */
typedef struct ikkuna_array {
  size_t size;            /* sizeof(ikkuna_array): lets later versions add fields */
  const void* data;       /* of the first element */
  int32_t dtype;          /* IKKUNA_F32 and its like */
  int32_t ndim;           /* at most 64; what is above 8 goes flattened into the last, flagged */
  const int64_t* sizes;   /* ndim of them */
  const int64_t* strides; /* in elements, may be 0 or negative; NULL: row-major without gaps */
  double scale;           /* what each element counts times, such as 1 / loss scale; 0: 1; of floats only. Halves that are
                           * scaled and go whole go as floats. */
  int32_t device_type;    /* as in DLPack; 0 or IKKUNA_HOST, all else is refused */
} ikkuna_array;
enum { IKKUNA_HOST = 1 };

/* --- Session. Never NULL but when memory is exhausted. IKKUNA=off in the environment gives a handle that does nothing. */
IKKUNA_API ikkuna_session* ikkuna_open(const ikkuna_options* options);
/* Ends what is open, as steps that are not whole, says goodbye and frees the handle; what was published stays readable by
 * the daemon. Handles of steps and passes do nothing from then on, and are to be ended all the same. */
IKKUNA_API void ikkuna_close(ikkuna_session* session);
/* Why the last call of this thread that was refused was refused; empty: none was. Valid until the next that is. */
IKKUNA_API const char* ikkuna_error(const ikkuna_session* session);

/* --- Names. Each returns the id for later calls, 0 when a limit of the format is reached (the daemon shows which), or
 * when it is refused. A name that is given again has the id it had; what is said of it anew takes the place of what was
 * known. */
IKKUNA_API uint16_t ikkuna_root(ikkuna_session* session, const char* name);
/* `path`: dotted, as "layers.0.fc"; `flags`: 0 or IKKUNA_FUNCTIONAL. */
IKKUNA_API uint32_t ikkuna_module(ikkuna_session* session, uint16_t root, const char* path, const char* type,
                                  uint32_t flags);
/* `sizes` holds ndim values; `flags`: a set of IKKUNA_BIAS (it counts under the bias kinds), IKKUNA_BUFFER,
 * IKKUNA_TRAINABLE. */
IKKUNA_API uint32_t ikkuna_param(ikkuna_session* session, uint16_t root, uint32_t module, const char* name, int dtype,
                                 int ndim, const int64_t* sizes, uint32_t flags);
/* The parameter is this rank's part of a larger one: `sizes` of the whole, and where the part begins, ndim each, as many as the
 * parameter has, at most 8. ndim 0: it is whole again. 1: known; -1: refused. */
IKKUNA_API int ikkuna_shard(ikkuna_session* session, uint32_t param, int ndim, const int64_t* sizes,
                            const int64_t* offsets);
/* Of evaluations; "default", "test" and "no_grad" are there. UINT16_MAX, which no step takes: there is no room for more. */
IKKUNA_API uint16_t ikkuna_tag(ikkuna_session* session, const char* name);
/* A fact of the run, such as a hyperparameter; what cannot be captured and why, shown once. */
IKKUNA_API void ikkuna_fact(ikkuna_session* session, const char* key, const char* value);
IKKUNA_API void ikkuna_note(ikkuna_session* session, const char* text);

/* --- Demand: what would be wanted, asked before any work is done. Nothing is opened or counted by it. */
/* Another number whenever the answers below may have changed. */
IKKUNA_API uint64_t ikkuna_demand_generation(const ikkuna_session* session);
/* The first step from `step` on at which anything is due under the tag; UINT64_MAX: none, as things are. Read the
 * generation before you ask: an answer holds as long as that does. What the daemon is about to change may be due at once.
 * What is logged is not in it: ikkuna_log() knows by itself. */
IKKUNA_API uint64_t ikkuna_next_due(ikkuna_session* session, uint16_t root, uint16_t tag, uint64_t step);
/* Set of kinds, bit k for kind k, of which something is due at that step; of an evaluation, of which something may be. All
 * bits: it is just being changed. */
IKKUNA_API uint64_t ikkuna_due(ikkuna_session* session, uint16_t root, uint16_t tag, uint64_t step);

/* --- Steps. What is wanted is fixed from here to the end. Steps of training (the default tag) ascend, over all epochs,
 * and one ends before the next begins; an evaluation may stand beside one, also on another thread, one a tag. NULL: it
 * is refused (a step that was taken before would stand in the place of another's values), or there is nothing to do with
 * it; every call takes NULL. The time of a step is that from one end to the next on its thread; when these calls take
 * more than the budget of it, less is wanted. */
IKKUNA_API ikkuna_step* ikkuna_step_begin(ikkuna_session* session, uint16_t root, uint16_t tag, uint64_t step,
                                          uint32_t epoch);
/* IKKUNA_NOTHING, IKKUNA_SUMMARY or IKKUNA_TENSOR; module 0 for kinds without one. Also of its passes. */
IKKUNA_API int ikkuna_step_wanted(const ikkuna_step* step, int kind, uint32_t module);
/* Publishes it, as statistics or whole, as is wanted. `flags`: a set of IKKUNA_FLAG_*. */
IKKUNA_API int ikkuna_step_array(ikkuna_step* step, int kind, uint32_t module, uint32_t param, uint16_t flags,
                                 const ikkuna_array* array);
/* now - before, in the arithmetic of their type, which is one, as their sizes are: what an update is. */
IKKUNA_API int ikkuna_step_difference(ikkuna_step* step, int kind, uint32_t module, uint32_t param, uint16_t flags,
                                      const ikkuna_array* now, const ikkuna_array* before);
/* The learning rate of a group of parameters; a named number; a named text of at most 124 bytes. */
IKKUNA_API int ikkuna_rate(ikkuna_step* step, const char* group, double value);
IKKUNA_API int ikkuna_log(ikkuna_step* step, const char* name, double value);
IKKUNA_API int ikkuna_log_text(ikkuna_step* step, const char* name, const char* text);
/* The caller's own time, to be kept in the budget with that of these calls. */
IKKUNA_API void ikkuna_step_spent(ikkuna_step* step, uint64_t ns);
/* So many training samples more have gone into the root's steps; of an evaluation nothing is counted. */
IKKUNA_API void ikkuna_samples(ikkuna_step* step, uint64_t count);
/* The step is whole, and made of the passes that ended in it. `flags` are those of all of it. Frees the handle. A pass
 * that is still open comes to nothing, and the step lacks what was due of passes. */
IKKUNA_API int ikkuna_step_end(ikkuna_step* step, uint16_t flags);

/* --- Passes. */
IKKUNA_API ikkuna_pass* ikkuna_pass_begin(ikkuna_step* step);
/* As ikkuna_step_wanted(), of the step that it began in. */
IKKUNA_API int ikkuna_pass_wanted(const ikkuna_pass* pass, int kind, uint32_t module);
/* `call`: the number of the module's call within the pass, from 0, in the order of the forward pass. */
IKKUNA_API int ikkuna_pass_array(ikkuna_pass* pass, int kind, uint32_t module, uint32_t param, uint16_t call,
                                 uint16_t flags, const ikkuna_array* array);
/* Of IKKUNA_LOSS. */
IKKUNA_API int ikkuna_pass_scalar(ikkuna_pass* pass, int kind, uint16_t call, double value);
IKKUNA_API void ikkuna_pass_spent(ikkuna_pass* pass, uint64_t ns);
/* It is part of its step, or, when it is abandoned (no backward reached it, its loss was not finite), of none. Both free
 * the handle. */
IKKUNA_API int ikkuna_pass_end(ikkuna_pass* pass);
IKKUNA_API void ikkuna_pass_abandon(ikkuna_pass* pass);

/* --- What is announced before it is there: computed by a device still, or by another thread. A message that is not ready
 * holds up none behind it, but the end of its step; after the daemon's --unready-s (10), or where very many wait, it is
 * given up, counted, and its step lacks it. Of one kind, module, parameter and pass all messages come late or none does.
 * Needs `late_kb` in the options. */
typedef struct ikkuna_late ikkuna_late;
/* The most bytes one may have; 0: there is no room, or the daemon takes none: publish when it is there. */
IKKUNA_API uint64_t ikkuna_late_room(const ikkuna_session* session);
/* `form`: an array whose elements are not read: data and strides are ignored. NULL: not wanted, dropped, which the daemon
 * shows, or refused (ikkuna_error()). Several may be open, and outlive the handle of the step. */
IKKUNA_API ikkuna_late* ikkuna_step_late(ikkuna_step* step, int kind, uint32_t module, uint32_t param, uint16_t flags,
                                         const ikkuna_array* form);
/* Also of IKKUNA_LOSS: one element. */
IKKUNA_API ikkuna_late* ikkuna_pass_late(ikkuna_pass* pass, int kind, uint32_t module, uint32_t param, uint16_t call,
                                         uint16_t flags, const ikkuna_array* form);
/* It is there, in host memory, of the data type and sizes that were announced: what is wanted of it is computed or copied on
 * this thread, which may be any, on the account of its root. 0: these are no statistics that can be, which is counted. Frees
 * the handle, but where it is refused (-1): then it is to be ended still. */
IKKUNA_API int ikkuna_late_fill(ikkuna_late* late, const ikkuna_array* array);
/* For who fills it otherwise, such as a kernel: what stands in `bytes` at `data` is IKKUNA_TENSOR, the elements row-major
 * without gaps (halves that were announced with a scale as floats); IKKUNA_SUMMARY, statistics as the wire format lays them out;
 * or IKKUNA_NUMBER, a double. `seq` goes into `ready` with release, once, when they are there. */
enum { IKKUNA_NUMBER = 3 };
typedef struct ikkuna_place {
  size_t size; /* sizeof(ikkuna_place), set by the caller */
  void* data;
  uint64_t bytes;
  uint64_t* ready;
  uint64_t seq;
  int32_t content;
} ikkuna_place;
IKKUNA_API int ikkuna_late_place(const ikkuna_late* late, ikkuna_place* place);
/* Frees the handle. _NEVER: nobody writes there any more; the daemon counts it as one that never became ready, and its room is
 * used again behind that. _READY: the bytes stand there. _COMES: who has the place stores `ready`, before ikkuna_close(). */
enum { IKKUNA_LATE_NEVER = 0, IKKUNA_LATE_READY = 1, IKKUNA_LATE_COMES = 2 };
IKKUNA_API int ikkuna_late_end(ikkuna_late* late, int how);

/* --- Tracked steps. A root made here has no ikkuna_step_begin() of the default tag: its steps are found from what is said
 * with the calls below, at the moment it is seen, before anything of it is changed. The numbers of steps go on from
 * start_step. Evaluations are given as ever (ikkuna_step_begin() with their tag, numbered ikkuna_next_step()).
 *
 * Each ikkuna_on_ call returns how many takes wait on the thread, or -1; take them, with ikkuna_next_take(), before the
 * framework goes on: then the weights and gradients are what they were in the step. Each names a step, whose handle is ended
 * with ikkuna_step_end() when all is published. What is not taken until the thread's next ikkuna_on_ call is given up, and its
 * step lacks it. The end of a step is published when the step is over and its handles are ended, in either order; where one is
 * not ended for 64 steps that wait behind it, its step ends without, and lacks what it would have brought. */
enum { IKKUNA_SAYS_BOUNDARIES = 1 }; /* only ikkuna_on_boundary() ends steps, whatever writes */
IKKUNA_API uint16_t ikkuna_root_tracked(ikkuna_session* session, const char* name, uint32_t flags);
/* The number that the root's next step takes. */
IKKUNA_API uint64_t ikkuna_next_step(const ikkuna_session* session, uint16_t root);

/* A thread of the trainer, as the tracker tells them apart: one handle each, used by one caller at a time. Ended when the
 * thread is: what it has left open is then everybody's. */
IKKUNA_API ikkuna_thread* ikkuna_thread_begin(ikkuna_session* session);
IKKUNA_API void ikkuna_thread_end(ikkuna_thread* thread);

/* What an ikkuna_on_ call has to know now, a set; what is not in it need not be looked at. */
enum {
  IKKUNA_LOOK_GRADIENTS = 1, /* ikkuna_on_gradient(): whether those before were cleared (IKKUNA_SEEN_CLEARED) */
  IKKUNA_LOOK_WEIGHTS = 2,   /* on_pass, on_gradient: whether weights moved since backward ended (IKKUNA_SEEN_MOVED) */
  IKKUNA_LOOK_WRITES = 4,    /* ikkuna_on_write(): whether the gradient is another one (IKKUNA_SEEN_NEW_GRADIENT) */
  IKKUNA_LOOK_AWAKE = 8      /* passes and writes matter now; without it hooks on them may sleep */
};
IKKUNA_API uint32_t ikkuna_look(const ikkuna_session* session, uint16_t root);

/* What is seen, as `seen`, a set. */
enum {
  IKKUNA_SEEN_MOVED = 1,        /* the weights are not what they were when the last backward pass ended */
  IKKUNA_SEEN_CLEARED = 2,      /* gradients of the backward pass before were zeroed, dropped or replaced */
  IKKUNA_SEEN_EVALUATING = 4,   /* the model is in evaluation mode */
  IKKUNA_SEEN_GRADIENT = 8,     /* the written parameter has a gradient */
  IKKUNA_SEEN_NEW_GRADIENT = 16 /* another one than when it was written last */
};
enum {
  IKKUNA_WRITE_ARITHMETIC = 1, /* from the old value: what optimizers do */
  IKKUNA_WRITE_ASSIGN = 2,     /* a new value: loads, swaps, optimizers written by hand */
  IKKUNA_WRITE_OTHER = 3       /* clamps, fills: never an optimizer's step */
};

/* A forward pass that is to train begins on the thread. Never NULL but where it is refused; takes may wait. It is ended
 * (ikkuna_pass_end(), ikkuna_pass_abandon()) when no backward can reach it any more: its step is what reached it. */
IKKUNA_API ikkuna_pass* ikkuna_on_pass(ikkuna_thread* thread, uint16_t root, uint32_t seen);
/* Backward pass `task` (not below 0, no two at once have the same; behind ikkuna_on_backward_end() another may) reaches it on
 * this thread: before ikkuna_on_gradient() of the task. What comes back takes its layer gradients, the same for each call of one task; NULL: none are wanted, or the pass
 * is of a step that has ended. It goes with the pass, and is not ended. */
IKKUNA_API ikkuna_pass* ikkuna_on_reached(ikkuna_thread* thread, ikkuna_pass* pass, int64_t task);
/* The same of what was evaluated under another tag. */
IKKUNA_API int ikkuna_on_evaluation_reached(ikkuna_thread* thread, uint16_t root, int64_t task);
/* A parameter's gradient is accumulated in the task on this thread; only the first of them says anything. */
IKKUNA_API int ikkuna_on_gradient(ikkuna_thread* thread, uint16_t root, int64_t task, uint32_t seen);
/* All gradients that the task that has just ended gave are gone and the weights have moved: an optimizer within backward used them. */
IKKUNA_API int ikkuna_on_gradients_used(ikkuna_thread* thread, uint16_t root, int64_t task);
/* It is over, for all roots, also where it threw. */
IKKUNA_API int ikkuna_on_backward_end(ikkuna_thread* thread, int64_t task);
/* A parameter is about to be written, each in turn, or only the first that the optimizer writes. Where threads differ in
 * who writes and who begins the next pass, tell of each: until all with IKKUNA_TRAINABLE are written an update that is taken
 * bears IKKUNA_FLAG_WEIGHTS_OUTSIDE. */
IKKUNA_API int ikkuna_on_write(ikkuna_thread* thread, uint16_t root, int write, uint32_t param, uint32_t seen);
/* The trainer says that its step ends here. From the first on nothing else ends steps of this root. */
IKKUNA_API int ikkuna_on_boundary(ikkuna_thread* thread, uint16_t root);
/* An evaluation begins on the thread, or a new epoch: the updates of the steps before are taken. */
IKKUNA_API int ikkuna_on_evaluation(ikkuna_thread* thread, uint16_t root);
IKKUNA_API int ikkuna_on_epoch(ikkuna_thread* thread, uint16_t root, uint32_t epoch);
/* The model goes, or the training ends: the updates of all its steps are taken. Steps of which that never happens lack them. */
IKKUNA_API int ikkuna_on_end(ikkuna_thread* thread, uint16_t root);

enum {
  IKKUNA_TAKE_WEIGHTS = 1,   /* weights and biases; keep a copy of each whose updates ikkuna_step_wanted() asks for */
  IKKUNA_TAKE_GRADIENTS = 2, /* weight and bias gradients */
  IKKUNA_TAKE_RATES = 4,     /* ikkuna_rate() */
  IKKUNA_TAKE_UPDATES = 8,   /* what parameters are now less the copy that was kept for this step: ikkuna_step_difference() */
  IKKUNA_TAKE_MOMENTS = 16,  /* of the optimizer */
  IKKUNA_TAKE_BUFFERS = 32
};
typedef struct ikkuna_take {
  size_t size;        /* sizeof(ikkuna_take), set by the caller */
  ikkuna_step* step;  /* to publish under */
  uint64_t number;    /* the step's: what is kept for it is found by it */
  uint32_t take;      /* a set of IKKUNA_TAKE_* */
  uint16_t root;
  uint16_t flags;     /* for every array that is taken now */
} ikkuna_take;
/* 1: `take` is filled in; 0: nothing waits. */
IKKUNA_API int ikkuna_next_take(ikkuna_thread* thread, ikkuna_take* take);
/* The step that what is said now is about, for ikkuna_log() and its like: the one open on the thread, else the one that
 * comes. Ended with ikkuna_step_end(), which here ends the handle alone. */
IKKUNA_API ikkuna_step* ikkuna_step_now(ikkuna_thread* thread, uint16_t root);
/* What was wanted of this kind cannot be taken at this step (a compiled region, a shape that changed): it lacks it. */
IKKUNA_API void ikkuna_step_lacks(ikkuna_step* step, int kind);

/* --- Control. 1 once a client asked the run to stop; needs allow_control. */
IKKUNA_API int ikkuna_stop_requested(const ikkuna_session* session);
/* What on_command() was given is done (not 0), or not; `note` says why not, or what is left, and is shown to clients; NULL:
 * nothing. What became of parameters is said with ikkuna_param(). -1: no such command waits. Any thread. */
IKKUNA_API int ikkuna_command_done(ikkuna_session* session, uint64_t id, int done, const char* note);

#ifdef __cplusplus
}
#endif
#endif /* IKKUNA_PROBE_H_ */
