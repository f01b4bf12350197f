// The points of one publish, in the order of its stores (layout.md, section 6): where a trainer may be killed.
//
// In the library a point is nothing. A test program that compiles pub_writer.cc itself, with IKKUNA_PUBLISH_POINTS
// defined, is called at each, right behind the store that the point is named after. Thread rule: none.
#pragma once

#include <cstdint>

namespace ikkuna::shm {

#define IKKUNA_FOR_EACH_PUBLISH_POINT(X) X(Entered) X(Dropped) X(Reserved) X(Placed) X(Written) X(Committed)

enum class PublishPoint : uint8_t {
#define IKKUNA_POINT_NAME(name) k##name,
  IKKUNA_FOR_EACH_PUBLISH_POINT(IKKUNA_POINT_NAME)
#undef IKKUNA_POINT_NAME
};

#if defined(IKKUNA_PUBLISH_POINTS)
void AtPublishPoint(PublishPoint point) noexcept;  // the test's own
#define IKKUNA_PUBLISH_POINT(name) AtPublishPoint(PublishPoint::k##name)
#else
#define IKKUNA_PUBLISH_POINT(name) static_cast<void>(PublishPoint::k##name)
#endif

}  // namespace ikkuna::shm
