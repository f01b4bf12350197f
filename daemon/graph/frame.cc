#include "daemon/graph/frame.h"

#include <algorithm>
#include <utility>

#include "daemon/graph/open_passes.h"
#include "shared/base/clock.h"

namespace ikkuna::graph {

namespace {

// What is true of the step as a whole, whenever its messages were published.
constexpr uint16_t kStepFlags = kFlagStepInferred | kFlagStepSkipped;

// What a write shows of gradients that were taken before it: the loop had changed them by then.
constexpr uint64_t kGradientKinds = KindBit(Kind::kWeightGradients) | KindBit(Kind::kBiasGradients);

// What passes bring.
constexpr uint64_t kPassKinds = [] {
  uint64_t kinds = 0;
  for (uint8_t code = 1; code < 64; ++code) {
    if (IsPerCallKind(static_cast<Kind>(code))) kinds |= KindBit(static_cast<Kind>(code));
  }
  return kinds;
}();

}  // namespace

void Frame::Open(std::shared_ptr<Plan> with, Scene* of, const shm::Record& started) {
  root = started.root;
  tag = started.tag;
  step = started.global_step;
  whole = true;
  first_seq = last_seq = held_seq = started.seq;
  dropped_before = lost_since = started.dropped_total;
  records = 1;
  passed_by = 0;
  passes = 0;
  lacks_passes = false;
  contents.Open(std::move(with), of, step);
  if (of == nullptr) return;
  nodes.resize(of->nodes.size());
  for (size_t i = 0; i < nodes.size(); ++i) {
    nodes[i].work = contents.feeds[i].due ? NodeState::Work::kWaits : NodeState::Work::kNone;
  }
}

void Frame::AddPass(GraphContext& context, Pass* pass) {
  ++passes;
  if (pass == nullptr) {
    lacks_passes = true;
    return;
  }
  lost_since = std::min(lost_since, pass->dropped_before);
  held_seq = std::min(held_seq, pass->first_seq);
  records += 1 + pass->messages;
  if (scene() == nullptr) return;
  if (scene() != pass->contents.scene) {
    lacks_passes = true;  // other subscribers looked at it
    context.Count(MissReason::kNoStep, pass->messages);
  } else {
    contents.Merge(context, pass->contents);
  }
}

void Frame::Close(const shm::Record& finished, uint64_t with_id) {
  id = with_id;
  const bool marker = finished.type == static_cast<uint8_t>(RecordType::kMarker);
  if (marker && finished.marker.passes != passes) lacks_passes = true;  // a marker that named some was dropped
  // What the marker says, also of what was never tried. A producer that does not say which kinds it dropped may have
  // dropped any; one that does may have dropped of another root, or of an evaluation beside this step.
  dropped_kinds = marker ? finished.marker.dropped_kinds : 0;
  const bool known = marker && (finished.marker.flags & shm::kMarkerKindsKnown) != 0;
  if (!known && dropped_kinds == 0 && finished.dropped_total != lost_since) dropped_kinds = ~uint64_t{0};
  if (lacks_passes) dropped_kinds |= kPassKinds;
  complete = dropped_kinds == 0;
  // Added to a monotonic time it gives unix time. Unsigned: a peer's time may be anything.
  const uint64_t unix_offset = static_cast<uint64_t>(UnixNs()) - MonotonicNs();
  stamp = {};
  stamp.timeline = scene() == nullptr ? 0 : scene()->memory->timeline;
  stamp.step = step;
  stamp.epoch = finished.epoch;
  stamp.unix_ns = static_cast<int64_t>(finished.time_ns + unix_offset);
  stamp.samples_seen = marker ? finished.marker.samples : 0;
  stamp.flags = finished.flags & kStepFlags;
  if (scene() != nullptr && (finished.flags & kFlagGradModified) != 0) {
    contents.Flag(kGradientKinds, kFlagGradModified);
  }
}

void Frame::Clear(GraphContext& context) {
  contents.Clear(context);
  for (NodeState& state : nodes) {
    state.values.clear();
    state.origins.clear();
    state.results.reset();
    state.partial = state.unasked = false;
    state.work = NodeState::Work::kNone;
  }
}

}  // namespace ikkuna::graph
