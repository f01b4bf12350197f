#include <utility>

#include "daemon/service/calls/calls.h"
#include "daemon/service/convert_names.h"
#include "daemon/service/convert_status.h"
#include "daemon/service/message_size.h"

namespace ikkuna::service {
namespace {

// Command lines and notes of many producers may be long: those of producers that have ended go first, then all.
void KeepToSize(v1::GetStatusResponse* response) {
  for (const bool all : {false, true}) {
    for (int i = response->producers_size() - 1; i >= 0; --i) {
      if (response->ByteSizeLong() <= kMessageBytesMax) return;
      v1::Producer* producer = response->mutable_producers(i);
      if (!all && producer->state() == v1::PRODUCER_STATE_RUNNING) continue;
      if (producer->facts_size() == 0 && producer->notes_size() == 0) continue;
      producer->clear_facts();
      producer->clear_notes();
      producer->add_notes("its facts and notes are not shown here: those of all producers are too long");
    }
  }
}

}  // namespace

Outcome Handle(const Call& call, const v1::GetStatusRequest&, v1::GetStatusResponse* response) {
  Convert(call.monitor.status.GetStatus(), response);
  response->set_role(ToProto(call.caller.role));
  response->set_caller(Shown(call.caller.name));
  KeepToSize(response);
  return {};
}

}  // namespace ikkuna::service
