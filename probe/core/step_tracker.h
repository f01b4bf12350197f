// StepTracker: the life of the steps of every root, from what a front end sees: events go in, what to do comes back.
//
// It knows no tensors and calls nobody. A front end (LibTorch, C) tells it that a pass begins, that backward walked a
// pass, that gradients arrived, that backward ended, that parameters were written, that the trainer said where a step
// ends; it answers which step and pass that belongs to, which step has ended with which passes, and whether operators
// have to be heard. Thread rule: any thread, one mutex, held for the few lines of one event and under no other lock.
//
// A root has lanes; each holds at most one open step. Lane 0 is everybody's: passes of any thread join its step, and
// the thread that writes ends it, whoever ran backward. Threads that were seen to train side by side, each writing for
// itself, get a lane each. A step takes its number with its first training pass (or with its first gradient, where the
// pass was not heard), so that nothing a trainer merely says takes one. States of a lane, and what moves them:
//
//   event      | idle               | forward                     | pending (gradients came)
//   -----------+--------------------+-----------------------------+------------------------------------------------
//   BeginPass  | -> forward, takes  | joins                       | joins; in a loop whose writes are not seen,
//              | a number           |                             | weights that moved since end the step (inferred)
//   Gradient   | -> pending, takes  | -> pending                  | first of a backward pass. Gradients cleared since
//              | a number           |                             | the last one end the step before: skipped, or
//              |                    |                             | inferred, or forgotten where it was for another
//              |                    |                             | root's; kept: joins, until 256 passes and a minute
//   GradientsU.|                    |                             | ends -> idle or forward (inferred)
//   Written,   | ends, from the 3rd | ends, where gradients       | ends -> idle, or forward if passes are left that
//   counted    | round on, where no | never come by hooks         | no backward has reached
//              | backward ever came |                             |
//   Boundary   | ends (manual)      | ends                        | ends -> idle or forward
//   EndThread  | the lane goes      | joins lane 0                | joins lane 0
//
// A pass is open until its step names it, or it is gone: its graph was destroyed, or more than kMaxOpenPasses are. What
// a step names are the passes that its backward passes walked: a pass that none reached belongs to no step.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "shared/codes.h"

namespace ikkuna::probe {

using ThreadId = uint32_t;  // from AddThread(); never used again
using PassId = uint32_t;    // of a root, from 1; 0: none
using TaskId = int64_t;     // of a backward pass, as the front end numbers them

// Why a step ended.
enum class StepEndCause : uint8_t {
  kWritten,   // its parameters were written
  kBoundary,  // the trainer said so
  kSkipped,   // its gradients were cleared without a write: a loss scaler skips such a step
  kInferred,  // the write was not seen
};

// What the front end found of the gradients when the first of a new backward pass arrived.
enum class GradientState : uint8_t {
  kKept,     // those of the backward pass before are still part of them
  kCleared,  // they were zeroed, dropped or replaced
};

enum class WriteKind : uint8_t {
  kArithmetic,  // from the old value: what optimizers do
  kAssign,      // a new value: loads, swaps, and optimizers written by hand
  kOther,       // clamp_, fill_: never an optimizer's step
};

struct StepEnd {
  uint64_t step = 0;
  uint32_t lane = 0;
  StepEndCause cause = StepEndCause::kWritten;
  std::vector<PassId> passes;  // that the step is made of, ascending
  bool others_rest = false;    // another root is taken for one that never trains from now on
  bool handed_on = false;      // passes that began in it are of the step that comes: skipped and inferred ones
  bool unheard = false;        // its gradients came by hooks, and none of its passes was heard
  bool written = true;         // its write was seen
  bool runs_ahead = false;     // passes are begun in the step before their own: some may not be among `passes`
  uint16_t flags() const {
    if (cause == StepEndCause::kSkipped) return kFlagStepSkipped;
    return cause == StepEndCause::kInferred ? uint16_t{kFlagStepInferred} : uint16_t{0};
  }
};

// A step that ended and whose update was open until now.
struct StepToClose {
  uint32_t lane = 0;
  uint64_t step = 0;
  bool spanned = false;  // others have written since: the update is not this step's alone
  bool writing = false;  // another thread wrote it and has begun nothing since: it may be in the midst of its writes
};

class StepTracker {
 public:
  // Of a step that keeps accumulating: both are passed before its end is inferred.
  static constexpr uint32_t kMaxAccumulated = 256;
  static constexpr uint64_t kMaxAccumulationNs = 60'000'000'000;
  // Passes that no backward has reached and whose graph still stands; a trainer may keep them for ever.
  static constexpr size_t kMaxOpenPasses = 16'384;
  // Early steps: see what is there, and how this loop writes.
  static constexpr uint64_t kLearningSteps = 8;
  // Steps of other roots after which one that has not begun a pass with gradients is taken for one that never trains.
  static constexpr uint64_t kStepsOfOthers = 64;
  // In a loop whose writes are not seen, each so-manieth step listens for one again. Also the batches of an evaluation
  // over which a late write is listened for.
  static constexpr uint64_t kListenAgain = 64;
  // Writes behind a backward that gave no gradients by hooks, in a row, after which a loop is taken for one that puts its
  // gradients where they belong by itself from then on.
  static constexpr uint32_t kWithoutHooks = 3;

