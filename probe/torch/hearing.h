// Hearing: when operators have to be heard, so that the callback in LibTorch's dispatcher is on.
//
// It costs something for each operator, so it is on while a step is due, or its write has to be heard (StepEnds::Doze), for
// as long as nobody knows how a loop trains, and now and then where steps have stopped to be seen. Thread rule: any
// thread; Watchdog() is the service thread's.
#pragma once

#include <atomic>
#include <cstdint>

#include "probe/torch/operator_callback.h"
#include "probe/torch/threads.h"
#include "probe/torch/watch.h"

namespace ikkuna::torch_probe {

class Hearing {
 public:
  explicit Hearing(Watch& watch)
      : session_(watch.session),
        tracker_(watch.tracker),
        roots_(watch.roots),
        subscribers_(watch.subscribers),
        start_step_(watch.options.start_step) {
    watch.roots.SetPauses([this] { return callback_.pauses(); });
  }

  OperatorCallback& callback() { return callback_; }
  // What is known of the model has changed.
  void Listen(int model);
  // Whether evaluations of the model are asked for, by the daemon's demand or within this process.
  void WatchEvaluation(const WatchedModel& model, const probe::Session::DemandCopy& demand);
  // Of a layer, which ends what the watchdog began.
  void LayerHeard();
  // A thread has begun to run layers of the model (+1), or has ended (-1).
  static void LayerThread(WatchedModel& model, int change);
  // No thread but this one runs layers of any model: it may sleep during backward.
  bool RunsAllLayers(const ThreadState& thread) const;
  // From time to time.
  void Watchdog();

 private:
  probe::Session& session_;
  probe::StepTracker& tracker_;
  const Roots& roots_;
  const LocalSubscribers& subscribers_;
  const uint64_t start_step_;
  OperatorCallback callback_;
  std::atomic<bool> awake_{false};  // the watchdog listens
  uint64_t since_ns_ = 0;  // service thread: it listens since; or, while it does not, it may again from then on
  uint64_t pause_ns_ = 0;  // service thread
  probe::Session::DemandCopy demand_;  // service thread
};

}  // namespace ikkuna::torch_probe
