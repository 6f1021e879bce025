#include "service/memory/cuda/cuda_backend.h"

#include <fcntl.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "base/cuda/device_memory.h"
#include "base/unique_fd.h"

namespace kvsteward::memory {
namespace {

// Filled step by step; its end takes back the steps that were done, in the opposite order.
class CudaObject : public MemoryObject {
 public:
  CudaObject(std::shared_ptr<const DeviceContext> context, uint64_t bytes)
      : context_(std::move(context)), driver_(context_->driver()), size_(bytes) {}

  ~CudaObject() override {
    const DeviceContext::Scope scope(*context_);
    // Emptied, so that a mapping which somebody kept holds nothing. The driver refuses if the device is lost; then the
    // process ends soon, and everything with it.
    if (fd_) (void)ClearDeviceMemory(*context_, address_, size_);
    fd_.reset();
    if (mapped_) driver_.cuMemUnmap(reinterpret_cast<CUdeviceptr>(address_), size_);
    if (handle_ != 0) driver_.cuMemRelease(handle_);
  }

  // REQUIRES: called once, with the context current.
  absl::Status Make(bool exported, std::byte* at, uint64_t granularity) {
    const CUmemAllocationProp properties = AllocationProperties(*context_, exported);
    if (absl::Status status = Check(driver_.cuMemCreate(&handle_, size_, &properties, 0), "cuMemCreate");
        !status.ok()) {
      handle_ = 0;
      return status;
    }
    if (at == nullptr) {
      absl::StatusOr<DeviceRange> own = DeviceRange::Reserve(context_, size_, granularity);
      if (!own.ok()) return own.status();
      own_ = *std::move(own);
    }
    address_ = at == nullptr ? own_.data() : at;
    if (absl::Status status = MapAllocation(*context_, handle_, address_, size_); !status.ok()) return status;
    mapped_ = true;
    if (absl::Status status = ClearDeviceMemory(*context_, address_, size_); !status.ok()) return status;
    if (exported) {
      if (absl::Status status = Export(); !status.ok()) return status;
    }
    // The mapping and the descriptor keep the memory from here on.
    const CUmemGenericAllocationHandle handle = handle_;
    handle_ = 0;
    return Check(driver_.cuMemRelease(handle), "cuMemRelease");
  }

  std::span<std::byte> bytes() const override { return {address_, size_}; }
  int descriptor() const override { return fd_.get(); }

 private:
  absl::Status Check(CUresult result, const char* call) const {
    if (result == CUDA_SUCCESS) return absl::OkStatus();
    return driver_.ToStatus(result, std::string(call) + " for a memory object of " + std::to_string(size_) + " bytes");
  }

  absl::Status Export() {
    int fd = -1;
    if (absl::Status status =
            Check(driver_.cuMemExportToShareableHandle(&fd, handle_, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
                  "cuMemExportToShareableHandle");
        !status.ok()) {
      return status;
    }
    fd_ = UniqueFd(fd);
    if (fcntl(fd_.get(), F_SETFD, FD_CLOEXEC) != 0) {
      return absl::UnavailableError(std::string("marking a memory object's descriptor close-on-exec failed: ") +
                                    std::strerror(errno));
    }
    return absl::OkStatus();
  }

  const std::shared_ptr<const DeviceContext> context_;
  const CudaDriver& driver_;
  const uint64_t size_;
  CUmemGenericAllocationHandle handle_ = 0;
  DeviceRange own_;  // if it was to lie anywhere
  std::byte* address_ = nullptr;
  bool mapped_ = false;
  UniqueFd fd_;
};

class CudaRange : public AddressRange {
 public:
  CudaRange(std::shared_ptr<const DeviceContext> context, DeviceRange addresses)
      : context_(std::move(context)), addresses_(std::move(addresses)) {}

  std::byte* data() const override { return addresses_.data(); }
  absl::Status Store(std::span<const Piece> pieces) const override { return CopyToDevice(*context_, pieces); }
  absl::Status Load(const std::byte* from, std::span<std::byte> to) const override {
    return CopyFromDevice(*context_, from, to);
  }

 private:
  const std::shared_ptr<const DeviceContext> context_;
  const DeviceRange addresses_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<CudaBackend>> CudaBackend::Open(std::shared_ptr<const DeviceContext> context) {
  const absl::StatusOr<uint64_t> granularity = DeviceGranularity(*context);
  if (!granularity.ok()) return granularity.status();
  return std::unique_ptr<CudaBackend>(new CudaBackend(std::move(context), *granularity));
}

absl::Status CudaBackend::CheckArena(uint64_t arena_bytes, uint64_t extent_bytes) const {
  const std::string device = "CUDA device " + context_->uuid();
  if (extent_bytes == 0 || extent_bytes % granularity_ != 0) {
    return absl::InvalidArgumentError("arena.extent_bytes is " + std::to_string(extent_bytes) + "; on " + device +
                                      " it must be a multiple of " + std::to_string(granularity_));
  }
  const absl::StatusOr<uint64_t> free = FreeBytes();
  if (!free.ok()) return free.status();
  if (arena_bytes > *free) {
    return absl::InvalidArgumentError("arena.bytes is " + std::to_string(arena_bytes) + "; it must be at most what " +
                                      device + " has free, " + std::to_string(*free));
  }
  return absl::OkStatus();
}

absl::Status CudaBackend::CheckMultiple(std::string_view what, uint64_t bytes) const {
  if (bytes > 0 && bytes % granularity_ == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(std::string(what) + " of " + std::to_string(bytes) +
                                    " bytes is no positive multiple of the device's granularity, " +
                                    std::to_string(granularity_));
}

absl::StatusOr<std::unique_ptr<AddressRange>> CudaBackend::Reserve(uint64_t bytes) {
  if (absl::Status status = CheckMultiple("a range", bytes); !status.ok()) return status;
  absl::StatusOr<DeviceRange> addresses = DeviceRange::Reserve(context_, bytes, granularity_);
  if (!addresses.ok()) return addresses.status();
  return std::make_unique<CudaRange>(context_, *std::move(addresses));
}

absl::StatusOr<std::unique_ptr<MemoryObject>> CudaBackend::CreateObject(uint64_t bytes, bool exported,
                                                                        std::byte* at) const {
  if (absl::Status status = CheckMultiple("a memory object", bytes); !status.ok()) return status;
  if (reinterpret_cast<uintptr_t>(at) % granularity_ != 0) {
    return absl::InvalidArgumentError("a memory object's address is no multiple of the device's granularity, " +
                                      std::to_string(granularity_));
  }
  const DeviceContext::Scope scope(*context_);
  if (!scope.status().ok()) return scope.status();
  auto object = std::make_unique<CudaObject>(context_, bytes);
  if (absl::Status status = object->Make(exported, at, granularity_); !status.ok()) return status;
  return object;
}

absl::StatusOr<std::unique_ptr<MemoryObject>> CudaBackend::Create(uint64_t bytes, Writers writers, std::byte* at) {
  if (writers == Writers::kDaemon) {
    return absl::InvalidArgumentError("device memory that only the daemon writes cannot be exported");
  }
  return CreateObject(bytes, true, at);
}

absl::StatusOr<std::unique_ptr<MemoryObject>> CudaBackend::CreatePrivate(uint64_t bytes, std::byte* at, Presence) {
  return CreateObject(bytes, false, at);
}

}  // namespace kvsteward::memory
