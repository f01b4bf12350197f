// ForkGuard: tells a process that made it from a child of that process that fork() copied it into.
//
// A child of a trainer (a data-loader worker) inherits the probe's objects but not its mappings (MADV_DONTFORK), so
// that every touch would be a fault; in_owner() is asked before any touch. It costs one relaxed load and no system
// call. Where the kernel has MADV_WIPEONFORK the guard word lies in a page that every kind of fork empties. Elsewhere a
// pthread_atfork handler counts forks, which a raw clone() goes past: wiped_by_kernel() says which of the two holds.
// Owner: whoever owns the mapping that it guards. Thread rule: in_owner() from any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <utility>

namespace ikkuna {

class ForkGuard {
 public:
  enum class Method { kBest, kForkCount };  // kForkCount: as where the kernel lacks MADV_WIPEONFORK (tests)
  explicit ForkGuard(Method method = Method::kBest) noexcept;
  ~ForkGuard();
  ForkGuard(ForkGuard&& other) noexcept
      : word_(std::exchange(other.word_, nullptr)),
        expected_(other.expected_),
        page_(std::exchange(other.page_, nullptr)) {}
  ForkGuard& operator=(ForkGuard&& other) noexcept {
    std::swap(word_, other.word_);
    std::swap(expected_, other.expected_);
    std::swap(page_, other.page_);
    return *this;
  }

  // False in a forked child, and for a moved-from guard. Relaxed: the word never changes within one process.
  bool in_owner() const noexcept {
    return word_ != nullptr && std::atomic_ref<uint32_t>(*word_).load(std::memory_order_relaxed) == expected_;
  }
  bool wiped_by_kernel() const noexcept { return page_ != nullptr; }

 private:
  uint32_t* word_ = nullptr;
  uint32_t expected_ = 0;
  void* page_ = nullptr;  // of our own; null where the fork count stands in
};

}  // namespace ikkuna
