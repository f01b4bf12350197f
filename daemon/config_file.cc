// The TOML side of the configuration: reading and printing.
#include <toml++/toml.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/config.h"
#include "daemon/config_options.h"
#include "daemon/kept_file.h"
#include "shared/base/suggestion.h"

namespace ikkuna {

namespace {

Error Bad(const std::string& name, const toml::source_region& where, const std::string& text) {
  return Error{ErrorCode::kInvalidArgument, name + ":" + std::to_string(where.begin.line) + ": " + text};
}

std::string UnknownKey(const std::string& key) {
  std::vector<std::string> keys;
  for (const ConfigOption& option : ConfigOptions()) keys.push_back(option.key);
  return "unknown key '" + key + "'" + Suggestion(key, keys) + " 'ikkuna-daemon --print-config' shows all";
}

// The list of one kind, or false: some element is of another.
template <typename T>
bool TakeList(const toml::node& node, std::vector<T>& list) {
  const toml::array* array = node.as_array();
  if (array == nullptr) return false;
  for (const toml::node& element : *array) {
    const auto value = element.value_exact<T>();
    if (!value) return false;
    list.push_back(*value);
  }
  return true;
}

// False: the node is of another type than the option's.
bool Take(const toml::node& node, OptionKind kind, OptionValue& value) {
  switch (kind) {
    case OptionKind::kSwitch:
      if (auto exact = node.value_exact<bool>()) return value = *exact, true;
      return false;
    case OptionKind::kInteger:
      if (auto exact = node.value_exact<int64_t>()) return value = *exact, true;
      return false;
    case OptionKind::kNumber:
      if (!node.is_number()) return false;
      value = *node.value<double>();
      return true;
    case OptionKind::kText:
      if (auto exact = node.value_exact<std::string>()) return value = *exact, true;
      return false;
    case OptionKind::kTexts: {
      std::vector<std::string> list;
      if (!TakeList(node, list)) return false;
      value = std::move(list);
      return true;
    }
  }
  return false;
}

Status ReadTable(const toml::table& table, const std::string& name, Config& config) {
  for (const auto& [key, node] : table) {
    const std::string text(key.str());
    const auto& options = ConfigOptions();
    const auto option =
        std::find_if(options.begin(), options.end(), [&](const ConfigOption& row) { return text == row.key; });
    if (option == options.end()) {
      return Bad(name, key.source(), UnknownKey(text));
    }
    OptionValue value;
    if (!Take(node, option->kind, value)) {
      return Bad(name, node.source(), "'" + text + "' must be " + KindName(option->kind));
    }
    if (auto set = option->set(config, value); !set) {
      return Bad(name, node.source(), "'" + text + "': " + set.error().text);
    }
  }
  config.subscribe_from_file = config.subscribe.size();
  return {};
}

struct Printer {
  std::string operator()(bool value) const { return value ? "true" : "false"; }
  std::string operator()(int64_t value) const { return std::to_string(value); }
  std::string operator()(double value) const {
    char text[32];
    std::string out(text, std::to_chars(text, text + sizeof text, value).ptr);
    return out.find_first_of(".e") == std::string::npos ? out + ".0" : out;
  }
  std::string operator()(const std::string& value) const { return TomlText(value); }
  template <typename T>
  std::string operator()(const std::vector<T>& values) const {
    std::string out = "[";
    for (size_t i = 0; i < values.size(); ++i) out += (i == 0 ? "" : ", ") + (*this)(values[i]);
    return out + "]";
  }
};

}  // namespace

Status ReadConfigText(const std::string& text, const std::string& name, Config& config) {
  try {
    return ReadTable(toml::parse(text), name, config);
  } catch (const toml::parse_error& error) {
    return Bad(name, error.source(), std::string(error.description()));
  }
}

Status ReadConfigFile(const std::string& path, Config& config) {
  const auto unreadable = [&path](int error) {
    Error text = PosixError("cannot read configuration '" + path + "'", error);
    text.text += "; --config takes a TOML file, 'ikkuna-daemon --print-config' writes one";
    return text;
  };
  std::ifstream file(path, std::ios::binary);
  if (!file) return unreadable(errno);
  try {
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    return ReadConfigText(text, path, config);
  } catch (const std::ios_base::failure&) {
    return unreadable(EISDIR);  // a directory opens, but does not read
  }
}

std::string PrintConfig(const Config& config) {
  std::string out;
  for (const ConfigOption& option : ConfigOptions()) {
    out +=
        std::string("# ") + option.help + "\n" + option.key + " = " + std::visit(Printer{}, option.get(config)) + "\n";
  }
  return out;
}

}  // namespace ikkuna