  // --- Roots and threads.
  int AddRoot(uint64_t start_step, bool manual);
  ThreadId AddThread();
  // The thread is gone; its lanes are everybody's.
  void EndThread(ThreadId thread);

  // --- Passes.
  struct PassOptions {
    bool recorded = false;  // something of it is published: it is named or forgotten, and open until then
    bool moved = false;  // the weights are not what they were when the last backward pass ended, see WatchesWeights()
    bool evaluating = false;  // the root is in evaluation mode
    uint64_t now_ns = 0;
  };
  struct PassBegun {
    PassId pass = 0;
    uint32_t lane = 0;
    uint64_t step = 0;
    bool opened = false;                // the step begins with it
    std::optional<StepEnd> ended;       // the step before it ends here
    std::vector<StepToClose> to_close;  // before anything of the pass is taken
  };
  PassBegun BeginPass(int root, ThreadId thread, const PassOptions& options);
  // A number for the pass that has just begun on the thread, in its lane; it is named or forgotten, and open until
  // then.
  PassId RecordPass(int root, ThreadId thread, uint32_t lane);
  // A number for what is no pass of a step: an evaluation batch. It stays open until PassesTold().
  PassId NextPass(int root);
  // It may still be named.
  bool Knows(int root, PassId pass) const;
  // No backward can reach it any more.
  void PassGone(int root, PassId pass);
  // Backward reaches a recorded pass. Where `numbered`, what this walk gives of layer gradients is published under a
  // number of its own, which is returned (the same for each call of one walk): of a pass that is walked several times
  // the last walk before the write counts, and only its number is named. Else 0.
  PassId Walked(int root, ThreadId thread, PassId pass, TaskId task, bool numbered);
  // The marker that names them is published.
  void PassesTold(int root, const std::vector<PassId>& passes);
  // The lowest pass that may still be named or published: what lies below and was not named belongs to no step.
  PassId LowestOpen(int root) const;

  // --- Backward.
  struct GradientOptions {
    GradientState state = GradientState::kKept;
    bool moved = false;
    uint64_t now_ns = 0;
  };
  // The first gradient of this root in `task` on this thread. A step that ends with it, and updates to be taken before.
  struct GradientCame {
    std::optional<StepEnd> ended;
    std::vector<StepToClose> to_close;
    uint32_t lane = 0;
    uint64_t step = 0;
    bool opened = false;
    bool forgotten = false;  // manual steps: passes whose gradients were thrown away are of no step
  };
  GradientCame Gradient(int root, ThreadId thread, TaskId task, const GradientOptions& options);
  // The gradients that `task` has given were gone when it ended: an optimizer within backward has used them. The step
  // that ends with it, and updates to be taken before.
  GradientCame GradientsUsed(int root, TaskId task);
  // Of all roots. It may have thrown. True: no other is under way on this thread, within which it ran.
  bool EndBackward(ThreadId thread, TaskId task);
  // Whether gradients wait for a write, so that it matters what becomes of them.
  bool Pending(int root) const;

