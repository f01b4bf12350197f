#include "daemon/graph/demand.h"

#include <algorithm>
#include <functional>
#include <map>
#include <numeric>
#include <tuple>

#include "daemon/model/names.h"

namespace ikkuna::graph {

namespace {

using shm::DemandItem;

constexpr uint64_t kMarkers = KindBit(Kind::kBatchStarted) | KindBit(Kind::kBatchFinished);
constexpr uint64_t kDataKinds = ~uint64_t{0xffff};

// Everything but the kinds.
auto KeyOf(const DemandItem& item) {
  return std::tie(item.tag, item.root, item.period, item.all_modules, item.modules, item.level, item.moments);
}
bool Before(const DemandItem& a, const DemandItem& b) { return KeyOf(a) < KeyOf(b); }

void Fold(std::vector<DemandItem>& items) {
  std::sort(items.begin(), items.end(), Before);
  std::vector<DemandItem> folded;
  for (DemandItem& item : items) {
    if (!folded.empty() && KeyOf(folded.back()) == KeyOf(item)) {
      folded.back().kinds |= item.kinds;
    } else {
      folded.push_back(std::move(item));
    }
  }
  items = std::move(folded);
}

bool CoversModules(const DemandItem& wide, const DemandItem& narrow) {
  if (wide.all_modules) return true;
  if (narrow.all_modules) return false;
  for (size_t i = 0; i < narrow.modules.size(); ++i) {
    const uint64_t word = i < wide.modules.size() ? wide.modules[i] : 0;
    if ((narrow.modules[i] & ~word) != 0) return false;
  }
  return true;
}

bool SameWhere(const DemandItem& a, const DemandItem& b) {
  return a.tag == b.tag && a.root == b.root && a.period == b.period && a.all_modules == b.all_modules &&
         a.modules == b.modules;
}

// `wide` delivers every kind of its own wherever `narrow` asks. Levels differ only in one place: the budget thins
// tensors before statistics, so tensors at other periods are no stand-in for statistics.
bool StandsIn(const DemandItem& wide, const DemandItem& narrow) {
  if ((narrow.moments & ~wide.moments) != 0) return false;
  if (wide.level != narrow.level) return wide.level > narrow.level && SameWhere(wide, narrow);
  return wide.tag == narrow.tag && (wide.root == kAnyRoot || wide.root == narrow.root) &&
         narrow.period % wide.period == 0 && CoversModules(wide, narrow);
}

// Takes out kinds that another entry delivers, and entries of which nothing is left.
void Thin(std::vector<DemandItem>& items) {
  for (DemandItem& narrow : items) {
    for (const DemandItem& wide : items) {
      if (&wide != &narrow && StandsIn(wide, narrow)) narrow.kinds &= ~wide.kinds;
    }
  }
  std::erase_if(items, [](const DemandItem& item) { return item.kinds == 0; });
}

// A trainer names tags, models and modules when it first uses them, in the order of their ids. What comes of such a one
// until its name has been read, and asked for or not, is asked for where its name may be one that somebody wants.
constexpr size_t kTagsToCome = 4, kRootsToCome = 2;
constexpr uint32_t kModulesToCome = 64;

std::vector<uint64_t> Bitset(const Subscription& s, uint16_t root, const RegistryIndex& registry) {
  std::vector<uint64_t> words;
  const auto set = [&](uint32_t id) {
    if (id >= kMaxModules) return;
    if (words.size() <= id / 64) words.resize(id / 64 + 1, 0);
    words[id / 64] |= uint64_t{1} << (id % 64);
  };
  uint32_t next = 1;
  for (const auto& [id, module] : registry.modules()) {
    next = std::max(next, id + 1);
    if ((root == kAnyRoot || module.root == root) && MatchesPatterns(s.module, module.name)) set(id);
  }
  for (uint32_t id = next; id < next + kModulesToCome; ++id) set(id);
  return words;
}

// Those that match, and some that may.
std::vector<uint16_t> RootsOf(const Subscription& s, const RegistryIndex& registry) {
  if (s.root.empty()) return {kAnyRoot};
  std::vector<uint16_t> roots;
  uint16_t next = 1;
  for (const auto& [id, name] : registry.roots()) {
    next = std::max<uint16_t>(next, id + 1);
    if (MatchesPatterns(s.root, name)) roots.push_back(id);
  }
  for (size_t more = 0; more < kRootsToCome && next <= kMaxRoots; ++more) roots.push_back(next++);
  return roots;
}

std::vector<uint16_t> TagsOf(const Subscription& s, const RegistryIndex& registry) {
  if (const auto known = registry.TagId(s.tag)) return {*known};
  std::vector<uint16_t> tags;
  for (uint32_t id = registry.next_tag(); tags.size() < kTagsToCome && id < kMaxTags; ++id) {
    tags.push_back(static_cast<uint16_t>(id));
  }
  return tags;
}

void Ask(const Subscription& s, uint16_t root, uint16_t tag, const RegistryIndex& registry,
         std::vector<DemandItem>& items) {
  DemandItem item;
  item.root = root;
  item.tag = tag;
  item.period = s.subsample;
  item.level = s.definition.content == metrics::Content::kTensor ? Level::kTensor : Level::kSummary;
  // Two sets only, or kinds of one period would be spread over as many entries as there are metrics.
  const bool statistics = s.definition.content == metrics::Content::kStatistics;
  const bool cheap = item.level == Level::kSummary && (!statistics || (s.definition.moments & ~kCheapMoments) == 0);
  item.moments = cheap ? kCheapMoments : kAllMoments;
  uint64_t kinds = 0;
  for (const SubscriptionInput& input : s.inputs) {
    if (!input.is_topic()) kinds |= KindBit(input.kind);
  }
  // META kinds have no module that a filter could match.
  const uint64_t everywhere = s.module.empty() ? kinds : kinds & ~kDataKinds;
  if (everywhere != 0) {
    item.kinds = everywhere;
    items.push_back(item);
  }
  if (const uint64_t filtered = kinds & ~everywhere; filtered != 0) {
    item.modules = Bitset(s, root, registry);
    item.kinds = filtered;
    item.all_modules = false;
    items.push_back(std::move(item));
  }
}

// One widening after the other until the entries fit; the last leaves at most one entry a tag.
void Shrink(std::vector<DemandItem>& items) {
  const std::function<void(std::vector<DemandItem>&)> widenings[] = {
      [](auto& all) {
        uint64_t moments = 0;  // tensors have all of them anyway
        for (const DemandItem& item : all) moments |= item.level == Level::kSummary ? item.moments : 0;
        for (DemandItem& item : all) item.moments |= moments;
      },
      [](auto& all) {
        for (DemandItem& item : all) {
          item.all_modules = true;
          item.modules.clear();
        }
      },
      [](auto& all) {
        for (DemandItem& item : all) item.root = kAnyRoot;
      },
      [](auto& all) {
        std::map<std::pair<uint16_t, Level>, uint32_t> common;
        for (const DemandItem& item : all) {
          uint32_t& period = common[{item.tag, item.level}];
          period = std::gcd(period, item.period);
        }
        for (DemandItem& item : all) item.period = common[{item.tag, item.level}];
      },
      [](auto& all) {
        std::map<uint16_t, uint32_t> common;
        for (const DemandItem& item : all) common[item.tag] = std::gcd(common[item.tag], item.period);
        for (DemandItem& item : all) {
          item.level = Level::kTensor;
          item.moments = kAllMoments;
          item.period = common[item.tag];
        }
      },
  };
  for (const auto& widen : widenings) {
    if (items.size() <= kMaxDemandEntries) return;
    widen(items);
    Fold(items);
    Thin(items);
  }
}

}  // namespace

std::vector<DemandItem> FoldDemand(const std::vector<std::shared_ptr<SubscriberEntry>>& entries,
                                   const RegistryIndex& registry) {
  std::vector<DemandItem> items;
  for (const auto& entry : entries) {
    const Subscription& s = entry->subscription;
    const std::vector<uint16_t> roots = RootsOf(s, registry);
    for (const uint16_t tag : TagsOf(s, registry)) {
      for (const uint16_t root : roots) Ask(s, root, tag, registry, items);
    }
  }
  Fold(items);
  Thin(items);
  Shrink(items);
  for (DemandItem& item : items) item.kinds |= kMarkers;
  return items;
}

}  // namespace ikkuna::graph
