// Opening a run store: the lock that keeps a second daemon out, the file, and what it held.
//
// Thread rule: called once, by Store::Open.
#pragma once

#include <string>

#include "daemon/series_catalogue.h"
#include "daemon/sinks/sqlite.h"
#include "daemon/sinks/store_index.h"
#include "shared/base/result.h"
#include "shared/base/unique_fd.h"

namespace ikkuna::sinks {

// Makes the directory and takes `{data_dir}/ikkuna.lock`. Held as long as the descriptor lives; it is not inherited by
// programs that this process starts, and the kernel lets go of it when the process dies.
Result<UniqueFd> LockDataDirectory(const std::string& data_dir);

// Fills the catalogue and the index; runs and producers of an earlier daemon that still stand as running become
// disconnected; marks the stored counts as not valid until SaveCounts.
Status LoadStore(Database& db, SeriesCatalogue& catalogue, StoreIndex& index);

// At a clean end, so that the next opening need not count.
Status SaveCounts(Database& db, const StoreIndex& index);

}  // namespace ikkuna::sinks
