// Result<T>: a value or an Error, for every operation that can fail for a reason outside our own code.
//
// Owner: the caller. Thread rule: none beyond the contained value's. Never throws by itself.
// An Error's text says what was tried, on which object, and what to do about it.
#pragma once

#include <string>
#include <utility>
#include <variant>

namespace ikkuna {

enum class ErrorCode {
  kInvalidArgument,     // the caller's value can never work: a flag, a name, a formula
  kNotFound,            // the named object does not exist
  kAlreadyExists,       // another object holds that name, lock or topic
  kFailedPrecondition,  // the object is in a state that does not allow this
  kResourceExhausted,   // a named maximum, a disk or a memory limit was reached
  kPermissionDenied,    // the kernel or a policy refused
  kUnavailable,         // the peer is not there now; trying again may work
  kCorrupt,             // bytes of a peer or a file break the format
  kSystem,              // any other failed system call
};

// Stable lower-case name, such as "not_found".
const char* ErrorCodeName(ErrorCode code);

struct Error {
  ErrorCode code;
  std::string text;
};

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}      // NOLINT(google-explicit-constructor): reads as the value
  Result(Error error) : state_(std::move(error)) {}  // NOLINT(google-explicit-constructor): reads as the error

  bool ok() const { return std::holds_alternative<T>(state_); }
  explicit operator bool() const { return ok(); }

  T& value() & { return std::get<T>(state_); }
  const T& value() const& { return std::get<T>(state_); }
  T&& value() && { return std::get<T>(std::move(state_)); }
  const Error& error() const { return std::get<Error>(state_); }

  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error)
      : error_(std::move(error)), ok_(false) {}  // NOLINT(google-explicit-constructor): reads as the error

  bool ok() const { return ok_; }
  explicit operator bool() const { return ok_; }
  const Error& error() const { return error_; }

 private:
  Error error_{};
  bool ok_ = true;
};

using Status = Result<void>;

// The one door for failed POSIX calls: "what: strerror(errno)", with the code that fits the errno.
Error PosixError(std::string what, int errno_value);

}  // namespace ikkuna
