#include "shared/segment.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <utility>

#include <boost/interprocess/exceptions.hpp>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

namespace ikkuna::shm {

namespace bip = boost::interprocess;

namespace {

// What mapped_region asks of a thing to map.
struct MappableFd {
  int fd;
  bip::mapping_handle_t get_mapping_handle() const { return bip::ipcdetail::mapping_handle_from_file_handle(fd); }
};

Result<bip::mapped_region> Map(int fd, bip::mode_t mode, size_t bytes) {
  try {
    return bip::mapped_region(MappableFd{fd}, mode, 0, bytes);
  } catch (const bip::interprocess_exception& e) {
    const int error = e.get_native_error();
    return PosixError("cannot map " + std::to_string(bytes) + " bytes of shared memory" +
                          (error == ENOMEM ? " (of the address space, too, there is a limit: ulimit -v)" : ""),
                      error);
  }
}

size_t RoundToPages(size_t bytes) {
  const size_t page = bip::mapped_region::get_page_size();
  return (bytes + page - 1) / page * page;
}

// Sizing a file beyond RLIMIT_FSIZE does not only fail: it is answered with SIGXFSZ, which ends the process.
Status CheckFileSizeLimit(const std::string& name, size_t bytes) {
  rlimit limit{};
  if (getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur >= bytes) return {};
  return Error{ErrorCode::kResourceExhausted,
               "cannot size shared memory '" + name + "' to " + std::to_string(bytes) + " bytes: the limit of this " +
                   "process on the size of files (ulimit -f) is " + std::to_string(limit.rlim_cur) + " bytes"};
}

constexpr int kMandatorySeals = F_SEAL_SHRINK | F_SEAL_GROW;
// Largest piece backed at once: a failure half-way loses at most this much of what there was.
constexpr uint64_t kBackStep = 4ull << 20;

}  // namespace

Segment::~Segment() {
  // In a child these addresses may belong to something else by now: forget the mapping instead of ending it.
  if (!in_owner()) std::construct_at(&region_);
}

void Segment::Swap(Segment& other) noexcept {
  std::swap(fd_, other.fd_);
  region_.swap(other.region_);
  std::swap(guard_, other.guard_);
  std::swap(future_write_sealed_, other.future_write_sealed_);
}

Result<Segment> Segment::Create(const std::string& name, size_t bytes) {
  bytes = RoundToPages(bytes);
  if (bytes == 0) return Error{ErrorCode::kInvalidArgument, "cannot create shared memory '" + name + "' of 0 bytes"};
  if (auto checked = CheckFileSizeLimit(name, bytes); !checked) return checked.error();
  Segment segment;
  segment.fd_.reset(memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!segment.fd_) {
    const int error = errno;
    const bool missing = error == ENOSYS || error == EPERM || error == EACCES;
    const bool full = error == EMFILE || error == ENFILE;
    return PosixError("cannot create shared memory '" + name + "'" +
                          (missing ? " (memfd_create, which this kernel or sandbox does not allow)"
                           : full  ? " (there is no descriptor left for it: see ulimit -n)"
                                   : ""),
                      error);
  }
  if (ftruncate(segment.fd(), static_cast<off_t>(bytes)) != 0) {
    return PosixError("cannot size shared memory '" + name + "' to " + std::to_string(bytes) + " bytes", errno);
  }
  auto region = Map(segment.fd(), bip::read_write, bytes);
  if (!region) return region.error();
  segment.region_ = std::move(region).value();
  // After our own writable mapping exists: the seal only concerns later ones. SEAL comes last and closes the set.
  segment.future_write_sealed_ =
      fcntl(segment.fd(), F_ADD_SEALS, kMandatorySeals | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) == 0;
  if (!segment.future_write_sealed_ && fcntl(segment.fd(), F_ADD_SEALS, kMandatorySeals | F_SEAL_SEAL) != 0) {
    return PosixError("cannot seal shared memory '" + name + "' against resizing", errno);
  }
  return segment;
}

Result<Segment> Segment::MapUntrusted(UniqueFd fd, size_t bytes_min, size_t bytes_max) {
  const int seals = fcntl(fd.get(), F_GET_SEALS);
  if (seals < 0 || (seals & kMandatorySeals) != kMandatorySeals) {
    return Error{ErrorCode::kCorrupt, "the peer's file is no memory file sealed against shrinking and growing"};
  }
  struct statfs file_system {};
  struct stat file {};
  if (fstatfs(fd.get(), &file_system) != 0 || fstat(fd.get(), &file) != 0) {
    return PosixError("cannot inspect the peer's shared memory", errno);
  }
  if (!S_ISREG(file.st_mode) || file_system.f_type != TMPFS_MAGIC) {
    return Error{ErrorCode::kCorrupt, "the peer's file is no regular memory file"};
  }
  const auto bytes = static_cast<uint64_t>(file.st_size);
  if (bytes < bytes_min || bytes > bytes_max) {
    return Error{ErrorCode::kCorrupt, "the peer's shared memory has " + std::to_string(bytes) + " bytes, not " +
                                          std::to_string(bytes_min) + " to " + std::to_string(bytes_max)};
  }
  auto region = Map(fd.get(), bip::read_only, bytes);
  if (!region) return region.error();
  Segment segment;
  segment.fd_ = std::move(fd);
  segment.region_ = std::move(region).value();
  segment.future_write_sealed_ = (seals & F_SEAL_FUTURE_WRITE) != 0;
  return segment;
}

bool Segment::DontFork() {
  if (bytes() == 0) return false;
  if (!guard_) guard_.emplace();
  const bool taken = madvise(data(), bytes(), MADV_DONTFORK) == 0;
  return taken;
}

uint64_t Segment::Back(uint64_t offset, uint64_t bytes) noexcept {
  if (offset > this->bytes()) return 0;
  bytes = std::min<uint64_t>(bytes, this->bytes() - offset);
  for (uint64_t done = 0; done < bytes;) {
    const uint64_t step = std::min(bytes - done, kBackStep);
    unsigned char* start = data() + offset + done;
    int reserved;
    do {
      reserved = fallocate(fd(), 0, static_cast<off_t>(offset + done), static_cast<off_t>(step));
    } while (reserved != 0 && errno == EINTR);
    if (reserved != 0 && errno != EOPNOTSUPP && errno != ENOSYS && errno != EPERM) return done;
    if (madvise(start, step, MADV_POPULATE_WRITE) != 0) {
      // Older kernels have no such advice. With the pages reserved a plain touch cannot fail; without, it could.
      if (errno != EINVAL || reserved != 0) return done;
      const size_t page = bip::mapped_region::get_page_size();
      for (uint64_t at = 0; at < step; at += page) {
        std::atomic_ref<unsigned char>(start[at]).fetch_or(0, std::memory_order_relaxed);
      }
    }
    done += step;
  }
  return bytes;
}

std::optional<uint64_t> Segment::BackedBytes(uint64_t offset, uint64_t bytes) const noexcept {
  const off_t hole = lseek(fd(), static_cast<off_t>(offset), SEEK_HOLE);
  if (hole < 0) return std::nullopt;
  return std::min(bytes, static_cast<uint64_t>(hole) - offset);
}

}  // namespace ikkuna::shm