  // --- Writes and what the trainer says.
  struct WriteSeen {
    std::optional<StepEnd> ended;       // the write counts
    std::vector<StepToClose> to_close;  // before the gradients of the step are taken
    bool unheard = false;               // the step that ended is of a pass that was not heard, beside another's
    std::optional<uint32_t> closing;    // else: the lane whose finished step this write follows
    uint32_t lane = 0;                  // whose the thread's writes are
  };
  // `parameter`: the first that is written, an index of the front end's. One round of writes has each parameter in one
  // go; where it comes again after another a new round begins. `new_gradient`: it has another gradient than when it was
  // written last; needed only until Accumulates().
  WriteSeen Written(int root, ThreadId thread, WriteKind kind, bool has_gradient, int parameter,
                    bool new_gradient = false);
  // Step(): none the first time if the write of this very step has ended it already.
  WriteSeen Boundary(int root, ThreadId thread);

  // Opens a step of this number, which the front end says itself. False: it, or a later one, was taken before.
  bool TakeStep(int root, ThreadId thread, uint64_t step);

  // --- Evaluation.
  // A layer of an evaluation pass on this thread; `opened`: the first after another phase. True: a new batch begins
  // with it. Its first module called again begins one, unless training showed that one batch calls it several times, or
  // it goes on with the batch (`continues`): a cell, unrolled for as long as the batch is.
  bool EvaluationLayer(int root, ThreadId thread, int module, bool opened, bool continues = false);
  // Backward reaches an evaluation pass. If a counted write follows, this root trains in evaluation mode; in a root that
  // is known to train otherwise its gradients are for the input (a saliency, an attack), and of no step.
  void EvaluationWalked(int root, ThreadId thread, TaskId task);
  // The finished steps whose updates end here. kEvaluation, kEpoch: one begins on the thread; kAll: everything ends.
  enum class CloseAt : uint8_t { kEvaluation, kEpoch, kAll };
  std::vector<StepToClose> CloseSteps(int root, ThreadId thread, CloseAt at);
  // The step that has just ended in the lane stays open for its updates. `late`: also over evaluations, since another
  // optimizer is to write.
  void HoldClosing(int root, uint32_t lane, uint64_t step, bool late);
  // The module that began the pass is called, by this or by a pass that goes on.
  void FirstModuleCalled(int root, ThreadId thread);

  // --- What is known.
  uint64_t NextStep(int root) const;                                  // the number that the next step takes
  std::optional<uint64_t> OpenStep(int root, ThreadId thread) const;  // of the thread's lane
  std::optional<uint64_t> OpenStepOf(int root, uint32_t lane) const;
  uint32_t LaneOf(int root, ThreadId thread) const;
  bool Accumulates(int root) const;             // gradients came by hooks, ever
  bool Waits(int root, ThreadId thread) const;  // the step open in the thread's lane waits for its write
  bool LaneInUse(int root, uint32_t lane) const;
  size_t ThreadsThatTrain(int root) const;  // that run its passes or write it
  bool Learning(int root) const;            // its first steps
  // The weights may be written before a step's end is seen: they are to be taken when it begins.
  bool WeightsMayMove(int root) const;
  uint64_t steps_ended(int root) const;
  bool manual(int root) const;
  bool writes_arithmetic(int root) const;
  bool trains_in_evaluation(int root) const;
  bool side_by_side(int root) const;  // threads write for themselves at the same time
  // The front end has to look whether weights move between backward and the next pass: how the loop writes is not
  // known, or its last step seemed to be skipped, or the trainer says where steps end.
  bool WatchesWeights(int root) const;
  // Another thread may be in the midst of its writes: what is read of the weights now may be torn.
  bool OthersWrite(int root, ThreadId thread) const;

