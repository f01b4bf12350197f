#include "daemon/monitor/core_runs.h"

#include <algorithm>
#include <charconv>
#include <iterator>
#include <set>
#include <utility>

#include "daemon/model/counted.h"
#include "daemon/model/names.h"
#include "daemon/monitor/publish_check.h"
#include "daemon/monitor/run_files.h"
#include "daemon/monitor/run_names.h"
#include "daemon/monitor/why_texts.h"
#include "shared/base/clock.h"
#include "shared/base/suggestion.h"

namespace ikkuna {
namespace {

constexpr size_t kTagBytesMax = 64;
constexpr uint32_t kPageMax = 10'000;  // entries of one answer, whoever asks for more; 0 asks for one
constexpr uint32_t kSeriesPerLook = 10'000;
constexpr size_t kSeriesLookedAtMax = 200'000;  // of one run, for Why: beyond it nobody looks for a single one

// A page says behind which entry it begins: start, attempt, rank and run_id of that.
std::string PageBehind(const RunInfo& run) {
  const RunKey& key = run.info.run_key;
  return std::to_string(run.info.start_unix_ns) + ":" + std::to_string(key.attempt) + ":" + std::to_string(key.rank) +
         ":" + key.run_id;
}

std::optional<RunInfo> ParsePage(std::string_view page) {
  RunInfo run;
  const auto take = [&](auto* number) {
    const auto [end, code] = std::from_chars(page.data(), page.data() + page.size(), *number);
    if (code != std::errc() || end == page.data() + page.size() || *end != ':') return false;
    page.remove_prefix(static_cast<size_t>(end - page.data()) + 1);
    return true;
  };
  if (!take(&run.info.start_unix_ns) || !take(&run.info.run_key.attempt) || !take(&run.info.run_key.rank)) return {};
  run.info.run_key.run_id = std::string(page);
  return run;
}

Failure BadPage(const std::string& page) {
  return {ErrorCode::kInvalidArgument, "page '" + page + "' is none that an earlier answer gave", Reason::kBadField,
          "page"};
}

bool MayChange(const Caller& caller, const RunInfo& run) {
  return caller.MayChange(run.info.uid) || IsOwnRunOf(caller, run.info);
}

Failure NotTheirs(const Caller& caller, const RunInfo& run) {
  return {ErrorCode::kPermissionDenied,
          "run " + Describe(run.info.run_key) + " is of uid " + std::to_string(run.info.uid) + ", and " + caller.name +
              " may change runs of their own only",
          Reason::kRole, caller.name};
}

std::optional<Failure> CheckTags(const std::vector<std::string>& tags) {
  for (const std::string& tag : tags) {
    const bool bad = tag.empty() || tag.size() > kTagBytesMax || std::any_of(tag.begin(), tag.end(), [](char c) {
                       return static_cast<unsigned char>(c) <= ' ' || c == ',' || c == 0x7f;
                     });
    if (bad) {
      return Failure{ErrorCode::kInvalidArgument, "tag '" + tag + "' is none: 1 to 64 bytes, without blanks and commas",
                     Reason::kBadField, "add"};
    }
  }
  return {};
}

std::optional<Failure> NoSuchKind(const std::string& pattern) {
  std::vector<std::string> names;
  for (const auto kinds : {MetaKinds(), DataKinds()}) {
    for (const Kind kind : kinds) names.emplace_back(KindName(kind));
  }
  const auto matches = [&](const std::string& name) { return MatchesPatterns(pattern, name); };
  if (std::any_of(names.begin(), names.end(), matches)) return {};
  const std::string nearest = Suggestion(pattern, names);
  return Failure{ErrorCode::kInvalidArgument, "there is no kind '" + pattern + "'" + (nearest == "." ? "" : nearest),
                 Reason::kNoSuchObject, pattern, Listed(names)};
}

}  // namespace

CoreRuns::CoreRuns(const CoreParts& parts) : parts_(parts), start_unix_ns_(UnixNs()) {
  if (!parts.staging_directory.empty()) ClearStaging(parts.staging_directory);
}

Answer<RunPage> CoreRuns::ListRuns(const RunQuery& query) {
  std::optional<RunInfo> behind;
  if (!query.page.empty()) {
    behind = ParsePage(query.page);
    if (!behind) return BadPage(query.page);
  }
  std::vector<RunInfo> runs;
  if (query.run.empty()) {
    Result<std::vector<RunInfo>> all = parts_.recorded->ListRuns();
    if (!all) return all.error();
    runs = *std::move(all);
    std::erase_if(runs, [](const RunInfo& run) { return IsDaemonRun(run.info.run_key); });
  } else {
    Answer<std::vector<RunInfo>> found = FindRun(*parts_.recorded, query.run);
    if (!found) return found.failure();
    runs = *std::move(found);
  }
  std::erase_if(runs, [&](const RunInfo& run) {
    if (behind && !ComesBefore(*behind, run)) return true;
    if (!query.states.empty() && std::find(query.states.begin(), query.states.end(), run.state) == query.states.end()) {
      return true;
    }
    return !std::all_of(query.tags.begin(), query.tags.end(), [&](const std::string& tag) {
      return std::find(run.tags.begin(), run.tags.end(), tag) != run.tags.end();
    });
  });
  std::sort(runs.begin(), runs.end(), ComesBefore);
  RunPage page;
  const size_t limit = std::clamp<uint32_t>(query.limit, 1, kPageMax);
  if (runs.size() > limit) {
    runs.resize(limit);
    page.next = PageBehind(runs.back());
  }
  page.runs = std::move(runs);
  return page;
}

Answer<std::vector<RunInfo>> CoreRuns::FindRuns(const RunChoice& choice) {
  Answer<std::vector<RunInfo>> runs = FindRun(*parts_.recorded, choice.run);
  if (!runs) return runs;
  return Narrow(*std::move(runs), choice.attempt, choice.rank);
}

Answer<std::vector<RunInfo>> CoreRuns::OfLastAttempt(const RunChoice& choice) const {
  Answer<std::vector<RunInfo>> runs = FindRun(*parts_.recorded, choice.run);
  if (!runs) return runs;
  const uint32_t attempt = choice.attempt.value_or(runs->front().info.run_key.attempt);
  return Narrow(*std::move(runs), attempt, choice.rank);
}

Answer<std::vector<ModuleInfo>> CoreRuns::ModulesOf(const RunKey& run) const {
  if (auto modules = parts_.ingest->Modules(run)) return *std::move(modules);
  return parts_.recorded->ListModules(run);
}

CoreRuns::Known CoreRuns::KnownOf(const ProducerInfo& run) const {
  Known known;
  known.asked = AskedOf(parts_.subscribers->Snapshot(), run);
  return known;
}

Answer<std::vector<ProducerStatus>> CoreRuns::KnownProducers() const {
  std::vector<ProducerStatus> producers = parts_.ingest->Producers();
  Result<std::vector<ProducerStatus>> stored = parts_.runs->LoadProducers();
  if (!stored) return stored.error();
  producers.insert(producers.end(), std::make_move_iterator(stored->begin()), std::make_move_iterator(stored->end()));
  return producers;
}

Answer<ModulePage> CoreRuns::ListModules(const ModuleQuery& query) {
  size_t first = 0;
  if (!query.page.empty()) {
    const char* end = query.page.data() + query.page.size();
    const auto [stop, code] = std::from_chars(query.page.data(), end, first);
    if (code != std::errc() || stop != end) return BadPage(query.page);
  }
  Answer<std::vector<RunInfo>> runs = OfLastAttempt(query.run);
  if (!runs) return runs.failure();
  ModulePage page;
  page.run = runs->front().info.run_key;
  Answer<std::vector<ModuleInfo>> modules = ModulesOf(page.run);
  if (!modules) return modules.failure();
  // The place of one in the model is the page: modules are only ever added behind the others.
  const size_t limit = std::clamp<uint32_t>(query.limit, 1, kPageMax);
  for (size_t i = first; i < modules->size(); ++i) {
    if (!MatchesPatterns(query.module, (*modules)[i].name)) continue;
    if (page.modules.size() >= limit) {
      page.next = std::to_string(i);
      break;
    }
    page.modules.push_back(std::move((*modules)[i]));
  }
  return page;
}

Answer<WhyAnswer> CoreRuns::Why(const WhyQuery& query) {
  Answer<std::vector<RunInfo>> runs = OfLastAttempt(query.run);
  if (!runs) return runs.failure();
  if (std::optional<Failure> none = NoSuchKind(query.kind)) return *std::move(none);
  if (std::optional<Failure> none = NoSuchModule(*runs, query.module)) return *std::move(none);
  const bool paused = parts_.store.show && parts_.store.show().paused;
  const Answer<std::vector<ProducerStatus>> producers = KnownProducers();  // once for all ranks
  if (!producers) return producers.failure();
  WhyAnswer answer;
  for (const RunInfo& run : *runs) {
    const RunKey& key = run.info.run_key;
    if (key.rank == kAllRanks) continue;
    WhyInput input;
    Known known = KnownOf(run.info);
    input.asked = std::move(known.asked);
    input.asked_known = known.asked_known;
    input.status.info = run.info;
    input.status.state = run.state;
    input.unrecorded = run.unrecorded;
    input.paused = paused;
    for (const ProducerStatus& status : *producers) {
      if (status.info.run_key != key) continue;
      input.status = status;
      break;
    }
    // It was over when this daemon began: who asks now never asked anything of it.
    if (!IsOpen(input.status.state) && run.last_unix_ns < start_unix_ns_) input.asked.clear();
    if (Answer<std::vector<ModuleInfo>> modules = ModulesOf(key)) input.modules = *std::move(modules);
    SeriesQuery series;
    series.filter.run = key.run_id;
    series.filter.run_is_id = true;
    series.filter.attempt = key.attempt;
    series.filter.rank = key.rank;
    series.limit = kSeriesPerLook;
    EventQuery published;
    published.filter = series.filter;
    published.kind = kPublished;
    published.limit = UINT32_MAX;
    if (Result<EventList> events = parts_.recorded->ListEvents(published)) {
      for (const Event& event : *events) {
        if (auto one = ParsePublished(event)) input.topics_of_clients.insert(std::move(one->second));
      }
    }
    do {
      Result<SeriesPage> page = parts_.recorded->ListSeries(series);
      if (!page) return page.error();
      input.series.insert(input.series.end(), page->series.begin(), page->series.end());
      series.page = page->next;
    } while (!series.page.empty() && input.series.size() < kSeriesLookedAtMax);
    input.series_cut = !series.page.empty();
    for (WhyLine& line : ExplainMissing(input, query.module, query.kind)) {
      if (answer.missing.size() >= WhyAnswer::kMissingMax) {
        answer.more = true;
        return answer;
      }
      answer.missing.push_back({key, std::move(line)});
    }
  }
  return answer;
}

// Where a name is none of the run's, nothing of it is missing: it was mistyped.
std::optional<Failure> CoreRuns::NoSuchModule(const std::vector<RunInfo>& runs, const std::string& pattern) const {
  if (pattern.empty()) return {};
  std::set<std::string> names;
  for (const RunInfo& run : runs) {
    Answer<std::vector<ModuleInfo>> modules = ModulesOf(run.info.run_key);
    if (!modules) return {};
    for (const ModuleInfo& module : *modules) names.insert(module.name);
  }
  const auto matches = [&](const std::string& name) { return MatchesPatterns(pattern, name); };
  if (names.empty() || std::any_of(names.begin(), names.end(), matches)) return {};
  return Failure{ErrorCode::kInvalidArgument,
                 "run '" + runs.front().info.run + "' has no module '" + pattern + "'" +
                     Suggestion(pattern, std::vector<std::string>(names.begin(), names.end())),
                 Reason::kNoSuchObject, pattern};
}

Answer<DeletedRuns> CoreRuns::DeleteRun(const Caller& caller, const RunChoice& choice) {
  Answer<std::vector<RunInfo>> runs = FindRunForSure(*parts_.recorded, choice.run);
  if (runs) runs = Narrow(*std::move(runs), choice.attempt, choice.rank);
  if (!runs) return runs.failure();
  for (const RunInfo& run : *runs) {
    if (!MayChange(caller, run)) return NotTheirs(caller, run);
    if (IsOpen(run.state)) {
      return Failure{ErrorCode::kFailedPrecondition,
                     "run " + Describe(run.info.run_key) + " goes on; it can be deleted when it has ended",
                     Reason::kRunOpen, run.info.run_key.run_id};
    }
  }
  DeletedRuns deleted;
  for (const RunInfo& run : *runs) {
    if (Status removed = parts_.store.remove(run.info.run_key); !removed) {
      std::string text = removed.error().text;
      if (!deleted.runs.empty()) {
        text += "; " + std::to_string(deleted.runs.size()) + " of its files " +
                (deleted.runs.size() == 1 ? "is" : "are") + " gone already";
      }
      return Failure{removed.error().code, std::move(text),
                     removed.error().code == ErrorCode::kFailedPrecondition ? Reason::kRunOpen : Reason::kStore,
                     run.info.run_key.run_id};
    }
    deleted.runs.push_back(run.info.run_key);
    deleted.bytes += run.bytes;
  }
  parts_.ingest->OfferEvent(Severity::kInfo, "run_deleted",
                            caller.name + " deleted run '" + runs->front().info.run_key.run_id + "' (" +
                                Counted(deleted.runs.size(), "file") + ").");
  return deleted;
}

Answer<RunTags> CoreRuns::TagRun(const Caller& caller, const std::string& run, const std::vector<std::string>& add,
                                 const std::vector<std::string>& remove) {
  if (std::optional<Failure> bad = CheckTags(add)) return *std::move(bad);
  Answer<std::vector<RunInfo>> runs = FindRun(*parts_.recorded, run);
  if (!runs) return runs.failure();
  for (const RunInfo& one : *runs) {
    if (!MayChange(caller, one)) return NotTheirs(caller, one);
  }
  RunTags tags;
  tags.run_id = runs->front().info.run_key.run_id;
  for (const RunInfo& one : *runs) {
    if (add.empty() && remove.empty()) break;
    if (Status tagged = parts_.store.tag(one.info.run_key, add, remove); !tagged) return tagged.error();
  }
  Answer<std::vector<RunInfo>> now = FindRun(*parts_.recorded, tags.run_id);
  if (!now) return now.failure();
  for (const RunInfo& one : *now) {
    for (const std::string& tag : one.tags) {
      if (std::find(tags.tags.begin(), tags.tags.end(), tag) == tags.tags.end()) tags.tags.push_back(tag);
    }
  }
  std::sort(tags.tags.begin(), tags.tags.end());
  return tags;
}

Answer<std::unique_ptr<RunFiles>> CoreRuns::ExportRun(const RunChoice& choice) {
  Answer<std::vector<RunInfo>> runs = FindRuns(choice);
  if (!runs) return runs.failure();
  std::vector<RunKey> keys;
  for (const RunInfo& run : *runs) keys.push_back(run.info.run_key);
  return std::unique_ptr<RunFiles>(std::make_unique<StagedRunFiles>(parts_, std::move(keys)));
}

Answer<std::unique_ptr<RunImport>> CoreRuns::ImportRun(const Caller& caller) {
  if (caller.role != Role::kControl) {
    return Failure{ErrorCode::kPermissionDenied,
                   "a run's file is taken only from who has the role control, which " + caller.name + " has not",
                   Reason::kRole, caller.name};
  }
  Result<std::unique_ptr<StagedRunImport>> import = StagedRunImport::Begin(parts_);
  if (!import) return import.error();
  return std::unique_ptr<RunImport>(*std::move(import));
}

}  // namespace ikkuna
