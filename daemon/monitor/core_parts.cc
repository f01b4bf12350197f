#include "daemon/monitor/core_parts.h"

#include <utility>

namespace ikkuna {

StoreCalls CallsOf(sinks::Store& store) {
  StoreCalls calls;
  calls.remove = [&store](const RunKey& run) { return store.DeleteRun(run); };
  calls.tag = [&store](const RunKey& run, const std::vector<std::string>& add, const std::vector<std::string>& remove) {
    return store.TagRun(run, add, remove);
  };
  calls.export_file = [&store](const RunKey& run, const std::string& path) { return store.ExportFile(run, path); };
  calls.import_file = [&store](const std::string& path) { return store.ImportFile(path, true); };
  calls.can_take = [&store](const RunKey& run) { return store.CanTake(run); };
  calls.room = [&store](uint64_t bytes) { return store.CheckRoom(bytes); };
  calls.take_event_id = [&store] { return store.TakeEventId(); };
  calls.show = [&store] {
    sinks::StoreStatus status = store.GetStatus();
    StoreShown shown;
    shown.folder = std::move(status.folder);
    shown.file_system = std::move(status.file_system);
    shown.bytes = status.bytes;
    shown.bytes_max = status.bytes_max;
    shown.free_bytes = status.free_bytes;
    shown.runs = status.runs;
    shown.runs_open = status.runs_open;
    shown.tail_bytes = status.tail_bytes;
    shown.threads = status.threads;
    shown.nice = status.nice;
    shown.paused = status.paused;
    shown.dropped = std::move(status.dropped);
    return shown;
  };
  return calls;
}

}  // namespace ikkuna
