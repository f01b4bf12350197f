#include "daemon/sinks/tensorboard_names.h"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>

namespace ikkuna::sinks {
namespace {

constexpr size_t kFolderBytesMax = 200;  // the usual 255 of a file system, less what we append
constexpr int kSameNameMax = 10'000;     // runs of one display name
constexpr char kMarker[] = "/.ikkuna-run";

std::string Part(std::string_view name) {
  std::string part(name);
  std::replace(part.begin(), part.end(), '/', '_');
  return part;
}

std::string ReadMarker(const std::string& folder) {
  std::ifstream file(folder + kMarker);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace

std::string FolderName(std::string_view name) {
  std::string folder(name.substr(0, kFolderBytesMax));
  for (char& c : folder) {
    const bool keep = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
                      c == '_' || c == '-' || static_cast<unsigned char>(c) >= 0x80;
    if (!keep) c = '_';
  }
  if (folder.empty() || folder[0] == '.') folder.insert(0, "_");
  return folder;
}

std::string CurveName(const SeriesKey& key) {
  std::string name = Part(key.topic);
  if (!key.root.empty() && key.root != "model") name += "/" + Part(key.root);
  if (key.module.empty() && key.param.empty()) return name;
  name += "/" + Part(key.module);
  if (!key.module.empty() && !key.param.empty()) name += ".";
  return name + Part(key.param);
}

Result<std::string> RunFolders::Find(const RunKey& key, std::string_view run) {
  std::string& known = known_[{key.run_id, key.attempt}];
  if (!known.empty()) return known;
  std::string name = FolderName(run.empty() ? std::string_view(key.run_id) : run);
  if (key.attempt > 0) name += "-attempt" + std::to_string(key.attempt);
  const std::string owner = key.run_id + "\n" + std::to_string(key.attempt) + "\n";
  for (int n = 1; n <= kSameNameMax; ++n) {
    const std::string folder = logdir_ + "/" + name + (n == 1 ? "" : "-" + std::to_string(n));
    std::error_code code;
    if (std::filesystem::create_directory(folder, code)) {
      std::ofstream file(folder + kMarker);
      file << owner;
      file.close();
      if (!file) {
        const int errno_value = errno;
        std::filesystem::remove_all(folder, code);
        return PosixError("cannot write '" + folder + kMarker + "'", errno_value);
      }
    } else if (code) {
      return PosixError("cannot make TensorBoard folder '" + folder + "'", code.value());
    } else if (ReadMarker(folder) != owner) {
      continue;  // another run's, or none of ours
    }
    return known = folder;
  }
  return Error{ErrorCode::kResourceExhausted, "too many runs are called '" + name + "' in '" + logdir_ + "'"};
}

}  // namespace ikkuna::sinks
