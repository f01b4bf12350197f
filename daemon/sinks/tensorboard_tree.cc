#include "daemon/sinks/tensorboard_tree.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "daemon/sinks/tensorboard.h"
#include "shared/base/clock.h"

namespace ikkuna::sinks {
namespace {

constexpr int64_t kNsPerSecond = 1'000'000'000;
constexpr int64_t kRetryAfterNs = kNsPerSecond;
constexpr int kValuesPerEvent = 1'000;       // keeps a record small for readers
constexpr size_t kBytesQueuedMax = 1 << 20;  // a file's memory between two flushes

double Seconds(int64_t unix_ns) { return static_cast<double>(unix_ns) / kNsPerSecond; }

// The format has single precision; what does not fit is infinite, as a rounding would make it.
float Single(double value) {
  constexpr double kLargest = std::numeric_limits<float>::max();
  if (std::fabs(value) > kLargest) return value > 0 ? INFINITY : -INFINITY;
  return static_cast<float>(value);
}

// TensorBoard shows texts as Markdown.
std::string FactsTable(const ProducerInfo& producer) {
  std::string table = "| fact | value |\n|---|---|\n";
  for (const auto& [name, value] : producer.facts) {
    std::string cell;
    for (char c : value) {
      if (c == '|') cell += '\\';
      cell += c == '\n' ? ' ' : c;
    }
    table += "| " + name + " | " + cell + " |\n";
  }
  return table;
}

std::string Preformatted(const std::string& text) {
  std::string lines = "    ";
  for (char c : text) {
    lines += c;
    if (c == '\n') lines += "    ";
  }
  return lines;
}

}  // namespace

TensorBoardTree::Place* TensorBoardTree::PlaceOf(uint64_t series_id) {
  auto [place, fresh] = places_.try_emplace(series_id);
  if (!fresh) return &place->second;
  std::optional<Series> series = catalogue_.Find(series_id);
  if (!series) {
    places_.erase(place);
    return nullptr;
  }
  Leaf& leaf = leaves_[{series->key.run, series->key.tag}];
  leaf.run = series->key.run;
  leaf.tag = series->key.tag;
  place->second.leaf = &leaf;
  place->second.name = UniqueName(leaf, *series);
  return &place->second;
}

std::string TensorBoardTree::UniqueName(Leaf& leaf, const Series& series) {
  const std::string name = CurveName(series.key);
  std::string unique = name;
  for (int n = 2; !leaf.names.try_emplace(unique, series.id).second; ++n) unique = name + "#" + std::to_string(n);
  return unique;
}

bool TensorBoardTree::EnsureFile(Leaf& leaf, const ProducerInfo* producer) {
  leaf.last_use = ++uses_;
  if (leaf.file && !leaf.file->suspended()) return true;
  const int64_t now = UnixNs();
  if (now < leaf.retry_at_ns) return false;
  leaf.retry_at_ns = now + kRetryAfterNs;
  if (leaf.directory.empty()) {
    const bool of_run = producer && producer->run_key == leaf.run;
    Result<std::string> folder = folders_.Find(leaf.run, of_run ? std::string_view(producer->run) : std::string_view());
    if (!folder) return false;
    leaf.directory = *folder + "/" + std::to_string(leaf.run.rank) + "/" + FolderName(leaf.tag);
  }
  if (files_open_ >= TensorBoard::kFilesOpenMax) SuspendOldest();
  // A file that somebody took away is followed by a new one.
  if (!leaf.file || !leaf.file->Resume()) {
    Result<std::unique_ptr<EventFile>> file = EventFile::Create(leaf.directory, now);
    if (!file) return false;
    leaf.file = *std::move(file);
  }
  ++files_open_;
  leaf.retry_at_ns = 0;
  if (facts_written_.insert(leaf.run).second) WriteFacts(leaf, producer, now);
  return true;
}

void TensorBoardTree::SuspendOldest() {
  Leaf* oldest = nullptr;
  for (auto& [key, leaf] : leaves_) {
    if (leaf.file && !leaf.file->suspended() && (!oldest || leaf.last_use < oldest->last_use)) oldest = &leaf;
  }
  if (!oldest) return;
  FlushLeaf(*oldest);
  oldest->file->Suspend();
  --files_open_;
}

void TensorBoardTree::WriteFacts(Leaf& leaf, const ProducerInfo* producer, int64_t unix_ns) {
  if (producer && producer->run_key == leaf.run && !producer->facts.empty()) {
    AddText(leaf, "run/facts", FactsTable(*producer), 0, unix_ns, 0);
  }
  if (!configuration_.empty()) AddText(leaf, "run/configuration", Preformatted(configuration_), 0, unix_ns, 0);
}

void TensorBoardTree::AddText(Leaf& leaf, const std::string& name, const std::string& text, uint64_t step,
                              int64_t unix_ns, uint64_t samples) {
  tb::Event event;
  event.set_wall_time(Seconds(unix_ns));
  event.set_step(static_cast<int64_t>(step));
  tb::Summary::Value* value = event.mutable_summary()->add_value();
  value->set_tag(name);
  value->mutable_metadata()->mutable_plugin_data()->set_plugin_name("text");
  value->mutable_tensor()->set_dtype(tb::DT_STRING);
  value->mutable_tensor()->mutable_tensor_shape()->add_dim()->set_size(1);
  value->mutable_tensor()->add_string_val(text);
  leaf.file->Add(event.SerializeAsString(), samples);
}

TensorBoardTree::Place* TensorBoardTree::Ready(uint64_t series_id, uint64_t step, const ProducerInfo* producer) {
  Place* place = PlaceOf(series_id);
  // Readers take a step back for a restart and throw away what came before it.
  const bool in_order = place && step <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) &&
                        (!place->any || step >= place->step);
  if (!in_order || !EnsureFile(*place->leaf, producer)) {
    ++tally_.dropped;
    return nullptr;
  }
  place->any = true;
  place->step = step;
  return place;
}

