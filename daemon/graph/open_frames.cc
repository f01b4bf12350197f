#include "daemon/graph/open_frames.h"

#include <algorithm>
#include <utility>

namespace ikkuna::graph {

size_t OpenFrames::IndexOf(const shm::Record& record) const {
  for (size_t i = frames_.size(); i-- > 0;) {
    const Frame& frame = *frames_[i];
    if (frame.step == record.global_step && frame.root == record.root && frame.tag == record.tag) return i;
  }
  return frames_.size();
}

Frame* OpenFrames::Find(const shm::Record& record) const {
  const size_t i = IndexOf(record);
  return i == frames_.size() ? nullptr : frames_[i].get();
}

Frame& OpenFrames::Append(std::unique_ptr<Frame> frame) {
  frame->touched_ns = now_ns_;
  frames_.push_back(std::move(frame));
  Frame& fresh = *frames_.back();
  const auto same_root = [&](const std::unique_ptr<Frame>& open) { return open->root == fresh.root; };
  if (static_cast<size_t>(std::count_if(frames_.begin(), frames_.end(), same_root)) > kMaxOpenFrames) {
    Drop(static_cast<size_t>(std::find_if(frames_.begin(), frames_.end(), same_root) - frames_.begin()), true);
  }
  return fresh;
}

Frame& OpenFrames::OpenHeadless(const shm::Record& record) {
  auto frame = std::make_unique<Frame>();
  frame->root = record.root;
  frame->tag = record.tag;
  frame->step = record.global_step;
  frame->first_seq = frame->last_seq = frame->held_seq = record.seq;
  return Append(std::move(frame));
}

void OpenFrames::Touch(Frame& frame, uint64_t seq) const {
  frame.last_seq = std::max(frame.last_seq, seq);
  frame.touched_ns = now_ns_;
  frame.passed_by = 0;
}

std::unique_ptr<Frame> OpenFrames::Take(const shm::Record& finished) {
  const size_t i = IndexOf(finished);
  if (i == frames_.size()) {
    context_.Count(MissReason::kDiscarded, 1);  // neither beginning nor content was seen
    return nullptr;
  }
  if (!frames_[i]->whole) {
    Drop(i, true);
    return nullptr;
  }
  std::unique_ptr<Frame> frame = std::move(frames_[i]);
  frames_.erase(frames_.begin() + static_cast<std::ptrdiff_t>(i));
  return frame;
}

void OpenFrames::Discard(const shm::Record& started) {
  if (const size_t i = IndexOf(started); i != frames_.size()) Drop(i, true);
}

void OpenFrames::DiscardStragglers(const shm::Record& finished, uint64_t began) {
  for (size_t i = frames_.size(); i-- > 0;) {
    Frame& frame = *frames_[i];
    if (frame.root != finished.root || frame.last_seq >= began) continue;
    const bool evaluation = frame.tag != kTagDefault && finished.tag == kTagDefault;
    if (!evaluation && (frame.tag != finished.tag || frame.step >= finished.global_step)) continue;
    const bool may_stand = evaluation && ++frame.passed_by <= kPassedByMax;
    const bool lost = !may_stand && frame.dropped_before != finished.dropped_total;
    const bool behind = !evaluation && finished.global_step - frame.step > kStepsBehindMax;
    if (lost || !frame.whole || behind) Drop(i, true);
  }
}

void OpenFrames::Tick(uint64_t monotonic_ns) {
  now_ns_ = monotonic_ns;
  for (size_t i = frames_.size(); i-- > 0;) {
    Frame& frame = *frames_[i];
    if (frame.touched_ns == 0) frame.touched_ns = now_ns_;
    if (now_ns_ < frame.touched_ns || now_ns_ - frame.touched_ns < kSilentNs) continue;
    if (frame.whole) context_.Count(MissReason::kSilent, 1);
    Drop(i, !frame.whole);
  }
}

void OpenFrames::DropAll() {
  while (!frames_.empty()) Drop(0, true);
}

uint64_t OpenFrames::done_seq() const {
  uint64_t done = UINT64_MAX;
  for (const auto& frame : frames_) {
    if (frame->whole) done = std::min(done, frame->held_seq - 1);
  }
  return done;
}

uint64_t OpenFrames::held() const {
  uint64_t held = 0;
  for (const auto& frame : frames_) held += frame->whole ? frame->records : 0;
  return held;
}

void OpenFrames::Drop(size_t i, bool count) {
  // Where a daemon reads some records once more it finds the rest of steps that were closed, and counted, before: none
  // of them goes on after those.
  const bool counted = !frames_[i]->whole && frames_[i]->last_seq <= context_.run->counted_until();
  if (count && !counted) context_.Count(MissReason::kDiscarded, 1);
  std::unique_ptr<Frame> frame = std::move(frames_[i]);
  frames_.erase(frames_.begin() + static_cast<std::ptrdiff_t>(i));
  recycle_(std::move(frame));
}

}  // namespace ikkuna::graph
