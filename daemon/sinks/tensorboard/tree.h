// TensorBoardTree: the folders and open files of the TensorBoard sink, and what each series is called in them.
//
// Owner and thread rule: the sink's thread alone. What is known of a run goes when the run does, but for its files.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "daemon/model/batch.h"
#include "daemon/sinks/queued_sink.h"
#include "daemon/sinks/tensorboard/event_file.h"
#include "daemon/sinks/tensorboard/folders.h"
#include "daemon/sinks/tensorboard/names.h"
#include "daemon/sinks/tensorboard/space.h"
#include "daemon/sinks/tensorboard/tensorboard.h"
#include "ikkuna/tb/event.pb.h"

namespace ikkuna::sinks {

class TensorBoardTree {
 public:
  static constexpr size_t kFilesOpenMax = 128;  // 64 producers with two tags each

  explicit TensorBoardTree(const TensorBoardOptions& options)
      : options_(options), folders_(options.logdir), space_(options_) {}

  void Write(const Batch& batch, Tally& tally);
  // Everything written so far goes to the files.
  void Flush(Tally& tally);
  // Nothing comes any more.
  void Close() { leaves_.clear(); }

 private:
  // One folder, {run}/{rank}/{tag}. Attempts of one line share it.
  struct Leaf {
    explicit Leaf(const std::string& folder) : directory(folder), names(folder) {}
    const std::string directory;
    std::unique_ptr<EventFile> file;
    uint64_t last_use = 0;
    size_t runs = 0;  // that have places in it
    CurveNames names;
    uint32_t attempt = 0;                  // the latest that writes here
    uint64_t overtaken_from = UINT64_MAX;  // steps of earlier attempts, from here on, are not shown
    tb::Event event;                       // values of one step, or none
    size_t event_bytes = 0;                // roughly
    uint64_t event_samples = 0;
  };
  enum class Verdict : uint8_t { kUnknown = 0, kLeftOut, kWritten };
  struct Place {
    Verdict verdict = Verdict::kUnknown;
    Leaf* leaf = nullptr;
    const std::string* name = nullptr;
  };
  // A run as it writes.
  struct Source {
    std::weak_ptr<Run> run;
    std::shared_ptr<const ProducerInfo> info;  // as last looked at
    std::string folder;                        // empty: not found yet
    std::string rank_folder;
    std::map<std::string, Leaf*> leaves;  // by tag
    std::vector<Place> places;            // by series
    bool facts_due = true;
    bool over = false;  // nothing comes of it any more
    std::chrono::steady_clock::time_point retry_at{};  // no folder or file could be made: not before this
  };

  Source& SourceOf(const Batch& batch);
  // null: there is none for it; why is counted.
  Place* Ready(Source& source, uint32_t series, const Batch& batch);
  bool Locate(Source& source, Place& place, const Series& series);
  Leaf* LeafOf(Source& source, const std::string& tag);
  Leaf* LeafAt(const std::string& directory);
  // The folders of the run are found, and what it overtook in them is marked.
  bool Begin(Source& source);
  bool EnsureFile(Source& source, Leaf& leaf);
  void SuspendOldest();
  void WriteFacts(Source& source, Leaf& leaf, const Batch& batch);
  // Anything but a text.
  void WriteOther(const Place& place, const Value& value, const StepStamp& stamp);
  void WriteTexts(uint32_t series, const std::vector<const Text*>& texts, const StepStamp& stamp,
                  const std::function<Place*(uint32_t)>& ready);
  tb::Summary::Value* AddValue(Leaf& leaf, const std::string& name, const StepStamp& stamp, size_t bytes);
  void NoteEnd(const Event& event);
  void WriteValues(const Batch& batch, std::set<Leaf*>& written);
  void Emit(Leaf& leaf);
  // An event without values, for the next step.
  static void Renew(Leaf& leaf);
  void FlushLeaf(Leaf& leaf);
  // Nothing, or why these are dropped.
  const char* LacksRoom(uint64_t bytes, uint64_t samples);
  void ForgetRuns();
  void ForgetRemoved();
  void ForgetAll();

  void Failed(const Error& error);
  // At the end of a flush that wrote something.
  void TellRecovered();
  void Report(Severity severity, const char* kind, std::string text);

  const TensorBoardOptions options_;
  TensorBoardFolders folders_;
  TensorBoardSpace space_;
  std::map<std::string, Leaf> leaves_;  // by directory
  std::unordered_map<const Run*, Source> sources_;
  std::set<Leaf*, std::less<>> touched_;  // have something that is not in the file
  Tally* tally_ = nullptr;                // of the call at hand
  size_t files_open_ = 0;
  uint64_t uses_ = 0;
  bool vanished_ = false;  // a file was taken away: all folders are looked up again
  // Folders deleted for room. Whoever writes meanwhile may hold what is known of them: forgotten once nobody does.
  std::vector<std::string> removed_;

  // Failures of the disk, the cap, and a disk that is nearly full: told when they begin and when they are over.
  struct Trouble {
    bool on = false;
    bool told = false;  // of the disk: what flickers is told once a while
    uint64_t cost = 0;  // values
  };
  Trouble disk_;
  Trouble cap_;
  Trouble pause_;
  bool disk_failed_now_ = false;
  std::chrono::steady_clock::time_point disk_told_after_{};
};

}  // namespace ikkuna::sinks
