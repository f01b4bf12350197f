#include "daemon/model/batch.h"

namespace ikkuna {

size_t BytesOf(const Batch& batch) {
  size_t bytes = sizeof(Batch) + batch.samples.size() * sizeof(Sample);
  for (const OtherValue& other : batch.others) bytes += sizeof(OtherValue) + BytesOf(other.value);
  for (const Event& event : batch.events) {
    bytes += sizeof(Event) + event.kind.size() + event.text.size() + event.run.run_id.size();
  }
  return bytes;
}

}  // namespace ikkuna
