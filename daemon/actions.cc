#include "daemon/actions.h"

#include <pthread.h>

#include <algorithm>
#include <exception>
#include <utility>

#include "shared/base/clock.h"

namespace ikkuna {

Actions::Actions(Act act, std::function<void(Event)> tell)
    : act_(std::move(act)), tell_(std::move(tell)), thread_([this] { Run(); }) {}

void Actions::End() {
  if (!thread_.joinable()) return;
  {
    std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wakes_.notify_one();
  thread_.join();
}

void Actions::Take(const RunKey& run, const Event& event, const Action& action) {
  Wanted wanted{run, action, event.kind, event.step};
  {
    std::lock_guard lock(mutex_);
    if (ending_) return;
    const bool known = std::any_of(waiting_.begin(), waiting_.end(), [&](const Wanted& one) {
      return one.run.run_id == run.run_id && one.run.attempt == run.attempt && one.action == action;
    });
    if (known) return;
    if (waiting_.size() < kWaitingMax) {
      waiting_.push_back(std::move(wanted));
      wakes_.notify_one();
      return;
    }
  }
  Tell(Severity::kWarning, wanted, "is not done: " + std::to_string(kWaitingMax) + " others wait for theirs");
}

void Actions::Run() {
  ::pthread_setname_np(::pthread_self(), "ikkuna-actions");
  std::unique_lock lock(mutex_);
  while (true) {
    wakes_.wait(lock, [this] { return ending_ || !waiting_.empty(); });
    if (ending_) return;
    const Wanted wanted = waiting_.front();
    lock.unlock();
    try {
      auto done = act_(wanted.run, wanted.action);
      if (done) {
        Tell(Severity::kInfo, wanted, ": " + *done);
      } else {
        Tell(Severity::kWarning, wanted, "is not done: " + done.error().text);
      }
    } catch (const std::exception& error) {
      Tell(Severity::kError, wanted, std::string("failed: ") + error.what());
    }
    lock.lock();
    waiting_.pop_front();
  }
}

void Actions::Tell(Severity severity, const Wanted& wanted, const std::string& text) const {
  Event event;
  event.unix_ns = UnixNs();
  event.severity = severity;
  event.run = wanted.run;
  event.kind = "action";
  event.step = wanted.step;
  event.text = std::string(ActionTypeName(wanted.action.type)) + ", for which " + wanted.why + " asked" +
               (text.front() == ':' ? "" : ", ") + text;
  tell_(std::move(event));
}

}  // namespace ikkuna
