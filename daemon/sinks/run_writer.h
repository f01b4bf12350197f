// RunWriter: commits, compacts (run_writer.cc) and thins (run_thinner.cc) one run. What it is given it stages: a batch
// is looked at once, and what it staged is tried until it is committed.
//
// Owner: the run's entry. Thread rule: under the entry's writer_mutex.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "daemon/sinks/run_entry.h"

namespace ikkuna::sinks {

// What became of the batches of a commit.
struct CommitReport {
  uint64_t written = 0;  // values
  uint64_t repeated = 0;   // a value for a step that has one already
  uint64_t no_series = 0;  // of no series of the run, or of another type
  uint64_t refused = 0;    // the file takes them never
  uint64_t events_dropped = 0;
  std::string refusal;     // the last reason
  uint64_t dropped() const { return repeated + no_series + refused; }
  std::array<std::pair<const char*, uint64_t>, 3> drops() const {  // by reason
    return {{{"repeated", repeated}, {"no_series", no_series}, {"refused", refused}}};
  }
  void AddDropsTo(std::map<std::string, uint64_t>& counts) const;
};

class RunWriter {
 public:
  ~RunWriter();
  // Opens or makes the file of the entry. `entry.loaded` is filled, or taken over where it is not in the file yet.
  static Result<std::unique_ptr<RunWriter>> Open(RunEntry& entry);

  // Staging, then one commit of all that is staged; its errors are the file's, and what is staged stays. `unrecorded`: the
  // values that were not kept, by reason; those of this commit come on top.
  void Stage(const std::shared_ptr<const Batch>& batch);
  uint64_t staged_values() const { return staged_values_; }
  bool staged() const { return !batches_.empty(); }
  // Batches that may still be staged; 0: the tail must be compacted first.
  size_t room() const;
  Status Commit(const ProducerStatus* status, const std::vector<ModuleInfo>* modules,
                const std::vector<std::string>* tags, std::map<std::string, uint64_t> unrecorded, CommitReport* report);

  // Seals the tail where it is long enough (or at all, `whole`); true: there is something to compact.
  bool Seal(bool whole);
  bool compacting() const { return sealed_ != nullptr; }
  // A slice of work, of about so many bytes, in one transaction. True: there is more to do.
  Result<bool> Compact(size_t slice_bytes);

  // Before it is put at rest: the file says how many values each series has, of those that are no numbers as well.
  Status SaveCounts();

  // Thinning. False: nothing is left in segments that could go.
  bool BeginThinning();
  bool thinning() const { return thinning_ != nullptr; }
  // A slice of work, in one transaction. True: there is more to do. Readers are not disturbed: what they read stays until
  // DropRetired finds that they are done.
  Result<bool> Thin(size_t slice_bytes);
  // Removes up to `rows` rows that nobody reads. True: call it again.
  Result<bool> DropRetired(int rows);
  uint64_t held_bytes() const;  // of those that are read
  // The oldest texts, histograms and tensors, a slice of them, while all have more than `bytes_max`; the newest stays.
  // How many went.
  Result<uint64_t> TrimOthers(uint64_t bytes_max);

  RunFile& file() { return *file_; }

 private:
  struct Admitted {
    uint64_t last_step = 0;
    uint32_t batch = 0;    // the last batch that had it
    uint32_t segment = 0;  // the last segment that has it
    ValueType type{};
    Precision precision{};
    TimelineId timeline = 0;
    bool known = false, any = false;
  };
  struct Order {  // frames of one timeline, by step
    TimelineId timeline;
    std::vector<std::pair<const Frame*, uint16_t>> frames;  // with the index of their stamp
    std::vector<StepStamp> stamps;
  };

  struct Kept;
  struct Thinning;

  RunWriter(RunEntry& entry, std::unique_ptr<RunFile> file);
  Status DropGarbage();
  Status ReadStamps(Thinning& thinning);
  Status ThinGroup(Thinning& thinning, uint32_t group, size_t* bytes);
  Status Keep(const Thinning& thinning, std::span<const StampColumns> stamps, uint32_t series,
              std::span<const GroupRow> rows, std::vector<Kept>* kept, uint8_t* coarsened, uint64_t* before);
  bool PlaceStamps(Thinning& thinning);
  Status FinishThinning(Thinning& thinning, Transaction& transaction);
  Status CommitThinned(uint64_t removed, uint64_t others_bytes_removed, Transaction& transaction);
  // What the file keeps of counts: of numbers `compacted`, of others all.
  std::vector<SeriesTally> TalliesOfFile(std::vector<SeriesTally> compacted);
  Admitted* Find(uint32_t series);
  bool IsRepeated(uint32_t series, Admitted& admitted, const StepStamp& stamp);
  bool HasStep(const StepStamp& stamp);
  void MarkTail();
  void OrderSealed();

  RunEntry& entry_;
  std::unique_ptr<RunFile> file_;
  PlaneCoder coder_;
  FrameMaker maker_;
  std::vector<Admitted> admitted_;  // [id - 1]
  uint32_t batch_ = 0;
  std::optional<bool> step_kept_;  // of the batch that is staged: whether numbers of its step are kept or staged already
  uint64_t log_seq_ = 0;
  std::optional<ProducerStatus> status_saved_;  // by this writer: what comes each second differs in little
  TimelineId timelines_saved_ = 0;
  uint32_t series_saved_ = 0;

  std::vector<std::shared_ptr<const Frame>> frames_;  // staged
  std::vector<std::pair<StepStamp, const OtherValue*>> others_;
  std::vector<const Event*> events_;
  std::vector<std::shared_ptr<const Batch>> batches_;  // keep them
  std::optional<Progress> progress_;
  uint64_t staged_values_ = 0;
  CommitReport staged_;

  uint64_t segment_next_ = 1;  // the id that the next segment gets: above all before, so that none ever comes again
  uint32_t segment_ = 1;       // counts tails: marks of the one that is committed now
  uint64_t series_in_tail_ = 0;
  std::shared_ptr<const Tail> sealed_;
  std::vector<Order> order_;
  uint64_t sealed_id_ = 0;     // the segment that `sealed_` becomes
  uint32_t group_ = 0;         // the next to compact
  std::vector<SeriesTally> compacted_;  // of numbers in segments

  std::unique_ptr<Thinning> thinning_;
  uint64_t thinned_out_ = 0;  // the one segment that is left and has nothing more to give
  struct Retired {
    std::shared_ptr<const Segment> segment;
    uint64_t bytes = 0;  // of its numbers
  };
  std::vector<Retired> retired_;  // merged into others; their rows are there still
  SeriesNumbers numbers_;     // scratch
};

}  // namespace ikkuna::sinks
