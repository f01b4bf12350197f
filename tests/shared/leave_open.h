// LeaveOpen: a reservation that nobody ends, what a thread leaves that ends between Reserve and Commit.
#pragma once

#include <new>
#include <utility>

#include "shared/pub.h"

namespace ikkuna::shm {

inline void LeaveOpen(Reservation reservation) {
  alignas(Reservation) unsigned char never_destroyed[sizeof(Reservation)];
  new (never_destroyed) Reservation(std::move(reservation));
}

}  // namespace ikkuna::shm
