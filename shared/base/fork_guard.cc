#include "shared/base/fork_guard.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

namespace ikkuna {

namespace {

// Only where MADV_WIPEONFORK is missing. The one state of this kind: pthread_atfork takes no argument.
constinit uint32_t fork_count = 1;

void CountFork() { std::atomic_ref<uint32_t>(fork_count).fetch_add(1, std::memory_order_relaxed); }

void CountForksOnce() {
  static const int registered = pthread_atfork(nullptr, nullptr, CountFork);
  (void)registered;  // out of memory here leaves the child unguarded; DONTFORK then stops it by a fault of its own
}

size_t PageBytes() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

}  // namespace

ForkGuard::ForkGuard(Method method) noexcept {
  void* page = MAP_FAILED;
  if (method == Method::kBest) {
    page = mmap(nullptr, PageBytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  }
  if (page != MAP_FAILED && madvise(page, PageBytes(), MADV_WIPEONFORK) == 0) {
    page_ = page;
    word_ = static_cast<uint32_t*>(page);
    expected_ = 1;
    *word_ = expected_;
    return;
  }
  if (page != MAP_FAILED) munmap(page, PageBytes());
  CountForksOnce();
  word_ = &fork_count;
  expected_ = std::atomic_ref<uint32_t>(fork_count).load(std::memory_order_relaxed);
}

ForkGuard::~ForkGuard() {
  if (page_ != nullptr) munmap(page_, PageBytes());
}

}  // namespace ikkuna
