// Messages as JSON for scripts: names as in the .proto file, enums by their short lower-case names, NaN and infinities
// as "NaN", "Infinity", "-Infinity". Absent optional fields are left out, everything else is there.
//
// Thread rule: functions without state.
#pragma once

#include <google/protobuf/generated_enum_reflection.h>
#include <google/protobuf/message.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

namespace ikkuna::cli {

using Json = nlohmann::ordered_json;

Json ToJson(const google::protobuf::Message& message);
Json ToJson(double value);

// "running" of PRODUCER_STATE_RUNNING; "unknown" of the zero value and of values that this client does not know.
std::string EnumWord(const google::protobuf::EnumDescriptor& type, int value);

// The other way round; nothing: no such word.
std::optional<int> ParseEnumWord(const google::protobuf::EnumDescriptor& type, const std::string& word);
template <typename Enum>
std::optional<Enum> ParseEnumWord(const std::string& word) {
  const std::optional<int> value = ParseEnumWord(*google::protobuf::GetEnumDescriptor<Enum>(), word);
  if (!value) return std::nullopt;
  return static_cast<Enum>(*value);
}

template <typename Messages>
Json ToJsonArray(const Messages& messages) {
  Json array = Json::array();
  for (const auto& message : messages) array.push_back(ToJson(message));
  return array;
}

// One line, or indented; ends with a newline. Never throws, whatever bytes the texts hold.
std::string JsonLine(const Json& json);
std::string JsonText(const Json& json);

}  // namespace ikkuna::cli
