// What the subscribers of a graph ask of its producer, folded into the fewest demand entries.
//
// Thread rule: none, no state.
#pragma once

#include <memory>
#include <vector>

#include "daemon/graph/registry_index.h"
#include "daemon/graph/subscriber_entry.h"
#include "shared/ctl.h"

namespace ikkuna::graph {

// Sorted. Kinds of one (root, tag, period, modules) are asked once, as tensors if any subscriber needs them so; kinds
// that another entry of the same level delivers at all these steps are left out. Every entry holds batch_started and
// batch_finished. Some of the tags, roots and modules that will be named next are asked for where a subscriber may mean
// them. Above kMaxDemandEntries entries are widened (moments, then modules, roots, periods, level): more
// arrives than was asked, and the graph drops it.
std::vector<shm::DemandItem> FoldDemand(const std::vector<std::shared_ptr<SubscriberEntry>>& entries,
                                        const RegistryIndex& registry);

}  // namespace ikkuna::graph
