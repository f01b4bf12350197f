#include "daemon/linger.h"

#include <algorithm>
#include <utility>

#include "shared/base/clock.h"

namespace ikkuna {

Linger::Linger(std::string directory, double seconds, std::function<Use()> look)
    : directory_(std::move(directory)), seconds_(seconds), look_(std::move(look)), needed_ns_(MonotonicNs()) {}

bool Linger::IsNeeded() {
  const Use use = look_();
  const uint64_t now = MonotonicNs();
  if (use.producers > 0 || use.admitted != admitted_ || shm::IsInUse(directory_)) needed_ns_ = now;
  admitted_ = use.admitted;
  return use.clients_unused < seconds_ || static_cast<double>(now - needed_ns_) * 1e-9 < seconds_;
}

bool Linger::IsOver() {
  if (seconds_ <= 0) return false;
  if (over_) return true;
  if (IsNeeded()) return false;
  auto lock = shm::UpLock::Try(directory_);
  // Where there is no such lock, as in a directory that somebody has removed, nobody finds this daemon either.
  if (!lock) return over_ = true;
  // Whoever has it wants a daemon, or ends this one.
  if (!lock->has_value()) return false;
  needed_ns_ = std::max(needed_ns_, (*lock)->wanted_ns());
  // Once more, since nobody can come by `up` any more.
  if (IsNeeded()) return false;
  lock_.emplace(std::move(**lock));
  return over_ = true;
}

}  // namespace ikkuna
