// The named points of a publish as a test uses them: this program's PubWriter calls them (shared/publish_point.h).
//
// A plan is made before the publish it is for, and holds for this process. Thread rule: per call below.
#pragma once

#include <functional>

#include "shared/publish_point.h"

namespace ikkuna::shm {

// The next time any thread comes to `point` this process ends, as if by kill -9.
void DieAt(PublishPoint point);
// The next time the calling thread comes to `point` it stays there for ever.
void StayAt(PublishPoint point);
// The next time the calling thread comes to `point` it does so.
void DoAt(PublishPoint point, std::function<void()> what);
// How many threads stay.
int Staying();

const char* NameOf(PublishPoint point);

}  // namespace ikkuna::shm
