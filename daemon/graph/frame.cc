#include "daemon/graph/frame.h"

#include <utility>

namespace ikkuna::graph {

void Frame::Open(std::shared_ptr<Plan> with, Scene* of, const shm::Record& started) {
  root = started.root;
  tag = started.tag;
  step = started.global_step;
  whole = true;
  first_seq = last_seq = started.seq;
  dropped_before = started.dropped_total;
  passes = 0;
  lacks_passes = false;
  contents.Open(std::move(with), of, step);
  if (of == nullptr) return;
  nodes.resize(of->nodes.size());
  for (size_t i = 0; i < nodes.size(); ++i) {
    nodes[i].work = contents.feeds[i].due ? NodeState::Work::kWaits : NodeState::Work::kNone;
  }
}

void Frame::Clear(GraphContext& context) {
  contents.Clear(context);
  for (NodeState& state : nodes) {
    state.values.clear();
    state.origins.clear();
    state.results.reset();
    state.partial = false;
    state.work = NodeState::Work::kNone;
  }
}

}  // namespace ikkuna::graph
