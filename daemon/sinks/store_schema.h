// The tables of the run store, and the check that a file is one that this version can use.
//
// An `epoch`, `step`, `unix_ns` or `samples_seen` is what it is in daemon/sample.h; `run` is runs.id, `series`
// series.id. samples.class says what samples.value cannot: SQLite turns NaN into NULL, and its shell prints infinities
// badly.
#pragma once

#include <cstdint>

#include "daemon/sample.h"
#include "daemon/sinks/sqlite.h"
#include "shared/base/result.h"

namespace ikkuna::sinks {

constexpr int64_t kSchemaVersion = 1;           // PRAGMA user_version
constexpr int64_t kApplicationId = 0x494b4b55;  // "IKKU", PRAGMA application_id

// samples.class; value is NULL except for kFinite.
enum class ValueClass : int64_t { kFinite = 0, kNan = 1, kPlusInfinity = 2, kMinusInfinity = 3 };
ValueClass ClassOf(double value);
double ValueOf(ValueClass value_class, double stored);

// A row of samples: the values of an INSERT as ?1 to ?8, and the columns of a SELECT *.
void BindSample(Statement& statement, const Sample& sample);
Sample SampleOfRow(Statement& row);

// Sets up the connection, makes the tables in an empty file, refuses a stranger's or a newer file. The error's text is
// the reason and what to do. `bytes_max`: cap of the store, 0 for none.
Status PrepareSchema(Database& db, uint64_t bytes_max);

}  // namespace ikkuna::sinks
