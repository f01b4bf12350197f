// EvilProducer: a PUB segment that begins as an honest producer left it and that each input then edits at will.
//
// One a process: the segment is made once and put back before each input. Thread rule: one thread.
#pragma once

#include <memory>
#include <vector>

#include "shared/pub.h"
#include "tests/fuzz/fuzz_input.h"

namespace ikkuna::fuzz {

class EvilProducer {
 public:
  EvilProducer();

  // As at the beginning: a registry, two whole steps with one payload, statistics that come late (those of the second
  // have not), all of it committed.
  void Reset();
  // A descriptor of the segment, as HELLO carries it.
  UniqueFd fd() const;

  // Edits, each directed by the input.
  void PokeBytes(FuzzInput& input);
  void PokeWord(FuzzInput& input);
  void AppendEntry(FuzzInput& input);
  void PublishRecord(FuzzInput& input);
  void LeaveHole(FuzzInput& input);
  // Writes what a record announced, and its word.
  void FillLate(FuzzInput& input);

  shm::PubStatus& status();
  const shm::PubHeader& header() const { return header_; }

 private:
  unsigned char* data() { return writer_->segment().data(); }
  void Shape(FuzzInput& input, shm::Record& record);
  void PlacePayload(FuzzInput& input, shm::Record& record);
  void PlaceLate(FuzzInput& input, shm::Record& record, uint64_t bytes);

  // Constant after construction.
  std::unique_ptr<shm::PubWriter> writer_;
  shm::PubHeader header_{};
  std::vector<unsigned char> image_;
};

}  // namespace ikkuna::fuzz
