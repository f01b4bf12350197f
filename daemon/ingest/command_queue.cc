#include "daemon/ingest/command_queue.h"

#include <algorithm>

namespace ikkuna::ingest {

Result<uint64_t> CommandQueue::Push(const std::vector<shm::Command>& commands, const std::string& what) {
  std::lock_guard lock(mutex_);
  if (waiting_.size() + commands.size() > kWaitingMax) {
    return Error{ErrorCode::kResourceExhausted, std::to_string(waiting_.size()) +
                                                    " commands wait for this run already; its probe takes them as it "
                                                    "trains"};
  }
  waiting_.insert(waiting_.end(), commands.begin(), commands.end());
  pushed_ += commands.size();
  groups_.push_back({pushed_, what});
  if (groups_.size() > kNamedMax) groups_.pop_front();
  return pushed_;
}

uint64_t CommandQueue::taken() const {
  std::lock_guard lock(mutex_);
  return taken_;
}

void CommandQueue::Send(shm::CtlWriter& ctl, const shm::PubStatus& status) {
  std::lock_guard lock(mutex_);
  // The producer's word: it cannot have taken what was not sent.
  const uint64_t done = sent_ == 0 ? status.command_done : std::clamp(status.command_done, base_, base_ + sent_);
  if (sent_ != 0) taken_ = std::max(taken_, done - base_);
  while (!waiting_.empty()) {
    auto number = ctl.Push(waiting_.front(), done);
    if (!number) return;
    if (sent_ == 0) base_ = *number - 1;
    ++sent_;
    waiting_.pop_front();
  }
}

std::string CommandQueue::TakeLate(const shm::PubStatus& status) {
  const uint64_t late = status.command_late;
  if (late <= std::max(late_told_, base_) || late > base_ + sent_) return {};
  late_told_ = late;
  std::lock_guard lock(mutex_);
  for (const Group& group : groups_) {
    if (late - base_ <= group.last) return group.what;
  }
  return "a command";
}

}  // namespace ikkuna::ingest
