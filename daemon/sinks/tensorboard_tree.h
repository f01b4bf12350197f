// TensorBoardTree: the folders and open files of the TensorBoard sink, and what each series is called in them.
//
// Owner and thread rule: the sink's thread alone.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>

#include "daemon/sample.h"
#include "daemon/series_catalogue.h"
#include "daemon/sinks/tensorboard_file.h"
#include "daemon/sinks/tensorboard_names.h"
#include "ikkuna/tb/event.pb.h"

namespace ikkuna::sinks {

class TensorBoardTree {
 public:
  TensorBoardTree(const std::string& logdir, std::string configuration, const SeriesCatalogue& catalogue)
      : catalogue_(catalogue), configuration_(std::move(configuration)), folders_(logdir) {}

  void Write(const Batch& batch);
  // Everything written so far goes to the files.
  void Flush();

  // Since the last call: samples that are in the files, and samples that never will be.
  struct Tally {
    uint64_t written = 0;
    uint64_t dropped = 0;
  };
  Tally TakeTally() { return std::exchange(tally_, {}); }

 private:
  // One folder, {run}/{rank}/{tag}.
  struct Leaf {
    RunKey run;
    std::string tag;
    std::string directory;  // empty: not made yet
    std::unique_ptr<EventFile> file;
    int64_t retry_at_ns = 0;  // no file could be made: not before this
    uint64_t last_use = 0;
    tb::Event event;                        // values of one step and time
    std::map<std::string, uint64_t> names;  // curve -> series
  };
  struct Place {
    Leaf* leaf = nullptr;
    std::string name;
    uint64_t step = 0;
    bool any = false;  // a step was written
  };

  Place* PlaceOf(uint64_t series_id);
  std::string UniqueName(Leaf& leaf, const Series& series);
  // The curve that this goes to, ready for it; null: it is dropped.
  Place* Ready(uint64_t series_id, uint64_t step, const ProducerInfo* producer);
  void WriteSample(const Sample& sample, const ProducerInfo* producer);
  void WriteText(const TextSample& text, const ProducerInfo* producer);
  void AddText(Leaf& leaf, const std::string& name, const std::string& text, uint64_t step, int64_t unix_ns,
               uint64_t samples);
  void WriteFacts(Leaf& leaf, const ProducerInfo* producer, int64_t unix_ns);
  // Ready to be written to; false: there is no file now.
  bool EnsureFile(Leaf& leaf, const ProducerInfo* producer);
  void SuspendOldest();
  void Emit(Leaf& leaf);
  void FlushLeaf(Leaf& leaf);

  const SeriesCatalogue& catalogue_;
  const std::string configuration_;
  RunFolders folders_;
  std::map<std::pair<RunKey, std::string>, Leaf> leaves_;  // by run and tag
  std::unordered_map<uint64_t, Place> places_;             // by series
  std::set<RunKey> facts_written_;
  size_t files_open_ = 0;
  uint64_t uses_ = 0;
  Tally tally_;
};

}  // namespace ikkuna::sinks
