// Intake: one message on its way into what its step or its pass has brought: merged, handed to those that read it at
// once, kept for those that read it later.
//
// Owner: the graph, on its one thread. The bytes of a message are not touched after Take() returns.
#pragma once

#include <memory>

#include "daemon/graph/contents.h"
#include "daemon/graph/graph_context.h"
#include "shared/pub.h"

namespace ikkuna::graph {

struct TopicValue;  // frame.h

class Intake {
 public:
  explicit Intake(GraphContext& context) : context_(context) {}

  // A message between the markers.
  void Take(Contents& contents, const shm::Message& message);
  // A value of a topic, for a subscriber that is fed (Feeding::kAtOnce), when the step has closed.
  void Feed(Contents& contents, uint32_t node, uint32_t input, const TopicValue& value);

 private:
  // The message under way, as several subscribers may want it.
  struct Offer {
    const shm::Message& message;
    const Slot* slot = nullptr;
    uint32_t ordinal = 0;
    bool wide = false;
    const TensorStats* stats = nullptr;  // null: it has none
    std::shared_ptr<const KeptPayload> copy = nullptr;
    bool copied = false;  // or refused
  };

  void Unnamed(Contents& contents, Kind kind);
  void Merge(GroupState& state, const Offer& offer);
  void Hand(Contents& contents, const Scene::User& user, const Offer& offer);
  void Keep(Contents& contents, const Scene::User& user, Offer& offer);
  void KeepContent(const SceneNode& node, Offer& offer, KeptInput& kept);
  FedInstance* InstanceOf(Contents& contents, uint32_t node, const Slot& slot, uint32_t series_key);
  void Call(Contents& contents, uint32_t node, FedInstance& instance, const metrics::Input& input,
            const metrics::Payload* payload);

  GraphContext& context_;
};

}  // namespace ikkuna::graph
