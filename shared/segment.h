// Segment: a sealed memory file of one process, mapped by both.
//
// The creator maps it read-write; the peer maps the same file read-only after checking its seals and size.
// Owner: the session of either side. Thread rule: the object is moved and destroyed by one thread; the bytes follow the
// rules of layout.h. The mapping (boost::interprocess::mapped_region) ends with the object; in a forked child, which
// never had it after DontFork(), the object ends without touching the addresses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include <boost/interprocess/mapped_region.hpp>

#include "shared/base/fork_guard.h"
#include "shared/base/result.h"
#include "shared/base/unique_fd.h"

namespace ikkuna::shm {

class Segment {
 public:
  Segment() = default;
  Segment(Segment&& other) noexcept { Swap(other); }
  Segment& operator=(Segment&& other) noexcept {
    Segment moved(std::move(other));
    Swap(moved);
    return *this;
  }
  ~Segment();

  // Creates a sparse memfd of `bytes` (rounded up to pages), maps it read-write, and seals it SHRINK|GROW|SEAL and,
  // where the kernel has it, FUTURE_WRITE. Errors: kResourceExhausted, kSystem.
  static Result<Segment> Create(const std::string& name, size_t bytes);

  // Maps a peer's fd read-only. Refuses (kCorrupt) what is not a regular memory file (huge pages included: touching one
  // can be SIGBUS), lacks SHRINK or GROW seals, or is not between `bytes_min` and `bytes_max`.
  static Result<Segment> MapUntrusted(UniqueFd fd, size_t bytes_min, size_t bytes_max);

  unsigned char* data() { return static_cast<unsigned char*>(region_.get_address()); }
  const unsigned char* data() const { return static_cast<const unsigned char*>(region_.get_address()); }
  size_t bytes() const { return region_.get_size(); }
  int fd() const { return fd_.get(); }
  // The mapping stays. A descriptor that is kept open lives on in children made by a raw clone().
  void CloseFd() { fd_.reset(); }
  // False when the kernel or sandbox could not add FUTURE_WRITE: the session goes on, status names it.
  bool future_write_sealed() const { return future_write_sealed_; }
  // Children of fork() do not inherit the mapping (MADV_DONTFORK). Returns whether the kernel took it.
  bool DontFork();
  // False in a forked child of the process that called DontFork(): every byte is out of reach there.
  bool in_owner() const noexcept { return !guard_ || guard_->in_owner(); }
  // False where only a pthread_atfork handler tells children apart: status names it.
  bool wiped_on_fork() const noexcept { return guard_ && guard_->wiped_by_kernel(); }

  // Own segment: gives [offset, offset + bytes) its pages now, in steps, so that no later touch can fail or cost a
  // fault. Whole pages. Returns how many bytes from `offset` are backed: fewer than asked when memory ran out.
  uint64_t Back(uint64_t offset, uint64_t bytes) noexcept;
  // Peer's segment: how many bytes from `offset` (at most `bytes`) have pages. nullopt where the kernel cannot say.
  std::optional<uint64_t> BackedBytes(uint64_t offset, uint64_t bytes) const noexcept;

 private:
  void Swap(Segment& other) noexcept;

  UniqueFd fd_;
  boost::interprocess::mapped_region region_;
  std::optional<ForkGuard> guard_;
  bool future_write_sealed_ = false;
};

}  // namespace ikkuna::shm
