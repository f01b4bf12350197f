// How StoreReader's queries get a connection and walk over rows; for store_reader*.cc alone.
#pragma once

#include <memory>
#include <string_view>
#include <utility>

#include "daemon/sinks/sqlite.h"
#include "daemon/sinks/store_reader.h"
#include "shared/base/result.h"

namespace ikkuna::sinks {

// Runs `sql` and calls `row` for each row.
template <typename Bind, typename Row>
Status ForEachRow(Database& db, std::string_view sql, Bind bind, Row row) {
  Result<Statement> statement = db.Prepare(sql);
  if (!statement) return Error{statement.error().code, "cannot read the run store: " + statement.error().text};
  bind(*statement);
  int code;
  while ((code = statement->Step()) == SQLITE_ROW) row(*statement);
  if (code != SQLITE_DONE) return SqliteError("cannot read the run store", db.handle());
  return {};
}

class StoreReader::Lease {
 public:
  // One read transaction: all statements of a query see the same commit.
  Lease(StoreReader& reader, std::unique_ptr<Database> db) : reader_(reader), db_(std::move(db)) {
    (void)db_->Execute("BEGIN");
  }
  ~Lease() {
    (void)db_->Execute("COMMIT");
    reader_.Return(std::move(db_));
  }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  Database& db() { return *db_; }

 private:
  StoreReader& reader_;
  std::unique_ptr<Database> db_;
};

}  // namespace ikkuna::sinks
