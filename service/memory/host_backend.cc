#include "service/memory/host_backend.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>
#include <string>

#include "absl/status/status.h"
#include "base/unique_fd.h"
#include "service/memory/cgroup.h"

namespace kvsteward::memory {
namespace {

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

absl::Status CreateError(const char* call, uint64_t bytes) {
  const int error = errno;
  const std::string text =
      std::string(call) + " failed for a memory object of " + std::to_string(bytes) + " bytes: " + std::strerror(error);
  switch (error) {
    case ENOMEM:
    case ENOSPC:
    case EFBIG:
    case EMFILE:
    case ENFILE:
      return absl::ResourceExhaustedError(text);
    default:
      return absl::UnavailableError(text);
  }
}

// What the machine could still hand out.
uint64_t MachineAvailable() {
  std::ifstream meminfo("/proc/meminfo");
  for (std::string key, rest; meminfo >> key; std::getline(meminfo, rest)) {
    uint64_t kib = 0;
    if (key == "MemAvailable:" && meminfo >> kib) return kib * 1024;
  }
  return std::numeric_limits<uint64_t>::max();
}

// What the machine and our cgroups could still hand out. A memfd has no limit of its own: without this look, allocating
// more than there is would wake the OOM killer instead of failing.
uint64_t AvailableBytes() { return std::min(MachineAvailable(), CgroupMemoryRoom()); }

// Covers a place in a caller's range with nothing. Unmapping it would leave a hole, in which another thread's mapping
// could come to lie.
void Uncover(std::span<std::byte> place) {
  mmap(place.data(), place.size(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

class HostObject : public MemoryObject {
 public:
  HostObject(UniqueFd fd, std::byte* data, size_t bytes, bool placed)
      : fd_(std::move(fd)), bytes_(data, bytes), placed_(placed) {}

  ~HostObject() override {
    // A worker may still have the descriptor or a mapping: the pages go nevertheless, and it reads zeroes. (It can fill
    // them again, on its own account.) Refused with EPERM for what only the daemon writes, as F_SEAL_FUTURE_WRITE
    // wants: those small objects stay with whoever keeps them mapped.
    fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(bytes_.size()));
    if (placed_) {
      Uncover(bytes_);
    } else {
      munmap(bytes_.data(), bytes_.size());
    }
  }

  std::span<std::byte> bytes() const override { return bytes_; }
  int descriptor() const override { return fd_.get(); }

 private:
  UniqueFd fd_;
  std::span<std::byte> bytes_;
  bool placed_;
};

// Anonymous memory at its place in a range.
class PrivateObject : public MemoryObject {
 public:
  explicit PrivateObject(std::span<std::byte> bytes) : bytes_(bytes) {}
  ~PrivateObject() override { Uncover(bytes_); }

  std::span<std::byte> bytes() const override { return bytes_; }
  int descriptor() const override { return -1; }

 private:
  std::span<std::byte> bytes_;
};

class HostRange : public AddressRange {
 public:
  explicit HostRange(Mapping addresses) : addresses_(std::move(addresses)) {}

  std::byte* data() const override { return addresses_.data(); }
  absl::Status Store(std::span<const Piece> pieces) const override {
    for (const Piece& piece : pieces) std::memcpy(piece.to, piece.from.data(), piece.from.size());
    return absl::OkStatus();
  }
  absl::Status Load(const std::byte* from, std::span<std::byte> to) const override {
    std::memcpy(to.data(), from, to.size());
    return absl::OkStatus();
  }

 private:
  Mapping addresses_;
};

class HostBackend : public ExtentBackend {
 public:
  std::string_view name() const override { return "memfd"; }
  uint64_t granularity() const override { return static_cast<uint64_t>(sysconf(_SC_PAGESIZE)); }
  absl::StatusOr<uint64_t> FreeBytes() const override { return std::numeric_limits<uint64_t>::max(); }

  absl::StatusOr<std::unique_ptr<AddressRange>> Reserve(uint64_t bytes) override {
    void* data = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED) {
      return absl::ResourceExhaustedError("reserving " + std::to_string(bytes) +
                                          " bytes of address space for a lease failed: " + std::strerror(errno));
    }
    madvise(data, bytes, MADV_DONTFORK);
    return std::make_unique<HostRange>(Mapping(data, bytes));
  }

  absl::StatusOr<std::unique_ptr<MemoryObject>> CreatePrivate(uint64_t bytes, std::byte* at,
                                                              Presence presence) override {
    if (mprotect(at, bytes, PROT_READ | PROT_WRITE) != 0) {
      return absl::ResourceExhaustedError("opening " + std::to_string(bytes) +
                                          " bytes of an extent's side array failed: " + std::strerror(errno));
    }
    auto object = std::make_unique<PrivateObject>(std::span(at, bytes));
    // Old kernels do not know the advice.
    if (presence == Presence::kNow && madvise(at, bytes, MADV_POPULATE_WRITE) != 0 && errno != EINVAL) {
      return absl::ResourceExhaustedError("the machine has no memory for an extent's side array of " +
                                          std::to_string(bytes) + " bytes: " + std::strerror(errno));
    }
    return object;
  }

  absl::StatusOr<std::unique_ptr<MemoryObject>> Create(uint64_t bytes, Writers writers, std::byte* at) override {
    if (bytes == 0 || bytes % granularity() != 0) {
      return absl::InvalidArgumentError("a memory object of " + std::to_string(bytes) +
                                        " bytes is no positive multiple of the page size");
    }
    if (const uint64_t available = AvailableBytes(); bytes > available) {
      return absl::ResourceExhaustedError("a memory object of " + std::to_string(bytes) +
                                          " bytes is more than the memory available, " + std::to_string(available));
    }
    UniqueFd fd(memfd_create("kvsteward", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!fd) return CreateError("memfd_create", bytes);
    if (ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) return CreateError("ftruncate", bytes);
    int failed;
    do {
      failed = fallocate(fd.get(), 0, 0, static_cast<off_t>(bytes));
    } while (failed != 0 && errno == EINTR);
    if (failed != 0) return CreateError("fallocate", bytes);

    void* data = mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | (at == nullptr ? 0 : MAP_FIXED), fd.get(), 0);
    if (data == MAP_FAILED) return CreateError("mmap", bytes);
    auto object = std::make_unique<HostObject>(std::move(fd), static_cast<std::byte*>(data), bytes, at != nullptr);
    if (madvise(data, bytes, MADV_DONTFORK) != 0) return CreateError("madvise", bytes);
    // The mapping above stays writable whatever the seals say.
    const int seals =
        F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | (writers == Writers::kDaemon ? F_SEAL_FUTURE_WRITE : 0);
    if (fcntl(object->descriptor(), F_ADD_SEALS, seals) != 0) return CreateError("sealing", bytes);
    return object;
  }
};

}  // namespace

std::unique_ptr<ExtentBackend> NewHostBackend() { return std::make_unique<HostBackend>(); }

}  // namespace kvsteward::memory
