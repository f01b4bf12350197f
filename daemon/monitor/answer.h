// Answer<T>: a value, or why there is none, for a person and for programs.
//
// Thread rule: none beyond the contained value's.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <variant>

#include "shared/base/result.h"

namespace ikkuna {

// ErrorReason of proto/ikkuna/v1/errors.proto, which says what subject and hint hold.
enum class Reason : uint8_t {
  kUnspecified = 0,
  kBadField = 1,
  kNoSuchRun = 2,
  kAmbiguousRun = 3,
  kRole = 4,
  kRunOpen = 5,
  kRunNotLive = 6,
  kTrainerRefuses = 7,
  kRanksMissing = 8,
  kTopicTaken = 9,
  kLimit = 10,
  kStopping = 11,
  kBadCursor = 12,
  kBadFile = 13,
  kExists = 14,
  kNoSuchObject = 15,
  kStore = 16,
};

struct Failure {
  ErrorCode code;
  std::string text;  // for a person
  Reason reason = Reason::kUnspecified;
  std::string subject = {};
  std::string hint = {};

  Failure(ErrorCode a_code, std::string a_text, Reason a_reason = Reason::kUnspecified, std::string a_subject = {},
          std::string a_hint = {})
      : code(a_code),
        text(std::move(a_text)),
        reason(a_reason),
        subject(std::move(a_subject)),
        hint(std::move(a_hint)) {}
  // Of a part of the daemon that knows no reasons: the most likely one.
  Failure(const Error& error);  // NOLINT(google-explicit-constructor): an Error is a Failure that says less
};

template <typename T>
class [[nodiscard]] Answer {
 public:
  Answer(T value) : state_(std::move(value)) {}            // NOLINT(google-explicit-constructor): reads as the value
  Answer(Failure failure) : state_(std::move(failure)) {}  // NOLINT(google-explicit-constructor): reads as the failure
  Answer(const Error& error) : state_(Failure(error)) {}   // NOLINT(google-explicit-constructor): reads as the failure
  // What a part of the daemon answered.
  Answer(Result<T> result)  // NOLINT(google-explicit-constructor): the same thing in other words
      : state_(result ? State(*std::move(result)) : State(Failure(result.error()))) {}

  bool ok() const { return std::holds_alternative<T>(state_); }
  explicit operator bool() const { return ok(); }
  T& operator*() & { return std::get<T>(state_); }
  const T& operator*() const& { return std::get<T>(state_); }
  T&& operator*() && { return std::get<T>(std::move(state_)); }
  T* operator->() { return &std::get<T>(state_); }
  const T* operator->() const { return &std::get<T>(state_); }
  const Failure& failure() const { return std::get<Failure>(state_); }

 private:
  using State = std::variant<T, Failure>;
  State state_;
};

}  // namespace ikkuna
