#include "daemon/sinks/tensorboard/event_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <boost/crc.hpp>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>

#include "ikkuna/tb/event.pb.h"
#include "shared/places.h"

namespace ikkuna::sinks {
namespace {

constexpr int64_t kNsPerSecond = 1'000'000'000;

template <typename T>
std::string Bytes(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};  // little-endian hosts only, as all of Ikkuna
}

constexpr std::string_view kPrefix = "events.out.tfevents.";

// Of what writes it: the attempt may have been deleted, and another be given its number.
std::string SuffixOf(const NewEventFile& file) {
  char life[9];
  std::snprintf(life, sizeof life, "%02x%02x%02x%02x", file.uuid[0], file.uuid[1], file.uuid[2], file.uuid[3]);
  return ".a" + std::to_string(file.attempt) + "." + life;
}

// What the directory has: the newest second in a name, and whether a file of this suffix is there.
struct Present {
  int64_t last_second = 0;
  bool same = false;
};
Present Look(const std::string& directory, const std::string& suffix) {
  Present present;
  std::error_code code;
  for (std::filesystem::directory_iterator at(directory, code), end; !code && at != end; at.increment(code)) {
    const std::string name = at->path().filename().string();
    if (!name.starts_with(kPrefix)) continue;
    int64_t second = 0;
    std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), second);
    present.last_second = std::max(present.last_second, second);
    present.same = present.same || name.ends_with(suffix);
  }
  return present;
}

tb::Event EventAt(int64_t unix_ns) {
  tb::Event event;
  event.set_wall_time(static_cast<double>(unix_ns) / kNsPerSecond);
  return event;
}

}  // namespace

uint32_t MaskedCrc32c(std::string_view bytes) {
  boost::crc_optimal<32, 0x1EDC6F41, 0xFFFFFFFF, 0xFFFFFFFF, true, true> crc;
  crc.process_bytes(bytes.data(), bytes.size());
  const auto sum = static_cast<uint32_t>(crc.checksum());
  return ((sum >> 15) | (sum << 17)) + 0xa282ead8u;
}

std::string FrameRecord(std::string_view bytes) {
  const std::string length = Bytes(uint64_t{bytes.size()});
  std::string record = length + Bytes(MaskedCrc32c(length));
  record += bytes;
  record += Bytes(MaskedCrc32c(bytes));
  return record;
}

const std::string& EventFileHost() {
  static const std::string kHost = HostName();  // as the store's folder is called
  return kHost;
}

bool IsOwnEventFile(std::string_view file_name) {
  if (!file_name.starts_with(kPrefix)) return false;
  const size_t host = file_name.find('.', kPrefix.size());
  return host != std::string_view::npos && file_name.substr(host + 1).starts_with(EventFileHost() + ".") &&
         file_name.rfind(".a") > host;
}

Result<std::unique_ptr<EventFile>> EventFile::Create(const NewEventFile& wanted) {
  // Two files of one process are told apart by this where the directory was emptied in between.
  static std::atomic<uint64_t> files{0};
  const std::string suffix = SuffixOf(wanted);
  const Present present = Look(wanted.directory, suffix);
  char seconds[24];
  std::snprintf(seconds, sizeof(seconds), "%010lld",
                static_cast<long long>(std::max(wanted.unix_ns / kNsPerSecond, present.last_second + 1)));
  // relaxed: only its being another matters
  const std::string name = std::string(kPrefix) + seconds + "." + EventFileHost() + "." + std::to_string(getpid()) +
                           "." + std::to_string(files.fetch_add(1, std::memory_order_relaxed)) + suffix;
  // Under another name until its first records are there: a file of the attempt has its START in it.
  const std::string fresh = wanted.directory + "/.ikkuna-new";
  const std::string path = wanted.directory + "/" + name;
  UniqueFd fd(open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd) return PosixError("cannot make TensorBoard file '" + path + "'", errno);
  std::unique_ptr<EventFile> file(new EventFile(path, std::move(fd)));
  tb::Event version = EventAt(wanted.unix_ns);
  version.set_file_version("brain.Event:2");
  file->Add(version.SerializeAsString(), 0);
  if (wanted.start_step && !present.same) {
    tb::Event start = EventAt(wanted.unix_ns);
    start.set_step(*wanted.start_step);
    start.mutable_session_log()->set_status(tb::SessionLog::START);
    file->Add(start.SerializeAsString(), 0);
  }
  Status made = file->Flush();
  if (made && rename(fresh.c_str(), path.c_str()) != 0)
    made = PosixError("cannot make TensorBoard file '" + path + "'", errno);
  if (!made) {
    unlink(fresh.c_str());
    return made.error();
  }
  return file;
}

Status EventFile::Resume() {
  fd_ = UniqueFd(open(path_.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd_) return PosixError("cannot open TensorBoard file '" + path_ + "' again", errno);
  lseek(fd_.get(), static_cast<off_t>(bytes_written_), SEEK_SET);
  return {};
}

bool EventFile::vanished() const {
  struct stat at {};
  return fd_ && fstat(fd_.get(), &at) == 0 && at.st_nlink == 0;
}

void EventFile::Add(std::string_view event, uint64_t samples) {
  buffer_ += FrameRecord(event);
  samples_queued_ += samples;
}

void EventFile::Discard() {
  buffer_.clear();
  samples_queued_ = 0;
}

Status EventFile::Flush() {
  const std::string buffer = std::exchange(buffer_, {});
  samples_queued_ = 0;
  size_t done = 0;
  while (done < buffer.size()) {
    const ssize_t count = write(fd_.get(), buffer.data() + done, buffer.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      const int errno_value = errno;
      // Readers stop at a torn record and never come back to what follows it in this file.
      torn_ = ftruncate(fd_.get(), static_cast<off_t>(bytes_written_)) != 0 ||
              lseek(fd_.get(), static_cast<off_t>(bytes_written_), SEEK_SET) < 0;
      return PosixError("cannot write TensorBoard file '" + path_ + "'", errno_value);
    }
    done += static_cast<size_t>(count);
  }
  bytes_written_ += buffer.size();
  return {};
}

}  // namespace ikkuna::sinks
