// SubscriberDraft: what one call of SubscriberSet::Add would make of the set; nobody sees anything of it before it is
// whole.
//
// Owner: the call, with the set's mutex held.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "daemon/graph/subscriber_entry.h"
#include "daemon/graph/subscriber_set.h"
#include "shared/base/result.h"

namespace ikkuna::graph {

class SubscriberDraft {
 public:
  // `owner` as in SubscriberSet::Add; new ones are numbered from `next_id` on.
  SubscriberDraft(std::vector<EntryPtr> entries, uint64_t next_id, Source source, std::string owner);

  // One more. A new one gets the number `id`, where that is not 0.
  Status Add(Subscription subscription, uint64_t id = 0);
  // Every topic that is taken is published, and not by those that wait for it.
  Status Check() const;
  // Makes it true: `entries` are those of the draft, `replaced` gets the defaults that had to go.
  SubscribeAnswer Commit(std::vector<EntryPtr>& entries, std::vector<EntryPtr>& replaced, uint64_t& next_id);

 private:
  // It stands there in the same words. True: nothing is left to do.
  bool Share(const Subscription& subscription);
  // Makes room among those of the same topic. True: what is there was wanted, nothing is left to do.
  Result<bool> Replace(const Subscription& subscription);
  Status CheckTopic(const Subscription& taker, const std::string& topic) const;

  std::vector<EntryPtr> entries_;
  uint64_t next_id_;
  const Source source_;
  const std::string owner_;
  std::vector<EntryPtr> replaced_;
  std::vector<EntryPtr> promoted_;
  std::vector<EntryPtr> failed_;
  std::vector<EntryPtr> answer_;
};

}  // namespace ikkuna::graph
