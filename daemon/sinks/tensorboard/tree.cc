#include "daemon/sinks/tensorboard/tree.h"

#include <unistd.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "daemon/model/names.h"
#include "daemon/sinks/tensorboard/values.h"
#include "shared/base/clock.h"

namespace ikkuna::sinks {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kRetryAfter{1};
constexpr size_t kBytesQueuedMax = 1 << 20;  // a file's memory between two flushes
constexpr size_t kEventBytesMax = 64 << 20;  // far below what a message may have; a step's numbers are one or two
constexpr size_t kNumberBytes = 16;          // of a value, beside its name

constexpr std::string_view kDisk = "disk";

int64_t StepOf(const StepStamp& stamp) { return static_cast<int64_t>(stamp.step); }

}  // namespace

TensorBoardTree::Source& TensorBoardTree::SourceOf(const Batch& batch) {
  Source& source = sources_[batch.run.get()];
  // An address may be that of a run that is gone.
  if (source.run.lock() != batch.run) {
    for (const auto& [tag, leaf] : source.leaves) --leaf->runs;
    source = Source{};
    source.run = batch.run;
  }
  if (auto info = batch.run->info(); info != source.info) {
    source.facts_due = source.facts_due || !source.info || info->facts != source.info->facts;
    source.info = std::move(info);
  }
  return source;
}

bool TensorBoardTree::Begin(Source& source) {
  if (!source.folder.empty()) return true;
  const ProducerInfo& info = *source.info;
  Result<std::string> folder = folders_.OfRun(info);
  if (!folder) {
    Failed(folder.error());
    return false;
  }
  source.rank_folder = TensorBoardFolders::OfRank(*folder, info.run_key.rank);
  if (info.continues) {
    // Also where this attempt has nothing to say yet: what it overtook would stand beside its line.
    for (const std::string& directory : TensorBoardFolders::TagFolders(source.rank_folder)) {
      Leaf& leaf = *LeafAt(directory);
      if (leaf.attempt < info.run_key.attempt && !EnsureFile(source, leaf)) return false;
    }
  }
  source.folder = *std::move(folder);
  return true;
}

TensorBoardTree::Leaf* TensorBoardTree::LeafAt(const std::string& directory) {
  const auto [leaf, fresh] = leaves_.try_emplace(directory, directory);
  if (fresh) leaf->second.names.Load();
  return &leaf->second;
}

TensorBoardTree::Leaf* TensorBoardTree::LeafOf(Source& source, const std::string& tag) {
  if (const auto known = source.leaves.find(tag); known != source.leaves.end()) return known->second;
  Result<std::string> directory = folders_.OfTag(source.rank_folder, tag);
  if (!directory) {
    Failed(directory.error());
    return nullptr;
  }
  Leaf* leaf = LeafAt(*directory);
  ++leaf->runs;
  source.leaves.emplace(tag, leaf);
  return leaf;
}

bool TensorBoardTree::EnsureFile(Source& source, Leaf& leaf) {
  leaf.last_use = ++uses_;
  const ProducerInfo& info = *source.info;
  const bool newer = info.continues && info.run_key.attempt > leaf.attempt;
  if (leaf.file && !newer && !leaf.file->suspended() && !leaf.file->torn()) return true;
  if (leaf.file && !leaf.file->suspended()) {
    FlushLeaf(leaf);
    leaf.file->Suspend();
    --files_open_;
  }
  if (files_open_ >= kFilesOpenMax) SuspendOldest();
  // A file that somebody took away is followed by a new one.
  if (!leaf.file || newer || leaf.file->torn() || !leaf.file->Resume()) {
    NewEventFile wanted;
    wanted.directory = leaf.directory;
    wanted.unix_ns = UnixNs();
    wanted.attempt = info.run_key.attempt;
    wanted.uuid = info.uuid;
    // A straggler of an earlier attempt begins nothing.
    if (info.run_key.attempt >= leaf.attempt)
      wanted.start_step = static_cast<int64_t>(std::min<uint64_t>(info.start_step, INT64_MAX));
    Result<std::unique_ptr<EventFile>> file = EventFile::Create(wanted);
    if (!file) {
      Failed(file.error());
      leaf.file = nullptr;
      vanished_ = vanished_ || access(leaf.directory.c_str(), F_OK) != 0;
      return false;
    }
    leaf.file = *std::move(file);
    space_.Add(leaf.file->bytes_written());
    if (newer) {
      leaf.attempt = info.run_key.attempt;
      leaf.overtaken_from = info.start_step;
    }
  }
  ++files_open_;
  return true;
}

void TensorBoardTree::SuspendOldest() {
  Leaf* oldest = nullptr;
  for (auto& [directory, leaf] : leaves_) {
    if (!leaf.file || leaf.file->suspended() || (oldest && leaf.last_use >= oldest->last_use)) continue;
    oldest = &leaf;
  }
  if (!oldest) return;
  FlushLeaf(*oldest);
  oldest->file->Suspend();
  --files_open_;
}

