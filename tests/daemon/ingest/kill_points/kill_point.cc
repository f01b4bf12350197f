#include "tests/daemon/ingest/kill_points/kill_point.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <utility>

namespace ikkuna::shm {

namespace {

constexpr int kNowhere = -1;
std::atomic<int> die_at{kNowhere};
thread_local int stay_at = kNowhere;
thread_local int do_at = kNowhere;
thread_local std::function<void()> do_what;
std::atomic<int> staying{0};

}  // namespace

void DieAt(PublishPoint point) { die_at.store(static_cast<int>(point)); }
void StayAt(PublishPoint point) { stay_at = static_cast<int>(point); }
void DoAt(PublishPoint point, std::function<void()> what) {
  do_at = static_cast<int>(point);
  do_what = std::move(what);
}
int Staying() { return staying.load(); }

void AtPublishPoint(PublishPoint point) noexcept {
  if (die_at.load(std::memory_order_relaxed) == static_cast<int>(point)) ::kill(::getpid(), SIGKILL);
  if (do_at == static_cast<int>(point)) {
    do_at = kNowhere;
    do_what();
  }
  if (stay_at != static_cast<int>(point)) return;
  staying.fetch_add(1);
  for (;;) ::pause();
}

const char* NameOf(PublishPoint point) {
  switch (point) {
#define IKKUNA_NAME_CASE(name) \
  case PublishPoint::k##name:  \
    return #name;
    IKKUNA_FOR_EACH_PUBLISH_POINT(IKKUNA_NAME_CASE)
#undef IKKUNA_NAME_CASE
  }
  return "?";
}

}  // namespace ikkuna::shm
