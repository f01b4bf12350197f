#include "daemon/sinks/tensorboard/names.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <fstream>

#include "shared/base/unique_fd.h"
#include "shared/base/utf8.h"

namespace ikkuna::sinks {
namespace {

constexpr size_t kFolderBytesMax = 200;  // the usual 255 of a file system, less what we append
constexpr size_t kDigestDigits = 16;
constexpr size_t kPartBytesMax = 4096;  // names are far below: 255 bytes each

bool IsControl(char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }

std::string Part(std::string_view name) {
  std::string part = CleanUtf8(name, kPartBytesMax);  // a record that is no UTF-8 ends the reading of its file
  for (char& c : part) {
    if (c == '/' || IsControl(c)) c = '_';
  }
  return part;
}

// FNV-1a. It tells series apart, not adversaries: a trainer that forges one mixes curves of its own.
uint64_t Digest(const SeriesName& name) {
  uint64_t digest = 0xcbf29ce484222325;
  for (const std::string* part : {&name.topic, &name.timeline.root, &name.module, &name.param}) {
    for (const char c : *part) digest = (digest ^ static_cast<unsigned char>(c)) * 0x100000001b3;
    digest = (digest ^ 0xff) * 0x100000001b3;  // the end of a part: no byte of UTF-8
  }
  return digest;
}

std::string Hexadecimal(uint64_t digest) {
  char digits[kDigestDigits + 1];
  std::snprintf(digits, sizeof(digits), "%016llx", static_cast<unsigned long long>(digest));
  return digits;
}

}  // namespace

std::string FolderName(std::string_view name) {
  std::string folder = CleanUtf8(name, kFolderBytesMax);
  for (char& c : folder) {
    const bool keep = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
                      c == '_' || c == '-' || static_cast<unsigned char>(c) >= 0x80;
    if (!keep) c = '_';
  }
  if (folder.empty() || folder[0] == '.') folder.insert(0, "_");
  return folder;
}

std::string CurveName(const SeriesName& series) {
  std::string name = Part(series.topic);
  const std::string& root = series.timeline.root;
  if (!root.empty() && root != "model") name += "/" + Part(root);
  if (series.module.empty() && series.param.empty()) return name;
  name += "/" + Part(series.module);
  if (!series.module.empty() && !series.param.empty()) name += ".";
  return name + Part(series.param);
}

std::string OneLine(std::string_view text) {
  std::string line;
  for (const char c : text) {
    if (c == '%' || IsControl(c)) {
      line += '%' + Hexadecimal(static_cast<unsigned char>(c)).substr(kDigestDigits - 2);
    } else {
      line += c;
    }
  }
  return line;
}

void CurveNames::Load() {
  std::ifstream file(path_);
  std::string line;
  while (std::getline(file, line)) {
    torn_ = file.eof();
    if (torn_ || line.size() < kDigestDigits + 2 || line[kDigestDigits] != ' ') continue;
    uint64_t digest = 0;
    const char* end = line.data() + kDigestDigits;
    if (std::from_chars(line.data(), end, digest, 16).ptr != end) continue;
    std::string name = line.substr(kDigestDigits + 1);
    if (taken_.insert(name).second) names_.try_emplace(digest, std::move(name));
  }
}

const std::string& CurveNames::Name(const SeriesName& series) {
  const uint64_t digest = Digest(series);
  const auto known = names_.find(digest);
  if (known != names_.end()) return known->second;
  const std::string wished = CurveName(series);
  const std::string digits = Hexadecimal(digest);
  std::string name = wished;
  // Another series may be called as what we would append, too.
  for (int tries = 0; !taken_.insert(name).second; ++tries) {
    name = wished + "#" + (tries == 0 ? digits.substr(0, 6) : digits + (tries == 1 ? "" : "-" + std::to_string(tries)));
  }
  unsaved_ += digits + ' ' + name + '\n';
  return names_.emplace(digest, std::move(name)).first->second;
}

Status CurveNames::Save() {
  if (unsaved_.empty()) return {};
  const UniqueFd fd(open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  if (!fd) return PosixError("cannot open '" + path_ + "'", errno);
  const std::string lines = (torn_ ? "\n" : "") + unsaved_;
  size_t done = 0;
  while (done < lines.size()) {
    const ssize_t count = write(fd.get(), lines.data() + done, lines.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      const int errno_value = errno;
      // Lines that come twice say the same; one that is half there is ended by the next try.
      torn_ = torn_ || done > 0;
      return PosixError("cannot write '" + path_ + "'", errno_value);
    }
    done += static_cast<size_t>(count);
  }
  torn_ = false;
  unsaved_.clear();
  return {};
}

}  // namespace ikkuna::sinks