bool TensorBoardTree::Locate(Source& source, Place& place, const Series& series) {
  if (!MatchesPatterns(options_.topics, series.name.topic)) {
    place.verdict = Verdict::kLeftOut;
    return true;
  }
  if (!Begin(source)) return false;
  Leaf* leaf = LeafOf(source, series.name.timeline.tag);
  if (!leaf) return false;
  place.leaf = leaf;
  place.name = &leaf->names.Name(series.name);
  place.verdict = Verdict::kWritten;
  return true;
}

TensorBoardTree::Place* TensorBoardTree::Ready(Source& source, uint32_t series, const Batch& batch) {
  if (series >= source.places.size()) source.places.resize(series + 1);
  Place& place = source.places[series];
  const auto drop = [&](std::string_view reason) -> Place* {
    tally_->Drop(reason, 1);
    return nullptr;
  };
  const auto refused = [&] {
    ++disk_.cost;
    return drop(kDisk);
  };
  if (place.verdict == Verdict::kUnknown) {
    if (Clock::now() < source.retry_at) return refused();
    const auto found = batch.run->series().Find(series);
    if (!found) return drop("unnamed");
    if (!Locate(source, place, *found)) {
      source.retry_at = Clock::now() + kRetryAfter;
      return refused();
    }
  }
  if (place.verdict == Verdict::kLeftOut) {
    ++tally_->left_out;
    return nullptr;
  }
  if (batch.stamp.step > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return drop("step_too_large");
  Leaf& leaf = *place.leaf;
  if (source.info->run_key.attempt < leaf.attempt && batch.stamp.step >= leaf.overtaken_from) return drop("overtaken");
  if (!leaf.file || leaf.file->suspended() || leaf.file->torn()) {
    if (Clock::now() < source.retry_at) return refused();
    if (!EnsureFile(source, leaf)) {
      source.retry_at = Clock::now() + kRetryAfter;
      return refused();
    }
  }
  leaf.last_use = ++uses_;
  touched_.insert(&leaf);
  return &place;
}

tb::Summary::Value* TensorBoardTree::AddValue(Leaf& leaf, const std::string& name, const StepStamp& stamp,
                                              size_t bytes) {
  if (leaf.event_bytes > 0 && leaf.event_bytes + bytes > kEventBytesMax) Emit(leaf);
  leaf.event.set_step(StepOf(stamp));
  leaf.event.set_wall_time(static_cast<double>(stamp.unix_ns) * 1e-9);
  leaf.event_bytes += bytes + name.size() + kNumberBytes;
  tb::Summary::Value* value = leaf.event.mutable_summary()->add_value();
  value->set_tag(name);
  return value;
}

void TensorBoardTree::WriteFacts(Source& source, Leaf& leaf, const Batch& batch) {
  source.facts_due = false;
  if (!source.info->facts.empty()) {
    const std::string table = FactsTable(source.info->facts);
    AddText(*AddValue(leaf, "run/facts", batch.stamp, table.size()), table);
  }
  if (!options_.configuration.empty()) {
    AddText(*AddValue(leaf, "run/configuration", batch.stamp, options_.configuration.size()),
            Preformatted(options_.configuration));
  }
}

void TensorBoardTree::Write(const Batch& batch, Tally& tally) {
  tally_ = &tally;
  for (const Event& event : batch.events) NoteEnd(event);
  if (!batch.run || batch.values() == 0) return;
  if (vanished_) {
    ForgetAll();
  } else {
    ForgetRemoved();
  }
  std::set<Leaf*> written;
  try {
    WriteValues(batch, written);
  } catch (...) {
    // Half a step must not be found by the next one, which would take it for its own.
    for (Leaf* leaf : written) Renew(*leaf);
    throw;
  }
}

void TensorBoardTree::NoteEnd(const Event& event) {
  const bool over = event.kind == kRunEnded;
  if (!over && event.kind != kRunResumed) return;
  for (auto& [run, source] : sources_) {
    if (source.info && source.info->run_key == event.run) source.over = over;
  }
}

void TensorBoardTree::WriteValues(const Batch& batch, std::set<Leaf*>& written) {
  Source& source = SourceOf(batch);
  const auto ready = [&](uint32_t series) {
    Place* place = Ready(source, series, batch);
    if (place && written.insert(place->leaf).second && source.facts_due) WriteFacts(source, *place->leaf, batch);
    return place;
  };
  for (const Sample& sample : batch.samples) {
    if (Place* place = ready(sample.series)) {
      SetNumber(*AddValue(*place->leaf, *place->name, batch.stamp, 0), sample.value);
      ++place->leaf->event_samples;
    }
  }
  std::map<uint32_t, std::vector<const Text*>> texts;  // those of one series are one value
  for (const OtherValue& other : batch.others) {
    if (const auto* text = std::get_if<Text>(&other.value)) {
      texts[other.series].push_back(text);
    } else if (Place* place = ready(other.series)) {
      WriteOther(*place, other.value, batch.stamp);
    }
  }
  for (const auto& [series, parts] : texts) WriteTexts(series, parts, batch.stamp, ready);
  for (Leaf* leaf : written) {
    Emit(*leaf);
    if (leaf->file && leaf->file->bytes_queued() >= kBytesQueuedMax) FlushLeaf(*leaf);
  }
}

void TensorBoardTree::WriteOther(const Place& place, const Value& value, const StepStamp& stamp) {
  tb::Summary::Value made;
  if (const auto* number = std::get_if<double>(&value)) {
    SetNumber(made, *number);
  } else if (const auto* histogram = std::get_if<Histogram>(&value)) {
    SetHistogram(made, *histogram);
  } else if (!SetTensor(made, std::get<TensorValue>(value))) {
    tally_->Drop("no_picture", 1);
    return;
  }
  Leaf& leaf = *place.leaf;
  made.set_tag(*place.name);
  AddValue(leaf, *place.name, stamp, BytesOf(value))->Swap(&made);
  ++leaf.event_samples;
}

void TensorBoardTree::WriteTexts(uint32_t series, const std::vector<const Text*>& texts, const StepStamp& stamp,
                                 const std::function<Place*(uint32_t)>& ready) {
  Place* place = nullptr;
  size_t bytes = 0;
  for (const Text* text : texts) {
    place = ready(series);  // each is counted where it cannot be written
    bytes += text->text.size();
  }
  if (!place) return;
  tb::Summary::Value* value = AddValue(*place->leaf, *place->name, stamp, bytes);
  for (const Text* text : texts) AddText(*value, text->text);
  place->leaf->event_samples += texts.size();
}

void TensorBoardTree::Emit(Leaf& leaf) {
  if (leaf.event_bytes > 0 && leaf.file) leaf.file->Add(leaf.event.SerializeAsString(), leaf.event_samples);
  Renew(leaf);
}

void TensorBoardTree::Renew(Leaf& leaf) {
  leaf.event.Clear();
  leaf.event_bytes = 0;
  leaf.event_samples = 0;
}

void TensorBoardTree::FlushLeaf(Leaf& leaf) {
  Emit(leaf);
  touched_.erase(&leaf);
  if (!leaf.file || leaf.file->suspended() || leaf.file->bytes_queued() == 0) return;
  EventFile& file = *leaf.file;
  const uint64_t samples = file.samples_queued();
  const size_t bytes = file.bytes_queued();
  const char* why = LacksRoom(bytes, samples);
  // Also what was deleted for room just now: of a run that is over, whose last values these are.
  if (!why && file.vanished()) {
    vanished_ = true;
    why = "file_removed";
  }
  if (why) {
    file.Discard();
    return tally_->Drop(why, samples);
  }
  if (Status saved = leaf.names.Save(); !saved) Failed(saved.error());
  if (Status written = file.Flush(); !written) {
    Failed(written.error());
    disk_.cost += samples;
    return tally_->Drop(kDisk, samples);
  }
  space_.Add(bytes);
  tally_->written += samples;
}

void TensorBoardTree::Flush(Tally& tally) {
  tally_ = &tally;
  const bool any = !touched_.empty();
  while (!touched_.empty()) FlushLeaf(**touched_.begin());
  if (any && !disk_failed_now_) TellRecovered();
  disk_failed_now_ = false;
  ForgetRemoved();
  ForgetRuns();
}

void TensorBoardTree::ForgetRuns() {
  std::erase_if(sources_, [](const auto& item) {
    const Source& source = item.second;
    if (!source.run.expired()) return false;
    for (const auto& [tag, leaf] : source.leaves) --leaf->runs;
    return true;
  });
  std::erase_if(leaves_, [&](const auto& item) {
    const Leaf& leaf = item.second;
    if (leaf.runs > 0 || touched_.contains(&leaf)) return false;
    if (leaf.file && !leaf.file->suspended()) --files_open_;
    return true;
  });
}

// Whoever gets such a name next begins anew.
void TensorBoardTree::ForgetRemoved() {
  if (removed_.empty()) return;
  for (const std::string& folder : removed_) {
    std::erase_if(sources_, [&](const auto& item) {
      const Source& source = item.second;
      if (source.folder != folder) return false;
      for (const auto& [tag, leaf] : source.leaves) --leaf->runs;
      return true;
    });
    std::erase_if(leaves_, [&](const auto& item) {
      const Leaf& leaf = item.second;
      if (!leaf.directory.starts_with(folder + "/") || leaf.runs > 0 || touched_.contains(&leaf)) return false;
      if (leaf.file && !leaf.file->suspended()) --files_open_;
      return true;
    });
  }
  removed_.clear();
  folders_.Forget();
}

void TensorBoardTree::ForgetAll() {
  while (!touched_.empty()) FlushLeaf(**touched_.begin());
  vanished_ = false;
  sources_.clear();
  leaves_.clear();
  files_open_ = 0;
  removed_.clear();
  folders_.Forget();
}

}  // namespace ikkuna::sinks
