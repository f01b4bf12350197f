// The calls of the service. Each is a file of this folder with a Handle(): the request checked, the monitor asked, the
// answer converted. A new one: the rpc in proto/ikkuna/v1, its file here, its name in one of the lists below.
//
// Thread rule: Handle() on a thread of its lane (open_calls.h), where it may wait; several at one time.
#pragma once

#include <memory>

#include "daemon/monitor/caller.h"
#include "daemon/monitor/monitor.h"
#include "daemon/service/failures.h"
#include "ikkuna/v1/monitor.pb.h"

// One answer. With the lane: kQuick looks at memory alone, kFiles may read files, kControl waits for trainers.
#define IKKUNA_UNARY_CALLS(CALL)  \
  CALL(GetStatus, kQuick)         \
  CALL(ListRuns, kFiles)          \
  CALL(ListModules, kFiles)       \
  CALL(Why, kFiles)               \
  CALL(DeleteRun, kFiles)         \
  CALL(TagRun, kFiles)            \
  CALL(ListSeries, kFiles)        \
  CALL(Publish, kFiles)           \
  CALL(ListMetrics, kQuick)       \
  CALL(ListSubscribers, kFiles)   \
  CALL(AddSubscribers, kFiles)    \
  CALL(RemoveSubscribers, kFiles) \
  CALL(ListEvents, kFiles)        \
  CALL(Freeze, kControl)          \
  CALL(Unfreeze, kControl)        \
  CALL(Stop, kControl)

// A stream of answers, made one by one as the client takes them. kWhole: of whole files.
#define IKKUNA_STREAM_CALLS(CALL) \
  CALL(ReadSamples, kFiles)       \
  CALL(ExportRun, kWhole)

namespace ikkuna::service {

// What a call has.
struct Call {
  ikkuna::Monitor& monitor;
  Caller caller;
};

// The answers of one stream. One thread at a time; nothing of it runs, and it holds no lock, while the client reads.
template <typename Response>
class AnswerSource {
 public:
  virtual ~AnswerSource() = default;
  // Fills the next one, which is empty; false: that was all, and nothing was filled.
  virtual Answer<bool> Next(Response* response) = 0;
};
template <typename Response>
using Answers = Answer<std::unique_ptr<AnswerSource<Response>>>;

#define IKKUNA_DECLARE(NAME, LANE) \
  Outcome Handle(const Call& call, const v1::NAME##Request& request, v1::NAME##Response* response);
IKKUNA_UNARY_CALLS(IKKUNA_DECLARE)
#undef IKKUNA_DECLARE

#define IKKUNA_DECLARE(NAME, LANE) \
  Answers<v1::NAME##Response> Handle(const Call& call, const v1::NAME##Request& request);
IKKUNA_STREAM_CALLS(IKKUNA_DECLARE)
#undef IKKUNA_DECLARE

}  // namespace ikkuna::service