  // --- Listening. `due`: the step that is open, or comes next, is wanted; `watching`: evaluation passes are.
  void SetDue(int root, uint32_t lane, bool due, bool next_due);
  void SetWatching(int root, bool watching);
  bool Watching(int root) const;
  // The root has made no step for a while: it is taken for one that never trains until it does.
  void Rest(int root);
  void EndRest(int root);
  bool Resting(int root) const;
  bool Awake(int root) const;
  // Nothing of the step that is open and waits for its write, nor of the next, is wanted, and one thread trains: the
  // front end may find that write when the next backward pass begins, and say it then. Until Stir() nobody is kept awake
  // for the root. False: the write has to be heard.
  bool Doze(int root, ThreadId thread);
  void Stir(int root);

 private:
  enum class PassState : uint8_t {
    kOpen,    // no backward has reached it
    kWalked,  // one has
    kNamed,   // its step has ended, or it is an evaluation batch: its marker is to come
  };
  static constexpr TaskId kNoTask = -1;
  struct Pass {
    PassId id = 0;
    ThreadId thread = 0;
    uint32_t lane = 0;
    PassState state = PassState::kOpen;
    bool gone = false;
    bool evaluating = false;  // begun in evaluation mode
    uint64_t step = 0;        // that was open when it began
  };
  // What one backward pass did in one lane.
  struct WalkedPass {
    PassId pass = 0;
    PassId number = 0;  // under which its layer gradients are published; 0: none are
  };
  struct Walk {
    TaskId task = 0;
    ThreadId thread = 0;
    bool accumulated = false;  // gradients came
    bool ended = false;
    bool claimed = false;      // another root's write made use of it
    bool of_evaluation = false;  // it reached evaluation passes alone
    ThreadId amid = 0;         // it had begun when this other thread's counted write came; 0: none
    bool after_clear = false;  // manual steps: of an evaluation that is not the step's first
    bool used = false;         // manual steps: the weights have moved since its gradients came
    std::vector<WalkedPass> passes;
  };
  struct Lane {
    bool used = false;
    ThreadId owner = 0;  // 0: everybody's (lane 0), or of a thread that ended and left an update open
    bool open = false;   // its step has a number
    uint64_t step = 0;
    uint64_t opened_ns = 0;
    uint64_t writes_at_open = 0;
    bool others_wrote_at_open = false;
    uint32_t trained = 0;    // passes in training mode begun in this step
    uint32_t evaluated = 0;  // passes in evaluation mode
    uint32_t fresh = 0;      // passes begun since the last backward pass that gave gradients
    bool cleared = false;    // manual steps: gradients were cleared within the step
    bool written_without_hooks = false;  // since the last pass
    bool written = false;    // since its step began, or the one before was closed
    bool late_write = false;  // an evaluation has closed its last step: a write behind that is listened for
    bool due = false;
    std::vector<Walk> walks;
    // The step that ended last, while its updates are open.
    bool closing = false;
    bool closing_late = false;      // another optimizer is to write
    bool closing_doubtful = false;  // an assignment ended it
    uint64_t closing_step = 0;
    ThreadId closing_writer = 0;
    uint64_t closing_writes = 0;  // of the root, when nobody else wrote in between
    bool closing_spanned = false;
  };
  struct ThreadPart {  // of a root
    uint32_t lane = 0;
    bool writes_itself = false;  // a write of its own ended a step that its own backward made
    bool active = false;         // a pass or backward pass of its since its last write, or since one took it over
    bool robbed = false;         // another's write ended the step of its backward pass
    bool left = false;           // another's write left its pass behind
    bool runs_passes = false;    // a pass of its was heard, ever
    bool heard = false;          // and since its last write
    bool doubted = false;        // another thread wrote while its own write was awaited
    bool writing = false;        // since its counted write it began nothing else
    bool evaluating = false;     // its last pass began in evaluation mode
    int round_first = -1;        // the parameter of its counted write
    int last_written = -1;
    int evaluation_first = -1;
    uint32_t evaluation_calls = 0;
    uint32_t unit_calls = 0;  // of the first module since the last backward pass
  };
  struct Thread {
    std::vector<TaskId> tasks;  // backward passes under way, the outermost first
    std::array<std::unique_ptr<ThreadPart>, kMaxRoots> parts;
  };
  struct Root {
    bool manual = false;
    bool arithmetic = false;   // optimizers write arithmetically here; then assignments are somebody else's
    bool accumulates = false;  // gradients came by hooks, ever
    bool seen = false;         // a counted write was
    bool heard = false;        // a pass was
    bool evaluation_trains = false;
    bool training_trains = false;    // the last step had passes in training mode
    std::vector<TaskId> evaluation_walked;  // backward passes that did so and are under way, or not yet of a step
    bool side_by_side = false;
    bool writer_apart = false;  // the last step was written by a thread that ran none of its backward
    bool runs_ahead = false;    // the last step known was made of a pass that began in the one before
    bool watching = false;
    bool next_due = false;
    bool resting = false;  // taken for one that never trains
    bool dozing = false;
    uint64_t next_step = 0;
    uint64_t ended = 0;
    uint64_t others_ended = 0;  // since its own last
    uint64_t writes = 0;        // steps that were written
    uint64_t inferred = 0;      // in a row
    uint64_t skipped = 0;       // since the last that was written
    uint64_t late_looks = 0;     // evaluations behind which late writes were listened for
    uint64_t late_batches = 0;   // in the last of them
    uint32_t without_hooks = 0;  // rounds of writes in a row whose backward gave no gradients by hooks
    uint32_t without_backward = 0;    // the same where no backward was seen: gradients that were made elsewhere
    int without_backward_first = -1;  // the parameter that such a round begins with
    PassId next_pass = 1;
    uint32_t unit = 0;  // calls of the first module between two backward passes; 0: not known
    bool unit_varies = false;
    std::vector<Lane> lanes;
    std::deque<Pass> passes;  // ascending
  };

