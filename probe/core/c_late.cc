// The C interface over Session: messages that are announced before their bytes are there.
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <limits>
#include <new>
#include <vector>

#include "probe/core/array.h"
#include "probe/core/c_handle.h"
#include "shared/stats/merge.h"

namespace ikkuna::probe::c {

namespace {

struct Late {
  std::shared_ptr<State> state;
  MessageHeader header;  // its step may be over when it comes
  Root* root = nullptr;
  shm::LateSpan span;
  int content = IKKUNA_NOTHING;
  uint64_t moments = 0;
  std::string about;  // for refusals
  DType dtype = DType::kInvalid;
  DType copied_as = DType::kInvalid;
  std::vector<int64_t> sizes;
};

}  // namespace

}  // namespace ikkuna::probe::c

struct ikkuna_late {
  ikkuna::probe::c::Late body;
};

namespace ikkuna::probe::c {

namespace {

// Empty: it is what was announced.
std::string WhyNot(const Late& late, const ikkuna_array* given, Array& array) {
  if (!CopyArray(given, array)) return kNoArray;
  if (std::string why = WhyUnreadable(array); !why.empty()) return why;
  const bool same = array.dtype == late.dtype && CopiedAs(array) == late.copied_as &&
                    std::vector<int64_t>(array.sizes, array.sizes + array.ndim) == late.sizes;
  return same ? std::string() : "its data type, its sizes or its being scaled are not what was announced";
}

// False: there are no such statistics. A scale may take a double beyond what a double can hold.
bool Fill(const Late& late, const Array& array) {
  if (late.content == IKKUNA_TENSOR) return CopyDense(array, late.span.data()), true;
  if (late.content == IKKUNA_SUMMARY) {
    const TensorStats stats = StatsOf(array, late.moments);
    if (!ValidateStats(stats).ok()) return false;
    std::memcpy(late.span.data(), &stats, sizeof stats);
    return true;
  }
  const TensorStats one = StatsOf(array, kAllMoments);  // of one element, whatever its type
  const double value = one.nans != 0                  ? std::numeric_limits<double>::quiet_NaN()
                       : one.positive_infinities != 0 ? std::numeric_limits<double>::infinity()
                       : one.negative_infinities != 0 ? -std::numeric_limits<double>::infinity()
                                                      : one.min;
  std::memcpy(late.span.data(), &value, sizeof value);
  return true;
}

ikkuna_late* Announce(Step& step, Pass* pass, uint16_t call, const Place& place, const ikkuna_array* form) {
  const std::shared_ptr<State>& state = step.state;
  return Guarded(*state, static_cast<ikkuna_late*>(nullptr), [&](Session& session) -> ikkuna_late* {
    const bool loss = pass != nullptr && place.kind == IKKUNA_LOSS && place.module == 0 && place.param == 0;
    MessageHeader header;
    Want want;
    if (loss) {
      header = HeaderOf(step, pass, call, place);
      want = step.due.Wanted(Kind::kLoss, 0);
      if (!want || pass->number == 0) return nullptr;
    } else if (FindPlace(session, step, pass, call, place, header, want) != 1) {
      return nullptr;
    }
    if (session.late_room() == 0) {
      Refuse(
          *state,
          "there is no room for late bytes: give `late_kb` to ikkuna_open(), or, where a daemon takes none, publish it "
          "when it is there");
      return nullptr;
    }
    const uint64_t nothing = 0;  // an address: no element is read
    Array array;
    std::string why = CopyArray(form, array) ? std::string() : std::string(kNoArray);
    array.data = &nothing;
    array.strides = nullptr;
    if (why.empty()) why = WhyUnreadable(array);
    if (why.empty() && loss && ElementsOf(array) != 1) why = "a loss has one element";
    if (!why.empty()) {
      session.CountFailed(header);
      Refuse(*state, std::string(KindName(header.kind)) + " at step " + std::to_string(header.step) + ": " + why);
      return nullptr;
    }
    auto made = std::make_unique<ikkuna_late>();
    Late& late = made->body;
    late.state = state;
    late.root = step.root;
    late.header = header;
    late.header.dropped_kinds = nullptr;
    late.moments = want.moments;
    late.about = std::string(KindName(header.kind)) + " at step " + std::to_string(header.step);
    late.dtype = array.dtype;
    late.copied_as = CopiedAs(array);
    late.sizes.assign(array.sizes, array.sizes + array.ndim);
    // A tensor that does not fit goes as its statistics.
    const uint64_t bytes = CopiedBytes(array);
    const bool whole = !loss && want.level == Level::kTensor && bytes > 0 && bytes <= session.late_room();
    late.content = whole ? IKKUNA_TENSOR : IKKUNA_SUMMARY;
    if (loss) late.content = IKKUNA_NUMBER;
    Timer timer(step.root->spent.total_ns, nullptr);
    const TensorShape shape{whole ? late.copied_as : late.dtype, array.ndim, array.sizes};
    const RecordType type = loss ? RecordType::kScalar : whole ? RecordType::kTensor : RecordType::kSummary;
    const bool published =
        session.PublishLate(header, type, loss ? nullptr : &shape,
                            loss    ? sizeof(double)
                            : whole ? bytes
                                    : sizeof(TensorStats),
                            [&](shm::Reservation& reservation) { late.span = reservation.TakeLate(); });
    return published ? made.release() : nullptr;
  });
}

}  // namespace

}  // namespace ikkuna::probe::c

