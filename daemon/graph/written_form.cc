#include "daemon/graph/written_form.h"

namespace ikkuna::graph {

namespace {

constexpr std::string_view kSpecial = ",()=;\"";
constexpr std::string_view kSpaces = " \t\r\n";

std::string_view Trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(kSpaces);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpaces) - begin + 1);
}

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Result<std::vector<WrittenSubscriber>> All() {
    std::vector<WrittenSubscriber> all;
    while (true) {
      SkipSpaces();
      if (at_ == text_.size()) break;
      if (text_[at_] == ';') {
        ++at_;
        continue;
      }
      auto one = One();
      if (!one) return one.error();
      all.push_back(std::move(one).value());
      SkipSpaces();
      if (at_ < text_.size() && text_[at_] != ';') return Fail("a ';' between two subscribers is missing");
    }
    if (all.empty()) {
      return Error{ErrorCode::kInvalidArgument,
                   "no subscriber given; write for example 'mean(weights)' or 'norm(layer_gradients, order=1)'"};
    }
    return all;
  }

 private:
  Result<WrittenSubscriber> One() {
    begin_ = at_;
    WrittenSubscriber subscriber;
    auto name = Value();
    if (!name) return name.error();
    subscriber.name = std::move(name).value();
    if (subscriber.name.empty()) return Fail("a subscriber begins with the name of a metric");
    if (at_ == text_.size() || text_[at_] != '(') return subscriber;
    ++at_;
    SkipSpaces();
    if (at_ < text_.size() && text_[at_] == ')') {
      ++at_;
      return subscriber;
    }
    while (true) {
      if (auto argument = Argument(subscriber); !argument) return argument.error();
      if (at_ == text_.size() || text_[at_] == ';') return Fail("the closing ')' is missing");
      const char next = text_[at_++];
      if (next == ')') return subscriber;
      if (next != ',') {
        --at_;
        return Fail("a ',' or ')' is missing");
      }
    }
  }

  Status Argument(WrittenSubscriber& subscriber) {
    auto first = Value();
    if (!first) return first.error();
    if (at_ < text_.size() && text_[at_] == '=') {
      ++at_;
      auto value = Value();
      if (!value) return value.error();
      if (first->empty()) return Fail("a name before '=' is missing");
      if (value->empty()) return Fail("a value after '" + *first + "=' is missing");
      for (const auto& [name, other] : subscriber.options) {
        if (name == *first) return Fail("'" + name + "' is given twice");
      }
      subscriber.options.emplace_back(std::move(first).value(), std::move(value).value());
      return {};
    }
    if (first->empty()) return Fail(at_ == text_.size() ? "the closing ')' is missing" : "an argument is missing");
    if (!subscriber.options.empty()) {
      return Fail("'" + *first + "' stands after an option; kinds and topics come first, then name=value");
    }
    subscriber.inputs.push_back(std::move(first).value());
    return {};
  }

  // Up to the next special character; spaces around it do not count.
  Result<std::string> Value() {
    SkipSpaces();
    if (at_ < text_.size() && text_[at_] == '"') return Quoted();
    const size_t end = std::min(text_.find_first_of(kSpecial, at_), text_.size());
    std::string value(Trimmed(text_.substr(at_, end - at_)));
    at_ = end;
    return value;
  }

  Result<std::string> Quoted() {
    std::string value;
    for (++at_; at_ < text_.size(); ++at_) {
      if (text_[at_] == '"') {
        if (at_ + 1 == text_.size() || text_[at_ + 1] != '"') break;
        ++at_;
      }
      value += text_[at_];
    }
    if (at_ == text_.size()) return Fail("the closing '\"' is missing");
    ++at_;
    SkipSpaces();
    return value;
  }

  void SkipSpaces() {
    while (at_ < text_.size() && kSpaces.find(text_[at_]) != std::string_view::npos) ++at_;
  }

  Error Fail(const std::string& what) const {
    const std::string_view shown = Trimmed(text_.substr(begin_, kShownBytes));
    std::string text = "cannot read '" + std::string(shown) + "': " + what;
    if (at_ < text_.size()) text += ", at character " + std::to_string(at_ + 1);
    return Error{ErrorCode::kInvalidArgument, text};
  }

  static constexpr size_t kShownBytes = 200;

  const std::string_view text_;
  size_t at_ = 0;
  size_t begin_ = 0;  // of the subscriber that is being read
};

std::string Escaped(const std::string& value) {
  if (value == Trimmed(value) && value.find_first_of(kSpecial) == std::string::npos) return value;
  std::string quoted = "\"";
  for (const char c : value) {
    if (c == '"') quoted += '"';
    quoted += c;
  }
  return quoted + "\"";
}

}  // namespace

Result<std::vector<WrittenSubscriber>> ParseWritten(std::string_view text) {
  if (text.size() > kMaxWrittenBytes) {
    return Error{ErrorCode::kInvalidArgument, "a text of " + std::to_string(text.size()) +
                                                  " bytes is too long for subscribers; at most " +
                                                  std::to_string(kMaxWrittenBytes)};
  }
  return Parser(text).All();
}

std::string FormatWritten(const WrittenSubscriber& subscriber) {
  std::string arguments;
  for (const std::string& input : subscriber.inputs) arguments += (arguments.empty() ? "" : ", ") + Escaped(input);
  for (const auto& [name, value] : subscriber.options) {
    arguments += (arguments.empty() ? "" : ", ") + name + "=" + Escaped(value);
  }
  return subscriber.name + "(" + arguments + ")";
}

}  // namespace ikkuna::graph
