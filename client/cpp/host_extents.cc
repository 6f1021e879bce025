#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/unique_fd.h"
#include "client/cpp/extents.h"
#include "client/cpp/received_object.h"

namespace kvsteward {
namespace {

class HostExtents : public Extents {
 public:
  explicit HostExtents(Mapping space) : space_(std::move(space)) {}

  std::byte* data() const override { return space_.data(); }

  absl::Status Map(const ReceivedObject& extent, uint64_t offset) override {
    if (absl::Status status = CheckFile(extent); !status.ok()) return status;
    void* mapped =
        mmap(space_.data() + offset, extent.bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, extent.fd.get(), 0);
    if (mapped == MAP_FAILED) return MapFailed(extent);
    madvise(mapped, extent.bytes, MADV_DONTFORK);
    return absl::OkStatus();
  }

  absl::Status Write(const Piece& piece) const override {
    std::memcpy(piece.to, piece.from.data(), piece.from.size());
    return absl::OkStatus();
  }

 private:
  const Mapping space_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Extents>> ReserveHostExtents(uint64_t bytes, uint64_t extent_bytes) {
  if (const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE)); extent_bytes % page != 0) {
    return absl::InternalError(
        absl::StrCat("the sidecar's extents of ", extent_bytes, " bytes are no whole pages of ", page));
  }
  void* space = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (space == MAP_FAILED) {
    return absl::ResourceExhaustedError(absl::StrCat("cannot set aside ", bytes,
                                                     " bytes of address space for the lease's extents (",
                                                     std::strerror(errno), "): raise the worker's `ulimit -v`"));
  }
  madvise(space, bytes, MADV_DONTFORK);
  return std::make_unique<HostExtents>(Mapping(space, bytes));
}

}  // namespace kvsteward
