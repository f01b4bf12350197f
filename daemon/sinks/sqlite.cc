#include "daemon/sinks/sqlite.h"

#include <cstdio>
#include <cstring>

namespace ikkuna::sinks {
namespace {

ErrorCode CodeOf(int sqlite_code) {
  switch (sqlite_code & 0xff) {
    case SQLITE_FULL:
    case SQLITE_NOMEM:
      return ErrorCode::kResourceExhausted;
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_AUTH:
      return ErrorCode::kPermissionDenied;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return ErrorCode::kUnavailable;
    case SQLITE_TOOBIG:
    case SQLITE_CONSTRAINT:
    case SQLITE_MISMATCH:
      return ErrorCode::kInvalidArgument;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_ERROR:  // a table that is not as it must be: our statements are right
      return ErrorCode::kCorrupt;
    default:
      return ErrorCode::kSystem;
  }
}

}  // namespace

Error SqliteError(std::string what, sqlite3* db) {
  int code = sqlite3_extended_errcode(db);
  std::string reason = sqlite3_errmsg(db);
  int primary = code & 0xff;
  int system_errno = sqlite3_system_errno(db);
  if ((primary == SQLITE_CANTOPEN || primary == SQLITE_IOERR) && system_errno != 0) {
    reason += std::string(" (") + std::strerror(system_errno) + ")";
  }
  if (!what.empty()) what += ": ";
  return Error{CodeOf(code), what + reason};
}

Statement& Statement::Bind(int index, int64_t value) {
  sqlite3_bind_int64(handle_, index, value);
  return *this;
}

Statement& Statement::Bind(int index, uint64_t value) { return Bind(index, static_cast<int64_t>(value)); }

Statement& Statement::Bind(int index, double value) {
  sqlite3_bind_double(handle_, index, value);
  return *this;
}

Statement& Statement::Bind(int index, std::string_view text) {
  // A null pointer would bind NULL where an empty text is meant.
  sqlite3_bind_text64(handle_, index, text.data() ? text.data() : "", text.size(), SQLITE_TRANSIENT, SQLITE_UTF8);
  return *this;
}

Statement& Statement::BindBlob(int index, const void* bytes, size_t size) {
  sqlite3_bind_blob64(handle_, index, size > 0 ? bytes : "", size, SQLITE_STATIC);
  return *this;
}

int Statement::Run() {
  int code;
  do {
    code = sqlite3_step(handle_);
  } while (code == SQLITE_ROW);
  sqlite3_reset(handle_);
  return code;
}

std::string Statement::Text(int column) {
  const auto* bytes = static_cast<const char*>(sqlite3_column_blob(handle_, column));
  int size = sqlite3_column_bytes(handle_, column);
  return bytes ? std::string(bytes, static_cast<size_t>(size)) : std::string();
}

std::string_view Statement::Blob(int column) {
  const auto* bytes = static_cast<const char*>(sqlite3_column_blob(handle_, column));
  const int size = sqlite3_column_bytes(handle_, column);
  return bytes ? std::string_view(bytes, static_cast<size_t>(size)) : std::string_view();
}

Result<Database> Database::Open(const std::string& path, Mode mode, int busy_ms) {
  int flags = SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
  const bool reads = mode == Mode::kAtRest || mode == Mode::kFrozen;
  flags |= reads ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE;
  if (mode == Mode::kCreate) flags |= SQLITE_OPEN_CREATE;
  sqlite3* handle = nullptr;
  std::string name = path;
  if (mode == Mode::kFrozen) {
    flags |= SQLITE_OPEN_URI;
    name = "file:";
    for (const char c : path) {
      char escaped[8];
      std::snprintf(escaped, sizeof(escaped), c == '/' ? "/" : "%%%02x", static_cast<unsigned char>(c));
      name += escaped;
    }
    name += "?immutable=1";
  }
  int code = sqlite3_open_v2(name.c_str(), &handle, flags, reads ? "unix" : "unix-excl");
  Database database(handle);
  if (code != SQLITE_OK) {
    if (!handle) return Error{ErrorCode::kResourceExhausted, "out of memory"};
    return SqliteError("", handle);
  }
  sqlite3_busy_timeout(handle, busy_ms);
  return database;
}

Result<Statement> Database::Prepare(std::string_view sql) {
  sqlite3_stmt* statement = nullptr;
  int code = sqlite3_prepare_v3(handle_, sql.data(), static_cast<int>(sql.size()), SQLITE_PREPARE_PERSISTENT,
                                &statement, nullptr);
  if (code != SQLITE_OK) return SqliteError("", handle_);
  return Statement(statement);
}

Result<Statement*> Database::Prepared(const char* sql) {
  if (const auto found = prepared_.find(sql); found != prepared_.end()) return &found->second;
  Result<Statement> statement = Prepare(sql);
  if (!statement) return statement.error();
  return &prepared_.emplace(sql, *std::move(statement)).first->second;
}

Status Database::Execute(const char* sql) {
  if (sqlite3_exec(handle_, sql, nullptr, nullptr, nullptr) != SQLITE_OK) return SqliteError("", handle_);
  return {};
}

Result<int64_t> Database::QueryInt(std::string_view sql) {
  Result<Statement> statement = Prepare(sql);
  if (!statement) return statement.error();
  int code = statement->Step();
  if (code == SQLITE_ROW) return statement->Int(0);
  if (code == SQLITE_DONE) return int64_t{0};
  return SqliteError("", handle_);
}

Result<std::string> Database::QueryText(std::string_view sql) {
  Result<Statement> statement = Prepare(sql);
  if (!statement) return statement.error();
  int code = statement->Step();
  if (code == SQLITE_ROW) return statement->Text(0);
  if (code == SQLITE_DONE) return std::string();
  return SqliteError("", handle_);
}

Transaction::~Transaction() {
  if (open_) (void)database_.Execute("ROLLBACK");  // fails where SQLite has done it already
}

Status Transaction::Begin() {
  Status begun = database_.Execute("BEGIN IMMEDIATE");
  open_ = begun.ok();
  return begun;
}

Status Transaction::Commit() {
  Status committed = database_.Execute("COMMIT");
  if (committed) open_ = false;
  return committed;
}

}  // namespace ikkuna::sinks
