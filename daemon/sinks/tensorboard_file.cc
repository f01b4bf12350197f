#include "daemon/sinks/tensorboard_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <boost/crc.hpp>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

#include "ikkuna/tb/event.pb.h"

namespace ikkuna::sinks {
namespace {

constexpr int64_t kNsPerSecond = 1'000'000'000;

template <typename T>
std::string Bytes(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};  // little-endian hosts only, as all of Ikkuna
}

// Two files of one second and one process are told apart by this.
std::string FileName(int64_t unix_ns) {
  static std::atomic<uint64_t> files{0};
  char host[256] = "localhost";
  gethostname(host, sizeof(host) - 1);
  char seconds[24];
  std::snprintf(seconds, sizeof(seconds), "%010lld", static_cast<long long>(unix_ns / kNsPerSecond));
  return std::string("events.out.tfevents.") + seconds + "." + host + "." + std::to_string(getpid()) + "." +
         std::to_string(files.fetch_add(1, std::memory_order_relaxed));  // relaxed: only its being another matters
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

Result<std::unique_ptr<EventFile>> EventFile::Create(const std::string& directory, int64_t unix_ns) {
  std::error_code code;
  std::filesystem::create_directories(directory, code);
  if (code) return PosixError("cannot make TensorBoard folder '" + directory + "'", code.value());
  const std::string path = directory + "/" + FileName(unix_ns);
  UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (!fd) return PosixError("cannot make TensorBoard file '" + path + "'", errno);
  std::unique_ptr<EventFile> file(new EventFile(path, std::move(fd)));
  tb::Event version;
  version.set_wall_time(static_cast<double>(unix_ns) / kNsPerSecond);
  version.set_file_version("brain.Event:2");
  file->Add(version.SerializeAsString(), 0);
  // A file without its first record is of no use to any reader.
  if (Status status = file->Flush(); !status) {
    unlink(path.c_str());
    return status.error();
  }
  return file;
}

Status EventFile::Resume() {
  fd_ = UniqueFd(open(path_.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd_) return PosixError("cannot open TensorBoard file '" + path_ + "' again", errno);
  lseek(fd_.get(), static_cast<off_t>(bytes_written_), SEEK_SET);
  return {};
}

void EventFile::Add(std::string_view event, uint64_t samples) {
  buffer_ += FrameRecord(event);
  samples_queued_ += samples;
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
      // Readers stop at a torn record and never come back to what follows it.
      if (ftruncate(fd_.get(), static_cast<off_t>(bytes_written_)) == 0) {
        lseek(fd_.get(), static_cast<off_t>(bytes_written_), SEEK_SET);
      }
      return PosixError("cannot write TensorBoard file '" + path_ + "'", errno_value);
    }
    done += static_cast<size_t>(count);
  }
  bytes_written_ += buffer.size();
  return {};
}

}  // namespace ikkuna::sinks