using namespace ikkuna::probe::c;
using ikkuna::probe::Array;
using ikkuna::probe::Session;

extern "C" {

uint64_t ikkuna_late_room(const ikkuna_session* s) {
  return s != nullptr && s->state && s->state->active() ? s->state->session->late_room() : 0;
}

ikkuna_late* ikkuna_step_late(ikkuna_step* step, int kind, uint32_t module, uint32_t param, uint16_t flags,
                              const ikkuna_array* form) {
  if (step == nullptr) return nullptr;
  return Announce(*step->body, nullptr, 0, {kind, module, param, flags}, form);
}

ikkuna_late* ikkuna_pass_late(ikkuna_pass* pass, int kind, uint32_t module, uint32_t param, uint16_t call,
                              uint16_t flags, const ikkuna_array* form) {
  if (pass == nullptr) return nullptr;
  return Announce(*pass->body->step, pass->body.get(), call, {kind, module, param, flags}, form);
}

int ikkuna_late_place(const ikkuna_late* late, ikkuna_place* place) {
  if (late == nullptr) return 0;
  const Late& body = late->body;
  constexpr size_t kLeast = offsetof(ikkuna_place, content) + sizeof(int32_t);  // of version 2
  if (place == nullptr || place->size < kLeast) {
    return Refuse(*body.state, "a place needs `size` to be sizeof(ikkuna_place)");
  }
  return Guarded(*body.state, 0, [&](Session&) {
    // A program knows the fields of its own version, and its `size` stays.
    const size_t size = place->size;
    const ikkuna_place whole{size,        body.span.data(), body.span.bytes(), body.span.word(), body.span.seq(),
                             body.content};
    std::memcpy(static_cast<void*>(place), &whole, std::min(size, sizeof whole));
    return 1;
  });
}

int ikkuna_late_fill(ikkuna_late* late, const ikkuna_array* given) {
  if (late == nullptr) return 0;
  State& state = *late->body.state;
  const int filled = Guarded(state, 0, [&](Session& session) {
    Array array;
    if (const std::string why = WhyNot(late->body, given, array); !why.empty())
      return Refuse(state, late->body.about + ": " + why);
    Spent& spent = late->body.root->spent;
    Timer timer(spent.total_ns, late->body.content == IKKUNA_TENSOR   ? &spent.tensor_ns
                                : late->body.content == IKKUNA_NUMBER ? &spent.scalar_ns
                                                                      : nullptr);
    if (!Fill(late->body, array)) {
      session.CountFailed(late->body.header);
      late->body.span.GiveUp();
      return 0;
    }
    late->body.span.SetReady();
    return 1;
  });
  if (filled >= 0) delete late;
  return filled;
}

int ikkuna_late_end(ikkuna_late* late, int how) {
  if (late == nullptr) return 0;
  State& state = *late->body.state;
  if (how < IKKUNA_LATE_NEVER || how > IKKUNA_LATE_COMES)
    return Refuse(state, "late bytes end as one of IKKUNA_LATE_*");
  const std::unique_ptr<ikkuna_late> own(late);
  return Guarded(state, 0, [&](Session&) {
    if (how == IKKUNA_LATE_READY) late->body.span.SetReady();
    if (how == IKKUNA_LATE_NEVER) late->body.span.GiveUp();
    return 1;
  });
}

}  // extern "C"