  // All with the mutex held.
  Root& At(int root) { return roots_[static_cast<size_t>(root)]; }
  const Root& At(int root) const { return roots_[static_cast<size_t>(root)]; }
  ThreadPart& PartOf(int root, ThreadId thread);
  ThreadPart* FindPart(int root, ThreadId thread);
  const ThreadPart* FindPart(int root, ThreadId thread) const;
  static Pass* FindPass(Root& root, PassId pass);
  static const Pass* FindPass(const Root& root, PassId pass);
  PassId AddPass(Root& root, ThreadId thread, uint32_t lane, PassState state);
  static void DropPass(Root& root, PassId pass, bool only_if_gone);
  TaskId Outermost(ThreadId thread, TaskId task);
  static Walk& WalkIn(Lane& lane, ThreadId thread, TaskId task);
  static bool Accumulated(const Lane& lane);
  uint32_t LaneFor(int root, ThreadId thread);
  void MergeIntoShared(int root, uint32_t lane);
  bool OthersWriteLocked(int root, ThreadId thread, bool now) const;
  bool Open(int root, uint32_t lane, ThreadId thread, uint64_t now_ns);
  StepEnd End(int root, uint32_t lane, StepEndCause cause, ThreadId writer, TaskId except);
  static bool Forget(Root& root, Lane& lane, TaskId except);
  void Claim(int root, TaskId task);
  bool TakeClosing(int root, uint32_t lane, ThreadId closer, std::vector<StepToClose>* to_close);
  std::optional<uint32_t> LaneToEnd(int root, ThreadId thread, bool arithmetic, int parameter, bool new_gradient);
  uint32_t LaneOfItsOwn(Root& root, ThreadId thread);
  uint32_t SplitUnheard(int root, uint32_t lane, ThreadId writer);
  void NoteOtherThreads(int root, const Lane& lane, ThreadId writer);

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::vector<Root> roots_;
  std::unordered_map<ThreadId, Thread> threads_;
  ThreadId next_thread_ = 1;
};

}  // namespace ikkuna::probe
