#include "daemon/graph/frame.h"

#include <exception>
#include <utility>

namespace ikkuna::graph {

using metrics::Content;

void Frame::Open(std::shared_ptr<Plan> with, Scene* of, const shm::Record& started) {
  plan = std::move(with);
  scene = of;
  root = started.root;
  tag = started.tag;
  step = started.global_step;
  whole = true;
  first_seq = last_seq = started.seq;
  dropped_before = started.dropped_total;
  if (scene == nullptr) return;
  if (!scene->idle_gatherings.empty()) {
    gathering = std::move(scene->idle_gatherings.back());
    scene->idle_gatherings.pop_back();
  } else {
    gathering = std::make_unique<Gathering>();
    gathering->groups.resize(scene->users.size());
  }
  nodes.resize(scene->nodes.size());
  for (size_t i = 0; i < nodes.size(); ++i) {
    const bool due = step % scene->nodes[i].subscription().subsample == 0 && !scene->nodes[i].entry->ended();
    nodes[i].work = due ? NodeState::Work::kWaits : NodeState::Work::kNone;
  }
  for (size_t k = 0; k < scene->users.size(); ++k) {
    GroupState& state = gathering->groups[k];
    state.due = state.merges = state.each_stats = false;
    for (const Scene::User& user : scene->users[k].merged) {
      state.merges |= nodes[user.node].work == NodeState::Work::kWaits;
    }
    for (const Scene::User& user : scene->users[k].each) {
      if (nodes[user.node].work != NodeState::Work::kWaits) continue;
      state.due = true;
      state.each_stats |= scene->nodes[user.node].definition().content == Content::kStatistics;
    }
    state.due |= state.merges;
  }
}

void Frame::ReleaseGathering() {
  if (!gathering) return;
  for (GroupState& group : gathering->groups) {
    for (const uint32_t ordinal : group.touched) group.slots[ordinal] = {};
    group.touched.clear();
  }
  // As many as steps may be open.
  if (scene->idle_gatherings.size() < 4) scene->idle_gatherings.push_back(std::move(gathering));
  gathering.reset();
}

void Frame::Clear(const std::function<void(SubscriberEntry&, const std::string&)>& failed) {
  ReleaseGathering();
  for (size_t i = 0; i < nodes.size(); ++i) {
    NodeState& state = nodes[i];
    for (FedInstance& instance : state.instances) {
      state.instance_of[instance.key] = 0;
      if (instance.subscriber && !scene->nodes[i].entry->ended()) {
        try {
          scene->nodes[i].instances->Rest(std::move(instance.subscriber));
        } catch (const std::exception& error) {
          failed(*scene->nodes[i].entry, error.what());
        } catch (...) {
          failed(*scene->nodes[i].entry, "something that is no std::exception");
        }
      }
    }
    state.instances.clear();
    state.kept.clear();
    state.last_of.clear();
    state.values.clear();
    state.origins.clear();
    state.results.reset();
    state.partial = false;
    state.unnamed = 0;
    state.work = NodeState::Work::kNone;
  }
}

}  // namespace ikkuna::graph