void TensorBoardTree::WriteSample(const Sample& sample, const ProducerInfo* producer) {
  Place* place = Ready(sample.series_id, sample.step, producer);
  if (!place) return;
  Leaf& leaf = *place->leaf;
  const auto step = static_cast<int64_t>(sample.step);
  const double wall_time = Seconds(sample.unix_ns);
  if (leaf.event.step() != step || leaf.event.wall_time() != wall_time ||
      leaf.event.summary().value_size() >= kValuesPerEvent) {
    Emit(leaf);
    leaf.event.set_step(step);
    leaf.event.set_wall_time(wall_time);
  }
  tb::Summary::Value* value = leaf.event.mutable_summary()->add_value();
  value->set_tag(place->name);
  value->set_simple_value(Single(sample.value));
}

void TensorBoardTree::WriteText(const TextSample& text, const ProducerInfo* producer) {
  Place* place = Ready(text.series_id, text.step, producer);
  if (!place) return;
  Emit(*place->leaf);
  AddText(*place->leaf, place->name, text.text, text.step, text.unix_ns, 1);
}

void TensorBoardTree::Emit(Leaf& leaf) {
  const auto samples = static_cast<uint64_t>(leaf.event.summary().value_size());
  if (samples > 0) leaf.file->Add(leaf.event.SerializeAsString(), samples);
  leaf.event.Clear();
}

void TensorBoardTree::FlushLeaf(Leaf& leaf) {
  if (!leaf.file || leaf.file->suspended()) return;
  Emit(leaf);
  const uint64_t samples = leaf.file->samples_queued();
  if (leaf.file->bytes_queued() == 0) return;
  if (leaf.file->Flush()) {
    tally_.written += samples;
  } else {
    tally_.dropped += samples;
  }
}

void TensorBoardTree::Write(const Batch& batch) {
  const ProducerInfo* producer = batch.producer.get();
  for (const Sample& sample : batch.samples) WriteSample(sample, producer);
  for (const TextSample& text : batch.texts) WriteText(text, producer);
  for (auto& [key, leaf] : leaves_) {
    if (leaf.file && leaf.file->bytes_queued() >= kBytesQueuedMax) FlushLeaf(leaf);
  }
}

void TensorBoardTree::Flush() {
  for (auto& [key, leaf] : leaves_) FlushLeaf(leaf);
}

}  // namespace ikkuna::sinks
