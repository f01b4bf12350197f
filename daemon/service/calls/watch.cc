#include "daemon/service/calls/watch.h"

#include <optional>
#include <string>
#include <utility>

#include "daemon/service/convert_names.h"
#include "daemon/service/cursor_text.h"
#include "daemon/service/request_checks.h"

namespace ikkuna::service {

Answer<WatchBegun> Handle(const Call& call, const v1::WatchRequest& request) {
  if (Outcome bad = CheckFilter(request.filter())) return *bad;
  if (Outcome bad = CheckText("cursor", request.cursor())) return *bad;
  WatchBegun begun;
  if (request.parts_size() > 0) begun.parts = 0;
  for (const int number : request.parts()) {
    if (number <= 0 || number > v1::WatchPart_MAX || (kAllParts & (1u << number)) == 0) {
      return BadField("parts", "parts has " + std::to_string(number) + ", which is nothing that a watch carries");
    }
    begun.parts |= 1u << number;
  }
  std::optional<WatchCursor> cursor;
  if (!request.cursor().empty()) {
    cursor = ParseCursor(request.cursor());
    if (!cursor) {
      return Failure(ErrorCode::kFailedPrecondition,
                     "cursor '" + request.cursor() + "' is none that this daemon gave; read again", Reason::kBadCursor);
    }
  }
  Answer<WatchAnswer> answer = call.monitor.series.Watch(ToFilter(request.filter()), cursor);
  if (!answer) return answer.failure();
  begun.answer = *std::move(answer);
  return begun;
}

}  // namespace ikkuna::service
