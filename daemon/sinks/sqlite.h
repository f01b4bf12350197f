// Database, Statement: owners of the two SQLite handles, and the one door for SQLite's errors.
//
// Thread rule: a Database and its Statements are used by one thread at a time. A Statement must go before its Database.
#pragma once

#include <sqlite3.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "shared/base/result.h"

namespace ikkuna::sinks {

// "what: message of the last error of `db`", with the code that fits.
Error SqliteError(std::string what, sqlite3* db);

struct BlobView {
  std::string_view bytes;
};

class Statement {
 public:
  Statement() = default;
  ~Statement() { sqlite3_finalize(handle_); }
  Statement(Statement&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Statement& operator=(Statement&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }

  // Parameters count from 1. Texts are copied, blobs are not: they stay until the statement is reset.
  Statement& Bind(int index, int64_t value);
  Statement& Bind(int index, uint64_t value);  // the same 64 bits: Unsigned() gives them back
  Statement& Bind(int index, double value);
  Statement& Bind(int index, std::string_view text);
  Statement& BindBlob(int index, const void* bytes, size_t size);
  Statement& Bind(int index, BlobView blob) { return BindBlob(index, blob.bytes.data(), blob.bytes.size()); }

  // SQLITE_ROW, SQLITE_DONE or an error code.
  int Step() { return sqlite3_step(handle_); }
  // Runs to the end and makes ready for the next values.
  int Run();
  void Reset() { sqlite3_reset(handle_); }

  // Columns count from 0.
  int64_t Int(int column) { return sqlite3_column_int64(handle_, column); }
  uint64_t Unsigned(int column) { return static_cast<uint64_t>(Int(column)); }
  double Double(int column) { return sqlite3_column_double(handle_, column); }
  std::string Text(int column);
  std::string_view Blob(int column);  // until the next step
  bool IsNull(int column) { return sqlite3_column_type(handle_, column) == SQLITE_NULL; }

 private:
  friend class Database;
  explicit Statement(sqlite3_stmt* handle) : handle_(handle) {}
  sqlite3_stmt* handle_ = nullptr;
};

class Database {
 public:
  enum class Mode {
    kCreate,     // VFS unix-excl: several connections of one process, none of another; no shared memory beside the file
    kReadWrite,  // the same, of a file that is there
    kAtRest,     // read-only, of a file that nobody writes
    kFrozen,     // the same, where not even a lock can be taken: nobody else may have the file
  };

  // In WAL mode readers and the writer of one process do not wait for each other; this is for what is short.
  static constexpr int kBusyTimeoutMs = 500;

  // The error's text is the reason alone: the caller names the object. `busy_ms`: how long another's lock is waited for.
  static Result<Database> Open(const std::string& path, Mode mode, int busy_ms = kBusyTimeoutMs);
  ~Database() {
    prepared_.clear();
    sqlite3_close_v2(handle_);
  }
  Database(Database&& other) noexcept
      : handle_(std::exchange(other.handle_, nullptr)), prepared_(std::move(other.prepared_)) {}
  Database& operator=(Database&& other) noexcept {
    std::swap(handle_, other.handle_);
    std::swap(prepared_, other.prepared_);
    return *this;
  }

  // Prepares the literal `sql` once, binds, runs to the end.
  template <typename... Values>
  Status Run(const char* sql, const Values&... values) {
    Result<Statement*> statement = Prepared(sql);
    if (!statement) return statement.error();
    int index = 0;
    ((*statement)->Bind(++index, values), ...);
    if ((*statement)->Run() != SQLITE_DONE) return SqliteError("", handle_);
    return {};
  }
  // Calls row(Statement&) for each row, until it gives false.
  template <typename Row, typename... Values>
  Status Each(const char* sql, Row&& row, const Values&... values) {
    Result<Statement*> prepared = Prepared(sql);
    if (!prepared) return prepared.error();
    Statement& statement = **prepared;
    int index = 0;
    (statement.Bind(++index, values), ...);
    int code;
    while ((code = statement.Step()) == SQLITE_ROW) {
      if (!row(statement)) break;
    }
    Status status;
    if (code != SQLITE_ROW && code != SQLITE_DONE) status = SqliteError("", handle_);
    statement.Reset();
    return status;
  }

  Result<Statement> Prepare(std::string_view sql);
  Status Execute(const char* sql);
  // The first column of the first row; 0 when there is no row.
  Result<int64_t> QueryInt(std::string_view sql);
  Result<std::string> QueryText(std::string_view sql);

  sqlite3* handle() const { return handle_; }

 private:
  explicit Database(sqlite3* handle) : handle_(handle) {}
  Result<Statement*> Prepared(const char* sql);
  sqlite3* handle_ = nullptr;
  std::unordered_map<const char*, Statement> prepared_;  // by the address of a literal
};

// BEGIN ... COMMIT, or ROLLBACK where Commit() was not reached.
class Transaction {
 public:
  explicit Transaction(Database& database) : database_(database) {}
  ~Transaction();
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;
  Status Begin();
  Status Commit();

 private:
  Database& database_;
  bool open_ = false;
};

}  // namespace ikkuna::sinks
